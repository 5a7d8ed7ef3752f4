//! Floor 2: what can be backed up. Components know neither stores nor Celery.

pub mod bucket_folder;
pub mod error;
pub mod media;
pub mod postgres;
pub mod process;
mod scratch;
pub mod stage;
pub mod weaviate;

use crate::domain::{
    component::ComponentName,
    facts::{Counts, Facts},
    id::BackupId,
    progress::Meter,
    task_note::TaskNote,
};
use crate::stream::{Output, unpack::Unpacked};
use async_trait::async_trait;
use jiff::Timestamp;
use std::{collections::BTreeSet, fmt};

pub use crate::stream::Feed;
pub use bucket_folder::BucketFolder;
pub use error::ComponentError;
pub use stage::{CompletedSwap, Plan, RestoreMode, Staged, Steps, Target, UndoPoint};

/// The new backup, and the earlier ones that it may build on if it is incremental.
#[derive(Debug, Clone)]
pub struct IncrementalBase {
    /// The backup that is to be made.
    pub id: BackupId,
    /// The time at which the backup began.
    pub at: Timestamp,
    /// The earlier backups that are whole in every destination in which the new one is to stay.
    pub complete_backups: BTreeSet<BackupId>,
    /// The recipients of the encryption, as text; empty without: the archives of a chain must open by the same keys.
    pub recipients: String,
    /// The largest number of archives in a chain, the new one among them.
    pub max_chain: usize,
}

/// Something that can be backed up to one stream of bytes.
///
/// A component *writes into* its output rather than returning a reader, so that
/// it still owns its child process when the last byte is out: `Ok` means the
/// source itself reported success, and only then does the engine commit.
/// Dropping the future of any method must stop whatever it started.
#[async_trait]
pub trait Component: Send + Sync + fmt::Debug {
    /// The component's name.
    fn name(&self) -> ComponentName;

    /// The source of the data, for manifests and results: name of the database, path of the folder. Never a secret.
    fn source(&self) -> String;

    /// Tests whether a backup could run, without reading the data: server reachable, client programs fit, folder
    /// readable. Returns one line about the findings.
    ///
    /// # Errors
    ///
    /// The error that a backup would fail with.
    async fn check(&self) -> Result<String, ComponentError>;

    /// Tests whether the source is there and lets us in, so cheaply that it can be asked every minute.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check), which finds more.
    async fn ping(&self) -> Result<(), ComponentError> {
        self.check().await.map(drop)
    }

    /// Reads the data once, from one consistent state, into `out`.
    ///
    /// Begins the phases of `meter` itself and counts source bytes on it.
    ///
    /// # Errors
    ///
    /// [`ComponentError::is_transient`] tells whether another attempt makes sense.
    /// The bytes that were written to `out` before an error are worthless.
    async fn backup(&self, out: &mut dyn Output, meter: &Meter) -> Result<Facts, ComponentError>;

    /// As [`backup`](Self::backup), but data that archives of earlier backups hold may be left out: the ids of those
    /// backups are then [`Facts::builds_on`].
    ///
    /// # Errors
    ///
    /// As for [`backup`](Self::backup).
    async fn increment(
        &self,
        base: &IncrementalBase,
        out: &mut dyn Output,
        meter: &Meter,
    ) -> Result<Facts, ComponentError> {
        let _ = base;
        self.backup(out, meter).await
    }

    /// Notes that a backup is committed: the next incremental backup may build on it.
    ///
    /// # Errors
    ///
    /// The next backup builds on the backups before.
    async fn backup_committed(&self, id: &BackupId) -> Result<(), ComponentError> {
        let _ = id;
        Ok(())
    }

