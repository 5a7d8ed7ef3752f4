//! Mount points: a folder that is one cannot be renamed, and one that holds some cannot be exchanged for a copy.

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Tests whether a folder is a mount point, also one of a part of its parent's file system.
pub(super) fn is_mount_point(parent: &File, root: &Path) -> bool {
    let Ok(root_stat) = fs::symlink_metadata(root) else { return false };
    let mounted = statx(CWD, root, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())
        .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    mounted || parent.metadata().is_ok_and(|parent| parent.dev() != root_stat.dev())
}

/// The first mount point below a folder (Linux, proc(5), `/proc/pid/mountinfo`).
pub(super) fn mounted_below(folder: &Path) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let plain = |point: &str| {
        [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
            .iter()
            .fold(point.to_owned(), |point, (code, plain)| point.replace(code, plain))
    };
    points.map(|point| PathBuf::from(plain(point))).find(|point| point.starts_with(folder) && point != folder)
}
