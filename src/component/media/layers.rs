//! File systems of layers, as containers have: folders that come from an image cannot be renamed.

use rustix::{
    fs::{AtFlags, Mode, fstatfs, mkdirat, renameat, unlinkat},
    io::Errno,
};
use std::{ffi::CStr, fs::File};

/// Tests whether a folder lies on such a file system.
pub(super) fn is_layered(folder: &File) -> bool {
    /// `OVERLAYFS_SUPER_MAGIC` of Linux, magic.h.
    const OVERLAYFS: i64 = 0x794c_7630;
    fstatfs(folder).is_ok_and(|stat| stat.f_type == OVERLAYFS)
}

/// Tests whether something may be renamed to elsewhere on such a file system, by trying to rename it to
/// `spare`, an empty folder, while something is in that: nothing can come of it, but folders of a lower
/// layer are refused first, as if they were on another file system (Linux, overlayfs.rst, "Renaming
/// directories").
pub(super) fn may_leave(folder: &File, name: &CStr, spare: &File) -> Result<bool, Errno> {
    const TAKEN: &CStr = c"taken";
    mkdirat(spare, TAKEN, Mode::RWXU)?;
    mkdirat(spare, c"taken/by", Mode::RWXU)?;
    let tried = renameat(folder, name, spare, TAKEN);
    unlinkat(spare, c"taken/by", AtFlags::REMOVEDIR)?;
    unlinkat(spare, TAKEN, AtFlags::REMOVEDIR)?;
    Ok(tried != Err(Errno::XDEV))
}
