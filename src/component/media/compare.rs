//! Comparing a copy with the archive that it was unpacked from, in a second walk through the archive.
//!
//! Every step goes by one name from an open folder and follows no link, so nothing but the copy is looked
//! at, and memory holds the way down, whatever the number of entries.

use crate::component::ComponentError;
use crate::component::media::{
    attributes::{Attributes, UnsetAttributes, is_held_everywhere},
    errors::{malicious_archive, shown, system_error},
    extended::{At, ReadAttributes, Refused, difference},
    folder::open_file,
    fs_capabilities::FsCapabilities,
    path::parts,
    unpack::open_folder,
};
use crate::stream::tar::{Entry, Visit};
use async_tar::EntryType;
use rustix::{
    fs::{AtFlags, FileType, Mode, SeekFrom, Stat, chmodat, fstat, readlinkat, seek, statat},
    io::Errno,
    process::geteuid,
};
use std::{
    fs::File,
    io::{self, Read},
};

/// The most differences that are told.
const MOST: usize = 20;

/// An open folder on the way to where the last entry lies.
struct ComparedFolder {
    handle: File,
    name: Vec<u8>,
}

/// The reason that an entry is not equal to the archive's.
enum CompareError {
    /// The entry differs: the end of a sentence that begins with the entry's name.
    Differs(String),
    /// The archive has changed since it was unpacked.
    Corrupt(ComponentError),
    /// The copy cannot be read.
    Failed(Errno),
}

impl From<Errno> for CompareError {
    fn from(err: Errno) -> Self {
        match err {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG => {
                Self::Differs("is not in the copy".to_owned())
            }
            err => Self::Failed(err),
        }
    }
}

impl From<ComponentError> for CompareError {
    fn from(err: ComponentError) -> Self {
        Self::Corrupt(err)
    }
}

/// Looks for the entries of an archive in a copy of it.
pub(super) struct Comparing {
    /// The root of the copy and the folders down to the last entry.
    way: Vec<ComparedFolder>,
    /// The folder of the archive whose contents the copy holds, where it is not the root.
    wrapper: Option<Vec<u8>>,
    /// The attributes that some entries could not be given.
    unset: UnsetAttributes,
    /// The attributes that the file system of the copy can hold.
    capabilities: FsCapabilities,
    /// The file whose content is coming.
    file: Option<File>,
    /// As large as the pieces that content comes in.
    buffer: Vec<u8>,
    /// The path of the entry under way.
    path: Vec<u8>,
    differences: Vec<String>,
}

impl Comparing {
    /// With what lies in `root`; the others as the unpacking told them.
    pub(super) fn new(
        root: File,
        wrapper: Option<Vec<u8>>,
        unset: UnsetAttributes,
        capabilities: FsCapabilities,
    ) -> Self {
        let root = ComparedFolder { handle: root, name: Vec::new() };
        let (buffer, path, differences) = (Vec::new(), Vec::new(), Vec::new());
        Self { way: vec![root], wrapper, unset, capabilities, file: None, buffer, path, differences }
    }

    /// The differences, each in a sentence that names the entry.
    pub(super) fn differences(self) -> Vec<String> {
        self.differences
    }

    fn note(&mut self, how: &str) {
        if self.differences.len() < MOST {
            self.differences.push(format!("{} {how}", shown(&self.path)));
        }
    }

