//! The plan of a restore, found out without touching anything that is live.

use crate::component::media::{
    area::{Area, Site},
    count::count,
    extended::is_held,
    holds::Holds,
    layers::is_layered,
    trouble::{trouble, trouble_at, unusable},
};
use crate::component::tar::AttributeKind;
use crate::component::{
    ComponentError,
    stage::{Plan, Target},
};
use crate::domain::facts::{AttributeCounts, Facts, FileCounts};
use rustix::{
    fs::fstatvfs,
    io::Errno,
    process::geteuid,
    thread::{CapabilitySet, capabilities},
};
use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// The folders that restores and drills work with.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The media folder.
    pub(super) root: PathBuf,
    /// The folder for drills where nothing can be written beside the media.
    pub(super) drills: Option<PathBuf>,
}

/// The folder that a copy is for.
pub(super) fn folder_of(root: &Path, target: &Target) -> Result<PathBuf, ComponentError> {
    match target {
        Target::Live | Target::Scratch => Ok(root.to_owned()),
        Target::Folder(path) => Ok(path.clone()),
        Target::Database(name) => Err(unusable(format!("restore media to database {name}: they are files"))),
        Target::Classes(_) => Err(unusable("restore classes of media: they are files".to_owned())),
        Target::LiveWithAccess => Err(unusable(
            "restore users and roles of media: owner and mode of its files are restored".to_owned(),
        )),
    }
}

/// Makes the area of a restore, where it unpacks. Of a drill that is a folder beside the backups where the one of the
/// media cannot be written to.
pub(super) fn make_area(place: &Place, target: &Target) -> Result<Area, ComponentError> {
    let site = Site::of(&folder_of(&place.root, target)?)?;
    fits(&site, target)?;
    if *target != Target::Scratch {
        return Area::to_swap(site);
    }
    match (Area::create(site), &place.drills) {
        (Err(ComponentError::Denied { .. }), Some(drills)) => {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(drills);
            made.map_err(|source| ComponentError::Read {
                what: "make a folder for drills".to_owned(),
                source,
            })?;
            Area::create(Site::inside(drills)?)
        }
        (made, _) => made,
    }
}

/// The attributes that the file system of an area holds.
///
/// # Errors
///
/// When it has no links of a kind that the archive needs.
pub(super) fn held(area: &Area, promised: Option<FileCounts>) -> Result<Holds, ComponentError> {
    let path = &area.site.path;
    let failed = |err| trouble_at(format!("try what {} can hold", path.display()), path, err);
    let holds = Holds::of(area).map_err(failed)?;
    match promised.and_then(|promised| holds.refusal(promised)) {
        Some(links) => Err(unusable(format!(
            "unpack in {}: its file system has no {links}; restore to another folder with --into",
            path.display()
        ))),
        None => Ok(holds),
    }
}

/// The plan of a restore, blocking. An area is made to try the file system, and removed.
pub(super) fn plan(places: &Place, target: &Target, facts: Option<&Facts>) -> Result<Plan, ComponentError> {
    let area = make_area(places, target)?;
    let described = held(&area, promise(facts)).and_then(|holds| describe(&area.site, target, facts, holds));
    let removed = area.remove();
    described.and_then(|plan| removed.map(|()| plan))
}

fn describe(
    site: &Site,
    target: &Target,
    facts: Option<&Facts>,
    holds: Holds,
) -> Result<Plan, ComponentError> {
    let live = site.live()?.map(|live| count(&live)).transpose()?;
    let place = site.live_path().display().to_string();
    let promised = promise(facts);
    let mut plan = Plan {
        replaces: match (target, live) {
            (Target::Scratch, _) => format!("nothing: a copy beside {place}, thrown away"),
            (_, None) => format!("nothing: folder {place} is not there yet"),
            (_, Some(live)) => {
                format!("folder {place} ({} files, {} bytes)", live.files + live.hard_links, live.bytes)
            }
        },
        method: match (target, &site.live) {
            (Target::Scratch, _) => "copy, count, throw away",
            (_, Some(_)) => "exchange of folders",
            (_, None) => "exchange of its contents one by one, with a journal",
        }
        .to_owned(),
        needs_bytes: facts.and_then(needed),
        free_bytes: free(site)?,
        downtime: match (target, &site.live) {
            (Target::Scratch, _) => "none",
            (_, Some(_)) => "none: both change places in one instant",
            (_, None) => "milliseconds, in which old and new are mixed",
        }
        .to_owned(),
        ..Plan::default()
    };
    plan.warnings.extend(holds.losses(promised).into_iter().map(|loss| format!("{place}: {loss}")));
    if !geteuid().is_root() {
        let to = format!("all will belong to user {}, who runs this", geteuid().as_raw());
        plan.warnings.push(format!("Only root may give files away: {to}."));
    }
    if let Some(promised) = promised {
        plan.replaces.push_str(&format!(
            ", by {} files, {} bytes",
            promised.files + promised.hard_links,
            promised.bytes
        ));
    } else {
        plan.warnings
            .push("The backup has no manifest: its contents cannot be compared with anything.".to_owned());
    }
    if *target == Target::Live && live.is_some() && is_layered(&site.folder) {
        plan.warnings.push(format!(
            "{place} is on a file system of layers: folders that come from an image cannot be replaced, mount a volume there."
        ));
    }
    plan.advice.extend(losses(site, facts.and_then(|facts| facts.counts.attributes)));
    match &site.live {
        None if *target != Target::Scratch => plan.warnings.push(format!(
            "{place} is a mount point, or its parent folder is closed to us: its entries are exchanged one by one."
        )),
        Some(_) if live.is_some() && *target == Target::Live => plan.warnings.push(format!(
            "Who has mounted {place} elsewhere, as containers do, sees the old files until it is mounted again."
        )),
        _ => {}
    }
    Ok(plan)
}

