//! Sends task messages: new ones and retries.

use super::CeleryError;
use super::client::Client;
use super::instance::hostname;
use super::json::{self, Object, quoted};
use super::keys::Keys;
use super::message::Message;
use super::repr;
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{Timestamp, tz::Offset};
use redis::Script;
use serde_json::{Map, Value, json, value::RawValue};
use std::{sync::LazyLock, time::Duration};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The lifetime in seconds of the mark that messages were sent. Repeats come within seconds.
const SENT_MARK: u32 = 600;

/// The lifetime in seconds of the mark of named messages. Repeats come when their sender is run again after a crash.
const NAMED_MARK: u32 = 86_400;

static PUBLISH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/publish.lua")));

/// A task message to be sent: protocol 2 in JSON, as `delay()` sends it.
///
/// Source of the fields: `AMQP.as_task_v2` in `celery/app/amqp.py`, and `Message` in
/// `kombu/transport/virtual/base.py`.
#[derive(Debug, Clone)]
pub struct Outgoing {
    id: String,
    queue: String,
    priority: u8,
    tag: String,
    headers: Object<'static>,
    properties: Object<'static>,
    /// The body, content type and encoding of a message that is sent again; empty for a new message.
    rest: Object<'static>,
    /// The JSON texts of the arguments.
    args: String,
    kwargs: String,
    /// The JSON text of callbacks, errbacks, chain and chord.
    embed: String,
}

impl Outgoing {
    /// Creates a call of `task` without arguments for `queue`, with a fresh id, as the root of a tree of its own.
    pub fn new(task: &str, queue: &str) -> Self {
        let id = Uuid::new_v4().to_string();
        let (name, own) = (quoted(task), quoted(&id));
        let origin = quoted(&format!("gen{}@{}", std::process::id(), hostname()));
        let mut headers = Object::default();
        for (key, text) in [
            ("lang", "\"py\""),
            ("task", &name),
            ("id", &own),
            ("shadow", "null"),
            ("eta", "null"),
            ("expires", "null"),
            ("group", "null"),
            ("group_index", "null"),
            ("retries", "0"),
            ("timelimit", "[null, null]"),
            ("root_id", &own),
            ("parent_id", "null"),
            ("argsrepr", "\"()\""),
            ("kwargsrepr", "\"{}\""),
            ("origin", &origin),
            ("ignore_result", "false"),
            ("replaced_task_nesting", "0"),
            ("stamped_headers", "null"),
            ("stamps", "{}"),
        ] {
            headers.set(key, text);
        }
        let mut properties = Object::default();
        for (key, text) in [("correlation_id", &*own), ("reply_to", "\"\""), ("delivery_mode", "2")] {
            properties.set(key, text);
        }
        let new = Self {
            id,
            queue: queue.to_owned(),
            priority: 0,
            tag: Uuid::new_v4().to_string(),
            headers,
            properties,
            rest: Object::default(),
            args: "[]".to_owned(),
            kwargs: "{}".to_owned(),
            embed: r#"{"callbacks": null, "errbacks": null, "chain": null, "chord": null}"#.to_owned(),
        };
        new.through("", queue).priority(0)
    }

    /// Builds `message` as it is sent again, see [`Message::retry`].
    pub(super) fn again(message: &Message, eta: Option<Timestamp>) -> Self {
        let strict = json::to_strict(&message.raw).map(|strict| strict.text).unwrap_or_default();
        let mut rest = Object::parse(&strict).unwrap_or_default();
        let mut again = Self::new(&message.task, &message.queue).with_id(&message.id);
        if rest.object("headers").get("task").is_some() {
            again.headers = rest.object("headers").into_owned();
            again.properties = rest.object("properties").into_owned();
            rest.remove("headers");
            rest.remove("properties");
            again.rest = rest.into_owned();
        } else {
            again = again.in_protocol_2(message);
        }
        again.headers.set("retries", (u64::from(message.retries) + 1).to_string());
        again.headers.set("eta", eta.map_or("null".to_owned(), |eta| quoted(&iso(eta))));
        again.headers.set("parent_id", quoted(&message.id));
        again.headers.remove("redelivered");
        again.through(&message.exchange, &message.routing_key).priority(message.priority)
    }

