//! The steps of a restore of media, as one list: `check`, dry run, drill and restore go through it, and dry run and drill name
//! the steps that they do not take. The steps that make, count and exchange the copy stand in `restore` and `swap`.

use crate::component::media::{
    count::count,
    errors::{path_error, shown, system_error, unusable},
    folder::Folder,
    fs_capabilities::FsCapabilities,
    mounts::mounted_below,
    staging_area::{StagingArea, StagingRoot, is_area},
    target::MediaTarget,
};
use crate::component::{
    ComponentError,
    stage::{RestoreMode, Steps},
};
use crate::domain::facts::FileCounts;
use rustix::{
    fs::{
        Access, AtFlags, FileType, Mode, StatxAttributes, StatxFlags, accessat, fstat, fstatvfs, statat,
        statx,
    },
    io::Errno,
    process::geteuid,
    thread::{CapabilitySet, capabilities},
};
use std::{
    ffi::{CStr, OsStr},
    fs::{DirBuilder, File},
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
};

/// A step of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Target,
    Mounts,
    Area,
    Moves,
    Capabilities,
    Links,
    Room,
    Unpack,
    Count,
    Sync,
    Exchange,
}

use RestoreMode::{Check, Drill, DryRun, Restore};

/// The steps of a restore of media. A drill proves the backup and leaves the live folder alone, so it does not ask
/// whether that folder may be replaced.
pub(super) const STEPS: Steps<Step> = Steps(&[
    (
        Step::Target,
        "find the folder, which must be empty where it is another one",
        &[Check, DryRun, Drill, Restore],
    ),
    (Step::Mounts, "look whether another file system is mounted in the folder", &[Check, DryRun, Restore]),
    (Step::Area, "make a folder beside it, or in it", &[Check, DryRun, Drill, Restore]),
    (Step::Moves, "look whether all that is replaced may be moved", &[Check, DryRun, Restore]),
    (
        Step::Capabilities,
        "try modes, owners, times, links and an exchange there",
        &[Check, DryRun, Drill, Restore],
    ),
    (Step::Links, "look whether the links of the backup can be made there", &[DryRun, Drill, Restore]),
    (Step::Room, "look for room", &[DryRun, Drill, Restore]),
    (Step::Unpack, "unpack the archive there", &[Drill, Restore]),
    (Step::Count, "count the copy with its attributes, and compare it with the manifest", &[Drill, Restore]),
    (Step::Sync, "write the copy to disk", &[Restore]),
    (Step::Exchange, "exchange the folders", &[Restore]),
]);

/// The folders that restores and drills work with.
#[derive(Debug, Clone)]
pub(super) struct RestorePaths {
    /// The media folder.
    pub(super) root: PathBuf,
    /// The folder for drills where nothing can be written beside the media.
    pub(super) drills: Option<PathBuf>,
}

/// The place that the first steps have prepared for a copy.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) area: StagingArea,
    /// The attributes that the file system of the area holds.
    pub(super) capabilities: FsCapabilities,
    /// Bytes that are free there; `None` where nobody has asked, or the file system does not say.
    pub(super) free: Option<u64>,
}

/// Takes the steps of a mode that come before the unpacking, in their order. `promised` are the counts of the manifest.
///
/// # Errors
///
/// The reason why a restore would fail, and what to do about it. Then nothing of the steps is left.
pub(super) fn prepare(
    mode: RestoreMode,
    paths: &RestorePaths,
    target: &MediaTarget,
    promised: Option<FileCounts>,
) -> Result<Prepared, ComponentError> {
    let mut preparation = Preparation::Begins;
    for step in STEPS.of(mode) {
        preparation = preparation.take(step, paths, target, promised)?;
    }
    match preparation {
        Preparation::Made(prepared) => Ok(prepared),
        Preparation::Begins | Preparation::Found(_) => {
            Err(unusable(format!("prepare a restore: no step of {mode:?} makes a folder for it")))
        }
    }
}

/// The results of the steps so far: each step goes by those before it.
enum Preparation {
    Begins,
    Found(StagingRoot),
    Made(Prepared),
}

