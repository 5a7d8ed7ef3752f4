//! Notes of tasks that replaced live data. They lie with the data itself, so that every machine can tell whether a task
//! that is delivered again has done its work.

use crate::domain::id::BackupId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{fmt::Write, time::Duration};

/// The longest time for which a task whose result nobody has stored may be delivered again: a message comes back after
/// the visibility timeout of its broker, an hour by default.
pub const COMES_BACK: Duration = Duration::from_hours(24);

/// The number of notes that are handed on from one swap to the next.
const MOST: usize = 16;

/// The longest id of a task that is noted as it is, in bytes; of a longer one its hash is.
const LONGEST: usize = 200;

/// A task that restored a backup, or undid a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deed {
    task: String,
    /// The time of the swap.
    pub at: Timestamp,
    /// The backup that was restored; `None` for an undo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupId>,
    /// The time at which the data had been replaced that an undo made live again; `None` for a restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone: Option<Timestamp>,
    /// True once the task's result is stored: from then on nobody needs the note.
    #[serde(default)]
    pub settled: bool,
}

impl Deed {
    /// A restore of a backup.
    pub fn restore(task: &str, backup: BackupId, at: Timestamp) -> Self {
        Self { task: key(task), at, backup: Some(backup), undone: None, settled: false }
    }

    /// An undo of what was replaced at `undone`.
    pub fn undo(task: &str, undone: Timestamp, at: Timestamp) -> Self {
        Self { task: key(task), at, backup: None, undone: Some(undone), settled: false }
    }

    /// Tests whether it is the work of this task.
    pub fn is_of(&self, task: &str) -> bool {
        self.task == key(task)
    }

    /// Tests whether the task may be delivered again, so that its note is still needed. Clocks of two machines may
    /// differ, in either direction.
    pub fn may_come_back(&self, now: Timestamp) -> bool {
        !self.settled && now.duration_since(self.at).unsigned_abs() < COMES_BACK
    }
}

/// The notes after one more swap: those that there were, and that of the swap, unless it was done by hand.
pub fn with(mut deeds: Vec<Deed>, deed: Option<Deed>) -> Vec<Deed> {
    deeds.extend(deed);
    deeds.drain(..deeds.len().saturating_sub(MOST));
    deeds
}

/// Notes that the result of a task is stored. Returns whether that is news.
pub fn settle(deeds: &mut [Deed], task: &str) -> bool {
    let open = deeds.iter_mut().filter(|deed| !deed.settled && deed.is_of(task));
    open.map(|deed| deed.settled = true).count() > 0
}

/// The id of a task as it is noted: senders choose ids, and a long one would fill a comment.
fn key(task: &str) -> String {
    if task.len() <= LONGEST {
        return task.to_owned();
    }
    Sha256::digest(task).iter().fold("sha256:".to_owned(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[test]
fn a_note_is_needed_until_its_result_is_stored_or_a_day_is_over() {
    let now: Timestamp = "2026-11-22T02:00:00Z".parse().unwrap();
    let hours = |hours| now + jiff::SignedDuration::from_hours(hours);
    let mut deeds = with(Vec::new(), Some(Deed::undo("t", now, now)));
    assert!(deeds[0].may_come_back(hours(23)) && deeds[0].may_come_back(hours(-23)));
    assert!(!deeds[0].may_come_back(hours(24)) && !deeds[0].may_come_back(hours(-24)));
    assert!(!settle(&mut deeds, "u") && settle(&mut deeds, "t") && !settle(&mut deeds, "t"));
    assert!(!deeds[0].may_come_back(now));
}

#[test]
fn notes_are_few_and_short_whatever_a_sender_calls_a_task() {
    let at = Timestamp::UNIX_EPOCH;
    let long = "x".repeat(1 << 20);
    let deed = Deed::undo(&long, at, at);
    assert!(deed.is_of(&long) && !deed.is_of(&long[1..]) && deed.task.len() < LONGEST);
    let all = (0..100).fold(Vec::new(), |deeds, n| with(deeds, Some(Deed::undo(&n.to_string(), at, at))));
    assert!(all.len() == MOST && all[MOST - 1].is_of("99"));
}
