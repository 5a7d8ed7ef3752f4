//! The records of restores and undos, for a delivery of their task that may come after a crash.

use crate::base::place::sync_folder;
use crate::domain::component::ComponentName;
use crate::domain::report::RestoreReport;
use crate::engine::{EngineError, Locks};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// The last restore of a component that was ordered by a task.
///
/// The record lies beside the component's lock, and is written under it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) task_id: String,
    /// The old data that was kept for `undo` just before the swap: other data afterwards means that the swap was done.
    pub(super) kept_before: Option<String>,
    /// The report of the restore; `None` while nobody has seen the end of the swap.
    pub(super) report: Option<RestoreReport>,
}

/// The last undo of a component that was ordered by a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Undone {
    pub(super) task_id: String,
    /// The old data that the undo was to make live again: other data kept afterwards means that the undo was done.
    pub(super) kept_before: String,
    /// The time at which that data had been replaced.
    pub(super) replaced_at: Timestamp,
}

const RESTORED: &str = "restored";
const UNDONE: &str = "undone";

impl Locks {
    /// The record of the last restore, if it was of this task.
    pub(super) fn restored_by(&self, component: ComponentName, task_id: Option<&str>) -> Option<Record> {
        read(&self.record(component, RESTORED)).filter(|record: &Record| Some(&*record.task_id) == task_id)
    }

    /// The record of the last undo, if it was of this task.
    pub(super) fn undone_by(&self, component: ComponentName, task_id: Option<&str>) -> Option<Undone> {
        read(&self.record(component, UNDONE)).filter(|record: &Undone| Some(&*record.task_id) == task_id)
    }

    /// Writes a record down, durably: old or new, whole.
    ///
    /// # Errors
    ///
    /// When the folder of the locks cannot be written: then the swap must not begin.
    pub(super) fn note_restored(&self, component: ComponentName, record: &Record) -> Result<(), EngineError> {
        self.note(component, RESTORED, record)
    }

    /// Notes an undo that is about to begin.
    ///
    /// # Errors
    ///
    /// As for [`note_restored`](Self::note_restored).
    pub(super) fn note_undone(&self, component: ComponentName, record: &Undone) -> Result<(), EngineError> {
        self.note(component, UNDONE, record)
    }

    fn note(&self, component: ComponentName, what: &str, record: &impl Serialize) -> Result<(), EngineError> {
        let path = self.record(component, what);
        let write = || -> io::Result<()> {
            let beside = path.with_extension("new");
            let mut file = File::create(&beside)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            Ok(sync_folder(File::open(path.parent().unwrap_or(&path))?)?)
        };
        write().map_err(|source| EngineError::Lock { component, source })
    }

    /// Forgets what tasks have still to do: before somebody else's swap, after which nobody could tell the two
    /// apart. `kept` is what is kept for `undo` now. What was done stays written down.
    ///
    /// # Errors
    ///
    /// When the folder of the locks cannot be written: then the swap must not begin.
    pub(super) fn forget_unfinished(
        &self,
        component: ComponentName,
        kept: Option<&str>,
    ) -> Result<(), EngineError> {
        let restored = self.record(component, RESTORED);
        let to_restore = read(&restored)
            .is_some_and(|record: Record| record.report.is_none() && record.kept_before.as_deref() == kept);
        let undone = self.record(component, UNDONE);
        let to_undo = read(&undone).is_some_and(|record: Undone| Some(&*record.kept_before) == kept);
        let forget = || -> io::Result<()> {
            for (path, _) in [(&restored, to_restore), (&undone, to_undo)].iter().filter(|(_, is)| *is) {
                fs::remove_file(path)?;
                sync_folder(File::open(self.dir())?)?;
            }
            Ok(())
        };
        forget().map_err(|source| EngineError::Lock { component, source })
    }

    fn record(&self, component: ComponentName, what: &str) -> PathBuf {
        self.dir().join(format!("{component}.{what}"))
    }
}

fn read<T: DeserializeOwned>(record: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(record).ok()?).ok()
}

#[test]
fn a_swap_that_is_still_to_come_is_forgotten_and_one_that_is_done_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (locks, media) = (Locks::new(dir.path().to_owned()), ComponentName::Media);
    locks.forget_unfinished(media, None).unwrap();
    let record = Record { task_id: "a".to_owned(), kept_before: Some("x".to_owned()), report: None };
    locks.note_restored(media, &record).unwrap();
    locks.forget_unfinished(media, Some("y")).unwrap();
    assert_eq!(locks.restored_by(media, Some("a")), Some(record));
    let at = Timestamp::UNIX_EPOCH;
    let undone = Undone { task_id: "b".to_owned(), kept_before: "x".to_owned(), replaced_at: at };
    locks.note_undone(media, &undone).unwrap();
    locks.forget_unfinished(media, Some("y")).unwrap();
    assert_eq!(locks.undone_by(media, Some("b")), Some(undone));
    locks.forget_unfinished(media, Some("x")).unwrap();
    assert_eq!(locks.restored_by(media, Some("a")), None);
    assert_eq!(locks.undone_by(media, Some("b")), None);
}

#[test]
fn a_record_is_read_back_by_its_own_task_alone() {
    let dir = tempfile::tempdir().unwrap();
    let locks = Locks::new(dir.path().to_owned());
    let media = ComponentName::Media;
    assert_eq!(locks.restored_by(media, Some("a")), None);
    let record = Record { task_id: "a".to_owned(), kept_before: None, report: None };
    locks.note_restored(media, &record).unwrap();
    assert_eq!(locks.restored_by(media, Some("a")), Some(record));
    assert_eq!(locks.restored_by(media, Some("b")), None);
    assert_eq!(locks.restored_by(media, None), None);
}
