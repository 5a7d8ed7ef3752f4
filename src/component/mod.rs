//! Floor 2: what can be backed up. Components know neither stores nor Celery.
//!
//! A component is one folder here: a type that implements [`Source`], whichever of the other traits it can serve, and
//! `From` its type for [`Component`].

pub mod bucket_folder;
pub mod error;
pub mod media;
pub mod postgres;
pub mod process;
mod registry;
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
use std::{collections::BTreeSet, fmt, path::Path, sync::Arc};

pub use crate::stream::Feed;
pub use bucket_folder::BucketFolder;
pub use error::ComponentError;
pub use registry::{Parts, Registration, Settings, SettingsContext};
pub use stage::{CompletedSwap, Plan, RestoreMode, RestoreOrder, Staged, Steps, Target, UndoPoint};

/// Every component, in the order of [`ComponentName::all`]: another component is another row.
static REGISTRY: [Registration; 3] = [postgres::REGISTRATION, weaviate::REGISTRATION, media::REGISTRATION];

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

/// A component and the capabilities that it has; `None`: it lacks that one.
#[derive(Debug, Clone)]
pub struct Component {
    /// The data, which is backed up and read back.
    pub source: Arc<dyn Source>,
    /// Backups that leave out what earlier archives hold.
    pub incremental: Option<Arc<dyn Incremental>>,
    /// Restores.
    pub restorable: Option<Arc<dyn Restorable>>,
    /// The way back from a restore.
    pub undo: Option<Arc<dyn Undo>>,
    /// Backups that the component's own server keeps.
    pub server_side: Option<Arc<dyn ServerSide>>,
}

impl Component {
    /// A component that is backed up, and nothing more.
    pub fn of(source: Arc<dyn Source>) -> Self {
        Self { source, incremental: None, restorable: None, undo: None, server_side: None }
    }

    /// The component's name.
    pub fn name(&self) -> ComponentName {
        self.source.name()
    }

    /// The component's incremental backups.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unusable`] where there are none.
    pub fn incremental(&self) -> Result<&dyn Incremental, ComponentError> {
        let what = || format!("{} has no incremental backups in this version", self.name());
        self.incremental.as_deref().ok_or_else(|| ComponentError::Unusable { what: what(), source: None })
    }

    /// The component's restores.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unusable`] where there are none.
    pub fn restorable(&self) -> Result<&dyn Restorable, ComponentError> {
        self.restorable.as_deref().ok_or_else(|| self.cannot_restore())
    }

    /// The component's way back from a restore.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unusable`] where there is none.
    pub fn undo(&self) -> Result<&dyn Undo, ComponentError> {
        self.undo.as_deref().ok_or_else(|| self.cannot_restore())
    }

    fn cannot_restore(&self) -> ComponentError {
        let what = format!("{} cannot be restored by this version", self.name());
        ComponentError::Unusable { what, source: None }
    }
}

/// Data that can be backed up to one stream of bytes.
///
/// A source *writes into* its output rather than returning a reader, so that
/// it still owns its child process when the last byte is out: `Ok` means the
/// source itself reported success, and only then does the engine commit.
/// Dropping the future of any method must stop whatever it started.
#[async_trait]
pub trait Source: Send + Sync + fmt::Debug {
    /// The component's name.
    fn name(&self) -> ComponentName;

    /// The address of the data, for manifests and results: name of the database, path of the folder. Never a secret.
    fn address(&self) -> String;

    /// The host that has the data, with its port; `None`: no other host is asked.
    fn host(&self) -> Option<String>;

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
    async fn ping(&self) -> Result<(), ComponentError>;

    /// Reads the data once, from one consistent state, into `out`. With a `base`, an [`Incremental`] source may leave
    /// out data that archives of earlier backups hold: the ids of those backups are then [`Facts::builds_on`].
    ///
    /// Begins the phases of `meter` itself and counts source bytes on it.
    ///
    /// # Errors
    ///
    /// [`ComponentError::is_transient`] tells whether another attempt makes sense.
    /// The bytes that were written to `out` before an error are worthless.
    async fn back_up(
        &self,
        base: Option<&IncrementalBase>,
        out: &mut dyn Output,
        meter: &Meter,
    ) -> Result<Facts, ComponentError>;

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
    async fn describe(&self, feed: Feed<'_>) -> Result<Facts, ComponentError>;
}

/// Backups that leave out data which archives of earlier backups hold.
#[async_trait]
pub trait Incremental: Send + Sync + fmt::Debug {
    /// Notes that a backup is committed: the next incremental backup may build on it.
    ///
    /// # Errors
    ///
    /// The next backup builds on the backups before.
    async fn backup_committed(&self, id: &BackupId) -> Result<(), ComponentError>;

