//! Task messages as Celery sends them, protocols 2 and 1.

mod body;
mod envelope;
mod parse;

use super::json::{self, Object};
use super::publish::Outgoing;
use super::result::Exception;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::time::Duration;

pub(super) use body::plain as plain_body;
pub use envelope::{Envelope, Look, redelivered};

/// How much of a message is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest entry of a queue, in bytes.
    pub message_bytes: usize,
    /// Deepest nesting of its JSON.
    pub depth: usize,
    /// Longest body after decompression, in bytes.
    pub body_bytes: usize,
    /// Most values in its JSON: each takes about a hundred bytes of memory, however short its text is.
    pub values: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes: 1 << 20, depth: 64, body_bytes: 8 << 20, values: 200_000 }
    }
}

/// A task message that can be run.
#[derive(Debug, Clone)]
pub struct Message {
    /// Id of the task; normally a UUID, but any string.
    pub id: String,
    /// Name of the task.
    pub task: String,
    /// Positional arguments; tagged Python types are plain strings, `NaN` and infinities too.
    pub args: Vec<Value>,
    /// Keyword arguments, likewise.
    pub kwargs: Map<String, Value>,
    /// Signatures to send after success, as JSON text.
    pub callbacks: Option<Box<RawValue>>,
    /// Signatures to send after failure.
    pub errbacks: Option<Box<RawValue>>,
    /// The rest of the chain, last element first.
    pub chain: Option<Box<RawValue>>,
    /// The body of the chord that this is a header task of.
    pub chord: Option<Box<RawValue>>,
    /// First task of the tree; its own id when it is that.
    pub root_id: String,
    /// The task that sent this one.
    pub parent_id: Option<String>,
    /// Group that it belongs to.
    pub group: Option<String>,
    /// Place in that group.
    pub group_index: Option<i64>,
    /// Attempts made before this one.
    pub retries: u32,
    /// Earliest start.
    pub eta: Option<Timestamp>,
    /// Not to be run after this.
    pub expires: Option<Timestamp>,
    /// Time after which it is killed.
    pub hard_limit: Option<Duration>,
    /// Time after which it is asked to end.
    pub soft_limit: Option<Duration>,
    /// Whether the sender wants no result; `None` leaves it to the task.
    pub ignore_result: Option<bool>,
    /// The sender's reply queue.
    pub reply_to: Option<String>,
    /// `gen<pid>@<host>` of the sender.
    pub origin: Option<String>,
    /// Name to show instead of the task's.
    pub shadow: Option<String>,
    /// Stamps by name.
    pub stamps: Map<String, Value>,
    /// The positional arguments for display.
    pub argsrepr: String,
    /// The keyword arguments for display.
    pub kwargsrepr: String,
    /// 0 (first) to 9 (last).
    pub priority: u8,
    /// Empty for messages sent to a queue directly.
    pub exchange: String,
    /// With an empty exchange, the queue's name.
    pub routing_key: String,
    /// The queue it came from.
    pub queue: String,
    /// Whether it was taken before and put back.
    pub redelivered: bool,
    /// The body as sent: after base64, before decompression.
    pub body: Vec<u8>,
    /// The whole entry of the queue.
    pub(super) raw: Bytes,
    pub(super) headers: Object<'static>,
}

impl Message {
    /// A header by name, one of Celery's or a custom one. In protocol 1 the fields of its body.
    pub fn header(&self, name: &str) -> Option<Value> {
        self.headers.read(name)
    }

    /// Names of the stamps that the sender set; others are not Celery's business.
    pub fn stamped_headers(&self) -> Vec<String> {
        self.headers.read("stamped_headers").unwrap_or_default()
    }

    /// What tells this message from others of the same task id. It stays when it is put back.
    pub(super) fn delivery_tag(&self) -> Option<String> {
        let tamed = json::tame(&self.raw).ok()?;
        Object::parse(&tamed.text)?.object("properties").read("delivery_tag")
    }

    /// This message once more, as Celery's `retry` sends it: the same id and contents, one retry
    /// more, not before `eta`, with its own id as parent, to the queue it came from.
    pub fn retry(&self, eta: Option<Timestamp>) -> Outgoing {
        Outgoing::again(self, eta)
    }
}

/// A message of ours whose contents are not accepted.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Id of the task.
    pub id: String,
    /// Name of the task.
    pub task: String,
    /// What to store as its FAILURE.
    pub exception: Exception,
    /// Whether it was taken before and put back.
    pub redelivered: bool,
}
