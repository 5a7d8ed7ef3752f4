//! Events for Flower, `celery events`, exporters, and the gossip of Python's workers.

use super::client::Client;
use super::clock::Clock;
use super::keys::Keys;
use super::message::Message;
use super::node::About;
use super::publish::{iso, transient};
use super::repr;
use super::requests::Requests;
use super::result::Exception;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Seconds between two heartbeats: `Heart` in `celery/worker/heartbeat.py`.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Maximum number of task events in one message: `EventDispatcher.buffer_limit`.
const BATCH: usize = 24;

/// Maximum number of events that wait while Redis is unavailable; further events are lost.
const BUFFER: usize = 10_000;

/// The queue of a worker's events. Sending an event never waits.
#[derive(Debug)]
pub struct Events {
    node: String,
    clock: Arc<Clock>,
    tasks: AtomicBool,
    processed: AtomicU64,
    /// Locked while an event gets its clock value and its place in the queue, so that events go out in clock order.
    queue: Mutex<mpsc::Sender<Event>>,
}

/// An event in the queue.
#[derive(Debug)]
pub struct Event {
    kind: &'static str,
    fields: Map<String, Value>,
}

/// Publishes the events that were put into [`Events`].
#[derive(Debug)]
pub struct Publisher {
    node: String,
    client: Client,
    channels: Vec<String>,
    queue: mpsc::Receiver<Event>,
}

impl Events {
    /// Creates the events of the worker `node`. Task events are off unless `tasks` is true, or until
    /// [`enable`](Self::enable) turns them on.
    pub fn new(node: &str, client: Client, keys: &Keys, tasks: bool) -> (Self, Publisher) {
        let (queue, waiting) = mpsc::channel(BUFFER);
        let channels = keys.event_channels(&client);
        let publisher = Publisher { node: node.to_owned(), client, channels, queue: waiting };
        let events = Self {
            node: node.to_owned(),
            clock: Arc::default(),
            tasks: AtomicBool::new(tasks),
            processed: AtomicU64::new(0),
            queue: Mutex::new(queue),
        };
        (events, publisher)
    }

    /// The clock of this worker.
    pub fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    /// Turns task events on or off. Returns `true` if this changed the setting.
    pub fn enable(&self, on: bool) -> bool {
        self.tasks.swap(on, Ordering::Relaxed) != on
    }

    /// True if task events are on.
    pub fn enabled(&self) -> bool {
        self.tasks.load(Ordering::Relaxed)
    }

    /// Sends `task-received`: a message was taken.
    pub fn received(&self, message: &Message) {
        let at = |time: Option<Timestamp>| time.map(iso);
        self.task("task-received", message, || {
            json!({
                "name": message.shadow.as_ref().unwrap_or(&message.task),
                "args": message.argsrepr, "kwargs": message.kwargsrepr,
                "root_id": message.root_id, "parent_id": message.parent_id, "retries": message.retries,
                "eta": at(message.eta), "expires": at(message.expires),
            })
        });
    }

    /// Sends `task-started`: a task began.
    pub fn started(&self, message: &Message) {
        self.processed.fetch_add(1, Ordering::Relaxed);
        self.task("task-started", message, || json!({}));
    }

    /// Sends `task-succeeded`.
    pub fn succeeded(&self, message: &Message, result: &Value, runtime: Duration) {
        self.task(
            "task-succeeded",
            message,
            || json!({"result": repr::short(result), "runtime": runtime.as_secs_f64()}),
        );
    }

    /// Sends `task-failed`: a task failed and is not retried.
    pub fn failed(&self, message: &Message, exception: &Exception, traceback: &str) {
        self.task(
            "task-failed",
            message,
            || json!({"exception": exception.to_string(), "traceback": traceback}),
        );
    }

    /// Sends `task-retried`: a task failed and is retried.
    pub fn retried(&self, message: &Message, exception: &Exception, traceback: &str) {
        self.task(
            "task-retried",
            message,
            || json!({"exception": exception.to_string(), "traceback": traceback}),
        );
    }

    /// Sends `task-revoked`: a task was revoked, or has expired. `signal` is set if the task was terminated while
    /// running.
    pub fn revoked(&self, message: &Message, signal: Option<i32>, expired: bool) {
        self.task(
            "task-revoked",
            message,
            || json!({"terminated": signal.is_some(), "signum": signal, "expired": expired}),
        );
    }

    /// Sends `task-failed` and `task-rejected`: the contents of a message were refused, so its task failed without a
    /// run.
    pub fn refused(&self, id: &str, exception: &Exception) {
        if self.enabled() {
            self.send("task-failed", json!({"uuid": id, "exception": exception.to_string()}));
            self.send("task-rejected", json!({"uuid": id, "requeue": false}));
        }
    }

