//! Remote control against captures of Celery 5.3.6 and 5.7.0, and what the commands do to a worker.

use crate::control_lab::{Asker, BINDINGS, Office, captured, list, member, opened, sealed};
use celery_redis::keys::Keys;
use celery_redis::requests::{Phase, Request, Revocation};
use celery_redis::tasks::TimeLimits;
use redis::AsyncCommands;
use serde_json::{Value, json};
use std::time::Duration;
use test_support::celery_lab::{capture, until};
use test_support::redis::Redis;
use test_support::root;

/// Name of the worker in the captures.
const NODE: &str = "w1@caphost";

/// A running task, one that waits for a place, one that waits for its time.
fn three(office: &Office) -> [Request; 3] {
    let all = &office.node.requests;
    let active = all.admit(captured("delay-args-kwargs.536"));
    assert!(active.starts());
    let reserved = all.admit(captured("stamped.536"));
    let scheduled = all.admit(captured("apply_async-countdown-expires-priority.536"));
    scheduled.waits(Phase::Scheduled);
    [active, reserved, scheduled]
}

/// Pairs of request and reply in a capture.
fn exchanges(name: &str) -> Vec<(String, Value)> {
    let capture = capture(&format!("pidbox/{name}"));
    let ops = capture["ops"].as_array().unwrap();
    let of = |op: &'static str| ops.iter().filter(move |o| o["op"] == op).map(|o| o["raw"].as_str().unwrap());
    of("PUBLISH").map(str::to_owned).zip(of("LPUSH").map(|raw| opened(raw).1[NODE].clone())).collect()
}

/// Keys and types. Of a list its first item stands for all; counts and arguments are free.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().map(|(key, value)| (key.clone(), shape(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            for (_, free) in
                entries.iter_mut().filter(|(key, _)| ["total", "args", "kwargs"].contains(&&**key))
            {
                *free = free.as_object().map_or(free.is_array().into(), |_| json!("object"));
            }
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(items) => json!([items.first().map(shape)]),
        Value::Number(_) => json!("number"),
        Value::String(_) => json!("string"),
        Value::Bool(_) => json!("bool"),
        Value::Null => Value::Null,
    }
}

/// The texts of `ok` and `error` are the same, in whatever order a set is shown.
fn same(name: &str, ours: &Value, theirs: &Value) {
    let sorted = |text: &Value| {
        let mut chars: Vec<char> = text.as_str().unwrap_or_default().chars().collect();
        chars.sort_unstable();
        chars
    };
    let set = name.contains("many") || name.contains("stamped");
    for key in ["ok", "error"].into_iter().filter(|key| !theirs[key].is_null()) {
        let equal = ours[key] == theirs[key] || (set && sorted(&ours[key]) == sorted(&theirs[key]));
        assert!(equal, "{name}: {ours} instead of {theirs}");
    }
    assert_eq!(shape(ours), shape(theirs), "{name}");
}

#[tokio::test]
async fn every_captured_request_is_answered_as_python_answered_it() {
    let redis = Redis::start();
    let office = Office::open(&redis, NODE).await;
    let mut asker = Asker::new(&redis).await;
    let _in_hand = three(&office);
    office.node.tasks.limit_rate("t.sleep", "10/m").unwrap();
    let folder = root().join("tests/fixtures/celery/pidbox");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap().replace(".json", ""))
        .collect();
    // What looks goes before what changes, and off before on before on again.
    names.sort_by_key(|name| {
        (!name.starts_with("inspect"), name.contains("hello"), name.contains("again"), name.clone())
    });
    let mut seen = 0;
    for name in names {
        let enabled = name.contains("disable") || name.contains("again");
        if name.contains("events") {
            office.node.events.enable(enabled);
        }
        for (request, theirs) in exchanges(&name) {
            let before = office.node.clock.now();
            let (headers, mut body) = asker.call(&request).await;
            let (asked, sent) = opened(&request);
            assert_eq!(headers["ticket"], sent["ticket"], "{name}");
            let clock = headers["clock"].as_u64().unwrap();
            assert!(clock > before && clock > asked["clock"].as_u64().unwrap(), "{name}: {clock}");
            assert_eq!(body.as_object().unwrap().len(), 1, "{name}");
            let mut ours = body[NODE].take();
            match name.as_str() {
                // Python's has no psutil, and its revoked ids have times, which 5.7 has given up.
                "inspect_memsample.536" => assert!(ours.as_str().unwrap().ends_with("MB")),
                "inspect_hello.536" => {
                    assert_eq!(shape(&ours), json!({"clock": "number", "revoked": ["string"]}));
                }
                "inspect_revoked.536" => assert_eq!(ours, json!([])),
                "inspect_registered.536" | "inspect_registered.570" => {
                    assert_eq!(ours, json!(["t.add", "t.sleep [rate_limit=10/m]"]));
                }
                stats if stats.starts_with("inspect_stats") => {
                    // A socket has no port, and 5.3.6 no provider of credentials.
                    ours["broker"]["port"] = json!(1);
                    if stats.ends_with("536") {
                        ours["broker"].as_object_mut().unwrap().remove("credential_provider");
                    }
                    same(stats, &ours, &theirs);
                    assert_eq!(ours["total"], json!({"t.add": 1}));
                }
                name => same(name, &ours, &theirs),
            }
            seen += 1;
        }
    }
    assert!(seen >= 45, "{seen}");
}

