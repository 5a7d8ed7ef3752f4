//! The envelope of a queue entry: the facts known before the entry is taken.

use super::super::json::{self, Object};
use super::parse::instant;
use super::{Limits, body};
use jiff::Timestamp;
use std::collections::VecDeque;

/// The only content type that is accepted.
pub(super) const JSON: &str = "application/json";

/// The facts about a message that are known without its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The name of the task.
    pub task: String,
    /// The id of the task.
    pub id: Option<String>,
    /// The MIME type of the body; empty if not given.
    pub content_type: String,
    /// The MIME type of the body's compression.
    pub compression: Option<String>,
    /// The priority, 0 (first) to 9 (last).
    pub priority: u8,
    /// The delivery tag, which becomes the key of the message in `unacked`.
    pub delivery_tag: Option<String>,
    /// The exchange; empty for messages sent to a queue directly, `None` if not given.
    pub exchange: Option<String>,
    /// The routing key; the queue's name if the exchange is empty.
    pub routing_key: Option<String>,
    /// True if the message was taken before and put back.
    pub redelivered: bool,
    /// The number of attempts before this one.
    pub retries: u32,
    /// The earliest start; `None` also if it cannot be read.
    pub eta: Option<Timestamp>,
}

/// The outcome of a peek at an entry of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peeked {
    /// A task message. The task's name tells which program the message is for.
    Task(Envelope),
    /// A message that may be for another program: in protocol 1 with a content type other than JSON, the task's name
    /// is inside the body, which is never decoded.
    Foreign,
    /// An entry that is no message, with the reason.
    Unreadable(&'static str),
}

impl Envelope {
    /// Reads the envelope of a whole entry. Never panics, whatever the bytes are. Reads neither the arguments nor,
    /// except in protocol 1, the body.
    pub fn peek(raw: &[u8], limits: &Limits) -> Peeked {
        let Ok(strict) = json::to_strict(raw) else { return Peeked::Unreadable("not utf-8") };
        let Some(outer) = Object::parse(&strict.text) else { return Peeked::Unreadable("not a json object") };
        let (headers, properties) = (outer.object("headers"), outer.object("properties"));
        let content_type: String = outer.read("content-type").unwrap_or_default();
        if headers.get("task").is_some() {
            let Some(task) = headers.read("task") else {
                return Peeked::Unreadable("task name is not a string");
            };
            return Peeked::Task(Self::new(task, &headers, &headers, &properties, content_type));
        }
        if content_type != JSON && !content_type.is_empty() {
            return Peeked::Foreign;
        }
        let Ok(body) = body::plain(&outer, limits) else {
            return Peeked::Unreadable("no task name, body cannot be read");
        };
        let Ok(strict) = json::to_strict(&body) else {
            return Peeked::Unreadable("no task name, body is not utf-8");
        };
        let payload = Object::parse(&strict.text).unwrap_or_default();
        match payload.read("task") {
            Some(task) => Peeked::Task(Self::new(task, &payload, &headers, &properties, content_type)),
            None => Peeked::Unreadable("no task name"),
        }
    }

    /// Reads the envelope from the last bytes of an entry that is too long to be read whole.
    ///
    /// Kombu writes headers and properties after the body, so they can be found from the end. An entry without a
    /// readable task name may be for any program, so it counts as foreign.
    pub fn peek_at_tail(tail: &[u8]) -> Peeked {
        let tail =
            (0..4.min(tail.len())).find_map(|cut| std::str::from_utf8(&tail[cut..]).ok()).unwrap_or_default();
        if !tail.trim_end().ends_with('}') {
            return Peeked::Unreadable("not a json object");
        }
        // The quotes would be escaped inside a string, so these keys stand between values.
        let mut starts: VecDeque<_> = [r#""content-encoding""#, r#""content-type""#, r#""headers""#]
            .iter()
            .flat_map(|key| tail.rmatch_indices(key).take(2))
            .map(|(at, _)| at)
            .collect();
        starts.make_contiguous().sort_unstable();
        for start in starts {
            let rest = format!("{{{}", &tail[start..]);
            let Ok(strict) = json::to_strict(rest.as_bytes()) else { continue };
            let Some(outer) = Object::parse(&strict.text) else { continue };
            let (headers, properties) = (outer.object("headers"), outer.object("properties"));
            if let Some(task) = headers.read("task") {
                let content_type = outer.read("content-type").unwrap_or_default();
                return Peeked::Task(Self::new(task, &headers, &headers, &properties, content_type));
            }
        }
        Peeked::Foreign
    }

    /// Builds an envelope. `of_task` holds id and retries: the headers, or the payload of protocol 1.
    fn new(
        task: String,
        of_task: &Object,
        headers: &Object,
        properties: &Object,
        content_type: String,
    ) -> Self {
        let info = properties.object("delivery_info");
        let priority = properties.read("priority").unwrap_or(0_i64).clamp(0, 9);
        Self {
            task,
            id: of_task.read("id").filter(|id: &String| !id.is_empty()),
            content_type,
            compression: headers.read("compression"),
            priority: u8::try_from(priority).unwrap_or_default(),
            delivery_tag: properties.read("delivery_tag").filter(|tag: &String| !tag.is_empty()),
            exchange: info.read("exchange"),
            routing_key: info.read("routing_key"),
            redelivered: headers.get("redelivered") == Some("true")
                || info.get("redelivered") == Some("true"),
            retries: of_task.read("retries").unwrap_or(0),
            eta: instant(of_task, "eta").ok().flatten(),
        }
    }
}

/// Returns the text of a message as kombu restores it: marked as redelivered, otherwise unchanged.
///
/// Returns `None` if the message cannot be marked without other changes. Source: `QoS.restore_by_tag` and
/// `Channel._do_restore_message` in `kombu/transport/redis.py`.
pub fn redelivered(raw: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(raw).ok()?;
    let mut outer = Object::parse(text)?;
    let mut headers = Object::parse(outer.get("headers")?)?.into_owned();
    let mut properties = Object::parse(outer.get("properties")?)?.into_owned();
    let mut info =
        properties.get("delivery_info").map_or(Some(Object::default()), Object::parse)?.into_owned();
    headers.set("redelivered", "true");
    info.set("redelivered", "true");
    properties.set("delivery_info", info.to_string());
    outer.set("headers", headers.to_string());
    outer.set("properties", properties.to_string());
    Some(outer.to_string())
}
