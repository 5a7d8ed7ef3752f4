//! One message, from lease to acknowledgement, with all that a task waits for before it runs.

use crate::base::chain;
use crate::celery::consumer::Delivery;
use crate::celery::lease::Lease;
use crate::celery::message::Message;
use crate::celery::requests::Request;
use crate::celery::result::{State, StoredResult};
use crate::domain::command::Command;
use crate::domain::component::ComponentName;
use crate::domain::progress::Meter;
use crate::worker::eta::{self, EtaWait, WaitEnd};
use crate::worker::outcome::Outcome;
use crate::worker::slots::{Permits, Slot};
use crate::worker::{Shared, finish, watch};
use jiff::Timestamp;
use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{Instrument, Span};

/// The wait before a read from Redis is tried again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// The interval of checks whether a component is free. A run takes seconds at least.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Runs the task of a delivery, stores the result, and settles the lease. `slot` is the slot that the task runs in,
/// if one was free.
///
/// Many messages may wait for their eta here, so what is held across that wait is in boxes, and short.
pub(super) async fn handle(shared: Arc<Shared>, delivery: Box<Delivery>, slot: Option<Slot>) {
    let (taken, waiting) = (Instant::now(), shared.waiting.token());
    let (delivery, slot, revoked) = match receive(&shared, delivery) {
        Ok(delivery) => (delivery, slot, false),
        Err((wait, span)) => {
            drop(slot);
            match wait.until_due(&shared).instrument(span).await {
                WaitEnd::Due { delivery, revoked } => (delivery, None, revoked),
                WaitEnd::Interrupted(lease) => return shared.returner.add(lease),
                WaitEnd::Lost => return,
            }
        }
    };
    Box::pin(begin(shared, delivery, slot, (taken, waiting), revoked)).await;
}

/// Receives a message. Returns the wait for its eta, if the eta is still to come and the task will not end before.
fn receive(shared: &Shared, delivery: Box<Delivery>) -> Result<Box<Delivery>, (Box<EtaWait>, Span)> {
    let Ok(message) = &delivery.content else { return Ok(delivery) };
    let span = span_of(message);
    let entered = span.enter();
    shared.node.events.received(message);
    let is_over = message.expires.is_some_and(|expires| expires <= Timestamp::now());
    if eta::time_left(message.eta).is_none() || is_over || shared.node.revoked.covers(message) {
        drop(entered);
        return Ok(delivery);
    }
    let Delivery { lease, content, .. } = *delivery;
    let Ok(message) = content else { unreachable!("it was one above") };
    let wait = EtaWait::begin(shared, &message, lease);
    drop(entered);
    Err((wait, span))
}

/// Runs a task whose time has come.
async fn begin(
    shared: Arc<Shared>,
    delivery: Box<Delivery>,
    slot: Option<Slot>,
    taken: (Instant, TaskTrackerToken),
    revoked: bool,
) {
    let Delivery { lease, content, .. } = *delivery;
    match content {
        Ok(message) => {
            let span = span_of(&message);
            let message = Arc::new(message);
            let request = shared.node.requests.admit(Arc::clone(&message));
            if revoked {
                request.held().revoke(None);
            }
            let task = Task { shared: &shared, message: &message, request: &request };
            task.handle(lease, slot, taken).instrument(span).await;
        }
        Err(refusal) => finish::refuse(&shared, refusal, lease).await,
    }
}

/// The span of a task's log lines. Quoted, because ids and names may contain any characters that the sender wrote, line
/// ends included.
fn span_of(message: &Message) -> Span {
    let attempt = message.retries.saturating_add(1);
    tracing::info_span!("task", id = ?message.id, name = ?message.task, attempt)
}

/// A task in hand.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    pub(super) shared: &'a Shared,
    pub(super) message: &'a Message,
    pub(super) request: &'a Request,
}

