//! What a worker is to the others on its broker: a name, a clock, tasks in hand, and what they may change.

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

/// A worker as the others on its broker see it, shared by all of its parts.
///
/// Remote control changes it, and the worker acts on the changes: it watches [`queues`](Self::queues)
/// and [`concurrency`](Self::concurrency), and ends when [`shutdown`](Self::shutdown) fires.
#[derive(Debug)]
pub struct Node {
    /// `name@host`, unique on the broker.
    pub name: String,
    /// This run of the worker, so that another one of the same name is seen.
    pub run: String,
    /// The logical clock.
    pub clock: Arc<Clock>,
    /// What goes to Flower and exporters.
    pub events: Events,
    /// The tasks in hand.
    pub requests: Arc<Requests>,
    /// The tasks that must not run.
    pub revoked: Revoked,
    /// The tasks that it knows.
    pub tasks: Tasks,
    /// The queues that it takes from.
    pub queues: watch::Sender<Vec<String>>,
    /// How many tasks run at once.
    pub concurrency: watch::Sender<usize>,
    /// Fires when somebody asks for a warm shutdown.
    pub shutdown: CancellationToken,
    /// Fires when a task was revoked or a limit changed: messages may be judged otherwise now.
    pub changed: tokio::sync::Notify,
    /// When it began.
    pub started: Instant,
    /// What it tells about itself.
    pub about: About,
}

/// What a worker tells about itself.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// Name of the software.
    pub software: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Its settings under Celery's names, for `celery inspect conf`; without secrets.
    pub conf: Map<String, Value>,
}

impl Node {
    /// A node that consumes `queues` with `concurrency` tasks at once.
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

    /// Notes that tasks must not run, and ends those that are in hand and wait; with a `signal` also those that
    /// run. Tells which of them were ended.
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

    /// Notes that no task with one of these stamps must run, and ends those in hand as
    /// [`revoke_all`](Self::revoke_all) does. Tells which of the stamps ended one.
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
