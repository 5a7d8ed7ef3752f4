//! A worker as other programs on the broker see it: a name, a clock, tasks in hand, and settings that they may
//! change.

use super::clock::Clock;
use super::events::Events;
use super::requests::Requests;
use super::revoked::{self, Revoked};
use super::tasks::Tasks;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A worker as other programs on the broker see it, shared by all parts of the worker.
///
/// Remote control changes a node, and the worker acts on the changes: the worker watches [`queues`](Self::queues)
/// and [`concurrency`](Self::concurrency), and ends when [`shutdown`](Self::shutdown) fires.
#[derive(Debug)]
pub struct Node {
    /// The node name, `name@host`, unique on the broker.
    pub name: String,
    /// The id of this run of the worker, by which another worker of the same name is noticed.
    pub run: String,
    /// The logical clock.
    pub clock: Arc<Clock>,
    /// The events for Flower and exporters.
    pub events: Events,
    /// The tasks in hand.
    pub requests: Arc<Requests>,
    /// The tasks that must not run.
    pub revoked: Revoked,
    /// The tasks that the worker can run.
    pub tasks: Tasks,
    /// The names of the queues that the worker consumes.
    pub queues: watch::Sender<Vec<String>>,
    /// The number of tasks that run at once.
    pub concurrency: watch::Sender<usize>,
    /// Fires when remote control asks for a warm shutdown.
    pub shutdown: CancellationToken,
    /// Notified when a task was revoked, a limit changed, or a slot became free: messages may get another verdict
    /// now.
    pub changed: tokio::sync::Notify,
    /// The time at which the worker began.
    pub started: Instant,
    /// The worker's description of itself.
    pub about: About,
}

/// A worker's description of itself.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// The name of the software.
    pub software: &'static str,
    /// The version of the software.
    pub version: &'static str,
    /// The setting of the node name and a value that differs from host to host, for the log when two workers have
    /// the same node name.
    pub name_example: Option<&'static str>,
    /// The settings under Celery's names, for `celery inspect conf`; without secrets.
    pub conf: Map<String, Value>,
}

impl Node {
    /// Creates a node that consumes `queues` with `concurrency` tasks at once.
    pub fn new(
        name: &str,
        about: About,
        events: Events,
        tasks: Tasks,
        queues: &[String],
        concurrency: usize,
    ) -> Self {
        Self {
            name: name.to_owned(),
            run: Uuid::new_v4().to_string(),
            clock: Arc::clone(events.clock()),
            events,
            requests: Arc::default(),
            revoked: Revoked::default(),
            tasks,
            queues: watch::Sender::new(queues.to_vec()),
            concurrency: watch::Sender::new(concurrency),
            shutdown: CancellationToken::new(),
            changed: tokio::sync::Notify::new(),
            started: Instant::now(),
            about,
        }
    }

    /// Revokes tasks: they must not run any more, and those in hand that wait are ended; with a `signal` also those
    /// that run. Returns the ids of the ended tasks.
    pub fn revoke_all<'a>(&self, ids: &[&'a str], signal: Option<i32>) -> Vec<&'a str> {
        let mut known: HashMap<&str, &'a str> = HashMap::with_capacity(ids.len());
        for id in ids {
            self.revoked.add(id);
            known.insert(id, id);
        }
        let mut ended = Vec::new();
        for held in self.requests.list() {
            let id = known.get(&*held.message.id).filter(|_| held.revoke(signal));
            ended.extend(id.filter(|id| !ended.contains(*id)));
        }
        self.changed.notify_one();
        ended
    }

    /// Revokes the tasks with one of these stamps, and ends those in hand as
    /// [`revoke_all`](Self::revoke_all) does. Returns the stamps whose tasks were ended.
    pub fn revoke_stamped<'a>(
        &self,
        stamps: &[(&'a str, &'a Value)],
        signal: Option<i32>,
    ) -> Vec<(&'a str, &'a Value)> {
        let known: HashMap<String, _> =
            stamps.iter().map(|(header, value)| (revoked::stamp(header, value), (*header, *value))).collect();
        for stamp in known.keys() {
            self.revoked.add_stamp(stamp);
        }
        let mut ended = Vec::new();
        for held in self.requests.list() {
            let own = revoked::stamps_of(&held.message);
            let matching: Vec<_> = own.filter_map(|stamp| known.get(&stamp).copied()).collect();
            if !matching.is_empty() && held.revoke(signal) {
                ended.extend(matching);
            }
        }
        self.changed.notify_one();
        ended
    }
}
