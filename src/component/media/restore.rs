//! Staging an archive in a copy, and the end of the copy: it is swapped in, or discarded.

use crate::component::media::{
    attributes::Attributes,
    compare::Comparing,
    count::Counted,
    errors::{system_error, unusable},
    fs_capabilities::FsCapabilities,
    label::Role,
    missing_attributes::MissingAttributes,
    plan::{needed, promise},
    staging_area::{SPARE, StagingArea, StagingRoot, TREE, rename_new},
    steps::{Prepared, RestorePaths, STEPS, Step, nothing_mounted_at, prepare},
    swap,
    target::MediaTarget,
    unpack::{Limits, Unpacking, open_folder},
};
use crate::component::{
    ComponentError, Feed,
    stage::{RestoreMode, Staged, UndoPoint},
};
use crate::domain::{
    facts::{Counts, Facts, FileCounts},
    progress::Meter,
    task_note::TaskNote,
};
use crate::stream::tar::{AttributeKind, BlockingFeed, run_blocking};
use async_trait::async_trait;
use rustix::{
    fs::{AtFlags, FileType, Mode, mkdirat, syncfs, unlinkat},
    io::Errno,
};
use std::{ffi::CString, path::Path};
use tokio::task;

/// Runs blocking work, of which a panic is an error.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ComponentError> + Send + 'static,
) -> Result<T, ComponentError> {
    task::spawn_blocking(work).await?
}

/// Unpacks a stream of an archive beside a folder.
pub(super) async fn stage(
    feed: Feed<'_>,
    paths: RestorePaths,
    target: MediaTarget,
    facts: Option<&Facts>,
    meter: &Meter,
) -> Result<Box<dyn Staged>, ComponentError> {
    let (promised, needed, meter) = (promise(facts), facts.and_then(needed), meter.clone());
    let copy = run_blocking(feed, move |feed| unpack(&paths, target, promised, needed, feed, &meter)).await?;
    Ok(Box::new(copy))
}

fn unpack(
    paths: &RestorePaths,
    target: MediaTarget,
    promised: Option<FileCounts>,
    needed: Option<u64>,
    feed: BlockingFeed,
    meter: &Meter,
) -> Result<Copy, ComponentError> {
    if let MediaTarget::Folder(folder) = &target {
        // Nobody looks there but who restores to it once more.
        remove_empty_areas(folder)?;
    }
    let mode = if target == MediaTarget::Scratch { RestoreMode::Drill } else { RestoreMode::Restore };
    let Prepared { area, capabilities, free } = prepare(mode, paths, &target, promised)?;
    if let (RestoreMode::Restore, Err(err)) = (mode, area.is_alone(live_of(paths, &target))) {
        area.remove_after(&err);
        return Err(err);
    }
    if paths.drills.as_ref().is_some_and(|drills| *drills == area.staging.path) {
        let (root, drills) = (paths.root.display(), area.staging.path.display());
        meter.warn(format!(
            "Nothing can be written beside {root}, so the copy was made in {drills}: a restore would not begin."
        ));
    }
    let attributes = if needed.zip(free).is_some_and(|(needed, free)| needed > free) {
        Err(system_error(format!("unpack media in {}", area.staging.path.display()), Errno::NOSPC))
    } else {
        attributes_of(&area.staging)
    };
    let filled = attributes
        .and_then(|attributes| fill(&area, attributes, mode, Limits { promised, capabilities }, feed, meter));
    match filled {
        Ok(contents) => Ok(Copy { area, target, contents, note: None }),
        Err(err) => {
            area.remove_after(&err);
            Err(err)
        }
    }
}

/// The folder that a restore replaces.
fn live_of<'a>(paths: &'a RestorePaths, target: &'a MediaTarget) -> &'a Path {
    if let MediaTarget::Folder(folder) = target { folder } else { &paths.root }
}

/// The attributes of the folder that the copy is to replace: those of the copy unless the archive knows others.
fn attributes_of(staging: &StagingRoot) -> Result<Attributes, ComponentError> {
    let attributes = match staging.live()? {
        Some(live) => Attributes::of(&live).map_err(|err| system_error("look at the media folder", err))?,
        None => Attributes { mode: 0o755, ..Attributes::default() },
    };
    Ok(Attributes { modified: None, ..attributes })
}

