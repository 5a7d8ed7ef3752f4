//! The tasks in hand of this worker, as `celery inspect` shows them and `revoke` stops them.

use super::message::Message;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio_util::sync::CancellationToken;

/// The phase of a task in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The task was taken, and waits for a slot or a component.
    Reserved,
    /// The task waits for its eta.
    Scheduled,
    /// The task has been running since then.
    Active(Timestamp),
}

/// The reason why a task in hand must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// The task was revoked before it began.
    Waiting,
    /// The task was running, and the `revoke` command asked for the signal of this number.
    Terminated(i32),
}

/// The tasks in hand, and the number of started tasks by name.
#[derive(Debug, Default)]
pub struct Requests(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    held: BTreeMap<u64, Arc<TaskInHand>>,
    taken: u64,
    totals: BTreeMap<String, u64>,
}

/// A task in hand, which is listed in [`Requests`] until this value is dropped.
#[derive(Debug)]
pub struct Request {
    all: Arc<Requests>,
    held: Arc<TaskInHand>,
}

/// A task in hand, as `inspect` and `revoke` see it.
#[derive(Debug)]
pub struct TaskInHand {
    number: u64,
    /// The message of the task.
    pub message: Arc<Message>,
    phase: Mutex<Phase>,
    stop: CancellationToken,
    revocation: OnceLock<Revocation>,
}

impl Requests {
    /// Adds a task in hand, as [`Phase::Reserved`].
    pub fn admit(self: &Arc<Self>, message: Arc<Message>) -> Request {
        let mut state = self.state();
        state.taken += 1;
        let held = Arc::new(TaskInHand {
            number: state.taken,
            message,
            phase: Mutex::new(Phase::Reserved),
            stop: CancellationToken::new(),
            revocation: OnceLock::new(),
        });
        state.held.insert(held.number, Arc::clone(&held));
        Request { all: Arc::clone(self), held }
    }

    /// The tasks in hand, the first taken first.
    pub fn list(&self) -> Vec<Arc<TaskInHand>> {
        self.state().held.values().cloned().collect()
    }

    /// The number of running tasks.
    pub fn active(&self) -> usize {
        self.state().held.values().filter(|held| matches!(held.phase(), Phase::Active(_))).count()
    }

    /// The number of started tasks, by the task's name.
    pub fn totals(&self) -> BTreeMap<String, u64> {
        self.state().totals.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TaskInHand {
    /// The phase of the task.
    pub fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the task if it waits, and with a `signal` also if it runs. Returns `true` if the task was ended.
    pub fn revoke(&self, signal: Option<i32>) -> bool {
        // The phase stays locked, so that the task does not start in between.
        let phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let revocation = match (*phase, signal) {
            (Phase::Active(_), None) => return false,
            (Phase::Active(_), Some(signal)) => Revocation::Terminated(signal),
            _ => Revocation::Waiting,
        };
        let _ = self.revocation.set(revocation);
        self.stop.cancel();
        true
    }
}

impl Request {
    /// The entry that `inspect` and `revoke` see.
    pub fn held(&self) -> &Arc<TaskInHand> {
        &self.held
    }

    /// Sets the phase of a task that waits for its eta, or for a slot.
    pub fn waits(&self, phase: Phase) {
        *self.held.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// Marks the task as running from now on. Returns `false` if the task was revoked before.
    pub fn starts(&self) -> bool {
        let mut phase = self.held.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if self.held.revocation.get().is_some() {
            return false;
        }
        *phase = Phase::Active(Timestamp::now());
        drop(phase);
        *self.all.state().totals.entry(self.held.message.task.clone()).or_default() += 1;
        true
    }

    /// Fires when the task must end.
    pub fn stop(&self) -> &CancellationToken {
        &self.held.stop
    }

    /// The reason why the task must end; `None` if there is none.
    pub fn revocation(&self) -> Option<Revocation> {
        self.held.revocation.get().copied()
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.all.state().held.remove(&self.held.number);
    }
}
