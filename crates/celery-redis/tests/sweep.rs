//! What consumers of any language took and left comes back, once, and nothing else does.

use celery_redis::keys::Keys;
use celery_redis::lease::{Instance, Leases};
use celery_redis::sweep::LeaseKeeper;
use redis::{AsyncCommands, aio::MultiplexedConnection};
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Duration;
use test_support::celery_lab::{Lab, capture, client, message, next, until, within};
use test_support::python::Python;
use tokio_util::sync::CancellationToken;

const HOUR: Duration = Duration::from_hours(1);
const SEP: &str = "\x06\x16";

/// Puts an entry into `unacked` as kombu does, taken so many seconds ago.
async fn take_long_ago(
    link: &mut MultiplexedConnection,
    tag: &str,
    message: &str,
    to: (&str, &str),
    seconds: f64,
) {
    let (now, _): (f64, f64) = redis::cmd("TIME").query_async(link).await.unwrap();
    let entry = format!("[{message}, {}, {}]", json!(to.0), json!(to.1));
    let _: () = redis::pipe()
        .hset("unacked", tag, entry)
        .zadd("unacked_index", tag, now - seconds)
        .query_async(link)
        .await
        .unwrap();
}

fn with_priority(id: &str, priority: u8) -> String {
    let mut message: Value = serde_json::from_str(&message("python.t", id)).unwrap();
    message["properties"]["priority"] = priority.into();
    message.to_string()
}

async fn tags(link: &mut MultiplexedConnection) -> Vec<String> {
    let mut tags: Vec<String> = link.hkeys("unacked").await.unwrap();
    tags.sort();
    tags
}

