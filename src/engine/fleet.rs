//! What the engine wants of the other machines: that one run at a time works on a component among them all.
//!
//! Who keeps the fleet's locks is none of its business: the worker brings an implementation over its
//! broker, the command line has none.

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

    /// Who has the component at this moment, for people; `None` if nobody has, or nobody answers.
    async fn holder(&self, component: ComponentName) -> Option<String>;
}

/// The answer to an attempt to take a component.
#[derive(Debug)]
pub enum FleetTake {
    /// It is the caller's.
    Taken(Box<dyn FleetHold>),
    /// Somebody else has it; who, for people.
    Busy(String),
    /// Nobody answers: it is not known whether it is free.
    Away,
}

/// A component that is ours in the whole fleet. Dropping it frees the component, soon and reliably: also
/// when nobody answers at that moment.
#[async_trait]
pub trait FleetHold: Debug + Send + Sync {
    /// Fires when the component has passed to another worker.
    fn lost(&self) -> CancellationToken;

    /// Whether it is still ours.
    async fn standing(&self) -> Standing;

    /// Frees it at once, if somebody answers; without this, or else, it is freed soon.
    async fn free(self: Box<Self>);
}

/// Whose a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Still ours.
    Ours,
    /// Another worker's by now.
    Lost,
    /// Nobody answers.
    Unknown,
}

/// Why the fleet's locks cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// Nobody answers.
    #[error("the fleet's locks do not answer")]
    Away,
    /// They are refused.
    #[error(transparent)]
    Refused(Box<dyn std::error::Error + Send + Sync>),
}
