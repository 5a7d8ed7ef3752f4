//! One message, from lease to acknowledgement.

use crate::base::chain;
use crate::celery::CeleryError;
use crate::celery::consumer::Delivery;
use crate::celery::lease::Lease;
use crate::celery::message::{Message, Refusal};
use crate::celery::publish::{self, Outgoing};
use crate::celery::result::{Child, Exception, State, TaskResult};
use crate::domain::command::{Backup, Command};
use crate::domain::component::ComponentName;
use crate::domain::report::FullBackupReport;
use crate::domain::signature::{self, Order, SignatureError};
use crate::engine::{PruneRequest, Run};
use crate::worker::outcome::{Failure, Outcome};
use crate::worker::progress::Reporter;
use crate::worker::slots::Slot;
use crate::worker::{Shared, watch};
use futures_util::FutureExt;
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};
use tracing::Instrument;
use uuid::Uuid;

/// Between two tries of a question to Redis.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Does what a delivery asks for, stores how it ended, and settles its lease.
pub(super) async fn handle(shared: Arc<Shared>, delivery: Delivery, slot: Slot) {
    let Delivery { lease, content, .. } = delivery;
    match content {
        Ok(message) => {
            // Quoted: ids and names are whatever the sender wrote, line ends included.
            let span = tracing::info_span!("task", id = ?message.id, name = ?message.task, attempt = message.retries + 1);
            Task { shared: &shared, message: &message }.handle(lease, slot).instrument(span).await;
        }
        Err(refusal) => refuse(&shared, refusal, lease).await,
    }
}

/// A message whose contents nobody should read fails under its id.
async fn refuse(shared: &Shared, refusal: Refusal, lease: Lease) {
    tracing::warn!(id = ?refusal.id, name = ?refusal.task, why = refusal.exception.message(), "refused the contents of a message");
    shared.metrics.task(watch::known(&refusal.task), State::Failure.as_str());
    let result = TaskResult::failure(&refusal.id, &refusal.exception, None);
    settle(shared, Some(result), lease).await;
}

/// Stores the result, then acknowledges. If Redis cannot be reached before the process must end, the
/// message stays with the broker and is delivered again.
///
/// A result that Redis refuses for good (rights, a key of another type) is lost: the work is done, and
/// doing it again for ever would not store it either.
async fn settle(shared: &Shared, result: Option<TaskResult>, lease: Lease) {
    let silence = &shared.stop.silence;
    if let Some(result) = result
        && let Err(err) = shared.backend.store(&result, silence).await
    {
        let error = chain(&err);
        if matches!(err, CeleryError::Stopped { .. }) {
            return tracing::error!(error, "cannot store the result, the task will be delivered again");
        }
        tracing::error!(error, state = result.state.as_str(), "redis refuses the result, it is lost");
    }
    if let Err(err) = lease.ack(silence).await {
        tracing::error!(error = chain(&err), "cannot acknowledge the task, it will be delivered again");
    }
}

struct Task<'a> {
    shared: &'a Shared,
    message: &'a Message,
}

