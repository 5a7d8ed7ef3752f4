//! Updates the metrics and probes of a running worker: queue lengths, the broker's state, signs of life.

use crate::domain::command::Command;
use crate::observe::http::Health;
use crate::worker::Shared;
use jiff::Timestamp;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// The interval of updates, shorter than Prometheus' usual scrape interval of 15 s.
const EVERY: Duration = Duration::from_secs(5);

/// Maximum number of queues with metrics: a sender on the broker can make this worker consume any number of queues.
const MOST_QUEUES: usize = 100;

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

/// Returns the task's name if the task is one of this program's, so that a sender cannot multiply label values.
pub(super) fn known(task: &str) -> Option<&'static str> {
    Command::registered().into_iter().find(|name| *name == task)
}
