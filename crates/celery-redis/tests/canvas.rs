//! What follows from a task's end: what is sent, and that it is sent once.

use crate::canvas_lab::{backend, body, body_text, canvas, finish, parse, stored, taken};
use celery_redis::canvas::Canvas;
use celery_redis::client::{Client, ConnectOptions};
use celery_redis::keys::Keys;
use celery_redis::message::Message;
use celery_redis::result::{Backend, Exception, State, TaskResult};
use proptest::prelude::*;
use redis::AsyncCommands;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Duration;
use test_support::celery_lab::{Lab, capture, client, entries, with_body};
use test_support::redis::Redis;
use tokio_util::sync::CancellationToken;

/// A message to queue `q` whose task has this to follow.
fn with_embed(id: &str, embed: &Value) -> Message {
    parse(&with_body("ours.add", id, &json!([[], {}, embed]).to_string()))
}

fn signature(task: &str, options: impl Into<Value>) -> Value {
    json!({"task": task, "args": ["own"], "kwargs": {"k": 1}, "options": options.into(), "subtask_type": null, "immutable": false})
}

/// A header task of chord `g`, whose body is `py.body` with id `b`.
fn header_task(id: &str, index: u32, body_options: &Value) -> Message {
    parse(&header_text(id, index, body_options))
}

fn header_text(id: &str, index: u32, body_options: &Value) -> String {
    let mut options = json!({"task_id": "b"});
    options.as_object_mut().unwrap().extend(body_options.as_object().unwrap().clone());
    let embed = json!({"chord": signature("py.body", options)});
    let mut raw: Value =
        serde_json::from_str(&with_body("ours.add", id, &json!([[], {}, embed]).to_string())).unwrap();
    raw["headers"]["group"] = "g".into();
    raw["headers"]["group_index"] = index.into();
    raw.to_string()
}

async fn expect(lab: &Lab, results: u32) {
    let () = lab.link().await.set("celery-taskset-meta-g.s", results).await.unwrap();
}

fn failure() -> Value {
    Exception::builtin("ValueError", "boom").to_value()
}

