//! Notes of tasks that replaced live data. They lie with the data itself, so that every machine can tell whether a task
//! that is delivered again has done its work.

use crate::id::BackupId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// The time for which a task whose result nobody has stored may be delivered again, where the visibility timeout of its
/// broker is the usual hour or less: a message comes back after that timeout.
pub const REDELIVERY_WINDOW: Duration = Duration::from_hours(24);

/// The visibility timeout of most brokers.
const USUAL: Duration = Duration::from_hours(1);

/// The number of notes that are handed on from one swap to the next.
const MOST: usize = 16;

/// The longest id of a task that is noted as it is, in bytes; of a longer one its hash is.
const LONGEST: usize = 200;

/// A task that restored a backup, or undid a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskNote {
    task: String,
    /// The time of the swap.
    pub at: Timestamp,
    /// The backup that was restored; `None` for an undo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupId>,
    /// The time at which the data had been replaced that an undo made live again; `None` for a restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone: Option<Timestamp>,
    /// The place of that data; told to the swap, which looks whether the data is still there, and not noted.
    #[serde(skip)]
    place: Option<String>,
    /// The seconds for which the task may be delivered again, where these are more than [`REDELIVERY_WINDOW`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seconds: Option<u64>,
    /// True once the task's result is stored: from then on nobody needs the note.
    #[serde(default)]
    pub settled: bool,
}

impl TaskNote {
    /// A restore of a backup.
    pub fn restore(task: &str, backup: BackupId, at: Timestamp) -> Self {
        Self { backup: Some(backup), ..Self::of(task, at) }
    }

    /// An undo of what was replaced at `undone`.
    pub fn undo(task: &str, undone: Timestamp, at: Timestamp) -> Self {
        Self { undone: Some(undone), ..Self::of(task, at) }
    }

    fn of(task: &str, at: Timestamp) -> Self {
        Self { task: key(task), at, backup: None, undone: None, place: None, seconds: None, settled: false }
    }

    /// Keeps the note longer where the broker delivers a message again after more than an hour.
    #[must_use]
    pub fn on_broker(mut self, visibility_timeout: Duration) -> Self {
        let longer = visibility_timeout.saturating_sub(USUAL);
        self.seconds = (!longer.is_zero()).then(|| REDELIVERY_WINDOW.saturating_add(longer).as_secs());
        self
    }

    /// Names the place of the data that an undo is to make live again.
    #[must_use]
    pub fn from_place(mut self, place: &str) -> Self {
        self.place = Some(place.to_owned());
        self
    }

    /// Tests whether an undo still leads to what it was ordered to make live again, if the data at `place` is the last that
    /// was replaced.
    pub fn leads_to(&self, place: &str) -> bool {
        self.place.as_ref().is_none_or(|ordered| ordered == place)
    }

    /// Tests whether it is the work of this task.
    pub fn is_of(&self, task: &str) -> bool {
        self.task == key(task)
    }

    /// Tests whether the task may be delivered again, so that its note is still needed. Clocks of two machines may
    /// differ, in either direction.
    pub fn may_be_redelivered(&self, now: Timestamp) -> bool {
        let window = self.seconds.map_or(REDELIVERY_WINDOW, Duration::from_secs);
        !self.settled && now.duration_since(self.at).unsigned_abs() < window
    }
}

/// The notes after one more swap: those that there were, and that of the swap, unless it was done by hand.
pub fn append(mut notes: Vec<TaskNote>, note: Option<TaskNote>) -> Vec<TaskNote> {
    notes.extend(note);
    notes.drain(..notes.len().saturating_sub(MOST));
    notes
}

/// Notes that the result of a task is stored. Returns whether that is news.
pub fn mark_stored(notes: &mut [TaskNote], task: &str) -> bool {
    let open = notes.iter_mut().filter(|note| !note.settled && note.is_of(task));
    open.map(|note| note.settled = true).count() > 0
}

/// The id of a task as it is noted: senders choose ids, and a long one would fill a comment.
fn key(task: &str) -> String {
    if task.len() <= LONGEST {
        return task.to_owned();
    }
    format!("sha256:{}", hex::encode(Sha256::digest(task)))
}

#[test]
fn a_note_is_needed_until_its_result_is_stored_or_a_day_is_over() {
    let now: Timestamp = "2026-11-22T02:00:00Z".parse().unwrap();
    let hours = |hours| now + jiff::SignedDuration::from_hours(hours);
    let mut notes = append(Vec::new(), Some(TaskNote::undo("t", now, now)));
    assert!(notes[0].may_be_redelivered(hours(23)) && notes[0].may_be_redelivered(hours(-23)));
    assert!(!notes[0].may_be_redelivered(hours(24)) && !notes[0].may_be_redelivered(hours(-24)));
    let late = TaskNote::undo("t", now, now).on_broker(Duration::from_hours(49));
    let late: TaskNote = serde_json::from_value(serde_json::to_value(late).unwrap()).unwrap();
    assert!(
        late.may_be_redelivered(hours(71)) && !late.may_be_redelivered(hours(72)),
        "24 hours and 48 more than usual"
    );
    assert!(!mark_stored(&mut notes, "u") && mark_stored(&mut notes, "t") && !mark_stored(&mut notes, "t"));
    assert!(!notes[0].may_be_redelivered(now));
}

#[test]
fn notes_are_few_and_short_whatever_a_sender_calls_a_task() {
    let at = Timestamp::UNIX_EPOCH;
    let long = "x".repeat(1 << 20);
    let note = TaskNote::undo(&long, at, at);
    assert!(note.is_of(&long) && !note.is_of(&long[1..]) && note.task.len() < LONGEST);
    let all =
        (0..100).fold(Vec::new(), |notes, n| append(notes, Some(TaskNote::undo(&n.to_string(), at, at))));
    assert!(all.len() == MOST && all[MOST - 1].is_of("99"));
}
