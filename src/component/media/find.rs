//! The areas of a media folder: found, and locked by whoever works with them.

use crate::base::host_name;
use crate::base::lock::FileLock;
use crate::component::ComponentError;
use crate::component::media::{
    errors::path_error,
    folder::Folder,
    label::Role,
    staging_area::{MARK, StagingArea, StagingRoot},
    unpack::open_folder,
};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, fstat, openat, statat, unlinkat},
    io::Errno,
    process::geteuid,
};
use std::{
    ffi::CStr,
    fs::File,
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// The longest wait for an area that somebody else has locked: a child process that is being started has inherited every
/// file of its parent for about a millisecond, also of a parent that was killed.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause between two tries to lock one: `flock` has no form that waits for a limited time.
const AGAIN: Duration = Duration::from_millis(5);

/// The longest words of a holder that are told.
const WORDS: u64 = 200;

impl StagingArea {
    /// All areas of a media folder, locked, the oldest first. What is left of areas whose maker died before they were
    /// marked is removed.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Taken`] when another run works in one.
    pub(super) fn all(root: &Path) -> Result<Vec<Self>, ComponentError> {
        Self::all_of(&StagingRoot::all(root)?)
    }

    /// All areas in some folders, locked.
    pub(super) fn all_of(staging_roots: &[StagingRoot]) -> Result<Vec<Self>, ComponentError> {
        Self::all_within(staging_roots, None, PATIENCE)
    }

    /// All areas in some folders but the one of this name, locked; waits for their locks as long as `patience`.
    #[expect(clippy::disallowed_methods, reason = "blocking work, and a lock that ends without a sign")]
    fn all_within(
        staging_roots: &[StagingRoot],
        without: Option<&CStr>,
        patience: Duration,
    ) -> Result<Vec<Self>, ComponentError> {
        let deadline = Instant::now() + patience;
        loop {
            let mut found = Self::list(staging_roots, true)?;
            found.retain(|area| Some(area.name.as_c_str()) != without);
            let locked = found.iter_mut().try_for_each(|area| match area.lock() {
                Ok(true) => Ok(()),
                // Removed or renamed by its holder since it was listed.
                Ok(false) => Err(Ok(())),
                Err(err) => Err(Err(area.unlocked(err))),
            });
            match locked {
                Ok(()) => return Ok(found),
                Err(Err(err @ ComponentError::Taken { .. })) if Instant::now() > deadline => return Err(err),
                Err(Ok(())) if Instant::now() > deadline => {
                    let what = "list the hidden folders of restores: they change all the time".to_owned();
                    return Err(ComponentError::Unavailable { what, source: None });
                }
                Err(Ok(()) | Err(ComponentError::Taken { .. })) => thread::sleep(AGAIN),
                Err(Err(err)) => return Err(err),
            }
        }
    }

    /// Makes sure that no other run works on the media folder that this area is for. Whoever has made an area, and then finds
    /// no other one in use, is alone: others look for this one. Of two that were made at once the older has more patience,
    /// so that one of them stays.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Taken`] when another run does.
    pub(super) fn is_alone(&self, root: &Path) -> Result<(), ComponentError> {
        let staging_roots = StagingRoot::all(root)?;
        let is_older = |other: &Self| {
            other.label.role == Role::Restore && (other.label, &other.name) < (self.label, &self.name)
        };
        let yields = Self::list(&staging_roots, false)?.iter().any(is_older);
        let patience = if yields { PATIENCE / 8 } else { PATIENCE };
        Self::all_within(&staging_roots, Some(&self.name), patience).map(drop)
    }

    /// All areas of a media folder as they are seen, the oldest first: for a look that changes nothing, also while a run
    /// works in one.
    pub(super) fn seen(root: &Path) -> Result<Vec<Self>, ComponentError> {
        Self::list(&StagingRoot::all(root)?, false)
    }

    fn list(staging_roots: &[StagingRoot], removes_empty: bool) -> Result<Vec<Self>, ComponentError> {
        let mut found = Vec::new();
        for staging in staging_roots {
            let failed = |err| path_error(format!("list {}", staging.path.display()), &staging.path, err);
            let mut listing = Folder::reopen(&staging.folder).map_err(failed)?;
            while let Some((_, name, kind)) = listing.next() {
                let label = staging.label(name);
                let (Some(label), FileType::Directory | FileType::Unknown) = (label, kind) else { continue };
                // Others may make such a folder too where they may write.
                let is_own =
                    |folder: &File| folder.metadata().is_ok_and(|own| own.uid() == geteuid().as_raw());
                let Some(folder) = open_folder(&staging.folder, name).ok().filter(is_own) else { continue };
                if statat(&folder, MARK, AtFlags::SYMLINK_NOFOLLOW).is_err() {
                    // Not ours, unless it is empty: then it is nobody's loss.
                    if removes_empty {
                        let _ = staging.keeping_time(|| unlinkat(&staging.folder, name, AtFlags::REMOVEDIR));
                    }
                    continue;
                }
                let staging = staging.again().map_err(failed)?;
                found.push(Self { staging, folder, label, name: name.to_owned(), mark: None });
            }
        }
        found.sort_by_key(|area| area.label);
        Ok(found)
    }

    /// Locks it; `false` when it is not there any more under its name.
    fn lock(&mut self) -> Result<bool, Errno> {
        let open =
            |access| openat(&self.folder, MARK, access | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        // NFS locks no file that was opened for reading alone.
        let opened = match open(OFlags::RDWR) {
            Err(Errno::ROFS | Errno::ACCESS | Errno::PERM) => open(OFlags::RDONLY),
            opened => opened,
        };
        let mark = match opened {
            Err(Errno::NOENT) => return Ok(false),
            opened => FileLock::try_lock(File::from(opened?))?,
        };
        write_holder(mark.file());
        self.mark = Some(mark);
        let own = fstat(&self.folder)?;
        match statat(&self.staging.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) => Ok((named.st_dev, named.st_ino) == (own.st_dev, own.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(err) => Err(err),
        }
    }

    fn unlocked(&self, err: Errno) -> ComponentError {
        let path = self.path();
        if err != Errno::WOULDBLOCK {
            return path_error(format!("lock {}", path.display()), &path, err);
        }
        let what = format!(
            "{} works in {}: wait until that restore, drill or undo of the media has ended, or end that process",
            self.holder().unwrap_or_else(|| "another process".to_owned()),
            path.display()
        );
        ComponentError::Taken { what }
    }

    /// The words of its holder.
    fn holder(&self) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mark: File = openat(&self.folder, MARK, flags, Mode::empty()).ok()?.into();
        let mut words = String::new();
        mark.take(WORDS).read_to_string(&mut words).ok()?;
        Some(words.trim().to_owned()).filter(|words| !words.is_empty())
    }
}

/// Writes into a mark who has locked it, for the error of others. Without these words the lock holds all the same.
pub(super) fn write_holder(mut mark: &File) {
    let words = format!("process {} on {}", std::process::id(), host_name());
    let _ = mark
        .set_len(0)
        .and_then(|()| rustix::fs::seek(mark, rustix::fs::SeekFrom::Start(0)).map_err(Into::into));
    let _ = mark.write_all(words.as_bytes());
}