#[tokio::test]
async fn requests_for_others_and_those_without_an_address_are_not_answered() {
    let redis = Redis::start();
    let office = Office::open(&redis, NODE).await;
    let mut asker = Asker::new(&redis).await;
    for name in ["inspect_ping_dest_other.536", "control_election.536"] {
        let raw = capture(&format!("pidbox/{name}"))["ops"][0]["raw"].as_str().unwrap().to_owned();
        if let Some(oid) = opened(&raw).1["reply_to"]["routing_key"].as_str() {
            let _: usize = asker.link.sadd(BINDINGS, member(oid)).await.unwrap();
        }
        assert_eq!(asker.cast(raw.as_bytes()).await, 1);
    }
    // Requests are answered in their order: with this one those before are done.
    assert_eq!(asker.ask(NODE, "ping", json!({})).await, json!({"ok": "pong"}));
    let keys: Vec<String> = asker.link.keys("*.reply.*").await.unwrap();
    assert_eq!(keys, [BINDINGS], "no list of replies");

    let shutdown = capture("pidbox/control_shutdown.536")["ops"][0]["raw"].as_str().unwrap().to_owned();
    assert!(!office.node.shutdown.is_cancelled());
    asker.cast(shutdown.as_bytes()).await;
    test_support::celery_lab::within(office.node.shutdown.cancelled()).await;
    let clock = office.node.clock.now();
    assert!(
        clock > opened(&shutdown).0["clock"].as_u64().unwrap(),
        "what is for others is heard, too: {clock}"
    );
}

#[tokio::test]
async fn a_reply_that_nobody_waits_for_leaves_nothing_behind() {
    let redis = Redis::start();
    let _office = Office::open(&redis, NODE).await;
    let mut asker = Asker::new(&redis).await;
    let gone = json!({"exchange": "reply.celery.pidbox", "routing_key": "gone"});
    asker.cast(sealed(&json!({"method": "ping", "ticket": "1", "reply_to": gone})).as_bytes()).await;
    // Another's list: it is none of the client's that it claims to be.
    let _: usize = asker.link.sadd(BINDINGS, member("other")).await.unwrap();
    let foreign = json!({"exchange": "reply.celery.pidbox", "routing_key": "other\x06\x16x"});
    asker.cast(sealed(&json!({"method": "ping", "ticket": "1", "reply_to": foreign})).as_bytes()).await;
    assert_eq!(asker.ask(NODE, "ping", json!({})).await["ok"], "pong");
    let keys: Vec<String> = asker.link.keys("*").await.unwrap();
    assert_eq!(keys, [BINDINGS]);

    // One that is not fetched goes by itself.
    let waits = json!({"exchange": "reply.celery.pidbox", "routing_key": "other"});
    asker.cast(sealed(&json!({"method": "ping", "ticket": "1", "reply_to": waits})).as_bytes()).await;
    until(async || asker.link.exists(list("other")).await.unwrap()).await;
    let left: i64 = asker.link.ttl(list("other")).await.unwrap();
    assert!((1..=60).contains(&left), "{left}");
}

