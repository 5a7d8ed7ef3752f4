//! One entry of a tar stream: its header, and what stands before it to say more.

use crate::ArchiveError;
use crate::tar::attribute::{self, ExtendedAttributes};
use crate::tar::members::damaged;
use crate::tar::pax;
use crate::tar::sparse::{Sparse, SparseRecords};
use async_tar::{EntryType, Header};
use std::borrow::Cow;

/// The type of a folder of which the content is a list of its names (GNU tar, "Dumpdir").
pub const DUMPDIR: u8 = b'D';
/// The key of the PAX record of such a list, before an ordinary folder.
pub(super) const DUMPDIR_RECORD: &[u8] = b"GNU.dumpdir";

/// An entry as the archive tells it; nothing of it is believed yet.
#[derive(Debug)]
pub struct Entry<'a> {
    header: &'a Header,
    prefix: &'a EntryPrefix,
    records: Records<'a>,
    /// Bytes of its content that are in the archive.
    stored: u64,
}

impl<'a> Entry<'a> {
    pub(super) fn new(
        header: &'a Header,
        prefix: &'a EntryPrefix,
        stored: u64,
    ) -> Result<Self, ArchiveError> {
        Ok(Self { header, prefix, records: prefix.records()?, stored })
    }

    /// A folder also where a list of its names comes with it, as in incremental archives.
    pub fn kind(&self) -> EntryType {
        match self.header.entry_type() {
            kind if kind.as_byte() == DUMPDIR => EntryType::Directory,
            EntryType::GNUSparse => EntryType::Regular,
            kind => kind,
        }
    }

    /// Returns whether the content of the entry is a list of names.
    pub fn is_dumpdir(&self) -> bool {
        self.header.entry_type().as_byte() == DUMPDIR
    }

    /// The list of names of a folder, where it stands in a PAX record.
    pub fn recorded_dumpdir(&self) -> Option<&[u8]> {
        self.records.dumpdir
    }

    /// Tests whether its content is that of a file.
    pub fn is_file(&self) -> bool {
        matches!(self.kind(), EntryType::Regular | EntryType::Continuous)
    }

    /// Tests whether it is the root of the folder itself, which does not count.
    pub fn is_root(&self) -> bool {
        self.prefix.name.is_none()
            && self.kind() == EntryType::Directory
            && *self.header.path_bytes() == *b"./"
    }

    /// The size of its content, where it stands in a PAX record.
    pub fn recorded_size(&self) -> Option<u64> {
        self.records.size
    }

    /// Tests whether only the parts of a file are there that are no holes.
    pub fn is_sparse(&self) -> bool {
        self.header.entry_type() == EntryType::GNUSparse || self.sparse_records().is_some()
    }

    /// The bytes of a file that are in the archive: fewer than its size where it has holes.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// The map of holes in PAX records.
    pub(super) fn sparse(&self) -> Result<Option<Sparse>, ArchiveError> {
        self.sparse_records().map(SparseRecords::sparse).transpose()
    }

