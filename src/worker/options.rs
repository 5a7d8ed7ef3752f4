//! The settings of a worker, as `config` reads them.

use super::node_info::SOFTWARE;
use crate::celery::client::ConnectOptions;
use crate::celery::keys::{Keys, Priorities};
use secrecy::SecretString;
use std::{path::PathBuf, time::Duration};

/// The settings of a worker.
#[derive(Debug, Clone)]
pub struct Options {
    /// The Celery node name, `backup@host`.
    pub node: String,
    /// The queues to consume, in this order within each priority.
    pub queues: Vec<String>,
    /// The number of tasks that run at once.
    pub concurrency: usize,
    /// The maximum number of retries of a task.
    pub max_retries: u32,
    /// The wait before each retry.
    pub retry_delay: Duration,
    /// The secret that messages which delete or overwrite data must be signed with, if there is one.
    pub restore_key: Option<SecretString>,
    /// The folder of the notes on signed messages that were accepted or carried out.
    pub orders: PathBuf,
    /// The time that running tasks may take after the first signal.
    pub grace: Duration,
    /// The address of the broker.
    pub broker: ConnectOptions,
    /// The address of the result backend.
    pub backend: ConnectOptions,
    /// `global_keyprefix` of the broker's transport options.
    pub broker_prefix: String,
    /// `priority_steps` and `sep` of the broker's transport options.
    pub priorities: Priorities,
    /// `global_keyprefix` of the result backend's transport options.
    pub result_prefix: String,
    /// The lifetime of a result; zero means for ever.
    pub result_expires: Duration,
    /// True if results include the call of the task: `result_extended` of Celery.
    pub result_extended: bool,
    /// The visibility timeout of the other workers on the broker.
    pub visibility_timeout: Duration,
    /// The hard time limit of one task, unless its message has another.
    pub time_limit: Option<Duration>,
    /// True if task events are sent from the start, as with Celery's `-E`.
    pub task_events: bool,
}

impl Options {
    /// The names of the broker's keys.
    pub fn keys(&self) -> Keys {
        Keys::new(&self.broker_prefix).with_namespace(SOFTWARE).with_priorities(self.priorities.clone())
    }
}
