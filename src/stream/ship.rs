//! The last stage of packing: what leaves here is the archive.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::{
    fmt,
    io::{self, Write},
};
use tokio::sync::mpsc;

/// The error of bytes that nobody takes any more.
pub(super) fn abandoned() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the archive was given up")
}

/// Hashes, counts and hands on in pieces of 1 MiB.
///
/// It is always ready: a slow receiver blocks its thread.
pub(super) struct Shipper {
    piece: Vec<u8>,
    hash: Sha256,
    bytes: u64,
    sink: mpsc::Sender<Bytes>,
}

impl Shipper {
    /// What an upload likes, and what two of them may hold.
    const PIECE: usize = 1 << 20;

    pub(super) fn new(sink: mpsc::Sender<Bytes>) -> Self {
        Self { piece: Vec::with_capacity(Self::PIECE), hash: Sha256::new(), bytes: 0, sink }
    }

    fn ship(&mut self, next: Vec<u8>) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, next);
        self.hash.update(&piece);
        self.bytes += piece.len() as u64;
        self.sink.blocking_send(piece.into()).map_err(|_| abandoned())
    }

    pub(super) fn finish(mut self) -> io::Result<(u64, String)> {
        if !self.piece.is_empty() {
            self.ship(Vec::new())?;
        }
        Ok((self.bytes, hex(&self.hash.finalize())))
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

impl Write for Shipper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(Self::PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == Self::PIECE {
            self.ship(Vec::with_capacity(Self::PIECE))?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
