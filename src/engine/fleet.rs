//! The engine's interface to the other machines: one run at a time works on a component among them all.
//!
//! The engine does not know where the fleet's locks are kept: the worker brings an implementation over its broker, the
//! command line has none.

use crate::domain::component::ComponentName;
use async_trait::async_trait;
use std::fmt::Debug;
use tokio_util::sync::CancellationToken;

/// The locks of a fleet.
#[async_trait]
pub trait Fleet: Debug + Send + Sync {
    /// Takes the component for a run of this task, or tells why not; never waits for a holder.
    ///
    /// # Errors
    ///
    /// When the locks are refused for good, say for want of rights: somebody has to act.
    async fn try_take(
        &self,
        component: ComponentName,
        task_id: Option<&str>,
    ) -> Result<FleetTake, FleetError>;

    /// Returns the holder of the component at this moment, for people; `None` if nobody holds it, or nobody answers.
    async fn holder(&self, component: ComponentName) -> Option<String>;
}

/// The answer to an attempt to take a component.
#[derive(Debug)]
pub enum FleetTake {
    /// The component is the caller's.
    Taken(Box<dyn FleetHold>),
    /// Another run has the component; its name is for people.
    Busy(String),
    /// The fleet's locks do not answer: it is not known whether the component is free.
    Unreachable,
}

/// A component that is ours in the whole fleet. Dropping it frees the component, soon and reliably: also
/// when nobody answers at that moment.
#[async_trait]
pub trait FleetHold: Debug + Send + Sync {
    /// Fires when the component has passed to another worker.
    fn lost(&self) -> CancellationToken;

    /// Returns whether the component is still ours.
    async fn lock_state(&self) -> LockState;

    /// Frees the component at once, if somebody answers; otherwise, or without this call, it is freed soon.
    async fn free(self: Box<Self>);
}

/// The ownership of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockState {
    /// Still ours.
    Ours,
    /// Another worker's by now.
    Lost,
    /// The fleet's locks do not answer.
    Unknown,
}

/// The reason that the fleet's locks cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The fleet's locks do not answer.
    #[error("the fleet's locks do not answer")]
    Unreachable,
    /// The fleet's locks are refused.
    #[error(transparent)]
    Refused(Box<dyn std::error::Error + Send + Sync>),
}
