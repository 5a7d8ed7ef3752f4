//! The rights of a run over its component: adding, and deleting or overwriting.
//!
//! Adding needs no answer of the broker, since a backup that is one too many harms nobody. Deleting and
//! overwriting need a confirmed lock: another worker may have taken this one for dead. The argument is in
//! `docs/decisions/0015-a-backup-needs-no-broker-to-be-kept.md`.

use crate::base::clock::Clock;
use crate::engine::{ComponentLock, EngineError, FleetError, LockState};
use std::time::Duration;

/// Pause between two questions to the broker while it does not answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl ComponentLock {
    /// Permits the run to delete or overwrite.
    ///
    /// # Errors
    ///
    /// [`EngineError::LockLost`] when another worker has the component, [`EngineError::Fleet`] when the broker
    /// does not answer.
    pub(super) async fn confirm(&self) -> Result<(), EngineError> {
        let component = self.component;
        match self.lock_state().await {
            LockState::Ours => Ok(()),
            LockState::Lost => Err(EngineError::LockLost { component }),
            LockState::Unknown => Err(EngineError::Fleet { component, source: FleetError::Unreachable }),
        }
    }

    /// Permits the run to add a copy or a manifest of its own backup. Returns `false` if the broker does not
    /// answer: then other workers may be at work on the component too.
    ///
    /// # Errors
    ///
    /// [`EngineError::LockLost`] when another worker is known to have the component.
    pub(super) async fn may_add(&self) -> Result<bool, EngineError> {
        match self.confirm().await {
            Ok(()) => Ok(true),
            Err(EngineError::Fleet { .. }) => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// Waits until the broker has confirmed the lock. For a run with hours of work behind it that would
    /// otherwise be done again.
    ///
    /// # Errors
    ///
    /// [`EngineError::LockLost`] when another worker has the component.
    pub(super) async fn confirmed(&self, clock: &dyn Clock) -> Result<(), EngineError> {
        let mut is_told = false;
        while !self.may_add().await? {
            if !std::mem::replace(&mut is_told, true) {
                tracing::warn!(component = %self.component, "waiting for the broker to confirm the lock");
            }
            clock.sleep(ASK_AGAIN).await;
        }
        Ok(())
    }
}
