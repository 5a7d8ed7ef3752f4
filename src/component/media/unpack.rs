//! Unpacking a tar stream of which nothing is believed, into a folder that is nobody else's.
//!
//! Every step goes by one name from an open folder and follows no link, so nothing can be written anywhere
//! else. Folders are open while something is put into them, and get their mode and time when they are left:
//! memory holds the way down, whatever the number of entries.

use crate::component::ComponentError;
use crate::component::media::{
    attributes::{Attributes, UnsetAttributes, allowed, give},
    errors::{malicious_archive, shown, system_error},
    extended::{At, clear_inherited},
    fs_capabilities::FsCapabilities,
    label::is_name,
    missing_attributes::MissingAttributes,
    path::{leaves, parts},
    staging_area::MARK,
    steps::room_in,
};
use crate::domain::facts::FileCounts;
use crate::stream::tar::{Acl, Entry, Visit};
use async_tar::EntryType;
use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Uid, chownat, fchmod, ftruncate, linkat, mkdirat,
        openat, seek, statat, symlinkat, utimensat,
    },
    io::Errno,
};
use std::{fs::File, io::Write, os::fd::AsFd};

/// The limits of an archive that is unpacked.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// The counts of the manifest, beyond which nothing is unpacked. `None` for archives without one, in which
    /// links that leave the folder are refused: nobody can say that they were in it when it was packed.
    pub(super) promised: Option<FileCounts>,
    /// The attributes that the file system of the copy holds.
    pub(super) capabilities: FsCapabilities,
}

/// An open folder on the way to where the last entry was put.
struct OpenFolder {
    handle: File,
    name: Vec<u8>,
    /// Given to it when it is left.
    attributes: Attributes,
}

/// Makes the entries of an archive below a folder.
pub(super) struct Unpacking {
    limits: Limits,
    /// The root and the folders down to the last entry.
    way: Vec<OpenFolder>,
    /// The file whose content is coming.
    file: Option<(File, Attributes)>,
    /// The path of the entry under way, for errors.
    path: Vec<u8>,
    entries: u64,
    bytes: u64,
    /// The numbers of entries that came back without something.
    pub(super) missing: MissingAttributes,
    /// True if the root itself was among the entries.
    pub(super) rooted: bool,
}

impl Unpacking {
    /// The most bytes of ACLs that are remembered of the folders on the way down.
    const MOST_ACLS: usize = 4 << 20;

    /// Into `root`, which is empty and gets these `attributes`, unless the archive knows others.
    pub(super) fn new(root: File, attributes: Attributes, limits: Limits) -> Self {
        let root = OpenFolder { handle: root, name: Vec::new(), attributes };
        Self {
            limits,
            way: vec![root],
            file: None,
            path: Vec::new(),
            entries: 0,
            bytes: 0,
            missing: MissingAttributes::default(),
            rooted: false,
        }
    }

    /// Closes what is open, folders below the root among it.
    pub(super) fn finish(&mut self) -> Result<(), ComponentError> {
        self.close()?;
        self.leave(1)
    }

    /// The attributes of the root, which are still to be given to it.
    pub(super) fn root_attributes(&self) -> Attributes {
        self.way[0].attributes.clone()
    }

    fn unpack_entry(&mut self, entry: &Entry<'_>, size: u64) -> Result<(), ComponentError> {
        let path = self.path.clone();
        let names = parts(&path).map_err(|why| self.refused(why))?;
        let attributes = Attributes::told(entry)?;
        let Some((name, parents)) = names.split_last() else { return self.root(entry, attributes) };
        let acls = self.way.iter().flat_map(|open| open.attributes.extended.values()).map(Vec::len);
        if !attributes.extended.is_empty() && acls.sum::<usize>() > Self::MOST_ACLS {
            return Err(self.refused("it lies in folders with larger ACLs than anybody has"));
        }
        if is_name(names[0]) && names.get(1) == Some(&MARK.to_bytes()) {
            return Err(self.refused("its name is one that restores use themselves"));
        }
        self.enter(parents)?;
        let made = match entry.kind() {
            EntryType::Directory => self.folder(name, attributes),
            EntryType::Symlink => {
                let target = entry.target();
                if self.limits.promised.is_none() && leaves(&target, parents.len()) {
                    return Err(self.refused("it is a link that leaves the folder"));
                }
                self.symlink(name, &target, &attributes)
            }
            EntryType::Link => self.hard_link(name, &entry.target())?,
            _ => {
                self.room(entry.stored())?;
                self.create(name, attributes, Some(size).filter(|_| entry.is_sparse()))
            }
        };
        made.map_err(|err| self.failed(err))
    }

