//! Tasks that are delivered again after a crash: what they have restored or undone already is not done twice.
//!
//! The proof lies with the data, where every machine sees it ([`crate::component::Undo::completed_by`]). The records in the folder of the
//! locks keep the whole report; they are a proof only for data without such notes, of components that have no place for
//! them and of earlier versions of this program.

use crate::base::chain;
use crate::component::{CompletedSwap, Component, ComponentError, Staged, UndoPoint};
use crate::domain::component::ComponentName;
use crate::domain::id::BackupId;
use crate::domain::report::{RestoreReport, UndoReport};
use crate::domain::task_note::TaskNote;
use crate::engine::restore_records::{LastUndo, Record};
use crate::engine::watched::watched;
use crate::engine::{ComponentLock, Engine, EngineError, RestoreRequest, Run};

impl Engine {
    /// Returns the report of an earlier delivery of this very task, if it swapped: a swap is never done twice, or
    /// `undo` would lead to the wrong place.
    pub(super) async fn restored_before(
        &self,
        component: &Component,
        request: &RestoreRequest,
        run: &Run,
    ) -> Result<Option<RestoreReport>, EngineError> {
        let name = component.name();
        let Some(task) = run.task_id.as_deref() else { return Ok(None) };
        let record = self.locks.restored_by(name, task).await;
        if let Some(Record { report: report @ Some(_), .. }) = record {
            return Ok(report);
        }
        let done = completed_by(component, task).await?;
        let (reference, kept) = match done.filter(|done| done.note.backup.is_some()) {
            Some(CompletedSwap { note, kept }) => {
                let id = note.backup.map(|id| id.to_string());
                (id.unwrap_or_else(|| request.reference.clone()), kept)
            }
            None => match record {
                Some(record) => {
                    let Some(kept) = set_aside_since(component, &record).await? else { return Ok(None) };
                    let id = record.backup_id.as_ref().map(BackupId::to_string);
                    (
                        id.unwrap_or_else(|| request.reference.clone()),
                        Some(kept).filter(|place| !place.is_empty()),
                    )
                }
                None => return Ok(None),
            },
        };
        let report = RestoreReport { kept, ..self.report_of(component, &reference).await? };
        let record = Record { report: Some(report.clone()), ..Record::of(task) };
        self.locks.note_restored(name, &record).await?;
        Ok(Some(report))
    }

    /// The report of a restore of which nothing but its backup is known. The backup may be gone by now.
    async fn report_of(&self, component: &Component, reference: &str) -> Result<RestoreReport, EngineError> {
        let (name, source) = (component.name(), component.source.address());
        let (archives, _) = match (self.archives_to_restore(name, reference).await, reference.parse()) {
            // The restore is done, whatever has become of its backup since.
            (Err(_), Ok(id)) => return Ok(RestoreReport::new(name, &id, "", &source)),
            (found, _) => found?,
        };
        let archive = &archives[0];
        let counts = archive.facts().map(|facts| facts.counts.clone()).unwrap_or_default();
        let (id, path) = (&archive.entry.backup_id, &archive.copy.location);
        Ok(RestoreReport { counts, ..RestoreReport::new(name, id, path, &source) })
    }

    /// Puts a copy in the place of the live data, which is noted with the data and in the folder of the locks. Returns the
    /// place of the old data, and the record.
    pub(super) async fn swap(
        &self,
        component: &Component,
        mut staged: Box<dyn Staged>,
        backup: &BackupId,
        run: &Run,
        held: &ComponentLock,
    ) -> Result<(Option<String>, Option<Record>), EngineError> {
        run.meter.begin("swap", 0);
        let record = self.about_to_swap(component, backup, run).await?;
        if let Some(task) = &run.task_id {
            let note = TaskNote::restore(task, backup.clone(), self.clock.now());
            staged.set_task_note(note.on_broker(run.visibility_timeout));
        }
        let kept = watched(component.name(), run, held, staged.swap()).await?;
        Ok((kept.map(|kept| kept.place), record))
    }

    /// Writes the report of a swap that is done into its record.
    pub(super) async fn note_done(
        &self,
        name: ComponentName,
        record: Option<Record>,
        report: &RestoreReport,
    ) {
        let Some(record) = record else { return };
        let record = Record { report: Some(report.clone()), ..record };
        if let Err(err) = self.locks.note_restored(name, &record).await {
            tracing::warn!(error = %chain(&err), "cannot write down that the restore is done");
        }
    }

    /// Writes down that the swap of this task begins.
    async fn about_to_swap(
        &self,
        component: &Component,
        backup: &BackupId,
        run: &Run,
    ) -> Result<Option<Record>, EngineError> {
        let name = component.name();
        let kept_before = undo_point(component).await?.map(|kept| kept.place);
        self.locks.forget_unfinished(name, kept_before.as_deref()).await?;
        let Some(task) = run.task_id.as_deref() else { return Ok(None) };
        let record = Record { kept_before, backup_id: Some(backup.clone()), ..Record::of(task) };
        self.locks.note_restored(name, &record).await?;
        Ok(Some(record))
    }

