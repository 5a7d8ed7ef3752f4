//! The swap: what is in an area and what is live change places.
//!
//! An ordinary media folder changes places with the copy in one exchange of two folders. Where it must stay, its
//! entries change sides one by one. Both are a list of changes that is durable before the first, each of
//! which can be repeated: a swap that died in the middle is finished from its journal.

use crate::base::durable::sync_folder;
use crate::component::ComponentError;
use crate::component::media::{
    attributes::Attributes,
    errors::{system_error, unusable},
    extended::remove_others,
    folder::Folder,
    fs_capabilities::FsCapabilities,
    journal::{Change, Journal},
    label::Role,
    staging_area::{SPARE, StagingArea, TREE, is_area, rename_new},
    unpack::open_folder,
};
use rustix::{
    fs::{AtFlags, RenameFlags, renameat, renameat_with, statat},
    io::Errno,
};
use std::{collections::BTreeMap, ffi::CStr, fs::File};

/// The side of the changes that is to be live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    New,
    Old,
}

/// Makes the tree of an area live, and keeps what was live in the area instead; false when there was nothing.
///
/// # Errors
///
/// Then what was live is live.
pub(super) fn swap(area: &mut StagingArea) -> Result<bool, ComponentError> {
    let failed = |err| system_error("look at what is to be exchanged", err);
    let journal = plan(area).map_err(failed)?;
    let write = journal.write(&area.folder);
    write.map_err(|err| {
        system_error("write the journal of the exchange", Errno::from_io_error(&err).unwrap_or(Errno::IO))
    })?;
    if let Err(err) = carry_out(area, &journal, Side::New) {
        let back = carry_out(area, &journal, Side::Old).and_then(|()| Journal::remove(&area.folder));
        let what = format!("exchange what is in {}", area.staging.live_path().display());
        return Err(match back {
            Ok(()) if err == Errno::XDEV => unusable(format!("{what}: its file system does not let it")),
            Ok(()) => system_error(what, err),
            Err(back) => system_error(format!("{what}: {err}; put it back"), back),
        });
    }
    close(area, &journal).map_err(|err| system_error("close the exchange, which is done", err))
}

/// Finishes a swap that died in the middle, or where that cannot be done takes it back. Tells which, and
/// whether something is kept. `None`: none had begun.
pub(super) fn resume(area: &mut StagingArea) -> Result<Option<(&'static str, bool)>, ComponentError> {
    let what = format!("finish the exchange in {}", area.path().display());
    let read = Journal::read(&area.folder);
    let read = read.map_err(|err| ComponentError::Read { what: what.clone(), source: err })?;
    let Some(journal) = read else { return Ok(None) };
    if let Err(err) = carry_out(area, &journal, Side::New) {
        let back = carry_out(area, &journal, Side::Old).and_then(|()| Journal::remove(&area.folder));
        return match back {
            Ok(()) => Ok(Some(("took back", false))),
            Err(_) => Err(system_error(what, err)),
        };
    }
    let kept = close(area, &journal).map_err(|err| system_error(what, err))?;
    Ok(Some(("finished", kept)))
}

/// Lists what is to change sides.
fn plan(area: &StagingArea) -> Result<Journal, Errno> {
    let tree = area.tree()?.ok_or(Errno::NOENT)?;
    if let Some(name) = &area.staging.live {
        let (new, old) = (inode(&area.folder, TREE)?, inode(&area.staging.folder, name)?);
        let changes = vec![Change { name: name.clone(), new, old }];
        return Ok(Journal { changes, ..Journal::default() });
    }
    let mut changes = BTreeMap::new();
    for (folder, is_new) in [(&tree, true), (&area.staging.folder, false)] {
        let mut listing = Folder::reopen(folder)?;
        while let Some((handle, name, _)) = listing.next() {
            if !is_new && is_area(handle, name) {
                continue;
            }
            if is_new && name == area.name.as_c_str() {
                return Err(Errno::EXIST); // from an archive that guessed it
            }
            let found = inode(handle, name)?;
            let change = changes.entry(name.to_owned()).or_insert((None, None));
            if is_new { change.0 = found } else { change.1 = found }
        }
    }
    let changes = changes.into_iter().map(|(name, (new, old))| Change { name, new, old }).collect();
    Ok(Journal { roots: [Attributes::of(&tree)?, Attributes::of(&area.staging.folder)?], changes })
}

