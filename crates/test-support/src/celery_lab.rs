//! Captures of Celery, messages written by hand, and the parts of a worker on a Redis of its own.

use crate::redis::Redis;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use celery_redis::client::{Client, ConnectOptions};
use celery_redis::consumer::{Consumer, Delivery, Verdict};
use celery_redis::keys::Keys;
use celery_redis::lease::{Instance, Leases};
use celery_redis::message::{Envelope, Message};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use std::{fs, time::Duration};
use tokio_util::sync::CancellationToken;

/// No wait in a test takes longer than this unless something is broken.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Lab {
    pub redis: Redis,
    pub client: Client,
    pub leases: Leases,
    pub stop: CancellationToken,
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Lab {
    pub fn new() -> Self {
        Self::on(Redis::start())
    }

    pub fn on(redis: Redis) -> Self {
        let client = client(&redis);
        let leases = Leases::new(client.clone(), Keys::default(), Instance::here("test@lab"));
        Self { redis, client, leases, stop: CancellationToken::new() }
    }

    /// A consumer of queue `q` that hears of changes from Redis alone: it never polls.
    pub fn consumer(&self) -> Consumer {
        Consumer::new(self.leases.clone(), &["q".to_owned()])
            .expect("the client has no certificate files")
            .with_safety_poll(PATIENCE * 100)
    }

    pub async fn link(&self) -> MultiplexedConnection {
        self.redis.connect().await
    }

    /// Puts entries into list `q` as a sender does, the first to be served first.
    pub async fn push<T: AsRef<str>>(&self, entries: &[T]) {
        let mut link = self.link().await;
        for entry in entries {
            let _: usize = link.lpush("q", entry.as_ref()).await.expect("Redis runs");
        }
    }

    /// A list from the oldest entry to the newest.
    pub async fn list(&self, key: &str) -> Vec<String> {
        let mut list: Vec<String> = self.link().await.lrange(key, 0, -1).await.expect("Redis runs");
        list.reverse();
        list
    }

    /// The tags in `unacked`, `unacked_index` and the leases: the same three times, or a bug.
    pub async fn unacked(&self) -> Vec<String> {
        let mut link = self.link().await;
        let mut tags: Vec<String> = link.hkeys("unacked").await.expect("Redis runs");
        let mut leased: Vec<String> = link.hkeys("celery-redis:leases").await.expect("Redis runs");
        let mut index: Vec<String> = link.zrange("unacked_index", 0, -1).await.expect("Redis runs");
        tags.sort();
        leased.sort();
        index.sort();
        assert_eq!(tags, leased);
        assert_eq!(tags, index);
        tags
    }
}

pub fn client(redis: &Redis) -> Client {
    let options = ConnectOptions::parse(&redis.url()).expect("it is the URL of a socket");
    Client::new(options).expect("it has no certificate files")
}

/// Takes a message of a task that begins with `ours`.
pub fn judge(look: &Envelope) -> Verdict {
    Verdict::take_if(look, |task| task.starts_with("ours"))
}

/// The next message; fails the test rather than waiting for ever.
pub async fn next(consumer: &Consumer) -> Delivery {
    let next = within(consumer.next(&judge, &CancellationToken::new())).await;
    next.expect("Redis refuses nothing").expect("nobody stops the wait")
}

/// Waits, but not for ever.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("this takes too long")
}

/// Waits until `probe` says yes.
pub async fn until(mut probe: impl AsyncFnMut() -> bool) {
    within(async {
        while !probe().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// The message of a delivery that was not refused.
pub fn content(delivery: &Delivery) -> &Message {
    delivery.content.as_ref().expect("the message is not refused")
}

/// A message of protocol 2 without arguments; its tag is `tag-<id>`.
pub fn message(task: &str, id: &str) -> String {
    with_body(task, id, r#"[[], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#)
}

/// A message of protocol 2 with this body, as plain text.
pub fn with_body(task: &str, id: &str, body: &str) -> String {
    json!({
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": id},
        "properties": {
            "correlation_id": id,
            "delivery_info": {"exchange": "", "routing_key": "q"},
            "delivery_tag": format!("tag-{id}"),
        },
    })
    .to_string()
}

/// A capture by its path below `tests/fixtures/celery`, without `.json`.
pub fn capture(name: &str) -> Value {
    let file = format!("tests/fixtures/celery/{name}.json");
    let text = fs::read(crate::root().join(&file)).unwrap_or_else(|err| panic!("{file}: {err}"));
    serde_json::from_slice(&text).unwrap_or_else(|err| panic!("{file}: {err}"))
}

/// The entries of all lists in a capture of keys.
pub fn entries(name: &str) -> Vec<String> {
    let capture = capture(name);
    let lists = capture["seen"]
        .as_array()
        .expect("a capture of keys")
        .iter()
        .filter(|key| key["redis_type"] == "list");
    let entries = lists.flat_map(|key| key["raw"].as_array().expect("a list has entries"));
    entries.map(|raw| raw.as_str().expect("an entry is text").to_owned()).collect()
}

/// A remote control request to all workers, without an address for replies.
pub fn control_request(method: &str, arguments: &Value) -> String {
    let body = json!({"method": method, "arguments": arguments, "destination": null});
    json!({
        "body": BASE64.encode(body.to_string()), "content-type": "application/json", "content-encoding": "utf-8",
        "headers": {"clock": 1, "expires": 0}, "properties": {"body_encoding": "base64"},
    })
    .to_string()
}
