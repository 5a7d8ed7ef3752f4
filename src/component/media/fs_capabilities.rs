//! The attributes that a file system can hold, tried out on a file of our own: shares refuse changes of mode or
//! owner, or take them and forget them.

use crate::component::media::{
    attributes::{Attributes, allowed},
    staging_area::{SPARE, StagingArea, TREE},
    unpack::open_folder,
};
use crate::domain::facts::FileCounts;
use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags, linkat, mkdirat, openat, renameat_with, symlinkat, unlinkat},
    io::Errno,
    thread::{CapabilitySet, capabilities},
};
use std::{ffi::CStr, fs::File};

/// The attributes and kinds of files that a file system holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FsCapabilities {
    /// Owners; only a process that may give files away has tried.
    pub(super) owners: bool,
    pub(super) modes: bool,
    pub(super) times: bool,
    symlinks: bool,
    hard_links: bool,
    /// Two folders change places in one step.
    pub(super) exchanges: bool,
}

impl Default for FsCapabilities {
    /// A file system that holds everything.
    fn default() -> Self {
        Self { owners: true, modes: true, times: true, symlinks: true, hard_links: true, exchanges: true }
    }
}

impl FsCapabilities {
    /// Tries each capability in an area, and removes the files of the trial.
    pub(super) fn of(area: &StagingArea) -> Result<Self, Errno> {
        const NAMES: [&CStr; 3] = [c"file", c"link", c"name"];
        let [file_name, link, name] = NAMES;
        let spare = open_folder(&area.folder, SPARE)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file: File = openat(&spare, file_name, flags, Mode::RUSR | Mode::WUSR)?.into();
        let held = Self::try_on(&file);
        // Some file systems keep a file under another name as long as somebody has it open.
        drop(file);
        let tried = held.and_then(|held| {
            let symlinks = allowed(symlinkat(file_name, &spare, link))?;
            let hard_links = allowed(linkat(&spare, file_name, &spare, name, AtFlags::empty()))?;
            let exchanges = Self::try_exchange(area, &spare)?;
            Ok(Self { symlinks, hard_links, exchanges, ..held })
        });
        for name in NAMES {
            match unlinkat(&spare, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(err) => return Err(err),
            }
        }
        tried
    }

    fn try_on(file: &File) -> Result<Self, Errno> {
        const SOME_USER: (u32, u32) = (1, 2);
        let own = Attributes::of(file)?;
        let mut held = Self::default();
        // Two of each, since a share may show every file with one of them.
        for (mode, second) in [(0o640, 1_000_000_000), (0o751, 1_000_000_002)] {
            let given = Attributes { mode, modified: Some((second, 0)), ..own.clone() };
            given.give(file, Self::NOTHING)?;
            let found = Attributes::of(file)?;
            held.modes &= found.mode == mode;
            held.times &= found.modified.is_some_and(|(found, _)| found == second);
        }
        // Root in a container may have given this right up, which says nothing of the file system.
        if capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::CHOWN)) {
            Attributes { owner: Some(SOME_USER), ..own }.give(file, Self::NOTHING)?;
            held.owners = Attributes::of(file)?.owner == Some(SOME_USER);
        }
        Ok(held)
    }

    /// Exchanges two empty folders of an area, as the swap exchanges the copy and what is live; `false`: the file system
    /// knows of no exchange, and the swap renames twice.
    fn try_exchange(area: &StagingArea, spare: &File) -> Result<bool, Errno> {
        let [copy, live] = [&area.folder, spare];
        mkdirat(copy, TREE, Mode::RWXU)?;
        let tried = mkdirat(live, TREE, Mode::RWXU).and_then(|()| {
            let tried = match renameat_with(copy, TREE, live, TREE, RenameFlags::EXCHANGE) {
                Ok(()) => Ok(true),
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
                Err(err) => Err(err),
            };
            unlinkat(live, TREE, AtFlags::REMOVEDIR).and(tried)
        });
        unlinkat(copy, TREE, AtFlags::REMOVEDIR).and(tried)
    }

    /// A file system of which nothing is expected: what it refuses is no error.
    const NOTHING: Self = Self {
        owners: false,
        modes: false,
        times: false,
        symlinks: false,
        hard_links: false,
        exchanges: false,
    };

    /// The attributes that will be lost of so many files, in whole sentences.
    pub(super) fn losses(self, promised: Option<FileCounts>) -> Vec<String> {
        let number = |counted: Option<u64>| counted.map_or("all".to_owned(), |counted| counted.to_string());
        let files = number(promised.map(|p| p.files + p.directories));
        let entries = number(promised.map(|p| p.files + p.directories + p.symlinks));
        let mut losses = Vec::new();
        if !self.owners {
            losses.push(format!(
                "Its file system gives no file to another owner: that of {entries} entries is lost."
            ));
        }
        if !self.modes {
            losses.push(format!(
                "Its file system holds no modes: those of {files} files and folders are lost."
            ));
        }
        if !self.times {
            losses.push(format!(
                "Its file system holds no times: those of {files} files and folders are lost."
            ));
        }
        losses
    }

    /// The links that cannot be made at all, for people; `None`: the archive fits.
    pub(super) fn refusal(self, promised: FileCounts) -> Option<String> {
        match promised {
            FileCounts { symlinks: 1.., .. } if !self.symlinks => {
                Some(format!("symbolic links, of which the backup has {}", promised.symlinks))
            }
            FileCounts { hard_links: 1.., .. } if !self.hard_links => {
                Some(format!("hard links, of which the backup has {}", promised.hard_links))
            }
            _ => None,
        }
    }
}
