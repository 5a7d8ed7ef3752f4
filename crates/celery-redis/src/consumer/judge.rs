//! Entries of a queue, and the verdict on each.

use super::super::message::{Envelope, Limits, Peeked};
use bytes::Bytes;

/// The verdict on a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Take the message now, unless an older message is [`Full`](Self::Full).
    Take,
    /// Take the message now, even if older messages wait.
    Ahead,
    /// The task belongs to another program, so the message keeps its place in the queue, for a worker of that
    /// program.
    Foreign,
    /// The task is this worker's, but no slot is free. Later messages wait too, except those with
    /// [`Ahead`](Self::Ahead). Judged again after [`Consumer::reconsider`](super::Consumer::reconsider).
    Full,
    /// The task is this worker's, but cannot start now; later messages may. Judged again after
    /// [`Consumer::reconsider`](super::Consumer::reconsider).
    Later,
}

impl Verdict {
    /// Returns `Take` if `ours` accepts the task's name, else `Foreign`.
    pub fn take_if(look: &Envelope, ours: impl FnOnce(&str) -> bool) -> Self {
        if ours(&look.task) { Self::Take } else { Self::Foreign }
    }
}

/// An entry of a list, as `peek.lua` returns it.
#[derive(Debug)]
pub(super) struct QueueEntry {
    pub(super) digest: String,
    pub(super) bytes: usize,
    /// The bytes of the entry; of an entry that is too long only the last bytes.
    pub(super) shown: Bytes,
}

/// The verdict on an entry, with the envelope of a message that is to be taken.
#[derive(Debug)]
pub(super) enum JudgedEntry {
    Take(Envelope),
    Ahead(Envelope),
    Foreign,
    Full,
    Later,
    Unreadable(&'static str),
}

impl QueueEntry {
    /// True if `shown` is the whole entry.
    pub(super) fn is_whole(&self) -> bool {
        self.shown.len() == self.bytes
    }

    pub(super) fn judge(
        &self,
        limits: &Limits,
        judge: &(impl Fn(&Envelope) -> Verdict + Sync),
    ) -> JudgedEntry {
        let look = if self.is_whole() {
            Envelope::peek(&self.shown, limits)
        } else {
            Envelope::peek_at_tail(&self.shown)
        };
        let envelope = match look {
            Peeked::Task(envelope) => envelope,
            Peeked::Foreign => return JudgedEntry::Foreign,
            Peeked::Unreadable(why) => return JudgedEntry::Unreadable(why),
        };
        match judge(&envelope) {
            Verdict::Foreign => JudgedEntry::Foreign,
            // A message without an id cannot be run, nor can a FAILURE be stored for it.
            _ if envelope.id.is_none() => JudgedEntry::Unreadable("no task id"),
            Verdict::Later => JudgedEntry::Later,
            Verdict::Full => JudgedEntry::Full,
            Verdict::Take => JudgedEntry::Take(envelope),
            Verdict::Ahead => JudgedEntry::Ahead(envelope),
        }
    }
}
