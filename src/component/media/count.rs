//! Counting a tree as it lies there: what a restore is compared by.

use crate::component::ComponentError;
use crate::component::media::{
    area::is_area,
    folder::Folder,
    trouble::{shown, trouble},
};
use crate::domain::facts::FileCounts;
use rustix::{
    fs::{AtFlags, FileType, statat},
    io::Errno,
};
use std::{collections::HashSet, fs::File};

/// Counts everything below `root`, as its archive would be counted. What vanishes
/// meanwhile is not.
pub(super) fn count(root: &File) -> Result<FileCounts, ComponentError> {
    let mut counts = FileCounts::default();
    let mut several = HashSet::new();
    let failed = |err: Errno, name: &[u8]| trouble(format!("count {}", shown(name)), err);
    let mut way = vec![Folder::reopen(root).map_err(|err| failed(err, b"."))?];
    loop {
        let depth = way.len();
        let Some(folder) = way.last_mut() else { break };
        let Some((handle, name, _)) = folder.next() else {
            way.pop();
            continue;
        };
        let stat = match statat(handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(err) => return Err(failed(err, name.to_bytes())),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if depth == 1 && is_area(handle, name) => {}
            FileType::Directory => {
                let below = match Folder::open(handle, name) {
                    Ok(below) => below,
                    Err(Errno::NOENT) => continue,
                    Err(err) => return Err(failed(err, name.to_bytes())),
                };
                counts.directories += 1;
                way.push(below);
            }
            FileType::Symlink => counts.symlinks += 1,
            FileType::RegularFile if stat.st_nlink > 1 && !several.insert((stat.st_dev, stat.st_ino)) => {
                counts.hard_links += 1;
            }
            FileType::RegularFile => {
                counts.files += 1;
                counts.bytes += u64::try_from(stat.st_size).unwrap_or(0);
            }
            _ => {}
        }
    }
    Ok(counts)
}
