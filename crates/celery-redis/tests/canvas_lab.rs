//! What the tests of canvases share: steps of a worker for a single message, and a broker with a Python
//! worker, a client, and a worker of ours in its smallest form.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use celery_redis::canvas::Canvas;
use celery_redis::consumer::{Consumer, Verdict};
use celery_redis::keys::Keys;
use celery_redis::lease::{Instance, Leases};
use celery_redis::message::{Envelope, Limits, Message, Peeked};
use celery_redis::result::{Backend, Exception, State, TaskResult};
use redis::{AsyncCommands, aio::MultiplexedConnection};
use serde_json::{Value, json};
use std::time::Duration;
use test_support::celery_lab::{Lab, client, within};
use test_support::python::{Client, Python, Worker};
use test_support::redis::Redis;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Seconds for anything that a client waits for.
const PATIENCE: u32 = 30;

/// Longer than any of these tests takes.
const EXPIRES: Duration = Duration::from_hours(1);

/// The queue that the app routes our tasks to.
const QUEUE: &str = "backups";

pub struct Mixed {
    pub redis: Redis,
    pub client: Client,
    pub worker: Worker,
    stop: CancellationToken,
    ours: JoinHandle<Vec<String>>,
    prefix: String,
}

impl Mixed {
    /// A Python worker of the one version and a client of the other's, or the same.
    pub async fn start(worker: Python, client: Python) -> Self {
        Self::with_prefixes(worker, client, "", "").await
    }

    /// The same with prefixes of the broker's and of the backend's keys.
    pub async fn with_prefixes(worker: Python, sender: Python, broker: &str, backend: &str) -> Self {
        let redis = Redis::start();
        let url = format!("{}?virtual_host=0", redis.url().replace("unix://", "redis+socket://"));
        let prefixed = |python: Python| {
            let options = |prefix: &str| json!({"global_keyprefix": prefix}).to_string();
            let python = if broker.is_empty() {
                python
            } else {
                python.set("CELERY_BROKER_TRANSPORT_OPTIONS", &options(broker))
            };
            if backend.is_empty() {
                python
            } else {
                python.set("CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS", &options(backend))
            }
        };
        let stop = CancellationToken::new();
        let leases = Leases::new(client(&redis), Keys::new(broker), Instance::here("ours@lab"));
        let backend = Backend::new(client(&redis), backend, EXPIRES);
        let ours = tokio::spawn(work(leases, backend, stop.clone()));
        let args = ["-Q", "celery", "-n", "py@lab", "--without-gossip", "--without-mingle"];
        let worker = prefixed(worker).worker(&url, &args).await;
        Self { client: prefixed(sender).client(&url), redis, worker, stop, ours, prefix: broker.to_owned() }
    }

    /// Runs a canvas to its end: what `.get()` says.
    pub async fn run(&mut self, canvas: &str) -> Value {
        let (id, _) = self.client.canvas(canvas).await;
        self.client.get(&id, PATIENCE).await
    }

    /// Runs a canvas that must succeed: its value.
    pub async fn value(&mut self, canvas: &str) -> Value {
        let mut answer = self.run(canvas).await;
        assert!(answer["error"].is_null(), "{canvas}: {answer}\n{}", self.worker.log());
        answer["value"].take()
    }

    /// Runs a canvas that must fail: class and text of what `.get()` of its last task raises.
    pub async fn error(&mut self, canvas: &str) -> (String, String) {
        let (id, _) = self.client.canvas(canvas).await;
        let get = json!({"do": "get", "id": id, "alone": true, "timeout": PATIENCE});
        let answer = self.client.ask(&get).await;
        let text = |key: &str| answer["error"][key].as_str().unwrap_or_default().to_owned();
        assert!(answer["error"].is_object() && text("class") != "TimeoutError", "{canvas}: {answer}");
        (text("class"), text("text"))
    }

    pub async fn link(&self) -> MultiplexedConnection {
        self.redis.connect().await
    }

