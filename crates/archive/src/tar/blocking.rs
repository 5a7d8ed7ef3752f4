//! The stream of an archive, handed to a thread that may block.

use crate::tar::read::{Visit, walk};
use crate::{ArchiveError, Feed};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use rna_backup_model::{facts::Counts, progress::Meter};
use std::{io, task::Poll};
use tokio::{io::AsyncReadExt, runtime::Handle, sync::mpsc, task};
use tokio_util::io::StreamReader;

/// A piece for the blocking side: bytes, the end as no bytes, or an error.
type Piece = io::Result<Bytes>;

/// The bytes of a stream, received on a thread that may block.
#[derive(Debug)]
pub struct BlockingFeed(mpsc::Receiver<Piece>);

/// Runs blocking work on a stream. One thread does it all: each step through the runtime would cost more
/// than making or reading a small file. It ends with an error when nobody waits for it any more.
///
/// # Errors
///
/// The error of the work; [`ArchiveError::Read`] when the work panicked.
pub async fn run_blocking<T, E>(
    feed: Feed<'_>,
    work: impl FnOnce(BlockingFeed) -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<ArchiveError> + Send + 'static,
{
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
    working.await.map_err(ArchiveError::stopped)?
}

impl BlockingFeed {
    /// Shows every entry to a visitor, to the end of the stream, and counts them; blocking.
    ///
    /// # Errors
    ///
    /// As [`walk`].
    pub fn walk<V: Visit>(self, meter: &Meter, visitor: &mut V) -> Result<Counts, V::Error> {
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
