//! Extended attributes and ACLs of files and folders: read, set and compared, by open files and never through links.
//!
//! All are kept but those that the machine itself gives: labels of `SELinux` and `AppArmor`, and the signatures of IMA and
//! EVM. Brought to another machine, or back to the same one after its policy has changed, these would lock people out.

use crate::component::media::steps::room_in;
use crate::stream::tar::{Acl, AttributeKind, AttributeKinds, ExtendedAttributes};
use rustix::{
    fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr, lgetxattr, llistxattr, lsetxattr},
    io::Errno,
};
use std::{
    fs::File,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::PathBuf,
};

/// Of a program: what it may do. Lost when a file is written to or given away.
const CAPABILITY: &[u8] = b"security.capability";

/// Returns whether an attribute belongs to the tree, and not to the machine.
pub(super) fn is_kept(name: &[u8]) -> bool {
    const OF_THE_MACHINE: [&[u8]; 4] =
        [b"security.selinux", b"security.apparmor", b"security.ima", b"security.evm"];
    !OF_THE_MACHINE.contains(&name)
}

/// The extended attributes of a file, and the error where they cannot be read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ReadAttributes {
    pub(super) extended: ExtendedAttributes,
    /// The part that could not be read, and why, for people.
    pub(super) unread: Option<String>,
}

/// The file whose attributes are read and set.
#[derive(Clone, Copy)]
pub(super) enum At<'a> {
    Open(&'a File),
    /// A name in a folder, itself and not what it points at.
    In(&'a File, &'a [u8]),
}

impl At<'_> {
    /// The way to a name by a folder that is open: no system call but the newest takes a folder and a name (Linux,
    /// proc(5), `/proc/pid/fd`).
    fn path(folder: &File, name: &[u8]) -> PathBuf {
        let folder = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        folder.join(std::ffi::OsStr::from_bytes(name))
    }

    fn list(self, into: &mut [u8]) -> Result<usize, Errno> {
        match self {
            At::Open(file) => flistxattr(file, into),
            At::In(folder, name) => llistxattr(Self::path(folder, name), into),
        }
    }

    fn get(self, attribute: &[u8], into: &mut [u8]) -> Result<usize, Errno> {
        match self {
            At::Open(file) => fgetxattr(file, attribute, into),
            At::In(folder, name) => lgetxattr(Self::path(folder, name), attribute, into),
        }
    }

    fn set(self, attribute: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            At::Open(file) => fsetxattr(file, attribute, value, XattrFlags::empty()),
            At::In(folder, name) => {
                lsetxattr(Self::path(folder, name), attribute, value, XattrFlags::empty())
            }
        }
    }

    /// The names of all that are there; none on a file system that has none.
    fn names(self) -> Result<Vec<u8>, Errno> {
        let mut names = Vec::new();
        match whole(&|into| self.list(into), &mut |list| names.extend_from_slice(list)) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(names),
            Err(err) => Err(err),
        }
    }

    /// The kinds of those that are kept, without their values.
    pub(super) fn kinds(self) -> Result<AttributeKinds, Errno> {
        let names = self.names()?;
        let mut kinds = AttributeKinds::default();
        kept(&names).for_each(|name| kinds.insert(AttributeKind::of(name)));
        Ok(kinds)
    }

    /// Reads what there is.
    pub(super) fn read(self) -> ReadAttributes {
        let mut found = ReadAttributes::default();
        let names = self.names().unwrap_or_else(|err| {
            found.unread = Some(format!("its extended attributes: {err}"));
            Vec::new()
        });
        for name in kept(&names) {
            let read = whole(&|into| self.get(name, into), &mut |value| {
                found.extended.insert(name.to_vec(), settled(name, value));
            });
            match read {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(err) => {
                    found.unread = Some(format!("its extended attribute \"{}\": {err}", name.escape_ascii()));
                }
            }
        }
        found
    }

    /// Sets attributes, of which some may be such that this process or this file system refuses them. ACLs come last:
    /// they may forbid the others.
    pub(super) fn give(self, extended: &ExtendedAttributes) -> Result<Refused, Errno> {
        let mut refused = Refused::default();
        let (acls, others): (Vec<_>, Vec<_>) = extended.iter().partition(|(name, _)| Acl::is_in(name));
        for (name, value) in others.into_iter().chain(acls) {
            let kind = AttributeKind::of(name);
            match self.set(name, value) {
                Ok(()) => {}
                // Of ids that mean nobody here, as for owners.
                Err(Errno::PERM | Errno::ACCESS | Errno::INVAL) => refused.denied.insert(kind),
                Err(Errno::NOSPC) if self.is_full(value.len()) => return Err(Errno::NOSPC),
                Err(
                    Errno::OPNOTSUPP
                    | Errno::NOSYS
                    | Errno::NOENT
                    | Errno::NOSPC
                    | Errno::TOOBIG
                    | Errno::RANGE
                    | Errno::NAMETOOLONG,
                ) => refused.unsupported.insert(kind),
                Err(err) => return Err(err),
            }
        }
        Ok(refused)
    }

    /// Tests whether the file system is full: else it has no room for so much at one file, as ext4 for more than a block.
    fn is_full(self, bytes: usize) -> bool {
        let (At::Open(file) | At::In(file, _)) = self;
        let needed = (bytes as u64).saturating_mul(4);
        room_in(file).is_ok_and(|free| free.is_some_and(|free| free < needed))
    }
}

