//! Messages on their way back to their queues.

use crate::base::chain;
use crate::celery::lease::Lease;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// Leases that a worker gives back when it ends, in the order in which their messages were.
#[derive(Debug, Default)]
pub(super) struct Returns(Mutex<Vec<Lease>>);

impl Returns {
    /// Adds a lease.
    pub(super) fn add(&self, lease: Lease) {
        self.state().push(lease);
    }

    /// Gives all back, the latest first, so that the oldest is served next.
    pub(super) async fn give_all_back(&self, stop: &CancellationToken) {
        self.state().sort_unstable_by_key(Lease::number);
        loop {
            let latest = self.state().pop();
            let Some(lease) = latest else { return };
            self.give_back(lease, stop).await;
        }
    }

    /// Gives one back.
    pub(super) async fn give_back(&self, lease: Lease, stop: &CancellationToken) {
        match lease.give_back(stop).await {
            Ok(()) => tracing::info!("gave a task back to its queue"),
            Err(err) => {
                tracing::error!(error = %chain(&err), "cannot give a task back, it will be delivered again");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, Vec<Lease>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
