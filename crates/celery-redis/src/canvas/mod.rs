//! Canvas: the callbacks, the next chain step and the chord part that follow the end of a task.
//!
//! All of these are computed from the message and the result, with ids derived from the message's, so that a task
//! that is run or ended again after a crash sends and counts nothing twice.
//!
//! The routes of other Celery apps are not known here: a task goes to the queue that its signature names. Without a
//! queue there, this program's own tasks stay on the queue that their parent came from, and all other tasks go to
//! the default queue. An errback always gets the failed id alone, as Python sends it to tasks of one argument;
//! errbacks of three arguments, which Python calls inside the worker, cannot be called from here.

mod chord;
mod failure;
mod outgoing;
mod plan;
mod signature;

use super::CeleryError;
use super::client::Client;
use super::json::{self, Object, quoted};
use super::keys::Keys;
use super::message::Message;
use super::publish::{Outgoing, publish_once};
use super::result::{Backend, Child, Exception, State, TaskResult};
use chord::{ChordError, Part};
use failure::UnreachableTask;
use plan::{Lineage, PublishPlan, Routes};
use serde_json::Value;
use signature::Seed;
use std::collections::VecDeque;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use signature::{Kind, Signature};

/// Sends the messages that follow the end of a task.
#[derive(Debug, Clone)]
pub struct Canvas {
    broker: Client,
    keys: Keys,
    backend: Backend,
    default_queue: String,
    own: fn(&str) -> bool,
}

/// The messages that follow a success.
struct Success<'a> {
    plan: PublishPlan<'a>,
    children: Vec<Child>,
    /// True if the next step of the chain cannot be sent.
    broken: bool,
}

impl Canvas {
    /// Creates a canvas that sends to `broker` and keeps chords in `backend`.
    pub fn new(broker: Client, keys: Keys, backend: Backend) -> Self {
        Self { broker, keys, backend, default_queue: "celery".to_owned(), own: |_| false }
    }

    /// Sets the queue of tasks whose signature names none; `celery` by default.
    #[must_use]
    pub fn with_default_queue(mut self, queue: &str) -> Self {
        queue.clone_into(&mut self.default_queue);
        self
    }

    /// Sets the function that returns `true` for the name of a task that stays on its parent's queue; by default no
    /// task does.
    #[must_use]
    pub fn with_own(mut self, own: fn(&str) -> bool) -> Self {
        self.own = own;
        self
    }

    /// Sends the callbacks and the next chain step of `message` with `result`, and returns them as the task's
    /// `children`. Must be called before the SUCCESS of `message` is stored. A repeated call sends nothing twice.
    ///
    /// Source: `_dispatch_callbacks_and_chain` in `celery/app/trace.py`.
    ///
    /// # Errors
    ///
    /// [`CeleryError::Stopped`], or a permanent error of Redis.
    pub async fn succeed(
        &self,
        message: &Message,
        result: &Value,
        stop: &CancellationToken,
    ) -> Result<Vec<Child>, CeleryError> {
        let Some(Success { plan, children, broken }) = self.success(message, result) else {
            return Ok(Vec::new());
        };
        self.send(plan, &seed(message).then("success"), stop).await?;
        if broken {
            let error = Exception::builtin("ValueError", "the next step of the chain cannot be sent");
            let chain = Signature::list(message.chain.as_deref());
            let parts = self.lose(chain, &TaskResult::failure(&message.id, &error, None), stop).await?;
            self.count_all(message, parts.into(), stop).await?;
        }
        Ok(children)
    }

    /// Returns the messages that [`succeed`](Self::succeed) would send, without sending them. Safe on any message.
    pub fn plan_success(&self, message: &Message, result: &Value) -> Vec<Outgoing> {
        self.success(message, result).map(|success| success.plan.messages).unwrap_or_default()
    }

    /// Plans the messages that follow a success; `None` if there are none.
    fn success<'a>(&'a self, message: &'a Message, result: &Value) -> Option<Success<'a>> {
        let callbacks = Signature::list(message.callbacks.as_deref());
        let chain = message.chain.as_deref().and_then(|chain| json::items(chain.get()));
        let mut chain = chain.unwrap_or_default();
        let next = chain.pop();
        if callbacks.is_empty() && next.is_none() {
            return None;
        }
        let seed = seed(message);
        let mut plan = self.plan(message);
        let mut options = lineage_options(plan.lineage());
        let args = [result.to_string()];
        let (mut children, mut broken) = (Vec::new(), false);
        for (index, callback) in grouped(callbacks).into_iter().enumerate() {
            children.extend(plan.add(callback, &args, &options, &seed.then("callback").at(index)));
        }
        if let Some(next) = next {
            options.set("chain", format!("[{}]", chain.join(", ")));
            let next = Signature::parse(next);
            let next = next.and_then(|next| plan.add(next, &args, &options, &seed.then("chain")));
            broken = next.is_none();
            children.extend(next);
        }
        Some(Success { plan, children, broken })
    }

