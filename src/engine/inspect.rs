//! The look at one backup: every copy that can be read, once, from its first byte to its last.

use crate::base::chain;
use crate::catalog::{Entry, Origin, StoredCopy};
use crate::component::Component;
use crate::domain::id::BackupId;
use crate::domain::listing::BackupState;
use crate::domain::manifest::{Manifest, VerifyLevel};
use crate::domain::progress::Meter;
use crate::domain::report::{CheckedCopy, Verification};
use crate::engine::uploads::read_all;
use crate::engine::{Engine, EngineError, Run};
use crate::store::StoreError;

/// The report of a backup before the first look at it.
pub(super) fn nothing_yet(backup_id: BackupId, level: VerifyLevel) -> Verification {
    Verification {
        component: backup_id.component(),
        backup_id,
        level,
        ok: false,
        destinations: Vec::new(),
        problems: Vec::new(),
        warnings: Vec::new(),
        not_tried: Vec::new(),
    }
}

/// Returns the reason that a backup cannot be looked at.
fn nothing_to_compare(entry: &Entry, level: VerifyLevel) -> Option<&'static str> {
    match entry.origin {
        Origin::Newer(_) => Some("was made by a newer rna-backup: verify it with that one"),
        Origin::Legacy if level < VerifyLevel::Decode => {
            Some("has no manifest, and so no hash to compare with: decode it")
        }
        Origin::Legacy | Origin::Manifest(_) => None,
    }
}

const OF_OLD_TASKS: &str = "was made by the app's old tasks, which noted neither hash nor counts: it was read to its \
                            end, but there is nothing to compare it with";

/// Returns the reason that a copy which is whole as far as `level` tells is still counted on no more.
fn stays_marked(entry: &Entry, checked: &CheckedCopy, level: VerifyLevel) -> Option<String> {
    let at = &checked.destination;
    let mark = entry.manifest()?.objects.iter().find(|object| object.destination == *at)?;
    let farther = mark.found?.level;
    if !checked.problems.is_empty() || farther <= level {
        return None;
    }
    let farther = farther.as_str();
    Some(format!(
        "{at}: it stays marked as damaged: a verification to level {farther} found that, and only one that goes as far \
         takes it back"
    ))
}

/// The report of a backup before any copy of it is read: with a problem if there is nothing to compare copies with.
fn begun(reader: &Component, entry: &Entry, level: VerifyLevel) -> Verification {
    let why = match &reader.restorable {
        Some(restorable) => restorable.drill_unsupported(),
        None => Some("this version cannot restore it"),
    };
    let (level, why) = match why {
        Some(why) if level == VerifyLevel::Drill => (VerifyLevel::Decode, Some(why)),
        _ => (level, None),
    };
    let mut found = nothing_yet(entry.backup_id.clone(), level);
    found.warnings.extend(why.map(|why| format!("it was read to its end, and not restored: {why}")));
    if let Some(why) = nothing_to_compare(entry, level) {
        found.problems.push(why.to_owned());
        return found;
    }
    if matches!(entry.origin, Origin::Legacy) {
        found.warnings.push(OF_OLD_TASKS.to_owned());
    }
    if let Some(flag) = entry.manifest().and_then(Manifest::flag) {
        found.warnings.push(format!("a restore of `latest` passes over it: {flag}"));
    }
    found
}

