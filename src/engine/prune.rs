//! Retention carried out: the plan is pure, this deletes what it says, manifest first.

use crate::base::chain;
use crate::catalog::{Damaged, Entry, Listing, PendingRemoval, RemovalOutcome};
use crate::domain::component::ComponentName;
use crate::domain::id::BackupId;
use crate::domain::labels::{Operation, Refusal, RunResult};
use crate::domain::report::{KeptBackup, PruneReport};
use crate::domain::retention::{Candidate, KeepReason, Policy, RetentionPlan, needed};
use crate::engine::destinations::{clock_doubt, newest_is_suspect};
use crate::engine::{ComponentLock, Engine, EngineError, Run};
use jiff::Timestamp;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Backups deleted at once: as many as a bucket deletes in one request.
const BATCH: usize = 1000;

/// An order to run retention.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PruneRequest {
    /// The component, or all.
    pub component: Option<ComponentName>,
    /// The number of days, in the place of the setting.
    pub retention_days: Option<u32>,
    /// True if the report only tells which backups would be deleted.
    pub dry_run: bool,
    /// True if somebody has looked at the clock, and the clock is right although it stands
    /// [far after the backups](crate::domain::clock_doubt::ClockDoubt).
    pub trust_clock: bool,
}

impl Engine {
    /// Deletes the backups that retention no longer keeps, component by component.
    ///
    /// A backup that cannot be deleted is reported and tried again next time; the rest goes on.
    ///
    /// # Errors
    ///
    /// When the catalogue cannot be read, or the one component that was asked for is busy: then
    /// nothing was deleted.
    pub async fn prune(&self, request: PruneRequest, run: &Run) -> Result<PruneReport, EngineError> {
        let mut report =
            PruneReport { status: "success".to_owned(), dry_run: request.dry_run, ..PruneReport::default() };
        for name in ComponentName::ALL {
            if request.component.is_none_or(|only| only == name) {
                self.prune_component(name, request, run, &mut report).await?;
            }
        }
        if !request.dry_run {
            self.changes.note();
        }
        Ok(report)
    }

    /// One component, of which the app's database is told; but not of what was never backed up.
    async fn prune_component(
        &self,
        name: ComponentName,
        request: PruneRequest,
        run: &Run,
        report: &mut PruneReport,
    ) -> Result<(), EngineError> {
        let is_wanted = request.component.is_some() || self.configured().contains(&name);
        let recording =
            (is_wanted && !request.dry_run).then(|| self.record(Operation::Prune, name, run)).flatten();
        let (status, dry_run) = (report.status.clone(), report.dry_run);
        let mut own = PruneReport { status, dry_run, ..PruneReport::default() };
        let outcome = if request.dry_run {
            self.prune_one(name, request, None, &mut own).await
        } else {
            let prune =
                async |held: &mut ComponentLock| self.prune_one(name, request, Some(held), &mut own).await;
            self.locked(name, &Run::default(), prune).await
        };
        let outcome = match outcome {
            // The rest can go on; that run is followed by retention of its own.
            Err(err @ EngineError::Busy { .. }) if request.component.is_none() => {
                own.problems.push(chain(&err));
                Ok(())
            }
            outcome => outcome,
        };
        if let Some(recording) = recording {
            recording.end(outcome.as_ref().map(|()| (json!(own), own.problems.clone())));
        }
        report.deleted.append(&mut own.deleted);
        report.deleted_from.append(&mut own.deleted_from);
        report.kept.append(&mut own.kept);
        report.locked.append(&mut own.locked);
        report.problems.append(&mut own.problems);
        outcome
    }

