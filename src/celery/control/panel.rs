//! The commands that a worker knows.

use super::super::client::Client;
use super::super::node::Node;
use super::super::result::Exception;
use super::Request;
use super::arguments::{Arguments, nok};
use super::stats;
use serde_json::Value;
use std::sync::Arc;

/// What a command returns, or the exception that Python would raise.
pub(super) type Outcome = Result<Value, Exception>;

/// Does what requests ask for.
#[derive(Debug)]
pub struct Panel {
    pub(super) node: Arc<Node>,
    /// The broker as `celery inspect stats` shows it.
    pub(super) broker: Value,
}

impl Panel {
    /// The commands of `node`, whose broker is that of `client`.
    pub fn new(node: Arc<Node>, client: &Client) -> Self {
        Self { node, broker: stats::broker(client.options()) }
    }

    /// Does what is asked; the answer, if there is one at all.
    pub fn answer(&self, request: &Request) -> Option<Value> {
        let method = request.method();
        if method == "shutdown" {
            tracing::warn!("shutdown from remote");
            self.node.shutdown.cancel();
            return None;
        }
        let arguments = Arguments::new(method, request.arguments());
        let known = self.inspect(method, arguments).or_else(|| self.operate(method, arguments));
        let outcome = known.unwrap_or_else(|| Err(Exception::builtin("KeyError", method)));
        Some(outcome.unwrap_or_else(|exception| nok(exception.to_string())))
    }
}