    /// Returns an incremental archive filled up with the entries that it leaves out. Each archive is read once, side
    /// by side.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unusable`] where there are no incremental backups. Reading fails with `InvalidData`
    /// when the archives do not fit together.
    fn join<'a>(
        &self,
        newest: Unpacked<'a>,
        bases: Vec<(BackupId, Unpacked<'a>)>,
    ) -> Result<Unpacked<'a>, ComponentError> {
        let _ = (newest, bases);
        let what = format!("{} has no incremental backups in this version", self.name());
        Err(ComponentError::Unusable { what, source: None })
    }

    /// Reads a whole archive to its end without touching the live system, and counts its contents. Counts the bytes
    /// read on `meter`, whose phase the caller began.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Corrupt`] when the archive is damaged or cut short.
    async fn decode(&self, feed: Feed<'_>, meter: &Meter) -> Result<Counts, ComponentError>;

    /// Reads the facts that an archive holds beside its counts, for a manifest that is made from the archive alone.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Corrupt`] when the archive lacks facts that it should hold.
    async fn describe(&self, feed: Feed<'_>) -> Result<Facts, ComponentError> {
        let _ = feed;
        Ok(Facts::default())
    }

    /// Returns the reason that a backup cannot be restored into scratch here, so that a verification can only read it
    /// to its end; `None` where it can be restored.
    fn drill_unsupported(&self) -> Option<&'static str> {
        None
    }

    /// Finds out the effects of a restore to `target`, without touching anything. `facts` are those of
    /// the backup's manifest; the app's old files have none.
    ///
    /// # Errors
    ///
    /// The error that a restore would fail with before it began: no such target, no rights, versions that do not fit.
    async fn plan(&self, target: &Target, facts: Option<&Facts>) -> Result<Plan, ComponentError> {
        let _ = (target, facts);
        Err(cannot_restore(self.name()))
    }

    /// Reads the beginning of an archive whose plan [looks into it](Plan::looks_into_archive), to find obstacles to
    /// the restore that goes on `without` the objects of these names.
    ///
    /// # Errors
    ///
    /// The error that a restore would fail with before it began.
    async fn preview(
        &self,
        feed: Feed<'_>,
        target: &Target,
        without: &[String],
        facts: Option<&Facts>,
    ) -> Result<(), ComponentError> {
        let _ = (feed, target, without, facts);
        Ok(())
    }

    /// The steps of a restore that this mode does not take, in words for people.
    fn skipped_steps(&self, mode: RestoreMode) -> Vec<&'static str> {
        let _ = mode;
        Vec::new()
    }

    /// Restores an archive to a copy beside the live data. Reads `feed` to its end, counting on `meter`.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Corrupt`] when the archive is damaged, cut short or hostile. After any error
    /// nothing of the copy is left, or `recover` removes it.
    async fn stage(
        &self,
        feed: Feed<'_>,
        target: &Target,
        facts: Option<&Facts>,
        meter: &Meter,
    ) -> Result<Box<dyn Staged>, ComponentError> {
        let _ = (feed, target, facts, meter);
        Err(cannot_restore(self.name()))
    }

    /// As [`stage`](Self::stage), but goes on without the parts of the objects of these names that cannot be made.
    ///
    /// # Errors
    ///
    /// As for [`stage`](Self::stage); [`ComponentError::Refused`] names others that cannot be made.
    async fn stage_without(
        &self,
        feed: Feed<'_>,
        target: &Target,
        without: &[String],
        facts: Option<&Facts>,
        meter: &Meter,
    ) -> Result<Box<dyn Staged>, ComponentError> {
        if without.is_empty() {
            return self.stage(feed, target, facts, meter).await;
        }
        let what = format!("{} is not restored without some objects of it: leave --without out", self.name());
        Err(ComponentError::Unusable { what, source: None })
    }

    /// Finishes or rolls back the work of a run that died in the middle, and removes its copies. Call it only while no
    /// run works on the component. Returns sentences about the work, for the log.
    ///
    /// # Errors
    ///
    /// When some of that work is still to be done; nothing is worse than before.
    async fn recover(&self) -> Result<Vec<String>, ComponentError> {
        Ok(Vec::new())
    }

    /// The work that a failed or dead restore has left for [`recover`](Self::recover), in words for people; `None`
    /// when there is none. The question costs so little that it can be asked every few seconds. While a run restores,
    /// the answer is the work that this run has still to do.
    ///
    /// # Errors
    ///
    /// When that work cannot be looked for.
    async fn due(&self) -> Result<Option<String>, ComponentError> {
        Ok(None)
    }

    /// Returns the undo point: the data that the last restore set aside, if it is still there.
    ///
    /// # Errors
    ///
    /// When the old data cannot be looked for.
    async fn undo_point(&self) -> Result<Option<UndoPoint>, ComponentError> {
        Ok(None)
    }

    /// Returns a sentence about data that restores have set aside under earlier settings, and the way to reach it: a
    /// person may have changed the settings since. `None` where there is no such data.
    ///
    /// # Errors
    ///
    /// When that data cannot be looked for.
    async fn undo_hint(&self) -> Result<Option<String>, ComponentError> {
        Ok(None)
    }

    /// Puts back the data that the last restore replaced; the data that was live until now is kept in its place.
    ///
    /// # Errors
    ///
    /// As [`Staged::swap`]; [`ComponentError::Unusable`] when nothing is kept.
    async fn undo(&self, meter: &Meter) -> Result<UndoPoint, ComponentError> {
        let _ = meter;
        Err(cannot_restore(self.name()))
    }

    /// As [`undo`](Self::undo), noted with the data as the work of a task; `None`: ordered by hand.
    ///
    /// # Errors
    ///
    /// As for [`undo`](Self::undo).
    async fn undo_by(&self, note: Option<TaskNote>, meter: &Meter) -> Result<UndoPoint, ComponentError> {
        let _ = note;
        self.undo(meter).await
    }

    /// Returns the work of a task, if it has swapped, by what is noted with the data: a swap is never done twice, whichever
    /// machine is asked. `None` also where nothing is noted.
    ///
    /// # Errors
    ///
    /// When the notes cannot be read.
    async fn completed_by(&self, task: &str) -> Result<Option<CompletedSwap>, ComponentError> {
        let _ = task;
        Ok(None)
    }

    /// Notes that the result of a task is stored: [`delete_undo_data`](Self::delete_undo_data) may remove the proof of its work.
    ///
    /// # Errors
    ///
    /// Then the proof stays for [`REDELIVERY_WINDOW`](crate::domain::task_note::REDELIVERY_WINDOW).
    async fn result_stored(&self, task: &str) -> Result<(), ComponentError> {
        let _ = task;
        Ok(())
    }

    /// Removes the data that restores set aside: a newer backup was proven since then. What proves that a task has swapped
    /// which may be delivered again stays.
    ///
    /// # Errors
    ///
    /// When some of that data is left.
    async fn delete_undo_data(&self) -> Result<(), ComponentError> {
        Ok(())
    }

    /// Removes the files that the component's own server keeps of backups that exist no more. `living` are the facts of
    /// all backups that do exist. Returns sentences about the work, for the log.
    ///
    /// # Errors
    ///
    /// When some of those backups are left.
    async fn sweep(&self, living: &[&Facts]) -> Result<Vec<String>, ComponentError> {
        let _ = living;
        Ok(Vec::new())
    }
}

fn cannot_restore(component: ComponentName) -> ComponentError {
    let what = format!("{component} cannot be restored by this version");
    ComponentError::Unusable { what, source: None }
}
