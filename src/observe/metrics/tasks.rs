//! What is told of tasks, queues and the broker.

use super::{Metrics, as_gauge};
use std::time::Duration;

/// Label of tasks that we do not know, so that a sender cannot make series.
pub(super) const OTHER_TASK: &str = "other";

impl Metrics {
    /// A task got the state `state`. `known` is its name if it is one of ours.
    pub fn task(&self, known: Option<&str>, state: &str) {
        self.tasks.with_label_values(&[known.unwrap_or(OTHER_TASK), state]).inc();
    }

    /// How long a task waited here before it started.
    pub fn task_started(&self, known: Option<&str>, waited: Duration) {
        self.task_wait.with_label_values(&[known.unwrap_or(OTHER_TASK)]).observe(waited.as_secs_f64());
    }

    /// How long a task ran.
    pub fn task_ended(&self, known: Option<&str>, ran: Duration) {
        self.task_runtime.with_label_values(&[known.unwrap_or(OTHER_TASK)]).observe(ran.as_secs_f64());
    }

    /// A message came a second time.
    pub fn redelivered(&self) {
        self.redeliveries.inc();
    }

    /// An entry was set aside.
    pub fn unreadable(&self, count: u64) {
        self.unreadable.inc_by(count);
    }

    /// The state of the connection to the broker; `reconnects` since the start.
    pub fn broker(&self, connected: bool, reconnects: u64) {
        self.broker_connected.set(i64::from(connected));
        self.broker_reconnects.inc_by(reconnects.saturating_sub(self.broker_reconnects.get()));
    }

    /// Whether the broker answered last.
    pub fn is_broker_connected(&self) -> bool {
        self.broker_connected.get() == 1
    }

    /// The queues were looked at; `now` in Unix seconds.
    pub fn polled(&self, now: i64) {
        self.broker_last_poll.set(now);
    }

    /// When the queues were last looked at, in Unix seconds; 0: never.
    pub fn last_poll(&self) -> i64 {
        self.broker_last_poll.get()
    }

    /// What waits in a queue, and how much of it is not ours.
    pub fn queue(&self, queue: &str, length: usize, foreign: usize) {
        self.queue_length.with_label_values(&[queue]).set(as_gauge(length as u64));
        self.foreign_messages.with_label_values(&[queue]).set(as_gauge(foreign as u64));
    }

    /// A queue is looked at no more.
    pub fn queue_left(&self, queue: &str) {
        // An error means that it was never looked at.
        let _ = self.queue_length.remove_label_values(&[queue]);
        let _ = self.foreign_messages.remove_label_values(&[queue]);
    }
}
