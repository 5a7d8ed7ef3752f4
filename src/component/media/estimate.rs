//! The estimate of the bytes that there are to read, for the progress of a backup under way.

use crate::component::media::area::is_area;
use crate::component::media::folder::{Folder, look};
use rustix::fs::FileType;
use std::sync::atomic::{AtomicBool, Ordering};

/// Adds up the sizes of all files under `root`, blocking; `None` once `stop` is set.
///
/// An estimate: what cannot be read counts as nothing, and files with several names count each time.
pub(super) fn estimate(root: Folder, stop: &AtomicBool) -> Option<u64> {
    let mut total = 0;
    let mut open = vec![root];
    loop {
        let depth = open.len();
        let Some(folder) = open.last_mut() else { break };
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let below = match folder.next() {
            None => {
                open.pop();
                continue;
            }
            Some((handle, name, _)) if depth == 1 && is_area(handle, name) => None,
            Some((handle, name, FileType::Directory)) => Folder::open(handle, name).ok(),
            Some((handle, name, FileType::RegularFile | FileType::Unknown)) => match look(handle, name) {
                Ok((FileType::RegularFile, size)) => {
                    total += size;
                    None
                }
                Ok((FileType::Directory, _)) => Folder::open(handle, name).ok(),
                _ => None,
            },
            Some(_) => None,
        };
        open.extend(below);
    }
    Some(total)
}