/// Looks at every copy of a backup that can be read. Also tells of one that cannot, and then it is not said that
/// the backup is whole.
pub(super) async fn inspect(
    engine: &Engine,
    reader: &Component,
    entry: &Entry,
    level: VerifyLevel,
    run: &Run,
) -> Result<(Verification, Option<(String, EngineError)>), EngineError> {
    let mut found = begun(reader, entry, level);
    if !found.problems.is_empty() {
        return Ok((found, None));
    }
    let level = found.level;
    let (mut to_drill, mut unread) = (level == VerifyLevel::Drill, None);
    for copy in &entry.copies {
        let within = if to_drill { VerifyLevel::Checksum } else { level.min(VerifyLevel::Decode) };
        let (mut checked, mut locked) = match check(engine, reader, entry, copy, within, run).await {
            Err(err) if err.is_unread() => {
                unread = unread.or(Some((copy.destination.clone(), err)));
                continue;
            }
            checked => checked?,
        };
        if to_drill && checked.problems.is_empty() {
            match engine.drill(reader, entry, copy, run).await {
                // The archive may be what it was made as, and another server would take it: it is not
                // marked, but nobody should have to find that out on a bad day.
                Err(err) if err.is_refusal() => {
                    let why = format!("{}: it cannot be restored: {}", copy.destination, chain(&err));
                    found.problems.push(why);
                    to_drill = false;
                }
                Err(err @ EngineError::Locked { .. }) => locked = Some(chain(&err)),
                Err(err) if err.is_unread() => {
                    unread = unread.or(Some((copy.destination.clone(), err)));
                    continue;
                }
                // An archive that this one builds on may be known to be damaged.
                Err(EngineError::Damaged { problems }) => checked.find(problems, VerifyLevel::Decode),
                problems => {
                    checked.find(problems?, VerifyLevel::Drill);
                    // The fault of one copy may be the fault of each.
                    to_drill = !checked.problems.is_empty();
                }
            }
        }
        if let Some(locked) = locked {
            found.level = VerifyLevel::Checksum;
            found.warnings.push(format!("{}: only its hash was compared: {locked}", copy.destination));
        }
        found.warnings.extend(stays_marked(entry, &checked, level));
        let prefixed = checked.problems.iter().map(|problem| format!("{}: {problem}", copy.destination));
        found.problems.extend(prefixed);
        found.destinations.push(checked);
    }
    found.ok = found.problems.is_empty() && unread.is_none();
    Ok((found, unread))
}

/// Reads one copy once, from its first byte to its last. Tells also why its contents could not be looked at.
async fn check(
    engine: &Engine,
    reader: &Component,
    entry: &Entry,
    copy: &StoredCopy,
    level: VerifyLevel,
    run: &Run,
) -> Result<(CheckedCopy, Option<String>), EngineError> {
    let checked = |bytes, state, problems| {
        let (destination, location) = (copy.destination.clone(), copy.location.clone());
        CheckedCopy { destination, location, bytes, state, problems, found_by: None }
    };
    let missing = |why: &str| Ok((checked(None, BackupState::Missing, vec![why.to_owned()]), None));
    if engine.catalog.store(&copy.destination).is_none() {
        return missing("this destination is not configured");
    }
    let mut archive = engine.archive_of(entry.clone(), copy.clone()).await?;
    run.meter.begin("verify", copy.bytes);
    let stored = match archive.metered_reader(&run.meter).await {
        Err(EngineError::Store(StoreError::NotFound { .. })) => return missing("the archive is missing"),
        opened => opened?,
    };
    // An archive that names files elsewhere is nothing without them, so their hashes are part of its own.
    let names_files = entry.manifest().is_some_and(|manifest| manifest.facts.server_backup.is_some());
    let decode = level >= VerifyLevel::Decode || names_files;
    let bases = if decode { engine.find_bases(&mut archive).await } else { Ok(()) };
    let mut opened = archive.opened(stored).await?;
    let decoded = match bases {
        Ok(()) if decode => opened.decode(reader).await,
        bases => bases.map(|()| Vec::new()),
    };
    let (mut problems, mut locked) = (Vec::new(), None);
    match decoded {
        Ok(differences) => problems = differences,
        Err(EngineError::Damaged { problems: damage }) => problems = damage,
        Err(err @ EngineError::Locked { .. }) => locked = Some(chain(&err)),
        Err(err) => return Err(err),
    }
    let (mut stored, of_bases) = opened.problems_of_bases().await?;
    problems.extend(of_bases);
    read_all(&mut stored, &Meter::default()).await?;
    let (bytes, problem) = archive.problem(stored);
    let found_by = if problem.is_some() { VerifyLevel::Checksum } else { level };
    problems.splice(0..0, problem);
    let mut checked = checked(Some(bytes), BackupState::Ok, Vec::new());
    checked.find(problems, found_by);
    Ok((checked, locked))
}
