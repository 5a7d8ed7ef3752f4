//! Restore: prove the archive, stage it beside the live data, compare, swap. And undo.

use crate::base::chain;
use crate::component::{Component, ComponentError, Plan, RestoreMode, RestoreOrder, Staged, Target};
use crate::domain::component::ComponentName;
use crate::domain::facts::Facts;
use crate::domain::labels::Operation;
use crate::domain::report::{RestorePlan, RestoreReport, SkippedBackup, UndoReport};
use crate::engine::archive::{Archive, rest_of, unusable};
use crate::engine::redelivery::{failed, undo_point};
use crate::engine::retry_hint::{complete, may_lose_rights, with_retry_hint};
use crate::engine::watched::{abortable, watched};
use crate::engine::{ComponentLock, Engine, EngineError, Run};

/// An order to restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreRequest {
    /// The component.
    pub component: ComponentName,
    /// The backup: an id, a file name, `latest`, a path inside a destination.
    pub reference: String,
    /// The target of the restored copy.
    pub target: Target,
    /// Names of objects that may be missing afterwards, if they cannot be made.
    pub without: Vec<String>,
    /// True if the restore may lose owners and privileges.
    pub without_rights: bool,
}

impl Engine {
    /// Plans a restore, without touching anything.
    ///
    /// # Errors
    ///
    /// The error that the restore would fail with before it began.
    pub async fn plan_restore(&self, request: &RestoreRequest) -> Result<RestorePlan, EngineError> {
        let component = self.component(request.component)?;
        let (mut archives, passed_over) =
            self.archives_to_restore(request.component, &request.reference).await?;
        let mut archive = archives.swap_remove(0);
        self.find_bases(&mut archive).await?;
        let mut plan = plan(component, &request.target, &archive).await?;
        complete(&mut plan, component, request, &archive).await?;
        let skipped = component
            .restorable()
            .map_err(|source| failed(component, source))?
            .skipped_steps(RestoreMode::DryRun);
        let described = described(request, &archive, plan, skipped);
        Ok(RestorePlan { passed_over, ..described })
    }

    /// Restores a backup. Whatever goes wrong, the live data is the old or the new, whole.
    ///
    /// The archive's hash is compared before anything is begun, and that of the very bytes that were
    /// staged once more; the staged copy's own counts are compared with the manifest before it takes
    /// the place of the live data.
    ///
    /// # Errors
    ///
    /// Then the live data is as it was, except that after a failure in the moment of the swap the next
    /// run on this component tells which of the two it is.
    pub async fn restore(&self, request: &RestoreRequest, run: &Run) -> Result<RestoreReport, EngineError> {
        let name = request.component;
        let work = async {
            let component = self.component(name)?;
            let restore = async |held: &mut ComponentLock| {
                recover(component).await?;
                if let Some(report) = self.restored_before(component, request, run).await? {
                    tracing::info!("this task has restored already");
                    return Ok(report);
                }
                let outcome = self.restore_held(component, request, run, held).await;
                if matches!(outcome, Err(EngineError::Cancelled)) {
                    discard_cancelled_copy(component).await;
                }
                outcome
            };
            self.locked(name, run, restore).await
        };
        self.recorded(Operation::Restore, name, run, |_| Vec::new(), Box::pin(work)).await
    }

