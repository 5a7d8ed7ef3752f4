//! The references of an incremental archive: files that have not changed, and the earlier archives that hold them.
//!
//! Each is a PAX record `comment` in a global header, which every tar passes over in silence (`git archive`
//! notes its commit so). They stand in the order of the walk, between the entries around them.

use crate::ArchiveError;
use crate::tar::members::damaged;
use crate::tar::pax::{self, decimal};
use rna_backup_model::id::BackupId;
use std::{borrow::Cow, fmt};

/// A file of which the content lies in an earlier archive, under the same path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference<'a> {
    /// Byte for byte.
    pub path: Cow<'a, [u8]>,
    /// Length of the content.
    pub bytes: u64,
    /// The backup whose archive holds it.
    pub archive: BackupId,
}

/// The beginning of our comments.
const MARK: &[u8] = b"rna-backup unchanged ";

impl Reference<'_> {
    /// All that stand in the content of a global header; comments of others are none.
    pub(super) fn all_in(records: &[u8]) -> Result<Vec<Reference<'static>>, ArchiveError> {
        let mut found = Vec::new();
        for record in pax::records(records) {
            let (key, value) = record?;
            if let Some(told) = value.strip_prefix(MARK).filter(|_| key == b"comment") {
                let broken = || damaged("a reference to another archive is broken");
                found.push(Self::parse(told).ok_or_else(broken)?);
            }
        }
        Ok(found)
    }

    fn parse(told: &[u8]) -> Option<Reference<'static>> {
        let mut parts = told.splitn(3, |byte| *byte == b' ');
        let bytes = decimal(parts.next()?)?;
        let archive = str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        let path = parts.next()?.to_vec().into();
        Some(Reference { path, bytes, archive })
    }

    /// Adds it to the content of a global header.
    pub(super) fn write(&self, records: &mut Vec<u8>) {
        let numbers = format!("{} {} ", self.bytes, self.archive);
        pax::put(records, &[b"comment"], &[MARK, numbers.as_bytes(), &self.path]);
    }
}

impl fmt::Display for Reference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {}", String::from_utf8_lossy(&self.path), self.archive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_whatever_its_length() {
        let archive: BackupId = "media_backup_20261122_040000".parse().unwrap();
        let mut records = Vec::new();
        let mut written = Vec::new();
        for length in (1..130).chain(900..1000) {
            let path = Cow::Owned(vec![b'\n'; length]);
            written.push(Reference { path, bytes: length as u64, archive: archive.clone() });
            written.last().unwrap().write(&mut records);
        }
        assert_eq!(Reference::all_in(&records).unwrap(), written);
        assert_eq!(Reference::all_in(b"15 comment=abc\n").unwrap(), []);
        for broken in ["x", "1 x y", "1 media_backup_20261122_040000"] {
            let comment = format!("comment=rna-backup unchanged {broken}\n");
            let record = format!("{} {comment}", comment.len() + 3);
            Reference::all_in(record.as_bytes()).unwrap_err();
        }
    }
}
