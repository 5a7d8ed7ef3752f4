//! The way from a component's bytes to those of an archive: compressed, hashed and counted in one pass.

use crate::crypt::{ArchiveWriter, Recipients};
use crate::hashing::{Hashes, HashingWriter, reader_gone};
use crate::stored::StoredFrame;
use crate::{Content, Output};
use async_compression::{
    Level,
    tokio::write::{GzipEncoder, ZstdEncoder},
    zstd::CParameter,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use std::{
    io::{self, Write},
    num::NonZero,
    thread,
};
use tokio::{io::AsyncWriteExt, sync::mpsc, task::JoinHandle};

pub use crate::compression::{Compression, InvalidCompression};

/// The figures of a finished archive, as they will stand in the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Length of the archive, bytes.
    pub bytes: u64,
    /// SHA-256 of the archive, lower-case hex.
    pub sha256: String,
    /// XXH3 of the archive, 128 bits: shows in a moment whether what was stored is what was written, and against
    /// forgery nothing.
    pub xxh3: u128,
    /// Bytes that went in.
    pub source_bytes: u64,
}

/// An [`Output`] that compresses, hashes and counts, and hands the archive on in pieces of at most 1 MiB.
///
/// The work is done on a thread of its own, since a block of zstd at a high level takes seconds, in which
/// no lease would be renewed. The receiver of the pieces sets the pace: give its channel room for one or
/// two. Incompressible [`Content`] becomes stored zstd frames or stored gzip members between the
/// compressed ones; plain `zstd -d` and `gzip -d` open the whole.
///
/// Dropping it ends the thread; the archive is then cut short, and so is it when the receiver is dropped.
#[derive(Debug)]
pub struct Packer {
    pieces: mpsc::Sender<Piece>,
    content: Content,
    worker: JoinHandle<io::Result<Packed>>,
}

/// The messages to the thread.
#[derive(Debug)]
enum Piece {
    Bytes(Content, Bytes),
    Finish,
}

impl Packer {
    /// Starts the thread. `sink` gets the archive; it is closed when that ends, well or not. With
    /// `recipients`, it is encrypted to them.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(
        compression: Compression,
        recipients: Option<Recipients>,
        sink: mpsc::Sender<Bytes>,
    ) -> Self {
        /// Enough that neither side waits for the other to wake up.
        const QUEUE: usize = 2;
        let (pieces, queue) = mpsc::channel(QUEUE);
        let worker = tokio::task::spawn_blocking(move || pack(compression, recipients.as_ref(), queue, sink));
        Self { pieces, content: Content::default(), worker }
    }

    /// Ends the archive, when the last piece of it is handed on.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` when the receiver is gone: why is for the receiver to say.
    pub async fn finish(self) -> io::Result<Packed> {
        // Should the thread be gone, its own words are the better ones.
        let _ = self.pieces.send(Piece::Finish).await;
        self.worker.await.map_err(io::Error::other)?
    }
}

#[async_trait]
impl Output for Packer {
    async fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        if self.pieces.send(Piece::Bytes(self.content, chunk)).await.is_ok() {
            return Ok(());
        }
        match (&mut self.worker).await {
            Ok(Err(err)) => Err(err),
            Ok(Ok(_)) => Err(reader_gone()), // cannot be: nobody sent `Finish`
            Err(panic) => Err(io::Error::other(panic)),
        }
    }

    fn content(&mut self, kind: Content) {
        self.content = kind;
    }
}

/// The thread of a [`Packer`].
fn pack(
    compression: Compression,
    recipients: Option<&Recipients>,
    mut queue: mpsc::Receiver<Piece>,
    sink: mpsc::Sender<Bytes>,
) -> io::Result<Packed> {
    let mut frame = Frame::Between(ArchiveWriter::new(recipients, HashingWriter::new(sink))?);
    let (mut source_bytes, mut frames) = (0, 0_u64);
    loop {
        match queue.blocking_recv() {
            Some(Piece::Bytes(content, bytes)) => {
                if !frame.fits(content) {
                    frame = Frame::begin(frame.end()?, compression, content)?;
                    frames += 1;
                }
                frame.write(&bytes)?;
                source_bytes += bytes.len() as u64;
            }
            Some(Piece::Finish) => break,
            None => return Err(reader_gone()),
        }
    }
    if frames == 0 {
        // An empty file is neither a zstd frame nor a gzip member.
        frame = Frame::begin(frame.end()?, compression, Content::Compressible)?;
    }
    let (bytes, Hashes { sha256, xxh3 }) = frame.end()?.finish()?;
    Ok(Packed { bytes, sha256, xxh3, source_bytes })
}