/// Brings every change to one side, from wherever it is.
fn carry_out(area: &StagingArea, journal: &Journal, side: Side) -> Result<(), Errno> {
    let spare = open_folder(&area.folder, SPARE)?;
    let live = &area.staging.folder;
    if area.staging.live.is_some() {
        for change in &journal.changes {
            SwapStep { live, name: &change.name, copies: &area.folder, copy: TREE, spare: &spare }
                .go(change, side)?;
        }
        sync_folder(live)?;
        return sync_folder(&area.folder);
    }
    let tree = area.tree()?.ok_or(Errno::NOENT)?;
    for change in &journal.changes {
        SwapStep { live, name: &change.name, copies: &tree, copy: &change.name, spare: &spare }
            .go(change, side)?;
    }
    let [new, old] = &journal.roots;
    let (here, there) = if side == Side::New { (new, old) } else { (old, new) };
    give_root(here, live)?;
    give_root(there, &tree)?;
    sync_folder(live)?;
    sync_folder(&tree)
}

/// Keeps what was live, and only then forgets that there was a swap. The attributes of the root are given
/// once more, since the renaming changed its time.
fn close(area: &mut StagingArea, journal: &Journal) -> Result<bool, Errno> {
    let kept = area.tree()?.is_some();
    if kept || area.is_of_a_task() {
        area.relabel(Role::Before)?;
    }
    if area.staging.live.is_none() {
        give_root(&journal.roots[0], &area.staging.folder)?;
    }
    Journal::remove(&area.folder)?;
    Ok(kept)
}

/// Gives the media folder, or the one that it changes places with, what it had; one of somebody else, in which we may
/// only write, and one whose file system holds no modes keep what they have.
fn give_root(attributes: &Attributes, root: &File) -> Result<(), Errno> {
    remove_others(root, &attributes.extended);
    match attributes.give(root, FsCapabilities::default()) {
        Err(Errno::PERM) => {
            tracing::warn!(
                "the mode and time of the media folder are left: this process may not change them"
            );
            Ok(())
        }
        given => given.map(drop),
    }
}

/// One name and the places where it may be.
struct SwapStep<'a> {
    live: &'a File,
    name: &'a CStr,
    copies: &'a File,
    copy: &'a CStr,
    /// The folder for what lies there for a moment when the file system cannot exchange.
    spare: &'a File,
}

impl SwapStep<'_> {
    /// Makes one side live and puts the other away. What somebody put there in the meantime is taken
    /// for what was live before, or, once the step is done, left alone.
    fn go(&self, change: &Change, side: Side) -> Result<(), Errno> {
        let want = if side == Side::New { change.new } else { change.old };
        let here = inode(self.live, self.name)?;
        let copy = inode(self.copies, self.copy)?;
        let spare = inode(self.spare, self.name)?;
        let Some(want) = want else {
            // Nothing is to be there. What is there is put away, unless that was done before.
            return match (here, copy) {
                (Some(_), None) => rename_new(self.live, self.name, self.copies, self.copy),
                _ => Ok(()),
            };
        };
        // Nobody but us puts anything there, so what is not the new is the old, even if its number has
        // changed since: layered file systems do that to files of several names.
        let is_it = |found: Option<u64>| match side {
            Side::New => found == Some(want),
            Side::Old => found.is_some() && found != change.new,
        };
        if here != Some(want) {
            if is_it(copy) {
                if here.is_none() {
                    rename_new(self.copies, self.copy, self.live, self.name)?;
                } else {
                    self.exchange()?;
                }
            } else if is_it(spare) {
                if here.is_some() {
                    rename_new(self.live, self.name, self.copies, self.copy)?;
                }
                rename_new(self.spare, self.name, self.live, self.name)?;
            }
        }
        if inode(self.spare, self.name)?.is_some() && inode(self.copies, self.copy)?.is_none() {
            rename_new(self.spare, self.name, self.copies, self.copy)?;
        }
        Ok(())
    }

    fn exchange(&self) -> Result<(), Errno> {
        match renameat_with(self.copies, self.copy, self.live, self.name, RenameFlags::EXCHANGE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                renameat(self.live, self.name, self.spare, self.name)?;
                rename_new(self.copies, self.copy, self.live, self.name)
            }
            done => done,
        }
    }
}

