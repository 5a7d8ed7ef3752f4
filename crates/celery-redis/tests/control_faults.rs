//! Remote control when requests are hostile, connections end, and other workers start.

use crate::control_lab::{Asker, BINDINGS, Office, listeners, node, opened, sealed, sealed_text};
use celery_redis::control::Mailbox;
use celery_redis::keys::Keys;
use redis::AsyncCommands;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use test_support::celery_lab::{client, until, within};
use test_support::redis::Redis;

const CHANNEL: &str = "/0.celery.pidbox";

/// What is no request, or too much of one.
fn garbage() -> Vec<Vec<u8>> {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    vec![
        Vec::new(),
        vec![0xff; 1000],
        b"{".to_vec(),
        b"null".to_vec(),
        deep("[", "]").into_bytes(),
        deep("{\"a\":", "}").into_bytes(),
        sealed_text(&deep("[", "]")).into_bytes(),
        sealed_text("{\"method\": \"ping\", \"arguments\": {\"x\": 1e999}}").into_bytes(),
        sealed(&json!("x".repeat(8 << 20))).into_bytes(),
        vec![b'x'; 16 << 20],
        sealed(&json!({"method": "ping", "pattern": "(a*)*".repeat(999), "matcher": "pcre"})).into_bytes(),
        sealed(&json!({"method": "revoke", "arguments": {"task_id": "x".repeat(1 << 20)}})).into_bytes(),
        sealed(&json!({"method": "hello", "arguments": {"from_node": [], "revoked": [[], {}, 1]}}))
            .into_bytes(),
        sealed(&json!({"method": "hello", "arguments": {"from_node": "x", "revoked": "abc"}})).into_bytes(),
    ]
}

/// Requests with arguments of every wrong kind.
fn wrong_arguments() -> Vec<Vec<u8>> {
    let address = json!({"exchange": "reply.celery.pidbox", "routing_key": "nobody"});
    let mut all = Vec::new();
    let methods = [
        "revoke",
        "terminate",
        "revoke_by_stamped_headers",
        "rate_limit",
        "time_limit",
        "add_consumer",
        "cancel_consumer",
        "pool_grow",
        "query_task",
        "registered",
        "hello",
        "autoscale",
        "objgraph",
        "conf",
        "active",
    ];
    let names = [
        "task_id",
        "signal",
        "terminate",
        "headers",
        "task_name",
        "rate_limit",
        "soft",
        "hard",
        "queue",
        "n",
        "ids",
        "taskinfoitems",
        "from_node",
        "revoked",
        "safe",
    ];
    let values = [
        json!(-1),
        json!(1e300),
        json!([[]]),
        json!({"a": {"b": []}}),
        json!(""),
        json!([null]),
        json!("nan"),
    ];
    for method in methods {
        for value in &values {
            let arguments: Value = names.iter().map(|name| ((*name).to_owned(), value.clone())).collect();
            let request =
                json!({"method": method, "arguments": arguments, "ticket": value, "reply_to": address});
            all.push(sealed(&request).into_bytes());
        }
    }
    all
}

#[tokio::test]
async fn hostile_requests_change_nothing_and_the_next_one_is_answered() {
    let redis = Redis::start();
    let office = Office::open(&redis, "w@x").await;
    let mut asker = Asker::new(&redis).await;
    for raw in garbage().into_iter().chain(wrong_arguments()) {
        assert_eq!(asker.cast(&raw).await, 1);
        // Each was dealt with, and none was only dropped because too many wait.
        assert_eq!(asker.ask("w@x", "ping", json!({})).await, json!({"ok": "pong"}));
    }
    assert_eq!((office.node.queues.borrow().len(), *office.node.concurrency.borrow()), (2, 2));
    assert!(office.node.clock.now() < 10_000 && !office.node.shutdown.is_cancelled());
    assert!(office.node.revoked.list().iter().all(|id| id.len() < 10));
    let keys: Vec<String> = asker.link.keys("*").await.unwrap();
    assert!(keys.is_empty(), "{keys:?}");
}

#[tokio::test]
async fn queues_and_places_do_not_grow_without_end() {
    let redis = Redis::start();
    let office = Office::open(&redis, "w@x").await;
    let mut asker = Asker::new(&redis).await;
    for n in 0..260 {
        asker
            .cast(
                sealed(&json!({"method": "add_consumer", "arguments": {"queue": format!("q{n}")}}))
                    .as_bytes(),
            )
            .await;
    }
    let reply = asker.ask("w@x", "add_consumer", json!({"queue": "one more"})).await;
    assert_eq!(reply, json!({"error": "ValueError('no more than 256 queues')"}));
    let reply = asker.ask("w@x", "pool_grow", json!({"n": u64::MAX})).await;
    assert_eq!(reply, json!({"error": "ValueError('the pool cannot grow beyond 1024')"}));
    assert_eq!((office.node.queues.borrow().len(), *office.node.concurrency.borrow()), (256, 2));
}

