//! The parts of a file that are no holes, as its file system tells.

use crate::stream::tar::Segment;
use rustix::{
    fs::{SeekFrom, Stat, seek},
    io::Errno,
};
use std::fs::File;

/// The most parts of a file that are stored by themselves, which bounds memory: what has more holes is read in full.
const MOST: usize = 1 << 16;
/// Parts begin and end with a block of an archive, or readers would not agree on where the next one begins.
const BLOCK: u64 = 512;

/// The parts of a file, in their order; `None` if it is to be read from its beginning to its end.
///
/// # Errors
///
/// When the file can no longer be read.
pub(super) fn segments(file: &File, stat: &Stat) -> Result<Option<Vec<Segment>>, Errno> {
    let [size, blocks] = [stat.st_size, stat.st_blocks].map(|number| u64::try_from(number).unwrap_or(0));
    // Asked of every file this would cost time; what has all its blocks has no hole.
    if blocks.saturating_mul(512) >= size {
        return Ok(None);
    }
    let found = find(file, size);
    seek(file, SeekFrom::Start(0))?;
    Ok(found)
}

fn find(file: &File, size: u64) -> Option<Vec<Segment>> {
    let (mut found, mut at) = (Vec::<Segment>::new(), 0);
    while at < size {
        let from = match seek(file, SeekFrom::Data(at)) {
            Ok(from) if from < size => from / BLOCK * BLOCK,
            // Nothing but a hole up to the end.
            Ok(_) | Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        let to = seek(file, SeekFrom::Hole(from.max(at))).ok()?.min(size);
        let to = to.next_multiple_of(BLOCK).min(size);
        if to <= at {
            return None; // that file system knows no holes after all
        }
        let is_too_many = found.len() == MOST;
        match found.last_mut() {
            Some(last) if last.offset + last.bytes >= from => last.bytes = to - last.offset,
            _ if is_too_many => return None,
            _ => found.push(Segment { offset: from, bytes: to - from }),
        }
        at = to;
    }
    let is_whole = matches!(&found[..], [only] if only.bytes == size);
    (!is_whole).then_some(found)
}
