//! Parses an entry of a queue into a message that can be run.

use super::super::json::{self, Object};
use super::super::repr;
use super::super::result::Exception;
use super::body::{self, decode_error};
use super::{Envelope, Limits, Message, Refusal, envelope::JSON};
use bytes::Bytes;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde_json::{Map, Value, value::RawValue};
use std::time::Duration;

impl Message {
    /// Parses a whole entry of `queue` whose envelope was read by [`Envelope::peek`] and has an id.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] with the exception to store as the task's FAILURE.
    pub fn parse(raw: &Bytes, look: &Envelope, queue: &str, limits: &Limits) -> Result<Self, Refusal> {
        read(raw, look, queue, limits).map_err(|exception| Refusal::new(look, exception))
    }
}

impl Refusal {
    fn new(look: &Envelope, exception: Exception) -> Self {
        Self {
            id: look.id.clone().unwrap_or_default(),
            task: look.task.clone(),
            exception,
            redelivered: look.redelivered,
        }
    }

    /// Builds the refusal of an entry that is longer than the limit.
    pub fn too_long(look: &Envelope, bytes: usize, limits: &Limits) -> Self {
        Self::new(look, too_long(bytes, limits))
    }
}

fn too_long(bytes: usize, limits: &Limits) -> Exception {
    decode_error(format!("message of {bytes} bytes is larger than {} bytes", limits.message_bytes))
}

/// The parts of a message that protocols 2 and 1 keep in different places.
struct Parts<'a> {
    headers: Object<'a>,
    args: String,
    kwargs: String,
    embed: Object<'a>,
}

fn read(raw: &Bytes, look: &Envelope, queue: &str, limits: &Limits) -> Result<Message, Exception> {
    if raw.len() > limits.message_bytes {
        return Err(too_long(raw.len(), limits));
    }
    let outer = strict(raw, limits, "message")?;
    let outer = Object::parse(&outer).ok_or_else(|| decode_error("message is not a json object"))?;
    accept(&look.content_type, outer.read("content-encoding"))?;
    let body = body::sent(&outer)?;
    let plain = match &look.compression {
        Some(method) => body::decompress(&body, method, limits.body_bytes)?,
        None => body.clone(),
    };
    let payload = strict(&plain, limits, "body")?;
    let headers = outer.object("headers");
    let parts = match headers.get("task") {
        Some(_) => protocol_2(headers, &payload)?,
        None => protocol_1(&payload)?,
    };
    let properties = outer.object("properties");
    let reply_to = properties.read("reply_to");
    message(&parts, look, queue).map(|message| Message { reply_to, body, raw: raw.clone(), ..message })
}

/// Refuses content that Python would not decode with `accept_content=["json"]`.
fn accept(content_type: &str, encoding: Option<String>) -> Result<(), Exception> {
    if content_type != JSON {
        let shown = if content_type.is_empty() { "application/data" } else { content_type };
        let why =
            format!("Refusing to deserialize untrusted content of type {shown}: only {JSON} is accepted");
        return Err(Exception::kombu("ContentDisallowed", why));
    }
    match encoding.unwrap_or_default().to_ascii_lowercase().as_str() {
        "" | "utf-8" | "utf8" | "ascii" | "us-ascii" | "binary" => Ok(()),
        other => Err(decode_error(format!("content encoding {other} is not supported"))),
    }
}

/// Returns strict JSON of bounded depth, so that a recursive parser is safe.
fn strict(bytes: &[u8], limits: &Limits, what: &str) -> Result<String, Exception> {
    let strict =
        json::to_strict(bytes).map_err(|source| decode_error(format!("{what} is not utf-8: {source}")))?;
    if strict.depth > limits.depth {
        let (depth, limit) = (strict.depth, limits.depth);
        return Err(decode_error(format!("{what} is nested {depth} deep, more than {limit}")));
    }
    if strict.values > limits.values {
        return Err(decode_error(format!("{what} holds more than {} values", limits.values)));
    }
    Ok(strict.text.into_owned())
}