#[tokio::test]
async fn a_lost_connection_comes_back_at_once() {
    let mut redis = Redis::start();
    let office = Office::open(&redis, "w@x").await;
    let mut asker = Asker::new(&redis).await;
    let killed: usize = redis::cmd("CLIENT")
        .arg("KILL")
        .arg("TYPE")
        .arg("pubsub")
        .query_async(&mut asker.link)
        .await
        .unwrap();
    assert_eq!(killed, 1);
    let began = Instant::now();
    until(async || listeners(&mut asker.link, CHANNEL).await == 1).await;
    assert!(began.elapsed() < Duration::from_secs(3), "it does not wait for the next look");
    assert_eq!(asker.ask("w@x", "ping", json!({})).await["ok"], "pong");

    redis.stop();
    redis.start_again();
    let mut asker = Asker::new(&redis).await;
    until(async || listeners(&mut asker.link, CHANNEL).await == 1).await;
    // The connection for replies is another one; it was lost as well.
    assert_eq!(asker.ask("w@x", "ping", json!({})).await["ok"], "pong");
    drop(office);
    until(async || listeners(&mut asker.link, CHANNEL).await == 0).await;
}

#[tokio::test]
async fn two_nodes_tell_each_other_what_is_revoked() {
    let redis = Redis::start();
    let old = Office::open(&redis, "old@x").await;
    old.node.revoked.add("theirs");
    old.node.clock.observe(5000);
    let (young, _events) = node(&redis, "young@x");
    young.revoked.add("ours");
    let mailbox = Mailbox::new(Arc::clone(&young), client(&redis), Keys::default());
    let began = Instant::now();
    within(mailbox.mingle()).await;
    assert!(began.elapsed() < Duration::from_secs(1), "it returns when all have answered");
    assert_eq!(young.revoked.list(), ["theirs", "ours"]);
    assert_eq!(old.node.revoked.list(), ["theirs", "ours"]);
    assert!(young.clock.now() > 5000);
    let mut link = redis.connect().await;
    let keys: Vec<String> = link.keys("*").await.unwrap();
    assert!(keys.is_empty(), "{keys:?}");

    // What comes between mingle and run is heard.
    assert_eq!(listeners(&mut link, CHANNEL).await, 2);
    let mut asker = Asker::new(&redis).await;
    asker.cast(sealed(&json!({"method": "revoke", "arguments": {"task_id": "between"}})).as_bytes()).await;
    tokio::spawn(mailbox.run(tokio_util::sync::CancellationToken::new()));
    assert_eq!(asker.ask("young@x", "revoked", json!({})).await, json!(["theirs", "ours", "between"]));
}

#[tokio::test]
async fn who_is_alone_does_not_wait_and_does_not_answer_itself() {
    let redis = Redis::start();
    let (alone, _events) = node(&redis, "alone@x");
    let mailbox = Mailbox::new(Arc::clone(&alone), client(&redis), Keys::default());
    let began = Instant::now();
    within(mailbox.mingle()).await;
    assert!(began.elapsed() < Duration::from_millis(900), "nobody else listens");
    tokio::spawn(mailbox.run(tokio_util::sync::CancellationToken::new()));
    let mut asker = Asker::new(&redis).await;
    let hello = json!({"from_node": "alone@x", "revoked": ["x"]});
    assert_eq!(asker.ask("alone@x", "hello", hello).await, Value::Null);
    assert!(alone.revoked.list().is_empty());
    let keys: Vec<String> = asker.link.keys("*").await.unwrap();
    assert!(keys.is_empty(), "{keys:?}");
}

#[tokio::test]
async fn a_worker_that_does_not_answer_delays_a_start_by_a_second_and_no_more() {
    let redis = Redis::start();
    let mut mute =
        redis::Client::open(format!("redis+{}", redis.url())).unwrap().get_async_pubsub().await.unwrap();
    mute.subscribe(CHANNEL).await.unwrap();
    let (young, _events) = node(&redis, "young@x");
    let mailbox = Mailbox::new(young, client(&redis), Keys::default());
    let began = Instant::now();
    within(mailbox.mingle()).await;
    let took = began.elapsed();
    assert!(Duration::from_millis(900) < took && took < Duration::from_secs(5), "{took:?}");
    let keys: Vec<String> = redis.connect().await.keys("*").await.unwrap();
    assert!(keys.is_empty(), "{keys:?}");
}

#[tokio::test]
async fn ill_formed_answers_to_a_hello_are_harmless() {
    let redis = Redis::start();
    let mut mute =
        redis::Client::open(format!("redis+{}", redis.url())).unwrap().get_async_pubsub().await.unwrap();
    mute.subscribe(CHANNEL).await.unwrap();
    let (young, _events) = node(&redis, "young@x");
    let mailbox = Mailbox::new(Arc::clone(&young), client(&redis), Keys::default());
    let mingling = tokio::spawn(async move { mailbox.mingle().await });
    let raw: String =
        within(futures_util::StreamExt::next(&mut mute.on_message())).await.unwrap().get_payload().unwrap();
    let (_, hello) = opened(&raw);
    let oid = hello["reply_to"]["routing_key"].as_str().unwrap();
    let mut link = redis.connect().await;
    let waits: bool = link.sismember(BINDINGS, crate::control_lab::member(oid)).await.unwrap();
    assert!(waits, "kombu answers only those in the bindings");
    let reply = sealed(&json!({"other@x": {"clock": "late", "revoked": {"a": 1.5, "b": [2.5, "b"]}}}));
    let _: usize = link.lpush(crate::control_lab::list(oid), reply).await.unwrap();
    within(mingling).await.unwrap();
    let mut revoked = young.revoked.list();
    revoked.sort();
    assert_eq!(revoked, ["a", "b"]);
}
