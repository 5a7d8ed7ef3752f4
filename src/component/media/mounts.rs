//! Mount points: a folder that is one cannot be renamed, and one that holds some cannot be exchanged for a copy.

use crate::component::media::errors::shown;
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::MetadataExt,
    },
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
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    let points =
        mounts.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    points.map(unescaped).find(|point| point.starts_with(folder) && point != folder)
}

/// The warning that a mount point below the media folder is in the way of a restore; `None` where there is none.
pub(super) fn mount_warning(root: &Path) -> Option<String> {
    let mounted = mounted_below(&fs::canonicalize(root).ok()?)?;
    let mounted = shown(mounted.as_os_str().as_bytes());
    Some(format!(
        "{mounted}: another file system is mounted there: its files are in the backup, and a restore of the media folder \
         begins only when it is unmounted"
    ))
}

/// A path of `mountinfo`, in which a backslash and three octal digits stand for a space, a tab, a line break or a
/// backslash. A path need not be UTF-8.
fn unescaped(point: &[u8]) -> PathBuf {
    let (mut plain, mut rest) = (Vec::new(), point);
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| *first == b'\\').and_then(|code| std::str::from_utf8(code).ok());
        let code = code.and_then(|code| u8::from_str_radix(code, 8).ok());
        plain.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[test]
fn paths_of_mountinfo_are_read_byte_by_byte() {
    assert_eq!(
        unescaped(b"/a\\040b\\134040/\xe9"),
        PathBuf::from(OsString::from_vec(b"/a b\\040/\xe9".to_vec()))
    );
    assert_eq!(unescaped(b"/a\\9"), PathBuf::from("/a\\9"));
}
