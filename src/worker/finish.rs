//! The end of a task: stores the result, sends the messages that follow, and then acknowledges.

use crate::base::chain;
use crate::celery::CeleryError;
use crate::celery::canvas::Canvas;
use crate::celery::lease::Lease;
use crate::celery::message::Refusal;
use crate::celery::result::{Backend, Child, Exception, State, StoredResult, TaskResult};
use crate::domain::command::Command;
use crate::worker::outcome::{Failure, Outcome};
use crate::worker::task::Task;
use crate::worker::{Shared, watch};
use jiff::Timestamp;
use serde_json::Value;
use std::time::Duration;

/// Stores a FAILURE for a message whose contents are refused, and acknowledges the message.
pub(super) async fn refuse(shared: &Shared, refusal: Refusal, lease: Lease) {
    tracing::warn!(id = ?refusal.id, name = ?refusal.task, why = refusal.exception.message(), "refused the contents of a message");
    shared.metrics.task(watch::known(&refusal.task), State::Failure.as_str());
    let result = TaskResult::failure(&refusal.id, &refusal.exception, None);
    if store(shared, &result).await {
        acknowledge(shared, lease).await;
        shared.node.events.refused(&refusal.id, &refusal.exception);
    }
}

/// Stores a result. Returns `false` if the process must end before Redis could be reached.
///
/// A result that Redis refuses for good (rights, a key of another type) is lost: the work is done, and
/// running the task again would not store the result either.
async fn store(shared: &Shared, result: &TaskResult) -> bool {
    let Err(err) = shared.backend.store(result, &shared.stop.silence).await else { return true };
    if matches!(err, CeleryError::Stopped { .. }) {
        tracing::error!(error = chain(&err), "cannot store the result, the task will be delivered again");
        return false;
    }
    lost(result, &err);
    true
}

fn lost(result: &TaskResult, err: &CeleryError) {
    let error = chain(err);
    tracing::error!(error, state = result.state.as_str(), "redis refuses the result, it is lost");
}

async fn acknowledge(shared: &Shared, lease: Lease) {
    if let Err(err) = lease.ack(&shared.stop.silence).await {
        tracing::error!(error = chain(&err), "cannot acknowledge the task, it will be delivered again");
    }
}