    /// Waits until nothing is queued or in hand, and checks that the Python worker had no trouble but
    /// that of these texts.
    pub async fn settle(self, expected: &[&str]) {
        let mut link = self.link().await;
        within(async {
            loop {
                let mut left = 0;
                for list in ["celery", QUEUE] {
                    left += link.llen::<_, usize>(format!("{}{list}", self.prefix)).await.unwrap();
                }
                left += link.hlen::<_, usize>(format!("{}unacked", self.prefix)).await.unwrap();
                if left == 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        self.stop.cancel();
        let ours = self.ours.await.unwrap();
        // "Task name[id] received"
        let log = self.worker.log();
        let theirs = log.lines().filter_map(|line| line.strip_suffix("] received")?.rsplit('[').next());
        let mut ids: Vec<_> = theirs.chain(ours.iter().map(String::as_str)).collect();
        let (count, one_each) = (ids.len(), {
            ids.sort_unstable();
            ids.dedup();
            ids.len()
        });
        assert_eq!(count, one_each, "a task was sent twice");
        assert_eq!(self.worker.errors(expected), Vec::<String>::new(), "{}", self.worker.log());
    }
}

/// A worker in its smallest form; returns the ids of all tasks that it ran. Everything that follows from a task is done twice, by two that know
/// nothing of each other, as if the message had come back after a crash.
async fn work(leases: Leases, backend: Backend, stop: CancellationToken) -> Vec<String> {
    let mut done = Vec::new();
    let consumer = Consumer::new(leases.clone(), &[QUEUE.to_owned()]).unwrap();
    let canvas = || {
        Canvas::new(leases.client().clone(), leases.keys().clone(), backend.clone())
            .with_own(|task| task.starts_with("api.backup."))
    };
    let judge = |look: &Envelope| Verdict::take_if(look, |task| task.starts_with("api.backup."));
    while let Ok(Some(delivery)) = consumer.next(&judge, &stop).await {
        let message = delivery.content.unwrap();
        let mut result = run(&message).of(&message);
        if result.state == State::Success {
            let first = canvas().succeed(&message, &result.result, &stop).await.unwrap();
            let again = canvas().succeed(&message, &result.result, &stop).await.unwrap();
            assert_eq!(first, again);
            result.children = first;
        }
        if !message.task.ends_with("quiet") && message.ignore_result != Some(true) {
            backend.store(&result, &stop).await.unwrap();
        }
        canvas().end(&message, &result, &stop).await.unwrap();
        canvas().end(&message, &result, &stop).await.unwrap();
        delivery.lease.ack(&stop).await.unwrap();
        done.push(message.id);
    }
    done
}

fn run(message: &Message) -> TaskResult {
    let numbers = |values: &[Value]| values.iter().filter_map(Value::as_i64).sum::<i64>();
    let first = message.args.first().cloned().unwrap_or_default();
    let value = match message.task.rsplit('.').next().unwrap() {
        "add" => json!(numbers(&message.args)),
        "xsum" => json!(numbers(first.as_array().unwrap())),
        "stamps" => Value::Object(message.stamps.clone()),
        "same" | "quiet" | "errback" => first,
        _ => {
            let exception =
                Exception::builtin("ValueError", "boom").with_args(vec!["boom".into(), 42.into()]);
            return TaskResult::failure(&message.id, &exception, Some("ValueError: ('boom', 42)".to_owned()));
        }
    };
    TaskResult::new(&message.id, State::Success, value)
}

pub fn parse(raw: &str) -> Message {
    let Peeked::Task(look) = Envelope::peek(raw.as_bytes(), &Limits::default()) else { panic!("{raw}") };
    let queue = look.routing_key.clone().unwrap();
    Message::parse(&Bytes::from(raw.to_owned()), &look, &queue, &Limits::default()).unwrap()
}

/// The text of a message's body.
pub fn body_text(message: &Value) -> String {
    String::from_utf8(STANDARD.decode(message["body"].as_str().unwrap()).unwrap()).unwrap()
}

pub fn body(message: &Value) -> Value {
    serde_json::from_str(&body_text(message)).unwrap()
}

pub fn backend(lab: &Lab) -> Backend {
    Backend::new(lab.client.clone(), "", EXPIRES)
}

pub fn canvas(lab: &Lab) -> Canvas {
    Canvas::new(lab.client.clone(), Keys::default(), backend(lab))
}

/// What was sent to a queue since the last look, in order.
pub async fn taken(lab: &Lab, queue: &str) -> Vec<Value> {
    let sent = lab.list(queue).await;
    let () = lab.link().await.del(queue).await.unwrap();
    sent.iter().map(|raw| serde_json::from_str(raw).unwrap()).collect()
}

/// Does with a message what a worker does when its task has ended so.
pub async fn finish(lab: &Lab, message: &Message, state: State, value: Value) {
    let mut result = TaskResult::new(&message.id, state, value).of(message);
    if state == State::Success {
        result.children = canvas(lab).succeed(message, &result.result, &lab.stop).await.unwrap();
    }
    backend(lab).store(&result, &lab.stop).await.unwrap();
    canvas(lab).end(message, &result, &lab.stop).await.unwrap();
}

pub async fn stored(lab: &Lab, id: &str) -> Value {
    let text: Option<String> = lab.link().await.get(format!("celery-task-meta-{id}")).await.unwrap();
    text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
}
