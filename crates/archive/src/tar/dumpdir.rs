//! The list of names that a folder of an incremental archive comes with (GNU tar, "Dumpdir").

use crate::ArchiveError;
use crate::tar::entry::Entry;
use crate::tar::members::damaged;

/// A list that is being read. Ours hold no names but of what is in the archive, or is referred to.
pub struct Dumpdir {
    /// The path of the folder, for people.
    folder: String,
    is_in_name: bool,
}

impl Dumpdir {
    pub fn of(entry: &Entry<'_>) -> Self {
        /// The most characters of a path that are told.
        const TOLD: usize = 200;
        let folder = String::from_utf8_lossy(&entry.path()).chars().take(TOLD).collect();
        Self { folder, is_in_name: false }
    }

    /// Reads the next bytes of the list, names that each follow a letter and end with a NUL.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Corrupt`] when the list names what lies in an earlier archive: then this archive alone is
    /// not the folder.
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<(), ArchiveError> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.is_in_name {
                let Some(end) = memchr::memchr(0, bytes) else { return Ok(()) };
                bytes = &bytes[end + 1..];
                self.is_in_name = false;
                continue;
            }
            // N: not in this archive; R, T and X: renamed since an earlier one.
            if matches!(first, b'N' | b'R' | b'T' | b'X') {
                return Err(damaged(format!(
                    "it is an incremental archive of GNU tar (--listed-incremental): in folder {:?} it leaves out what an \
                     earlier archive holds; unpack that one and this one by `tar -xp --listed-incremental=/dev/null -f \
                     FILE`, the oldest first",
                    self.folder
                )));
            }
            self.is_in_name = *first != 0;
            bytes = rest;
        }
        Ok(())
    }
}
