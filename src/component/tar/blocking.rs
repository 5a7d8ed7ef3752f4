//! The stream of an archive, handed to a thread that may block.

use crate::component::tar::read::{Visit, walk};
use crate::component::{ComponentError, Feed};
use crate::domain::{facts::Counts, progress::Meter};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use std::{io, task::Poll};
use tokio::{io::AsyncReadExt, runtime::Handle, sync::mpsc, task};
use tokio_util::io::StreamReader;

/// A piece for the blocking side: bytes, the end as no bytes, or an error.
type Piece = io::Result<Bytes>;

/// The bytes of a stream, received on a thread that may block.
pub struct BlockingFeed(mpsc::Receiver<Piece>);

/// Runs blocking work on a stream. One thread does it all: each step through the runtime would cost more
/// than making or reading a small file. It ends with an error when nobody waits for it any more.
pub async fn run_blocking<T: Send + 'static>(
    feed: Feed<'_>,
    work: impl FnOnce(BlockingFeed) -> Result<T, ComponentError> + Send + 'static,
) -> Result<T, ComponentError> {
    /// Of 256 KiB at most: enough that decompressing and writing overlap.
    const QUEUE: usize = 8;
    const PIECE: usize = 256 * 1024;
    let (pieces, queue) = mpsc::channel(QUEUE);
    let working = task::spawn_blocking(move || work(BlockingFeed(queue)));
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        let read = feed.read_buf(&mut piece).await;
        let ended = !matches!(read, Ok(1..));
        if pieces.send(read.map(|_| piece.freeze())).await.is_err() || ended {
            break;
        }
    }
    working.await.map_err(join_error)?
}

impl BlockingFeed {
    /// Shows every entry to a visitor, to the end of the stream, and counts them; blocking.
    pub fn walk(self, meter: &Meter, visitor: &mut impl Visit) -> Result<Counts, ComponentError> {
        let Self(mut queue) = self;
        let pieces = stream::poll_fn(move |context| match queue.poll_recv(context) {
            Poll::Ready(Some(Ok(end))) if end.is_empty() => Poll::Ready(None),
            // Nobody waits for the copy any more.
            Poll::Ready(None) => Poll::Ready(Some(Err(io::ErrorKind::BrokenPipe.into()))),
            piece => piece,
        });
        Handle::current().block_on(walk(&mut StreamReader::new(pieces), meter, visitor))
    }
}

/// A thread panicked, or the runtime is shutting down.
pub fn join_error(err: task::JoinError) -> ComponentError {
    ComponentError::Read { what: "work on files".to_owned(), source: err.into() }
}