#[tokio::test]
async fn keys_and_channels_have_the_prefix_of_the_broker() {
    let redis = Redis::start();
    let _office = Office::open_with(&redis, NODE, Keys::new("p[x]:"), "p[x]:/0.celery.pidbox").await;
    let mut asker = Asker::new(&redis).await.under("p[x]:");
    assert_eq!(asker.ask(NODE, "ping", json!({})).await["ok"], "pong");
}

#[tokio::test]
async fn tasks_in_hand_are_shown_as_they_are() {
    let redis = Redis::start();
    let office = Office::open(&redis, NODE).await;
    let mut asker = Asker::new(&redis).await;
    let [active, reserved, scheduled] = three(&office);
    let id = |request: &Request| request.held().message.id.clone();
    let shown = asker.ask(NODE, "dump_active", json!({"safe": true})).await;
    assert_eq!((&shown[0]["args"], &shown[0]["kwargs"]), (&json!("(1,)"), &json!("{'y': 2}")));
    let shown = asker.ask(NODE, "active", json!({})).await;
    assert_eq!((&shown[0]["args"], &shown[0]["kwargs"]), (&json!([1]), &json!({"y": 2})));
    assert_eq!(shown[0]["worker_pid"], json!(std::process::id()));
    let shown = asker.ask(NODE, "dump_reserved", json!({})).await;
    assert_eq!(
        (&shown[0]["id"], &shown[1], &shown[0]["time_start"]),
        (&json!(id(&reserved)), &Value::Null, &Value::Null)
    );
    let shown = asker.ask(NODE, "dump_schedule", json!({})).await;
    assert_eq!(shown[0]["eta"], "2026-11-22T09:54:46.057967+00:00");
    assert_eq!(
        (&shown[0]["priority"], &shown[0]["request"]["delivery_info"]["priority"]),
        (&json!(6), &json!(5))
    );

    let ids = json!({"ids": [id(&active), id(&reserved), id(&scheduled), "unknown"]});
    let found = asker.ask(NODE, "query_task", ids).await;
    let states: Vec<_> =
        found.as_object().unwrap().values().map(|found| found[0].as_str().unwrap()).collect();
    assert_eq!(states, ["active", "reserved", "scheduled"]);
    let found = asker.ask(NODE, "query_task", json!({"ids": id(&active)})).await;
    assert_eq!(found[id(&active)][1]["name"], "t.add");
}

