//! Partial files: files that are being written, and those that dead runs have left.

use crate::local::folder::Folder;
use rna_backup_base::lock::FileLock;
use rustix::fs::{Advice, FlockOperation};
use rustix::io::Errno;
use std::{fs::File, io, os::unix::fs::MetadataExt as _, sync::Arc};
use uuid::Uuid;

/// The folder in which files are made, below the root.
pub(super) const FOLDER: &str = ".partial";

/// The mark in the name of a file that is only a trial.
const TRIAL: &str = "trial-";

/// A file in the making. It is locked as long as it is open, which tells the living from the dead
/// even after `kill -9`, and gone when this is dropped.
#[derive(Debug)]
pub(super) struct Partial {
    folder: Folder,
    name: String,
    file: Arc<File>,
    placed: bool,
}

impl Partial {
    pub(super) fn create(root: &Folder) -> io::Result<Self> {
        Self::named(root, "")
    }

    /// A file that only shows that files can be made. Its name says so to people, and to who counts partial files.
    pub(super) fn trial(root: &Folder) -> io::Result<Self> {
        Self::named(root, TRIAL)
    }

    /// Takes the last step of an upload into `folder` with this file, and removes it: it never becomes an object,
    /// since no name that begins with a dot is one.
    pub(super) fn try_placing(self, folder: &Folder) -> io::Result<()> {
        if lock(&self.file)? == Lock::Unsupported {
            let why =
                "its file system cannot lock files, so nobody could tell a run that works from one that died";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        let name = format!(".{}", self.name);
        let _locked = self.file.clone();
        self.place(folder, &name)?;
        folder.remove_file(&name)
    }

    fn named(root: &Folder, purpose: &str) -> io::Result<Self> {
        loop {
            let folder = root.enter_or_make(FOLDER)?;
            // The process id is for people who look into the folder.
            let name = format!("{}-{purpose}{}", std::process::id(), Uuid::new_v4().simple());
            let file = Arc::new(folder.create_file(&name)?);
            let partial = Self { folder, name, file, placed: false };
            // A sweep may have come between creating and locking: it locks before it removes.
            if lock(&partial.file)? != Lock::Taken && partial.file.metadata()?.nlink() > 0 {
                return Ok(partial);
            }
        }
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Makes the file durable and moves it to `name` in `target`, unless that name is taken.
    pub(super) fn place(mut self, target: &Folder, name: &str) -> io::Result<()> {
        self.file.sync_all()?;
        self.folder.place_file(&self.name, target, name)?;
        self.placed();
        Ok(())
    }

    /// Makes the file durable and moves it to `name` in `target`, replacing any file there.
    pub(super) fn replace(mut self, target: &Folder, name: &str) -> io::Result<()> {
        self.file.sync_all()?;
        self.folder.replace_file(&self.name, target, name)?;
        self.placed();
        Ok(())
    }

    fn placed(&mut self) {
        self.placed = true;
        // The file is not read soon: leave the memory to the database beside us. Only a hint.
        let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed);
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.placed {
            // A file that stays behind is removed by the next sweep.
            let _ = self.folder.forget_file(&self.name);
        }
    }
}

/// The files that a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Number of files.
    pub files: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

/// Removes the files that nobody has locked.
pub(super) fn sweep(root: &Folder) -> io::Result<Swept> {
    let folder = match root.enter(FOLDER) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Swept::default()),
        entered => entered?,
    };
    let mut swept = Swept::default();
    for name in folder.names()? {
        // Finished since, somebody else's, or no file at all: not ours to remove.
        let Ok((file, bytes)) = folder.open_file(&name) else { continue };
        // Held until the file is removed: its writer looks again once it has the lock. A name that
        // is gone by now was finished by a writer that lived a moment ago.
        if let Some(_locked) = lock_alone(&file)?
            && folder.forget_file(&name).is_ok()
        {
            swept.files += 1;
            swept.bytes += bytes;
        }
    }
    root.hidden(&mut |folder, name| sweep_trial(folder, name))?;
    Ok(swept)
}

/// Removes a hidden file if it is a trial of a run that died before it could remove the file.
fn sweep_trial(folder: &Folder, name: &str) -> io::Result<()> {
    if name.contains(TRIAL)
        && let Ok((file, 0)) = folder.open_file(name)
        && let Some(_locked) = lock_alone(&file)?
    {
        let _ = folder.forget_file(name);
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lock {
    Ours,
    Taken,
    /// The file system has no locks: whatever is there has to stay, for nobody knows whose it is.
    Unsupported,
}

/// Locks a file for as long as it is open.
fn lock(file: &File) -> io::Result<Lock> {
    known(rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive))
}

/// Locks a file that nobody else has locked, until the value is dropped. A file that the sweep leaves is free at that
/// instant, whoever has inherited it.
fn lock_alone(file: &File) -> io::Result<Option<FileLock<&File>>> {
    let locked = FileLock::try_lock(file);
    let found = known(locked.as_ref().map(|_| ()).map_err(|err| *err))?;
    Ok(locked.ok().filter(|_| found == Lock::Ours))
}

fn known(locked: Result<(), Errno>) -> io::Result<Lock> {
    match locked {
        Ok(()) => Ok(Lock::Ours),
        Err(Errno::WOULDBLOCK) => Ok(Lock::Taken),
        Err(Errno::NOTSUP | Errno::NOSYS | Errno::NOLCK) => Ok(Lock::Unsupported),
        Err(err) => Err(err.into()),
    }
}
