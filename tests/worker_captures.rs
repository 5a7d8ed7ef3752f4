//! Every captured message against the running worker: what is not ours stays, what is ours has the
//! outcome that the contract gives it.

use crate::support::lab::{Lab, eventually};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use redis::AsyncCommands;
use rna_backup::domain::command::{Command, task};
use serde_json::{Value, json};
use std::fs;
use test_support::celery_lab::entries;

/// Names of the captures that hold messages, and those messages, oldest first.
fn captures() -> Vec<(String, Vec<String>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/celery/messages");
    let names = fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let names = names.filter(|name| !name.starts_with("priority-keys"));
    let read = |name: String| {
        let entries = entries(&format!("messages/{}", name.trim_end_matches(".json")));
        (name, entries)
    };
    names.map(read).collect()
}

/// The fields of a call: the headers of protocol 2, the body of protocol 1.
fn fields(message: &str) -> Value {
    let message: Value = serde_json::from_str(message).unwrap();
    if message["headers"]["task"].is_string() {
        return message["headers"].clone();
    }
    let body = STANDARD.decode(message["body"].as_str().unwrap()).unwrap();
    serde_json::from_slice(&body).unwrap()
}

/// The same message, ordering our media backup.
fn as_ours(message: &str) -> String {
    let mut message: Value = serde_json::from_str(message).unwrap();
    if message["headers"]["task"].is_string() {
        message["headers"]["task"] = json!(task::BACKUP_MEDIA);
        return message.to_string();
    }
    // Protocol 1 keeps everything in the body.
    let body = STANDARD.decode(message["body"].as_str().unwrap()).unwrap();
    let mut body: Value = serde_json::from_slice(&body).unwrap();
    body["task"] = json!(task::BACKUP_MEDIA);
    message["body"] = json!(STANDARD.encode(body.to_string()));
    message.to_string()
}

fn text(message: &str, field: &str) -> String {
    fields(message)[field].as_str().unwrap().to_owned()
}

fn has_expired(message: &str) -> bool {
    let expires = fields(message)["expires"].as_str().map(|at| at.parse::<Timestamp>().unwrap());
    expires.is_some_and(|expires| expires < Timestamp::now())
}

fn takes_no_arguments(message: &str) -> bool {
    let fields = fields(message);
    match fields["kwargsrepr"].as_str() {
        Some(kwargs) => kwargs == "{}" && ["()", "[]"].map(Value::from).contains(&fields["argsrepr"]),
        None => fields["args"] == json!([]) && fields["kwargs"] == json!({}),
    }
}

#[tokio::test]
async fn messages_of_other_tasks_stay_in_order_while_ours_among_them_are_run() {
    let lab = Lab::new();
    let mut redis = lab.connection().await;
    let all: Vec<String> = captures().into_iter().flat_map(|(_, messages)| messages).collect();
    let is_ours = |message: &String| Command::is_ours(&text(message, "task"));
    let (ours, foreign): (Vec<_>, Vec<_>) = all.iter().cloned().partition(is_ours);
    assert!(ours.len() >= 6 && foreign.len() >= 40, "{} of ours, {} foreign", ours.len(), foreign.len());
    for message in &all {
        let () = redis.lpush("backups", message).await.unwrap();
    }

    let _worker = lab.worker();
    for message in &ours {
        let (ended, name) = (lab.ended(&text(message, "id")).await, text(message, "task"));
        // No database is configured here, and nobody backs up Redis.
        let expected = match name.as_str() {
            // Every captured one had an hour to live.
            task::FULL_BACKUP if has_expired(message) => ("REVOKED", json!("TaskRevokedError")),
            task::FULL_BACKUP => ("SUCCESS", Value::Null),
            task::BACKUP_POSTGRES => ("FAILURE", json!("ValueError")),
            _ => ("FAILURE", json!("NotRegistered")),
        };
        assert_eq!(
            (ended["status"].as_str().unwrap(), ended["result"]["exc_type"].clone()),
            expected,
            "{name}"
        );
        for child in ended["children"].as_array().unwrap() {
            assert_eq!(lab.ended(child[0][0].as_str().unwrap()).await["status"], "SUCCESS");
        }
    }
    lab.settled().await;
    let mut left: Vec<String> = redis.lrange("backups", 0, -1).await.unwrap();
    left.reverse();
    assert!(left == foreign, "{} left of {}, or in another order", left.len(), foreign.len());
}