impl Task<'_> {
    /// Stores the outcome, sends the messages that follow, and settles the lease.
    ///
    /// If Redis cannot be reached before the process must end, the message stays with the broker and is delivered
    /// again; anything stored and sent by then is neither stored nor sent twice.
    pub(super) async fn finish(&self, outcome: Outcome, ran: Duration, lease: Lease) {
        let id = &self.message.id;
        let result = match &outcome {
            Outcome::Success { value, children } => {
                let Some(followers) = self.followers(value).await else { return };
                let children = children.iter().cloned().chain(followers).collect();
                TaskResult { children, ..TaskResult::new(id, State::Success, value.clone()) }
            }
            Outcome::Transient(failure) if self.message.retries < self.shared.options.max_retries => {
                return self.retry(failure, lease).await;
            }
            Outcome::Failure(failure) | Outcome::Transient(failure) => {
                tracing::error!(error = failure.exception.message(), "task failed");
                let traceback = Some(failure.traceback.clone()).filter(|text| !text.is_empty());
                TaskResult::failure(id, &failure.exception, traceback)
            }
            Outcome::Revoked { signal } => {
                let why = if signal.is_some() { "terminated" } else { "revoked" };
                tracing::warn!("{why}, not run to its end");
                TaskResult::new(id, State::Revoked, Exception::celery("TaskRevokedError", why).to_value())
            }
            Outcome::Expired => {
                tracing::warn!("expired before it could run");
                let expired = Exception::celery("TaskRevokedError", "expired");
                TaskResult::new(id, State::Revoked, expired.to_value())
            }
            Outcome::Interrupted => return self.give_back(lease).await,
        };
        self.shared.metrics.task(watch::known(&self.message.task), result.state.as_str());
        if self.end(result.of(self.message), lease).await {
            self.shared.orders.carried_out(self.message).await;
            self.tell(&outcome, ran);
            self.note_result_stored().await;
        }
    }

    /// Sends callbacks and the next step of a chain, and returns them as children. Returns `None` if the process must
    /// end before that.
    async fn followers(&self, value: &Value) -> Option<Vec<Child>> {
        match self.shared.canvas.succeed(self.message, value, &self.shared.stop.silence).await {
            Ok(followers) => Some(followers),
            Err(err) if matches!(err, CeleryError::Stopped { .. }) => {
                tracing::error!(
                    error = chain(&err),
                    "cannot send what follows, the task will be delivered again"
                );
                None
            }
            Err(err) => {
                tracing::error!(error = chain(&err), "redis refuses what follows from the task");
                Some(Vec::new())
            }
        }
    }

    /// Stores a final state, and then does the work of [`conclude`](Self::conclude). Returns `false` if the result
    /// could not be stored in time, or if another worker has the task.
    async fn end(&self, result: TaskResult, lease: Lease) -> bool {
        let silence = &self.shared.stop.silence;
        let Some(backend) = self.backend() else { return self.conclude(&result, lease).await };
        if !Canvas::ends(self.message, result.state) && backend.is_at(&self.shared.broker) {
            match lease.ack_with(&result, backend, silence).await {
                Err(err @ CeleryError::Refused { .. }) => lost(&result, &err),
                Err(err @ CeleryError::LeaseLost { .. }) => {
                    tracing::warn!(error = chain(&err), "another worker has taken the task over");
                    return result.state == State::Success;
                }
                Err(err) => {
                    tracing::error!(
                        error = chain(&err),
                        "cannot store the result, the task will be delivered again"
                    );
                    return false;
                }
                Ok(()) => return true,
            }
        } else if result.state != State::Success && !lease.is_ours().await {
            tracing::warn!("another worker has taken the task over, what became of it here is dropped");
            return false;
        } else if !store(self.shared, &result).await {
            return false;
        }
        self.conclude(&result, lease).await
    }

    /// Counts the chord part and sends errbacks for a stored state, and acknowledges. Returns `false` if the process
    /// must end before that.
    async fn conclude(&self, result: &TaskResult, lease: Lease) -> bool {
        match self.shared.canvas.end(self.message, result, &self.shared.stop.silence).await {
            Err(err) if matches!(err, CeleryError::Stopped { .. }) => {
                tracing::error!(
                    error = chain(&err),
                    "cannot tell the group, the task will be delivered again"
                );
                return false;
            }
            Err(err) => tracing::error!(error = chain(&err), "redis refuses what follows from the task"),
            Ok(()) => {}
        }
        acknowledge(self.shared, lease).await;
        true
    }

    /// Ends a task whose result is stored already: the worker that ran it may have died before it sent errbacks,
    /// counted the chord part and acknowledged.
    pub(super) async fn end_again(&self, stored: &StoredResult, lease: Lease) {
        let state = State::parse(&stored.status).unwrap_or(State::Success);
        let result = TaskResult::new(&self.message.id, state, stored.result.clone()).of(self.message);
        if self.conclude(&result, lease).await {
            self.shared.orders.carried_out(self.message).await;
            self.note_result_stored().await;
        }
    }

    /// Notes with the data of a restore or undo that its result is stored. Should that fail, the proof of the work stays
    /// there for a day.
    async fn note_result_stored(&self) {
        /// The longest time for it: the task has ended, and the next one waits for its place.
        const LIMIT: Duration = Duration::from_secs(10);
        let component = match Command::parse(&self.message.task, &self.message.args, &self.message.kwargs) {
            Ok(Command::Restore(order)) => order.component,
            Ok(Command::Undo { component }) => component,
            _ => return,
        };
        let settled = self.shared.engine.result_stored(component, &self.message.id);
        if tokio::time::timeout(LIMIT, settled).await.is_err() {
            tracing::debug!(%component, "what was restored does not answer: the proof of this task stays for a day");
        }
    }

    fn tell(&self, outcome: &Outcome, ran: Duration) {
        let (events, message) = (&self.shared.node.events, self.message);
        match outcome {
            Outcome::Success { value, .. } => {
                tracing::info!("task succeeded");
                events.succeeded(message, value, ran);
            }
            Outcome::Failure(failure) | Outcome::Transient(failure) => {
                events.failed(message, &failure.exception, &failure.traceback);
            }
            Outcome::Revoked { signal } => events.revoked(message, *signal, false),
            Outcome::Expired => events.revoked(message, None, true),
            Outcome::Interrupted => {}
        }
    }

    /// Sends the task again, as Celery's `self.retry` does. The new message replaces the old one in one atomic step,
    /// so that a crash at any instant leaves exactly one of the two.
    async fn retry(&self, failure: &Failure, lease: Lease) {
        let delay = self.shared.options.retry_delay;
        tracing::warn!(error = failure.exception.message(), ?delay, "task will be tried again");
        self.shared.metrics.task(watch::known(&self.message.task), State::Retry.as_str());
        let state = TaskResult::new(&self.message.id, State::Retry, failure.exception.to_value());
        let traceback = failure.traceback_of_retry(delay);
        let result = TaskResult { traceback: Some(traceback.clone()), ..state }.of(self.message);
        if self.backend().is_some() && !store(self.shared, &result).await {
            return;
        }
        let eta = Timestamp::now() + delay;
        let again = [self.shared.orders.renew(self.message, self.message.retry(Some(eta)), eta).await];
        match lease.replace(&again, &self.shared.stop.silence).await {
            Ok(()) => {
                self.shared.orders.carried_out(self.message).await;
                self.shared.node.events.retried(self.message, &failure.exception, &traceback);
            }
            // The broker still has the old message, and delivers it again.
            Err(err) => tracing::error!(error = %chain(&err), "cannot order the retry"),
        }
    }

    /// Puts the message back into its queue; during a shutdown together with the other messages, so that their order
    /// is kept.
    async fn give_back(&self, lease: Lease) {
        if self.shared.stop.drain.is_cancelled() {
            return self.shared.returner.add(lease);
        }
        self.shared.returner.give_back(lease, &self.shared.stop.silence).await;
    }

    /// The result backend; `None` if the sender wants no result.
    pub(super) fn backend(&self) -> Option<&Backend> {
        (self.message.ignore_result != Some(true)).then_some(&self.shared.backend)
    }
}
