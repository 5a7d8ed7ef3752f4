//! The tasks that this worker has in hand, as `celery inspect` shows them and `revoke` stops them.

use super::message::Message;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio_util::sync::CancellationToken;

/// What a task in hand is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Taken, and waiting for a place.
    Reserved,
    /// Waiting for its time.
    Scheduled,
    /// Running since then.
    Active(Timestamp),
}

/// Why a task in hand must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// It had not begun.
    Waiting,
    /// It ran, and whoever revoked it asked for this signal's number.
    Terminated(i32),
}

/// The tasks in hand and the number of those that ran.
#[derive(Debug, Default)]
pub struct Requests(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    held: BTreeMap<u64, Arc<Held>>,
    taken: u64,
    totals: BTreeMap<String, u64>,
}

/// One task in hand; it is known to others until this is dropped.
#[derive(Debug)]
pub struct Request {
    all: Arc<Requests>,
    held: Arc<Held>,
}

/// A task in hand, as others see it.
#[derive(Debug)]
pub struct Held {
    number: u64,
    /// Its message.
    pub message: Arc<Message>,
    phase: Mutex<Phase>,
    stop: CancellationToken,
    revocation: OnceLock<Revocation>,
}

impl Requests {
    /// Takes a task in hand, as [`Phase::Reserved`].
    pub fn admit(self: &Arc<Self>, message: Arc<Message>) -> Request {
        let mut state = self.state();
        state.taken += 1;
        let held = Arc::new(Held {
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
    pub fn list(&self) -> Vec<Arc<Held>> {
        self.state().held.values().cloned().collect()
    }

    /// How many are running.
    pub fn active(&self) -> usize {
        self.state().held.values().filter(|held| matches!(held.phase(), Phase::Active(_))).count()
    }

    /// How many were started, by the task's name.
    pub fn totals(&self) -> BTreeMap<String, u64> {
        self.state().totals.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// What it is doing.
    pub fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it if it waits, and with a `signal` also if it runs. Tells whether it did.
    pub fn revoke(&self, signal: Option<i32>) -> bool {
        // Under the lock of the phase: it does not start in between.
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
    /// What others see of it.
    pub fn held(&self) -> &Arc<Held> {
        &self.held
    }

    /// Says that it waits for its time, or for a place.
    pub fn waits(&self, phase: Phase) {
        *self.held.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// Says that it runs from now on; `false` if it was revoked before.
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

    /// Fires when it must end.
    pub fn stop(&self) -> &CancellationToken {
        &self.held.stop
    }

    /// Why it must end; `None` while it need not.
    pub fn revocation(&self) -> Option<Revocation> {
        self.held.revocation.get().copied()
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.all.state().held.remove(&self.held.number);
    }
}
