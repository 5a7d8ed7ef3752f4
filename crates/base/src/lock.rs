//! Files that are locked by `flock`, and free again at the instant at which the lock's value is dropped.

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use std::{fs::File, os::fd::AsFd};

/// An exclusive lock on a file. Dropping it unlocks the file: to close the file alone would not be enough while a child
/// process that is being started has inherited it, for about a millisecond.
#[derive(Debug)]
pub struct FileLock<F: AsFd = File>(F);

impl<F: AsFd> FileLock<F> {
    /// Locks a file; never waits for its holder.
    ///
    /// # Errors
    ///
    /// [`Errno::WOULDBLOCK`] when somebody else has locked it, others where its file system has no locks.
    pub fn try_lock(file: F) -> Result<Self, Errno> {
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self(file))
    }

    /// The file.
    pub const fn file(&self) -> &F {
        &self.0
    }
}

impl<F: AsFd> Drop for FileLock<F> {
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

#[test]
fn a_lock_that_is_dropped_is_free_though_somebody_has_inherited_its_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let open = || File::options().write(true).open(file.path()).unwrap();
    let mine = open();
    let inherited = mine.try_clone().unwrap();
    let locked = FileLock::try_lock(mine).unwrap();
    assert_eq!(FileLock::try_lock(open()).unwrap_err(), Errno::WOULDBLOCK);
    drop(locked);
    FileLock::try_lock(open()).unwrap();
    drop(inherited);
}
