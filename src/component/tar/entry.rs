//! One entry of a tar stream: its header, and what stands before it to say more.

use crate::component::ComponentError;
use crate::component::tar::members::damaged;
use async_tar::{EntryType, Header};
use std::borrow::Cow;

/// The type of a folder that comes with a list of its names (GNU tar, "Dumpdir").
pub const DUMPDIR: u8 = b'D';

/// An entry as the archive tells it; nothing of it is believed yet.
pub struct Entry<'a> {
    header: &'a Header,
    heads: &'a Heads,
    records: Records<'a>,
}

impl<'a> Entry<'a> {
    pub fn new(header: &'a Header, heads: &'a Heads) -> Result<Self, ComponentError> {
        Ok(Self { header, heads, records: heads.records()? })
    }

    /// A folder also where a list of its names comes with it, as in incremental archives.
    pub fn kind(&self) -> EntryType {
        let kind = self.header.entry_type();
        if kind.as_byte() == DUMPDIR { EntryType::Directory } else { kind }
    }

    /// Whether its content is a list of names.
    pub fn is_dumpdir(&self) -> bool {
        self.header.entry_type().as_byte() == DUMPDIR
    }

    /// The list of names of a folder, where it stands in a PAX record.
    pub fn recorded_dumpdir(&self) -> Option<&[u8]> {
        self.records.dumpdir
    }

    /// Whether its content is that of a file.
    pub fn is_file(&self) -> bool {
        matches!(self.kind(), EntryType::Regular | EntryType::Continuous)
    }

    /// Whether it is the root of the folder itself, which does not count.
    pub fn is_root(&self) -> bool {
        self.heads.name.is_none()
            && self.kind() == EntryType::Directory
            && *self.header.path_bytes() == *b"./"
    }

    /// The size of its content, where it stands in a PAX record.
    pub fn recorded_size(&self) -> Option<u64> {
        self.records.size
    }

    /// Whether only the parts of a file are there that are no holes, in GNU's way.
    pub fn is_sparse(&self) -> bool {
        self.records.sparse
    }

    /// Its path, byte for byte.
    pub fn path(&self) -> Cow<'_, [u8]> {
        let long = self.records.path.or(self.heads.name.as_deref().map(until_nul));
        long.map_or_else(|| self.header.path_bytes(), Cow::Borrowed)
    }

    /// What it links to, byte for byte.
    pub fn target(&self) -> Cow<'_, [u8]> {
        let long = self.records.target.or(self.heads.target.as_deref().map(until_nul));
        let short = || self.header.link_name_bytes().unwrap_or_default();
        long.map_or_else(short, Cow::Borrowed)
    }

    /// The bits of its mode that permissions have.
    pub fn mode(&self) -> Result<u32, ComponentError> {
        Ok(self.header.mode().map_err(damaged)? & 0o7777)
    }

    /// Its user and group.
    pub fn owner(&self) -> Result<(u32, u32), ComponentError> {
        let id = |recorded: Option<u64>, header: std::io::Result<u64>| {
            let id = recorded.map_or(header, Ok).map_err(damaged)?;
            u32::try_from(id).map_err(damaged)
        };
        Ok((id(self.records.uid, self.header.uid())?, id(self.records.gid, self.header.gid())?))
    }

    /// Its time, in seconds and nanoseconds.
    pub fn modified(&self) -> Result<(i64, i64), ComponentError> {
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

/// What stands before an entry to say more about it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heads {
    pub name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    records: Option<Vec<u8>>,
}

impl Heads {
    /// The most that each of them may take. Linux knows no path over 4 KiB; attributes are 64 KiB each.
    pub const MOST: u64 = 1 << 20;

    /// Where an entry of that kind belongs, if it is such a one.
    pub fn of(&mut self, kind: EntryType) -> Option<&mut Option<Vec<u8>>> {
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
    fn records(&self) -> Result<Records<'_>, ComponentError> {
        let mut records = Records::default();
        for record in pax_records(self.records.as_deref().unwrap_or_default()) {
            let (key, value) = record?;
            records.take(key, value).ok_or_else(broken)?;
        }
        Ok(records)
    }
}

/// Key and value.
type PaxRecord<'a> = (&'a [u8], &'a [u8]);

/// Keys and values of PAX records, all of which must be whole.
pub fn pax_records(mut rest: &[u8]) -> impl Iterator<Item = Result<PaxRecord<'_>, ComponentError>> {
    std::iter::from_fn(move || {
        let now = std::mem::take(&mut rest);
        if now.is_empty() {
            return None;
        }
        Some(pax_record(now).ok_or_else(broken).map(|(record, left)| {
            rest = left;
            record
        }))
    })
}

/// The first of some records, and what follows it.
fn pax_record(all: &[u8]) -> Option<(PaxRecord<'_>, &[u8])> {
    // Its length, a blank, the key, `=`, the value and a newline (POSIX pax, "pax Extended Header").
    let blank = memchr::memchr(b' ', all)?;
    let length = decimal(&all[..blank]).and_then(|length| usize::try_from(length).ok());
    let length = length.filter(|length| (blank + 2..=all.len()).contains(length))?;
    let record = all[blank + 1..length].strip_suffix(b"\n")?;
    let equals = memchr::memchr(b'=', record)?;
    Some(((&record[..equals], &record[equals + 1..]), &all[length..]))
}

fn broken() -> ComponentError {
    damaged("a PAX record is broken")
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
    sparse: bool,
    dumpdir: Option<&'a [u8]>,
}

impl<'a> Records<'a> {
    /// Takes a record over; `None` when its value is none.
    fn take(&mut self, key: &[u8], value: &'a [u8]) -> Option<()> {
        match key {
            b"path" => self.path = Some(value),
            b"linkpath" => self.target = Some(value),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.modified = Some(time(value)?),
            b"GNU.dumpdir" => self.dumpdir = Some(value),
            key => self.sparse |= key.starts_with(b"GNU.sparse."),
        }
        Some(())
    }
}

pub fn decimal(digits: &[u8]) -> Option<u64> {
    str::from_utf8(digits).ok()?.parse().ok()
}

/// Reads a time with a fraction: the kernel counts nanoseconds upwards from the second before, text counts
/// away from zero.
fn time(text: &[u8]) -> Option<(i64, i64)> {
    let text = str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let nanos: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        for (text, time_of) in [
            ("1700000000.123456789", Some((1_700_000_000, 123_456_789))),
            ("-1.500000000", Some((-2, 500_000_000))),
            ("-0.000000001", Some((-1, 999_999_999))),
            ("-5", Some((-5, 0))),
            ("7.5", Some((7, 500_000_000))),
            ("7.1234567891", Some((7, 123_456_789))),
            ("", None),
            ("1.-5", None),
            ("1e9", None),
            ("-9223372036854775808.5", None),
        ] {
            assert_eq!(time(text.as_bytes()), time_of, "{text}");
        }
    }
}