    fn root(&mut self, entry: &Entry<'_>, attributes: Attributes) -> Result<(), ComponentError> {
        if entry.kind() != EntryType::Directory {
            return Err(self.refused("it is the root, and no folder"));
        }
        if std::mem::replace(&mut self.rooted, true) {
            return Err(self.refused("it comes twice"));
        }
        self.way[0].attributes = attributes;
        Ok(())
    }

    /// Goes to the folder that an entry lies in, leaving others on the way.
    fn enter(&mut self, parents: &[&[u8]]) -> Result<(), ComponentError> {
        let open = self.way[1..].iter().zip(parents).take_while(|(open, name)| open.name == **name).count();
        self.leave(open + 1)?;
        for name in &parents[open..] {
            self.descend(name).map_err(|err| self.failed(err))?;
        }
        Ok(())
    }

    /// Opens a folder once more, or makes one that the archive has no entry for.
    fn descend(&mut self, name: &[u8]) -> Result<(), Errno> {
        let parent = &self.here().handle;
        match mkdirat(parent, name, Mode::RWXU) {
            Ok(()) => {
                let handle = open_folder(parent, name)?;
                let attributes = Attributes { mode: 0o755, ..Attributes::default() };
                self.way.push(OpenFolder { handle, name: name.to_vec(), attributes });
            }
            Err(Errno::EXIST) => {
                let handle = open_folder(parent, name)?;
                // An entry that is put into the folder now changes its time, and may need rights that it does not give.
                let mut attributes = Attributes::of(&handle)?;
                attributes.extended.retain(|name, _| Acl::is_in(name));
                clear_inherited(&handle)?;
                allowed(fchmod(&handle, Mode::RWXU))?;
                self.way.push(OpenFolder { handle, name: name.to_vec(), attributes });
            }
            Err(err) => return Err(err),
        }
        Ok(())
    }

    /// Closes the folders on the way beyond the first `keep`, and gives them their attributes.
    fn leave(&mut self, keep: usize) -> Result<(), ComponentError> {
        while self.way.len() > keep {
            let Some(open) = self.way.pop() else { break };
            let unset = open
                .attributes
                .give(&open.handle, self.limits.capabilities)
                .map_err(|err| self.failed(err))?;
            self.missing.note(unset);
        }
        Ok(())
    }

    /// Makes a folder. It gets its ACLs when it is left: they would be handed on to what is made in it. The other
    /// extended attributes need not be remembered until then.
    fn folder(&mut self, name: &[u8], mut attributes: Attributes) -> Result<(), Errno> {
        let parent = &self.here().handle;
        mkdirat(parent, name, Mode::RWXU)?;
        let handle = open_folder(parent, name)?;
        if !attributes.extended.is_empty() {
            let all = std::mem::take(&mut attributes.extended);
            let (acls, now) = all.into_iter().partition(|(name, _)| Acl::is_in(name));
            attributes.extended = acls;
            let extended = give(At::Open(&handle), &now, true)?;
            self.missing.note(UnsetAttributes { extended, ..UnsetAttributes::default() });
        }
        self.way.push(OpenFolder { handle, name: name.to_vec(), attributes });
        Ok(())
    }

