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
pub use envelope::{Envelope, Peeked, redelivered};

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

/// Maximum number of stamps of an [outline](Message::outline).
const MOST_STAMPS: usize = 8;

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
        let strict = json::to_strict(&self.raw).ok()?;
        Object::parse(&strict.text)?.object("properties").read("delivery_tag")
    }

    /// Returns the parts of this message by which `inspect` shows a waiting task and `revoke` finds one, at most a few
    /// kilobytes: without body, canvas and headers, and with long arguments in the short form for display.
    #[must_use]
    pub fn outline(&self) -> Self {
        /// Maximum length of a text, in bytes, and of all arguments together. Celery's forms for display are shorter.
        const LONGEST: usize = 2048;
        let short = |text: &str| text.chars().take(LONGEST / 4).collect::<String>();
        let short_of = |text: &Option<String>| text.as_deref().map(short);
        let is_short = self.raw.len() <= LONGEST;
        let mut headers = Object::default();
        let stamped = self.headers.get("stamped_headers").filter(|names| names.len() <= LONGEST);
        if let Some(names) = stamped {
            headers.set("stamped_headers", names);
        }
        let is_stamp_short =
            |(name, value): &(&String, &Value)| name.len() + value.to_string().len() <= LONGEST;
        let stamps = self.stamps.iter().filter(is_stamp_short).take(MOST_STAMPS);
        Self {
            id: self.id.clone(),
            task: self.task.clone(),
            root_id: short(&self.root_id),
            parent_id: short_of(&self.parent_id),
            group: short_of(&self.group),
            origin: short_of(&self.origin),
            shadow: short_of(&self.shadow),
            reply_to: short_of(&self.reply_to),
            args: if is_short { self.args.clone() } else { vec![short(&self.argsrepr).into()] },
            kwargs: if is_short { self.kwargs.clone() } else { Map::new() },
            argsrepr: short(&self.argsrepr),
            kwargsrepr: short(&self.kwargsrepr),
            stamps: stamps.map(|(name, value)| (name.clone(), value.clone())).collect(),
            exchange: self.exchange.clone(),
            routing_key: self.routing_key.clone(),
            queue: self.queue.clone(),
            headers,
            raw: Bytes::new(),
            body: Vec::new(),
            callbacks: None,
            errbacks: None,
            chain: None,
            chord: None,
            ..*self
        }
    }

    /// The approximate length of an [outline](Self::outline) in memory, in bytes.
    pub fn weight(&self) -> usize {
        /// The value itself, with the entries in tables that lead to it.
        const FIXED: usize = 2048;
        let texts = [&self.id, &self.task, &self.root_id, &self.argsrepr, &self.kwargsrepr];
        let more = [&self.exchange, &self.routing_key, &self.queue];
        let texts: usize = texts.into_iter().chain(more).map(String::len).sum();
        let stamps: usize =
            self.stamps.iter().map(|(name, value)| name.len() + value.to_string().len()).sum();
        FIXED + texts + stamps + 4 * self.argsrepr.len()
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