    async fn restore_held(
        &self,
        component: &Component,
        request: &RestoreRequest,
        run: &Run,
        held: &ComponentLock,
    ) -> Result<RestoreReport, EngineError> {
        let (name, began) = (request.component, self.clock.now());
        let (archives, passed_over) = self.archives_to_restore(name, &request.reference).await?;
        let passed_over: Vec<_> = passed_over.iter().map(SkippedBackup::to_string).collect();
        for passed_over in &passed_over {
            tracing::warn!("{passed_over}");
        }
        let found = plan(component, &request.target, &archives[0]).await?;
        may_lose_rights(request, &found)?;
        tracing::info!(backup_id = %archives[0].entry.backup_id, replaces = found.replaces, "restore begins");
        let staging = async {
            let (mut archive, mut warnings) = self.first_intact(archives, &run.meter).await?;
            warnings.extend(self.find_intact_bases(&mut archive, &run.meter).await?);
            let staged = stage(component, &request.target, &request.without, &archive, run).await;
            let staged = staged.map_err(|err| with_retry_hint(err, request, &archive.entry.backup_id))?;
            Ok::<_, EngineError>((archive, staged, warnings))
        };
        let (archive, staged, warnings) = abortable(run, Some(held), staging).await?;
        let counts = staged.counts().clone();
        let ended = async {
            self.may_swap(&archive, &*staged, run, held).await?;
            // The data is locked since the copy was begun; another machine may have had it before.
            self.restored_before(component, request, run).await
        };
        if let Some(ended) = ended.await.transpose() {
            discard(staged).await;
            return ended;
        }
        let (kept, record) = self.swap(component, staged, &archive.entry.backup_id, run, held).await?;
        let took = self.clock.now().duration_since(began).as_secs_f64();
        tracing::info!(backup_id = %archive.entry.backup_id, seconds = took, "restored");
        let report = RestoreReport {
            counts,
            kept,
            duration_seconds: (took * 1000.0).round() / 1000.0,
            warnings: [
                passed_over,
                found.warnings,
                found.lost_rights.into_iter().collect(),
                warnings,
                run.meter.take_warnings(),
            ]
            .concat(),
            ..RestoreReport::new(
                name,
                &archive.entry.backup_id,
                &archive.copy.location,
                &component.source.address(),
            )
        };
        self.note_done(name, record, &report).await;
        Ok(report)
    }

    /// Checks that the copy holds the counts of the manifest, and that the component is still ours.
    async fn may_swap(
        &self,
        archive: &Archive,
        staged: &dyn Staged,
        run: &Run,
        held: &ComponentLock,
    ) -> Result<(), EngineError> {
        let problems = match archive.facts() {
            Some(facts) => staged.expected(&facts.counts).differences(staged.counts()),
            None => Vec::new(),
        };
        if !problems.is_empty() {
            return Err(EngineError::Damaged { problems });
        }
        if run.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        // A run that overwrites data needs to know for certain that its lock stands.
        held.confirm().await
    }

    /// Puts back the data that the last restore replaced.
    ///
    /// # Errors
    ///
    /// As [`restore`](Self::restore); [`EngineError::Unfit`] when nothing is kept.
    pub async fn undo(&self, component: ComponentName, run: &Run) -> Result<UndoReport, EngineError> {
        let work = async {
            let found = self.component(component)?;
            self.locked(component, run, async |held| self.undo_held(found, run, held).await).await
        };
        self.recorded(Operation::Undo, component, run, |_| Vec::new(), Box::pin(work)).await
    }

    async fn undo_held(
        &self,
        component: &Component,
        run: &Run,
        held: &ComponentLock,
    ) -> Result<UndoReport, EngineError> {
        recover(component).await?;
        let name = component.name();
        let undo = component.undo().map_err(|source| failed(component, source))?;
        let kept = undo_point(component).await?;
        if let Some(report) = self.undone_before(component, kept.as_ref(), run).await? {
            tracing::info!("this task has done its undo already");
            return Ok(report);
        }
        let Some(kept) = kept else {
            let hint = undo.undo_hint().await;
            let elsewhere = hint.map_err(|source| failed(component, source))?;
            let elsewhere = elsewhere.map_or_else(String::new, |elsewhere| format!("; {elsewhere}"));
            let what = format!("nothing to undo: no restore of {name} has set anything aside{elsewhere}");
            return Err(EngineError::Unfit { what });
        };
        held.confirm().await?;
        let note = self.about_to_undo(name, &kept, run).await?;
        let replaced = watched(name, run, held, undo.undo(note, &run.meter)).await;
        if matches!(&replaced, Err(EngineError::Component { source: ComponentError::Taken { .. }, .. }))
            && let Some(report) = self.undone_before(component, None, run).await?
        {
            tracing::info!("another machine has done the undo of this task meanwhile");
            return Ok(report);
        }
        let replaced = replaced?;
        tracing::info!(restored = kept.place, kept = replaced.place, "undone");
        let report = UndoReport::new(name, component.source.address(), kept.at, replaced.place);
        Ok(UndoReport { warnings: run.meter.take_warnings(), ..report })
    }
}

/// Removes the copy of a run that was told to stop, which may be as large as the live data.
pub(super) async fn discard_cancelled_copy(component: &Component) {
    if let Err(err) = recover(component).await {
        tracing::warn!(error = %chain(&err), "something of the copy is left, the next run removes it");
    }
}

