//! The notes of tasks that have replaced classes: they lie in the marks on the server, so that whichever machine gets such a
//! task again knows that its work is done.

use crate::base::chain;
use crate::component::weaviate::Weaviate;
use crate::component::weaviate::claim::ReplacementClaim;
use crate::component::weaviate::copies::kept_as;
use crate::component::weaviate::journal::Journal;
use crate::component::weaviate::mark::ReplacementMark;
use crate::component::{CompletedSwap, ComponentError};
use crate::domain::task_note::{self, TaskNote};
use jiff::Timestamp;

impl Weaviate {
    /// The work of a task, if some machine has replaced all its classes. What it set aside lies on that machine.
    ///
    /// # Errors
    ///
    /// When the marks cannot be read.
    pub(super) async fn replaced_by(&self, task: &str) -> Result<Option<CompletedSwap>, ComponentError> {
        let marks = self.connect().await?.marks().await?;
        let of_task = |mark: &ReplacementMark| mark.task_notes.iter().find(|note| note.is_of(task)).cloned();
        let Some((mark, note)) = marks.iter().rev().find_map(|mark| Some((mark, of_task(mark)?))) else {
            return Ok(None);
        };
        let journal = Journal::open(&self.config.state).await?;
        let kept = if journal.notes.id.as_ref() == Some(&mark.journal) {
            journal.notes.kept.as_ref().map(|kept| kept_as(&journal, kept).place)
        } else {
            Some(format!("on {}", mark.owner()))
        };
        Ok(Some(CompletedSwap { note, kept }))
    }

    /// Notes that the result of a task is stored, in the mark of whatever machine has done its work.
    ///
    /// # Errors
    ///
    /// When a mark cannot be read or written.
    pub(super) async fn mark_note_stored(&self, task: &str) -> Result<(), ComponentError> {
        let server = self.connect().await?;
        for mut mark in server.marks().await? {
            if task_note::mark_stored(&mut mark.task_notes, task) {
                mark.beat += 1;
                server.change_mark(&mark).await?;
            }
        }
        let mut journal = Journal::open(&self.config.state).await?;
        self.refresh_mark(&server, &mut journal).await
    }
}

impl ReplacementMark {
    /// Appends the note of a task.
    fn append_note(&mut self, note: TaskNote) {
        self.task_notes = task_note::append(std::mem::take(&mut self.task_notes), Some(note));
    }

    /// The notes on tasks that may be delivered again.
    pub(super) fn needed_notes(&self) -> Vec<TaskNote> {
        let now = Timestamp::now();
        self.task_notes.iter().filter(|note| note.may_be_redelivered(now)).cloned().collect()
    }
}

impl ReplacementClaim {
    /// Does work that replaces classes, and notes in the mark that it is the work of a task. A note that cannot be written
    /// is a warning, since the classes are whole.
    pub(super) async fn signed<T>(
        &self,
        note: Option<TaskNote>,
        work: impl Future<Output = Result<T, ComponentError>>,
    ) -> Result<T, ComponentError> {
        let done = work.await?;
        if let Some(note) = note
            && let Err(err) = self.change(|mark| mark.append_note(note)).await
        {
            tracing::warn!(error = %chain(&err), "other machines are not told that this task has done its work");
        }
        Ok(done)
    }
}
