//! Replies to control requests.

use super::super::client::Client;
use super::super::keys::Keys;
use super::super::node::Node;
use super::super::publish::transient;
use redis::Script;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The exchange of replies. Requests with another reply exchange are dropped.
pub(super) const EXCHANGE: &str = "reply.celery.pidbox";

/// The lifetime in seconds of a reply that no client reads. Clients wait for one second by default.
const KEPT: u32 = 60;

/// The time limit of sending a reply; a later one would come too late.
const PATIENCE: Duration = Duration::from_secs(2);

static REPLY: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../lua/reply.lua")));

/// The reply queue of a client, and the ticket of the request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Address {
    oid: String,
    ticket: Value,
}

/// Sends replies.
#[derive(Debug)]
pub(super) struct Replies {
    client: Client,
    keys: Keys,
}

impl Address {
    /// Reads `reply_to`; `None` if its exchange is not [`EXCHANGE`] or its routing key is missing.
    pub(super) fn parse(reply_to: &Value, ticket: Value) -> Option<Self> {
        if reply_to.get("exchange")? != EXCHANGE {
            return None;
        }
        Some(Self { oid: reply_to.get("routing_key")?.as_str()?.to_owned(), ticket })
    }
}

impl Replies {
    pub(super) fn new(client: Client, keys: Keys) -> Self {
        Self { client, keys }
    }

    /// Sends a reply of `node`, if the client still waits for it.
    pub(super) async fn send(&self, address: &Address, node: &Node, value: Value) {
        let body = Value::Object(Map::from_iter([(node.name.clone(), value)]));
        let headers = json!({"ticket": address.ticket, "clock": node.clock.tick()});
        let text = transient(&body, &headers, EXCHANGE, &address.oid);
        let mut call = REPLY.prepare_invoke();
        call.key(self.keys.binding(EXCHANGE)).key(self.keys.replies(&address.oid));
        call.arg(self.keys.reply_member(&address.oid)).arg(text).arg(KEPT);
        // A second try after a loss may double the reply; the client takes the first.
        let stop = CancellationToken::new();
        let sending = self.client.script_retrying::<bool>("send a control reply", &stop, &call);
        match tokio::time::timeout(PATIENCE, sending).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => tracing::debug!("nobody waits for a control reply any more"),
            Ok(Err(error)) => tracing::debug!(%error, "a control reply is lost"),
            Err(_) => tracing::debug!("a control reply is lost: redis does not answer"),
        }
    }
}
