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

pub(super) use body::{decompress, plain as plain_body};
pub use envelope::{Envelope, Look, redelivered};

/// The size limits of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum length of a queue entry, in bytes.
    pub message_bytes: usize,
    /// Maximum nesting of the JSON.
    pub depth: usize,
    /// Maximum length of the body after decompression, in bytes.
    pub body_bytes: usize,
    /// Maximum number of values in the JSON: each takes about a hundred bytes of memory, however short its text is.
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
    /// The id of the task; normally a UUID, but any string is accepted.
    pub id: String,
    /// The name of the task.
    pub task: String,
    /// The positional arguments. Tagged Python types, `NaN` and infinities are plain strings.
    pub args: Vec<Value>,
    /// The keyword arguments, with the same conversions.
    pub kwargs: Map<String, Value>,
    /// Signatures to send after success, as JSON text.
    pub callbacks: Option<Box<RawValue>>,
    /// Signatures to send after failure.
    pub errbacks: Option<Box<RawValue>>,
    /// The rest of the chain, last element first.
    pub chain: Option<Box<RawValue>>,
    /// The body of the chord, if the task is in a chord's header.
    pub chord: Option<Box<RawValue>>,
    /// The id of the first task of the tree; the task's own id if that is the first.
    pub root_id: String,
    /// The id of the task that sent this one.
    pub parent_id: Option<String>,
    /// The id of the group that the task belongs to.
    pub group: Option<String>,
    /// The index of the task in that group.
    pub group_index: Option<i64>,
    /// The number of attempts before this one.
    pub retries: u32,
    /// The earliest start.
    pub eta: Option<Timestamp>,
    /// The time after which the task is not to be started.
    pub expires: Option<Timestamp>,
    /// The hard time limit, after which the task is killed.
    pub hard_limit: Option<Duration>,
    /// The soft time limit, after which the task is asked to end.
    pub soft_limit: Option<Duration>,
    /// True if the sender wants no result stored; `None` leaves the choice to the task.
    pub ignore_result: Option<bool>,
    /// The sender's reply queue.
    pub reply_to: Option<String>,
    /// `gen<pid>@<host>` of the sender.
    pub origin: Option<String>,
    /// The name to show instead of the task's.
    pub shadow: Option<String>,
    /// The stamps by name.
    pub stamps: Map<String, Value>,
    /// The positional arguments for display.
    pub argsrepr: String,
    /// The keyword arguments for display.
    pub kwargsrepr: String,
    /// The priority, 0 (first) to 9 (last).
    pub priority: u8,
    /// The exchange; empty for messages sent to a queue directly.
    pub exchange: String,
    /// The routing key; the queue's name if the exchange is empty.
    pub routing_key: String,
    /// The queue that the message came from.
    pub queue: String,
    /// True if the message was taken before and put back.
    pub redelivered: bool,
    /// The body as sent: after base64, before decompression.
    pub body: Vec<u8>,
    /// The whole entry of the queue.
    pub(super) raw: Bytes,
    pub(super) headers: Object<'static>,
}

impl Message {
    /// Returns a header by name, one of Celery's or a custom one. In protocol 1 these are the fields of the body.
    pub fn header(&self, name: &str) -> Option<Value> {
        self.headers.read(name)
    }

    /// Returns the names of the stamps that the sender set; Celery ignores other stamps.
    pub fn stamped_headers(&self) -> Vec<String> {
        self.headers.read("stamped_headers").unwrap_or_default()
    }

    /// Returns the delivery tag, which differs between messages of the same task id. A message that is put back keeps
    /// its delivery tag.
    pub(super) fn delivery_tag(&self) -> Option<String> {
        let tamed = json::tame(&self.raw).ok()?;
        Object::parse(&tamed.text)?.object("properties").read("delivery_tag")
    }

    /// Returns this message as Celery's `retry` sends it again: the same id and contents, one retry
    /// more, not before `eta`, with its own id as parent, to the queue that the message came from.
    pub fn retry(&self, eta: Option<Timestamp>) -> Outgoing {
        Outgoing::again(self, eta)
    }
}

/// A message for this worker whose contents are not accepted.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The id of the task.
    pub id: String,
    /// The name of the task.
    pub task: String,
    /// The exception to store as the task's FAILURE.
    pub exception: Exception,
    /// True if the message was taken before and put back.
    pub redelivered: bool,
}
