//! Updates the metrics and probes of a running worker: queue lengths, the broker's state, signs of life.

use crate::base::chain;
use crate::celery::strays::{self, TransportOption};
use crate::domain::command::Command;
use crate::observe::http::Health;
use crate::worker::Shared;
use jiff::Timestamp;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// The interval of updates, shorter than Prometheus' usual scrape interval of 15 s.
const EVERY: Duration = Duration::from_secs(5);

/// Maximum number of queues with metrics: a sender on the broker can make this worker consume any number of queues.
const MOST_QUEUES: usize = 100;

/// The interval of searches for lists that this worker does not read, for which the keys of the broker are scanned.
const SEARCH: Duration = Duration::from_mins(5);

/// Updates gauges and probes until the future is dropped.
pub(super) async fn run(shared: Arc<Shared>, health: Health) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut connected = shared.broker.connected();
    let mut shown = BTreeSet::new();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = connected.changed() => {}
        }
        let consumer = shared.consumer();
        let lengths = consumer.lengths().await;
        let now = Timestamp::now();
        health.turned(now.as_second());
        shared.metrics.broker(lengths.is_ok(), shared.broker.reconnects());
        if shared.stop.drain.is_cancelled() {
            shared.metrics.polled(now.as_second()); // a worker that shuts down takes no messages, and is not late
        }
        if let Ok(lengths) = lengths {
            let foreign = consumer.foreign();
            let mut left = std::mem::take(&mut shown);
            for (queue, length) in lengths.into_iter().take(MOST_QUEUES) {
                let others = foreign.iter().find(|(name, _)| *name == queue).map_or(0, |(_, count)| *count);
                shared.metrics.queue(&queue, length, others);
                left.remove(&queue);
                shown.insert(queue);
            }
            for queue in left {
                shared.metrics.queue_left(&queue);
            }
        }
    }
}

/// Searches for lists beside those of the worker's queues that hold backup tasks and that this worker does not read,
/// until the future is dropped.
pub(super) async fn strays(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(SEARCH);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = Vec::new();
    loop {
        tick.tick().await;
        let queues = shared.node.queues.borrow().clone();
        let found = match strays::find(&shared.broker, &shared.keys, &queues, Command::is_ours).await {
            Ok(found) => found,
            Err(err) => {
                tracing::debug!(error = %chain(&err), "cannot search for lists that this worker does not read");
                continue;
            }
        };
        let lengths = queues.iter().take(MOST_QUEUES).map(|queue| {
            let of_queue = found.iter().filter(|stray| stray.queue == *queue);
            (queue.as_str(), of_queue.map(|stray| stray.length).sum())
        });
        shared.metrics.strays(lengths);
        for stray in found.iter().filter(|stray| !told.contains(&stray.list)) {
            let fix = option_setting(&stray.option);
            tracing::warn!(list = ?stray.list, messages = stray.length, fix, "backup tasks wait in a list that this worker does not read");
        }
        told = found.into_iter().map(|stray| stray.list).collect();
    }
}

/// Returns the setting by which this worker would read a list that an option of the app names, in words.
pub fn option_setting(option: &TransportOption) -> String {
    match option {
        TransportOption::Step(step) => {
            format!("add {step} to BACKUP_BROKER_PRIORITY_STEPS, as in the app's priority_steps")
        }
        TransportOption::Separator(sep, step) => {
            format!(
                "set BACKUP_BROKER_SEP to the app's sep, {sep:?}, and have {step} in BACKUP_BROKER_PRIORITY_STEPS"
            )
        }
        TransportOption::Prefix(prefix) => {
            format!("set BACKUP_BROKER_KEYPREFIX to the app's global_keyprefix, {prefix:?}")
        }
        TransportOption::Queue(queue) => format!("add the queue {queue:?} to BACKUP_QUEUES"),
    }
}

/// Returns the task's name if the task is one of this program's, so that a sender cannot multiply label values.
pub(super) fn known(task: &str) -> Option<&'static str> {
    Command::registered().into_iter().find(|name| *name == task)
}
