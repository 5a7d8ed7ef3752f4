//! The fleet's locks, kept in the broker.

use crate::celery::lock::{HeldLock, Locks};
use crate::domain::component::ComponentName;
use crate::engine::{Fleet, FleetError, FleetHold, FleetTake, LockState};
use async_trait::async_trait;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The time limit of freeing a run's lock after the run has ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// All workers on one broker: a lock for each component, under its name.
#[derive(Debug)]
pub struct RedisFleet {
    locks: Locks,
}

impl RedisFleet {
    /// The fleet of these locks.
    pub fn new(locks: Locks) -> Self {
        Self { locks }
    }
}

#[async_trait]
impl Fleet for RedisFleet {
    async fn try_take(
        &self,
        component: ComponentName,
        task_id: Option<&str>,
    ) -> Result<FleetTake, FleetError> {
        match self.locks.try_take(component.as_str(), task_id).await {
            Ok(Ok(lock)) => Ok(FleetTake::Taken(Box::new(RedisHold(lock)))),
            Ok(Err(holder)) => Ok(FleetTake::Busy(holder.to_string())),
            Err(err) if err.is_transient() => Ok(FleetTake::Unreachable),
            Err(err) => Err(FleetError::Refused(err.into())),
        }
    }

    async fn holder(&self, component: ComponentName) -> Option<String> {
        let holder = self.locks.holder(component.as_str()).await.ok().flatten();
        holder.map(|holder| holder.to_string())
    }
}

#[derive(Debug)]
struct RedisHold(HeldLock);

#[async_trait]
impl FleetHold for RedisHold {
    fn lost(&self) -> CancellationToken {
        self.0.lost()
    }

    async fn lock_state(&self) -> LockState {
        match self.0.check().await {
            Ok(true) => LockState::Ours,
            Ok(false) => LockState::Lost,
            Err(_) => LockState::Unknown,
        }
    }

    async fn free(self: Box<Self>) {
        // If this fails, the LeaseKeeper frees the lock.
        let _ = tokio::time::timeout(PATIENCE, self.0.free()).await;
    }
}