/// Logs that the work of dead runs stays as it is for now.
pub(super) fn tell_unrecovered(err: &EngineError) {
    if matches!(err, EngineError::Component { source: ComponentError::Taken { .. }, .. }) {
        tracing::warn!(error = %chain(err), "another run is at work, so nothing of dead runs is put right now");
    } else {
        tracing::warn!(error = %chain(err), "what a dead run left half done is still to be put right");
    }
}

/// Finishes or rolls back the work of a dead run.
pub(super) async fn recover(component: &Component) -> Result<(), EngineError> {
    let Some(restorable) = &component.restorable else { return Ok(()) };
    for line in restorable.recover().await.map_err(|source| failed(component, source))? {
        tracing::warn!(component = %component.name(), "{line}");
    }
    Ok(())
}

/// The component's plan of a restore; an error if there is no room for the copy.
pub(super) async fn plan(
    component: &Component,
    target: &Target,
    archive: &Archive,
) -> Result<Plan, EngineError> {
    archive.keys()?;
    let name = component.name();
    let plan = async { component.restorable()?.plan(target, archive.facts()).await }.await;
    let mut plan = plan.map_err(|source| failed(component, source))?;
    if let (Some(needs), Some(free)) = (plan.needs_bytes, plan.free_bytes)
        && needs > free
    {
        let what = format!("restore {name}: {needs} bytes are needed beside the live data, {free} are free");
        return Err(EngineError::Unfit { what });
    }
    if let Some(manifest) = archive.manifest().filter(|manifest| manifest.is_suspect())
        && let Some(anomaly) = &manifest.anomaly
    {
        plan.warnings.push(format!(
            "The backup is much smaller than {0}: {1}. If data was lost before it was made, restore {0}.",
            anomaly.against,
            anomaly.what.join("; ")
        ));
    }
    if archive.manifest().is_none() {
        plan.warnings
            .push("the backup has no manifest: its hash and its counts cannot be compared".to_owned());
    }
    Ok(plan)
}

/// Makes the copy, of bytes that are those of the manifest.
pub(super) async fn stage(
    component: &Component,
    target: &Target,
    without: &[String],
    archive: &Archive,
    run: &Run,
) -> Result<Box<dyn Staged>, EngineError> {
    run.meter.begin("restore", archive.facts().map_or(0, Facts::stored_bytes));
    let mut opened = archive.opened(archive.reader().await?).await?;
    let (staged, rest) = {
        let mut feed = opened.feed(component).await?;
        let order = RestoreOrder { target, without, facts: archive.facts() };
        let staged = async { component.restorable()?.stage(&mut feed, &order, &run.meter).await }.await;
        let staged = staged.map_err(|source| unusable(component.name(), source))?;
        (staged, rest_of(&mut feed).await)
    };
    let whole = match rest {
        Ok(()) => opened.finish().await,
        damaged => damaged,
    };
    match whole {
        Ok(()) => Ok(staged),
        Err(err) => {
            discard(staged).await;
            Err(err)
        }
    }
}

pub(super) async fn discard(staged: Box<dyn Staged>) {
    if let Err(err) = staged.discard().await {
        tracing::warn!(error = %chain(&err), "something of the staged copy is left, the next run removes it");
    }
}

fn described(request: &RestoreRequest, archive: &Archive, plan: Plan, not_tried: Vec<&str>) -> RestorePlan {
    RestorePlan {
        component: request.component,
        backup_id: archive.entry.backup_id.clone(),
        created_at: archive.entry.created_at,
        passed_over: Vec::new(),
        reads: archive.copy.location.clone(),
        also_reads: archive.bases.iter().map(|base| base.copy.location.clone()).collect(),
        archive_bytes: archive.bases.iter().map(|base| base.copy.bytes).sum::<u64>() + archive.copy.bytes,
        source_bytes: archive.facts().map(|facts| facts.source_bytes),
        replaces: plan.replaces,
        method: plan.method,
        needs_bytes: plan.needs_bytes,
        free_bytes: plan.free_bytes,
        downtime: plan.downtime,
        versions: plan.versions,
        warnings: [plan.warnings, plan.lost_rights.into_iter().collect(), plan.advice].concat(),
        not_tried: not_tried.into_iter().chain(plan.not_tried).map(str::to_owned).collect(),
    }
}