#[tokio::test]
async fn each_capture_as_an_order_of_ours_has_the_outcome_of_the_contract() {
    let lab = Lab::new();
    let mut redis = lab.connection().await;
    let _worker = lab.worker();
    for (name, messages) in captures() {
        for message in messages.iter().map(|message| as_ours(message)) {
            let () = redis.lpush("backups", &message).await.unwrap();
            let id = text(&message, "id");
            if name.starts_with("apply_async-eta") {
                // Of the year 2030: held, not run, and never in the way.
                let held = eventually(async || redis.hlen::<_, u64>("unacked").await.unwrap() == 1);
                assert!(held.await && lab.result(&id).await.is_none(), "{name}");
                continue;
            }
            if name.starts_with("apply_async-timelimits") {
                // Sent with ignore_result, so only its acknowledgement shows.
                let gone = eventually(async || redis.llen::<_, u64>("backups").await.unwrap() == 0);
                assert!(gone.await, "{name}");
                continue;
            }
            let ended = lab.ended(&id).await;
            let exc_type = ended["result"]["exc_type"].as_str();
            let expected = if has_expired(&message) {
                (Some("TaskRevokedError"), "REVOKED")
            } else if name.starts_with("serializer-") {
                (Some("ContentDisallowed"), "FAILURE")
            } else if takes_no_arguments(&message) {
                (None, "SUCCESS")
            } else {
                // Arguments of other tasks: read, whatever they were packed in, and refused as Python would.
                (Some("TypeError"), "FAILURE")
            };
            assert_eq!((exc_type, ended["status"].as_str().unwrap()), expected, "{name}: {ended}");
        }
    }
    let left: u64 = redis.llen("backups").await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn what_is_no_message_is_set_aside_and_holds_nobody_up() {
    let lab = Lab::new();
    let mut redis = lab.connection().await;
    let deep = format!(
        r#"{{"body": {}, "content-type": "application/json", "headers": {{"task": "{}", "id": "deep"}}, "properties": {{}}}}"#,
        json!(STANDARD.encode(format!("[{}{}, {{}}, {{}}]", "[".repeat(100_000), "]".repeat(100_000)))),
        task::BACKUP_MEDIA
    );
    let large = json!({
        "body": STANDARD.encode(vec![b' '; 2 << 20]), "content-type": "application/json",
        "headers": {"task": task::BACKUP_MEDIA, "id": "large"}, "properties": {"body_encoding": "base64"}
    });
    let entries = [
        b"not json".to_vec(),
        b"\xff\xfe".to_vec(),
        b"{}".to_vec(),
        br#"{"headers": {"id": "no-task"}, "properties": {}, "body": ""}"#.to_vec(),
        format!(r#"{{"headers": {{"task": "{}"}}, "properties": {{}}, "body": ""}}"#, task::BACKUP_MEDIA)
            .into_bytes(),
        vec![b'['; 500_000],
        deep.into_bytes(),
        large.to_string().into_bytes(),
    ];
    for entry in &entries {
        let () = redis.lpush("backups", entry).await.unwrap();
    }
    let worker = lab.worker();
    let ping = lab.order(task::PING, json!({})).await;
    assert_eq!(lab.ended(&ping).await["result"], "pong");
    for id in ["deep", "large"] {
        let ended = lab.ended(id).await;
        assert_eq!(
            (&ended["status"], &ended["result"]["exc_module"]),
            (&json!("FAILURE"), &json!("kombu.exceptions")),
            "{id}"
        );
    }
    let aside: Vec<Vec<u8>> = redis.lrange("backups.unreadable", 0, -1).await.unwrap();
    assert_eq!(aside.len(), 6, "{}", worker.log());
    assert!(aside.iter().all(|entry| entries.contains(entry)), "as they were");
    assert_eq!(redis.llen::<_, u64>("backups").await.unwrap(), 0);
    let (_, metrics) = worker.http("/metrics").await.unwrap();
    assert!(metrics.contains("rna_backup_unreadable_messages_total 6"), "{metrics}");
    lab.settled().await;
}
