//! The walk that reads a folder into a tar stream, while others may be writing in it.

mod content;

use crate::component::ComponentError;
use crate::component::media::attributes::Attributes;
use crate::component::media::errors::shown;
use crate::component::media::extended::At;
use crate::component::media::file_stat::FileStat;
use crate::component::media::folder::{Folder, open_file, read_link, stat_entry};
use crate::component::media::holes;
use crate::component::media::increment::Increment;
use crate::component::media::kind::is_compressed;
use crate::component::media::links::Links;
use crate::component::media::path::DEEPEST;
use crate::component::media::snapshot::Extras;
use crate::component::media::staging_area::is_area;
use crate::component::media::unreadable::Unreadable;
use crate::domain::{
    facts::{AttributeCounts, Counts, Facts, FileCounts},
    metadata::MetadataCounts,
    progress::Meter,
};
use crate::stream::tar::{
    AttributeKinds, Chunk, ConsumerGone, DUMPDIR, ExtendedAttributes, Reference, TarWriter,
};
use async_tar::EntryType;
use rustix::{
    fs::{AtFlags, FileType, Stat, fstat, statat},
    io::Errno,
};
use std::{ffi::CStr, fs::File, io};
use tokio::sync::mpsc;

/// Reads everything under `root` into `chunks`, blocking.
///
/// Returns soon after the receiver was dropped. Memory holds the names of the folders on the way down and
/// of files with several names, whatever the number of files.
pub(super) fn pack(
    root: Folder,
    increment: Increment,
    chunks: mpsc::Sender<Chunk>,
    meter: Meter,
) -> Result<Facts, ComponentError> {
    let mut packing = Packing {
        tar: TarWriter::new(chunks),
        meter,
        path: Vec::new(),
        facts: Facts::default(),
        counts: FileCounts::default(),
        attributes: AttributeCounts::default(),
        metadata: MetadataCounts::none(),
        root: None,
        links: Links::new(),
        unreadable: Unreadable::default(),
        increment,
    };
    match packing.walk(root) {
        Ok(()) => packing.finish(),
        Err(Stop::ConsumerGone) => Err(ComponentError::Output(io::ErrorKind::BrokenPipe.into())),
        Err(Stop::Read { what, source }) => Err(ComponentError::Read { what, source }),
    }
}

/// The reason that the walk ends early.
#[derive(Debug)]
enum Stop {
    ConsumerGone,
    Read { what: String, source: io::Error },
}

impl From<ConsumerGone> for Stop {
    fn from(_: ConsumerGone) -> Self {
        Self::ConsumerGone
    }
}

/// The reason that an entry is not packed.
#[derive(Debug)]
enum Skip {
    /// The entry vanished since its folder was listed.
    Vanished,
    /// Something of another kind took the entry's place.
    Replaced,
    /// The entry may not be read.
    Denied,
    /// The walk cannot go on.
    Stop(Stop),
}

impl From<Stop> for Skip {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<ConsumerGone> for Skip {
    fn from(_: ConsumerGone) -> Self {
        Self::Stop(Stop::ConsumerGone)
    }
}

struct Packing {
    tar: TarWriter,
    meter: Meter,
    /// The entry under way, relative to the root.
    path: Vec<u8>,
    facts: Facts,
    counts: FileCounts,
    attributes: AttributeCounts,
    metadata: MetadataCounts,
    /// Mode, owner and time of the root, and its extended attributes.
    root: Option<(Stat, ExtendedAttributes)>,
    links: Links,
    unreadable: Unreadable,
    increment: Increment,
}

impl Packing {
    /// Packs the root and everything below it, each folder before its entries.
    fn walk(&mut self, root: Folder) -> Result<(), Stop> {
        let stat = fstat(&root.handle).map_err(|err| self.broken(err.into()))?;
        self.path.extend_from_slice(b"./");
        self.folder_entry(&root, &stat)?;
        self.root = Some((stat, At::Open(&root.handle).read().extended));

        // Folders on the way down, each with the length of its path.
        let mut open = vec![(root, 0)];
        loop {
            let depth = open.len();
            let Some((folder, length)) = open.last_mut() else { return Ok(()) };
            self.path.truncate(*length);
            let Some((handle, name, kind)) = folder.next() else {
                open.pop();
                continue;
            };
            // Areas of restores at the top are no part of the media.
            if *length == 0 && is_area(handle, name) {
                continue;
            }
            self.path.extend_from_slice(name.to_bytes());
            if depth > DEEPEST {
                return Err(self
                    .broken(io::Error::other("it lies deeper than 512 folders, and could not be restored")));
            }
            if let Some(folder) = self.entry(handle, name, kind)? {
                self.path.push(b'/');
                open.push((folder, self.path.len()));
            }
        }
    }

