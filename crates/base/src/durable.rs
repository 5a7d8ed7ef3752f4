//! Small files that are written whole or not at all: journals, marks, records.

use rustix::{
    fs::{CWD, Mode, OFlags, fsync, openat, renameat},
    io::Errno,
};
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    path::Path,
};
use tokio::task::spawn_blocking;

/// Writes a file of a folder, for its owner alone. After a crash at any instant its old or its new contents are there,
/// whole; once this has returned, the new ones.
///
/// The call waits for the disk: a thread of the runtime must not make it.
///
/// # Errors
///
/// Then the old contents are there, or, where the folder itself could not be made durable, either.
pub fn write_in(folder: impl AsFd, name: &OsStr, contents: &[u8]) -> io::Result<()> {
    let mut beside = name.to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file: File = openat(&folder, &*beside, flags, Mode::RUSR | Mode::WUSR)?.into();
    file.write_all(contents)?;
    file.sync_all()?;
    renameat(&folder, &*beside, &folder, name)?;
    Ok(sync_folder(folder)?)
}

/// Makes the names in a folder durable, where its file system can do that: shared folders and some FUSE file systems
/// refuse to sync a folder, and keep its names by their own rules.
///
/// # Errors
///
/// The error of the disk, when names could not be written.
pub fn sync_folder(folder: impl AsFd) -> Result<(), Errno> {
    match fsync(folder) {
        Err(Errno::INVAL | Errno::BADF | Errno::NOSYS | Errno::NOTSUP) => Ok(()),
        done => done,
    }
}

/// Gives a whole file that lies at `partial` the name `path` in the same file system. Once this has returned, a crash
/// does not undo it. Waits for the disk, as [`write_in`] does.
///
/// # Errors
///
/// Then the file has its old name, or, where the folder itself could not be made durable, either.
pub fn rename(file: &File, partial: &Path, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    std::fs::rename(partial, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(sync_folder(File::open(folder)?)?)
}

/// Writes the file at a path, as [`write_in`] does.
///
/// # Errors
///
/// As there.
pub fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    write_in(openat(CWD, folder, flags, Mode::empty())?, name, contents)
}

/// Does work that waits for the disk away from the threads of the runtime, which serve all tasks: a disk that hangs must
/// not stop them.
///
/// # Errors
///
/// The errors of the work.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

#[test]
fn a_file_is_replaced_whole_and_nothing_else_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("note");
    for contents in ["the first", "2"] {
        write(&path, contents.as_bytes()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), contents);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
