//! Extended attributes of an entry as PAX records, as GNU tar and star write and read them.
//!
//! `SCHILY.xattr.<name>` holds a raw value. ACLs are extended attributes too, but `tar --acls` knows them by
//! their texts alone, `SCHILY.acl.access` and `SCHILY.acl.default`: those are written. Where an archive has both,
//! as GNU tar makes them by `--acls --xattrs-include=*`, the value counts: texts have names in them.

use crate::ArchiveError;
use crate::tar::acl::Acl;
use crate::tar::entry::EntryPrefix;
use crate::tar::members::damaged;
use crate::tar::pax;
use rna_backup_model::facts::AttributeCounts;
use std::{borrow::Cow, collections::BTreeMap};

/// Names and values as the kernel has them; ACLs are among them.
pub type ExtendedAttributes = BTreeMap<Vec<u8>, Vec<u8>>;

const XATTR: &[u8] = b"SCHILY.xattr.";
const TEXTS: [(&[u8], &[u8]); 2] =
    [(b"SCHILY.acl.access", Acl::ACCESS), (b"SCHILY.acl.default", Acl::DEFAULT)];

// Linux, include/uapi/linux/limits.h.
const LONGEST_NAME: usize = 255;
const LONGEST_VALUE: usize = 65_536;
const LONGEST_LIST: usize = 65_536;

/// Adds the record of an extended attribute; false where the entry has as many as one may have.
pub(super) fn write(records: &mut Vec<u8>, name: &[u8], value: &[u8]) -> bool {
    /// Room for the text of an ACL or for a value, and for what else there is to say of an entry.
    const ROOM: u64 = 256 * 1024;
    if records.len() as u64 + ROOM > EntryPrefix::MOST_RECORDS {
        return false;
    }
    let text = TEXTS.iter().find(|(_, acl)| *acl == name);
    if let Some((key, _)) = text
        && let Some(text) = Acl::from_value(value).and_then(|acl| acl.to_text())
    {
        pax::put(records, &[key], &[&text]);
    } else {
        pax::put(records, &[XATTR, &encoded(name)], &[value]);
    }
    true
}

/// Reads the extended attributes among the records of an entry, none of which can be larger than those of Linux.
pub(super) fn read(records: &[u8]) -> Result<ExtendedAttributes, ArchiveError> {
    let (mut found, mut texts) = (ExtendedAttributes::new(), ExtendedAttributes::new());
    let mut list = 0;
    for record in pax::records(records) {
        let (key, value) = record?;
        if let Some(name) = key.strip_prefix(XATTR) {
            let name = decoded(name);
            list += name.len() + 1;
            check(&name, value, list)?;
            found.insert(name, value.to_vec());
        } else if let Some((_, name)) = TEXTS.iter().find(|(text, _)| *text == key) {
            let acl = Acl::from_text(value).ok_or_else(|| damaged("the text of an ACL is broken"))?;
            texts.insert(name.to_vec(), acl.to_value());
        }
    }
    for (name, value) in texts {
        found.entry(name).or_insert(value);
    }
    for name in [Acl::ACCESS, Acl::DEFAULT] {
        let Some(value) = found.remove(name) else { continue };
        let acl = Acl::from_value(&value).ok_or_else(|| damaged("an ACL is broken"))?;
        // Nothing, as tar writes for folders that have the other one, or a mode in other words.
        if value.len() > 4 && !(name == Acl::ACCESS && acl.is_mode()) {
            found.insert(name.to_vec(), acl.to_value());
        }
    }
    Ok(found)
}

fn check(name: &[u8], value: &[u8], list: usize) -> Result<(), ArchiveError> {
    let shown = || name[..name.len().min(LONGEST_NAME)].escape_ascii();
    if name.is_empty() || name.len() > LONGEST_NAME || name.contains(&0) {
        return Err(damaged(format!("\"{}\" cannot be the name of an extended attribute", shown())));
    }
    if value.len() > LONGEST_VALUE {
        let (length, shown) = (value.len(), shown());
        return Err(damaged(format!(
            "extended attribute \"{shown}\" has {length} bytes, more than {LONGEST_VALUE}"
        )));
    }
    if list > LONGEST_LIST {
        return Err(damaged("an entry has more extended attributes than can be listed"));
    }
    Ok(())
}

