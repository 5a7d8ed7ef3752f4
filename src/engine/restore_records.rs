//! The records of restores and undos, for a delivery of their task that may come after a crash.

use crate::base::durable::{self, blocking, sync_folder};
use crate::domain::component::ComponentName;
use crate::domain::id::BackupId;
use crate::domain::report::RestoreReport;
use crate::engine::{EngineError, Locks};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File},
    path::PathBuf,
};

/// The last restore of a component that was ordered by a task.
///
/// The record lies beside the component's lock, and is written under it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) task_id: String,
    /// The old data that was kept for `undo` just before the swap. Other data afterwards means that the swap was done,
    /// where nothing is noted with the data.
    pub(super) kept_before: Option<String>,
    /// The backup that is restored; earlier versions did not note it.
    #[serde(default)]
    pub(super) backup_id: Option<BackupId>,
    /// The place of the old data, if the swap is known to be done: noted before that data was removed.
    #[serde(default)]
    pub(super) done: Option<String>,
    /// The report of the restore; `None` while nobody has seen the end of the swap.
    pub(super) report: Option<RestoreReport>,
}

impl Record {
    /// The record of a task of which nothing is known yet.
    pub(super) fn of(task: &str) -> Self {
        Self { task_id: task.to_owned(), kept_before: None, backup_id: None, done: None, report: None }
    }
}

/// The last undo of a component that was ordered by a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LastUndo {
    pub(super) task_id: String,
    /// The old data that the undo was to make live again: other data kept afterwards means that the undo was done.
    pub(super) kept_before: String,
    /// The time at which that data had been replaced.
    pub(super) replaced_at: Timestamp,
}

const RESTORED: &str = "restored";
const UNDONE: &str = "undone";

impl Locks {
    /// The record of the last restore.
    pub(super) async fn restored(&self, component: ComponentName) -> Option<Record> {
        read(self.record(component, RESTORED)).await
    }

    /// The record of the last restore, if it was of this task.
    pub(super) async fn restored_by(&self, component: ComponentName, task: &str) -> Option<Record> {
        self.restored(component).await.filter(|record| record.task_id == task)
    }

    /// The record of the last undo, if it was of this task.
    pub(super) async fn undone_by(&self, component: ComponentName, task: &str) -> Option<LastUndo> {
        read(self.record(component, UNDONE)).await.filter(|record: &LastUndo| record.task_id == task)
    }

    /// Writes a record down, durably: old or new, whole.
    ///
    /// # Errors
    ///
    /// When the folder of the locks cannot be written: then the swap must not begin.
    pub(super) async fn note_restored(
        &self,
        component: ComponentName,
        record: &Record,
    ) -> Result<(), EngineError> {
        self.note(component, RESTORED, record).await
    }

    /// Notes an undo that is about to begin.
    ///
    /// # Errors
    ///
    /// As for [`note_restored`](Self::note_restored).
    pub(super) async fn note_undone(
        &self,
        component: ComponentName,
        record: &LastUndo,
    ) -> Result<(), EngineError> {
        self.note(component, UNDONE, record).await
    }

    async fn note(
        &self,
        component: ComponentName,
        what: &str,
        record: &(impl Serialize + Sync),
    ) -> Result<(), EngineError> {
        let (path, words) = (self.record(component, what), serde_json::to_vec(record));
        blocking(move || durable::write(&path, &words?))
            .await
            .map_err(|source| EngineError::Lock { component, source })
    }

    /// Forgets what tasks have still to do: before somebody else's swap, after which nobody could tell the two
    /// apart. `kept` is what is kept for `undo` now. What was done stays written down.
    ///
    /// # Errors
    ///
    /// When the folder of the locks cannot be written: then the swap must not begin.
    pub(super) async fn forget_unfinished(
        &self,
        component: ComponentName,
        kept: Option<&str>,
    ) -> Result<(), EngineError> {
        let (restored, undone) = (self.record(component, RESTORED), self.record(component, UNDONE));
        let to_restore = read(restored.clone()).await.is_some_and(|record: Record| {
            record.report.is_none() && record.done.is_none() && record.kept_before.as_deref() == kept
        });
        let to_undo =
            read(undone.clone()).await.is_some_and(|record: LastUndo| Some(&*record.kept_before) == kept);
        let dir = self.dir().to_owned();
        let forget = move || {
            for (path, _) in [(restored, to_restore), (undone, to_undo)].iter().filter(|(_, is)| *is) {
                fs::remove_file(path)?;
                sync_folder(File::open(&dir)?)?;
            }
            Ok(())
        };
        blocking(forget).await.map_err(|source| EngineError::Lock { component, source })
    }

    fn record(&self, component: ComponentName, what: &str) -> PathBuf {
        self.dir().join(format!("{component}.{what}"))
    }
}

async fn read<T: DeserializeOwned + Send + 'static>(record: PathBuf) -> Option<T> {
    let words = blocking(move || fs::read(record)).await.ok()?;
    serde_json::from_slice(&words).ok()
}

#[tokio::test]
async fn a_swap_that_is_still_to_come_is_forgotten_and_one_that_is_done_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (locks, media) = (Locks::new(dir.path().to_owned()), ComponentName::MEDIA);
    locks.forget_unfinished(media, None).await.unwrap();
    let record = Record { kept_before: Some("x".to_owned()), ..Record::of("a") };
    locks.note_restored(media, &record).await.unwrap();
    locks.forget_unfinished(media, Some("y")).await.unwrap();
    assert_eq!(locks.restored_by(media, "a").await, Some(record));
    let at = Timestamp::UNIX_EPOCH;
    let undone = LastUndo { task_id: "b".to_owned(), kept_before: "x".to_owned(), replaced_at: at };
    locks.note_undone(media, &undone).await.unwrap();
    locks.forget_unfinished(media, Some("y")).await.unwrap();
    assert_eq!(locks.undone_by(media, "b").await, Some(undone));
    locks.forget_unfinished(media, Some("x")).await.unwrap();
    assert_eq!(locks.restored_by(media, "a").await, None);
    assert_eq!(locks.undone_by(media, "b").await, None);
}

#[tokio::test]
async fn a_record_is_read_back_by_its_own_task_alone() {
    let dir = tempfile::tempdir().unwrap();
    let locks = Locks::new(dir.path().to_owned());
    let media = ComponentName::MEDIA;
    assert_eq!(locks.restored_by(media, "a").await, None);
    let record = Record::of("a");
    locks.note_restored(media, &record).await.unwrap();
    assert_eq!(locks.restored_by(media, "a").await, Some(record));
    assert_eq!(locks.restored_by(media, "b").await, None);
}