#[tokio::test]
async fn revoke_ends_what_waits_and_terminate_what_runs() {
    let redis = Redis::start();
    let office = Office::open(&redis, NODE).await;
    let mut asker = Asker::new(&redis).await;
    let [active, reserved, scheduled] = three(&office);
    let id = |request: &Request| request.held().message.id.clone();
    asker.ask(NODE, "revoke", json!({"task_id": [id(&active), id(&scheduled), "later"]})).await;
    assert_eq!((active.revocation(), scheduled.revocation()), (None, Some(Revocation::Waiting)));
    assert!(!scheduled.starts(), "a revoked task does not start");
    let revoked = asker.ask(NODE, "dump_revoked", json!({})).await;
    assert_eq!(revoked, json!([id(&active), id(&scheduled), "later"]));

    let reply =
        asker.ask(NODE, "revoke", json!({"task_id": id(&active), "terminate": true, "signal": 9})).await;
    assert_eq!(reply, json!({"ok": format!("terminate: {}", id(&active))}));
    assert_eq!(active.revocation(), Some(Revocation::Terminated(9)));
    assert!(active.stop().is_cancelled());
    let reply = asker.ask(NODE, "terminate", json!({"signal": "KILL", "task_id": [id(&reserved)]})).await;
    assert_eq!(reply, json!({"ok": format!("terminate: {}", id(&reserved))}));
    assert_eq!(reserved.revocation(), Some(Revocation::Waiting));
    for (arguments, error) in [
        (
            json!({"task_id": "x", "terminate": true, "signal": "kill"}),
            "TypeError('signal name must be uppercase string.')",
        ),
        (json!({"task_id": 5}), "TypeError('expected a string or a list of strings')"),
        (json!({}), r#"TypeError("revoke() missing 1 required positional argument: 'task_id'")"#),
    ] {
        assert_eq!(asker.ask(NODE, "revoke", arguments).await, json!({"error": error}));
    }
    assert_eq!(
        asker.ask(NODE, "revoke", json!({"task_id": null})).await["ok"],
        "tasks set() flagged as revoked"
    );
}

#[tokio::test]
async fn stamped_tasks_are_revoked_in_hand_and_when_they_come() {
    let redis = Redis::start();
    let office = Office::open(&redis, NODE).await;
    let mut asker = Asker::new(&redis).await;
    let stamped = captured("stamped.536");
    let (running, waiting) =
        (office.node.requests.admit(stamped.clone()), office.node.requests.admit(stamped.clone()));
    let other = office.node.requests.admit(captured("delay-args-kwargs.536"));
    assert!(running.starts() && !office.node.revoked.covers(&stamped));
    let method = "revoke_by_stamped_headers";
    let reply = asker.ask(NODE, method, json!({"headers": {"tenant": "zeta"}, "terminate": true})).await;
    assert_eq!(reply["ok"], "headers {'tenant': 'zeta'} were not terminated");
    assert!(!office.node.revoked.covers(&stamped));

    asker.ask(NODE, method, json!({"headers": ["tenant=acme", "x=y"]})).await;
    assert!(office.node.revoked.covers(&stamped) && !office.node.revoked.covers(&other.held().message));
    assert_eq!((running.revocation(), waiting.revocation()), (None, Some(Revocation::Waiting)));
    let reply =
        asker.ask(NODE, method, json!({"headers": {"tenant": ["no", "acme"]}, "terminate": true})).await;
    assert_eq!(reply["ok"], "headers defaultdict(<class 'set'>, {'tenant': {'acme'}}) revoked");
    assert_eq!((running.revocation(), other.revocation()), (Some(Revocation::Terminated(15)), None));
    let reply = asker.ask(NODE, method, json!({"headers": ["tenant"]})).await;
    assert_eq!(reply["error"], "IndexError('list index out of range')");
}

#[tokio::test]
async fn limits_queues_places_and_events_change_as_asked() {
    let redis = Redis::start();
    let office = Office::open(&redis, NODE).await;
    let mut asker = Asker::new(&redis).await;
    let node = &office.node;
    let limits = json!({"task_name": "t.add", "soft": 1.5, "hard": 60});
    asker.ask(NODE, "time_limit", limits).await;
    let seconds = |seconds| Some(Duration::from_secs_f64(seconds));
    assert_eq!(node.tasks.time_limits("t.add"), TimeLimits { soft: seconds(1.5), hard: seconds(60.0) });
    asker.ask(NODE, "time_limit", json!({"task_name": "t.add", "soft": null, "hard": 0})).await;
    assert_eq!(node.tasks.time_limits("t.add"), TimeLimits::default());

    asker.ask(NODE, "rate_limit", json!({"task_name": "t.add", "rate_limit": "1/h"})).await;
    assert_eq!(node.tasks.wait("t.add", false), None);
    node.tasks.started("t.add");
    assert!(node.tasks.wait("t.add", false).is_some());
    let reply = asker.ask(NODE, "rate_limit", json!({"task_name": "t.add", "rate_limit": 0})).await;
    assert_eq!(reply, json!({"ok": "rate limit disabled successfully"}));
    assert_eq!(node.tasks.wait("t.add", false), None);
    let reply = asker.ask(NODE, "rate_limit", json!({"task_name": "t.add", "rate_limit": "x/s"})).await;
    let why = r#"Invalid rate limit string: ValueError("could not convert string to float: 'x'")"#;
    assert_eq!(reply, json!({"error": why}));

    for queue in ["extra", "extra", "backups"] {
        asker.ask(NODE, "add_consumer", json!({"queue": queue, "exchange": null})).await;
    }
    assert_eq!(*node.queues.borrow(), ["backups", "celery", "extra"]);
    asker.ask(NODE, "cancel_consumer", json!({"queue": "celery"})).await;
    assert_eq!(*node.queues.borrow(), ["backups", "extra"]);
    asker.ask(NODE, "pool_grow", json!({"n": 3})).await;
    assert_eq!(*node.concurrency.borrow(), 5);
    asker.ask(NODE, "pool_shrink", json!({"n": 4})).await;
    for n in [json!(1), json!(-1), json!("2")] {
        let reply = asker.ask(NODE, "pool_shrink", json!({"n": n})).await;
        assert!(reply["error"].as_str().unwrap().starts_with("ValueError("), "{reply}");
        assert_eq!(*node.concurrency.borrow(), 1);
    }
    asker.ask(NODE, "enable_events", json!({})).await;
    assert!(node.events.enabled());
}