impl Preparation {
    /// Takes a step; those after the preparation are the caller's.
    fn take(
        self,
        step: Step,
        paths: &RestorePaths,
        target: &MediaTarget,
        promised: Option<FileCounts>,
    ) -> Result<Self, ComponentError> {
        Ok(match (self, step) {
            (Self::Begins, Step::Target) => Self::Found(staging_root_of(&paths.root, target)?),
            (Self::Found(staging), Step::Mounts) => {
                nothing_mounted_at(&staging, target)?;
                Self::Found(staging)
            }
            (Self::Found(staging), Step::Area) => {
                let area = area_of(staging, target, paths.drills.as_deref())?;
                Self::Made(Prepared { area, capabilities: FsCapabilities::default(), free: None })
            }
            (Self::Made(mut prepared), step) => match prepared.take(step, promised) {
                Ok(()) => Self::Made(prepared),
                Err(err) => {
                    prepared.area.remove_after(&err);
                    return Err(err);
                }
            },
            (preparation, _) => preparation,
        })
    }
}

impl Prepared {
    fn take(&mut self, step: Step, promised: Option<FileCounts>) -> Result<(), ComponentError> {
        let (area, staging) = (&self.area, &self.area.staging);
        let path = &staging.path;
        match step {
            Step::Moves => all_may_move(area)?,
            Step::Capabilities => {
                let failed = |err| path_error(format!("try what {} can hold", path.display()), path, err);
                self.capabilities = FsCapabilities::of(area).map_err(failed)?;
            }
            Step::Links => {
                if let Some(links) = promised.and_then(|promised| self.capabilities.refusal(promised)) {
                    let path = path.display();
                    return Err(unusable(format!(
                        "unpack in {path}: its file system has no {links}; restore to another folder with --into"
                    )));
                }
            }
            Step::Room => {
                let failed = |err| system_error(format!("find room in {}", path.display()), err);
                self.free = room_in(&staging.folder).map_err(failed)?;
            }
            Step::Target
            | Step::Mounts
            | Step::Area
            | Step::Unpack
            | Step::Count
            | Step::Sync
            | Step::Exchange => {}
        }
        Ok(())
    }

    /// The way in which a copy here takes the place of the media, for people.
    pub(super) fn method(&self) -> &'static str {
        match (&self.area.staging.live, self.capabilities.exchanges) {
            (Some(_), true) => "exchange of folders",
            (Some(_), false) => "two renames of folders, with a journal",
            (None, _) => "exchange of its contents one by one, with a journal",
        }
    }

    /// The time in which the media cannot be used, for people.
    pub(super) fn downtime(&self) -> &'static str {
        match (&self.area.staging.live, self.capabilities.exchanges) {
            (Some(_), true) => "none: both change places in one instant",
            (Some(_), false) => "milliseconds, in which there is no media folder",
            (None, _) => "milliseconds, in which old and new are mixed",
        }
    }
}

/// A sentence about the way in which the media would be restored, for `check`.
pub(super) fn describe_restore(paths: &RestorePaths) -> String {
    let prepared = match prepare(RestoreMode::Check, paths, &MediaTarget::Live, None) {
        Ok(prepared) => prepared,
        Err(err) => return format!("a restore would not begin: {}", crate::base::chain(&err)),
    };
    let place = if prepared.area.staging.live.is_some() { "beside" } else { "in" };
    let (method, losses) = (prepared.method(), prepared.capabilities.losses(None));
    let words = [vec![format!("a restore is made {place} it and swapped in by {method}")], losses].concat();
    match prepared.area.remove() {
        Ok(()) => words.join("; "),
        Err(err) => format!("a restore would not begin: {}", crate::base::chain(&err)),
    }
}

/// The folder that a copy is for, and the place of its areas.
pub(super) fn staging_root_of(root: &Path, target: &MediaTarget) -> Result<StagingRoot, ComponentError> {
    let folder = match target {
        MediaTarget::Live | MediaTarget::Scratch => root,
        MediaTarget::Folder(path) => path,
    };
    let staging = StagingRoot::of(folder)?;
    // One that died while it filled the folder is finished first.
    if let (MediaTarget::Folder(folder), Some(live)) = (target, staging.live()?)
        && count(&live)? != FileCounts::default()
        && !StagingArea::all(folder)?.iter().any(StagingArea::is_swapping)
    {
        let place = staging.live_path();
        return Err(unusable(format!(
            "restore to {}: it is not empty, name another folder",
            place.display()
        )));
    }
    Ok(staging)
}

/// Makes the area, where a restore unpacks. Of a drill that is a folder beside the backups where nothing can be written
/// beside the media.
fn area_of(
    staging: StagingRoot,
    target: &MediaTarget,
    drills: Option<&Path>,
) -> Result<StagingArea, ComponentError> {
    if *target != MediaTarget::Scratch {
        return StagingArea::to_swap(staging);
    }
    match (StagingArea::create(staging), drills) {
        (Err(ComponentError::Denied { .. }), Some(drills)) => {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(drills);
            made.map_err(|source| ComponentError::Read {
                what: "make a folder for drills".to_owned(),
                source,
            })?;
            StagingArea::create(StagingRoot::inside(drills)?)
        }
        (made, _) => made,
    }
}

