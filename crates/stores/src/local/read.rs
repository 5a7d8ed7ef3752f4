//! Reading a file ahead of its decoder.

use crate::Body;
use bytes::Bytes;
use rustix::buffer::spare_capacity;
use std::{fs::File, io, ops::Range, sync::Arc};
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

/// Read at once by one reader alone. Large enough that the way to the blocking thread does not matter.
const CHUNK: u64 = 1 << 20;

/// The least that is worth that way.
const LEAST: u64 = 64 << 10;

/// Chunks that wait for the reader, beside the one being read: memory stays under 4 MiB.
const AHEAD: usize = 2;

/// The bytes of `file` in `range`, which must not go beyond its length; one of `readers` at the same time.
pub(super) fn stream(file: Arc<File>, range: Range<u64>, readers: usize) -> Body {
    let most = (CHUNK / readers.max(1) as u64).max(LEAST);
    let (send, mut receive) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut at = range.start;
        while at < range.end {
            let chunk = read(&file, at, most.min(range.end - at));
            at += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
            let failed = chunk.is_err();
            // The reader may have gone away: then nobody wants the rest.
            if send.blocking_send(chunk).is_err() || failed {
                return;
            }
        }
    });
    Box::new(StreamReader::new(futures_util::stream::poll_fn(move |context| receive.poll_recv(context))))
}

fn read(file: &File, at: u64, most: u64) -> io::Result<Bytes> {
    let mut chunk = Vec::with_capacity(usize::try_from(most).expect("a chunk fits into memory"));
    match rustix::io::retry_on_intr(|| rustix::io::pread(file, spare_capacity(&mut chunk), at))? {
        0 => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "file is shorter than it was when it was opened",
        )),
        _ => Ok(chunk.into()),
    }
}