    /// Returns `true` if [`end`](Self::end) has anything to do for this state of `message`.
    pub fn ends(message: &Message, state: State) -> bool {
        let chord = message.chord.is_some() && message.group.is_some();
        chord || state == State::Failure && (message.chain.is_some() || message.errbacks.is_some())
    }

    /// Counts the chord part of `message`; after a FAILURE also stores a failure for the rest of its chain and sends
    /// its errbacks. Must be called after a final state of `message` is stored. A repeated call has no further
    /// effect.
    ///
    /// Source: `mark_as_done`, `mark_as_failure` and `mark_as_revoked` in `celery/backends/base.py`. Parts
    /// of a chord count even if results are ignored.
    ///
    /// # Errors
    ///
    /// [`CeleryError::Stopped`], or a permanent error of Redis.
    pub async fn end(
        &self,
        message: &Message,
        result: &TaskResult,
        stop: &CancellationToken,
    ) -> Result<(), CeleryError> {
        let mut parts = VecDeque::new();
        let body = message.chord.as_deref().and_then(|chord| Signature::parse(chord.get()));
        if let (Some(body), Some(group), true) = (body, &message.group, result.state.is_final()) {
            parts.push_back(Part {
                id: message.id.clone(),
                group: group.clone(),
                index: message.group_index,
                state: result.state,
                result: result.result.to_string(),
                body,
            });
        }
        if result.state == State::Failure {
            let chain = Signature::list(message.chain.as_deref());
            parts.extend(self.lose(chain, result, stop).await?);
            let errbacks = Signature::list(message.errbacks.as_deref());
            if !errbacks.is_empty() {
                let seed = seed(message).then("failure");
                self.call_errbacks(message, &message.id, &message.root_id, errbacks, &seed, stop).await?;
            }
        }
        self.count_all(message, parts, stop).await
    }

    /// Counts parts of chords, and the parts of other chords that fail because of these.
    async fn count_all(
        &self,
        message: &Message,
        mut parts: VecDeque<Part>,
        stop: &CancellationToken,
    ) -> Result<(), CeleryError> {
        while let Some(part) = parts.pop_front() {
            parts.extend(self.count(message, &part, stop).await?);
        }
        Ok(())
    }

    /// Counts a part of a chord. The last part sends the body; if the body cannot be sent, makes it fail and returns
    /// the parts that the body has in other chords.
    async fn count(
        &self,
        message: &Message,
        part: &Part,
        stop: &CancellationToken,
    ) -> Result<Vec<Part>, CeleryError> {
        let Some(claimed) = chord::count(&self.backend, part, stop).await? else { return Ok(Vec::new()) };
        let seed = seed(message).then("chord").then(&part.group);
        let broken = match claimed.results(stop).await? {
            Ok(results) => {
                let mut plan = self.plan(message);
                let sent = plan.add(part.body.clone(), &[results], &Object::default(), &seed);
                self.send(plan, &seed, stop).await?;
                sent.is_none().then(|| ChordError::new("Callback error: the body cannot be sent"))
            }
            Err(broken) => Some(broken),
        };
        let (failed, mut parts) = (broken.is_some(), Vec::new());
        if let Some(broken) = broken {
            warn!(group_id = part.group, reason = broken.message, "chord fails");
            parts = self.fail_body(message, part.body.clone(), broken, &seed, stop).await?;
        }
        claimed.end(failed, stop).await?;
        Ok(parts)
    }

    /// Makes the body of a chord fail: `chord_error_from_stack` in `celery/backends/base.py`.
    async fn fail_body(
        &self,
        message: &Message,
        mut body: Signature,
        broken: ChordError,
        seed: &Seed,
        stop: &CancellationToken,
    ) -> Result<Vec<Part>, CeleryError> {
        let id = body.named(&seed.then("body"));
        for (index, (id, errbacks)) in failure::errbacks(&body).into_iter().enumerate() {
            self.call_errbacks(message, &id, &id, errbacks, &seed.then("errbacks").at(index), stop).await?;
        }
        let error = Exception::celery("ChordError", broken.message);
        let mut result = TaskResult::failure(&id, &error, None);
        // Each member of a group fails with the exception of the header, as in Celery 5.7.
        if let (Kind::Group, Some(cause)) = (body.kind(), broken.cause) {
            result.result = cause;
        }
        let mut all: Vec<_> = body.options.list("chain").into_iter().filter_map(Signature::parse).collect();
        all.push(body);
        self.lose(all, &result, stop).await
    }

