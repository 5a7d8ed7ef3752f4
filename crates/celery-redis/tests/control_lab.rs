//! What the tests of remote control share: a worker that only answers, and a client of it.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use celery_redis::control::Mailbox;
use celery_redis::events::{Events, Publisher};
use celery_redis::keys::Keys;
use celery_redis::message::{Envelope, Limits, Message, Peeked};
use celery_redis::node::{About, Node};
use celery_redis::tasks::Tasks;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use test_support::celery_lab::{client, entries, until, within};
use test_support::redis::Redis;
use tokio_util::sync::{CancellationToken, DropGuard};

pub const BINDINGS: &str = "_kombu.binding.reply.celery.pidbox";

/// A worker that takes no tasks and answers requests.
pub struct Office {
    pub node: Arc<Node>,
    /// Its events go nowhere.
    _events: Publisher,
    _stop: DropGuard,
}

/// A node of two tasks, two queues and two places.
pub fn node(redis: &Redis, name: &str) -> (Arc<Node>, Publisher) {
    let (events, publisher) = Events::new(name, client(redis), &Keys::default(), false);
    let conf =
        Map::from_iter([("task_acks_late".to_owned(), json!(true)), ("timezone".to_owned(), json!("UTC"))]);
    let about = About { software: "rna-backup", version: "9.8.7", name_example: None, conf };
    let tasks = Tasks::new(["celery.ping", "t.add", "t.sleep"], None);
    let queues = ["backups".to_owned(), "celery".to_owned()];
    (Arc::new(Node::new(name, about, events, tasks, &queues, 2)), publisher)
}

impl Office {
    /// Opens the mailbox of `name`, and waits until it hears.
    pub async fn open(redis: &Redis, name: &str) -> Self {
        Self::open_with(redis, name, Keys::default(), "/0.celery.pidbox").await
    }

    pub async fn open_with(redis: &Redis, name: &str, keys: Keys, channel: &str) -> Self {
        let (node, events) = node(redis, name);
        let mut link = redis.connect().await;
        let before = listeners(&mut link, channel).await;
        let stop = CancellationToken::new();
        tokio::spawn(Mailbox::new(Arc::clone(&node), client(redis), keys).run(stop.clone()));
        until(async || listeners(&mut link, channel).await > before).await;
        Self { node, _events: events, _stop: stop.drop_guard() }
    }
}

/// How many hear the requests of the database 0.
pub async fn listeners(link: &mut MultiplexedConnection, channel: &str) -> u64 {
    let mut ask = redis::cmd("PUBSUB");
    let (_, count): (String, u64) = ask.arg("NUMSUB").arg(channel).query_async(link).await.unwrap();
    count
}

/// A client of control as kombu is one, but for the times.
pub struct Asker {
    pub link: MultiplexedConnection,
    prefix: &'static str,
}

impl Asker {
    pub async fn new(redis: &Redis) -> Self {
        Self { link: redis.connect().await, prefix: "" }
    }

    pub fn under(mut self, prefix: &'static str) -> Self {
        self.prefix = prefix;
        self
    }

    /// Sends a request as it is.
    pub async fn cast(&mut self, raw: &[u8]) -> u64 {
        self.link.publish(format!("{}/0.celery.pidbox", self.prefix), raw).await.unwrap()
    }

    /// The one reply to a request that asks for one: headers and body.
    pub async fn call(&mut self, raw: &str) -> (Value, Value) {
        let oid = opened(raw).1["reply_to"]["routing_key"].as_str().unwrap().to_owned();
        let (list, bindings) =
            (format!("{}{}", self.prefix, list(&oid)), format!("{}{BINDINGS}", self.prefix));
        let _: usize = self.link.sadd(&bindings, member(&oid)).await.unwrap();
        self.cast(raw.as_bytes()).await;
        let (_, reply): (String, String) = within(self.link.brpop(&list, 20.0)).await.unwrap();
        let _: usize = self.link.srem(&bindings, member(&oid)).await.unwrap();
        opened(&reply)
    }

    /// Calls a method of `node`: what it answers.
    pub async fn ask(&mut self, node: &str, method: &str, arguments: Value) -> Value {
        let request = json!({
            "method": method, "arguments": arguments, "destination": [node], "ticket": "t-1",
            "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "asker"},
        });
        let (headers, mut body) = self.call(&sealed(&request)).await;
        assert_eq!(headers["ticket"], "t-1");
        body[node].take()
    }
}

pub fn list(oid: &str) -> String {
    format!("{oid}.reply.celery.pidbox")
}

pub fn member(oid: &str) -> String {
    format!("{oid}\x06\x16\x06\x16{oid}.reply.celery.pidbox")
}

/// Headers and body of a control message.
pub fn opened(raw: &str) -> (Value, Value) {
    let mut outer: Value = serde_json::from_str(raw).unwrap();
    let body = STANDARD.decode(outer["body"].as_str().unwrap()).unwrap();
    (outer["headers"].take(), serde_json::from_slice(&body).unwrap())
}

/// A control message with this body.
pub fn sealed(body: &Value) -> String {
    sealed_text(&body.to_string())
}

pub fn sealed_text(body: &str) -> String {
    json!({
        "body": STANDARD.encode(body), "content-encoding": "utf-8", "content-type": "application/json",
        "headers": {"clock": 5, "expires": 0},
        "properties": {
            "delivery_mode": 2, "delivery_info": {"exchange": "celery.pidbox", "routing_key": ""},
            "priority": 0, "body_encoding": "base64", "delivery_tag": "d",
        },
    })
    .to_string()
}

/// The first message of a capture.
pub fn captured(name: &str) -> Arc<Message> {
    let raw = entries(&format!("messages/{name}")).remove(0);
    let limits = Limits::default();
    let Peeked::Task(look) = Envelope::peek(raw.as_bytes(), &limits) else { panic!("{name} is a task") };
    Arc::new(Message::parse(&Bytes::from(raw), &look, "celery", &limits).unwrap())
}
