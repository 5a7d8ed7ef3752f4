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
pub(super) const GUESTS: usize = 32;

/// The idle timeout of a connection. Shorter than a scrape interval, because a free connection slot is worth more
/// than a connection kept open between two scrapes.
pub(super) const STILL: Duration = Duration::from_secs(3);

/// A TCP listener with [`GUESTS`] connection slots.
#[derive(Debug)]
pub(super) struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Door {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(GUESTS)) }
    }
}

impl Listener for Door {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Guest { stream, still: Box::pin(sleep(STILL)), _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that holds a connection slot, and is closed when idle for [`STILL`].
#[derive(Debug)]
pub(super) struct Guest {
    stream: TcpStream,
    still: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Guest {
    /// Polls the stream, and fails with `TimedOut` if no bytes have moved for [`STILL`].
    fn moves<T>(
        &mut self,
        cx: &mut Context<'_>,
        said: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(moved) = said(Pin::new(&mut self.stream), cx) {
            self.still.as_mut().reset(Instant::now() + STILL);
            return Poll::Ready(moved);
        }
        ready!(self.still.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Guest {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().moves(cx, |stream, cx| stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Guest {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().moves(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
