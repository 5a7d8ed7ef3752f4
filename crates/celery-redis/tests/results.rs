//! Results that `AsyncResult` reads, and messages that Celery workers read.

use bytes::Bytes;
use celery_redis::CeleryError;
use celery_redis::keys::Keys;
use celery_redis::message::{Envelope, Limits, Message, Peeked};
use celery_redis::publish::{Outgoing, publish};
use celery_redis::result::{Backend, Exception, State, StoredResult, TaskResult};
use futures_util::StreamExt;
use redis::AsyncCommands;
use serde_json::{Value, json};
use std::time::Duration;
use test_support::celery_lab::{Lab, capture, entries, message, next, until, within};

const DAY: Duration = Duration::from_hours(24);

fn parse(raw: &str) -> Message {
    let Peeked::Task(look) = Envelope::peek(raw.as_bytes(), &Limits::default()) else { panic!("{raw}") };
    let queue = look.routing_key.clone().unwrap();
    Message::parse(&Bytes::from(raw.to_owned()), &look, &queue, &Limits::default()).unwrap()
}

/// Sends a message and reads it from its list again.
async fn sent(lab: &Lab, message: &Outgoing, list: &str) -> Value {
    publish(&lab.client, &Keys::default(), std::slice::from_ref(message), &lab.stop).await.unwrap();
    let raw: Vec<String> = lab.link().await.lrange(list, 0, -1).await.unwrap();
    serde_json::from_str(&raw[0]).unwrap()
}

fn body(message: &Value) -> Value {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(message["body"].as_str().unwrap()).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test]
async fn a_result_is_stored_for_its_time_and_told_to_who_waits() {
    let lab = Lab::new();
    let backend = Backend::new(lab.client.clone(), "", DAY);
    let client = redis::Client::open(format!("redis+{}", lab.redis.url())).unwrap();
    let mut waiting = client.get_async_pubsub().await.unwrap();
    waiting.subscribe("celery-task-meta-1").await.unwrap();

    let result = TaskResult::new("1", State::Success, json!({"status": "ok", "empty": []}));
    backend.store(&result, &lab.stop).await.unwrap();
    let told: String = within(waiting.on_message().next()).await.unwrap().get_payload().unwrap();
    let mut link = lab.link().await;
    assert_eq!(link.get::<_, String>("celery-task-meta-1").await.unwrap(), told);
    let life: u64 = link.ttl("celery-task-meta-1").await.unwrap();
    assert!((86_300..=86_400).contains(&life));

    // The same keys as Celery's own, and each of the same kind.
    let kinds = |text: &str| {
        let value: Value = serde_json::from_str(text).unwrap();
        let kind = |(key, value): (&String, &Value)| (key.clone(), std::mem::discriminant(value));
        value.as_object().unwrap().iter().filter(|(key, _)| *key != "result").map(kind).collect::<Vec<_>>()
    };
    for version in ["536", "570"] {
        let capture = capture(&format!("results/add.{version}"));
        let celerys = capture["ops"].as_array().unwrap().last().unwrap()["raw"].as_str().unwrap();
        assert_eq!(kinds(&told), kinds(celerys));
    }
}

#[tokio::test]
async fn a_result_prefix_is_used_and_without_expiry_a_result_stays() {
    let lab = Lab::new();
    let backend = Backend::new(lab.client.clone(), "lab", Duration::ZERO);
    backend.store(&TaskResult::started("1", "w@h"), &lab.stop).await.unwrap();
    let life: i64 = lab.link().await.ttl("lab_celery-task-meta-1").await.unwrap();
    assert_eq!(life, -1);
}

#[tokio::test]
async fn what_is_final_is_not_replaced_by_what_is_not_and_a_success_by_nothing() {
    use State::{Failure, Progress, Retry, Revoked, Started, Success};
    let lab = Lab::new();
    let backend = Backend::new(lab.client.clone(), "", DAY);
    let cases = [
        (vec![Started, Progress, Retry], "RETRY"),
        (vec![Started, Success, Progress], "SUCCESS"),
        (vec![Success, Failure], "SUCCESS"),
        (vec![Success, Revoked], "SUCCESS"),
        (vec![Failure, Progress], "FAILURE"),
        (vec![Revoked, Started], "REVOKED"),
        (vec![Failure, Retry], "FAILURE"),
        (vec![Failure, Started, Success], "SUCCESS"),
    ];
    for (at, (states, last)) in cases.into_iter().enumerate() {
        for state in &states {
            backend.store(&TaskResult::new(&at.to_string(), *state, Value::Null), &lab.stop).await.unwrap();
        }
        let stored = backend.state(&at.to_string()).await.unwrap().unwrap();
        assert_eq!(stored, StoredResult { status: last.to_owned(), result: Value::Null }, "{states:?}");
    }
    assert_eq!(backend.state("unknown").await.unwrap(), None);
    let _: () = lab.link().await.set("celery-task-meta-odd", "odd").await.unwrap();
    assert_eq!(backend.state("odd").await.unwrap(), None);
    backend.store(&TaskResult::new("odd", Success, Value::Null), &lab.stop).await.unwrap();
    assert_eq!(backend.state("odd").await.unwrap().unwrap().status, "SUCCESS");
}

