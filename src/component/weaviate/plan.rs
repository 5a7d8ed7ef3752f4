//! The plan of a restore, found out without touching anything.

use crate::component::ComponentError;
use crate::component::scratch::free_bytes;
use crate::component::stage::{Plan, RestoreMode};
use crate::component::weaviate::Weaviate;
use crate::component::weaviate::class::Classes;
use crate::component::weaviate::export::not_kept;
use crate::component::weaviate::index::BackupBackend;
use crate::component::weaviate::journal::Journal;
use crate::component::weaviate::replace::names;
use crate::component::weaviate::requirements::Requirements;
use crate::component::weaviate::restore::chosen;
use crate::component::weaviate::steps::CheckContext;
use crate::component::weaviate::target::ClassTarget;
use crate::domain::facts::Facts;
use std::collections::BTreeSet;

impl Weaviate {
    /// The plan of a restore.
    pub(super) async fn planned(
        &self,
        target: &ClassTarget,
        facts: Option<&Facts>,
    ) -> Result<Plan, ComponentError> {
        let server = self.target_server(target).await?;
        let requirements = facts.map(|facts| Requirements::of_manifest(facts, target)).transpose()?;
        let requirements = requirements.unwrap_or_default();
        let counts = facts.map(|facts| facts.counts.classes.clone());
        let all: Option<BTreeSet<String>> = counts.as_ref().map(|counts| counts.keys().cloned().collect());
        let wanted = all.as_ref().map(|all| chosen(target, all)).transpose()?;
        // Classes are asked for by name, so that one which the key may not see is not taken for one that is not there.
        let going = server.classes(wanted.as_ref()).await?;
        let mode = if *target == ClassTarget::Scratch { RestoreMode::Drill } else { RestoreMode::DryRun };
        let context = CheckContext {
            weaviate: self,
            target,
            server: &server,
            requirements: &requirements,
            bring: wanted.as_ref(),
            live: &going,
            index: None,
        };
        let not_tried = context.ask_all_of(mode, &counts.unwrap_or_default()).await?;
        let due = Journal::open(&self.config.state).await?.notes.still_due();
        let due = due.filter(|_| *target != ClassTarget::Scratch);
        let (needs_bytes, free_bytes) = self.room(requirements.backend, facts, &going);
        let mut plan = Plan {
            replaces: match target {
                ClassTarget::Scratch => format!("nothing: classes on {}, deleted again", server.client.address()),
                _ => replaced(&going, wanted.iter().flatten()),
            },
            method: "a safety backup of those classes; then class by class: delete, restore, count; a class that fails \
                     is put back from the safety backup"
                .to_owned(),
            needs_bytes,
            free_bytes,
            downtime: match target {
                ClassTarget::Scratch => "none",
                _ => "each class is missing while it is restored",
            }
            .to_owned(),
            versions: vec![format!("weaviate {}", server.version)],
            warnings: due.into_iter().chain(facts.and_then(not_kept)).chain(facts.into_iter().flat_map(said)).collect(),
            advice: Vec::new(),
            lost_rights: None,
            refuses: Vec::new(),
            not_tried,
            looks_into_archive: false,
            is_elsewhere: false,
        };
        if *target == ClassTarget::LiveWithAccess {
            plan.warnings.push(ACCESS.to_owned());
        }
        if let Some(made_by) = requirements.made_by {
            plan.versions.push(format!("backup made by weaviate {made_by}"));
        }
        if let (ClassTarget::Live | ClassTarget::LiveWithAccess, Some(wanted)) = (target, &wanted) {
            let there = server.definitions().await.map_err(|fault| fault.of("read Weaviate's schema"))?;
            plan.warnings.extend(staying(there.into_keys().collect(), wanted));
            plan.advice.push(WRITERS.to_owned());
        }
        Ok(plan)
    }

    /// The bytes that a restore of a backup by this backend needs on disk beside what is `going`, and the bytes that are free
    /// there. `None` for `s3`: backup and safety copy both lie in the bucket.
    fn room(
        &self,
        backend: Option<BackupBackend>,
        facts: Option<&Facts>,
        going: &Classes,
    ) -> (Option<u64>, Option<u64>) {
        let notes = self.config.state.ancestors().find(|folder| folder.exists());
        let folder = match backend {
            Some(BackupBackend::S3) => return (None, None),
            Some(BackupBackend::Export) => notes,
            Some(BackupBackend::Filesystem) | None => self.config.dir.as_deref().or(notes),
        };
        let there = going.values().map(|class| class.objects.number()).sum();
        (facts.map(|facts| needed(facts, there)), folder.and_then(free_bytes))
    }
}

/// The warning of a plan about live classes that the backup does not have.
fn staying(there: BTreeSet<String>, wanted: &BTreeSet<String>) -> Option<String> {
    let stay: BTreeSet<_> = there.into_iter().filter(|name| !wanted.contains(name)).collect();
    (!stay.is_empty())
        .then(|| format!("Classes that the backup does not have stay as they are: {}.", names(&stay)))
}

/// The classes that go, each with the number of its objects, and those that come anew.
fn replaced<'a>(going: &Classes, wanted: impl Iterator<Item = &'a String>) -> String {
    let described: Vec<_> =
        going.iter().map(|(name, class)| format!("{name} ({} objects)", class.objects.after)).collect();
    let what = if described.is_empty() {
        "nothing: none of its classes is there".to_owned()
    } else {
        format!("classes {}", described.join(", "))
    };
    let new: BTreeSet<_> = wanted.filter(|name| !going.contains_key(*name)).cloned().collect();
    if new.is_empty() { what } else { format!("{what}; new: {}", names(&new)) }
}

/// The warnings of the backup itself that matter to a restore: those about its backend are answered by the plan.
fn said(facts: &Facts) -> impl Iterator<Item = String> {
    let matters = |warning: &&String| !warning.contains("BACKUP_WEAVIATE_BACKEND");
    facts.warnings.iter().filter(matters).map(|warning| format!("When the backup was made: {warning}"))
}

/// The advice of a plan that replaces live classes.
const WRITERS: &str = "Stop what writes to Weaviate first: what is written meanwhile is lost or mixed in.";

/// The warning of a plan to restore users and roles.
const ACCESS: &str = "Users, roles and keys of the backup take the place of those that there are: the key of \
                      WEAVIATE_API_KEY must be one of them, or stand in the environment of Weaviate. `undo` brings back \
                      classes alone.";

/// The bytes that a restore needs: the backup unpacked, and a copy of the objects that are `there`, which takes about as
/// much for each object.
fn needed(facts: &Facts, there: u64) -> u64 {
    let unpacked = facts.source_bytes;
    let brought: u64 = facts.counts.classes.values().sum();
    let copied = u128::from(unpacked) * u128::from(there) / u128::from(brought.max(1));
    unpacked.saturating_add(u64::try_from(copied).unwrap_or(u64::MAX))
}

#[test]
fn a_restore_needs_room_for_the_backup_and_for_as_much_of_each_object_that_is_there() {
    use crate::domain::facts::Counts;
    let facts = |objects: u64| {
        let classes = [("Paper".to_owned(), objects)].into();
        Facts { source_bytes: 1000, counts: Counts { classes, ..Counts::default() }, ..Facts::default() }
    };
    for (brought, there, bytes) in [(100, 0, 1000), (100, 100, 2000), (100, 300, 4000), (0, 2, 3000)] {
        assert_eq!(needed(&facts(brought), there), bytes, "{brought} {there}");
    }
    assert_eq!(needed(&Facts { source_bytes: u64::MAX, ..facts(1) }, 7), u64::MAX);
}
