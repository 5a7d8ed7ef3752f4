//! The bytes of an archive on their way: compressed, encrypted, hashed, counted, and back again; and the tar format.

pub mod compression;
pub mod crypt;
mod error;
mod hashing;
pub mod pack;
mod stored;
pub mod tar;
pub mod unpack;

pub use error::ArchiveError;

use async_trait::async_trait;
use bytes::Bytes;
use std::io;
use tokio::io::AsyncRead;

/// The bytes of an archive, decompressed, on their way to whatever reads them.
pub type Feed<'a> = &'a mut (dyn AsyncRead + Send + Unpin);

/// The output of a component: the beginning of the backup pipeline.
///
/// The writer pushes and is pushed back: `write` returns when the bytes are
/// taken over, so the slowest store sets the pace and memory stays bounded.
#[async_trait]
pub trait Output: Send {
    /// Takes over the next bytes of the archive. Chunks of 64 KiB to 1 MiB are best.
    ///
    /// # Errors
    ///
    /// The error of whatever stands behind: the run cannot go on.
    async fn write(&mut self, chunk: Bytes) -> io::Result<()>;

    /// Declares the kind of the bytes that follow, until the next declaration.
    fn content(&mut self, kind: Content);
}

/// The kind of the bytes that follow, by the use of compressing them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Content {
    /// Bytes that may shrink.
    #[default]
    Compressible,
    /// Bytes that are compressed already: images, archives, video.
    Incompressible,
}