    /// Returns the report of an earlier delivery of this very task, if it undid the restore. `kept` is what is kept now.
    pub(super) async fn undone_before(
        &self,
        component: &Component,
        kept: Option<&UndoPoint>,
        run: &Run,
    ) -> Result<Option<UndoReport>, EngineError> {
        let (name, source) = (component.name(), component.source.address());
        let Some(task) = run.task_id.as_deref() else { return Ok(None) };
        let nothing = || "nothing".to_owned();
        if let Some(CompletedSwap { note: TaskNote { undone: Some(at), .. }, kept }) =
            completed_by(component, task).await?
        {
            return Ok(Some(UndoReport::new(name, source, at, kept.unwrap_or_else(nothing))));
        }
        let Some(before) = self.locks.undone_by(name, task).await else { return Ok(None) };
        // Where nothing is kept, a backup may have removed what the undo was to bring back.
        let done = kept.filter(|kept| kept.task_notes.is_none() && kept.place != before.kept_before);
        Ok(done.map(|kept| UndoReport::new(name, source, before.replaced_at, kept.place.clone())))
    }

    /// Writes down that an undo begins, and returns the note on it for the data.
    pub(super) async fn about_to_undo(
        &self,
        name: ComponentName,
        kept: &UndoPoint,
        run: &Run,
    ) -> Result<Option<TaskNote>, EngineError> {
        self.locks.forget_unfinished(name, Some(&kept.place)).await?;
        let Some(task_id) = run.task_id.clone() else { return Ok(None) };
        let note = TaskNote::undo(&task_id, kept.at, self.clock.now()).from_place(&kept.place);
        let note = note.on_broker(run.visibility_timeout);
        let (kept_before, replaced_at) = (kept.place.clone(), kept.at);
        self.locks.note_undone(name, &LastUndo { task_id, kept_before, replaced_at }).await?;
        Ok(Some(note))
    }

    /// Notes that the result of a task is stored: the proof of its work is not needed any more.
    pub async fn result_stored(&self, component: ComponentName, task: &str) {
        let Some(undo) = self.component(component).ok().and_then(|found| found.undo.as_ref()) else { return };
        if let Err(err) = undo.result_stored(task).await {
            tracing::debug!(%component, task, error = %chain(&err), "the proof of this task's work stays for a day");
        }
    }

    /// Removes what restores have set aside. A record that has nothing else to tell whether its task has swapped is settled
    /// before, since afterwards nobody could tell.
    pub(super) async fn delete_undo_data(&self, component: &Component) -> Result<(), EngineError> {
        let (name, Some(undo)) = (component.name(), &component.undo) else { return Ok(()) };
        if let Some(record) = self.locks.restored(name).await.filter(|record| record.report.is_none()) {
            let done =
                completed_by(component, &record.task_id).await?.filter(|done| done.note.backup.is_some());
            let place = match done {
                // A restore into nothing has set nothing aside.
                Some(done) => Some(done.kept.unwrap_or_default()),
                None => set_aside_since(component, &record).await?,
            };
            if let Some(place) = place {
                self.locks.note_restored(name, &Record { done: Some(place), ..record }).await?;
            }
        }
        // A swap that has not been done by now is still to come after the removal.
        let kept = undo_point(component).await?.map(|kept| kept.place);
        self.locks.forget_unfinished(name, kept.as_deref()).await?;
        undo.delete_undo_data().await.map_err(|source| failed(component, source))
    }
}

/// The place of what the task of a record has set aside, if it has swapped; of data without notes, where other data is kept
/// than before.
async fn set_aside_since(component: &Component, record: &Record) -> Result<Option<String>, EngineError> {
    if record.done.is_some() {
        return Ok(record.done.clone());
    }
    let is_its =
        |kept: &UndoPoint| kept.task_notes.is_none() && Some(&kept.place) != record.kept_before.as_ref();
    Ok(undo_point(component).await?.filter(is_its).map(|kept| kept.place))
}

/// The data that the last restore of a component set aside.
pub(super) async fn undo_point(component: &Component) -> Result<Option<UndoPoint>, EngineError> {
    let Some(undo) = &component.undo else { return Ok(None) };
    undo.undo_point().await.map_err(|source| failed(component, source))
}

async fn completed_by(component: &Component, task: &str) -> Result<Option<CompletedSwap>, EngineError> {
    let Some(undo) = &component.undo else { return Ok(None) };
    undo.completed_by(task).await.map_err(|source| failed(component, source))
}

/// The error of a component.
pub(super) fn failed(component: &Component, source: ComponentError) -> EngineError {
    EngineError::Component { component: component.name(), source }
}