    /// Packs one entry; a folder is returned to be walked.
    fn entry(&mut self, parent: &File, name: &CStr, listed: FileType) -> Result<Option<Folder>, Stop> {
        if self.tar.is_abandoned() {
            return Err(Stop::ConsumerGone);
        }
        // An entry that was exchanged for another kind since the listing is looked at once more.
        for kind in [listed, FileType::Unknown] {
            match self.entry_of(parent, name, kind) {
                Ok(folder) => return Ok(folder),
                Err(Skip::Replaced) => {}
                Err(Skip::Stop(stop)) => return Err(stop),
                Err(Skip::Vanished) => {
                    self.warn("vanished before it was read");
                    return Ok(None);
                }
                Err(Skip::Denied) => {
                    self.unreadable.note(self.shown());
                    return Ok(None);
                }
            }
        }
        self.warn("kept changing its kind, skipped");
        Ok(None)
    }

    fn entry_of(&mut self, parent: &File, name: &CStr, kind: FileType) -> Result<Option<Folder>, Skip> {
        match kind {
            FileType::RegularFile => {
                let held = self.is_held(parent, name)?;
                if held { Ok(None) } else { self.file(parent, name).map(|()| None) }
            }
            FileType::Directory => self.folder(parent, name).map(Some),
            FileType::Symlink => self.symlink(parent, name).map(|()| None),
            FileType::Unknown => match stat_entry(parent, name).map_err(|err| self.skip(err))? {
                (FileType::Unknown, _) => Err(Skip::Replaced),
                (kind, _) => self.entry_of(parent, name, kind),
            },
            FileType::Socket | FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
                self.warn("is a socket, pipe or device, skipped");
                Ok(None)
            }
        }
    }

    fn folder(&mut self, parent: &File, name: &CStr) -> Result<Folder, Skip> {
        let folder = Folder::open(parent, name).map_err(|err| self.skip(err))?;
        let stat = fstat(&folder.handle).map_err(|err| self.broken(err.into()))?;
        self.path.push(b'/');
        let written = self.folder_entry(&folder, &stat);
        self.path.pop();
        written?;
        self.counts.directories += 1;
        Ok(folder)
    }

    /// In an archive that does not hold everything, a folder comes with the list of its names, by which GNU
    /// tar removes from an older state what is gone.
    fn folder_entry(&mut self, folder: &Folder, stat: &Stat) -> Result<(), ConsumerGone> {
        self.extended(At::Open(&folder.handle));
        Attributes::seen(stat).count(&mut self.metadata);
        if !self.increment.is_partial() {
            return self.tar.entry(EntryType::Directory, &self.path, b"", stat, 0);
        }
        let size = folder.names().map(|(_, name)| name.len() + 1).sum::<usize>() + 1;
        let code = |kind| if kind == FileType::Directory { b'D' } else { b'Y' };
        if self.tar.dumpdir(size, folder.names().map(|(kind, name)| (code(kind), name))) {
            return self.tar.entry(EntryType::Directory, &self.path, b"", stat, 0);
        }
        // Of a folder of so many names the list is its content, which GNU tar alone reads.
        self.tar.entry(EntryType::new(DUMPDIR), &self.path, b"", stat, size as u64)?;
        for (kind, name) in folder.names() {
            let room = self.tar.room()?;
            room.push(code(kind));
            room.extend_from_slice(name);
        }
        self.tar.zeros(1)?;
        self.tar.pad(size as u64)
    }

    fn symlink(&mut self, parent: &File, name: &CStr) -> Result<(), Skip> {
        let (stat, target) = read_link(parent, name).map_err(|err| self.skip(err))?;
        self.extended(At::In(parent, name.to_bytes()));
        self.tar.entry(EntryType::Symlink, &self.path, target.to_bytes(), &stat, 0)?;
        self.counts.symlinks += 1;
        self.metadata.count((stat.st_uid, stat.st_gid), None);
        Ok(())
    }

