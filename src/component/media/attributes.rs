//! Mode, owner, time and extended attributes of an entry: told by an archive, seen at a file, given to a file.

use crate::component::ComponentError;
use crate::component::media::extended::{At, Refused, is_kept, without_capability};
use crate::component::media::fs_capabilities::FsCapabilities;
use crate::domain::metadata::MetadataCounts;
use crate::stream::tar::{Acl, AttributeKind, Entry, ExtendedAttributes};
use rustix::{
    fs::{Gid, Mode, Stat, Timespec, Timestamps, UTIME_NOW, Uid, fchmod, fchown, fstat, futimens},
    io::Errno,
};
use std::{fs::File, ops::Range};

/// Mode, owner, time of modification and extended attributes of an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    /// `None`: whoever made it.
    pub(super) owner: Option<(u32, u32)>,
    /// Seconds and nanoseconds; `None`: when it was made.
    pub(super) modified: Option<(i64, i64)>,
    pub(super) extended: ExtendedAttributes,
}

/// The attributes that a file or folder could not be given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct UnsetAttributes {
    pub(super) owner: bool,
    /// Setuid, setgid and sticky bits.
    pub(super) bits: bool,
    /// A time that the file system cannot hold.
    pub(super) time: bool,
    pub(super) extended: Refused,
    /// Mode and time of a file or folder as they should be, and as they are, where these are not the same.
    pub(super) kept: Option<[ModeAndTime; 2]>,
}

/// A mode, and seconds since 1970.
type ModeAndTime = (u32, i64);

impl Attributes {
    /// The attributes that an archive tells of an entry.
    pub(super) fn told(entry: &Entry<'_>) -> Result<Self, ComponentError> {
        let (owner, modified) = (Some(entry.owner()?), Some(entry.modified()?));
        let mut extended = entry.extended()?;
        extended.retain(|name, _| is_kept(name));
        Ok(Self { mode: entry.mode()?, owner, modified, extended })
    }

    /// Counts a file or folder that has these.
    pub(super) fn count(&self, counts: &mut MetadataCounts) {
        let (seconds, _) = self.modified.unwrap_or_default();
        counts.count(self.owner.unwrap_or_default(), Some((self.mode, seconds)));
    }

    /// The attributes of an open file or folder.
    pub(super) fn of(file: &File) -> Result<Self, Errno> {
        Ok(Self { extended: At::Open(file).read().extended, ..Self::seen(&fstat(file)?) })
    }

    /// The attributes of which the kernel tells beside a name.
    pub(super) fn seen(stat: &Stat) -> Self {
        let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Self {
            mode: stat.st_mode & 0o7777,
            owner: Some((stat.st_uid, stat.st_gid)),
            modified: Some((stat.st_mtime, nanos)),
            extended: ExtendedAttributes::new(),
        }
    }

    /// Gives a file or folder these attributes, as far as its file system can hold them; returns those that could not be
    /// given. Without the owner, the bits and capabilities that let others act as the owner are left out, as they would
    /// let them act as somebody else.
    pub(super) fn give(&self, file: &File, capabilities: FsCapabilities) -> Result<UnsetAttributes, Errno> {
        let owned = match self.owner {
            None => true,
            Some((uid, gid)) => {
                allowed(fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))?
                    && capabilities.owners
            }
        };
        let extended = give(At::Open(file), &self.extended, owned)?;
        // After the owner and an ACL: a change of these clears bits.
        let mode = self.mode_given(owned, extended);
        if !allowed(fchmod(file, Mode::from_raw_mode(mode)))? && capabilities.modes {
            return Err(Errno::PERM);
        }
        if let Some(times) = self.times()
            && !allowed(futimens(file, &times))?
            && capabilities.times
        {
            return Err(Errno::PERM);
        }
        let kept = self.kept(file, mode)?;
        let bits = kept.is_some_and(|[told, kept]| told.0 & !kept.0 & 0o7000 != 0);
        let time = kept.is_some_and(|[told, kept]| told.1 != kept.1);
        Ok(UnsetAttributes { owner: !owned, bits, time, extended, kept })
    }

    /// Mode and time as they should be, and as they are, where these are not the same: a mode that is not given in
    /// full, bits that the kernel clears without a word, and times that the file system cannot hold.
    fn kept(&self, file: &File, given: u32) -> Result<Option<[ModeAndTime; 2]>, Errno> {
        let Some((told, _)) = self.modified else { return Ok(None) };
        let mut kept = (given, told);
        if given & 0o7000 != 0 || !is_held_everywhere(told) {
            let found = fstat(file)?;
            kept = (found.st_mode & 0o7777, found.st_mtime);
        }
        Ok((kept != (self.mode, told)).then_some([(self.mode, told), kept]))
    }

    /// The mode of a file or folder that some of it could not be given to: never more than was meant.
    pub(super) fn mode_given(&self, owned: bool, refused: Refused) -> u32 {
        let mode = if owned { self.mode } else { self.mode & 0o1777 };
        let acl = self.extended.get(Acl::ACCESS).filter(|_| refused.contains(AttributeKind::Acl));
        acl.and_then(|acl| Acl::from_value(acl)).map_or(mode, |acl| acl.mode_without(mode))
    }

    /// Gives a folder its time alone, as far as that is allowed.
    pub(super) fn date(&self, folder: &File) {
        let _ = self.times().map(|times| futimens(folder, &times));
    }

    pub(super) fn times(&self) -> Option<Timestamps> {
        let (tv_sec, tv_nsec) = self.modified?;
        // Not `UTIME_OMIT`: many FUSE file systems set both times or, without a word, none.
        let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        Some(Timestamps { last_access, last_modification: Timespec { tv_sec, tv_nsec } })
    }
}

/// Tests whether every file system holds a time, in seconds since 1970: from 1980, when the times of FAT begin, to 2038,
/// when those of old file systems end.
pub(super) fn is_held_everywhere(seconds: i64) -> bool {
    const EVERYWHERE: Range<i64> = 315_532_800..1 << 31;
    EVERYWHERE.contains(&seconds)
}

/// Gives extended attributes, but for those that only fit an owner.
pub(super) fn give(at: At<'_>, extended: &ExtendedAttributes, owned: bool) -> Result<Refused, Errno> {
    if extended.is_empty() {
        return Ok(Refused::default());
    }
    if owned {
        return at.give(extended);
    }
    let (extended, left_out) = without_capability(extended);
    let mut refused = at.give(&extended)?;
    refused.denied.0 |= left_out.denied.0;
    Ok(refused)
}

/// Returns `false` for a change that this process may not make or the file system does not know, which is no error.
pub(super) fn allowed(done: Result<(), Errno>) -> Result<bool, Errno> {
    match done {
        Ok(()) => Ok(true),
        Err(Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::NOTSUP | Errno::NOSYS) => Ok(false),
        Err(err) => Err(err),
    }
}