    /// Compares all but the content of a file, which is returned for that.
    fn compare(&mut self, entry: &Entry<'_>, size: u64) -> Result<Option<File>, CompareError> {
        let path = entry.path();
        let names = self.below(&path)?;
        let stat = match names.split_last() {
            None => fstat(&self.way[0].handle)?,
            Some((name, parents)) => {
                self.enter(parents)?;
                statat(self.here(), *name, AtFlags::SYMLINK_NOFOLLOW)?
            }
        };
        let name = names.last().copied().unwrap_or(b".");
        let kind = match entry.kind() {
            EntryType::Link => return self.linked(&entry.target(), &stat).map(|()| None),
            EntryType::Directory => FileType::Directory,
            EntryType::Symlink => FileType::Symlink,
            _ => FileType::RegularFile,
        };
        let found = FileType::from_raw_mode(stat.st_mode);
        if found != kind {
            return Err(CompareError::Differs(format!("is {}, not {}", called(found), called(kind))));
        }
        let length = u64::try_from(stat.st_size).unwrap_or(0);
        if kind == FileType::RegularFile && length != size {
            return Err(CompareError::Differs(format!("has {length} bytes, not {size}")));
        }
        if kind == FileType::Symlink {
            let (found, told) = (readlinkat(self.here(), name, Vec::new())?, entry.target());
            if found.to_bytes() != &*told {
                let (found, told) = (shown(found.to_bytes()), shown(&told));
                return Err(CompareError::Differs(format!("leads to {found}, not to {told}")));
            }
        }
        let told = Attributes::told(entry)?;
        self.attributes(&told, &Attributes::seen(&stat), kind)?;
        let (file, found) = match kind {
            FileType::RegularFile => self.open(name, &stat).map(|(file, found)| (Some(file), found))?,
            _ if names.is_empty() => (None, At::Open(&self.way[0].handle).read()),
            _ => (None, At::In(self.here(), name).read()),
        };
        let is_known = found.unread.is_none(); // those of a folder that is closed to its owner are not
        match difference(&told.extended, &found.extended, self.unset.extended).filter(|_| is_known) {
            Some(how) => Err(CompareError::Differs(how)),
            None => Ok(file),
        }
    }

    fn attributes(&self, told: &Attributes, found: &Attributes, kind: FileType) -> Result<(), CompareError> {
        let (told_owner, owner) = (told.owner.unwrap_or_default(), found.owner.unwrap_or_default());
        let is_owned = told_owner == owner;
        // An entry that could not be given away is still ours, and without the bits that let others act as its owner.
        if self.capabilities.owners && !(is_owned || self.unset.owner && owner.0 == geteuid().as_raw()) {
            let ((uid, gid), (told_uid, told_gid)) = (owner, told_owner);
            return Err(CompareError::Differs(format!(
                "belongs to {uid}:{gid}, not to {told_uid}:{told_gid}"
            )));
        }
        // An ACL that some entries could not have may have been given to this one.
        let modes =
            [Refused::default(), self.unset.extended].map(|refused| told.mode_given(is_owned, refused));
        // Some may have come back without these bits, as the kernel clears them without a word.
        let bits = if self.unset.bits { 0o777 } else { 0o7777 };
        let is_mode = |mode: &u32| *mode == found.mode || mode & bits == found.mode;
        if self.capabilities.modes && kind != FileType::Symlink && !modes.iter().any(is_mode) {
            return Err(CompareError::Differs(format!("has mode {:04o}, not {:04o}", found.mode, modes[0])));
        }
        let ((seconds, nanos), (told_seconds, told_nanos)) =
            (found.modified.unwrap_or_default(), told.modified.unwrap_or_default());
        let is_time = seconds == told_seconds && is_kept(nanos, told_nanos)
            || self.unset.time && !is_held_everywhere(told_seconds);
        if self.capabilities.times && !is_time {
            return Err(CompareError::Differs(format!(
                "was modified at {seconds}.{nanos:09}, not at {told_seconds}.{told_nanos:09} (seconds since 1970)"
            )));
        }
        Ok(())
    }

    /// Compares a further name with the file that it should be one of.
    fn linked(&self, target: &[u8], stat: &Stat) -> Result<(), CompareError> {
        let names = self.below(target)?;
        let first = || {
            let (first, parents) = names.split_last().ok_or(Errno::NOENT)?;
            let mut folder = None;
            for parent in parents {
                folder = Some(open_folder(folder.as_ref().unwrap_or(&self.way[0].handle), *parent)?);
            }
            statat(folder.as_ref().unwrap_or(&self.way[0].handle), *first, AtFlags::SYMLINK_NOFOLLOW)
        };
        let is_same = match first().map_err(CompareError::from) {
            Ok(first) => (first.st_dev, first.st_ino) == (stat.st_dev, stat.st_ino),
            Err(CompareError::Differs(_)) => false,
            Err(failed) => return Err(failed),
        };
        if is_same {
            Ok(())
        } else {
            Err(CompareError::Differs(format!("is no hard link to {}", shown(target))))
        }
    }

