//! The metrics of tasks, queues and the broker.

use super::{Metrics, as_gauge};
use std::time::Duration;

/// The label value of unknown tasks, so that a sender cannot create time series.
pub(super) const OTHER_TASK: &str = "other";

impl Metrics {
    /// Counts a task by its new state. `known` is the task's name if this program has the task.
    pub fn task(&self, known: Option<&str>, state: &str) {
        self.tasks.with_label_values(&[known.unwrap_or(OTHER_TASK), state]).inc();
    }

    /// Records the time that a task waited in this worker before it started.
    pub fn task_started(&self, known: Option<&str>, waited: Duration) {
        self.task_wait.with_label_values(&[known.unwrap_or(OTHER_TASK)]).observe(waited.as_secs_f64());
    }

    /// Records the time that a task ran.
    pub fn task_ended(&self, known: Option<&str>, ran: Duration) {
        self.task_runtime.with_label_values(&[known.unwrap_or(OTHER_TASK)]).observe(ran.as_secs_f64());
    }

    /// Counts a redelivered message.
    pub fn redelivered(&self) {
        self.redeliveries.inc();
    }

    /// Counts unreadable queue entries that were set aside.
    pub fn unreadable(&self, count: u64) {
        self.unreadable.inc_by(count);
    }

    /// Records the state of the connection to the broker. `reconnects` is the total since the start.
    pub fn broker(&self, connected: bool, reconnects: u64) {
        self.broker_connected.set(i64::from(connected));
        self.broker_reconnects.inc_by(reconnects.saturating_sub(self.broker_reconnects.get()));
    }

    /// Returns `true` if the broker answered the last time.
    pub fn is_broker_connected(&self) -> bool {
        self.broker_connected.get() == 1
    }

    /// Records a look at the queues at `now`, in Unix seconds.
    pub fn polled(&self, now: i64) {
        self.broker_last_poll.set(now);
    }

    /// The time of the last look at the queues, in Unix seconds; 0 means never.
    pub fn last_poll(&self) -> i64 {
        self.broker_last_poll.get()
    }

    /// Records the number of messages in a queue, and how many of these are for other programs.
    pub fn queue(&self, queue: &str, length: usize, foreign: usize) {
        self.queue_length.with_label_values(&[queue]).set(as_gauge(length as u64));
        self.foreign_messages.with_label_values(&[queue]).set(as_gauge(foreign as u64));
    }

    /// Sets the numbers of messages in lists beside those of each queue that this worker does not read, and removes the
    /// numbers of all other queues.
    pub fn strays<'a>(&self, lengths: impl Iterator<Item = (&'a str, usize)>) {
        self.stray_messages.reset();
        for (queue, length) in lengths {
            self.stray_messages.with_label_values(&[queue]).set(as_gauge(length as u64));
        }
    }

    /// Removes the metrics of a queue that is no longer consumed.
    pub fn queue_left(&self, queue: &str) {
        // An error means that the queue had no metrics.
        let _ = self.queue_length.remove_label_values(&[queue]);
        let _ = self.foreign_messages.remove_label_values(&[queue]);
    }
}