#[tokio::test]
async fn a_progress_that_arrives_late_does_not_hide_the_retry_that_ended_its_attempt() {
    use State::{Failure, Progress, Retry, Started};
    let lab = Lab::new();
    let backend = Backend::new(lab.client.clone(), "", DAY);
    let steps = [
        (Progress, 0, "PROGRESS"),
        (Retry, 0, "RETRY"),
        (Progress, 0, "RETRY"),
        (Started, 0, "RETRY"),
        (Retry, 0, "RETRY"), // the attempt was made again after a crash
        (Started, 1, "STARTED"),
        (Progress, 1, "PROGRESS"),
        (Retry, 1, "RETRY"),
        (Progress, 1, "RETRY"),
        (Progress, 2, "PROGRESS"),
        (Failure, 2, "FAILURE"),
    ];
    for (state, retries, shown) in steps {
        let result = TaskResult { retries, ..TaskResult::new("1", state, Value::Null) };
        backend.offer(&result).await.unwrap();
        assert_eq!(
            backend.state("1").await.unwrap().unwrap().status,
            shown,
            "{state:?} of attempt {retries}"
        );
    }
    // A RETRY of Python's worker does not tell of which attempt.
    let python = r#"{"status": "RETRY", "result": null}"#;
    let _: () = lab.link().await.set("celery-task-meta-2", python).await.unwrap();
    backend.offer(&TaskResult::new("2", Progress, Value::Null)).await.unwrap();
    assert_eq!(backend.state("2").await.unwrap().unwrap().status, "PROGRESS");
}

#[tokio::test]
async fn a_result_waits_for_redis_and_progress_does_not() {
    let mut lab = Lab::new();
    let backend = Backend::new(lab.client.clone(), "", DAY);
    lab.redis.stop();
    let progress = TaskResult::new("1", State::Progress, json!({"current": 1}));
    let error = backend.offer(&progress).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let failure = TaskResult::failure("1", &Exception::celery("NotRegistered", "x"), None);
    let (store, offer) = (backend.clone(), backend.clone());
    let waiting = tokio::spawn({
        let stop = lab.stop.clone();
        async move { store.store(&failure, &stop).await }
    });
    lab.redis.start_again();
    within(waiting).await.unwrap().unwrap();
    offer.offer(&progress).await.unwrap();
    assert_eq!(backend.state("1").await.unwrap().unwrap().status, "FAILURE");

    lab.redis.stop();
    lab.stop.cancel();
    let error = within(backend.store(&progress, &lab.stop)).await.unwrap_err();
    assert!(matches!(error, CeleryError::Stopped { .. }), "{error:?}");
}

