//! Files and folders of this process that others use, and those of others that this process removes. Blocking.

use crate::component::weaviate::tree::DESCRIPTOR;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::{
    fs::{self, Metadata, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

/// Makes a folder below `root` and its parents, each with the group and mode of `root`.
pub(super) fn make(root: &Path, way: &[&str]) -> io::Result<PathBuf> {
    let model = fs::metadata(root)?;
    let mut folder = root.to_owned();
    for name in way {
        folder.push(name);
        match fs::create_dir(&folder) {
            Ok(()) => open_up(&folder, &model),
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
            Err(err) => return Err(err),
        }
    }
    Ok(folder)
}

/// Gives all that is in a folder, and the folder, the group and mode of `model`.
pub(super) fn share(folder: &Path, model: &Metadata) -> io::Result<()> {
    open_up(folder, model);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            share(&entry.path(), model)?;
        } else if kind.is_file() {
            open_up(&entry.path(), model);
        }
    }
    Ok(())
}

/// Gives a file or folder the group, the mode and, where this process may, the owner of the folder `model`;
/// others get no right to write files. Refusals of the operating system are passed over: not every file system
/// has owners and modes, and only the server's own attempt to write decides.
fn open_up(path: &Path, model: &Metadata) {
    let Ok(found) = fs::symlink_metadata(path) else { return };
    if (found.uid(), found.gid()) != (model.uid(), model.gid())
        && chown(path, Some(model.uid()), Some(model.gid())).is_err()
    {
        let _ = chown(path, None, Some(model.gid()));
    }
    let is_of_group = fs::symlink_metadata(path).is_ok_and(|found| found.gid() == model.gid());
    let _ =
        fs::set_permissions(path, Permissions::from_mode(mode(model.mode(), is_of_group, found.is_dir())));
}

/// The mode of what this process makes in a folder of mode `model`. Another group gets what all others get.
const fn mode(model: u32, is_of_group: bool, is_folder: bool) -> u32 {
    let group = if is_of_group { model & 0o070 } else { (model & 0o007) << 3 };
    let bits = group | model & 0o007;
    if is_folder { 0o700 | bits | model & 0o3000 } else { 0o600 | bits & 0o044 }
}

/// Removes the folder of a backup, its descriptor first.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    for result in [fs::remove_file(folder.join(DESCRIPTOR)), fs::remove_dir_all(folder)] {
        match result {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
    }
    Ok(())
}

/// Returns whether a folder holds nothing but folders.
pub(super) fn has_no_file(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.into_iter().all(|entry| {
        entry.is_ok_and(|entry| {
            entry.file_type().is_ok_and(|kind| kind.is_dir()) && has_no_file(&entry.path())
        })
    })
}

/// The uppermost folder in `folder`, or that itself, whose content this process may not remove, as the operating
/// system answers.
pub(super) fn unremovable_folder(folder: &Path) -> Option<PathBuf> {
    let here = || Some(folder.to_owned());
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let Ok(entries) = entries else { return here() };
    let rights = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    if !entries.is_empty() && accessat(CWD, folder, rights, AtFlags::EACCESS).is_err() {
        return here();
    }
    let folders = entries.iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(fs::DirEntry::path).find_map(|below| unremovable_folder(&below))
}

#[test]
fn what_is_made_in_a_folder_is_as_open_as_the_folder_and_no_more() {
    for (model, is_of_group, of_folder, of_file) in [
        (0o0755, true, 0o0755, 0o0644),
        (0o2775, true, 0o2775, 0o0644),
        (0o2770, true, 0o2770, 0o0640),
        (0o2770, false, 0o2700, 0o0600),
        (0o1777, true, 0o1777, 0o0644),
        (0o0775, false, 0o0755, 0o0644),
        (0o0070, true, 0o0770, 0o0640),
    ] {
        let made = |is_folder| mode(model, is_of_group, is_folder);
        assert_eq!((made(true), made(false)), (of_folder, of_file), "{model:o} {is_of_group}");
    }
}
