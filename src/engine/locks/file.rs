//! The file of one lock: its `flock`, and the words of its holder. Everything here waits for the disk.

use crate::engine::locks::LockOwner;
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The length of a lock's file on the disk, in bytes: a lock that has its block can be taken on a full disk, by
/// `prune`, which makes room.
const BLOCK: usize = 4096;

/// The locked file of a holder. Once it is given up, a write that is still on its way changes nothing.
#[derive(Debug)]
pub(super) struct LockFile(Mutex<Option<File>>);

impl LockFile {
    pub(super) const fn new(locked: File) -> Self {
        Self(Mutex::new(Some(locked)))
    }

    /// Writes the holder's words down, durably.
    pub(super) fn write_owner(&self, owner: &LockOwner) -> io::Result<()> {
        match &*self.file() {
            Some(file) => write(file, Some(owner)).and_then(|()| file.sync_data()),
            None => Ok(()),
        }
    }

    /// Unlocks the file; removes the holder's words first if they are `settled`.
    pub(super) fn unlock(&self, settled: bool) {
        if let Some(file) = self.file().take() {
            if settled {
                let _ = write(&file, None);
            }
            release(&file);
        }
    }

    fn file(&self) -> MutexGuard<'_, Option<File>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unlocks the file. To close it would not be enough while a child that is being started has it open too.
pub(super) fn release(file: &File) {
    let _ = flock(file, FlockOperation::Unlock);
}

/// Returns `true` if no run holds the lock of the file, which is shared for an instant to find out.
pub(super) fn shares(file: &File) -> bool {
    let shared = flock(file, FlockOperation::NonBlockingLockShared);
    if shared.is_ok() {
        release(file);
    }
    shared != Err(rustix::io::Errno::WOULDBLOCK)
}

/// Writes the owner, or blanks, over the first block.
pub(super) fn write(file: &File, owner: Option<&LockOwner>) -> io::Result<()> {
    let mut words = owner.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    words.resize(words.len().max(BLOCK), b' ');
    file.write_all_at(&words, 0)?;
    file.set_len(words.len() as u64)
}

/// The last words in a lock file; none in the instant between a lock and its holder's words.
pub(super) fn holder_in(file: &mut File) -> io::Result<Option<LockOwner>> {
    let mut words = String::new();
    file.read_to_string(&mut words)?;
    Ok(serde_json::from_str(&words).ok())
}