    /// Tests whether an earlier archive holds a file as it is: then it need not even be opened, unless it has several
    /// names.
    fn is_held(&mut self, parent: &File, name: &CStr) -> Result<bool, Skip> {
        if !self.increment.is_partial() {
            return Ok(false);
        }
        let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|err| self.skip(err))?;
        let is_alone = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1;
        if !is_alone {
            return Ok(false);
        }
        Ok(self.refer(FileStat::of(&stat), &Attributes::seen(&stat))?)
    }

    /// Refers to the archive that holds the file under way, if one does.
    fn refer(&mut self, file_stat: FileStat, attributes: &Attributes) -> Result<bool, Stop> {
        let Some((archive, extras)) = self.increment.holder(&self.path, file_stat) else { return Ok(false) };
        extras.kinds.count(&mut self.attributes);
        self.attributes.count_holes(extras.holes);
        attributes.count(&mut self.metadata);
        let bytes = file_stat.bytes();
        self.tar.reference(&Reference { path: (&*self.path).into(), bytes, archive })?;
        self.counts.files += 1;
        self.counts.bytes += bytes;
        self.facts.source_bytes += bytes;
        self.meter.add(bytes);
        Ok(true)
    }

    fn file(&mut self, parent: &File, name: &CStr) -> Result<(), Skip> {
        let file = open_file(parent, name).map_err(|err| self.skip(err))?;
        let stat = fstat(&file).map_err(|err| self.broken(err.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Skip::Replaced);
        }
        // Once the backup has failed, the walk goes on for the names of the other culprits alone.
        if self.unreadable.count > 0 {
            return Ok(());
        }
        let (file_stat, attributes) = (FileStat::of(&stat), Attributes::seen(&stat));
        if stat.st_nlink > 1 && (self.hard_link(&stat)? || self.refer(file_stat, &attributes)?) {
            return Ok(());
        }
        let kinds = self.extended(At::Open(&file));
        let compressed = is_compressed(name.to_bytes());
        let segments = holes::segments(&file, &stat).map_err(|err| self.broken(err.into()))?;
        let (missing, holes) = match &segments {
            Some(segments) => self.sparse(&file, &stat, segments, compressed)?,
            None => (self.dense(&file, &stat, compressed)?, 0),
        };
        self.counts.files += 1;
        self.counts.bytes += file_stat.bytes();
        attributes.count(&mut self.metadata);
        self.facts.source_bytes += file_stat.bytes() - missing;

        let after = FileStat::of(&fstat(&file).map_err(|err| self.broken(err.into()))?);
        if missing > 0 {
            self.warn("shrank while it was read, filled up with zeros");
        } else if after.bytes() > file_stat.bytes() {
            self.warn("grew while it was read, packed up to its first length");
        } else if after.modified() != file_stat.modified() {
            self.warn("changed while it was read");
        } else if after == file_stat {
            self.increment.stored(&self.path, file_stat, Extras { kinds, holes });
        }
        Ok(())
    }

    /// Reads the extended attributes of the entry under way, for its head; which kinds there are.
    fn extended(&mut self, at: At<'_>) -> AttributeKinds {
        let mut found = at.read();
        if let Some(unread) = found.unread {
            self.warn(&format!("is stored without some of what belongs to it: cannot read {unread}"));
        }
        let left_out = self.tar.extended(&mut found.extended);
        if left_out > 0 {
            self.warn(&format!("has more extended attributes than an archive holds, {left_out} left out"));
        }
        let kinds = AttributeKinds::of(&found.extended);
        kinds.count(&mut self.attributes);
        kinds
    }

    /// Packs a further name of a file as a link to its first one; false when this is the first.
    fn hard_link(&mut self, stat: &Stat) -> Result<bool, Stop> {
        let Some(first) = self.links.first_name(stat, &self.path) else { return Ok(false) };
        self.tar.entry(EntryType::Link, &self.path, &first, stat, 0)?;
        self.counts.hard_links += 1;
        Ok(true)
    }

    fn finish(mut self) -> Result<Facts, ComponentError> {
        if self.unreadable.count > 0 {
            return Err(ComponentError::Unreadable { what: self.unreadable.describe() });
        }
        if let Some(warning) = self.links.warning() {
            self.facts.warn(warning);
        }
        self.facts.counts = {
            let (files, attributes, metadata) =
                (Some(self.counts), Some(self.attributes), Some(self.metadata));
            Counts { files, attributes, metadata, ..Counts::default() }
        };
        self.facts.builds_on = self.increment.finish();
        let ended = match self.root.filter(|_| self.tar.ends_in_references()) {
            // With its attributes, which GNU tar would take away otherwise. Our reader passes over it.
            Some((root, mut extended)) => {
                self.tar.extended(&mut extended);
                self.tar.entry(EntryType::Directory, b"./", b"", &root, 0)
            }
            None => Ok(()),
        };
        ended
            .and_then(|()| self.tar.finish())
            .map_err(|ConsumerGone| ComponentError::Output(io::ErrorKind::BrokenPipe.into()))?;
        Ok(self.facts)
    }

    /// Sorts the error of opening the entry under way.
    fn skip(&self, err: Errno) -> Skip {
        match err {
            Errno::NOENT => Skip::Vanished,
            // A link, a file in place of a folder, a socket or pipe in place of a file.
            Errno::LOOP | Errno::NOTDIR | Errno::NXIO => Skip::Replaced,
            Errno::ACCESS | Errno::PERM => Skip::Denied,
            err => self.broken(err.into()).into(),
        }
    }

    fn broken(&self, source: io::Error) -> Stop {
        Stop::Read { what: format!("read {}", self.shown()), source }
    }

    fn warn(&mut self, what: &str) {
        let text = format!("{} {what}", self.shown());
        self.facts.warn(text);
    }

    /// The path under way for people: in quotes, bytes that are not text escaped.
    fn shown(&self) -> String {
        shown(&self.path)
    }
}