    /// The names that lead to an entry of the archive in the copy; the root has none.
    fn below<'a>(&self, path: &'a [u8]) -> Result<Vec<&'a [u8]>, CompareError> {
        let mut names = parts(path).map_err(|why| malicious_archive(format!("{}: {why}", shown(path))))?;
        if let Some(wrapper) = &self.wrapper {
            if names.first() != Some(&&**wrapper) {
                return Err(Errno::NOENT.into());
            }
            names.remove(0);
        }
        Ok(names)
    }

    /// Goes to the folder that an entry lies in, leaving others on the way.
    fn enter(&mut self, parents: &[&[u8]]) -> Result<(), Errno> {
        let open = self.way[1..].iter().zip(parents).take_while(|(open, name)| open.name == **name).count();
        self.way.truncate(open + 1);
        for name in &parents[open..] {
            let handle = open_folder(self.here(), *name)?;
            self.way.push(ComparedFolder { handle, name: name.to_vec() });
        }
        Ok(())
    }

    fn here(&self) -> &File {
        &self.way.last().expect("the root is never left").handle
    }

    /// Opens a file for reading, even one whose mode does not let its owner read it, and reads its extended attributes.
    fn open(&self, name: &[u8], stat: &Stat) -> Result<(File, ReadAttributes), Errno> {
        let opened = |file: File| {
            let found = At::Open(&file).read();
            (file, found)
        };
        match open_file(self.here(), name) {
            Err(Errno::ACCESS) => {
                // Nobody but us can exchange it for a link here.
                chmodat(self.here(), name, Mode::RUSR, AtFlags::empty())?;
                let opened = open_file(self.here(), name).map(opened);
                let back = chmodat(self.here(), name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty());
                let (file, mut found) = back.and(opened)?;
                // An ACL changes with the mode, and may be read whatever the mode.
                found.extended.extend(At::Open(&file).read().extended);
                Ok((file, found))
            }
            file => file.map(opened),
        }
    }

    fn failed(&self, err: Errno) -> ComponentError {
        system_error(format!("compare {}", shown(&self.path)), err)
    }
}

impl Visit for Comparing {
    type Error = ComponentError;

    fn entry(&mut self, entry: &Entry<'_>, size: u64) -> Result<(), ComponentError> {
        self.file = None;
        self.path.clear();
        self.path.extend_from_slice(&entry.path());
        match self.compare(entry, size) {
            Ok(file) => self.file = file,
            Err(CompareError::Differs(how)) => self.note(&how),
            Err(CompareError::Corrupt(err)) => return Err(err),
            Err(CompareError::Failed(err)) => return Err(self.failed(err)),
        }
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<(), ComponentError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        self.buffer.resize(bytes.len(), 0);
        let is_equal = match file.read_exact(&mut self.buffer) {
            Ok(()) => self.buffer == bytes,
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => false,
            Err(err) => return Err(self.failed(Errno::from_io_error(&err).unwrap_or(Errno::IO))),
        };
        if !is_equal {
            self.file = None;
            self.note("has another content");
        }
        Ok(())
    }

    /// A hole of the archive, which may be zeros in the copy. Nothing is read where the copy has a hole too.
    fn hole(&mut self, bytes: u64) -> Result<(), ComponentError> {
        const PIECE: usize = 128 * 1024;
        let Some(file) = &self.file else { return Ok(()) };
        let place = || {
            let from = seek(file, SeekFrom::Current(0))?;
            let end = from.saturating_add(bytes);
            let at = match seek(file, SeekFrom::Data(from)) {
                Err(Errno::NXIO) => end,
                data => data.map_or(from, |data| data.min(end)),
            };
            seek(file, SeekFrom::Start(at)).map(|at| end - at)
        };
        let mut left = place().map_err(|err| self.failed(err))?;
        let zeros = vec![0; usize::try_from(left).map_or(PIECE, |left| left.min(PIECE))];
        while left > 0 && self.file.is_some() {
            let piece = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
            self.content(&zeros[..piece])?;
            left -= piece as u64;
        }
        Ok(())
    }
}

/// Tests whether a file system that was given a time would keep this one: many round down to their own step.
fn is_kept(nanos: i64, told: i64) -> bool {
    [1, 100, 1_000, 1_000_000, 1_000_000_000].iter().any(|step| nanos == told - told % step)
}

fn called(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a folder",
        FileType::Symlink => "a symbolic link",
        _ => "something else",
    }
}
