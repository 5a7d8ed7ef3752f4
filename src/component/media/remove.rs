//! Removing a tree, whatever modes are in it, without leaving its file system.

use crate::component::media::{folder::Folder, unpack::open_folder};
use rustix::{
    fs::{AtFlags, FileType, Mode, fchmod, unlinkat},
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
    match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(()),
        done => return done,
    }
    let device = device(parent)?;
    let mut way: Vec<(Folder, CString)> = vec![(enter(parent, name, device)?, name.to_owned())];
    while let Some((folder, _)) = way.last_mut() {
        let below = match folder.next() {
            Some((handle, name, FileType::Directory | FileType::Unknown)) => {
                match unlinkat(handle, name, AtFlags::empty()) {
                    Ok(()) => continue,
                    Err(Errno::ISDIR | Errno::PERM) => (enter(handle, name, device)?, name.to_owned()),
                    Err(err) => return Err(err),
                }
            }
            Some((handle, name, _)) => {
                unlinkat(handle, name, AtFlags::empty())?;
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

/// The same of a folder in which a file is open that locks it. NFS and FUSE keep an open file under another name, with
/// which no folder can go: there the file is closed first.
pub(super) fn remove_locked(parent: &File, name: &CStr, lock: &mut Option<File>) -> Result<(), Errno> {
    match remove(parent, name) {
        Err(Errno::NOTEMPTY) if lock.take().is_some() => remove(parent, name),
        done => done,
    }
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