/// Unpacks into a new area, counts what is there, and makes it durable.
fn fill(
    area: &StagingArea,
    attributes: Attributes,
    mode: RestoreMode,
    limits: Limits,
    feed: BlockingFeed,
    meter: &Meter,
) -> Result<Contents, ComponentError> {
    let Limits { promised, capabilities } = limits;
    let failed = |err| system_error("make a folder for the copy", err);
    mkdirat(&area.folder, TREE, Mode::RWXU).map_err(failed)?;
    let tree = open_folder(&area.folder, TREE).map_err(failed)?;

    let mut unpacking = Unpacking::new(tree, attributes, limits);
    let seen = feed.walk(meter, &mut unpacking)?;
    unpacking.finish()?;

    let (mut attributes, mut wrapper) = (unpacking.root_attributes(), None);
    if !unpacking.rooted && promised.is_none() {
        let taken = take_out(area).map_err(|err| system_error("take the media out of their folder", err))?;
        if let Some((name, its)) = taken {
            (attributes, wrapper) = (its, Some(name.into_bytes()));
        }
    }
    let tree = open_folder(&area.folder, TREE).map_err(failed)?;
    let has_extended = seen.attributes.is_some_and(|attributes| attributes.has_extended());
    // The root last: its mode may keep even its owner from looking into it.
    let mut found = Counted::below(&tree, has_extended)?;
    let mut missing = unpacking.missing;
    missing.note(attributes.give(&tree, capabilities).map_err(failed)?);
    if unpacking.rooted {
        found.root(&tree).map_err(|err| system_error("count what is in the copy", err))?;
    }
    let sparse = seen.attributes.map_or(0, |attributes| attributes.sparse);
    missing.note_holes(sparse.saturating_sub(found.attributes.sparse));
    missing.warn(capabilities, meter);
    if mode == RestoreMode::Drill {
        // Of a restore the plan says so.
        let place = area.staging.path.display();
        for loss in capabilities.losses(promised) {
            meter.warn(format!("{place}: {loss}"));
        }
    }
    if STEPS.takes(mode, Step::Sync) {
        // One call for all files, where one each would cost a millisecond for every small one. Linux
        // reports in it what could not be written since the folder was opened.
        syncfs(&area.folder).map_err(|err| system_error("write the copy to disk", err))?;
    }
    let counts = counts_of(found, missing.expected(seen.clone(), capabilities));
    Ok(Contents { seen, counts, wrapper, missing, capabilities })
}

/// The counts of a copy. File systems may give an entry attributes of their own, and compress what is no hole: what is
/// there beyond the archive is the business of a drill, which names the entries.
fn counts_of(found: Counted, expected: Counts) -> Counts {
    let Counted { files, mut attributes, metadata, .. } = found;
    if let Some(mut expected) = expected.attributes {
        for kind in AttributeKind::ALL {
            let count = kind.count_in(&mut attributes);
            *count = (*count).min(*kind.count_in(&mut expected));
        }
        // Holes that are none in the copy are a warning: its content is the same.
        (attributes.sparse, attributes.hole_bytes) = (expected.sparse, expected.hole_bytes);
    }
    Counts { files: Some(files), attributes: Some(attributes), metadata: Some(metadata), ..expected }
}

/// The app's old archives hold the media folder itself, under whatever name it had, and no root: what is
/// in that one folder are the media. Returns the name and the attributes of that folder.
fn take_out(area: &StagingArea) -> Result<Option<(CString, Attributes)>, Errno> {
    let tree = area.tree()?.ok_or(Errno::NOENT)?;
    let mut listing = super::folder::Folder::reopen(&tree)?;
    let is_alone = listing.len() == 1;
    let only = match listing.next() {
        Some((_, name, FileType::Directory | FileType::Unknown)) if is_alone => name.to_owned(),
        _ => return Ok(None),
    };
    let media = match open_folder(&tree, &only) {
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        media => media?,
    };
    let spare = open_folder(&area.folder, SPARE)?;
    let attributes = Attributes::of(&media)?;
    rename_new(&tree, &only, &spare, TREE)?;
    unlinkat(&area.folder, TREE, AtFlags::REMOVEDIR)?;
    rename_new(&spare, TREE, &area.folder, TREE)?;
    Ok(Some((only, attributes)))
}

/// The contents of a copy.
#[derive(Debug)]
struct Contents {
    /// The counts of the archive.
    seen: Counts,
    /// The counts of the copy.
    counts: Counts,
    /// The folder that the archive holds the media in, where it has no root.
    wrapper: Option<Vec<u8>>,
    /// The attributes that some entries could not be given.
    missing: MissingAttributes,
    /// The attributes that the file system of the copy holds.
    capabilities: FsCapabilities,
}

/// A whole copy in an area of its own.
#[derive(Debug)]
struct Copy {
    area: StagingArea,
    target: MediaTarget,
    contents: Contents,
    /// The task that orders the swap.
    note: Option<TaskNote>,
}

#[async_trait]
impl Staged for Copy {
    fn counts(&self) -> &Counts {
        &self.contents.counts
    }

