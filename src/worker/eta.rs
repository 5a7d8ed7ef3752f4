//! Messages that wait for their eta: what is held of them meanwhile, and how many.
//!
//! Redis keeps the message as unacknowledged. This process holds the lease and an outline, by which remote control
//! shows and revokes the task, and reads the message again when the time has come.

use crate::base::chain;
use crate::celery::consumer::Delivery;
use crate::celery::lease::Lease;
use crate::celery::message::{Message, Refusal};
use crate::celery::requests::{Phase, Request};
use crate::worker::Shared;
use jiff::Timestamp;
use std::{
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Maximum number of messages that wait for their eta in this process. Further ones stay in their queue.
pub(super) const MOST: usize = 10_000;

/// Maximum memory of their outlines, in bytes.
const MOST_BYTES: usize = 32 << 20;

/// The maximum sleep, so that a correction of the system clock is noticed.
const LOOK: Duration = Duration::from_secs(5);

/// The wait before a read from Redis is tried again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// The memory of the outlines of all messages that wait for their eta.
#[derive(Debug, Default)]
pub(super) struct EtaMemory(AtomicUsize);

/// The end of a wait for an eta.
pub(super) enum WaitEnd {
    /// The time of the task has come, or the task was revoked.
    Due {
        /// The message as it came, with its lease.
        delivery: Box<Delivery>,
        /// True if the task must not run.
        revoked: bool,
    },
    /// The worker shuts down: the message goes back to its queue.
    Interrupted(Lease),
    /// Another worker has the message by now, or this process ends without Redis.
    Lost,
}

/// A message that waits for its eta. Everything that is held of it is in here and in its [`Request`].
pub(super) struct EtaWait {
    lease: Lease,
    request: Request,
    weight: usize,
    scheduled: Option<TaskTrackerToken>,
}

impl EtaMemory {
    /// Returns `true` if no further message may wait here, beside those waiting and those `about_to_wait`.
    pub(super) fn is_full(&self, waiting: usize, about_to_wait: usize) -> bool {
        waiting + about_to_wait >= MOST || self.0.load(Ordering::Acquire) >= MOST_BYTES
    }
}

/// Returns the time until the eta; `None` if it has come.
pub(super) fn time_left(eta: Option<Timestamp>) -> Option<Duration> {
    let left = eta?.duration_since(Timestamp::now());
    left.is_positive().then(|| left.unsigned_abs())
}

impl EtaWait {
    /// Lets go of the contents of a message.
    pub(super) fn begin(shared: &Shared, message: &Message, mut lease: Lease) -> Box<Self> {
        lease.drop_text();
        let outline = Arc::new(message.outline());
        tracing::info!(eta = %outline.eta.unwrap_or_default(), "waiting for its time");
        let weight = outline.weight();
        let request = shared.node.requests.admit(outline);
        request.waits(Phase::Scheduled);
        shared.eta_memory.0.fetch_add(weight, Ordering::AcqRel);
        shared.node.changed.notify_one(); // other messages may take its slot
        Box::new(Self { lease, request, weight, scheduled: Some(shared.scheduled.token()) })
    }

    /// Waits for the eta, and reads the message again.
    pub(super) async fn until_due(mut self: Box<Self>, shared: &Shared) -> WaitEnd {
        let message = Arc::clone(&self.request.held().message);
        let mut interrupted = false;
        while let Some(left) = time_left(message.eta) {
            tokio::select! {
                biased;
                () = self.request.stop().cancelled() => break,
                () = shared.stop.drain.cancelled() => {
                    interrupted = true;
                    break;
                }
                () = tokio::time::sleep(left.min(LOOK)) => {}
            }
        }
        if interrupted {
            self.end(shared);
            return WaitEnd::Interrupted(self.lease);
        }
        self.request.waits(Phase::Reserved);
        let content = Box::pin(read_again(shared, &message.queue, &mut self.lease)).await;
        self.end(shared);
        let Some(content) = content else { return WaitEnd::Lost };
        let revoked = self.request.revocation().is_some();
        let delivery = Delivery { lease: self.lease, queue: message.queue.clone(), content: *content };
        WaitEnd::Due { delivery: Box::new(delivery), revoked }
    }

    /// Makes room for other messages.
    fn end(&mut self, shared: &Shared) {
        let was_full = shared.eta_memory.is_full(shared.scheduled.len(), 0);
        shared.eta_memory.0.fetch_sub(self.weight, Ordering::AcqRel);
        self.scheduled = None;
        if was_full {
            shared.node.changed.notify_one();
        }
    }
}

/// Reads a message again, however long Redis is away; `None` if the message is lost to this process.
async fn read_again(
    shared: &Shared,
    queue: &str,
    lease: &mut Lease,
) -> Option<Box<Result<Message, Refusal>>> {
    loop {
        match lease.read_again(queue).await {
            Ok(Some(content)) => return Some(Box::new(content)),
            Ok(None) => {
                tracing::warn!("another worker has taken the task over");
                return None;
            }
            Err(err) if err.is_transient() => {
                let wait = tokio::time::sleep(ASK_AGAIN);
                shared.stop.silence.run_until_cancelled(wait).await?;
            }
            Err(err) => {
                tracing::error!(error = %chain(&err), "cannot read a task again, it will be delivered again");
                return None;
            }
        }
    }
}
