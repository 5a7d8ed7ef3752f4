//! Counts of a tree as it lies there, which a restore is compared by.

use crate::component::ComponentError;
use crate::component::media::{
    attributes::Attributes,
    errors::{shown, system_error},
    extended::At,
    folder::Folder,
    staging_area::is_area,
};
use crate::domain::{
    facts::{AttributeCounts, FileCounts},
    metadata::MetadataCounts,
};
use rustix::{
    fs::{AtFlags, FileType, Stat, fstat, statat},
    io::Errno,
};
use std::{collections::HashSet, fs::File};

/// Counts everything below `root`, as its archive would be counted. Entries that vanish meanwhile do not count.
pub(super) fn count(root: &File) -> Result<FileCounts, ComponentError> {
    Counted::below(root, false).map(|counted| counted.files)
}

/// The entries of a tree, and how many of them have more than a content.
pub(super) struct Counted {
    pub(super) files: FileCounts,
    /// The files with holes, and the entries with ACLs and extended attributes if these were asked for.
    pub(super) attributes: AttributeCounts,
    pub(super) metadata: MetadataCounts,
    asks_for_extended: bool,
}

impl Counted {
    /// Counts everything below `root`. A list of its extended attributes costs a system call for each entry, so it is
    /// asked for where some are expected only.
    pub(super) fn below(root: &File, asks_for_extended: bool) -> Result<Self, ComponentError> {
        let (files, attributes, metadata) =
            (FileCounts::default(), AttributeCounts::default(), MetadataCounts::none());
        let mut counted = Self { files, attributes, metadata, asks_for_extended };
        let mut several = HashSet::new();
        let failed = |err: Errno, name: &[u8]| system_error(format!("count {}", shown(name)), err);
        let mut way = vec![Folder::reopen(root).map_err(|err| failed(err, b"."))?];
        loop {
            let depth = way.len();
            let Some(folder) = way.last_mut() else { break };
            let Some((handle, name, _)) = folder.next() else {
                way.pop();
                continue;
            };
            let stat = match statat(handle, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(err) => return Err(failed(err, name.to_bytes())),
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Directory && depth == 1 && is_area(handle, name) {
                continue;
            }
            if kind == FileType::RegularFile
                && stat.st_nlink > 1
                && !several.insert((stat.st_dev, stat.st_ino))
            {
                counted.files.hard_links += 1;
                continue;
            }
            let below = if kind == FileType::Directory {
                match Folder::open(handle, name) {
                    Ok(below) => Some(below),
                    Err(Errno::NOENT) => continue,
                    Err(err) => return Err(failed(err, name.to_bytes())),
                }
            } else {
                None
            };
            let counts = counted.entry(kind, &stat, At::In(handle, name.to_bytes()));
            counts.map_err(|err| failed(err, name.to_bytes()))?;
            way.extend(below);
        }
        Ok(counted)
    }

    fn entry(&mut self, kind: FileType, stat: &Stat, at: At<'_>) -> Result<(), Errno> {
        match kind {
            FileType::Directory => self.files.directories += 1,
            FileType::Symlink => self.files.symlinks += 1,
            FileType::RegularFile => {
                let [size, allocated] = [stat.st_size, stat.st_blocks.saturating_mul(512)]
                    .map(|bytes| u64::try_from(bytes).unwrap_or(0));
                self.files.files += 1;
                self.files.bytes += size;
                self.attributes.count_holes(size.saturating_sub(allocated));
            }
            _ => return Ok(()),
        }
        self.count_attributes(kind, stat, at)
    }

    /// Counts the root itself, which is no entry of its own.
    pub(super) fn root(&mut self, root: &File) -> Result<(), Errno> {
        self.count_attributes(FileType::Directory, &fstat(root)?, At::Open(root))
    }

    fn count_attributes(&mut self, kind: FileType, stat: &Stat, at: At<'_>) -> Result<(), Errno> {
        let attributes = Attributes::seen(stat);
        if kind == FileType::Symlink {
            self.metadata.count(attributes.owner.unwrap_or_default(), None);
        } else {
            attributes.count(&mut self.metadata);
        }
        if self.asks_for_extended {
            at.kinds()?.count(&mut self.attributes);
        }
        Ok(())
    }
}
