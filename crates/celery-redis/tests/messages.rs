//! Messages against captures of Celery 5.3.6 and 5.7.0, and against anything that a broker may hold.

use bytes::Bytes;
use celery_redis::message::{Envelope, Limits, Message, Peeked, Refusal};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::Duration;
use test_support::celery_lab::{capture, entries, message, with_body};
use test_support::root;

fn look(raw: &str) -> Peeked {
    Envelope::peek(raw.as_bytes(), &Limits::default())
}

fn parse(raw: &str) -> Result<Message, Refusal> {
    match look(raw) {
        Peeked::Task(look) => Message::parse(&Bytes::from(raw.to_owned()), &look, "q", &Limits::default()),
        other => panic!("{other:?}: {raw}"),
    }
}

/// The only message of a capture.
fn captured(name: &str) -> Message {
    parse(&entries(&format!("messages/{name}"))[0]).unwrap()
}

fn refused(raw: &str) -> Refusal {
    parse(raw).err().unwrap_or_else(|| panic!("not refused: {raw:.200}"))
}

#[test]
fn every_capture_is_read_or_refused_by_its_serializer() {
    let folder = root().join("tests/fixtures/celery/messages");
    let mut seen = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap().replace(".json", "");
        if name.starts_with("priority-keys") {
            continue;
        }
        for raw in entries(&format!("messages/{name}")) {
            seen += 1;
            let parsed = parse(&raw);
            assert_eq!(parsed.is_err(), name.starts_with("serializer-"), "{name}: {parsed:?}");
            let (id, task) = match &parsed {
                Ok(message) => (&message.id, &message.task),
                Err(refusal) => (&refusal.id, &refusal.task),
            };
            assert!(id.len() == 36 || id == "my-own-id", "{name}: {id}");
            assert!(task.contains('.'), "{name}: {task}");
        }
    }
    assert!(seen > 50, "{seen} messages");
}

#[test]
fn arguments_of_every_compression_are_the_same() {
    for name in ["gzip.536", "gzip.570", "bzip2.536", "lzma.536", "zstd.536"] {
        let message = captured(&format!("compression-{name}"));
        assert_eq!(message.args, [json!(1)], "{name}");
        assert_eq!(message.task, "t.add");
        assert!(message.callbacks.is_none());
    }
}

#[test]
fn other_content_types_are_refused_under_their_id() {
    for name in ["pickle", "yaml", "msgpack"] {
        let raw = &entries(&format!("messages/serializer-{name}.536"))[0];
        let refusal = refused(raw);
        let exception = &refusal.exception;
        assert_eq!((exception.module(), exception.name()), ("kombu.exceptions", "ContentDisallowed"));
        assert!(exception.message().contains(name) || name == "pickle", "{exception:?}");
        let id = serde_json::from_str::<Value>(raw).unwrap()["headers"]["id"].clone();
        assert_eq!(json!(refusal.id), id);
    }
}

#[test]
fn headers_and_properties_come_through() {
    let message = captured("apply_async-countdown-expires-priority.536");
    assert_eq!(
        (message.args.clone(), message.priority, message.routing_key.as_str()),
        (vec![json!(1)], 5, "celery")
    );
    let wait = message.expires.unwrap().duration_since(message.eta.unwrap());
    assert_eq!(wait.as_secs(), 90, "countdown=30, expires=120");

    let message = captured("apply_async-timelimits-shadow-headers-queue.570");
    assert!(message.hard_limit.unwrap() > message.soft_limit.unwrap());
    assert!(message.shadow.is_some());
    assert_eq!((message.ignore_result, message.routing_key.as_str()), (Some(true), "backups"));

    let message = captured("apply_async-eta-expires-datetime.536");
    assert!(message.eta.unwrap() < message.expires.unwrap(), "{message:?}");
    assert_eq!(captured("send_task-unregistered-name.570").ignore_result, None);
    assert_eq!(captured("send_task-unregistered-name.536").ignore_result, Some(false));
    assert_eq!(captured("stamped.536").stamps["tenant"], json!("acme"));
    assert_eq!(captured("delay-noargs.536").root_id, captured("delay-noargs.536").id);
    assert_eq!(captured("delay-args-kwargs.536").kwargsrepr, "{'y': 2}");
}

#[test]
fn canvas_parts_are_kept_as_they_came() {
    let chain: Value = serde_json::from_str(captured("chain.536").chain.unwrap().get()).unwrap();
    assert_eq!(chain.as_array().unwrap().len(), 2);
    let message = captured("link-list.570");
    let callbacks: Value = serde_json::from_str(message.callbacks.unwrap().get()).unwrap();
    assert_eq!((callbacks.as_array().unwrap().len(), message.errbacks.is_some()), (2, true));
    let chord = captured("chord.570");
    assert!(chord.chord.unwrap().get().contains("t.xsum"));
    assert!(chord.group.is_some() && chord.group_index.is_some());
}

