//! What an entry of a queue is, and what is to be done with it.

use super::super::message::{Envelope, Limits, Look};
use bytes::Bytes;

/// What to do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Ours, and there is room for it now. Not taken if one that came before it is [`Full`](Self::Full).
    Take,
    /// Ours, and taken now, whatever waits before it.
    Ahead,
    /// Of a task that is not ours: stays where it is, in order, for its own worker.
    Foreign,
    /// Ours, but there is no room for it, nor for any behind it but those that are taken ahead: looked at
    /// again after [`Consumer::reconsider`](super::Consumer::reconsider).
    Full,
    /// Ours, but not now, though others behind it may be: looked at again after [`Consumer::reconsider`](super::Consumer::reconsider).
    Later,
}

impl Verdict {
    /// `Take` when the task's name is ours, else `Foreign`.
    pub fn take_if(look: &Envelope, ours: impl FnOnce(&str) -> bool) -> Self {
        if ours(&look.task) { Self::Take } else { Self::Foreign }
    }
}

/// One entry of a list, as the peek shows it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) digest: String,
    pub(super) bytes: usize,
    /// The whole entry, or the last bytes of one that is too long.
    pub(super) shown: Bytes,
}

/// What is to be done with an entry.
#[derive(Debug)]
pub(super) enum Judged {
    Take(Envelope),
    Ahead(Envelope),
    Foreign,
    Full,
    Later,
    Unreadable(&'static str),
}

impl Entry {
    /// Whether it is shown whole.
    pub(super) fn is_whole(&self) -> bool {
        self.shown.len() == self.bytes
    }

    pub(super) fn judge(&self, limits: &Limits, judge: &(impl Fn(&Envelope) -> Verdict + Sync)) -> Judged {
        let look = if self.is_whole() {
            Envelope::look(&self.shown, limits)
        } else {
            Envelope::look_at_tail(&self.shown)
        };
        let envelope = match look {
            Look::Task(envelope) => envelope,
            Look::Foreign => return Judged::Foreign,
            Look::Unreadable(why) => return Judged::Unreadable(why),
        };
        match judge(&envelope) {
            Verdict::Foreign => Judged::Foreign,
            // Without an id there is nothing to run, nor to fail.
            _ if envelope.id.is_none() => Judged::Unreadable("no task id"),
            Verdict::Later => Judged::Later,
            Verdict::Full => Judged::Full,
            Verdict::Take => Judged::Take(envelope),
            Verdict::Ahead => Judged::Ahead(envelope),
        }
    }
}
