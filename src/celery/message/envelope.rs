//! What can be told about an entry of a queue before it is taken.

use super::super::json::{self, Object};
use super::{Limits, body};
use std::collections::VecDeque;

/// The only content type that is read.
pub(super) const JSON: &str = "application/json";

/// What can be told about a message without reading its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Name of the task.
    pub task: String,
    /// Id of the task.
    pub id: Option<String>,
    /// MIME type of the body; empty if it is not given.
    pub content_type: String,
    /// MIME type of the body's compression.
    pub compression: Option<String>,
    /// 0 (first) to 9 (last).
    pub priority: u8,
    /// Key of the message in `unacked`.
    pub delivery_tag: Option<String>,
    /// Empty for messages sent to a queue directly; `None` if it is not given.
    pub exchange: Option<String>,
    /// With an empty exchange, the queue's name.
    pub routing_key: Option<String>,
    /// Whether it was taken before and put back.
    pub redelivered: bool,
    /// Attempts made before this one.
    pub retries: u32,
}

/// The outcome of a look at an entry of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// A task message; whose it is, the task's name tells.
    Task(Envelope),
    /// Not to be told apart from a message of somebody else's: protocol 1 in a content type that is
    /// not JSON has the task's name inside of what is never decoded.
    Foreign,
    /// No message at all, and why.
    Unreadable(&'static str),
}

impl Envelope {
    /// Looks at a whole entry. Never panics, whatever the bytes are; reads neither arguments nor,
    /// except in protocol 1, the body.
    pub fn look(raw: &[u8], limits: &Limits) -> Look {
        let Ok(tamed) = json::tame(raw) else { return Look::Unreadable("not utf-8") };
        let Some(outer) = Object::parse(&tamed.text) else { return Look::Unreadable("not a json object") };
        let (headers, properties) = (outer.object("headers"), outer.object("properties"));
        let content_type: String = outer.read("content-type").unwrap_or_default();
        if headers.get("task").is_some() {
            let Some(task) = headers.read("task") else {
                return Look::Unreadable("task name is not a string");
            };
            return Look::Task(Self::new(task, &headers, &headers, &properties, content_type));
        }
        if content_type != JSON && !content_type.is_empty() {
            return Look::Foreign;
        }
        let Ok(body) = body::plain(&outer, limits) else {
            return Look::Unreadable("no task name, body cannot be read");
        };
        let Ok(tamed) = json::tame(&body) else { return Look::Unreadable("no task name, body is not utf-8") };
        let payload = Object::parse(&tamed.text).unwrap_or_default();
        match payload.read("task") {
            Some(task) => Look::Task(Self::new(task, &payload, &headers, &properties, content_type)),
            None => Look::Unreadable("no task name"),
        }
    }

    /// Looks at the last bytes of an entry that is too long to be read.
    ///
    /// Kombu writes headers and properties behind the body, so they can be found from the end. An
    /// entry that keeps its name to itself may be anybody's, so it counts as foreign.
    pub fn look_at_tail(tail: &[u8]) -> Look {
        let tail =
            (0..4.min(tail.len())).find_map(|cut| std::str::from_utf8(&tail[cut..]).ok()).unwrap_or_default();
        if !tail.trim_end().ends_with('}') {
            return Look::Unreadable("not a json object");
        }
        // Inside of a string the quotes would be escaped, so these stand between values.
        let mut starts: VecDeque<_> = [r#""content-encoding""#, r#""content-type""#, r#""headers""#]
            .iter()
            .flat_map(|key| tail.rmatch_indices(key).take(2))
            .map(|(at, _)| at)
            .collect();
        starts.make_contiguous().sort_unstable();
        for start in starts {
            let rest = format!("{{{}", &tail[start..]);
            let Ok(tamed) = json::tame(rest.as_bytes()) else { continue };
            let Some(outer) = Object::parse(&tamed.text) else { continue };
            let (headers, properties) = (outer.object("headers"), outer.object("properties"));
            if let Some(task) = headers.read("task") {
                let content_type = outer.read("content-type").unwrap_or_default();
                return Look::Task(Self::new(task, &headers, &headers, &properties, content_type));
            }
        }
        Look::Foreign
    }

    /// `of_task` is where id and retries stand: the headers, or the payload of protocol 1.
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
        }
    }
}

/// The text of a message as kombu restores it: marked as redelivered, else unchanged.
///
/// `None` if it cannot be changed without changing more than that.
/// Source: `QoS.restore_by_tag` and `Channel._do_restore_message` in `kombu/transport/redis.py`.
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