fn protocol_2<'a>(headers: Object<'a>, payload: &'a str) -> Result<Parts<'a>, Exception> {
    let parts: Vec<&RawValue> = serde_json::from_str(payload)
        .map_err(|source| decode_error(format!("body is not a json array: {source}")))?;
    let [args, kwargs, embed] = parts[..] else {
        return Err(decode_error(format!("body is an array of {}, expected three", parts.len())));
    };
    let embed = match embed.get() {
        "null" => Object::default(),
        text => Object::parse(text).ok_or_else(|| decode_error("third part of the body is not an object"))?,
    };
    Ok(Parts { headers, args: args.get().to_owned(), kwargs: kwargs.get().to_owned(), embed })
}

/// Reads protocol 1, where all fields are in the body; `taskset` is the group, and there is no tree of tasks.
fn protocol_1(payload: &str) -> Result<Parts<'_>, Exception> {
    let body = Object::parse(payload).ok_or_else(|| decode_error("body is not a json object"))?;
    let text = |key| body.get(key).unwrap_or("null").to_owned();
    let (args, kwargs) = (text("args"), text("kwargs"));
    let mut headers = body.clone();
    if let (None | Some("null"), Some(group)) = (body.get("group"), body.get("taskset")) {
        headers.set("group", group);
    }
    Ok(Parts { headers, args, kwargs, embed: body })
}

fn message(parts: &Parts, look: &Envelope, queue: &str) -> Result<Message, Exception> {
    let Parts { headers, embed, .. } = parts;
    let args: Vec<Value> = arguments(&parts.args, "args")?;
    let kwargs: Map<String, Value> = arguments(&parts.kwargs, "kwargs")?;
    let id = look.id.clone().ok_or_else(|| decode_error("the message has no task id"))?;
    let [hard_limit, soft_limit] = limits_of(headers);
    let signature = |key| embed.read::<Option<Box<RawValue>>>(key).flatten();
    Ok(Message {
        root_id: headers.read("root_id").unwrap_or_else(|| id.clone()),
        parent_id: headers.read("parent_id"),
        task: look.task.clone(),
        callbacks: signature("callbacks"),
        errbacks: signature("errbacks"),
        chain: signature("chain"),
        chord: signature("chord"),
        group: headers.read("group"),
        group_index: headers.read("group_index"),
        retries: look.retries,
        eta: instant(headers, "eta")?,
        expires: instant(headers, "expires")?,
        hard_limit,
        soft_limit,
        ignore_result: headers.read("ignore_result"),
        reply_to: None,
        origin: headers.read("origin"),
        shadow: headers.read("shadow"),
        stamps: headers.read("stamps").unwrap_or_default(),
        argsrepr: headers.read("argsrepr").unwrap_or_else(|| repr::args(&args)),
        kwargsrepr: headers.read("kwargsrepr").unwrap_or_else(|| repr::kwargs(&kwargs)),
        priority: look.priority,
        exchange: look.exchange.clone().unwrap_or_default(),
        routing_key: look.routing_key.clone().unwrap_or_else(|| queue.to_owned()),
        queue: queue.to_owned(),
        redelivered: look.redelivered,
        headers: headers.clone().into_owned(),
        body: Vec::new(),
        raw: Bytes::new(),
        id,
        args,
        kwargs,
    })
}

/// Reads args or kwargs; a missing or null value is empty.
fn arguments<T: serde::de::DeserializeOwned + Default>(text: &str, what: &str) -> Result<T, Exception> {
    let wrong = |source| decode_error(format!("{what} of the task cannot be read: {source}"));
    let value = untagged(serde_json::from_str(text).map_err(wrong)?)?;
    if value.is_null() { Ok(T::default()) } else { serde_json::from_value(value).map_err(wrong) }
}

