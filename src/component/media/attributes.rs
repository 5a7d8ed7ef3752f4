//! Mode, owner, time and extended attributes of an entry: told by an archive, seen at a file, given to a file.

use crate::component::ComponentError;
use crate::component::media::extended::{At, Refused, is_kept, without_capability};
use crate::component::media::holds::Holds;
use crate::component::tar::{Acl, AttributeKind, Entry, ExtendedAttributes};
use crate::domain::facts::AttributeCounts;
use rustix::{
    fs::{Gid, Mode, Stat, Timespec, Timestamps, UTIME_NOW, Uid, fchmod, fchown, fstat, futimens},
    io::Errno,
};
use std::fs::File;

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
pub(super) struct Withheld {
    pub(super) owner: bool,
    pub(super) extended: Refused,
}

/// The numbers of entries that came back without an attribute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lacking {
    /// Their owner.
    pub(super) owner: u64,
    /// Attributes that the file system does not hold.
    pub(super) unsupported: AttributeCounts,
    /// Attributes that this process may not set.
    pub(super) denied: AttributeCounts,
    /// Both, of any entry.
    pub(super) refused: Refused,
}

impl Lacking {
    pub(super) fn note(&mut self, withheld: Withheld) {
        let Refused { unsupported, denied } = withheld.extended;
        self.owner += u64::from(withheld.owner);
        unsupported.count(&mut self.unsupported);
        denied.count(&mut self.denied);
        self.refused.unsupported.0 |= unsupported.0;
        self.refused.denied.0 |= denied.0;
    }
}

impl Attributes {
    /// Those that an archive tells of an entry.
    pub(super) fn told(entry: &Entry<'_>) -> Result<Self, ComponentError> {
        let (owner, modified) = (Some(entry.owner()?), Some(entry.modified()?));
        let mut extended = entry.extended()?;
        extended.retain(|name, _| is_kept(name));
        Ok(Self { mode: entry.mode()?, owner, modified, extended })
    }

    /// Those of an open file or folder.
    pub(super) fn of(file: &File) -> Result<Self, Errno> {
        Ok(Self { extended: At::Open(file).read().extended, ..Self::seen(&fstat(file)?) })
    }

    /// Those of which the kernel tells beside a name.
    pub(super) fn seen(stat: &Stat) -> Self {
        let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Self {
            mode: stat.st_mode & 0o7777,
            owner: Some((stat.st_uid, stat.st_gid)),
            modified: Some((stat.st_mtime, nanos)),
            extended: ExtendedAttributes::new(),
        }
    }

    /// Gives them to a file or folder, as far as its file system `holds` them; returns what could not be given. Without the owner, the bits and capabilities
    /// that let others act as the owner are left out, as they would let them act as somebody else.
    pub(super) fn give(&self, file: &File, holds: Holds) -> Result<Withheld, Errno> {
        let owned = match self.owner {
            None => true,
            Some((uid, gid)) => {
                allowed(fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))? && holds.owners
            }
        };
        let extended = give(At::Open(file), &self.extended, owned)?;
        // After the owner and an ACL: a change of these clears bits.
        let mode = Mode::from_raw_mode(self.mode_given(owned, extended));
        if !allowed(fchmod(file, mode))? && holds.modes {
            return Err(Errno::PERM);
        }
        if let Some(times) = self.times()
            && !allowed(futimens(file, &times))?
            && holds.times
        {
            return Err(Errno::PERM);
        }
        Ok(Withheld { owner: !owned, extended })
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
