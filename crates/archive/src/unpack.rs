//! The way from an archive back to a component's bytes, with damage told apart from a failing store.

use crate::compression::Compression;
use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use sha2::{Digest, Sha256};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncBufRead, AsyncRead, BufReader, ReadBuf};

/// The decompressed bytes of an archive.
pub type Unpacked<'a> = Box<dyn AsyncRead + Send + Unpin + 'a>;

/// Decompresses an archive of any number of frames or members to its very end.
///
/// Reads fail with `InvalidData` when the archive is damaged, cut short or followed by other bytes; any
/// other error is the one of `archive` itself. One cut no decompressor can see: exactly between two
/// frames, where a shorter archive ends as well. The length that the manifest promises shows it; compare
/// with [`HashingReader`].
pub fn unpack<'a>(compression: Compression, archive: impl AsyncRead + Send + Unpin + 'a) -> Unpacked<'a> {
    const BUFFER: usize = 256 * 1024;
    unpack_buffered(compression, BufReader::with_capacity(BUFFER, archive))
}

/// [`unpack`] of an archive that lies in memory piece by piece.
pub fn unpack_buffered<'a>(
    compression: Compression,
    archive: impl AsyncBufRead + Send + Unpin + 'a,
) -> Unpacked<'a> {
    let archive = Source(archive);
    match compression {
        Compression::Zstd { .. } => {
            let mut decoder = ZstdDecoder::new(archive);
            decoder.multiple_members(true);
            Box::new(Sorted(decoder))
        }
        Compression::Gzip { .. } => {
            let mut decoder = GzipDecoder::new(archive);
            decoder.multiple_members(true);
            Box::new(Sorted(decoder))
        }
        Compression::None => Box::new(Sorted(archive)),
    }
}

/// Marks the errors of the archive's reader, which pass through the decompressor unseen.
pub(super) struct Source<R>(pub(super) R);

fn marked(err: io::Error) -> io::Error {
    io::Error::new(err.kind(), SourceError(err))
}

/// The error of the archive's reader, as it was.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct SourceError(io::Error);

impl<R: AsyncRead + Unpin> AsyncRead for Source<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into).map_err(marked)
    }
}

impl<R: AsyncBufRead + Unpin> AsyncBufRead for Source<R> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        Pin::new(&mut self.get_mut().0).poll_fill_buf(cx).map_err(marked)
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        Pin::new(&mut self.0).consume(count);
    }
}

/// The words of zstd about a frame whose window is larger than its limit of 128 MiB (`lib/common/error_private.c`).
const TOO_LARGE: &str = "requires too much memory";

/// An archive that is whole and that needs more memory than a restore may take.
#[derive(Debug, thiserror::Error)]
#[error(
    "it needs more than 128 MiB of memory to unpack, as `zstd --long=28` and more makes it: pack it again, by \
     `zstd -dc --long=31 FILE | zstd -o NEW`"
)]
struct WindowError(#[source] io::Error);

/// Gives marked errors back as they were; any other is the decompressor's own.
pub(super) struct Sorted<R>(pub(super) R);

impl<R: AsyncRead + Unpin> AsyncRead for Sorted<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        Pin::new(&mut self.0).poll_read(cx, into).map_err(|err| {
            // A decompressor hands out bytes together with an error, which readers take for a bug.
            into.set_filled(before);
            match err.downcast::<SourceError>() {
                Ok(SourceError(err)) => err,
                Err(err) if err.to_string().contains(TOO_LARGE) => {
                    io::Error::new(io::ErrorKind::Unsupported, WindowError(err))
                }
                Err(err) => io::Error::new(io::ErrorKind::InvalidData, err),
            }
        })
    }
}

/// A reader that hashes and counts what passes, so that one reading proves both the bytes and what is
/// in them.
#[derive(Debug)]
pub struct HashingReader<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
}

impl<R> HashingReader<R> {
    /// Begins at nothing.
    pub fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }

    /// Returns the number of bytes that passed, and their SHA-256 in lower-case hex.
    pub fn finish(self) -> (u64, String) {
        (self.bytes, hex::encode(self.hash.finalize()))
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for HashingReader<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, into))?;
        let read = &into.filled()[before..];
        self.hash.update(read);
        self.bytes += read.len() as u64;
        Poll::Ready(Ok(()))
    }
}
