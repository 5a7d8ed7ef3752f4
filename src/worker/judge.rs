//! Decides which messages this worker takes, and which of these now.

use crate::celery::consumer::{Delivery, Verdict};
use crate::celery::message::Envelope;
use crate::domain::command::Command;
use crate::worker::{Shared, eta};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::task::TaskTracker;

/// Maximum number of messages taken at once, so that a flood of light ones needs few round trips.
pub(super) const MOST: usize = 64;

/// Number of tasks in hand from which on no light task is taken.
pub(super) const LIGHT: usize = 4 * MOST;

/// The number of tasks that run or are about to. A task that waits for its eta is not counted: it costs next to
/// nothing, may wait for days, and must not delay light tasks meanwhile.
pub(super) fn in_hand(shared: &Shared, tasks: &TaskTracker) -> usize {
    tasks.len().saturating_sub(shared.scheduled.len())
}

/// Judges messages.
///
/// Only messages whose tasks can begin at once are taken: waiting messages are better off in their queue, where other
/// workers can take them and where they survive this worker.
pub(super) struct Judge<'a> {
    shared: &'a Arc<Shared>,
    tasks: &'a TaskTracker,
    /// The time of the next look at the queues because of a rate limit.
    next_look: Mutex<Option<Instant>>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>, tasks: &'a TaskTracker) -> Self {
        Self { shared, tasks, next_look: Mutex::default() }
    }

    /// Returns the verdict on a message, by its headers alone. `together` are the messages that are about to be taken
    /// with it.
    pub(super) fn verdict(&self, look: &Envelope, together: &[&Envelope]) -> Verdict {
        if !Command::is_ours(&look.task) {
            return Verdict::Foreign;
        }
        if look.id.as_ref().is_some_and(|id| self.shared.node.revoked.contains(id)) {
            return Verdict::Ahead; // so that REVOKED is stored
        }
        let light = Command::is_light(&look.task);
        let alike = together.iter().filter(|other| Command::is_light(&other.task) == light).count();
        if light && alike >= LIGHT.saturating_sub(in_hand(self.shared, self.tasks)) {
            return Verdict::Later;
        }
        if !light && alike >= self.shared.slots.room() {
            return Verdict::Full;
        }
        // Such a task may wait for a component that its name does not tell.
        if !light && Command::occupies(&look.task).is_none() && self.shared.slots.is_crowded() {
            return Verdict::Later;
        }
        let busy = |component| {
            let taken = together.iter().any(|other| Command::occupies(&other.task) == Some(component));
            taken || self.shared.slots.is_busy(component)
        };
        if Command::occupies(&look.task).is_some_and(busy) {
            return Verdict::Later;
        }
        let waits = |look: &Envelope| eta::time_left(look.eta);
        if let Some(left) = waits(look) {
            let about_to_wait = together.iter().filter(|other| waits(other).is_some()).count();
            if self.shared.eta_memory.is_full(self.shared.scheduled.len(), about_to_wait) {
                self.look_again_after(left);
                return Verdict::Later;
            }
        }
        let about_to_start = together.iter().any(|other| other.task == look.task);
        if let Some(wait) = self.shared.node.tasks.wait(&look.task, about_to_start) {
            self.look_again_after(wait);
            return Verdict::Later;
        }
        if light { Verdict::Ahead } else { Verdict::Take }
    }

    /// Counts a task that was taken for its rate limit. A revoked one was taken to be answered, and does not start.
    pub(super) fn taken(&self, delivery: &Delivery) {
        if let Ok(message) = &delivery.content
            && !self.shared.node.revoked.contains(&message.id)
        {
            self.shared.node.tasks.started(&message.task);
        }
    }

    /// Makes the consumer look at the queues again after this wait. A message is judged many times until then, so one
    /// timer serves all messages.
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