    async fn prune_one(
        &self,
        name: ComponentName,
        request: PruneRequest,
        held: Option<&mut ComponentLock>,
        report: &mut PruneReport,
    ) -> Result<(), EngineError> {
        let began = self.clock.now();
        let listing = self.catalog.list(Some(name)).await?;
        let prunable = self.prunable(name, request, &listing, held.is_some(), report);
        // Without the lock there is only a plan.
        let Some(held) = held else {
            for (id, from) in prunable {
                report.deleted_from.insert(id.clone(), from.into_iter().map(str::to_owned).collect());
                report.deleted.push(id);
            }
            return Ok(());
        };
        let entries: HashMap<_, _> = listing.entries.iter().map(|entry| (&entry.backup_id, entry)).collect();
        let prunable: Vec<_> = prunable
            .iter()
            .map(|(id, from)| PendingRemoval { entry: entries[id], from: from.clone() })
            .collect();
        let problems = report.problems.len();
        for batch in prunable.chunks(BATCH) {
            if let Err(err) = self.delete(batch, held, report).await {
                let error = chain(&err);
                tracing::warn!(error, "retention stops");
                report.problems.push(error);
                break;
            }
        }
        let swept = async {
            held.confirm().await?;
            match prunable.as_slice() {
                [] => self.sweep(name, &listing).await,
                // The new listing lacks the backups that are gone by now.
                _ => self.sweep(name, &self.catalog.list(Some(name)).await?).await,
            }
        };
        if let Err(err) = swept.await {
            let error = chain(&err);
            tracing::warn!(error, "something is left of backups that are gone");
            report.problems.push(error);
        }
        let failed = report.problems.len() > problems;
        let result = if failed { RunResult::Failure } else { RunResult::Success };
        let took = self.clock.now().duration_since(began).unsigned_abs();
        self.observer.pruned(name, result, took);
        Ok(())
    }

    /// Removes the files that the component's own server keeps of deleted backups, where all living ones are known.
    async fn sweep(&self, name: ComponentName, listing: &Listing) -> Result<(), EngineError> {
        let Ok(component) = self.component(name) else { return Ok(()) };
        if !listing.unreachable.is_empty() || !listing.damaged.is_empty() || !listing.orphans.is_empty() {
            return Ok(());
        }
        let manifests = listing.entries.iter().filter_map(Entry::manifest);
        let living: Vec<_> = manifests.map(|manifest| &manifest.facts).collect();
        let done = component.sweep(&living).await;
        let done = done.map_err(|source| EngineError::Component { component: name, source })?;
        for line in done {
            tracing::info!("{line}");
        }
        Ok(())
    }

