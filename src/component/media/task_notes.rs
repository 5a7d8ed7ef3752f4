//! The note in an area on the tasks whose swaps have filled it.

use crate::base::durable;
use crate::component::ComponentError;
use crate::component::media::{errors::path_error, label::Role, staging_area::StagingArea};
use crate::domain::task_note::{self, TaskNote};
use jiff::Timestamp;
use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use std::{
    ffi::{CStr, OsStr},
    fs::File,
    io::Read,
    os::unix::ffi::OsStrExt,
};

/// The file of the note.
pub(super) const NOTE: &CStr = c"deeds";

/// The largest note that is read, in bytes; far more than any that is written.
const LARGEST: u64 = 1 << 20;

/// The note. The last swap counts once it is done, which the area's name tells: every swap gives it another one.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    #[serde(rename = "deeds")]
    task_notes: Vec<TaskNote>,
    /// The last swap that began.
    begun: Option<Begun>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Begun {
    /// The label of the area before that swap.
    from: String,
    #[serde(rename = "deed")]
    note: TaskNote,
}

impl StagingArea {
    /// The tasks whose swaps have set the area's tree aside; `None` where an earlier version of this program did.
    pub(super) fn task_notes(&self) -> Option<Vec<TaskNote>> {
        let Note { task_notes, begun } = self.note()?;
        let done = begun.filter(|begun| self.label.role == Role::Before && begun.from != self.label.name());
        Some(task_note::append(task_notes, done.map(|begun| begun.note)))
    }

    /// Tests whether a task may be delivered again whose swap this area proves.
    pub(super) fn is_needed(&self) -> bool {
        let now = Timestamp::now();
        self.task_notes().is_some_and(|task_notes| task_notes.iter().any(|note| note.may_be_redelivered(now)))
    }

    /// Tests whether the swap that has begun is a task's.
    pub(super) fn is_of_a_task(&self) -> bool {
        self.note().is_some_and(|note| note.begun.is_some())
    }

    /// Notes, durably, that a swap begins, ordered by a task or by hand.
    ///
    /// # Errors
    ///
    /// Then it must not begin.
    pub(super) fn begin(&self, note: Option<TaskNote>) -> Result<(), ComponentError> {
        let begun = note.map(|note| Begun { from: self.label.name(), note });
        self.write(&Note { task_notes: self.task_notes().unwrap_or_default(), begun })
    }

    /// Notes that the result of a task is stored.
    ///
    /// # Errors
    ///
    /// When the note cannot be written.
    pub(super) fn result_stored(&self, task: &str) -> Result<(), ComponentError> {
        let Some(mut task_notes) = self.task_notes() else { return Ok(()) };
        if !task_note::mark_stored(&mut task_notes, task) {
            return Ok(());
        }
        self.write(&Note { task_notes, begun: None })
    }

    fn note(&self) -> Option<Note> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file: File = openat(&self.folder, NOTE, flags, Mode::empty()).ok()?.into();
        let mut bytes = Vec::new();
        file.take(LARGEST).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn write(&self, note: &Note) -> Result<(), ComponentError> {
        let bytes = serde_json::to_vec(note).expect("texts and times are JSON");
        durable::write_in(&self.folder, OsStr::from_bytes(NOTE.to_bytes()), &bytes).map_err(|err| {
            let (path, errno) = (self.path(), Errno::from_io_error(&err).unwrap_or(Errno::IO));
            path_error(format!("note the task in {}", path.display()), &path, errno)
        })
    }
}