/// The frame (zstd) or member (gzip) under way.
enum Frame {
    Between(ArchiveWriter),
    Zstd(ZstdEncoder<ArchiveWriter>),
    Stored(StoredFrame, ArchiveWriter),
    Gzip(GzipEncoder<ArchiveWriter>, Content),
    Plain(ArchiveWriter),
}

impl Frame {
    fn begin(mut to: ArchiveWriter, compression: Compression, content: Content) -> io::Result<Self> {
        Ok(match (compression, content) {
            (Compression::Zstd { .. }, Content::Incompressible) => {
                Self::Stored(StoredFrame::begin(&mut to)?, to)
            }
            (Compression::Zstd { level }, Content::Compressible) => Self::Zstd(
                ZstdEncoder::with_quality_and_params(to, Level::Precise(level), &zstd_parameters(level)),
            ),
            (Compression::Gzip { level }, _) => {
                let level = if content == Content::Incompressible { 0 } else { level };
                Self::Gzip(GzipEncoder::with_quality(to, Level::Precise(level)), content)
            }
            (Compression::None, _) => Self::Plain(to),
        })
    }

    /// True if bytes of that kind can go on in this frame.
    fn fits(&self, content: Content) -> bool {
        match self {
            Self::Between(_) => false,
            Self::Zstd(_) => content == Content::Compressible,
            Self::Stored(..) => content == Content::Incompressible,
            Self::Gzip(_, own) => content == *own,
            Self::Plain(_) => true,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Between(_) => unreachable!("bytes come after a frame was begun"),
            Self::Zstd(encoder) => ready(encoder.write_all(bytes)),
            Self::Stored(frame, to) => frame.write(bytes, to),
            Self::Gzip(encoder, _) => ready(encoder.write_all(bytes)),
            Self::Plain(to) => Write::write_all(to, bytes),
        }
    }

    fn end(self) -> io::Result<ArchiveWriter> {
        match self {
            Self::Between(to) | Self::Plain(to) => Ok(to),
            Self::Zstd(mut encoder) => ready(encoder.shutdown()).map(|()| encoder.into_inner()),
            Self::Stored(frame, mut to) => frame.end(&mut to).map(|()| to),
            Self::Gzip(mut encoder, _) => ready(encoder.shutdown()).map(|()| encoder.into_inner()),
        }
    }
}

/// Several threads, a checksum, and buffers that do not grow with the machine.
fn zstd_parameters(level: i32) -> [CParameter; 3] {
    const MOST_WORKERS: usize = 4;
    /// Measured at level 3: zstd's own choice of 8 MiB is hardly faster and takes twice the memory of 4 MiB, 89
    /// against 48 MiB with 4 threads; 2 MiB is slower, since more goes into the start of each job. With 3 MiB a backup
    /// of 1 GB to two destinations at once takes 110 MB in all, with 4 MiB 130: 128 are promised.
    const JOB: u32 = 3 << 20;
    /// The size of a job from level 10 on, where windows are as large as that.
    const LARGE_JOB: u32 = 8 << 20;
    const LARGE_WINDOWS: i32 = 10;

    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let workers = u32::try_from(cores.min(MOST_WORKERS)).expect("is at most 4");
    let job = if level < LARGE_WINDOWS { JOB } else { LARGE_JOB };
    [CParameter::nb_workers(workers), CParameter::job_size(job), CParameter::checksum_flag(true)]
}

/// The result of a future that cannot wait, since [`ArchiveWriter`] does not.
fn ready<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    future.now_or_never().expect("an archive writer is always ready")
}
