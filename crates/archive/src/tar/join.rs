//! An incremental archive and those that it refers to, as the one stream that a full archive would be.
//!
//! All archives of a folder have their entries in one order, so each is read once, from its beginning to
//! its end, side by side with the others, and memory holds a piece of each.

use crate::ArchiveError;
use crate::tar::members::{Member, Members, damaged};
use crate::tar::reference::Reference;
use crate::unpack::Unpacked;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use rna_backup_model::{id::BackupId, progress::Meter};
use std::{future::Future, io, pin::Pin, task::Poll};
use tokio::{io::AsyncRead, sync::mpsc};
use tokio_util::io::StreamReader;

/// Bytes handed on at once.
const PIECE: usize = 256 * 1024;

/// The stream of `newest` with all that it refers to taken from `bases`. Reads fail with `InvalidData` where
/// an archive is damaged or does not hold what it should.
pub fn join<'a>(
    newest: Unpacked<'a>,
    bases: Vec<(BackupId, Unpacked<'a>)>,
) -> impl AsyncRead + Send + Unpin + use<'a> {
    let (pieces, mut queue) = mpsc::channel(1);
    let mut joining: Option<Pin<Box<dyn Future<Output = _> + Send + 'a>>> =
        Some(Box::pin(carry_over(newest, bases, pieces)));
    let mut failed = None;
    StreamReader::new(stream::poll_fn(move |context| {
        if let Some(work) = &mut joining
            && let Poll::Ready(done) = work.as_mut().poll(context)
        {
            joining = None;
            failed = done.err().map(told);
        }
        queue.poll_recv(context).map(|piece| piece.map(Ok).or_else(|| failed.take().map(Err)))
    }))
}

/// The error as whoever reads the stream sorts it.
fn told(err: ArchiveError) -> io::Error {
    match err {
        ArchiveError::Corrupt { source: Some(why), .. } => io::Error::new(io::ErrorKind::InvalidData, why),
        ArchiveError::Read { source, .. } => source,
        err => io::Error::other(err),
    }
}

async fn carry_over(
    mut newest: Unpacked<'_>,
    mut bases: Vec<(BackupId, Unpacked<'_>)>,
    pieces: mpsc::Sender<Bytes>,
) -> Result<(), ArchiveError> {
    let unseen = Meter::default(); // who reads the stream counts
    let mut newest = Members::new(&mut newest, &unseen);
    let mut bases: Vec<_> = bases.iter_mut().map(|(id, feed)| (id, Members::new(feed, &unseen))).collect();
    let mut out = Out { piece: BytesMut::with_capacity(PIECE), pieces };
    loop {
        match newest.next().await? {
            Member::Entry { .. } => out.entry(&mut newest).await?,
            Member::References(references) => {
                for reference in references {
                    let base = bases.iter_mut().find(|(id, _)| **id == reference.archive);
                    let missing = || damaged(format!("{reference} lies in an archive that is not here"));
                    let (_, base) = base.ok_or_else(missing)?;
                    find(base, &reference).await?;
                    out.entry(base).await?;
                }
            }
            Member::End => return out.end().await,
        }
    }
}

/// Goes on to the entry that is referred to.
async fn find(base: &mut Members<'_>, reference: &Reference<'_>) -> Result<(), ArchiveError> {
    loop {
        match base.next().await? {
            Member::Entry { size } => {
                let entry = base.entry()?;
                if !entry.is_file() || entry.path() != reference.path {
                    continue;
                }
                if size == reference.bytes {
                    return Ok(());
                }
                return Err(damaged(format!("{reference} has {size} bytes, not {}", reference.bytes)));
            }
            Member::References(_) => {}
            Member::End => return Err(damaged(format!("{reference} is not in that archive"))),
        }
    }
}

/// The stream that is made, in pieces.
struct Out {
    piece: BytesMut,
    pieces: mpsc::Sender<Bytes>,
}

impl Out {
    /// An entry as it stands in its archive, with its content.
    async fn entry(&mut self, from: &mut Members<'_>) -> Result<(), ArchiveError> {
        self.put(from.raw()).await?;
        loop {
            let piece = from.piece(u64::MAX).await?;
            if piece.is_empty() {
                return Ok(());
            }
            self.put(piece).await?;
        }
    }

    async fn put(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE { self.send().await } else { Ok(()) }
    }

    async fn send(&mut self) -> Result<(), ArchiveError> {
        let piece = std::mem::replace(&mut self.piece, BytesMut::with_capacity(PIECE)).freeze();
        let gone = |_| ArchiveError::Output(io::ErrorKind::BrokenPipe.into());
        self.pieces.send(piece).await.map_err(gone)
    }

    /// Two blocks of zeros end an archive.
    async fn end(mut self) -> Result<(), ArchiveError> {
        self.put(&[0; 1024]).await?;
        self.send().await
    }
}