#[test]
fn protocol_1_becomes_the_same_type() {
    for name in ["protocol1.536", "protocol1.570"] {
        let message = captured(name);
        assert_eq!((message.task.as_str(), message.args.clone()), ("t.add", vec![json!(1)]));
        assert_eq!(Value::Object(message.kwargs.clone()), json!({"y": 2}));
        assert_eq!((message.argsrepr.as_str(), message.kwargsrepr.as_str()), ("(1,)", "{'y': 2}"));
        assert_eq!((message.root_id.as_str(), message.parent_id.as_deref()), (message.id.as_str(), None));
        assert!(message.eta.unwrap() < message.expires.unwrap());
        assert!(message.callbacks.is_some() && message.chain.is_none());
    }
    let plain = captured("protocol1-plain.536");
    assert_eq!((plain.eta, plain.retries, plain.group.clone()), (None, 0, None));
}

#[test]
fn tagged_python_types_are_plain_strings() {
    let message = captured("json-types.570");
    let args = &message.args[0];
    let expected = [
        ("dt", json!("2024-01-02T03:04:05.000006+00:00")),
        ("d", json!("2024-01-02")),
        ("t", json!("01:02:03")),
        ("u", json!("12345678-1234-5678-1234-567812345678")),
        ("dec", json!("1.50")),
        ("by", json!("abc")),
        ("by2", json!("/wA=")),
        ("uni", json!("žluť 🚀")),
        ("f", json!(1.5)),
    ];
    for (key, value) in expected {
        assert_eq!(args[key], value, "{key}");
    }
    assert!(args["big"].as_f64().unwrap() > 1e21);
}

#[test]
fn what_python_writes_beyond_json_is_no_failure() {
    let body = r#"[[NaN, -Infinity, 1e999, "\ud83d"], {}, {}]"#;
    let message = parse(&with_body("t.x", "1", body)).unwrap();
    assert_eq!(message.args, [json!("NaN"), json!("-Infinity"), json!("1e999"), json!("\u{fffd}")]);
    assert_eq!(message.body, body.as_bytes(), "as sent");
    let raw = r#"{"body": "[[], {}, {}]", "content-type": "application/json",
        "headers": {"task": "t.x", "id": "1", "odd": NaN, "shadow": "\ud83d"}, "properties": {}}"#;
    assert_eq!(parse(raw).unwrap().shadow.as_deref(), Some("\u{fffd}"));
}

#[test]
fn only_task_and_id_are_needed() {
    let raw = r#"{"body": "W1tdLHt9LHt9XQ", "content-type": "application/json",
        "headers": {"task": "t.x", "id": "1"}, "properties": {"body_encoding": "base64"}}"#;
    let message = parse(raw).unwrap();
    assert_eq!((message.retries, message.eta, message.hard_limit), (0, None, None::<Duration>));
    assert_eq!((message.routing_key.as_str(), message.exchange.as_str()), ("q", ""));
}