/// The inode number behind a name; `None` if there is nothing.
fn inode(folder: &File, name: &CStr) -> Result<Option<u64>, Errno> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat.st_ino)),
        Err(Errno::NOENT) => Ok(None),
        Err(err) => Err(err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path};

    /// The contents of the three places, if there are any.
    fn states(dir: &Path) -> [Option<String>; 3] {
        ["live", "tree", "spare"].map(|place| fs::read_to_string(dir.join(place).join("x")).ok())
    }

    /// Makes a state, of which every content is a file of its own.
    fn make(dir: &Path, places: [&str; 3]) -> (Change, [File; 3]) {
        let (mut new, mut old) = (None, None);
        let folders = ["live", "tree", "spare"].map(|place| {
            fs::create_dir(dir.join(place)).unwrap();
            File::open(dir.join(place)).unwrap()
        });
        for (folder, (place, content)) in folders.iter().zip(["live", "tree", "spare"].iter().zip(places)) {
            if !content.is_empty() {
                fs::write(dir.join(place).join("x"), content).unwrap();
                let found = inode(folder, c"x").unwrap();
                match content {
                    "new" => new = found,
                    "old" => old = found,
                    _ => {}
                }
            }
        }
        (Change { name: c"x".to_owned(), new, old }, folders)
    }

    /// The step that exchanges the file of such a state.
    fn step_of([live, copies, spare]: &[File; 3]) -> SwapStep<'_> {
        SwapStep { live, name: c"x", copies, copy: c"x", spare }
    }

    #[test]
    fn from_wherever_a_step_died_both_sides_can_be_reached() {
        // Live, tree, spare; then what is live and in the tree for the new side, and for the old.
        for (places, forth, back) in [
            (["old", "new", ""], ["new", "old"], ["old", "new"]),
            (["new", "old", ""], ["new", "old"], ["old", "new"]),
            // Between the steps of a file system that cannot exchange.
            (["", "new", "old"], ["new", "old"], ["old", "new"]),
            (["new", "", "old"], ["new", "old"], ["old", "new"]),
            (["", "old", "new"], ["new", "old"], ["old", "new"]),
            (["", "new", ""], ["new", ""], ["", "new"]),
            (["new", "", ""], ["new", ""], ["", "new"]),
            (["old", "", ""], ["", "old"], ["old", ""]),
            (["", "old", ""], ["", "old"], ["old", ""]),
        ] {
            for (side, [live, tree]) in [(Side::New, forth), (Side::Old, back)] {
                let dir = tempfile::tempdir().unwrap();
                let (change, folders) = make(dir.path(), places);
                let step = step_of(&folders);
                let some = |content: &str| (!content.is_empty()).then(|| content.to_owned());
                for _ in 0..2 {
                    step.go(&change, side).unwrap();
                    assert_eq!(states(dir.path()), [some(live), some(tree), None], "{places:?} {side:?}");
                }
            }
        }
    }

    #[test]
    fn what_somebody_put_in_the_place_of_a_done_step_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (change, folders) = make(dir.path(), ["upload", "old", ""]);
        let change = Change { new: Some(u64::MAX), ..change };
        let step = step_of(&folders);
        step.go(&change, Side::New).unwrap();
        assert_eq!(states(dir.path()), [Some("upload".to_owned()), Some("old".to_owned()), None]);
        let change = Change { new: None, ..change };
        step.go(&change, Side::New).unwrap();
        assert_eq!(states(dir.path()), [Some("upload".to_owned()), Some("old".to_owned()), None]);
    }

    #[test]
    fn what_was_live_is_known_even_when_its_number_has_changed() {
        for (places, back) in [
            (["new", "old", ""], ["old", "new"]),
            (["", "old", ""], ["old", ""]),
            (["new", "", "old"], ["old", "new"]),
            (["old", "new", ""], ["old", "new"]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (change, folders) = make(dir.path(), places);
            let change = Change { old: Some(u64::MAX), ..change };
            let step = step_of(&folders);
            for _ in 0..2 {
                step.go(&change, Side::Old).unwrap();
                let some = |content: &str| (!content.is_empty()).then(|| content.to_owned());
                assert_eq!(states(dir.path()), [some(back[0]), some(back[1]), None], "{places:?}");
            }
        }
    }
}