    /// Converts a message of protocol 1 to protocol 2, as Python does to send it again.
    fn in_protocol_2(mut self, message: &Message) -> Self {
        for key in ["expires", "group", "group_index", "timelimit"] {
            if let Some(value) = message.header(key) {
                self.headers.set(key, value.to_string());
            }
        }
        let text = |part: &Option<Box<RawValue>>| part.as_ref().map_or("null", |raw| raw.get()).to_owned();
        let [callbacks, errbacks, chord] = [&message.callbacks, &message.errbacks, &message.chord].map(text);
        self = self.set_signatures(&callbacks, &errbacks, "null", &chord);
        self.args(message.args.clone()).kwargs(message.kwargs.clone())
    }

    /// Sets callbacks, errbacks, chain and chord, as JSON texts.
    pub(super) fn set_signatures(
        mut self,
        callbacks: &str,
        errbacks: &str,
        chain: &str,
        chord: &str,
    ) -> Self {
        self.embed = format!(
            r#"{{"callbacks": {callbacks}, "errbacks": {errbacks}, "chain": {chain}, "chord": {chord}}}"#
        );
        self
    }

    /// Sets the task's id and makes the task the root of its tree, so call [`child_of`](Self::child_of) after this.
    #[must_use]
    pub fn with_id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.id);
        self.headers.set("id", quoted(id));
        self.headers.set("root_id", quoted(id));
        self.properties.set("correlation_id", quoted(id));
        self
    }

    /// Sets the positional arguments.
    #[must_use]
    pub fn args(mut self, args: Vec<Value>) -> Self {
        self.headers.set("argsrepr", quoted(&repr::args(&args)));
        self.args = Value::Array(args).to_string();
        self
    }

    /// Sets the keyword arguments.
    #[must_use]
    pub fn kwargs(mut self, kwargs: Map<String, Value>) -> Self {
        self.headers.set("kwargsrepr", quoted(&repr::kwargs(&kwargs)));
        self.kwargs = Value::Object(kwargs).to_string();
        self
    }

    /// Sets the arguments as JSON texts, which may contain values that Python writes beyond JSON.
    pub(super) fn texts(mut self, args: String, kwargs: String) -> Self {
        let strict = |text: &str| json::to_strict(text.as_bytes()).map(|strict| strict.text.into_owned());
        // The parsed arguments are for display only; arguments that are nested too deeply to be parsed are not
        // displayed.
        let read = strict(&args).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        self = self.args(read);
        let read = strict(&kwargs).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        self = self.kwargs(read);
        (self.args, self.kwargs) = (args, kwargs);
        self
    }

    /// Makes the task a child of the task `parent` in the tree of `root`.
    #[must_use]
    pub fn child_of(mut self, root: &str, parent: &str) -> Self {
        self.headers.set("root_id", quoted(root));
        self.headers.set("parent_id", quoted(parent));
        self
    }

    /// Sets the priority, 0 (first) to 9 (last).
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = priority.min(9);
        self.properties.set("priority", self.priority.to_string());
        self
    }

    /// Sets the earliest start.
    #[must_use]
    pub fn eta(self, eta: Timestamp) -> Self {
        self.header("eta", iso(eta))
    }

    /// Sets the earliest start to `wait` from now.
    #[must_use]
    pub fn countdown(self, wait: Duration) -> Self {
        self.eta(
            Timestamp::now().saturating_add(wait).expect("a duration without calendar units can be added"),
        )
    }

    /// Sets the time after which the task is not to be started.
    #[must_use]
    pub fn expires(mut self, expires: Timestamp) -> Self {
        let left = expires.duration_since(Timestamp::now()).as_millis().max(0);
        self.properties.set("expiration", quoted(&left.to_string()));
        self.header("expires", iso(expires))
    }

    /// Sets a header, one of Celery's or a custom one.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.headers.set(name, value.into().to_string());
        self
    }

    /// Sets a header by its JSON text.
    pub(super) fn set_header(&mut self, name: &str, text: &str) {
        self.headers.set(name, text);
    }

    /// Sets a property by its JSON text.
    pub(super) fn set_property(&mut self, name: &str, text: &str) {
        self.properties.set(name, text);
    }

    /// The task's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A header by name.
    pub fn get_header(&self, name: &str) -> Option<Value> {
        self.headers.read(name)
    }

    /// The approximate length of the message's text, in bytes.
    pub(super) fn len(&self) -> usize {
        let body = self.args.len() + self.kwargs.len() + self.embed.len();
        body / 3 * 4 + 1024
    }

    /// The exchange and routing key of the message; `None` if the message goes to a queue directly.
    pub(super) fn exchange(&self) -> Option<(String, String)> {
        let info = self.properties.object("delivery_info");
        let name = |key| info.read::<String>(key);
        Some((name("exchange").filter(|exchange| !exchange.is_empty())?, name("routing_key")?))
    }

    /// Sets the queue whose list the message is put into.
    pub(super) fn into_queue(mut self, queue: &str) -> Self {
        queue.clone_into(&mut self.queue);
        self
    }

    /// Sets exchange and routing key; the queue stays.
    pub(super) fn through(mut self, exchange: &str, routing_key: &str) -> Self {
        let info = json!({"exchange": exchange, "routing_key": routing_key});
        self.properties.set("delivery_info", info.to_string());
        self
    }

    /// The key of the list that the message is put into.
    pub(super) fn list(&self, keys: &Keys) -> String {
        keys.list(&self.queue, self.priority)
    }

    /// The text of the message in the queue.
    pub fn text(&self) -> String {
        let (mut outer, mut properties) = (self.rest.clone(), self.properties.clone());
        if outer.get("body").is_none() {
            let body = format!("[{}, {}, {}]", self.args, self.kwargs, self.embed);
            outer.set("body", quoted(&STANDARD.encode(body)));
            outer.set("content-encoding", "\"utf-8\"");
            outer.set("content-type", "\"application/json\"");
            properties.set("body_encoding", "\"base64\"");
        }
        properties.set("delivery_tag", quoted(&self.tag));
        outer.set("headers", self.headers.to_string());
        outer.set("properties", properties.to_string());
        outer.to_string()
    }
}