    fn sparse_records(&self) -> Option<&SparseRecords<'a>> {
        self.records.sparse.as_deref().filter(|_| self.is_file())
    }

    /// The entry's path, byte for byte.
    pub fn path(&self) -> Cow<'_, [u8]> {
        let sparse = self.sparse_records().and_then(|told| told.name);
        let long = sparse.or(self.records.path).or(self.prefix.name.as_deref().map(until_nul));
        long.map_or_else(|| self.header.path_bytes(), Cow::Borrowed)
    }

    /// The target of a link, byte for byte.
    pub fn target(&self) -> Cow<'_, [u8]> {
        let long = self.records.target.or(self.prefix.target.as_deref().map(until_nul));
        let short = || self.header.link_name_bytes().unwrap_or_default();
        long.map_or_else(short, Cow::Borrowed)
    }

    /// The bits of its mode that permissions have.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Corrupt`] when the archive says something else than a number.
    pub fn mode(&self) -> Result<u32, ArchiveError> {
        Ok(self.header.mode().map_err(damaged)? & 0o7777)
    }

    /// The entry's user and group.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Corrupt`] when the archive says something else than a number.
    pub fn owner(&self) -> Result<(u32, u32), ArchiveError> {
        let id = |recorded: Option<u64>, header: std::io::Result<u64>| {
            let id = recorded.map_or(header, Ok).map_err(damaged)?;
            u32::try_from(id).map_err(damaged)
        };
        Ok((id(self.records.uid, self.header.uid())?, id(self.records.gid, self.header.gid())?))
    }

    /// The entry's extended attributes, ACLs among them. A hard link has none of its own, whatever stands before it.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Corrupt`] when a name or a value is longer than any system takes.
    pub fn extended(&self) -> Result<ExtendedAttributes, ArchiveError> {
        match &self.prefix.records {
            Some(records) if self.kind() != EntryType::Link => attribute::read(records),
            _ => Ok(ExtendedAttributes::new()),
        }
    }

    /// The entry's time of modification, in seconds and nanoseconds.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Corrupt`] when the archive says something else than a number.
    pub fn modified(&self) -> Result<(i64, i64), ArchiveError> {
        match self.records.modified {
            Some(time) => Ok(time),
            // GNU tar writes times before 1970 as the negative numbers that they are.
            None => Ok((self.header.mtime().map_err(damaged)?.cast_signed(), 0)),
        }
    }
}

fn until_nul(name: &[u8]) -> &[u8] {
    &name[..memchr::memchr(0, name).unwrap_or(name.len())]
}

/// The members that stand before an entry and belong to it: long names and PAX records.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EntryPrefix {
    pub name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    records: Option<Vec<u8>>,
}

impl EntryPrefix {
    /// The most that each of them may take. Linux knows no path over 4 KiB.
    pub const MOST: u64 = 1 << 20;
    /// The most that the records of one entry may take: attributes are 64 KiB each, and no file system that
    /// people use holds many of such.
    pub const MOST_RECORDS: u64 = 4 << 20;

    /// The place for the content of a member of that kind, if it belongs to the next entry.
    pub fn slot(&mut self, kind: EntryType) -> Option<&mut Option<Vec<u8>>> {
        match kind {
            EntryType::GNULongName => Some(&mut self.name),
            EntryType::GNULongLink => Some(&mut self.target),
            EntryType::XHeader => Some(&mut self.records),
            _ => None,
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Reads the PAX records, all of which must be whole.
    fn records(&self) -> Result<Records<'_>, ArchiveError> {
        let mut records = Records::default();
        for record in pax::records(self.records.as_deref().unwrap_or_default()) {
            let (key, value) = record?;
            records.take(key, value).ok_or_else(pax::broken)?;
        }
        Ok(records)
    }
}

/// The PAX records that a restore needs (POSIX pax, "pax Header Block"; GNU tar, "Sparse Formats").
#[derive(Debug, Default)]
struct Records<'a> {
    path: Option<&'a [u8]>,
    target: Option<&'a [u8]>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<(i64, i64)>,
    sparse: Option<Box<SparseRecords<'a>>>,
    dumpdir: Option<&'a [u8]>,
}

impl<'a> Records<'a> {
    /// Takes a record over; `None` when its value is none.
    fn take(&mut self, key: &[u8], value: &'a [u8]) -> Option<()> {
        match key {
            b"path" => self.path = Some(value),
            b"linkpath" => self.target = Some(value),
            b"size" => self.size = Some(pax::decimal(value)?),
            b"uid" => self.uid = Some(pax::decimal(value)?),
            b"gid" => self.gid = Some(pax::decimal(value)?),
            b"mtime" => self.modified = Some(pax::time(value)?),
            DUMPDIR_RECORD => self.dumpdir = Some(value),
            key => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.get_or_insert_default().take(key, value)?;
                }
            }
        }
        Some(())
    }
}