impl Task<'_> {
    async fn handle(&self, lease: Lease, slot: Slot) {
        let taken = Instant::now();
        if self.message.redelivered {
            self.shared.metrics.redelivered();
        }
        if self.is_done().await {
            tracing::info!("this task is done already");
            return settle(self.shared, None, lease).await;
        }
        let held = self.until_eta(slot).await;
        let component = Command::occupies(&self.message.task);
        let place = match held {
            Some(slot) => self.shared.slots.place(slot, component, &self.shared.stop.drain).await,
            None => None,
        };
        let Some(place) = place else { return self.give_back(lease).await };
        let outcome = if self.is_expired() { None } else { Some(self.run(taken).await) };
        self.finish(outcome, lease).await;
        drop(place);
    }

    /// Whether another delivery of this task has stored its end. Waits for Redis.
    async fn is_done(&self) -> bool {
        let status = loop {
            match self.shared.backend.state(&self.message.id).await {
                Ok(stored) => break stored.map(|stored| stored.status).unwrap_or_default(),
                Err(err) if err.is_transient() => {
                    let wait = tokio::time::sleep(ASK_AGAIN);
                    if self.shared.stop.silence.run_until_cancelled(wait).await.is_none() {
                        return false;
                    }
                }
                Err(err) => {
                    tracing::warn!(error = %chain(&err), "cannot read the state of the task");
                    return false;
                }
            }
        };
        let ended = [State::Success, State::Failure, State::Revoked].map(State::as_str);
        // A sender may order a failed task again under its old id; a broker may only repeat it.
        status == State::Success.as_str() || self.message.redelivered && ended.contains(&status.as_str())
    }

    /// Waits for the message's time without holding a place. `None`: we are shutting down.
    async fn until_eta(&self, slot: Slot) -> Option<Option<Slot>> {
        let wait = self.message.eta.map_or(SignedDuration::ZERO, |eta| eta.duration_since(Timestamp::now()));
        if !wait.is_positive() {
            return Some(Some(slot));
        }
        drop(slot);
        tracing::info!(eta = %self.message.eta.unwrap_or_default(), "waiting for its time");
        let drain = &self.shared.stop.drain;
        drain.run_until_cancelled(tokio::time::sleep(wait.unsigned_abs())).await.map(|()| None)
    }

    fn is_expired(&self) -> bool {
        self.message.expires.is_some_and(|expires| expires <= Timestamp::now())
    }

    async fn run(&self, taken: Instant) -> Outcome {
        let message = self.message;
        let known = watch::known(&message.task);
        self.shared.metrics.task_started(known, taken.elapsed());
        let began = Instant::now();
        let command = match Command::parse(&message.task, &message.args, &message.kwargs) {
            Ok(command) => command,
            Err(err) => return Outcome::of_invalid(&message.task, &err),
        };
        if let Err(err) = self.authorise(&command) {
            return Outcome::of_unsigned(&message.task, err);
        }
        let outcome = AssertUnwindSafe(self.execute(command)).catch_unwind().await;
        self.shared.metrics.task_ended(known, began.elapsed());
        outcome.unwrap_or_else(|_| Outcome::of_panic(&message.task))
    }

    /// Whether the order may be obeyed: where a key is set, what destroys must be signed with it.
    fn authorise(&self, command: &Command) -> Result<(), SignatureError> {
        let Some(key) = self.shared.options.restore_key.as_ref().filter(|_| command.is_destructive()) else {
            return Ok(());
        };
        let message = self.message;
        let header = message.header(signature::HEADER);
        let order = Order {
            task_id: &message.id,
            task: &message.task,
            body: &message.body,
            retries: message.retries,
        };
        let header = header.as_ref().and_then(Value::as_str);
        signature::verify(key.expose_secret(), header, &order, Timestamp::now())
    }

    async fn execute(&self, command: Command) -> Outcome {
        let (engine, task) = (&self.shared.engine, self.message.task.as_str());
        match command {
            Command::Backup(order) => self.back_up(&order).await,
            Command::FullBackup { label, pin } => self.dispatch(label, pin).await,
            Command::CleanUp { component, retention_days, dry_run } => {
                let request = PruneRequest { component, retention_days, dry_run };
                Outcome::of_engine(task, engine.prune(request).await, |report| json!(report))
            }
            Command::List { component } => {
                Outcome::of_engine(task, engine.listing(component).await, |listing| json!(listing))
            }
            Command::Ping => Outcome::Success { value: json!("pong"), children: Vec::new() },
        }
    }

    async fn back_up(&self, order: &Backup) -> Outcome {
        let message = self.message;
        let run = Run {
            task_id: Some(message.id.clone()),
            cancel: self.shared.stop.abandon.clone(),
            wait: true,
            ..Run::default()
        };
        if let Some(backend) = self.backend() {
            let started = self.result(TaskResult::started(&message.id, &self.shared.options.node));
            // Only a sign of life: what matters is stored later, and waited for.
            let _ = backend.offer(&started).await;
        }
        self.shared.metrics.task(watch::known(&message.task), State::Started.as_str());
        let reporter = Reporter {
            backend: self.backend(),
            metrics: &self.shared.metrics,
            task_id: &message.id,
            component: order.component,
        };
        let done = reporter.during(&run.meter, self.shared.engine.backup(order, &run)).await;
        Outcome::of_engine(&message.task, done, |report| json!(report))
    }

    /// Sends one backup of each configured component, as children of this task.
    ///
    /// Their ids follow from this task's own, so that a repeated delivery sends the same tasks
    /// again and not others.
    async fn dispatch(&self, label: Option<String>, pin: bool) -> Outcome {
        let message = self.message;
        let child = |component: ComponentName| {
            let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{}/{component}", message.id).as_bytes());
            let mut kwargs = Map::from_iter([("set_id".to_owned(), json!(message.id))]);
            if let Some(label) = &label {
                kwargs.insert("label".to_owned(), json!(label));
            }
            if pin {
                kwargs.insert("pin".to_owned(), json!(true));
            }
            let call = Outgoing::new(Backup::task(component), &message.queue)
                .with_id(&id.to_string())
                .kwargs(kwargs)
                .child_of(&message.root_id, &message.id);
            (component, call)
        };
        let (components, calls): (Vec<_>, Vec<_>) =
            self.shared.engine.configured().into_iter().map(child).unzip();
        if calls.is_empty() {
            return Outcome::nothing_configured(&message.task);
        }
        let sent =
            publish::publish(&self.shared.broker, &self.shared.keys, &calls, &self.shared.stop.silence);
        if let Err(err) = sent.await {
            tracing::warn!(error = %chain(&err), "cannot dispatch the full backup");
            return Outcome::Interrupted;
        }
        let children: Vec<String> = calls.iter().map(|call| call.id().to_owned()).collect();
        let task_ids: BTreeMap<_, _> = components.into_iter().zip(children.clone()).collect();
        let report =
            FullBackupReport { status: "initiated".to_owned(), set_id: message.id.clone(), task_ids };
        let children = children.into_iter().map(Child::Task).collect();
        Outcome::Success { value: json!(report), children }
    }

    /// Stores what came of it and settles the lease. `None`: the message had expired.
    async fn finish(&self, outcome: Option<Outcome>, lease: Lease) {
        let id = &self.message.id;
        let result = match outcome {
            None => {
                tracing::warn!("expired before it could run");
                let expired = Exception::celery("TaskRevokedError", "expired");
                TaskResult::new(id, State::Revoked, expired.to_value())
            }
            Some(Outcome::Success { value, children }) => {
                TaskResult { children, ..TaskResult::new(id, State::Success, value) }
            }
            Some(Outcome::Transient(failure)) if self.message.retries < self.shared.options.max_retries => {
                return self.retry(&failure, lease).await;
            }
            Some(Outcome::Failure(failure) | Outcome::Transient(failure)) => {
                tracing::error!(error = failure.exception.message(), "task failed");
                let traceback = Some(failure.traceback).filter(|text| !text.is_empty());
                TaskResult::failure(id, &failure.exception, traceback)
            }
            Some(Outcome::Interrupted) => return self.give_back(lease).await,
        };
        self.count(result.state);
        let result = self.result(result);
        settle(self.shared, self.backend().map(|_| result), lease).await;
    }

    /// Orders the task once more, as Celery's `self.retry` does: the new message first, then the
    /// state, then the acknowledgement, so that a crash in between repeats and never loses.
    async fn retry(&self, failure: &Failure, lease: Lease) {
        let delay = self.shared.options.retry_delay;
        tracing::warn!(error = failure.exception.message(), ?delay, "task will be tried again");
        let eta = Timestamp::now() + delay;
        let again = [self.message.retry(Some(eta))];
        let silence = &self.shared.stop.silence;
        let sent = publish::publish(&self.shared.broker, &self.shared.keys, &again, silence);
        if let Err(err) = sent.await {
            // The message is still ours, so it comes again by itself.
            return tracing::error!(error = %chain(&err), "cannot order the retry");
        }
        self.count(State::Retry);
        let state = TaskResult::new(&self.message.id, State::Retry, failure.exception.to_value());
        let result = self.result(TaskResult { traceback: Some(failure.traceback.clone()), ..state });
        settle(self.shared, self.backend().map(|_| result), lease).await;
    }

    async fn give_back(&self, lease: Lease) {
        match lease.give_back(&self.shared.stop.silence).await {
            Ok(()) => tracing::info!("gave the task back to its queue"),
            Err(err) => {
                tracing::error!(error = %chain(&err), "cannot give the task back, it will be delivered again");
            }
        }
    }

    fn result(&self, result: TaskResult) -> TaskResult {
        TaskResult {
            group_id: self.message.group.clone(),
            parent_id: self.message.parent_id.clone(),
            ..result
        }
    }

    /// Where results go, unless the sender wants none.
    fn backend(&self) -> Option<&crate::celery::result::Backend> {
        (self.message.ignore_result != Some(true)).then_some(&self.shared.backend)
    }

    fn count(&self, state: State) {
        self.shared.metrics.task(watch::known(&self.message.task), state.as_str());
        if state == State::Success {
            tracing::info!("task succeeded");
        }
    }
}
