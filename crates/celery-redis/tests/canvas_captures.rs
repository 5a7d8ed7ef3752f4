//! What follows from a task's end, against captures of what Celery workers sent and stored.

use crate::canvas_lab::{body, finish, parse, stored, taken};
use celery_redis::result::State;
use redis::AsyncCommands;
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use test_support::celery_lab::{Lab, capture};

/// Ends of the keys of a chord: how many results it takes, and who goes on with it.
const SIZE: &str = ".s";
const CLAIM: &str = ".c";

/// Ids that a worker makes up, from ours to those in the capture.
#[derive(Default)]
struct Ids(HashMap<String, String>);

impl Ids {
    fn pair(&mut self, ours: &Value, captured: &Value) {
        if let (Some(ours), Some(captured)) = (ours.as_str(), captured.as_str()) {
            self.0.entry(ours.to_owned()).or_insert(captured.to_owned());
        }
    }

    fn map(&self, value: &Value) -> Value {
        let mut text = value.to_string();
        for (ours, captured) in &self.0 {
            text = text.replace(ours, captured);
        }
        serde_json::from_str(&text).unwrap()
    }
}

/// What two messages must have in common; the rest is the sender's business.
fn compared(message: &Value) -> Value {
    let (mut headers, mut parts) = (message["headers"].clone(), body(message));
    // Unknown here is what the sender, who knows all tasks, sets to false.
    let who = ["origin", "ignore_result"];
    headers.as_object_mut().unwrap().retain(|key, _| !who.contains(&&**key));
    if headers["task"] == "t.xsum" {
        // 5.3 makes the task before the chord the parent of its body, 5.7 the last of its header.
        headers["parent_id"] = Value::Null;
    }
    // Celery shows arguments that it has not touched as a list.
    headers["argsrepr"] =
        headers["argsrepr"].as_str().unwrap().trim_matches(&['(', ')', '[', ']', ','][..]).into();
    if let Some(options) = parts[2].get_mut("chord").and_then(|chord| chord.get_mut("options")) {
        let options = options.as_object_mut().unwrap();
        options.retain(|key, value| key != "parent_id" && !value.is_null());
    }
    let routing = &message["properties"]["delivery_info"];
    json!({"headers": headers, "body": parts, "routing": routing, "priority": message["properties"]["priority"]})
}

/// The results in a capture, by their ids.
fn metas(ops: &[Value]) -> HashMap<String, Value> {
    let stored = ops.iter().filter(|op| op["op"] == "SETEX" && !op["key"].is_null());
    let metas = stored.map(|op| serde_json::from_str::<Value>(op["raw"].as_str().unwrap()).unwrap());
    metas.map(|meta| (meta["task_id"].as_str().unwrap().to_owned(), meta)).collect()
}

/// Runs a captured canvas with the captured results, and compares all that is sent and stored.
async fn replay(name: &str) {
    let lab = Lab::new();
    let capture = capture(name);
    let ops = capture["ops"].as_array().unwrap();
    let by_client = |op: &Value| {
        let message: Value = serde_json::from_str(op["raw"].as_str().unwrap_or("null")).unwrap();
        op["op"] == "LPUSH" && message["headers"]["parent_id"].is_null()
    };
    let raw = |op: &Value| op["raw"].as_str().unwrap().to_owned();
    let mut queue: VecDeque<_> = ops.iter().filter(|op| by_client(op)).map(raw).collect();
    if queue.len() > 1 {
        // The client's own chord: it has said how many results there will be.
        let size =
            ops.iter().find(|op| op["args"][0].as_str().is_some_and(|key| key.ends_with(SIZE))).unwrap();
        let () = lab.link().await.set(size["args"][0].as_str().unwrap(), 2).await.unwrap();
    }
    let mut celerys: VecDeque<Value> = ops
        .iter()
        .filter(|op| op["op"] == "LPUSH" && !by_client(op))
        .map(|op| serde_json::from_str(&raw(op)).unwrap())
        .collect();
    let metas = metas(ops);

    let mut ids = Ids::default();
    while let Some(raw) = queue.pop_front() {
        let message = parse(&raw);
        let id = ids.map(&json!(message.id));
        let meta = &metas[id.as_str().unwrap()];
        let state = if meta["status"] == "SUCCESS" { State::Success } else { State::Failure };
        finish(&lab, &message, state, meta["result"].clone()).await;
        for ours in taken(&lab, "celery").await {
            if ours["headers"]["task"] == "t.errback" {
                // Python calls this one on the spot, for it takes more than the id.
                assert_eq!(body(&ours)[0], json!([ours["headers"]["parent_id"]]));
                continue;
            }
            let celerys = celerys.pop_front().expect("Celery sent no more");
            for key in ["id", "group"] {
                ids.pair(&ours["headers"][key], &celerys["headers"][key]);
            }
            assert_eq!(ids.map(&compared(&ours)), compared(&celerys), "{name}");
            queue.push_back(ours.to_string());
        }
        let ours = ids.map(&stored(&lab, &message.id).await);
        for key in ["children", "group_id"] {
            assert_eq!(ours[key], meta[key], "{name}");
        }
    }
    assert_eq!(celerys, Vec::<Value>::new(), "{name}: Celery sent more");
    let ours: HashMap<_, _> = ids.0.iter().map(|(ours, celerys)| (celerys, ours)).collect();
    for (id, meta) in &metas {
        let ours = stored(&lab, ours.get(id).copied().unwrap_or(id)).await;
        assert_eq!((&ours["status"], &ours["result"]), (&meta["status"], &meta["result"]), "{name}: {id}");
    }
    let left: Vec<String> = lab.link().await.keys("celery-taskset-meta-*").await.unwrap();
    let failed = name.contains("fail");
    assert!(
        left.iter().all(|key| key.ends_with(CLAIM) || (failed && !key.ends_with(SIZE))),
        "{name}: {left:?}"
    );
}

#[tokio::test]
async fn what_follows_is_what_celery_sent_and_stored() {
    for name in [
        "chain.536",
        "chain_fail.536",
        "chain_group_task.536",
        "chord.536",
        "chord.570",
        "chord_fail.536",
        "chord_fail.570",
        "link_error_idonly.536",
        "link_list.536",
    ] {
        replay(&format!("canvas/{name}")).await;
    }
}