#[tokio::test]
async fn a_child_task_is_sent_as_python_sends_it() {
    let lab = Lab::new();
    let capture = capture("canvas/run_full_backup.570");
    let mut pythons: Value = serde_json::from_str(capture["ops"][2]["raw"].as_str().unwrap()).unwrap();
    let child = Outgoing::new("api.backup.tasks.backup_redis", "celery")
        .args(vec![json!("full")])
        .kwargs(json!({"keep": 3}).as_object().unwrap().clone())
        .child_of("9c9ea450-d387-4d27-8306-e025914490ee", "9c9ea450-d387-4d27-8306-e025914490ee");
    let mut ours = sent(&lab, &child, "celery").await;
    assert_eq!(ours["headers"]["id"], json!(child.id()));
    assert_eq!(ours["properties"]["correlation_id"], json!(child.id()));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!(ours["headers"]["origin"], json!(format!("gen{}@{host}", std::process::id())));
    assert_eq!(body(&ours), body(&pythons));
    for message in [&mut ours, &mut pythons] {
        message["body"] = Value::Null;
        for (part, key) in [
            ("headers", "id"),
            ("headers", "origin"),
            ("properties", "correlation_id"),
            ("properties", "reply_to"),
            ("properties", "delivery_tag"),
        ] {
            assert!(message[part][key].is_string(), "{key}");
            message[part][key] = Value::Null;
        }
    }
    assert_eq!(ours, pythons);
    let order = |message: &Value| message["headers"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(order(&ours), order(&pythons));
}

#[tokio::test]
async fn priority_times_and_headers_are_set() {
    let lab = Lab::new();
    let eta = "2030-01-01T00:00:00Z".parse().unwrap();
    let message = Outgoing::new("t", "q")
        .with_id("own")
        .priority(7)
        .eta(eta)
        .expires(eta)
        .header("mine", vec![1])
        .header("timelimit", json!([10, null]));
    let ours = sent(&lab, &message, "q\x06\x166").await;
    assert_eq!(ours["properties"]["priority"], json!(7));
    assert!(ours["properties"]["expiration"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    let read = parse(&ours.to_string());
    assert_eq!((read.id.as_str(), read.root_id.as_str(), read.priority), ("own", "own", 7));
    assert_eq!(
        (read.eta, read.expires, read.hard_limit),
        (Some(eta), Some(eta), Some(Duration::from_secs(10)))
    );
    assert_eq!(read.header("mine"), Some(json!([1])));
    assert!(Outgoing::new("t", "q").countdown(DAY).get_header("eta").unwrap().is_string());
}

#[tokio::test]
async fn messages_are_sent_together_and_not_again_by_a_repeat() {
    let lab = Lab::new();
    let three: Vec<_> = ["a", "b", "c"].map(|id| Outgoing::new("t", "q").with_id(id)).into();
    for _ in 0..3 {
        publish(&lab.client, &Keys::default(), &three, &lab.stop).await.unwrap();
    }
    let ids: Vec<_> = lab.list("q").await.iter().map(|raw| parse(raw).id).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    publish(&lab.client, &Keys::default(), &[], &lab.stop).await.unwrap();
}

#[tokio::test]
async fn a_retry_is_the_same_message_once_more_as_python_sends_it() {
    let lab = Lab::new();
    for version in ["536", "570"] {
        let capture = capture(&format!("results/retry.{version}"));
        let raws: Vec<_> =
            capture["ops"].as_array().unwrap().iter().filter(|op| op["op"] == "LPUSH").collect();
        let mut pythons: Value = serde_json::from_str(raws[1]["raw"].as_str().unwrap()).unwrap();
        let eta = pythons["headers"]["eta"].as_str().unwrap().parse().unwrap();
        let mut ours = sent(&lab, &parse(raws[0]["raw"].as_str().unwrap()).retry(Some(eta)), "celery").await;
        assert_ne!(ours["properties"]["delivery_tag"], pythons["properties"]["delivery_tag"]);
        for message in [&mut ours, &mut pythons] {
            let properties = message["properties"].as_object_mut().unwrap();
            // The second one is a quirk of Python's, written by the worker and read by nobody.
            properties.retain(|key, _| key != "delivery_tag" && key != "origin");
        }
        // Python's workers write their own name here, or not.
        pythons["headers"]["origin"] = ours["headers"]["origin"].clone();
        assert_eq!(ours, pythons);
    }
}

#[tokio::test]
async fn a_retry_carries_body_compression_and_custom_headers_over() {
    let lab = Lab::new();
    let raw = entries("messages/compression-zstd.536")[0]
        .replace("\"lang\": \"py\"", "\"rna_backup_signature\": \"v1:2\", \"redelivered\": true")
        .replace("\"routing_key\": \"celery\"", "\"routing_key\": \"celery\", \"redelivered\": true");
    let message = parse(&raw);
    assert!(message.redelivered);
    let again = sent(&lab, &message.retry(None), "celery").await;
    let read = parse(&again.to_string());
    assert_eq!((read.retries, read.eta, read.redelivered), (1, None, false));
    assert_eq!((read.parent_id.as_deref(), &read.id), (Some(message.id.as_str()), &message.id));
    assert_eq!((read.args.clone(), &read.body), (message.args, &message.body));
    assert_eq!(read.header("rna_backup_signature"), Some(json!("v1:2")));
    assert_eq!(parse(&sent(&lab, &read.retry(None), "celery").await.to_string()).retries, 2);
}

#[tokio::test]
async fn a_retry_of_protocol_1_is_of_protocol_2() {
    let lab = Lab::new();
    let message = parse(&entries("messages/protocol1.536")[0]);
    let again = sent(&lab, &message.retry(message.eta), "celery").await;
    assert_eq!(again["headers"]["task"], json!("t.add"));
    let read = parse(&again.to_string());
    assert_eq!(
        (&read.id, read.retries, &read.args, &read.kwargs),
        (&message.id, 1, &message.args, &message.kwargs)
    );
    assert_eq!((read.eta, read.expires), (message.eta, message.expires));
    assert_eq!(read.callbacks.unwrap().get(), message.callbacks.unwrap().get());
    until(async || lab.link().await.llen::<_, usize>("celery").await.unwrap() == 1).await;
}

#[tokio::test]
async fn of_a_message_that_passed_to_another_only_a_success_is_stored() {
    let lab = Lab::new();
    let backend = Backend::new(lab.client.clone(), "", DAY);
    let consumer = lab.consumer();
    for (id, state, is_stored) in [("1", State::Failure, false), ("2", State::Success, true)] {
        lab.push(&[message("ours", id)]).await;
        let delivery = next(&consumer).await;
        let tag = delivery.lease.tag().to_owned();
        assert!(delivery.lease.is_ours().await);
        let theirs = json!(["other", "q", 1, 2]).to_string();
        let _: usize = lab.link().await.hset("celery-redis:leases", tag, theirs).await.unwrap();
        assert!(!delivery.lease.is_ours().await);
        let result = TaskResult::new(id, state, json!(null));
        let lost = delivery.lease.ack_with(&result, &backend, &lab.stop).await.unwrap_err();
        assert!(matches!(lost, CeleryError::LeaseLost { .. }), "{lost:?}");
        assert_eq!(backend.state(id).await.unwrap().is_some(), is_stored, "{state:?}");
    }
}