/// Hands on a list or a value, however long it is. Linux holds none of more than 64 KiB.
fn whole(get: &dyn Fn(&mut [u8]) -> Result<usize, Errno>, then: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
    /// Of nearly all entries, which have none or short ones.
    const SHORT: usize = 512;
    const LONGEST: usize = 65_536;
    let mut short = [0; SHORT];
    match get(&mut short) {
        Ok(length) => then(&short[..length]),
        Err(Errno::RANGE) => {
            let mut long = vec![0; LONGEST];
            let length = get(&mut long)?;
            then(&long[..length]);
        }
        Err(err) => return Err(err),
    }
    Ok(())
}

/// The names of a list that belong to the tree.
fn kept(names: &[u8]) -> impl Iterator<Item = &[u8]> {
    names.split(|byte| *byte == 0).filter(|name| !name.is_empty() && is_kept(name))
}

/// A value as it is compared: equal ACLs are equal.
fn settled(name: &[u8], value: &[u8]) -> Vec<u8> {
    let acl = if Acl::is_in(name) { Acl::from_value(value) } else { None };
    acl.map_or_else(|| value.to_vec(), |acl| acl.to_value())
}

/// The kinds of attributes that could not be set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Refused {
    /// By the file system, which cannot hold them.
    pub(super) unsupported: AttributeKinds,
    /// By the kernel, which does not let this process.
    pub(super) denied: AttributeKinds,
}

impl Refused {
    pub(super) fn contains(self, kind: AttributeKind) -> bool {
        self.unsupported.contains(kind) || self.denied.contains(kind)
    }
}

/// Takes away what lets a program do what others may not: where it belongs to somebody else, it would let them.
pub(super) fn without_capability(extended: &ExtendedAttributes) -> (ExtendedAttributes, Refused) {
    let (mut rest, mut refused) = (extended.clone(), Refused::default());
    if rest.remove(CAPABILITY).is_some() {
        refused.denied.insert(AttributeKind::Security);
    }
    (rest, refused)
}

/// Takes away what an empty folder of our own has got from the folder that it was made in: it would hand that on to
/// everything that is made in it.
pub(super) fn clear_inherited(folder: &File) -> Result<(), Errno> {
    for name in [Acl::DEFAULT, Acl::ACCESS] {
        match fremovexattr(folder, name) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

/// Takes away all attributes but these from a folder that is to have no others, as far as that is allowed.
pub(super) fn remove_others(folder: &File, than: &ExtendedAttributes) {
    for name in At::Open(folder).read().extended.into_keys().filter(|name| !than.contains_key(name)) {
        let _ = fremovexattr(folder, &*name);
    }
}

/// Tests whether a file system holds a kind of attributes, without changing anything; the right to set them is another
/// question.
pub(super) fn is_held(folder: &File, kind: AttributeKind) -> bool {
    let name: &[u8] = match kind {
        AttributeKind::Acl => Acl::ACCESS,
        AttributeKind::User => b"user.rna-backup",
        AttributeKind::Trusted => b"trusted.rna-backup",
        AttributeKind::Security => CAPABILITY,
        AttributeKind::Other => return true,
    };
    At::Open(folder).get(name, &mut [0; 1]) != Err(Errno::OPNOTSUPP)
}

/// The difference of two sets of attributes, for people: the end of a sentence that begins with the name of the entry.
/// Kinds that could not be set are none of the difference.
pub(super) fn difference(
    told: &ExtendedAttributes,
    found: &ExtendedAttributes,
    refused: Refused,
) -> Option<String> {
    let counts = |name: &&Vec<u8>| !refused.contains(AttributeKind::of(name));
    let shown = |name: &[u8]| match name {
        Acl::ACCESS => "its ACL".to_owned(),
        Acl::DEFAULT => "its default ACL".to_owned(),
        name => format!("extended attribute \"{}\"", name.escape_ascii()),
    };
    for name in told.keys().filter(counts) {
        match found.get(name) {
            None => return Some(format!("lacks {}", shown(name))),
            Some(value) if *value != told[name] => {
                return Some(format!("has another value of {}", shown(name)));
            }
            Some(_) => {}
        }
    }
    let more = found.keys().filter(counts).find(|name| !told.contains_key(*name))?;
    Some(format!("has {}, which the archive has not", shown(more)))
}
