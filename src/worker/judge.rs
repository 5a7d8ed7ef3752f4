//! Which messages are ours to take, and which of those now.

use crate::celery::consumer::Verdict;
use crate::celery::message::Envelope;
use crate::domain::command::Command;
use crate::worker::Shared;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::task::TaskTracker;

/// Most messages that are taken at once: a flood of light ones is worked off in few round trips.
pub(super) const MOST: usize = 64;

/// Tasks in hand at once, beyond which no light one is taken.
pub(super) const LIGHT: usize = 4 * MOST;

/// Tasks that run or are about to. What waits for its time costs next to nothing and may wait for days: it keeps
/// nobody's question from being answered.
pub(super) fn in_hand(shared: &Shared, tasks: &TaskTracker) -> usize {
    tasks.len().saturating_sub(shared.scheduled.len())
}

/// Judges messages.
///
/// Nothing is taken that could not begin at once: what waits is better off in its queue, where other
/// workers find it and where it survives this one.
pub(super) struct Judge<'a> {
    shared: &'a Arc<Shared>,
    tasks: &'a TaskTracker,
    /// When the queues are looked at again for the sake of a rate limit.
    next_look: Mutex<Option<Instant>>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>, tasks: &'a TaskTracker) -> Self {
        Self { shared, tasks, next_look: Mutex::default() }
    }

    /// What is to be done with a message, by its headers alone, when `together` are about to be taken
    /// with it.
    pub(super) fn verdict(&self, look: &Envelope, together: &[&Envelope]) -> Verdict {
        if !Command::is_ours(&look.task) {
            return Verdict::Foreign;
        }
        if look.id.as_ref().is_some_and(|id| self.shared.node.revoked.contains(id)) {
            return Verdict::Ahead; // to say so
        }
        let light = Command::is_light(&look.task);
        let alike = together.iter().filter(|other| Command::is_light(&other.task) == light).count();
        if light && alike >= LIGHT.saturating_sub(in_hand(self.shared, self.tasks)) {
            return Verdict::Later;
        }
        if !light && alike >= self.shared.slots.room() {
            return Verdict::Full;
        }
        let busy = |component| {
            let taken = together.iter().any(|other| Command::occupies(&other.task) == Some(component));
            taken || self.shared.slots.is_busy(component)
        };
        if Command::occupies(&look.task).is_some_and(busy) {
            return Verdict::Later;
        }
        if let Err(wait) = self.shared.node.tasks.may_start(&look.task) {
            self.look_again_after(wait);
            return Verdict::Later;
        }
        if light { Verdict::Ahead } else { Verdict::Take }
    }

    /// Has the queues looked at again after this wait. A message is judged many times until then; one timer
    /// does for all.
    fn look_again_after(&self, wait: Duration) {
        let (now, at) = (Instant::now(), Instant::now() + wait);
        let mut next = self.next_look.lock().unwrap_or_else(PoisonError::into_inner);
        if next.is_some_and(|next| now < next && next <= at) {
            return;
        }
        *next = Some(at);
        drop(next);
        let (shared, drain) = (Arc::clone(self.shared), self.shared.stop.drain.clone());
        self.tasks.spawn(async move {
            if drain.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
                shared.node.changed.notify_one();
            }
        });
    }
}