/// A name as part of a key, which ends at the first `=` (GNU tar since 1.30, `xattr_encode_keyword`).
fn encoded(name: &[u8]) -> Cow<'_, [u8]> {
    if !name.iter().any(|byte| matches!(byte, b'%' | b'=')) {
        return name.into();
    }
    let mut key = Vec::with_capacity(name.len() + 2);
    for byte in name {
        match byte {
            b'%' => key.extend_from_slice(b"%25"),
            b'=' => key.extend_from_slice(b"%3D"),
            byte => key.push(*byte),
        }
    }
    key.into()
}

fn decoded(mut key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(key.len());
    while let Some((first, rest)) = key.split_first() {
        let (byte, rest) = match rest {
            [b'2', b'5', rest @ ..] if *first == b'%' => (b'%', rest),
            [b'3', b'D', rest @ ..] if *first == b'%' => (b'=', rest),
            rest => (*first, rest),
        };
        name.push(byte);
        key = rest;
    }
    name
}

/// A kind of extended attributes: who may set them, and which file systems hold them, is one for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributeKind {
    /// A POSIX ACL.
    Acl,
    /// `user.*`: whoever may write the file.
    User,
    /// `security.*`: capabilities and labels, set by the system.
    Security,
    /// `trusted.*`: processes with `CAP_SYS_ADMIN` alone.
    Trusted,
    /// Attributes of a file system itself.
    Other,
}

impl AttributeKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Acl, Self::User, Self::Security, Self::Trusted, Self::Other];

    /// The kind of the attribute of this name.
    pub fn of(name: &[u8]) -> Self {
        match name.split(|byte| *byte == b'.').next() {
            _ if Acl::is_in(name) => Self::Acl,
            Some(b"user") => Self::User,
            Some(b"security") => Self::Security,
            Some(b"trusted") => Self::Trusted,
            _ => Self::Other,
        }
    }

    /// The number of entries that have such.
    pub fn count_in(self, counts: &mut AttributeCounts) -> &mut u64 {
        match self {
            Self::Acl => &mut counts.acls,
            Self::User => &mut counts.user,
            Self::Security => &mut counts.security,
            Self::Trusted => &mut counts.trusted,
            Self::Other => &mut counts.other,
        }
    }
}

/// A set of kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttributeKinds(pub u8);

impl AttributeKinds {
    /// The kinds that an entry has.
    pub fn of(extended: &ExtendedAttributes) -> Self {
        let mut kinds = Self::default();
        for name in extended.keys() {
            kinds.insert(AttributeKind::of(name));
        }
        kinds
    }

    /// Adds a kind.
    pub const fn insert(&mut self, kind: AttributeKind) {
        self.0 |= 1 << kind as u8;
    }

    /// True if this kind is in the set.
    pub const fn contains(self, kind: AttributeKind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    /// Counts an entry that has these.
    pub fn count(self, counts: &mut AttributeCounts) {
        AttributeKind::ALL
            .into_iter()
            .filter(|kind| self.contains(*kind))
            .for_each(|kind| *kind.count_in(counts) += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_key_cannot_hold_are_encoded() {
        for (name, key) in [
            (&b"user.plain"[..], &b"user.plain"[..]),
            (b"user.a=b%", b"user.a%3Db%25"),
            (b"user.%3D", b"user.%253D"),
            (b"%", b"%25"),
        ] {
            assert_eq!(*encoded(name), *key);
            assert_eq!(decoded(key), name);
        }
        assert_eq!(decoded(b"%2%%3"), b"%2%%3");
    }

    #[test]
    fn what_no_kernel_holds_is_refused() {
        let record = |key: &str, value: &[u8]| {
            let mut records = Vec::new();
            pax::put(&mut records, &[key.as_bytes()], &[value]);
            records
        };
        let long = format!("SCHILY.xattr.user.{}", "x".repeat(251));
        let broken_acl = "SCHILY.xattr.system.posix_acl_access";
        for (key, value) in [
            ("SCHILY.xattr.", &b"x"[..]),
            ("SCHILY.xattr.user.\0", b"x"),
            (&long, b"x"),
            ("SCHILY.xattr.user.large", &vec![0; 65_537]),
            (broken_acl, b"x"),
            ("SCHILY.acl.access", b"x"),
        ] {
            read(&record(key, value)).expect_err(key);
        }
        let mut many = Vec::new();
        for n in 0..9_000 {
            pax::put(&mut many, &[format!("SCHILY.xattr.user.{n}").as_bytes()], &[b""]);
        }
        read(&many).unwrap_err();
        let largest = record("SCHILY.xattr.user.large", &vec![0; 65_536]);
        assert_eq!(
            read(&largest).unwrap().into_values().map(|value| value.len()).collect::<Vec<_>>(),
            [65_536]
        );
    }
}