/// The attributes of a backup that would be lost, as far as that can be known without writing.
fn losses(site: &Site, attributes: Option<AttributeCounts>) -> Vec<String> {
    let mut promised = attributes.unwrap_or_default();
    let (mut unsupported, mut denied) = (AttributeCounts::default(), AttributeCounts::default());
    for kind in AttributeKind::ALL {
        let count = *kind.count_in(&mut promised);
        if !is_held(&site.folder, kind) {
            *kind.count_in(&mut unsupported) = count;
        } else if !may_be_set(kind) {
            *kind.count_in(&mut denied) = count;
        }
    }
    let place = site.path.display();
    let mut losses = Vec::new();
    for (counts, why) in [
        (unsupported, format!("the file system of {place} cannot hold them")),
        (denied, format!("user {}, who runs this, may not set them", geteuid().as_raw())),
    ] {
        let words = counts.describe();
        if !words.is_empty() {
            losses.push(format!("Of the files and folders, these would come back without: {words}: {why}."));
        }
    }
    losses
}

/// Returns whether the kernel lets this process set attributes of a kind (Linux, xattr(7); capabilities(7)).
fn may_be_set(kind: AttributeKind) -> bool {
    let needed = match kind {
        AttributeKind::Trusted => CapabilitySet::SYS_ADMIN,
        AttributeKind::Security => CapabilitySet::SETFCAP,
        AttributeKind::Acl | AttributeKind::User | AttributeKind::Other => return true,
    };
    capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}

pub(super) fn promise(facts: Option<&Facts>) -> Option<FileCounts> {
    facts.and_then(|facts| facts.counts.files)
}

/// Bytes that a tree takes, about: what is no hole, the last block of each file and a record for each entry.
pub(super) fn needed(facts: &Facts) -> Option<u64> {
    /// As large as a block of most file systems.
    const BLOCK: u64 = 4096;
    let (counts, attributes) = (facts.counts.files?, facts.counts.attributes.unwrap_or_default());
    let bytes = counts.bytes.saturating_sub(attributes.hole_bytes);
    Some(bytes + (counts.files + counts.directories + counts.symlinks) * BLOCK)
}

pub(super) fn free(site: &Site) -> Result<Option<u64>, ComponentError> {
    let failed = |err| trouble(format!("find room in {}", site.path.display()), err);
    room_in(&site.folder).map_err(failed)
}

/// Bytes that are free on the file system of a folder; `None` where it does not say how large it is, as some that are
/// no disks.
pub(super) fn room_in(folder: &File) -> Result<Option<u64>, Errno> {
    let stat = fstatvfs(folder)?;
    Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)).filter(|_| stat.f_blocks > 0))
}

/// Looks whether the target can be one.
pub(super) fn fits(site: &Site, target: &Target) -> Result<(), ComponentError> {
    let place = site.live_path();
    // One that died while it filled the folder is finished first.
    if let (Target::Folder(folder), Some(live)) = (target, site.live()?)
        && count(&live)? != FileCounts::default()
        && !Area::all(folder)?.iter().any(Area::is_swapping)
    {
        return Err(unusable(format!(
            "restore to {}: it is not empty, name another folder",
            place.display()
        )));
    }
    if *target == Target::Live { whole(&place) } else { Ok(()) }
}

/// Looks that no other file system is mounted below a folder that is to change places.
pub(super) fn whole(folder: &Path) -> Result<(), ComponentError> {
    let Some(mounted) = mounted_below(folder) else { return Ok(()) };
    let (folder, mounted) = (folder.display(), mounted.display());
    Err(unusable(format!(
        "replace {folder}: another file system is mounted at {mounted} in it, unmount that first"
    )))
}

/// The first mount point below a folder (Linux, proc(5), `/proc/pid/mountinfo`).
fn mounted_below(folder: &Path) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let plain = |point: &str| {
        [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
            .iter()
            .fold(point.to_owned(), |point, (code, plain)| point.replace(code, plain))
    };
    points.map(|point| PathBuf::from(plain(point))).find(|point| point.starts_with(folder) && point != folder)
}