impl Task<'_> {
    /// `taken` is the time at which the message was taken; `waiting` is dropped when the task begins, or when its lease
    /// is settled.
    async fn handle(self, lease: Lease, slot: Option<Slot>, (taken, waiting): (Instant, TaskTrackerToken)) {
        if self.message.redelivered {
            self.shared.metrics.redelivered();
        }
        if let Some(stored) = self.stored_end().await {
            if self.message.redelivered {
                tracing::info!("this task is done already");
            } else {
                tracing::warn!(
                    "a task of this id has succeeded before, so nothing is done: to have it done again, order it under a new id"
                );
            }
            return self.end_again(&stored, lease).await;
        }
        if let Some(outcome) = self.worker_lost(&lease).await {
            drop(waiting);
            return self.finish(outcome, Duration::ZERO, lease).await;
        }
        let (place, outcome, began) = match self.turn(slot).await {
            Ok(place) => {
                drop(waiting); // a task that does not begin waits until its lease is settled
                self.note_begin(&lease).await;
                let began = Instant::now();
                self.shared.node.events.started(self.message);
                self.shared.metrics.task_started(watch::known(&self.message.task), taken.elapsed());
                (place, self.run().await, began)
            }
            Err(outcome) => (None, outcome, Instant::now()),
        };
        self.finish(outcome, began.elapsed(), lease).await;
        drop(place);
    }

    /// Returns the stored result of an earlier delivery of this task, if that delivery has ended. Waits for Redis.
    async fn stored_end(&self) -> Option<StoredResult> {
        if !self.message.redelivered && Command::is_light(&self.message.task) {
            return None; // running a light task again is quicker than reading its result
        }
        let stored = loop {
            match self.shared.backend.state(&self.message.id).await {
                Ok(stored) => break stored?,
                Err(err) if err.is_transient() => {
                    let wait = tokio::time::sleep(ASK_AGAIN);
                    self.shared.stop.silence.run_until_cancelled(wait).await?;
                }
                Err(err) => {
                    tracing::warn!(error = %chain(&err), "cannot read the state of the task");
                    return None;
                }
            }
        };
        // A new message may order a failed task again under its old id; a redelivered message only repeats the task.
        let state = State::parse(&stored.status)?;
        let ended = state == State::Success || self.message.redelivered && state.is_final();
        ended.then_some(stored)
    }

    /// Waits until the task may run: for its eta, its component and a slot. Returns an outcome if the task ends
    /// before.
    async fn turn(&self, slot: Option<Slot>) -> Result<Option<Permits>, Outcome> {
        if self.shared.node.revoked.covers(self.message) {
            return Err(Outcome::Revoked { signal: None });
        }
        self.not_expired()?;
        let permits =
            if Command::is_light(&self.message.task) { None } else { Some(self.permits(slot).await?) };
        self.not_expired()?;
        if self.request.starts() { Ok(permits) } else { Err(Outcome::Revoked { signal: None }) }
    }

    /// Waits for the task's component, in this process and in the whole fleet, and then for a slot: a task that
    /// waits for a component holds no slot meanwhile.
    async fn permits(&self, slot: Option<Slot>) -> Result<Permits, Outcome> {
        let (slots, mut slot) = (&self.shared.slots, slot);
        let mut occupied = None;
        if let Some(component) = Command::occupies(&self.message.task) {
            occupied = slots.try_occupy(component);
            if occupied.is_none() {
                slot = None;
                let _waiting = slots.wait_without_slot();
                occupied = Some(self.unless_stopped(slots.occupy(component)).await?);
            }
        }
        // A verification, a pin or an undo occupies nothing before it begins, and waits for its turn all the same.
        let command = Command::parse(&self.message.task, &self.message.args, &self.message.kwargs);
        if let Some(component) = command.ok().and_then(|command| command.component())
            && let Some(why) = self.shared.engine.locks.in_the_way(component).await
        {
            slot = None;
            let _waiting = slots.wait_without_slot();
            self.unless_stopped(self.until_free(component, why)).await?;
        }
        let slot = match slot {
            Some(slot) => slot,
            None => self.unless_stopped(slots.take()).await?,
        };
        Ok((slot, occupied))
    }

    /// Waits until no other run works on the component, and shows the wait in the task's progress.
    async fn until_free(&self, component: ComponentName, mut why: String) {
        let meter = Meter::default();
        let wait = async {
            loop {
                tracing::info!(%component, why, "waiting for another run to end");
                meter.begin(format!("waiting: {why}"), 0);
                let shown = why;
                why = loop {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    match self.shared.engine.locks.in_the_way(component).await {
                        None => return,
                        Some(why) if why == shown => {}
                        Some(why) => break why,
                    }
                };
            }
        };
        self.reporter(component).during(&meter, wait).await;
    }

    fn not_expired(&self) -> Result<(), Outcome> {
        let over = self.message.expires.is_some_and(|expires| expires <= Timestamp::now());
        if over { Err(Outcome::Expired) } else { Ok(()) }
    }

    /// Waits for `wait`, unless the task is revoked or the worker shuts down meanwhile.
    async fn unless_stopped<T>(&self, wait: impl Future<Output = T>) -> Result<T, Outcome> {
        tokio::select! {
            biased;
            () = self.request.stop().cancelled() => Err(Outcome::Revoked { signal: None }),
            () = self.shared.stop.drain.cancelled() => Err(Outcome::Interrupted),
            done = wait => Ok(done),
        }
    }
}