    /// Returns the backups that may go, and the destinations that they may go from: the rule holds in each destination
    /// by itself, so that each has backups of its own to go back to. The report names the backups that stay in at
    /// least one.
    fn prunable(
        &self,
        name: ComponentName,
        request: PruneRequest,
        listing: &Listing,
        for_real: bool,
        report: &mut PruneReport,
    ) -> BTreeMap<BackupId, Vec<&'static str>> {
        let now = self.clock.now();
        let is_listed =
            |damaged: &&Damaged| listing.entries.iter().any(|entry| entry.backup_id == damaged.backup_id);
        if let Some(damaged) = listing.damaged.iter().find(|damaged| !is_listed(damaged)) {
            let why = "nothing is deleted while a manifest cannot be read, which may be of a backup that needs what \
                       would go: give the right to read it, mend it by `rna-backup catalog rebuild`, or remove it";
            report.problems.push(format!("{why}: {}", chain(damaged)));
            return BTreeMap::new();
        }
        let suspect = newest_is_suspect(listing.entries.iter().filter(|entry| !entry.is_ahead(now)));
        let clock_doubt = clock_doubt(&listing.entries, now).filter(|_| !request.trust_clock);
        let plans = self.plans(self.policy.with_days(request.retention_days), listing, now, report);
        let builds_on: HashMap<_, _> =
            listing.entries.iter().map(|entry| (&entry.backup_id, entry.builds_on())).collect();
        let staying = plans.iter().flat_map(|(_, plan)| plan.keep.iter().map(|(id, _)| id));
        let needed = needed(staying, |id| builds_on.get(id).copied().unwrap_or_default());
        let mut prunable = BTreeMap::<BackupId, Vec<_>>::new();
        let (mut kept, mut held_back, mut waits) = (BTreeSet::new(), false, false);
        for (destination, mut plan) in plans {
            plan.spare(&needed);
            held_back |= suspect && plan.hold_back(KeepReason::HeldBack);
            waits |= clock_doubt.is_some() && plan.hold_back(KeepReason::ClockInDoubt);
            for (backup_id, why) in plan.keep {
                if kept.insert(backup_id.clone()) {
                    report.kept.push(KeptBackup { backup_id, why: why.to_string() });
                }
            }
            for id in plan.delete {
                prunable.entry(id).or_default().push(destination);
            }
        }
        if held_back && for_real {
            tracing::warn!(component = %name, "retention deletes nothing: {}", KeepReason::HeldBack);
            self.observer.refused(Refusal::Anomaly);
        }
        if let Some(doubt) = clock_doubt.filter(|_| waits && for_real) {
            tracing::warn!(component = %name, "retention deletes nothing: {doubt}");
            self.observer.refused(Refusal::Clock);
        }
        prunable
    }

    /// The plan of the rule for each destination; the report tells of a destination that cannot be read.
    fn plans(
        &self,
        policy: Policy,
        listing: &Listing,
        now: Timestamp,
        report: &mut PruneReport,
    ) -> Vec<(&'static str, RetentionPlan)> {
        let mut plans = Vec::new();
        for store in self.catalog.stores() {
            let destination = store.destination();
            if let Some(unreachable) =
                listing.unreachable.iter().find(|unreachable| unreachable.destination == destination)
            {
                report.problems.push(chain(unreachable));
                continue;
            }
            let entries = listing.entries.iter();
            let candidates: Vec<Candidate> =
                entries.filter_map(|entry| entry.candidate(destination)).collect();
            plans.push((destination, policy.plan(&candidates, now)));
        }
        plans
    }

    /// All manifests of a batch first, then the archives; a crash in between is finished by the next run.
    async fn delete(
        &self,
        batch: &[PendingRemoval<'_>],
        held: &mut ComponentLock,
        report: &mut PruneReport,
    ) -> Result<(), EngineError> {
        // Unlike a backup, this can wait.
        held.confirm().await?;
        held.note(Some(&archives_of(batch).join("\n"))).await?;
        let outcomes = self.catalog.delete_all(batch).await;
        let mut left: Vec<_> = held.left_behind().into_iter().map(str::to_owned).collect();
        for (removal, outcome) in batch.iter().zip(outcomes) {
            if outcome.failed.is_some() {
                left.extend(archives_of(std::slice::from_ref(removal)));
            }
            self.tell(&removal.entry.backup_id, &outcome, report);
        }
        held.leave(&left).await
    }

    /// Records the removal of one backup in the report, in the log and in the metrics.
    fn tell(&self, id: &BackupId, outcome: &RemovalOutcome, report: &mut PruneReport) {
        if !outcome.from.is_empty() {
            tracing::info!(backup_id = %id, from = outcome.from.join(", "), "retention deleted a backup");
            for destination in &outcome.from {
                self.observer.deleted(id.component(), destination);
            }
            report.deleted_from.insert(id.clone(), outcome.from.iter().map(ToString::to_string).collect());
            report.deleted.push(id.clone());
        }
        for (_, err) in &outcome.refused {
            self.observer.refused(if err.is_lock() { Refusal::Locked } else { Refusal::Denied });
        }
        let refused = outcome.refused.iter().map(|(_, err)| (err, err.is_lock()));
        for (err, is_locked) in refused.chain(outcome.failed.iter().map(|err| (err, false))) {
            let error = chain(err);
            tracing::warn!(backup_id = %id, error, "retention cannot delete a backup");
            // An object lock was ordered by somebody, so it is no fault.
            let told = if is_locked { &mut report.locked } else { &mut report.problems };
            told.push(format!("{id}: {error}"));
        }
    }

    /// Retention after a backup: never a reason for the backup to fail.
    pub(super) async fn prune_after(
        &self,
        component: ComponentName,
        held: &mut ComponentLock,
    ) -> Vec<BackupId> {
        let mut report = PruneReport::default();
        if let Err(err) = self.prune_one(component, PruneRequest::default(), Some(held), &mut report).await {
            tracing::warn!(error = chain(&err), "retention did not run");
        }
        report.deleted
    }
}

/// The archives of a batch that are to go, as they are written down in the lock file.
fn archives_of(batch: &[PendingRemoval<'_>]) -> Vec<String> {
    let copies = batch.iter().flat_map(|removal| {
        removal.entry.copies.iter().filter(|copy| removal.from.contains(&copy.destination.as_str()))
    });
    copies.map(|copy| format!("{}/{}", copy.destination, copy.key)).collect()
}