#[tokio::test]
async fn what_is_overdue_goes_back_to_where_it_belongs_in_order_and_marked() {
    let lab = Lab::new();
    let mut link = lab.link().await;
    for (member, exchange) in [
        (format!("key{SEP}{SEP}of-direct"), "direct"),
        (format!("other{SEP}{SEP}of-other"), "direct"),
        (format!("lab.*{SEP}^lab\\.[^\\.]+${SEP}of-topic"), "topic"),
        (format!("lab.#{SEP}^lab\\..*?${SEP}of-topic-too"), "topic"),
    ] {
        let _: usize = link.sadd(format!("_kombu.binding.{exchange}"), member).await.unwrap();
    }
    let to_q = ("", "q");
    take_long_ago(&mut link, "1", &message("python.t", "oldest"), to_q, 7300.0).await;
    take_long_ago(&mut link, "2", &message("python.t", "newer"), to_q, 7200.0).await;
    take_long_ago(&mut link, "3", &message("python.t", "young"), to_q, 3000.0).await;
    take_long_ago(&mut link, "4", &with_priority("later", 7), to_q, 7200.0).await;
    take_long_ago(&mut link, "5", &message("python.t", "direct"), ("direct", "key"), 7200.0).await;
    take_long_ago(&mut link, "6", &message("python.t", "topic"), ("topic", "lab.gel"), 7200.0).await;

    assert_eq!(LeaseKeeper::new(lab.leases.clone(), HOUR).round().await.unwrap(), 5);
    assert_eq!(tags(&mut link).await, ["3"]);
    assert_eq!(link.zcard::<_, u32>("unacked_index").await.unwrap(), 1);
    assert!(!link.exists::<_, bool>("unacked_mutex").await.unwrap());
    let ids = async |list: &str| {
        let list = lab.list(list).await;
        list.iter()
            .map(|text| {
                let message: Value = serde_json::from_str(text).unwrap();
                assert_eq!(message["headers"]["redelivered"], true);
                assert_eq!(message["properties"]["delivery_info"]["redelivered"], true);
                message["headers"]["id"].as_str().unwrap().to_owned()
            })
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(ids("q").await, "oldest newer");
    assert_eq!(ids(&format!("q{SEP}6")).await, "later");
    assert_eq!(ids("of-direct").await, "direct");
    assert_eq!((ids("of-topic").await, ids("of-topic-too").await), ("topic".to_owned(), "topic".to_owned()));
    assert_eq!(ids("of-other").await, "");
}

#[tokio::test]
async fn what_has_no_queue_to_go_to_stays_where_it_is() {
    let lab = Lab::new();
    let mut link = lab.link().await;
    let whole = message("python.t", "1");
    take_long_ago(&mut link, "homeless", &whole, ("gone", "key"), 7200.0).await;
    take_long_ago(&mut link, "nowhere", &whole, ("", ""), 7200.0).await;
    take_long_ago(&mut link, "no-list", &whole, ("", "a-hash"), 7200.0).await;
    take_long_ago(&mut link, "no-message", "1", ("", "q"), 7200.0).await;
    // Behind all of these, more than are looked at in one step.
    for n in 0..120 {
        take_long_ago(&mut link, &format!("x{n}"), "[]", ("", "q"), 7300.0).await;
    }
    take_long_ago(&mut link, "last", &whole, ("", "q"), 7400.0).await;
    let _: usize = link.hset("a-hash", "x", 1).await.unwrap();
    let _: usize = link.zadd("unacked_index", "without-message", 1).await.unwrap();
    assert_eq!(LeaseKeeper::new(lab.leases.clone(), HOUR).round().await.unwrap(), 1);
    assert_eq!(link.hlen::<_, u32>("unacked").await.unwrap(), 124);
    assert_eq!(link.zcard::<_, u32>("unacked_index").await.unwrap(), 124);
    assert_eq!(lab.list("q").await.len(), 1);
}

#[tokio::test]
async fn a_long_message_goes_back_as_it_is() {
    let lab = Lab::new();
    let mut link = lab.link().await;
    let long = with_priority("1", 3).replace("[[], ", &format!("[[\\\"{}\\\"], ", "x".repeat(3 << 20)));
    take_long_ago(&mut link, "1", &long, ("", "q"), 7200.0).await;
    assert_eq!(LeaseKeeper::new(lab.leases.clone(), HOUR).round().await.unwrap(), 1);
    let list = lab.list(&format!("q{SEP}3")).await;
    assert!(list == [long], "{} entries", list.len());
}

#[tokio::test]
async fn what_a_live_worker_of_ours_holds_is_not_touched_however_old_it_looks() {
    let lab = Lab::new();
    lab.push(&[message("ours", "1")]).await;
    let delivery = next(&lab.consumer()).await;
    let mut link = lab.link().await;
    let _: usize = link.zadd("unacked_index", "tag-1", 1.5).await.unwrap();
    let other = Leases::new(client(&lab.redis), Keys::default(), Instance::here("other@lab"));
    assert_eq!(LeaseKeeper::new(other, HOUR).round().await.unwrap(), 0);
    assert_eq!(lab.unacked().await, ["tag-1"]);
    delivery.lease.ack(&lab.stop).await.unwrap();
}

#[tokio::test]
async fn the_sweep_waits_for_whoever_has_the_mutex() {
    let lab = Lab::new();
    let mut link = lab.link().await;
    take_long_ago(&mut link, "1", &message("python.t", "1"), ("", "q"), 7200.0).await;
    let _: () = link.set("unacked_mutex", "somebody").await.unwrap();
    assert_eq!(LeaseKeeper::new(lab.leases.clone(), HOUR).round().await.unwrap(), 0);
    assert_eq!(link.get::<_, String>("unacked_mutex").await.unwrap(), "somebody");
    let _: () = link.del("unacked_mutex").await.unwrap();
    assert_eq!(LeaseKeeper::new(lab.leases.clone(), HOUR).round().await.unwrap(), 1);
}

#[tokio::test]
async fn what_a_killed_python_worker_left_in_the_captures_comes_back() {
    let lab = Lab::new();
    let mut link = lab.link().await;
    let capture = capture("transport/unacked-after-kill9.536");
    let seen = capture["seen"].as_array().unwrap();
    let raw = |key: &str| &seen.iter().find(|entry| entry["redis_key"] == key).unwrap()["raw"];
    let entries = raw("unacked").as_object().unwrap();
    for (tag, entry) in entries {
        let _: usize = link.hset("unacked", tag, entry.as_str().unwrap()).await.unwrap();
        let _: usize = link.zadd("unacked_index", tag, 1.5).await.unwrap();
    }
    assert_eq!(LeaseKeeper::new(lab.leases.clone(), HOUR).round().await.unwrap(), entries.len());
    let back = lab.list("celery").await;
    for entry in entries.values() {
        let message = &serde_json::from_str::<Value>(entry.as_str().unwrap()).unwrap()[0];
        let same = |text: &&String| {
            let back: Value = serde_json::from_str(text).unwrap();
            back["body"] == message["body"] && back["headers"]["id"] == message["headers"]["id"]
        };
        assert_eq!(back.iter().filter(same).count(), 1, "{}", message["headers"]["id"]);
    }
}

/// An app whose task writes its argument to the list `began`, then waits for an entry of `go`. Run as
/// a script it sends three such tasks, or with an argument does nothing but sweep.
const APP: &str = r#"
import os, redis, sys
from celery import Celery
app = Celery("t", broker=os.environ["URL"], backend=os.environ["URL"])
app.conf.broker_transport_options = {"visibility_timeout": 1}
app.conf.worker_prefetch_multiplier = 4
@app.task(name="t.late", acks_late=True)
def late(n):
    link = redis.Redis(unix_socket_path=os.environ["SOCKET"])
    link.rpush("began", n)
    link.blpop("go", 0)
    link.rpush("done", n)
if len(sys.argv) > 1 and sys.argv[1] == "sweep":
    app.conf.broker_transport_options = {"visibility_timeout": 60}
    with app.connection_for_read() as connection:
        while True:
            connection.default_channel.qos.restore_visible(interval=1)
            connection.default_channel.client.incr("sweeps")
elif __name__ == "__main__":
    for n in range(3):
        late.apply_async((n,), queue="q", priority=n * 3)
"#;

struct PythonApp {
    python: Python,
    dir: tempfile::TempDir,
    socket: String,
}

impl PythonApp {
    fn new(python: Python, lab: &Lab) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("t.py"), APP).unwrap();
        Self { python, dir, socket: lab.redis.url().replace("unix://", "") }
    }

    fn command(&self, args: &[&str]) -> tokio::process::Command {
        let mut command = self.python.command();
        command.args(args).current_dir(self.dir.path());
        command.env("URL", format!("redis+socket://{}", self.socket)).env("SOCKET", &self.socket);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    async fn send(&self) {
        assert!(self.command(&["t.py"]).status().await.unwrap().success());
    }

    fn worker(&self) -> tokio::process::Child {
        let args = "-m celery -A t worker -P threads -c 1 -Q q --without-mingle --without-gossip";
        self.command(&args.split(' ').collect::<Vec<_>>()).spawn().unwrap()
    }
}