    /// Makes a file; a sparse one has that size from the beginning.
    fn create(&mut self, name: &[u8], attributes: Attributes, sparse: Option<u64>) -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.here().handle, name, flags, Mode::RUSR | Mode::WUSR)?;
        if let Some(size) = sparse {
            // A length that no file can have is none that there is room for.
            ftruncate(&file, size).map_err(|err| if err == Errno::INVAL { Errno::FBIG } else { err })?;
        }
        self.file = Some((file.into(), attributes));
        Ok(())
    }

    fn symlink(&mut self, name: &[u8], target: &[u8], attributes: &Attributes) -> Result<(), Errno> {
        let parent = &self.here().handle;
        symlinkat(target, parent, name)?;
        let mut disowned = false;
        if let Some((uid, gid)) = attributes.owner {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            disowned = !allowed(chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW))?;
        }
        if let Some(times) = attributes.times() {
            allowed(utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW))?;
        }
        let extended = give(At::In(parent, name), &attributes.extended, !disowned)?;
        self.missing.note(UnsetAttributes { owner: disowned, extended, ..UnsetAttributes::default() });
        Ok(())
    }

    /// Gives an earlier file a further name.
    fn hard_link(&mut self, name: &[u8], target: &[u8]) -> Result<Result<(), Errno>, ComponentError> {
        let names = parts(target).map_err(|_| self.refused("it is a hard link that leaves the folder"))?;
        let Some((first, parents)) = names.split_last() else {
            return Err(self.refused("it is a hard link to the root"));
        };
        let mut folder = None;
        for parent in parents {
            let above = folder.as_ref().unwrap_or(&self.way[0].handle);
            folder = Some(open_folder(above, *parent).map_err(|err| self.unlinked(err))?);
        }
        let folder = folder.as_ref().unwrap_or(&self.way[0].handle);
        let stat = statat(folder, *first, AtFlags::SYMLINK_NOFOLLOW).map_err(|err| self.unlinked(err))?;
        if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Symlink) {
            return Err(self.refused("it is a hard link to something other than a file"));
        }
        Ok(linkat(folder, *first, &self.here().handle, name, AtFlags::empty()))
    }

    fn unlinked(&self, err: Errno) -> ComponentError {
        match err {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => {
                self.refused("it is a hard link to what did not come before it")
            }
            err => self.failed(err),
        }
    }

    /// Refuses what does not fit before it fills the disk of the live data.
    fn room(&self, size: u64) -> Result<(), ComponentError> {
        let free = room_in(&self.way[0].handle).map_err(|err| self.failed(err))?;
        if free.is_some_and(|free| size > free) {
            return Err(self.failed(Errno::NOSPC));
        }
        Ok(())
    }

    /// Closes the file whose content has come.
    fn close(&mut self) -> Result<(), ComponentError> {
        let Some((file, attributes)) = self.file.take() else { return Ok(()) };
        let unset = attributes.give(&file, self.limits.capabilities).map_err(|err| self.failed(err))?;
        self.missing.note(unset);
        Ok(())
    }

    fn here(&self) -> &OpenFolder {
        self.way.last().expect("the root is never left")
    }

    fn refused(&self, why: &str) -> ComponentError {
        malicious_archive(format!("{}: {why}", shown(&self.path)))
    }

    fn failed(&self, err: Errno) -> ComponentError {
        match err {
            Errno::EXIST => {
                self.refused("its name comes twice, or in a way that this file system holds for equal")
            }
            Errno::NOTDIR | Errno::LOOP => self.refused("it lies below something that is no folder"),
            Errno::NAMETOOLONG | Errno::INVAL => self.refused("this file system cannot hold such a name"),
            err => system_error(format!("unpack {}", shown(&self.path)), err),
        }
    }
}

impl Visit for Unpacking {
    type Error = ComponentError;

    fn entry(&mut self, entry: &Entry<'_>, size: u64) -> Result<(), ComponentError> {
        self.close()?;
        self.path.clear();
        self.path.extend_from_slice(&entry.path());
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(if entry.is_file() { size } else { 0 });
        if let Some(promised) = self.limits.promised {
            // The root itself is one more.
            let entries = promised.files + promised.directories + promised.symlinks + promised.hard_links + 1;
            if self.entries > entries || self.bytes > promised.bytes {
                return Err(self.refused("with it the archive holds more than its manifest says"));
            }
        }
        self.unpack_entry(entry, size)
    }

    fn content(&mut self, bytes: &[u8]) -> Result<(), ComponentError> {
        let Some((file, _)) = &mut self.file else { return Ok(()) };
        let written = file.write_all(bytes);
        written.map_err(|err| self.failed(Errno::from_io_error(&err).unwrap_or(Errno::IO)))
    }

    fn hole(&mut self, bytes: u64) -> Result<(), ComponentError> {
        let Some((file, _)) = &self.file else { return Ok(()) };
        let moved = i64::try_from(bytes).map_err(|_| Errno::FBIG);
        let moved = moved.and_then(|bytes| seek(file, SeekFrom::Current(bytes)));
        moved.map_err(|err| self.failed(err))?;
        Ok(())
    }
}

/// Opens a folder by its name, which is no link.
pub(super) fn open_folder(parent: impl AsFd, name: impl rustix::path::Arg) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?.into())
}
