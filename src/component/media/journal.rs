//! The journal of a swap: its changes, written down and durable before the first of them.

use crate::base::durable::{self, sync_folder};
use crate::component::media::attributes::Attributes;
use rustix::{
    fs::{AtFlags, Mode, OFlags, openat, unlinkat},
    io::Errno,
};
use std::{
    ffi::{CStr, CString, OsStr},
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
};

/// The journal of an area.
pub(super) const JOURNAL: &CStr = c"journal";
const HEAD: &[u8] = b"rna-backup media swap 1";

/// One name that is to change sides. Which side something is on is told by inode numbers, which renaming
/// keeps, so each step may be repeated. `None`: there is nothing of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) name: CString,
    /// Of what is to be live.
    pub(super) new: Option<u64>,
    /// Of what was live when the swap began.
    pub(super) old: Option<u64>,
}

/// A whole swap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Journal {
    /// Attributes of the root, where it stays itself and its entries change sides: new and old.
    pub(super) roots: [Attributes; 2],
    pub(super) changes: Vec<Change>,
}

impl Journal {
    /// Writes it so that it is there whole or not at all.
    pub(super) fn write(&self, area: &File) -> io::Result<()> {
        durable::write_in(area, OsStr::from_bytes(JOURNAL.to_bytes()), &self.to_bytes())
    }

    /// Reads what was written; `None` if nothing was.
    pub(super) fn read(area: &File) -> io::Result<Option<Self>> {
        let file = openat(area, JOURNAL, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        let mut bytes = Vec::new();
        match file {
            Ok(file) => File::from(file).read_to_end(&mut bytes)?,
            Err(Errno::NOENT) => return Ok(None),
            Err(err) => return Err(err.into()),
        };
        Self::parse(&bytes)
            .map(Some)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "broken journal"))
    }

    /// Notes that the swap is done.
    pub(super) fn remove(area: &File) -> Result<(), Errno> {
        unlinkat(area, JOURNAL, AtFlags::empty())?;
        sync_folder(area)
    }

    /// Fields end with a NUL, the only byte that no name holds.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = [HEAD, b"\0"].concat();
        for Attributes { mode, owner, modified, extended } in &self.roots {
            let ((uid, gid), (seconds, nanos)) = (owner.unwrap_or_default(), modified.unwrap_or_default());
            let known = (u8::from(owner.is_some()), u8::from(modified.is_some()));
            let text = format!("{mode} {} {uid} {gid} {} {seconds} {nanos}", known.0, known.1);
            bytes.extend_from_slice(text.as_bytes());
            for (name, value) in extended {
                bytes.extend_from_slice(format!(" {}={}", hex::encode(name), hex::encode(value)).as_bytes());
            }
            bytes.push(0);
        }
        for Change { name, new, old } in &self.changes {
            // No inode has the number 0.
            let text = format!("{} {}\0", new.unwrap_or(0), old.unwrap_or(0));
            bytes.extend_from_slice(text.as_bytes());
            bytes.extend_from_slice(name.as_bytes_with_nul());
        }
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = bytes.strip_suffix(b"\0")?.split(|byte| *byte == 0);
        if fields.next()? != HEAD {
            return None;
        }
        let numbers = |field: &[u8]| -> Option<Vec<i128>> {
            str::from_utf8(field).ok()?.split(' ').map(|number| number.parse().ok()).collect()
        };
        let mut journal = Self::default();
        for root in &mut journal.roots {
            let field = fields.next()?;
            // Extended attributes follow the seven numbers.
            let end = memchr::memchr_iter(b' ', field).nth(6).unwrap_or(field.len());
            let (field, extended) = field.split_at(end);
            let [mode, owned, uid, gid, dated, seconds, nanos] = *numbers(field)? else { return None };
            for attribute in extended.split(|byte| *byte == b' ').skip(1) {
                let equals = memchr::memchr(b'=', attribute)?;
                let decode = |digits: &[u8]| hex::decode(digits).ok();
                root.extended.insert(decode(&attribute[..equals])?, decode(&attribute[equals + 1..])?);
            }
            root.mode = mode.try_into().ok()?;
            root.owner = if owned == 1 { Some((uid.try_into().ok()?, gid.try_into().ok()?)) } else { None };
            root.modified =
                if dated == 1 { Some((seconds.try_into().ok()?, nanos.try_into().ok()?)) } else { None };
        }
        while let Some(field) = fields.next() {
            let [new, old] = *numbers(field)? else { return None };
            let inode =
                |number: i128| Some(u64::try_from(number).ok()).map(|number| number.filter(|n| *n > 0));
            // Whatever is in it, nothing outside the two folders is renamed.
            let name =
                fields.next().filter(|name| !matches!(*name, b"" | b"." | b"..") && !name.contains(&b'/'))?;
            let name = CString::new(name).ok()?;
            journal.changes.push(Change { name, new: inode(new)?, old: inode(old)? });
        }
        Some(journal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_or_known_as_broken() {
        let dir = tempfile::tempdir().unwrap();
        let area = File::open(dir.path()).unwrap();
        assert_eq!(Journal::read(&area).unwrap(), None);
        let journal = Journal {
            roots: [
                Attributes {
                    mode: 0o2750,
                    owner: Some((5, 6)),
                    modified: Some((-7, 8)),
                    extended: [(b"user.a =b".to_vec(), vec![0, 255]), (b"user.empty".to_vec(), vec![])]
                        .into(),
                },
                Attributes { mode: 0o700, ..Attributes::default() },
            ],
            changes: vec![
                Change { name: c"a\nb c".to_owned(), new: Some(u64::MAX), old: None },
                Change { name: CString::new(b"\xff".to_vec()).unwrap(), new: None, old: Some(3) },
            ],
        };
        journal.write(&area).unwrap();
        assert_eq!(Journal::read(&area).unwrap(), Some(journal.clone()));
        let bytes = journal.to_bytes();
        for cut in [0, 5, 30, bytes.len() - 1, bytes.len() - 2] {
            assert_eq!(Journal::parse(&bytes[..cut]), None, "{cut}");
        }
        for name in [c"..", c"../x", c"/x", c"."] {
            let change = Change { name: name.to_owned(), new: None, old: None };
            assert_eq!(
                Journal::parse(&Journal { changes: vec![change], ..journal.clone() }.to_bytes()),
                None
            );
        }
        Journal::remove(&area).unwrap();
        assert_eq!(Journal::read(&area).unwrap(), None);
    }
}
