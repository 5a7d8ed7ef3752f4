//! Messages that go back to their queues.

use crate::base::chain;
use crate::celery::lease::Lease;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// The leases that a worker gives back at its end, so that their messages keep their order.
#[derive(Debug, Default)]
pub(super) struct LeaseReturner(Mutex<Vec<Lease>>);

impl LeaseReturner {
    /// Adds a lease.
    pub(super) fn add(&self, lease: Lease) {
        self.state().push(lease);
    }

    /// Gives back all leases, the latest first, so that the oldest message is served next.
    pub(super) async fn give_all_back(&self, stop: &CancellationToken) {
        self.state().sort_unstable_by_key(Lease::number);
        loop {
            let latest = self.state().pop();
            let Some(lease) = latest else { return };
            self.give_back(lease, stop).await;
        }
    }

    /// Gives back one lease.
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