/// Makes sure that no other file system is mounted in a folder that is to change places.
///
/// # Errors
///
/// [`ComponentError::Unusable`] with the mount point. Another folder than that of the media is empty, and holds none.
pub(super) fn nothing_mounted_at(staging: &StagingRoot, target: &MediaTarget) -> Result<(), ComponentError> {
    if *target != MediaTarget::Live {
        return Ok(());
    }
    let folder = staging.live_path();
    let Some(mounted) = mounted_below(&folder) else { return Ok(()) };
    let (folder, mounted) = (folder.display(), mounted.display());
    Err(unusable(format!(
        "replace {folder}: another file system is mounted at {mounted} in it, unmount that first"
    )))
}

/// Tests whether this process may move the media folder or, where its contents change places, each entry of it.
fn all_may_move(area: &StagingArea) -> Result<(), ComponentError> {
    let staging = &area.staging;
    let look = |name: &CStr| {
        let path = staging.path.join(OsStr::from_bytes(name.to_bytes()));
        match may_move(&staging.folder, name) {
            Ok(true) | Err(Errno::NOENT) => Ok(()),
            Ok(false) => Err(unusable(format!(
                "move {}: it is protected from changes, by chattr +i or +a: take that away first",
                shown(path.as_os_str().as_bytes())
            ))),
            Err(err) => Err(path_error(format!("move {}", path.display()), &path, err)),
        }
    };
    if let Some(name) = &staging.live {
        return look(name);
    }
    let failed = |err| path_error(format!("list {}", staging.path.display()), &staging.path, err);
    let mut listing = Folder::reopen(&staging.folder).map_err(failed)?;
    while let Some((handle, name, _)) = listing.next() {
        if !is_area(handle, name) {
            look(name)?;
        }
    }
    Ok(())
}

/// Asks by the rules of a rename to another folder whether one of `name` would be refused, without trying it (Linux,
/// rename(2), "EACCES" and "EPERM"); `false`: nobody may move it.
fn may_move(folder: &File, name: &CStr) -> Result<bool, Errno> {
    let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let protected = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
    let of_file_system = statx(folder, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    if of_file_system.is_ok_and(|stat| stat.stx_attributes.intersects(protected)) {
        return Ok(false);
    }
    let around = fstat(folder)?;
    let is_sticky = Mode::from_raw_mode(around.st_mode).contains(Mode::SVTX);
    let is_own = [stat.st_uid, around.st_uid].contains(&geteuid().as_raw());
    let may_all = || capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::FOWNER));
    if is_sticky && !is_own && !may_all() {
        return Err(Errno::PERM);
    }
    // The entry `..` of a folder changes with its place.
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        accessat(folder, name, Access::WRITE_OK, AtFlags::EACCESS)?;
    }
    Ok(true)
}

/// Bytes that are free on the file system of a folder; `None` where it does not say how large it is, as some that are
/// no disks.
pub(super) fn room_in(folder: &File) -> Result<Option<u64>, Errno> {
    let stat = fstatvfs(folder)?;
    Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)).filter(|_| stat.f_blocks > 0))
}

#[test]
fn a_restore_takes_every_step_and_whoever_takes_fewer_names_the_rest() {
    assert_eq!(STEPS.of(Restore).count(), STEPS.0.len());
    assert_eq!(STEPS.skipped_steps(Restore), [""; 0]);
    for mode in [Check, DryRun, Drill] {
        assert_eq!(STEPS.of(mode).count() + STEPS.skipped_steps(mode).len(), STEPS.0.len(), "{mode:?}");
        // Each step goes by what these bring.
        let first: Vec<_> = STEPS.of(mode).filter(|step| [Step::Target, Step::Area].contains(step)).collect();
        assert_eq!(first, [Step::Target, Step::Area], "{mode:?}");
    }
    let makes = [Step::Unpack, Step::Count, Step::Sync, Step::Exchange];
    assert!(STEPS.of(DryRun).chain(STEPS.of(Check)).all(|step| !makes.contains(&step)));
    assert_eq!(STEPS.of(Drill).filter(|step| makes.contains(step)).collect::<Vec<_>>(), makes[..2]);
}
