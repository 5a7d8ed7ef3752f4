//! The last stage of packing: hashes and counts the bytes of the archive.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::io::{self, Write};
use tokio::{
    sync::{mpsc, oneshot},
    task,
};
use xxhash_rust::xxh3::Xxh3;

/// The error of an archive whose reader has gone.
pub(super) fn reader_gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the archive was given up")
}

/// A writer that hashes and counts the bytes of an archive, and sends them on in pieces of 1 MiB.
///
/// The writer is always ready: a slow receiver blocks the writer's thread. Hashes are taken on a thread of their
/// own, since SHA-256 takes longer than all else that is done with bytes that do not shrink.
pub(super) struct HashingWriter {
    piece: Vec<u8>,
    bytes: u64,
    sink: mpsc::Sender<Bytes>,
    hasher: mpsc::Sender<Bytes>,
    hashes: oneshot::Receiver<Hashes>,
}

/// The hashes of an archive.
pub(super) struct Hashes {
    /// SHA-256, lower-case hex.
    pub(super) sha256: String,
    /// XXH3, 128 bits.
    pub(super) xxh3: u128,
}

impl HashingWriter {
    /// The bytes of a piece: enough for an upload, and few enough to keep two pieces under way.
    const PIECE: usize = 1 << 20;

    /// Starts the thread that hashes: inside a tokio runtime.
    pub(super) fn new(sink: mpsc::Sender<Bytes>) -> Self {
        let (hasher, pieces) = mpsc::channel(1);
        let (told, hashes) = oneshot::channel();
        task::spawn_blocking(move || told.send(hash(pieces)));
        Self { piece: Vec::with_capacity(Self::PIECE), bytes: 0, sink, hasher, hashes }
    }

    fn send_piece(&mut self, next: Vec<u8>) -> io::Result<()> {
        let piece = Bytes::from(std::mem::replace(&mut self.piece, next));
        self.bytes += piece.len() as u64;
        self.hasher.blocking_send(piece.clone()).map_err(io::Error::other)?;
        self.sink.blocking_send(piece).map_err(|_| reader_gone())
    }

    pub(super) fn finish(mut self) -> io::Result<(u64, Hashes)> {
        if !self.piece.is_empty() {
            self.send_piece(Vec::new())?;
        }
        drop(self.hasher);
        Ok((self.bytes, self.hashes.blocking_recv().map_err(io::Error::other)?))
    }
}

/// The thread of a [`HashingWriter`].
fn hash(mut pieces: mpsc::Receiver<Bytes>) -> Hashes {
    let (mut sha256, mut xxh3) = (Sha256::new(), Xxh3::new());
    while let Some(piece) = pieces.blocking_recv() {
        sha256.update(&piece);
        xxh3.update(&piece);
    }
    Hashes { sha256: hex::encode(sha256.finalize()), xxh3: xxh3.digest128() }
}

impl Write for HashingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(Self::PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == Self::PIECE {
            self.send_piece(Vec::with_capacity(Self::PIECE))?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
