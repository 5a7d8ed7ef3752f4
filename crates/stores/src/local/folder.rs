//! Folders by descriptor: every step down is one `openat` that follows no link, so no link that
//! somebody plants meanwhile leads out of the root.

use crate::{ObjectKey, ObjectMeta};
use jiff::Timestamp;
use rna_backup_base::durable::sync_folder;
use rustix::fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use std::{fs::File, io, os::fd::OwnedFd, path::Path};

const FOLDER_MODE: Mode = Mode::RWXU;

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder(OwnedFd);

impl Folder {
    /// The root itself, whose own path may hold links.
    pub(super) fn root(path: &Path) -> io::Result<Self> {
        match rustix::fs::openat(CWD, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => Ok(Self(fd)),
            // Not "no such object": nobody can tell what is in a folder that is not mounted.
            Err(Errno::NOENT) => Err(io::Error::other(format!("{} is not there", path.display()))),
            Err(err) => Err(err.into()),
        }
    }

    /// The folder called `name` in this one.
    pub(super) fn enter(&self, name: &str) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.0, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Self(fd)),
            Err(err @ (Errno::NOTDIR | Errno::LOOP)) => {
                let stat = rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?;
                Err(if is_link(&stat) { link(name) } else { err.into() })
            }
            Err(err) => Err(err.into()),
        }
    }

    /// The folder that holds `key`.
    pub(super) fn parent(self, key: &ObjectKey) -> io::Result<Self> {
        self.descend(above(key))
    }

    /// The folder that is the prefix `key`.
    pub(super) fn prefix(self, key: &ObjectKey) -> io::Result<Self> {
        self.descend(key.as_str().split('/'))
    }

    /// Below a file there is nothing, as far as a reader is concerned.
    fn descend<'a>(self, mut names: impl Iterator<Item = &'a str>) -> io::Result<Self> {
        names.try_fold(self, |folder, name| folder.enter(name)).map_err(|err| match err.kind() {
            io::ErrorKind::NotADirectory => Errno::NOENT.into(),
            _ => err,
        })
    }

    /// The folder that holds `key`, made durably where it is missing.
    pub(super) fn make_parent(self, key: &ObjectKey) -> io::Result<Self> {
        above(key).try_fold(self, |folder, name| folder.enter_or_make(name))
    }

    /// The folder called `name` in this one, made durably when it is missing.
    pub(super) fn enter_or_make(&self, name: &str) -> io::Result<Self> {
        match self.enter(name) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                match rustix::fs::mkdirat(&self.0, name, FOLDER_MODE) {
                    Ok(()) => self.sync()?,
                    Err(Errno::EXIST) => {}
                    Err(err) => return Err(err.into()),
                }
                self.enter(name)
            }
            entered => entered,
        }
    }

    /// Opens the file called `name` for reading, and returns its length as well.
    pub(super) fn open_file(&self, name: &str) -> io::Result<(File, u64)> {
        // Without NONBLOCK a named pipe would hang us.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.0, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::LOOP) => return Err(link(name)),
            Err(err) => return Err(err.into()),
        };
        let meta = file.metadata()?;
        if meta.is_file() { Ok((file, meta.len())) } else { Err(Errno::NOENT.into()) }
    }

    /// Makes a file called `name` that was not there, for reading and writing by its owner alone.
    pub(super) fn create_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Describes the file called `name`, which is the object `key`.
    pub(super) fn describe(&self, name: &str, key: ObjectKey) -> io::Result<ObjectMeta> {
        let stat = rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => meta(&stat, key),
            FileType::Symlink => Err(link(name)),
            _ => Err(Errno::NOENT.into()),
        }
    }

    /// Adds every object below this folder, which is the prefix `key`, in no order.
    pub(super) fn list(&self, key: &ObjectKey, found: &mut Vec<ObjectMeta>) -> io::Result<()> {
        for name in self.names()? {
            let Some(key) = (!name.starts_with('.')).then(|| key.join(&name).ok()).flatten() else {
                continue;
            };
            let stat = match rustix::fs::statat(&self.0, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue, // deleted since
                Err(err) => return Err(err.into()),
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => found.push(meta(&stat, key)?),
                FileType::Directory => match self.enter(&name) {
                    Ok(folder) => folder.list(&key, found)?,
                    Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                    Err(err) => return Err(err),
                },
                _ => {}
            }
        }
        Ok(())
    }

    /// The names in this folder, in no order. Names that are not UTF-8 are nobody's objects.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            if let Ok(name) = entry?.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Passes each hidden name in the folder and in the folders below to `visit`, with the folder that it is in.
    /// Hidden folders, and folders that cannot be entered, are passed over.
    pub(super) fn hidden(&self, visit: &mut impl FnMut(&Self, &str) -> io::Result<()>) -> io::Result<()> {
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name.starts_with('.') {
                visit(self, name)?;
            } else if matches!(entry.file_type(), FileType::Directory | FileType::Unknown)
                && let Ok(folder) = self.enter(name)
            {
                folder.hidden(visit)?;
            }
        }
        Ok(())
    }

    /// Removes the file called `name`, durably.
    pub(super) fn remove_file(&self, name: &str) -> io::Result<()> {
        self.forget_file(name)?;
        self.sync()
    }

    /// Removes the file called `name`; after a power cut it may be there again.
    pub(super) fn forget_file(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Moves the file called `name` to `new_name` in `target`, durably; takes the place of one
    /// that is there.
    pub(super) fn replace_file(&self, name: &str, target: &Self, new_name: &str) -> io::Result<()> {
        rustix::fs::renameat(&self.0, name, &target.0, new_name)?;
        target.sync()
    }

    /// Moves the file called `name` to `new_name` in `target`, durably, unless there is one.
    pub(super) fn place_file(&self, name: &str, target: &Self, new_name: &str) -> io::Result<()> {
        match rustix::fs::renameat_with(&self.0, name, &target.0, new_name, RenameFlags::NOREPLACE) {
            Ok(()) => target.sync(),
            // Not every file system has the flag: NFS and many FUSE ones say EINVAL.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => self.link_file(name, target, new_name),
            Err(Errno::XDEV) => {
                let why =
                    "a folder in it is mounted by itself, and files are moved there: mount the whole folder";
                Err(io::Error::new(io::ErrorKind::CrossesDevices, why))
            }
            Err(err) => Err(err.into()),
        }
    }

    /// Moves the file as [`place_file`](Self::place_file) does, by a hard link, which never replaces either.
    fn link_file(&self, name: &str, target: &Self, new_name: &str) -> io::Result<()> {
        match rustix::fs::linkat(&self.0, name, &target.0, new_name, AtFlags::empty()) {
            Ok(()) => self.forget_file(name)?,
            // exFAT has no hard links, nor have folders that are shared with a virtual machine or mounted from a
            // bucket.
            Err(Errno::PERM | Errno::NOSYS | Errno::NOTSUP | Errno::INVAL | Errno::MLINK) => {
                return self.rename_file(name, target, new_name);
            }
            Err(err) => return Err(err.into()),
        }
        target.sync()
    }

    /// Moves the file as [`place_file`](Self::place_file) does, by a plain rename, which would replace: the target
    /// folder is locked meanwhile, and the name must be free. That lock keeps out other runs of this machine; the lock
    /// of the component keeps out other machines.
    fn rename_file(&self, name: &str, target: &Self, new_name: &str) -> io::Result<()> {
        let _locked = target.lock()?;
        match rustix::fs::statat(&target.0, new_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => return Err(Errno::EXIST.into()),
            Err(Errno::NOENT) => {}
            Err(err) => return Err(err.into()),
        }
        self.replace_file(name, target, new_name)
    }

    /// Locks the folder until the value is dropped, where its file system has locks.
    fn lock(&self) -> io::Result<FolderLock<'_>> {
        match rustix::fs::flock(&self.0, FlockOperation::LockExclusive) {
            Ok(()) | Err(Errno::NOTSUP | Errno::NOSYS | Errno::NOLCK | Errno::BADF) => Ok(FolderLock(self)),
            Err(err) => Err(err.into()),
        }
    }

    /// Bytes that this user may still write to the file system.
    pub(super) fn disk_free(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.0)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(sync_folder(&self.0)?)
    }
}