#[tokio::test]
async fn options_of_a_signature_are_those_of_its_message() {
    let lab = Lab::new();
    let options = json!({
        "task_id": "its-id", "queue": "far", "priority": 7, "countdown": 60, "expires": 120, "time_limit": 30,
        "soft_time_limit": 20.5, "shadow": "shown", "ignore_result": true, "reply_to": "who",
        "headers": {"custom": [1]}, "stamped_headers": ["tenant"], "tenant": "acme", "retries": 2,
        "link": signature("py.then", json!({})), "link_error": [signature("py.else", json!({}))],
        "group_id": "its-group", "group_index": 3, "unknown": {"deep": 1.50},
    });
    let message = with_embed("1", &json!({"callbacks": [signature("py.add", options)]}));
    let before = jiff::Timestamp::now();
    let children = canvas(&lab).succeed(&message, &json!({"x": 1}), &lab.stop).await.unwrap();
    assert_eq!(children[0].id(), "its-id");
    let sent = taken(&lab, "far\u{6}\u{16}6").await.remove(0);
    let headers = &sent["headers"];
    let time = |key: &str| headers[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let after = |key: &str| time(key).duration_since(before).as_secs();
    assert_eq!((after("eta"), after("expires")), (60, 120));
    let expected = json!({
        "id": "its-id", "root_id": "1", "parent_id": "1", "timelimit": [30, 20.5], "shadow": "shown",
        "ignore_result": true, "custom": [1], "stamped_headers": ["tenant"], "stamps": {"tenant": "acme"},
        "retries": 2, "group": "its-group", "group_index": 3,
        "argsrepr": "({'x': 1}, 'own')", "kwargsrepr": "{'k': 1}",
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&headers[key], value, "{key}");
    }
    let properties = &sent["properties"];
    assert_eq!((&properties["priority"], &properties["reply_to"]), (&json!(7), &json!("who")));
    assert_eq!(properties["delivery_info"], json!({"exchange": "", "routing_key": "far"}));
    let parts = body(&sent);
    assert_eq!((&parts[0], &parts[1]), (&json!([{"x": 1}, "own"]), &json!({"k": 1})));
    let [callbacks, errbacks] = ["callbacks", "errbacks"].map(|key| parts[2][key][0]["task"].clone());
    assert_eq!((callbacks, errbacks), (json!("py.then"), json!("py.else")));
}

#[tokio::test]
async fn a_task_goes_to_the_queue_it_names_else_ours_stay_and_others_go_to_the_default() {
    let lab = Lab::new();
    let mut link = lab.link().await;
    let binding = "blue\u{6}\u{16}\u{6}\u{16}bound";
    let () = link.sadd("_kombu.binding.colours", binding).await.unwrap();
    let callbacks = [
        signature("ours.stay", json!({})),
        signature("py.go", json!({})),
        signature("ours.far", json!({"queue": "far"})),
        signature("py.named", json!({"exchange": "colours", "routing_key": "blue"})),
        signature("py.unbound", json!({"exchange": "colours", "routing_key": "red"})),
        signature("py.key", json!({"routing_key": "ignored"})),
    ];
    let message = with_embed("1", &json!({"callbacks": callbacks}));
    let canvas = canvas(&lab).with_default_queue("others").with_own(|task| task.starts_with("ours."));
    canvas.succeed(&message, &json!(1), &lab.stop).await.unwrap();
    for (queue, tasks) in [
        ("q", vec!["ours.stay"]),
        ("others", vec!["py.go", "py.key"]),
        ("far", vec!["ours.far"]),
        ("bound", vec!["py.named"]),
        ("red", vec!["py.unbound"]),
    ] {
        let sent = taken(&lab, queue).await;
        let names: Vec<_> = sent.iter().map(|message| message["headers"]["task"].as_str().unwrap()).collect();
        assert_eq!(names, tasks, "{queue}");
    }
}

#[tokio::test]
async fn a_task_that_comes_back_sends_nothing_twice_and_one_sent_anew_does() {
    let lab = Lab::new();
    let group = json!({"task": "celery.group", "args": [], "kwargs": {"tasks": [signature("py.a", json!({})), signature("py.b", json!({}))]}, "options": {}, "subtask_type": "group", "immutable": false});
    let chord = json!({"task": "celery.chord", "args": [], "kwargs": {"kwargs": {}, "header": group, "body": signature("py.body", json!({}))}, "options": {}, "subtask_type": "chord", "immutable": false});
    let embed = json!({"callbacks": [signature("py.add", json!({}))], "chain": [chord], "errbacks": [signature("py.sorry", json!({}))]});
    let message = with_embed("1", &embed);
    let first = canvas(&lab).succeed(&message, &json!(1), &lab.stop).await.unwrap();
    assert_eq!(taken(&lab, "celery").await.len(), 3);
    // Under way: what the header has done until now must stay.
    let size: Vec<String> = lab.link().await.keys("celery-taskset-meta-*.s").await.unwrap();
    let () = lab.link().await.set(&size[0], 17).await.unwrap();
    assert_eq!(canvas(&lab).succeed(&message, &json!(1), &lab.stop).await.unwrap(), first);
    assert_eq!(taken(&lab, "celery").await.len(), 0);
    assert_eq!(lab.link().await.get::<_, u32>(&size[0]).await.unwrap(), 17);

    let failed = TaskResult::new("1", State::Failure, failure());
    for expected in [1, 0] {
        canvas(&lab).end(&message, &failed, &lab.stop).await.unwrap();
        assert_eq!(taken(&lab, "celery").await.len(), expected);
    }
    let again = with_body("ours.add", "1", &json!([[], {}, embed]).to_string()).replace("tag-1", "tag-2");
    let other = canvas(&lab).succeed(&parse(&again), &json!(1), &lab.stop).await.unwrap();
    assert_eq!(taken(&lab, "celery").await.len(), 3);
    assert_ne!(other, first);
}

#[tokio::test]
async fn a_header_task_counts_once_and_the_body_is_sent_once_whoever_dies() {
    let lab = Lab::new();
    expect(&lab, 2).await;
    let tasks = [0, 1].map(|index| header_task(&format!("h{index}"), index, &json!({})));
    for _ in 0..2 {
        finish(&lab, &tasks[1], State::Success, json!("second")).await;
    }
    assert_eq!(taken(&lab, "celery").await.len(), 0);

    // A worker of 5.3 has counted the last and is about to send the body: what comes back leaves it to it.
    let mut link = lab.link().await;
    let theirs = r#"[1, "theirs", "SUCCESS", 0]"#;
    let () = link.zadd("celery-taskset-meta-g.j", theirs, 0).await.unwrap();
    finish(&lab, &tasks[1], State::Success, json!("second")).await;
    assert_eq!(taken(&lab, "celery").await.len(), 0);
    let () = link.zrem("celery-taskset-meta-g.j", theirs).await.unwrap();

    // The worker dies when the last has counted and the body is not sent: its broker does not answer.
    let mut silent = Redis::start();
    let broker = client(&silent);
    silent.stop();
    let dying = Canvas::new(broker, Keys::default(), backend(&lab));
    let last = TaskResult::new("h0", State::Success, json!("first"));
    let stop = CancellationToken::new();
    stop.cancel();
    dying.end(&tasks[0], &last, &stop).await.unwrap_err();
    assert_eq!(taken(&lab, "celery").await.len(), 0);
    // Another that comes back meanwhile is not to go on with it.
    finish(&lab, &tasks[1], State::Success, json!("second")).await;
    assert_eq!(taken(&lab, "celery").await.len(), 0);

    for expected in [1, 0] {
        canvas(&lab).end(&tasks[0], &last, &lab.stop).await.unwrap();
        let sent = taken(&lab, "celery").await;
        assert_eq!(sent.len(), expected);
        for sent in sent {
            assert_eq!(sent["headers"]["id"], "b");
            assert_eq!(body(&sent)[0], json!([["first", "second"], "own"]));
        }
    }
    let left: Vec<String> = link.keys("celery-taskset-meta-g*").await.unwrap();
    assert_eq!(left, ["celery-taskset-meta-g.c"]);

    // The same chord once more, after a worker of 5.3 ended a run: it knows nothing of `.d` and `.c`.
    let () = link.del("celery-taskset-meta-g.c").await.unwrap();
    let () = link.sadd("celery-taskset-meta-g.d", &["h0:0", "h1:1"]).await.unwrap();
    expect(&lab, 2).await;
    for index in 0..2 {
        let id = format!("h{index}");
        let anew = parse(&header_text(&id, index, &json!({})).replace("tag-", "new-"));
        finish(&lab, &anew, State::Success, json!(id)).await;
    }
    assert_eq!(body(&taken(&lab, "celery").await[0])[0], json!([["h0", "h1"], "own"]));
}

#[tokio::test]
async fn results_of_others_reach_the_body_as_they_are_written() {
    let lab = Lab::new();
    let mut link = lab.link().await;
    let theirs = r#"[1, "p", "SUCCESS", [NaN, -Infinity, 1.10, 123456789012345678901234567890, "\ud83d"]]"#;
    for unordered in [false, true] {
        let () = link.del("celery-taskset-meta-g.c").await.unwrap();
        expect(&lab, 2).await;
        if unordered {
            let () = link.rpush("celery-taskset-meta-g.j", theirs).await.unwrap();
        } else {
            let () = link.zadd("celery-taskset-meta-g.j", theirs, 0).await.unwrap();
        }
        let id = format!("h{unordered}");
        finish(&lab, &header_task(&id, 1, &json!({})), State::Success, json!([])).await;
        let sent = taken(&lab, "celery").await.remove(0);
        let text = body_text(&sent);
        let args = r#"[[[NaN, -Infinity, 1.10, 123456789012345678901234567890, "\ud83d"], []], "own"]"#;
        assert!(text.starts_with(&format!("[{args}, ")), "{text}");
    }
}

#[tokio::test]
async fn a_revoked_header_task_fails_the_body_and_calls_its_errbacks_once() {
    let lab = Lab::new();
    expect(&lab, 2).await;
    let options = json!({
        "link_error": [signature("py.sorry", json!({}))],
        "chain": [signature("py.after", json!({"task_id": "after"}))],
        // The body is itself of the header of another chord.
        "group_id": "outer", "group_index": 0, "chord": signature("py.outer", json!({"task_id": "o"})),
    });
    let () = lab.link().await.set("celery-taskset-meta-outer.s", 1).await.unwrap();
    let last = header_task("h1", 1, &options);
    // Somebody has revoked what comes after it: that is final.
    let revoked = Exception::celery("TaskRevokedError", "revoked").to_value();
    let after = TaskResult::new("after", State::Revoked, revoked.clone());
    backend(&lab).store(&after, &lab.stop).await.unwrap();
    finish(&lab, &header_task("h0", 0, &options), State::Success, json!(1)).await;
    for _ in 0..2 {
        finish(&lab, &last, State::Revoked, revoked.clone()).await;
    }
    let sent = taken(&lab, "celery").await;
    assert_eq!(sent.len(), 1);
    assert_eq!((&sent[0]["headers"]["task"], &body(&sent[0])[0]), (&json!("py.sorry"), &json!(["b", "own"])));
    assert_eq!(stored(&lab, "after").await["status"], "REVOKED");
    for id in ["b", "o"] {
        let meta = stored(&lab, id).await;
        assert_eq!((&meta["status"], &meta["result"]["exc_type"]), (&json!("FAILURE"), &json!("ChordError")));
    }
    let text = "Dependency h1 raised TaskRevokedError('revoked')";
    assert_eq!(stored(&lab, "b").await["result"]["exc_message"], json!([text]));
}

#[tokio::test]
async fn what_cannot_be_sent_fails_those_who_wait_and_harms_nothing_else() {
    let lab = Lab::new();
    let last = signature("py.last", json!({"task_id": "last"}));
    let many: Vec<_> = (0..200).map(|_| signature("py.a", json!({}))).collect();
    let heavy = json!({"task": "py.body", "args": ["x".repeat(200_000)], "options": {"task_id": "heavy"}});
    let bomb =
        json!({"task": "celery.chord", "kwargs": {"header": many, "body": heavy}, "subtask_type": "chord"});
    let empty = json!({"task": "celery.chord", "kwargs": {"header": many}, "subtask_type": "chord"});
    for (id, next) in [("1", bomb), ("2", empty), ("3", json!(17)), ("4", json!({"options": []}))] {
        let junk = json!([null, {"task": 1}, "text", signature("py.ok", json!("no object")), {"task": "celery.group", "subtask_type": "group", "kwargs": {"tasks": {"a": 1}}}]);
        let message = with_embed(id, &json!({"callbacks": junk, "chain": [last, next]}));
        canvas(&lab).succeed(&message, &json!(1), &lab.stop).await.unwrap();
        let sent = taken(&lab, "celery").await;
        assert_eq!(sent.len(), 1, "{id}");
        assert_eq!(sent[0]["headers"]["task"], "py.ok");
        assert_eq!(stored(&lab, "last").await["status"], "FAILURE", "{id}");
        let () = lab.link().await.del("celery-task-meta-last").await.unwrap();
    }
}

#[tokio::test]
async fn an_extended_result_has_the_fields_of_celerys_in_its_order() {
    let lab = Lab::new();
    let text = |value: &Value| serde_json::to_string(value).unwrap();
    for (name, state) in
        [("ext_add.536", State::Success), ("ext_add.570", State::Success), ("ext_fail.536", State::Failure)]
    {
        let capture = capture(&format!("results/{name}"));
        let raw = capture["ops"].as_array().unwrap().last().unwrap()["raw"].as_str().unwrap();
        let celerys: Value = serde_json::from_str(raw).unwrap();
        let (id, queue) = (celerys["task_id"].as_str().unwrap(), celerys["queue"].as_str().unwrap());
        let arguments = json!([celerys["args"], celerys["kwargs"], {}]).to_string();
        let raw = with_body(celerys["name"].as_str().unwrap(), id, &arguments);
        let message = parse(&raw.replace("\"q\"", &text(&json!(queue))));
        let mut result = TaskResult::new(id, state, celerys["result"].clone()).of(&message);
        result.traceback = celerys["traceback"].as_str().map(ToOwned::to_owned);
        backend(&lab).with_extended("w1@caphost").store(&result, &lab.stop).await.unwrap();
        let mut ours = stored(&lab, id).await;
        ours["date_done"] = celerys["date_done"].clone();
        assert_eq!(text(&ours), text(&celerys), "{name}");
    }
    let stamped = parse(&entries("messages/stamped.536")[0]);
    let result = TaskResult::new(&stamped.id, State::Success, json!(3)).of(&stamped);
    backend(&lab).with_extended("w@h").store(&result, &lab.stop).await.unwrap();
    let meta = text(&stored(&lab, &stamped.id).await);
    let end = r#""queue":"celery","stamped_headers":["tenant"],"tenant":"acme","task_id":"#;
    assert!(meta.contains(end), "{meta}");
    let () = lab.link().await.del(format!("celery-task-meta-{}", stamped.id)).await.unwrap();
    backend(&lab).store(&result, &lab.stop).await.unwrap();
    assert!(!text(&stored(&lab, &stamped.id).await).contains("tenant"));
}

/// Signatures of any shape, and what only looks like one.
fn signatures() -> impl Strategy<Value = Value> {
    let junk =
        prop_oneof![Just(json!(null)), Just(json!(1)), Just(json!("x")), Just(json!([[]])), Just(json!({}))];
    let task = (any::<bool>(), "[a-c]{0,2}", -2..20_i64, junk.clone()).prop_map(|(immutable, queue, number, junk)| {
        json!({
            "task": "t", "args": [number], "kwargs": junk, "immutable": immutable, "subtask_type": null,
            "options": {"queue": queue, "priority": number, "countdown": number, "eta": junk, "expires": junk,
                        "link": junk, "stamped_headers": junk, "headers": junk, "group_index": junk, "x": junk},
        })
    });
    prop_oneof![8 => task, 1 => junk].prop_recursive(4, 40, 4, |inner| {
        let many = prop::collection::vec(inner.clone(), 0..4);
        let made = |kind: &str, kwargs: Value| {
            json!({"task": format!("celery.{kind}"), "args": [], "kwargs": kwargs, "options": {}, "subtask_type": kind, "immutable": false})
        };
        let linked = (inner.clone(), many.clone()).prop_map(|(mut signature, links)| {
            if let Some(options) = signature.get_mut("options").and_then(Value::as_object_mut) {
                options.insert("link".to_owned(), json!(links));
                options.insert("link_error".to_owned(), json!(links));
            }
            signature
        });
        prop_oneof![
            many.clone().prop_map(move |tasks| made("group", json!({"tasks": tasks}))),
            many.clone().prop_map(move |tasks| made("chain", json!({"tasks": tasks}))),
            (many, inner).prop_map(move |(header, body)| made("chord", json!({"header": header, "body": body}))),
            linked,
        ]
    })
}

proptest! {
    #[test]
    fn any_canvas_gives_each_task_an_id_of_its_own_and_the_same_each_time(
        callbacks in prop::collection::vec(signatures(), 0..3),
        chain in prop::collection::vec(signatures(), 0..4),
    ) {
        let nowhere = Client::new(ConnectOptions::parse("redis://localhost:1/0").unwrap()).unwrap();
        let canvas = Canvas::new(nowhere.clone(), Keys::default(), Backend::new(nowhere, "", Duration::ZERO));
        let message = with_embed("1", &json!({"callbacks": callbacks, "chain": chain}));
        let sent = canvas.plan_success(&message, &json!([1]));
        let ids: Vec<_> = sent.iter().map(|message| message.id().to_owned()).collect();
        prop_assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        let again = canvas.plan_success(&message, &json!([1]));
        prop_assert_eq!(ids, again.iter().map(|message| message.id().to_owned()).collect::<Vec<_>>());
    }
}
