//! Removing a tree, whatever modes are in it, without leaving its file system.

use crate::base::lock::FileLock;
use crate::component::media::{folder::Folder, unpack::open_folder};
use rustix::{
    fs::{AtFlags, FileType, IFlags, Mode, OFlags, fchmod, ioctl_getflags, ioctl_setflags, openat, unlinkat},
    io::Errno,
};
use std::{
    ffi::{CStr, CString},
    fs::File,
    os::unix::fs::MetadataExt,
};

/// Removes what has that name, if anything has, and everything below it.
///
/// A file system that is mounted below it stays, and is an error: its data are not in the tree.
pub(super) fn remove(parent: &File, name: &CStr) -> Result<(), Errno> {
    match unlink(parent, name) {
        Err(Errno::ISDIR) => {}
        Err(Errno::NOENT) => return Ok(()),
        done => return done,
    }
    let device = device(parent)?;
    let mut way: Vec<(Folder, CString)> = vec![(enter(parent, name, device)?, name.to_owned())];
    while let Some((folder, _)) = way.last_mut() {
        let below = match folder.next() {
            Some((handle, name, FileType::Directory | FileType::Unknown)) => match unlink(handle, name) {
                Ok(()) => continue,
                Err(Errno::ISDIR) => (enter(handle, name, device)?, name.to_owned()),
                Err(err) => return Err(err),
            },
            Some((handle, name, _)) => {
                unlink(handle, name)?;
                continue;
            }
            None => {
                let Some((_, name)) = way.pop() else { break };
                let above = way.last().map_or(parent, |(folder, _)| &folder.handle);
                unlinkat(above, &name, AtFlags::REMOVEDIR)?;
                continue;
            }
        };
        way.push(below);
    }
    Ok(())
}

/// Removes a folder in which a file is open that locks it. NFS and FUSE keep an open file under another name, with
/// which no folder can go: there the file is closed first.
pub(super) fn remove_locked(parent: &File, name: &CStr, lock: &mut Option<FileLock>) -> Result<(), Errno> {
    match remove(parent, name) {
        Err(Errno::NOTEMPTY) if lock.take().is_some() => remove(parent, name),
        done => done,
    }
}

/// Removes a file, immutable ones too: the tree is a copy that goes, or was set aside, and nobody else would remove it.
///
/// # Errors
///
/// [`Errno::ISDIR`] where the name is that of a folder.
fn unlink(parent: &File, name: &CStr) -> Result<(), Errno> {
    let refused = match unlinkat(parent, name, AtFlags::empty()) {
        Err(refused @ Errno::PERM) => refused, // Linux says ISDIR of a folder, POSIX PERM
        done => return done,
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(entry) = openat(parent, name, flags, Mode::empty()).map(File::from) else { return Err(refused) };
    if entry.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(Errno::ISDIR);
    }
    if make_changeable(&entry) { unlinkat(parent, name, AtFlags::empty()) } else { Err(refused) }
}

/// Takes the flags away that keep everybody from changing a file or folder (`chattr +i`, `chattr +a`). Returns whether
/// there were any and they are gone.
fn make_changeable(entry: &File) -> bool {
    const FLAGS: IFlags = IFlags::IMMUTABLE.union(IFlags::APPEND);
    // Many file systems have no flags.
    let Ok(flags) = ioctl_getflags(entry) else { return false };
    flags.intersects(FLAGS) && ioctl_setflags(entry, flags.difference(FLAGS)).is_ok()
}

/// Opens a folder that is to be emptied.
fn enter(parent: &File, name: &CStr, device_of: u64) -> Result<Folder, Errno> {
    let handle = match open_folder(parent, name) {
        // Its own mode is in the way; nobody but us can exchange it for a link here.
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            open_folder(parent, name)?
        }
        opened => opened?,
    };
    if device(&handle)? != device_of {
        return Err(Errno::XDEV);
    }
    make_changeable(&handle);
    if handle.metadata().is_ok_and(|metadata| metadata.mode() & 0o700 != 0o700) {
        fchmod(&handle, Mode::RWXU)?;
    }
    Folder::reopen(&handle)
}

fn device(folder: &File) -> Result<u64, Errno> {
    folder
        .metadata()
        .map(|metadata| metadata.dev())
        .map_err(|err| Errno::from_io_error(&err).unwrap_or(Errno::IO))
}