#[test]
fn contents_that_cannot_be_used_are_refused_under_their_id() {
    let deep = |depth: usize| format!("[[{}{}], {{}}, {{}}]", "[".repeat(depth), "]".repeat(depth));
    assert!(parse(&with_body("t.x", "1", &deep(62))).is_ok());
    let padded =
        |length: usize| format!("{}{}", message("t.x", "1"), " ".repeat(length))[..length].to_owned();
    assert!(parse(&padded(1 << 20)).is_ok());
    assert!(refused(&padded((1 << 20) + 1)).exception.to_string().contains("larger than"));
    let header = |name: &str, value: Value| {
        let mut raw: Value = serde_json::from_str(&message("t.x", "1")).unwrap();
        raw["headers"][name] = value;
        raw.to_string()
    };
    let cases = [
        (with_body("t.x", "1", &deep(63)), "nested"),
        (with_body("t.x", "1", &"[".repeat(500_000)), "nested"),
        (with_body("t.x", "1", &format!("[[\"{}\"], {{}}, {{}}]", "x".repeat(1 << 20))), "larger than"),
        (
            with_body("t.x", "1", &format!("[[{}0], {{}}, {{}}]", "0,".repeat(300_000))),
            "more than 200000 values",
        ),
        (with_body("t.x", "1", "not json"), "not a json array"),
        (with_body("t.x", "1", "{}"), "not a json array"),
        (with_body("t.x", "1", "[[], {}]"), "expected three"),
        (with_body("t.x", "1", "[{}, {}, {}]"), "args"),
        (with_body("t.x", "1", "[[], [1], {}]"), "kwargs"),
        (with_body("t.x", "1", r#"[[{"__type__": "set", "__value__": 1}], {}, {}]"#), "Unsupported type"),
        (header("eta", json!("tomorrow")), "iso 8601"),
        (header("expires", json!([])), "iso 8601"),
        (header("compression", json!("application/x-brotli")), "not supported"),
        (header("compression", json!("application/x-gzip")), "not valid"),
        (message("t.x", "1").replace("utf-8", "latin-1"), "content encoding"),
        (
            message("t.x", "1").replace("\"correlation_id\"", "\"body_encoding\": \"hex\", \"x\""),
            "body encoding",
        ),
    ];
    for (raw, why) in cases {
        let Refusal { id, task, exception, .. } = refused(&raw);
        assert_eq!((id.as_str(), task.as_str(), exception.name()), ("1", "t.x", "DecodeError"));
        assert!(exception.message().contains(why), "{exception:?}, expected {why}");
    }
}

#[test]
fn a_deep_header_is_refused_too_and_its_id_is_found() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let raw = message("t.x", "1").replace("\"lang\":\"py\"", &format!("\"lang\":{deep}"));
    assert_eq!((refused(&raw).id.as_str(), refused(&raw).exception.name()), ("1", "DecodeError"));
}

#[test]
fn what_is_no_message_is_unreadable_and_what_may_be_anybodys_is_foreign() {
    let protocol_1 = |content_type: &str, body: &str| {
        json!({"body": body, "content-type": content_type, "headers": {}, "properties": {}}).to_string()
    };
    let unreadable = [
        String::new(),
        "x".to_owned(),
        "[]".to_owned(),
        "[".repeat(100_000),
        "{}".to_owned(),
        r#"{"headers": {"task": 1, "id": "1"}}"#.to_owned(),
        protocol_1("application/json", "{}"),
        protocol_1("application/json", "not json"),
    ];
    for raw in unreadable {
        assert!(matches!(look(&raw), Peeked::Unreadable(_)), "{raw:.80}");
    }
    assert!(matches!(Envelope::peek(b"\xff{}", &Limits::default()), Peeked::Unreadable(_)));
    assert_eq!(look(&protocol_1("application/x-python-serialize", "gAJ9")), Peeked::Foreign);
}

#[test]
fn the_end_of_a_long_message_tells_whose_it_is() {
    let raw = &entries("messages/apply_async-countdown-expires-priority.536")[0];
    let tail = format!("AAAA{}", &raw[raw.find("\", \"content-encoding\"").unwrap()..]);
    let (Peeked::Task(of_tail), Peeked::Task(of_all)) = (Envelope::peek_at_tail(tail.as_bytes()), look(raw))
    else {
        panic!("{tail}")
    };
    assert_eq!(of_tail, of_all);
    let decoy = tail.replace("\"lang\": \"py\"", r#""lang": "\"headers\": {\"task\": \"decoy\"}""#);
    let Peeked::Task(looked) = Envelope::peek_at_tail(decoy.as_bytes()) else { panic!("{decoy}") };
    assert_eq!(looked.task, "t.add");
    assert_eq!(Envelope::peek_at_tail(b"aaaa}"), Peeked::Foreign);
    assert_eq!(Envelope::peek_at_tail(b"aaaa"), Peeked::Unreadable("not a json object"));
}

#[test]
fn a_priority_goes_to_the_list_that_celery_used() {
    let keys = celery_redis::keys::Keys::default();
    for (priority, lists) in capture("messages/priority-keys.536")["map"].as_object().unwrap() {
        let priority = priority.parse().unwrap_or(0);
        assert_eq!(json!([keys.list("celery", priority)]), *lists, "{priority}");
    }
}

proptest! {
    #[test]
    fn any_bytes_can_be_looked_at(bytes: Vec<u8>) {
        Envelope::peek(&bytes, &Limits::default());
        Envelope::peek_at_tail(&bytes);
    }

    #[test]
    fn a_damaged_message_is_read_or_refused_and_never_a_crash(at in 0_usize..1400, with: Vec<u8>, name in 0_usize..4) {
        let names = ["protocol1.536", "json-types.570", "compression-zstd.536", "link-list.536"];
        let mut raw = entries(&format!("messages/{}", names[name]))[0].clone().into_bytes();
        let at = at.min(raw.len());
        let end = (at + with.len() / 2).min(raw.len());
        raw.splice(at..end, with);
        if let Peeked::Task(look) = Envelope::peek(&raw, &Limits::default()) {
            let _ = Message::parse(&Bytes::from(raw.clone()), &look, "q", &Limits::default());
        }
        Envelope::peek_at_tail(&raw);
    }
}