/// Formats a time as Python's `isoformat()` does, in UTC with microseconds.
pub(super) fn iso(at: Timestamp) -> String {
    format!("{:.6}", at.display_with_offset(Offset::UTC))
}

/// Builds the text of a message that is published without being stored: an event, or a control request or reply.
pub(super) fn transient(body: &Value, headers: &Value, exchange: &str, routing_key: &str) -> String {
    json!({
        "body": STANDARD.encode(body.to_string()),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {
            "delivery_mode": 1,
            "delivery_info": {"exchange": exchange, "routing_key": routing_key},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": Uuid::new_v4().to_string(),
        },
    })
    .to_string()
}

/// Sends all of `messages`, in this order, or none.
///
/// Repeats until Redis answers or `stop` fires; a repeat does not double messages.
///
/// # Errors
///
/// [`CeleryError::Stopped`], or a permanent error of Redis.
pub async fn publish(
    client: &Client,
    keys: &Keys,
    messages: &[Outgoing],
    stop: &CancellationToken,
) -> Result<(), CeleryError> {
    let Some(first) = messages.first() else { return Ok(()) };
    push(client, keys, (&first.tag, SENT_MARK), messages, stop).await
}

/// Sends all of `messages`, in this order, or none. Sends nothing if any process has sent messages of this name
/// within a day.
///
/// # Errors
///
/// As [`publish`].
pub async fn publish_once(
    client: &Client,
    keys: &Keys,
    name: &str,
    messages: &[Outgoing],
    stop: &CancellationToken,
) -> Result<(), CeleryError> {
    if messages.is_empty() {
        return Ok(());
    }
    push(client, keys, (name, NAMED_MARK), messages, stop).await
}

async fn push(
    client: &Client,
    keys: &Keys,
    (mark, life): (&str, u32),
    messages: &[Outgoing],
    stop: &CancellationToken,
) -> Result<(), CeleryError> {
    let mut call = PUBLISH.prepare_invoke();
    call.key(keys.sent(mark)).arg(life);
    for message in messages {
        call.key(message.list(keys)).arg(message.text());
    }
    client.script_retrying("publish messages", stop, &call).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_python_does() {
        let at = |text: &str| iso(text.parse().unwrap());
        assert_eq!(at("2026-11-22T09:54:46.057967Z"), "2026-11-22T09:54:46.057967+00:00");
        assert_eq!(at("2026-11-22T09:54:46Z"), "2026-11-22T09:54:46.000000+00:00");
    }
}
