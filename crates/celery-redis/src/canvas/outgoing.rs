//! Builds a message from a signature's options.
//!
//! Source: `AMQP.as_task_v2` and `_create_task_sender` in `celery/app/amqp.py`, `send_task` in
//! `celery/app/base.py`.

use super::super::json::{Object, quoted};
use super::super::publish::{Outgoing, iso};
use super::plan::Lineage;
use super::signature::Signature;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// Builds the message of a single-task signature, with its options but without its arguments. The message goes to
/// `queue` unless the signature names another queue.
pub(super) fn outgoing(signature: &Signature, id: &str, queue: &str, lineage: &Lineage) -> Outgoing {
    let options = &signature.options;
    let name = |key| options.read::<String>(key).filter(|name| !name.is_empty());
    let mut message = Outgoing::new(signature.task(), name("queue").as_deref().unwrap_or(queue))
        .with_id(id)
        .priority(u8::try_from(options.read("priority").unwrap_or(0_i64).clamp(0, 9)).unwrap_or_default());
    if let (Some(exchange), Some(routing_key)) = (name("exchange"), name("routing_key")) {
        message = message.through(&exchange, &routing_key);
    }
    let text = |key| options.some(key).unwrap_or("null").to_owned();
    let (root, parent) = (name("root_id"), name("parent_id"));
    let limits = format!("[{}, {}]", text("time_limit"), text("soft_time_limit"));
    for (header, text) in [
        ("shadow", text("shadow")),
        ("eta", time(options, "countdown").or_else(|| time(options, "eta")).unwrap_or("null".to_owned())),
        ("group", text("group_id")),
        ("group_index", text("group_index")),
        ("retries", options.some("retries").unwrap_or("0").to_owned()),
        ("timelimit", limits),
        ("root_id", quoted(root.as_ref().unwrap_or(&lineage.root))),
        ("parent_id", quoted(parent.as_ref().unwrap_or(&lineage.parent))),
        // Only the option of the signature is sent; the worker that runs the task knows the setting of the task
        // itself.
        ("ignore_result", text("ignore_result")),
        ("replaced_task_nesting", options.some("replaced_task_nesting").unwrap_or("0").to_owned()),
    ] {
        message.set_header(header, &text);
    }
    if let Some(expires) = time(options, "expires") {
        message = match serde_json::from_str::<String>(&expires).ok().and_then(|text| text.parse().ok()) {
            Some(at) => message.expires(at),
            None => message,
        };
        message.set_header("expires", &expires);
    }
    if let Some(reply_to) = options.some("reply_to") {
        message.set_property("reply_to", reply_to);
    }
    stamp(&mut message, options);
    for (header, text) in options.object("headers").iter() {
        message.set_header(header, text);
    }
    message.set_signatures(
        &list(options, "link"),
        &list(options, "link_error"),
        options.some("chain").unwrap_or("null"),
        options.some("chord").unwrap_or("null"),
    )
}

/// Returns the signatures of an option as the JSON text of a list; `null` if there are none.
fn list(options: &Object<'_>, key: &str) -> String {
    match options.list(key)[..] {
        [] => "null".to_owned(),
        ref signatures => format!("[{}]", signatures.join(", ")),
    }
}

fn stamp(message: &mut Outgoing, options: &Object<'_>) {
    let Some(names) = options.read::<Vec<String>>("stamped_headers") else { return };
    let mut stamps = Object::default();
    for name in &names {
        stamps.set(name, options.get(name).unwrap_or("null"));
    }
    message.set_header("stamped_headers", &serde_json::json!(names).to_string());
    message.set_header("stamps", &stamps.to_string());
}

/// Returns a time option as JSON text: a string unchanged, with or without kombu's type tag; a number as the time so
/// many seconds from now.
fn time(options: &Object<'_>, key: &str) -> Option<String> {
    match options.read(key)? {
        Value::String(text) => Some(quoted(&text)),
        Value::Object(tagged) => Some(quoted(tagged.get("__value__")?.as_str()?)),
        Value::Number(seconds) => {
            let wait = SignedDuration::try_from_secs_f64(seconds.as_f64()?).ok()?;
            let at = Timestamp::now().checked_add(wait).ok()?;
            (!wait.is_zero() || key != "countdown").then(|| quoted(&iso(at)))
        }
        _ => None,
    }
}