/// A folder that is locked for a moment.
struct FolderLock<'a>(&'a Folder);

impl Drop for FolderLock<'_> {
    fn drop(&mut self) {
        // Closing the folder would not be enough while a child that is being started has it open too.
        let _ = rustix::fs::flock(&self.0.0, FlockOperation::Unlock);
    }
}

/// The segments of `key` above its last.
fn above(key: &ObjectKey) -> impl Iterator<Item = &str> {
    let mut segments = key.as_str().split('/');
    segments.next_back();
    segments
}

fn is_link(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
}

fn link(name: &str) -> io::Error {
    let why = format!("{name} is a symbolic link, and none is followed below the root");
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

fn meta(stat: &Stat, key: ObjectKey) -> io::Result<ObjectMeta> {
    let nanos = i32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let modified = Timestamp::new(stat.st_mtime, nanos).map_err(io::Error::other)?;
    let version = Some(format!("{}-{}.{:09}", stat.st_ino, stat.st_ctime, stat.st_ctime_nsec));
    Ok(ObjectMeta { key, bytes: u64::try_from(stat.st_size).unwrap_or(0), modified, version })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn placing_by_a_link_never_replaces_and_leaves_one_name() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::root(dir.path()).unwrap();
        fs::write(dir.path().join("new"), "new").unwrap();
        folder.link_file("new", &folder, "final").unwrap();
        assert!(!dir.path().join("new").exists());

        fs::write(dir.path().join("newer"), "newer").unwrap();
        let err = folder.link_file("newer", &folder, "final").unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(dir.path().join("final")).unwrap(), "new");
    }

    #[test]
    fn of_many_that_place_a_file_by_a_plain_rename_one_wins_and_nothing_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..100 {
            let target = format!("final-{round}");
            let place = |n: usize| {
                let folder = Folder::root(dir.path()).unwrap();
                let name = format!("new-{n}");
                fs::write(dir.path().join(&name), n.to_string()).unwrap();
                match folder.rename_file(&name, &folder, &target) {
                    Ok(()) => Some(n),
                    Err(err) => {
                        assert_eq!(err.kind(), io::ErrorKind::AlreadyExists);
                        None
                    }
                }
            };
            let won: Vec<_> = std::thread::scope(|scope| {
                let runs: Vec<_> = (0..4).map(|n| scope.spawn(move || place(n))).collect();
                runs.into_iter().filter_map(|run| run.join().unwrap()).collect()
            });
            assert_eq!(won.len(), 1, "{won:?}");
            assert_eq!(fs::read_to_string(dir.path().join(&target)).unwrap(), won[0].to_string());
        }
    }
}