    /// Returns an incremental archive filled up with the entries that it leaves out. Each archive is read once, side
    /// by side. Reading fails with `InvalidData` when the archives do not fit together.
    fn join<'a>(&self, newest: Unpacked<'a>, bases: Vec<(BackupId, Unpacked<'a>)>) -> Unpacked<'a>;
}

/// Data that an archive can be restored to.
#[async_trait]
pub trait Restorable: Send + Sync + fmt::Debug {
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
    async fn plan(&self, target: &Target, facts: Option<&Facts>) -> Result<Plan, ComponentError>;

    /// Reads the beginning of an archive to find obstacles to the restore. Only an archive whose plan
    /// [looks into it](Plan::looks_into_archive) is read.
    ///
    /// # Errors
    ///
    /// The error that a restore would fail with before it began.
    async fn preview(&self, feed: Feed<'_>, order: &RestoreOrder<'_>) -> Result<(), ComponentError> {
        let _ = (feed, order);
        Ok(())
    }

    /// The steps of a restore that this mode does not take, in words for people.
    fn skipped_steps(&self, mode: RestoreMode) -> Vec<&'static str>;

    /// Restores an archive to a copy beside the live data. Reads `feed` to its end, counting on `meter`.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Corrupt`] when the archive is damaged, cut short or hostile; [`ComponentError::Refused`]
    /// names objects that cannot be made, and that the order does not go without. After any error nothing of the copy
    /// is left, or `recover` removes it.
    async fn stage(
        &self,
        feed: Feed<'_>,
        order: &RestoreOrder<'_>,
        meter: &Meter,
    ) -> Result<Box<dyn Staged>, ComponentError>;

    /// Finishes or rolls back the work of a run that died in the middle, and removes its copies. Call it only while no
    /// run works on the component. Returns sentences about the work, for the log.
    ///
    /// # Errors
    ///
    /// When some of that work is still to be done; nothing is worse than before.
    async fn recover(&self) -> Result<Vec<String>, ComponentError>;

    /// The work that a failed or dead restore has left for [`recover`](Self::recover), in words for people; `None`
    /// when there is none, as with a component that always ends in one instant. The question costs so little that it
    /// can be asked every few seconds. While a run restores, the answer is the work that this run has still to do.
    ///
    /// # Errors
    ///
    /// When that work cannot be looked for.
    async fn due(&self) -> Result<Option<String>, ComponentError> {
        Ok(None)
    }
}

/// The way back from a restore: data that it set aside, and the notes of tasks that lie with the data.
#[async_trait]
pub trait Undo: Send + Sync + fmt::Debug {
    /// Returns the undo point: the data that the last restore set aside, if it is still there.
    ///
    /// # Errors
    ///
    /// When the old data cannot be looked for.
    async fn undo_point(&self) -> Result<Option<UndoPoint>, ComponentError>;

    /// Returns a sentence about data that restores have set aside under earlier settings, and the way to reach it: a
    /// person may have changed the settings since. `None` where there is no such data.
    ///
    /// # Errors
    ///
    /// When that data cannot be looked for.
    async fn undo_hint(&self) -> Result<Option<String>, ComponentError> {
        Ok(None)
    }

    /// Puts back the data that the last restore replaced; the data that was live until now is kept in its place. It is
    /// noted with the data as the work of a task; `None`: ordered by hand.
    ///
    /// # Errors
    ///
    /// As [`Staged::swap`]; [`ComponentError::Unusable`] when nothing is kept.
    async fn undo(&self, note: Option<TaskNote>, meter: &Meter) -> Result<UndoPoint, ComponentError>;

    /// Returns the work of a task, if it has swapped, by what is noted with the data: a swap is never done twice, whichever
    /// machine is asked. `None` also where nothing is noted.
    ///
    /// # Errors
    ///
    /// When the notes cannot be read.
    async fn completed_by(&self, task: &str) -> Result<Option<CompletedSwap>, ComponentError>;

    /// Notes that the result of a task is stored: [`delete_undo_data`](Self::delete_undo_data) may remove the proof of its work.
    ///
    /// # Errors
    ///
    /// Then the proof stays for [`REDELIVERY_WINDOW`](crate::domain::task_note::REDELIVERY_WINDOW).
    async fn result_stored(&self, task: &str) -> Result<(), ComponentError>;

    /// Removes the data that restores set aside: a newer backup was proven since then. What proves that a task has swapped
    /// which may be delivered again stays.
    ///
    /// # Errors
    ///
    /// When some of that data is left.
    async fn delete_undo_data(&self) -> Result<(), ComponentError>;
}

/// Backups that a component's own server keeps.
#[async_trait]
pub trait ServerSide: Send + Sync + fmt::Debug {
    /// Removes the files that the server keeps of backups that exist no more. `living` are the facts of
    /// all backups that do exist. Returns sentences about the work, for the log.
    ///
    /// # Errors
    ///
    /// When some of those backups are left.
    async fn sweep(&self, living: &[&Facts]) -> Result<Vec<String>, ComponentError>;

    /// The folder that the server is to write its backups to for certain, with the setting that names the folder.
    fn folder(&self) -> Option<(&'static str, &Path)>;
}
