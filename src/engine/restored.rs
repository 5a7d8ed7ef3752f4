//! What a restore did, written down for the delivery of its task that may come after a crash.

use crate::domain::component::ComponentName;
use crate::domain::report::RestoreReport;
use crate::engine::{EngineError, Locks};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
};

/// The last restore of a component that was ordered by a task.
///
/// It lies beside the component's lock, and is written under it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) task_id: String,
    /// What was kept for `undo` just before its swap: something else afterwards means that the swap was done.
    pub(super) kept_before: Option<String>,
    /// What came of it; `None` while nobody has seen the end of the swap.
    pub(super) report: Option<RestoreReport>,
}

impl Locks {
    /// The record of the last restore, if it was of this task.
    pub(super) fn restored_by(&self, component: ComponentName, task_id: Option<&str>) -> Option<Record> {
        let text = fs::read(self.record(component)).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        (Some(record.task_id.as_str()) == task_id).then_some(record)
    }

    /// Writes a record down, durably: old or new, whole.
    ///
    /// # Errors
    ///
    /// When the folder of the locks cannot be written: then the swap must not begin.
    pub(super) fn note_restored(&self, component: ComponentName, record: &Record) -> Result<(), EngineError> {
        let path = self.record(component);
        let write = || -> io::Result<()> {
            let beside = path.with_extension("new");
            let mut file = File::create(&beside)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(path.parent().unwrap_or(&path))?.sync_all()
        };
        write().map_err(|source| EngineError::Lock { component, source })
    }

    fn record(&self, component: ComponentName) -> PathBuf {
        self.dir().join(format!("{component}.restored"))
    }
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