#[tokio::test]
async fn what_a_killed_python_worker_held_comes_back_where_no_python_worker_is_left() {
    for python in Python::both() {
        let lab = Lab::new();
        let mut link = lab.link().await;
        let app = PythonApp::new(python, &lab);
        app.send().await;
        let mut worker = app.worker();
        // One runs, and it has taken the others beside it.
        until(async || link.hlen::<_, u32>("unacked").await.unwrap() == 3).await;
        until(async || link.llen::<_, u32>("began").await.unwrap() == 1).await;
        worker.kill().await.unwrap();

        let stop = CancellationToken::new();
        let keeper =
            tokio::spawn(LeaseKeeper::new(lab.leases.clone(), Duration::from_secs(1)).run(stop.clone()));
        until(async || link.hlen::<_, u32>("unacked").await.unwrap() == 0).await;
        for n in 0..3 {
            let list = if n == 0 { "q".to_owned() } else { format!("q{SEP}{}", n * 3) };
            let list = lab.list(&list).await;
            let message: Value = serde_json::from_str(&list[0]).unwrap();
            assert_eq!((list.len(), &message["headers"]["argsrepr"]), (1, &format!("({n},)").into()));
            assert_eq!(message["headers"]["redelivered"], true);
        }
        // And a Python worker runs what came back.
        for _ in 0..3 {
            let _: usize = link.rpush("go", 1).await.unwrap();
        }
        let _worker = app.worker();
        until(async || link.llen::<_, u32>("done").await.unwrap() == 3).await;
        let mut done: Vec<String> = link.lrange("done", 0, -1).await.unwrap();
        done.sort();
        assert_eq!(done, ["0", "1", "2"]);
        stop.cancel();
        within(keeper).await.unwrap();
    }
}

#[tokio::test]
async fn python_and_ours_that_sweep_at_once_bring_each_message_back_once() {
    for python in Python::both() {
        let lab = Lab::new();
        let mut link = lab.link().await;
        let app = PythonApp::new(python, &lab);
        let _python = app.command(&["t.py", "sweep"]).spawn().unwrap();
        let python_sweeps = async || {
            let sweeps: Option<u32> = lab.link().await.get("sweeps").await.unwrap();
            sweeps.unwrap_or_default()
        };
        until(async || python_sweeps().await > 0).await;
        let (mut sent, mut ours) = (0, 0);
        // Until both have had their share.
        while ours == 0 || ours == sent {
            for n in sent..sent + 100 {
                let message = message("python.t", &n.to_string());
                take_long_ago(&mut link, &format!("tag-{n}"), &message, ("", "q"), 7200.0).await;
            }
            sent += 100;
            while link.hlen::<_, u32>("unacked").await.unwrap() > 0 {
                // A new one looks at once.
                let mut keeper = LeaseKeeper::new(lab.leases.clone(), Duration::from_mins(1));
                ours += keeper.round().await.unwrap();
            }
        }
        let id = |text: &String| {
            let message: Value = serde_json::from_str(text).unwrap();
            message["headers"]["id"].as_str().unwrap().parse::<usize>().unwrap()
        };
        let mut back: Vec<_> = lab.list("q").await.iter().map(id).collect();
        back.sort_unstable();
        assert!(back == (0..sent).collect::<Vec<_>>(), "{} of {sent} messages", back.len());
        println!("of {sent} messages ours gave {ours} back, python the others");
    }
}
