//! The remote control commands of a worker.

use super::super::client::Client;
use super::super::node::Node;
use super::super::result::Exception;
use super::Request;
use super::arguments::{Arguments, nok};
use super::stats;
use serde_json::Value;
use std::sync::Arc;

/// The value that a command returns, or the exception that Python would raise.
pub(super) type Outcome = Result<Value, Exception>;

/// Runs the commands of control requests.
#[derive(Debug)]
pub struct Panel {
    pub(super) node: Arc<Node>,
    /// The `broker` field of `celery inspect stats`.
    pub(super) broker: Value,
}

impl Panel {
    /// Creates the commands of `node`, whose broker is that of `client`.
    pub fn new(node: Arc<Node>, client: &Client) -> Self {
        Self { node, broker: stats::broker(client.options()) }
    }

    /// Runs the command of a request and returns the reply; `None` for `shutdown`, which has none.
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
