//! The estimate of the bytes that there are to read, for the progress of a backup under way.

use crate::component::media::folder::{each, open_below, stat_entry};
use crate::component::media::staging_area::is_area;
use rustix::fs::FileType;
use std::{
    ffi::{CStr, CString},
    fs::File,
    sync::atomic::{AtomicBool, Ordering},
};

/// Adds up the sizes of all files under `root`, blocking; `None` once `stop` is set.
///
/// An estimate: what cannot be read counts as nothing, and files with several names count each time. Names of files are
/// not kept: beside this the same tree is packed, whose names are.
pub(super) fn estimate(root: File, stop: &AtomicBool) -> Option<u64> {
    let mut total = 0;
    let below = folders_in(&root, &mut total, stop);
    let mut open = vec![(root, below)];
    loop {
        let depth = open.len();
        let Some((folder, below)) = open.last_mut() else { break };
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let Some(name) = below.pop() else {
            open.pop();
            continue;
        };
        if depth == 1 && is_area(folder, &name) {
            continue;
        }
        if let Ok(folder) = open_below(folder, &name) {
            let below = folders_in(&folder, &mut total, stop);
            open.push((folder, below));
        }
    }
    Some(total)
}

/// The names of the folders in a folder; adds up the sizes of its files.
fn folders_in(folder: &File, total: &mut u64, stop: &AtomicBool) -> Vec<CString> {
    let mut folders = Vec::new();
    // The files of a folder that cannot be listed are left out of the sum.
    let _ = each(folder, |name: &CStr, kind| match kind {
        FileType::Directory => folders.push(name.to_owned()),
        FileType::RegularFile | FileType::Unknown if !stop.load(Ordering::Relaxed) => {
            match stat_entry(folder, name) {
                Ok((FileType::RegularFile, size)) => *total += size,
                Ok((FileType::Directory, _)) => folders.push(name.to_owned()),
                _ => {}
            }
        }
        _ => {}
    });
    folders
}