/// Replaces values with kombu's type tags by plain strings.
///
/// Source of the tags: `kombu/utils/json.py`, which refuses unknown ones likewise.
fn untagged(value: Value) -> Result<Value, Exception> {
    match value {
        Value::Array(items) => items.into_iter().map(untagged).collect(),
        Value::Object(map)
            if map.len() == 2 && map.contains_key("__type__") && map.contains_key("__value__") =>
        {
            let (tag, value) = (&map["__type__"], &map["__value__"]);
            match (tag.as_str(), value) {
                (Some("datetime" | "date" | "time" | "decimal" | "bytes" | "base64"), Value::String(_)) => {
                    Ok(value.clone())
                }
                (Some("uuid"), Value::Object(parts)) => {
                    let id = parts
                        .get("hex")
                        .and_then(Value::as_str)
                        .and_then(|hex| hex.parse::<uuid::Uuid>().ok());
                    id.map(|id| Value::from(id.to_string()))
                        .ok_or_else(|| decode_error("uuid in the arguments is not one"))
                }
                _ => Err(decode_error(format!("Unsupported type in the arguments: {tag}"))),
            }
        }
        Value::Object(map) => {
            let entries = map.into_iter().map(|(key, value)| Ok((key, untagged(value)?)));
            Ok(Value::Object(entries.collect::<Result<_, Exception>>()?))
        }
        plain => Ok(plain),
    }
}

/// Reads the hard limit, then the soft limit, in seconds; zero means none, as in Python.
fn limits_of(headers: &Object) -> [Option<Duration>; 2] {
    let seconds: Vec<Option<f64>> = headers.read("timelimit").unwrap_or_default();
    [0, 1].map(|at| {
        let limit = seconds.get(at).copied().flatten().filter(|limit| *limit > 0.0)?;
        Duration::try_from_secs_f64(limit).ok()
    })
}

/// Parses a time with or without an offset; a time without an offset is UTC.
pub(super) fn instant(headers: &Object, key: &str) -> Result<Option<Timestamp>, Exception> {
    let text = match headers.read::<Value>(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text,
        Some(other) => return Err(decode_error(format!("{key} {other} is not an iso 8601 time"))),
    };
    let naive = |text: &str| text.parse::<DateTime>()?.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp());
    let parsed = text.parse::<Timestamp>().or_else(|_| naive(&text));
    parsed.map(Some).map_err(|_| decode_error(format!("{key} {text:?} is not an iso 8601 time")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_with_and_without_offset_are_read() {
        let cases = [
            ("2026-11-22T09:54:46.057967+00:00", "2026-11-22T09:54:46.057967Z"),
            ("2026-11-22T09:54:46+02:00", "2026-11-22T07:54:46Z"),
            ("2026-11-22T09:54:46Z", "2026-11-22T09:54:46Z"),
            ("2030-01-03T00:00:00", "2030-01-03T00:00:00Z"),
            ("2030-01-03 00:00:00.5", "2030-01-03T00:00:00.5Z"),
            ("2030-01-03", "2030-01-03T00:00:00Z"),
        ];
        for (text, expected) in cases {
            let mut headers = Object::default();
            headers.set("eta", json!(text).to_string());
            assert_eq!(instant(&headers, "eta").unwrap().unwrap().to_string(), expected);
        }
        for wrong in ["\"soon\"", "17", "\"\"", "[]", "\"2030-13-01T00:00:00\""] {
            let mut headers = Object::default();
            headers.set("eta", wrong);
            assert_eq!(instant(&headers, "eta").unwrap_err().name(), "DecodeError", "{wrong}");
        }
    }

    #[test]
    fn time_limits_come_hard_first_and_zero_is_none() {
        for (text, hard, soft) in [
            ("[10, 5.5]", Some(10.0), Some(5.5)),
            ("[null, 0]", None, None),
            ("\"x\"", None, None),
            ("[-1]", None, None),
        ] {
            let mut headers = Object::default();
            headers.set("timelimit", text);
            assert_eq!(
                limits_of(&headers),
                [hard, soft].map(|limit| limit.map(Duration::from_secs_f64)),
                "{text}"
            );
        }
    }

    #[test]
    fn an_unknown_type_tag_is_refused_and_a_mere_likeness_is_not() {
        let tag = |name: &str, value: Value| json!([{"__type__": name, "__value__": value}]);
        assert_eq!(untagged(tag("decimal", json!("1.50"))).unwrap(), json!(["1.50"]));
        for unknown in [tag("set", json!("1")), tag("datetime", json!(1)), tag("uuid", json!({"hex": "x"}))] {
            assert_eq!(untagged(unknown).unwrap_err().name(), "DecodeError");
        }
        let likeness = json!({"__type__": "set", "__value__": 1, "more": 2});
        assert_eq!(untagged(likeness.clone()).unwrap(), likeness);
    }
}
