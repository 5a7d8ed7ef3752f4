//! The plan of a restore, found out without touching anything that is live.

use crate::component::media::{
    count::count,
    extended::is_held,
    layers::is_layered,
    staging_area::StagingRoot,
    steps::{Prepared, RestorePaths, prepare, staging_root_of},
    target::MediaTarget,
};
use crate::component::{
    ComponentError,
    stage::{Plan, RestoreMode},
};
use crate::domain::facts::{AttributeCounts, Facts, FileCounts};
use crate::stream::tar::AttributeKind;
use rustix::{
    process::geteuid,
    thread::{CapabilitySet, capabilities},
};

/// The plan of a restore, blocking. An area is made to try the file system, and removed.
pub(super) fn plan(
    paths: &RestorePaths,
    target: &MediaTarget,
    facts: Option<&Facts>,
) -> Result<Plan, ComponentError> {
    let mode = if *target == MediaTarget::Scratch { RestoreMode::Drill } else { RestoreMode::DryRun };
    // Before there is an area: a run of another process that finds one in use does not begin.
    let live = match target {
        MediaTarget::Scratch => Ok(None),
        target => staging_root_of(&paths.root, target)
            .and_then(|staging| staging.live()?.map(|live| count(&live)).transpose()),
    };
    let prepared = prepare(mode, paths, target, promise(facts))?;
    let described = live.map(|live| describe(&prepared, live, target, facts));
    let removed = prepared.area.remove();
    described.and_then(|plan| removed.map(|()| plan))
}

fn describe(
    prepared: &Prepared,
    live: Option<FileCounts>,
    target: &MediaTarget,
    facts: Option<&Facts>,
) -> Plan {
    let (staging, capabilities) = (&prepared.area.staging, prepared.capabilities);
    let place = staging.live_path().display().to_string();
    let promised = promise(facts);
    let mut plan = Plan {
        replaces: match (target, live) {
            (MediaTarget::Scratch, _) => format!("nothing: a copy beside {place}, thrown away"),
            (_, None) => format!("nothing: folder {place} is not there yet"),
            (_, Some(live)) => {
                format!("folder {place} ({} files, {} bytes)", live.files + live.hard_links, live.bytes)
            }
        },
        method: match target {
            MediaTarget::Scratch => "copy, count, throw away",
            _ => prepared.method(),
        }
        .to_owned(),
        needs_bytes: facts.and_then(needed),
        free_bytes: prepared.free,
        downtime: match target {
            MediaTarget::Scratch => "none",
            _ => prepared.downtime(),
        }
        .to_owned(),
        is_elsewhere: matches!(target, MediaTarget::Folder(_)),
        ..Plan::default()
    };
    plan.warnings.extend(capabilities.losses(promised).into_iter().map(|loss| format!("{place}: {loss}")));
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
    if *target == MediaTarget::Live && live.is_some() && is_layered(&staging.folder) {
        plan.warnings.push(format!(
            "{place} is on a file system of layers: folders that come from an image cannot be replaced, mount a volume there."
        ));
    }
    plan.advice.extend(losses(staging, facts.and_then(|facts| facts.counts.attributes)));
    match &staging.live {
        None if *target != MediaTarget::Scratch => plan.warnings.push(format!(
            "{place} is a mount point, or its parent folder is closed to us: its entries are exchanged one by one."
        )),
        Some(_) if live.is_some() && *target == MediaTarget::Live => plan.warnings.push(format!(
            "Who has mounted {place} elsewhere, as containers do, sees the old files until it is mounted again."
        )),
        _ => {}
    }
    plan
}

/// The attributes of a backup that would be lost, as far as that can be known without writing.
fn losses(staging: &StagingRoot, attributes: Option<AttributeCounts>) -> Vec<String> {
    let mut promised = attributes.unwrap_or_default();
    let (mut unsupported, mut denied) = (AttributeCounts::default(), AttributeCounts::default());
    for kind in AttributeKind::ALL {
        let count = *kind.count_in(&mut promised);
        if !is_held(&staging.folder, kind) {
            *kind.count_in(&mut unsupported) = count;
        } else if !may_be_set(kind) {
            *kind.count_in(&mut denied) = count;
        }
    }
    let place = staging.path.display();
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