    /// Stores `failure` for all tasks that will never run, and returns the parts that these tasks have in chords.
    async fn lose(
        &self,
        signatures: Vec<Signature>,
        failure: &TaskResult,
        stop: &CancellationToken,
    ) -> Result<Vec<Part>, CeleryError> {
        let (lost, parts) = failure::lost(signatures, &failure.result.to_string());
        for UnreachableTask { id, group } in lost {
            let mut result = TaskResult::new(&id, State::Failure, failure.result.clone());
            result.traceback.clone_from(&failure.traceback);
            result.group_id = group;
            self.backend.store_unless_final(&result, stop).await?;
        }
        Ok(parts)
    }

    /// Sends errbacks with the id of the failed task: `_call_task_errbacks` in `celery/backends/base.py`.
    async fn call_errbacks(
        &self,
        message: &Message,
        failed: &str,
        root: &str,
        errbacks: Vec<Signature>,
        seed: &Seed,
        stop: &CancellationToken,
    ) -> Result<(), CeleryError> {
        let mut plan = self.plan(message);
        let lineage = Lineage { root: root.to_owned(), parent: failed.to_owned() };
        let group = Signature::group(&errbacks);
        plan.add(group, &[quoted(failed)], &lineage_options(&lineage), seed);
        self.send(plan, seed, stop).await
    }

    fn plan<'a>(&'a self, message: &'a Message) -> PublishPlan<'a> {
        let routes = Routes { default_queue: &self.default_queue, own: self.own, queue: &message.queue };
        PublishPlan::new(routes, Lineage { root: message.root_id.clone(), parent: message.id.clone() })
    }

    /// Sends the plan's messages, once for each `seed`.
    async fn send(
        &self,
        plan: PublishPlan<'_>,
        seed: &Seed,
        stop: &CancellationToken,
    ) -> Result<(), CeleryError> {
        for chord in &plan.chords {
            chord::start(&self.backend, chord, seed, stop).await?;
        }
        let mut messages = Vec::with_capacity(plan.messages.len());
        for message in plan.messages {
            messages.push(self.routed(message, stop).await?);
        }
        publish_once(&self.broker, &self.keys, &seed.id(), &messages, stop).await
    }

    /// Finds the queue that a named exchange is bound to; without a binding, the routing key is taken as the queue's
    /// name.
    async fn routed(&self, message: Outgoing, stop: &CancellationToken) -> Result<Outgoing, CeleryError> {
        let Some((exchange, routing_key)) = message.exchange() else { return Ok(message) };
        let mut members = redis::cmd("SMEMBERS");
        members.arg(self.keys.binding(&exchange));
        let read = |mut link| {
            let members = members.clone();
            async move { members.query_async(&mut link).await }
        };
        let bindings: Vec<String> = self.broker.retrying("read bindings", stop, read).await?;
        let queue = bindings.iter().filter_map(|binding| self.keys.bound_queue(binding, &routing_key)).min();
        Ok(message.into_queue(queue.unwrap_or(&routing_key)))
    }
}

/// Returns the seed of ids and of sent marks. All deliveries of one message have the same seed; a message that is
/// sent anew has another.
fn seed(message: &Message) -> Seed {
    Seed::new(&format!("{}:{}", message.id, message.delivery_tag().unwrap_or_default()))
}

fn lineage_options(lineage: &Lineage) -> Object<'static> {
    let mut options = Object::default();
    options.set("parent_id", quoted(&lineage.parent));
    options.set("root_id", quoted(&lineage.root));
    options
}

/// Puts several callbacks into one group, except those that are groups themselves.
fn grouped(callbacks: Vec<Signature>) -> Vec<Signature> {
    if callbacks.len() < 2 {
        return callbacks;
    }
    let (mut all, single): (Vec<_>, Vec<_>) =
        callbacks.into_iter().partition(|callback| callback.kind() == Kind::Group);
    if !single.is_empty() {
        all.push(Signature::group(&single));
    }
    all
}