    fn expected(&self, promised: &Counts) -> Counts {
        let Contents { seen, missing, capabilities, .. } = &self.contents;
        // Manifests of older programs promise less than the archive holds.
        let attributes = promised.attributes.or(seen.attributes);
        let metadata = promised.metadata.clone().or_else(|| seen.metadata.clone());
        missing.expected(Counts { attributes, metadata, ..promised.clone() }, *capabilities)
    }

    async fn differences(&self, feed: Feed<'_>, meter: &Meter) -> Result<Vec<String>, ComponentError> {
        let tree = self.area.tree().and_then(|tree| tree.ok_or(Errno::NOENT));
        let tree = tree.map_err(|err| system_error("open the copy", err))?;
        let Contents { wrapper, missing, capabilities, .. } = &self.contents;
        let mut comparing = Comparing::new(tree, wrapper.clone(), missing.unset(), *capabilities);
        let meter = meter.clone();
        run_blocking(feed, move |feed| feed.walk(&meter, &mut comparing).map(|_| comparing.differences()))
            .await
    }

    fn set_task_note(&mut self, note: TaskNote) {
        self.note = Some(note);
    }

    async fn swap(self: Box<Self>) -> Result<Option<UndoPoint>, ComponentError> {
        if self.target == MediaTarget::Scratch {
            return Err(unusable("a copy for a drill cannot take the place of the media".to_owned()));
        }
        blocking(move || match self.target {
            MediaTarget::Live => exchange(self.area, false, self.note),
            _ => exchange(self.area, true, None),
        })
        .await
    }

    async fn discard(self: Box<Self>) -> Result<(), ComponentError> {
        blocking(move || self.area.remove()).await
    }
}

/// Swaps; what was live is kept, unless it was an empty folder that somebody had made for the copy.
pub(super) fn exchange(
    mut area: StagingArea,
    was_empty: bool,
    note: Option<TaskNote>,
) -> Result<Option<UndoPoint>, ComponentError> {
    let may_move = if was_empty { Ok(()) } else { nothing_mounted_at(&area.staging, &MediaTarget::Live) };
    let noted = may_move.and_then(|()| area.begin(note));
    let swapped = noted.and_then(|()| swap::swap(&mut area));
    let kept = match swapped {
        Ok(kept) => kept && !(was_empty && unlinkat(&area.folder, TREE, AtFlags::REMOVEDIR).is_ok()),
        Err(err) => {
            // Unless the journal is still needed.
            if matches!(super::journal::Journal::read(&area.folder), Ok(None))
                && area.label.role == Role::Restore
            {
                let _ = area.remove();
            }
            return Err(err);
        }
    };
    if kept {
        return Ok(Some(kept_in(&area)));
    }
    // An area without a tree may still be the proof that a task has swapped.
    if !area.is_needed()
        && let Err(left) = area.remove()
    {
        tracing::warn!(error = %left, "an empty folder of a restore is left until the next start");
    }
    Ok(None)
}

pub(super) fn kept_in(area: &StagingArea) -> UndoPoint {
    let place = area.path().join("tree").display().to_string();
    UndoPoint { place, at: area.label.at, task_notes: area.task_notes() }
}

/// Finishes what died in the middle and removes copies of dead runs, blocking.
pub(super) fn recover(root: &Path, drills: Option<&Path>) -> Result<Vec<String>, ComponentError> {
    let mut done = Vec::new();
    let mut staging_roots = StagingRoot::all(root)?;
    staging_roots.extend(drills.filter(|drills| drills.is_dir()).map(StagingRoot::inside).transpose()?);
    for mut area in StagingArea::all_of(&staging_roots)? {
        match swap::resume(&mut area)? {
            Some((what, true)) => {
                done.push(format!(
                    "{what} an exchange of media, the old are kept in {}",
                    area.path().display()
                ));
                continue;
            }
            Some((what, false)) => done.push(format!("{what} an exchange of media")),
            None if area.label.role == Role::Before && (has_tree(&area) || area.is_needed()) => continue,
            None => done.push(format!("removed the copy of a dead run, {}", area.path().display())),
        }
        // An undo that was taken back still has what it could not put back.
        if area.label.role == Role::Restore || !(has_tree(&area) || area.is_needed()) {
            area.remove()?;
        }
    }
    Ok(done)
}

/// Recovers the areas of another folder, and removes those whose tree is empty.
fn remove_empty_areas(folder: &Path) -> Result<(), ComponentError> {
    for line in recover(folder, None)? {
        tracing::warn!("{line}");
    }
    for area in StagingArea::all(folder)? {
        if unlinkat(&area.folder, TREE, AtFlags::REMOVEDIR).is_ok() {
            area.remove()?;
        }
    }
    Ok(())
}

/// Tests whether there is a tree in an area; one that cannot be opened is one.
pub(super) fn has_tree(area: &StagingArea) -> bool {
    !matches!(area.tree(), Ok(None))
}
