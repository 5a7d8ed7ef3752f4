//! The listener of the HTTP endpoint: limits concurrent connections and closes idle ones.

use axum::serve::Listener;
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};

/// Maximum number of concurrent connections: several Prometheus servers, probes and a browser need a dozen. Further
/// connections wait in the kernel's queue.
pub(super) const MAX_CONNECTIONS: usize = 32;

/// The idle timeout of a connection. Shorter than a scrape interval, because a free connection slot is worth more
/// than a connection kept open between two scrapes.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// A TCP listener with [`MAX_CONNECTIONS`] connection slots.
#[derive(Debug)]
pub(super) struct LimitedListener {
    listener: TcpListener,
    slots: Arc<Semaphore>,
}

impl LimitedListener {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)) }
    }
}

impl Listener for LimitedListener {
    type Io = LimitedConnection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (LimitedConnection, SocketAddr) {
        let slot = Arc::clone(&self.slots).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (LimitedConnection { stream, idle: Box::pin(sleep(IDLE_TIMEOUT)), _slot: slot }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that holds a connection slot, and is closed when idle for [`IDLE_TIMEOUT`].
#[derive(Debug)]
pub(super) struct LimitedConnection {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    _slot: OwnedSemaphorePermit,
}

impl LimitedConnection {
    /// Polls the stream, and fails with `TimedOut` if no bytes have moved for [`IDLE_TIMEOUT`].
    fn poll_unless_idle<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(moved) = poll(Pin::new(&mut self.stream), cx) {
            self.idle.as_mut().reset(Instant::now() + IDLE_TIMEOUT);
            return Poll::Ready(moved);
        }
        ready!(self.idle.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for LimitedConnection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_unless_idle(cx, |stream, cx| stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for LimitedConnection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_unless_idle(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
