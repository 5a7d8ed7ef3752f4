//! Retention carried out: the plan is pure, this deletes what it says, manifest first.

use crate::base::chain;
use crate::catalog::Entry;
use crate::domain::component::ComponentName;
use crate::domain::id::BackupId;
use crate::domain::report::{Kept, PruneReport};
use crate::domain::retention::Candidate;
use crate::engine::{Engine, EngineError, FleetError, Held, Run, Standing};
use crate::observe::labels::{Operation, RunResult};

/// An order to run retention.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PruneRequest {
    /// Of one component, or of all.
    pub component: Option<ComponentName>,
    /// Instead of the setting.
    pub retention_days: Option<u32>,
    /// Only say what would be deleted.
    pub dry_run: bool,
}

impl Engine {
    /// Deletes what retention no longer keeps, component by component.
    ///
    /// What cannot be deleted is reported and tried again next time; the rest goes on.
    ///
    /// # Errors
    ///
    /// When the catalogue cannot be read, or the one component that was asked for is busy: then
    /// nothing was deleted.
    pub async fn prune(&self, request: PruneRequest) -> Result<PruneReport, EngineError> {
        let mut report =
            PruneReport { status: "success".to_owned(), dry_run: request.dry_run, ..PruneReport::default() };
        for name in ComponentName::ALL {
            if request.component.is_none_or(|wanted| wanted == name) {
                self.prune_alone(name, request, &mut report).await?;
            }
        }
        if !request.dry_run {
            self.refresh_metrics().await;
        }
        Ok(report)
    }

    async fn prune_alone(
        &self,
        name: ComponentName,
        request: PruneRequest,
        report: &mut PruneReport,
    ) -> Result<(), EngineError> {
        if request.dry_run {
            return self.prune_one(name, request, None, report).await;
        }
        match self.take(name, &Run::default()).await {
            Ok(mut held) => {
                let outcome = self.prune_one(name, request, Some(&mut held), report).await;
                held.free().await;
                outcome
            }
            // The rest can go on; that run is followed by retention of its own.
            Err(err @ EngineError::Busy { .. }) if request.component.is_none() => {
                report.problems.push(chain(&err));
                Ok(())
            }
            Err(err) => Err(err),
        }
    }

    async fn prune_one(
        &self,
        name: ComponentName,
        request: PruneRequest,
        held: Option<&mut Held>,
        report: &mut PruneReport,
    ) -> Result<(), EngineError> {
        let began = self.clock.now();
        let entries = self.catalog.list(Some(name)).await?.entries;
        let destination = self.store.destination();
        let candidates: Vec<Candidate> =
            entries.iter().filter_map(|entry| entry.candidate(destination, false)).collect();
        let plan = self.policy.with_days(request.retention_days).plan(&candidates, began);
        let kept = plan.keep.into_iter().map(|(backup_id, why)| Kept { backup_id, why: why.to_string() });
        report.kept.extend(kept);
        // Without the lock there is only a plan.
        let Some(held) = held else {
            report.deleted.extend(plan.delete);
            return Ok(());
        };
        let mut result = RunResult::Success;
        for id in plan.delete {
            let entry =
                entries.iter().find(|entry| entry.backup_id == id).expect("the plan names candidates");
            match self.delete(entry, held).await {
                Ok(()) => {
                    tracing::info!(backup_id = %id, "retention deleted a backup");
                    self.metrics.deleted(name, destination);
                    report.deleted.push(id);
                }
                Err(err) => {
                    result = RunResult::Failure;
                    let error = chain(&err);
                    tracing::warn!(backup_id = %id, error, "retention cannot delete a backup");
                    report.problems.push(format!("{id}: {error}"));
                }
            }
        }
        let took = self.clock.now().duration_since(began).unsigned_abs();
        self.metrics.run_ended(name, Operation::Prune, result, took);
        Ok(())
    }

    /// Manifest first, then the archive; a crash in between is finished by the next run.
    async fn delete(&self, entry: &Entry, held: &mut Held) -> Result<(), EngineError> {
        let component = entry.component();
        match held.standing().await {
            Standing::Ours => {}
            Standing::Lost => return Err(EngineError::LockLost { component }),
            // Unlike a backup, this can wait.
            Standing::Unknown => return Err(EngineError::Fleet { component, source: FleetError::Away }),
        }
        held.note(entry.copies.first().map(|copy| copy.key.as_str()))?;
        self.catalog.delete(entry).await?;
        held.note(None)
    }

    /// Retention after a backup: never a reason for the backup to fail.
    pub(super) async fn prune_after(&self, component: ComponentName, held: &mut Held) -> Vec<BackupId> {
        let mut report = PruneReport::default();
        if let Err(err) = self.prune_one(component, PruneRequest::default(), Some(held), &mut report).await {
            tracing::warn!(error = chain(&err), "retention did not run");
        }
        report.deleted
    }
}