    fn task(&self, kind: &'static str, message: &Message, fields: impl FnOnce() -> Value) {
        if self.enabled() {
            let mut all = json!({"uuid": message.id});
            if let (Value::Object(all), Value::Object(fields)) = (&mut all, fields()) {
                all.extend(fields);
            }
            self.send(kind, all);
        }
    }

    /// Sends `worker-online`, `worker-heartbeat` or `worker-offline`.
    pub fn worker(&self, kind: &'static str, requests: &Requests, about: &About) {
        self.send(
            kind,
            json!({
                "freq": HEARTBEAT.as_secs_f64(), "active": requests.active(),
                "processed": self.processed.load(Ordering::Relaxed), "loadavg": load(),
                "sw_ident": about.software, "sw_ver": about.version, "sw_sys": "Linux",
            }),
        );
    }

    fn send(&self, kind: &'static str, more: Value) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fields = Map::new();
        fields.insert("hostname".to_owned(), json!(self.node));
        fields.insert("utcoffset".to_owned(), json!(0));
        fields.insert("pid".to_owned(), json!(std::process::id()));
        fields.insert("clock".to_owned(), json!(self.clock.tick()));
        if let Value::Object(more) = more {
            fields.extend(more);
        }
        fields.insert("timestamp".to_owned(), json!(epoch(Timestamp::now())));
        fields.insert("type".to_owned(), json!(kind));
        // The queue is full only after minutes without Redis; then the newest events are lost.
        let _ = queue.try_send(Event { kind, fields });
    }
}

/// Returns Unix seconds, as Python's `time.time()` does.
pub(super) fn epoch(at: Timestamp) -> f64 {
    at.as_microsecond() as f64 / 1e6
}

/// Returns the load of the machine over 1, 5 and 15 minutes, rounded as Celery rounds it.
fn load() -> [f64; 3] {
    // The kernel's fixed-point numbers have 16 fractional bits, see sysinfo(2).
    let raw = rustix::system::sysinfo().loads;
    raw.map(|load| (load as f64 / 65536.0 * 100.0).round() / 100.0)
}

impl super::node::Node {
    /// Sends `worker-online`, a heartbeat every two seconds until `stop` fires, and then `worker-offline`.
    pub async fn beat(&self, stop: &CancellationToken) {
        self.events.worker("worker-online", &self.requests, &self.about);
        let mut tick = tokio::time::interval(HEARTBEAT);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tick.tick().await;
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            self.events.worker("worker-heartbeat", &self.requests, &self.about);
        }
        self.events.worker("worker-offline", &self.requests, &self.about);
    }
}

impl Publisher {
    /// Publishes events until [`Events`] is dropped, or `stop` has fired and no event is left.
    ///
    /// Waits for an unavailable Redis as long as `stop` has not fired.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let got = stop.run_until_cancelled(self.queue.recv_many(&mut batch, BATCH)).await;
            let got = if let Some(got) = got {
                got
            } else {
                self.queue.close();
                self.queue.recv_many(&mut batch, BATCH).await
            };
            if got == 0 {
                return;
            }
            self.publish(&mut batch, &stop).await;
        }
    }

    /// Publishes task events in batches and worker events one by one, in their order.
    async fn publish(&self, batch: &mut Vec<Event>, stop: &CancellationToken) {
        let mut messages = Vec::new();
        let mut tasks = Vec::new();
        for event in batch.drain(..) {
            if event.kind.starts_with("task-") {
                tasks.push(Value::Object(event.fields));
                continue;
            }
            if !tasks.is_empty() {
                messages.push(("task.multi".to_owned(), Value::Array(std::mem::take(&mut tasks))));
            }
            messages.push((event.kind.replacen('-', ".", 1), Value::Object(event.fields)));
        }
        if !tasks.is_empty() {
            messages.push(("task.multi".to_owned(), Value::Array(tasks)));
        }
        let mut pipe = redis::pipe();
        for (routing_key, body) in &messages {
            let text = transient(body, &json!({"hostname": self.node}), "celeryev", routing_key);
            for channel in &self.channels {
                pipe.cmd("PUBLISH").arg(format!("{channel}{routing_key}")).arg(&text).ignore();
            }
        }
        let pipe = &pipe;
        let send = |mut link| async move { pipe.query_async::<()>(&mut link).await };
        // When the worker ends, events are published with a single attempt.
        let sent = if stop.is_cancelled() {
            self.client.once("publish events", send).await
        } else {
            self.client.retrying("publish events", stop, send).await
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "events are lost");
        }
    }
}
