//! Redis goes away, or refuses to write, in the midst of a task: the work goes on, and what it came to is stored
//! when Redis is back.

use crate::{
    catalog_rebuild::with_bucket,
    support::{
        lab::{Lab, Worker, eventually, files},
        s3::{Bucket, S3Server},
        s3_proxy::{Asked, BadLine, Line},
    },
};
use redis::AsyncCommands;
use rna_backup::domain::command::task;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
    mpsc,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// A lab with a bucket, whose line can be told to stop at a request.
struct Bench {
    lab: Lab,
    bucket: Bucket,
    line: BadLine,
    armed: Arc<AtomicBool>,
    reached: UnboundedReceiver<()>,
    go: mpsc::Sender<()>,
}

impl Bench {
    /// Once it is armed, it stops at the first request of a kind; from then on each of that kind gets `line`.
    async fn new(kind: fn(&Asked) -> bool, line: Line) -> Self {
        let mut config = S3Server::shared().bucket().await;
        let bucket = Bucket::of(&config);
        let (tell, reached) = unbounded_channel();
        let (go, wait) = mpsc::channel();
        let armed = Arc::new(AtomicBool::new(false));
        let (gate, mut is_past) = (Arc::clone(&armed), false);
        let rule = move |asked: &Asked| {
            if !kind(asked) {
                return Line::Good;
            }
            if gate.swap(false, Ordering::Relaxed) {
                tell.send(()).unwrap();
                wait.recv().unwrap();
                is_past = true;
            }
            if is_past { line.clone() } else { Line::Good }
        };
        let line = BadLine::to(&mut config, rule).await;
        let lab =
            with_bucket(Lab::new(), &config).set("BACKUP_RETENTION_DAYS", 0).set("BACKUP_RETRY_DELAY", "1h");
        Self { lab, bucket, line, armed, reached, go }
    }

    /// Orders a task, and waits until it has come to the request that it stops at, and shows its progress.
    async fn stopped(&mut self, worker: &Worker, name: &str) -> String {
        self.armed.store(true, Ordering::Relaxed);
        let id = self.lab.order(name, json!({})).await;
        self.reached.recv().await.unwrap();
        stored(&self.lab, &id, "PROGRESS", worker).await;
        id
    }

    /// Orders a task, has `outage` begin in its midst, and waits until its work is done without Redis: the log then
    /// says `done`.
    async fn order(&mut self, worker: &Worker, name: &str, outage: Outage, done: &str) -> String {
        let id = self.stopped(worker, name).await;
        outage.begin(&mut self.lab).await;
        self.go.send(()).unwrap();
        logged(worker, done).await;
        id
    }

    async fn manifests_in_bucket(&self) -> usize {
        self.bucket.objects().await.iter().filter(|key| key.starts_with("manifests/")).count()
    }
}

/// The archive goes to the bucket.
fn is_copy(asked: &Asked) -> bool {
    asked.is_put() && !asked.target.contains("/manifests/")
}

const QUOTA: &str = "<Error><Code>QuotaExceeded</Code></Error>";

/// A time without a Redis that can be written.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outage {
    /// Killed, and started again with its data.
    Killed,
    /// Connected, and silent.
    Silent,
    /// A replica for the time of a failover.
    ReadOnly,
    /// Its memory is full.
    Full,
}

const OUTAGES: [Outage; 4] = [Outage::Killed, Outage::Silent, Outage::ReadOnly, Outage::Full];

impl Outage {
    async fn begin(self, lab: &mut Lab) {
        match self {
            Self::Killed => lab.redis.stop(),
            Self::Silent => signal(lab, Signal::STOP),
            Self::ReadOnly => say(lab, &["REPLICAOF", "127.0.0.1", "1"]).await,
            Self::Full => say(lab, &["CONFIG", "SET", "maxmemory", "1"]).await,
        }
    }

    async fn end(self, lab: &mut Lab) {
        match self {
            Self::Killed => lab.redis.start_again(),
            Self::Silent => signal(lab, Signal::CONT),
            Self::ReadOnly => say(lab, &["REPLICAOF", "NO", "ONE"]).await,
            Self::Full => say(lab, &["CONFIG", "SET", "maxmemory", "0"]).await,
        }
    }
}

fn signal(lab: &Lab, signal: Signal) {
    kill_process(Pid::from_raw(lab.redis.pid().cast_signed()).unwrap(), signal).unwrap();
}

async fn say(lab: &Lab, words: &[&str]) {
    redis::cmd(words[0]).arg(&words[1..]).exec_async(&mut lab.connection().await).await.unwrap();
}

/// Waits until the worker has logged these words.
async fn logged(worker: &Worker, words: &str) {
    let found = eventually(async || worker.log().contains(words)).await;
    assert!(found, "no {words:?} in {}", worker.log());
}

/// Waits until a state is stored for the task, and returns all that is.
async fn stored(lab: &Lab, id: &str, state: &str, worker: &Worker) -> Value {
    let mut last = None;
    let found = eventually(async || {
        last = lab.result(id).await;
        last.as_ref().is_some_and(|result| result["status"] == state)
    });
    assert!(found.await, "not {state}: {last:?}\n{}", worker.log());
    last.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_lies_in_the_bucket_too_though_redis_goes_away_and_deletes_nothing_meanwhile() {
    // The others still tell whose the component is.
    for outage in [Outage::Killed, Outage::Silent] {
        let mut bench = Bench::new(is_copy, Line::Good).await;
        let older = bench.lab.json(&["backup", "media"])["backup_id"].clone();
        let worker = bench.lab.worker();
        worker.ready().await;
        let done = "nothing old is deleted after this backup";
        let id = bench.order(&worker, task::BACKUP_MEDIA, outage, done).await;
        assert_eq!(bench.manifests_in_bucket().await, 2, "{outage:?}");
        outage.end(&mut bench.lab).await;
        let result = bench.lab.ended(&id).await;
        assert_eq!(result["status"], "SUCCESS", "{outage:?}: {result}");
        assert!(result["result"]["s3_uri"].is_string(), "{outage:?}: {result}");
        assert_eq!(result["result"]["pruned"], json!([]), "{outage:?}");
        assert!(worker.log().contains("the copy counts anyway"), "{outage:?}: {}", worker.log());
        assert_eq!(bench.lab.manifests("media").len(), 2, "{outage:?}");
        bench.lab.settled().await;

        let next = bench.lab.ended(&bench.lab.order(task::BACKUP_MEDIA, json!({})).await).await;
        let pruned = json!([older, result["result"]["backup_id"]]);
        assert_eq!(next["result"]["pruned"], pruned, "{outage:?}: the next one makes up for it");
        assert_eq!(bench.manifests_in_bucket().await, 1, "{outage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_copy_stays_when_nobody_confirms_that_it_may_go() {
    let mut bench = Bench::new(is_copy, Line::Good).await;
    bench.lab = bench.lab.set("BACKUP_CLEANUP_LOCAL", "True");
    let worker = bench.lab.worker();
    worker.ready().await;
    let done = "nothing old is deleted after this backup";
    let id = bench.order(&worker, task::BACKUP_MEDIA, Outage::Killed, done).await;
    assert!(worker.log().contains("the local copy stays until retention removes it"), "{}", worker.log());
    Outage::Killed.end(&mut bench.lab).await;
    assert_eq!(bench.lab.ended(&id).await["status"], "SUCCESS");
    let copies = bench.lab.manifests("media")[0]["objects"].as_array().unwrap().len();
    assert_eq!((copies, files(&bench.lab.backups().join("media")).len()), (2, 1));
    // With the broker there, the next one goes from the local disk as ever.
    let next = bench.lab.ended(&bench.lab.order(task::BACKUP_MEDIA, json!({})).await).await;
    assert!(next["result"]["path"].as_str().unwrap().starts_with("s3://"), "{next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_given_up_when_another_worker_is_known_to_have_the_component() {
    let mut bench = Bench::new(is_copy, Line::Good).await;
    let worker = bench.lab.worker();
    worker.ready().await;
    let id = bench.stopped(&worker, task::BACKUP_MEDIA).await;
    let mut link = bench.lab.connection().await;
    let thief = r#"{"instance": "", "node": "backup@host9", "task": null, "token": 9}"#;
    let _: usize = link.hset("rna-backup:locks", "media", thief).await.unwrap();
    bench.go.send(()).unwrap();
    let result = stored(&bench.lab, &id, "RETRY", &worker).await;
    assert_eq!(result["result"]["exc_type"], "TimeoutError", "{result}");
    assert!(result["result"]["exc_message"][0].as_str().unwrap().contains("taken over by another worker"));
    assert_eq!(bench.manifests_in_bucket().await, 0);
    assert!(!worker.log().contains("the copy counts anyway"), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_that_redis_refuses_for_a_while_is_stored_when_it_takes_it() {
    for outage in [Outage::ReadOnly, Outage::Full] {
        let mut bench = Bench::new(is_copy, Line::Good).await;
        let worker = bench.lab.worker();
        worker.ready().await;
        let done = "backup is proven and in place";
        let id = bench.order(&worker, task::BACKUP_MEDIA, outage, done).await;
        outage.end(&mut bench.lab).await;
        let result = bench.lab.ended(&id).await;
        assert!(
            result["status"] == "SUCCESS" && result["result"]["s3_uri"].is_string(),
            "{outage:?}: {result}"
        );
        bench.lab.settled().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_could_not_be_stored_is_stored_when_redis_is_back_and_its_message_is_sent() {
    for outage in OUTAGES {
        let mut bench = Bench::new(is_copy, Line::Say(403, QUOTA.to_owned())).await;
        let worker = bench.lab.worker();
        worker.ready().await;
        let done = "task will be tried again";
        let id = bench.order(&worker, task::BACKUP_MEDIA, outage, done).await;
        outage.end(&mut bench.lab).await;
        let result = stored(&bench.lab, &id, "RETRY", &worker).await;
        let what = format!("{outage:?}: {result}\n{}", worker.log());
        assert_eq!(
            (&result["retries"], &result["result"]["exc_type"]),
            (&json!(0), &json!("OSError")),
            "{what}"
        );
        // In an hour: the worker holds the message of the next attempt until then.
        let mut link = bench.lab.connection().await;
        let renewed = eventually(async || {
            let held: Vec<String> = link.hvals("unacked").await.unwrap();
            let queued: Vec<String> = link.lrange("backups", 0, -1).await.unwrap();
            let message = held.into_iter().chain(queued).collect::<Vec<_>>();
            message.len() == 1 && message[0].contains("\"retries\": 1")
        });
        assert!(renewed.await, "{what}");
        assert_eq!(bench.lab.result(&id).await.unwrap()["status"], "RETRY", "{what}");
        assert!(!worker.log().contains("it is lost"), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_could_not_be_stored_is_stored_when_redis_is_back() {
    for outage in OUTAGES {
        let denied = "<Error><Code>AccessDenied</Code></Error>";
        let mut bench = Bench::new(is_copy, Line::Say(403, denied.to_owned())).await;
        let worker = bench.lab.worker();
        worker.ready().await;
        let id = bench.order(&worker, task::BACKUP_MEDIA, outage, "task failed").await;
        outage.end(&mut bench.lab).await;
        let result = bench.lab.ended(&id).await;
        assert_eq!(result["result"]["exc_type"], "PermissionError", "{outage:?}: {result}");
        bench.lab.settled().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_before_it_could_store_a_result_loses_none() {
    let mut bench = Bench::new(is_copy, Line::Good).await;
    let mut worker = bench.lab.worker();
    worker.ready().await;
    let done = "nothing old is deleted after this backup";
    let id = bench.order(&worker, task::BACKUP_MEDIA, Outage::Killed, done).await;
    worker.kill();
    Outage::Killed.end(&mut bench.lab).await;
    let worker = bench.lab.worker();
    let result = bench.lab.ended(&id).await;
    assert_eq!(result["status"], "SUCCESS", "{result}");
    assert!(worker.log().contains("this task has made its backup already"), "{}", worker.log());
    assert_eq!((bench.lab.manifests("media").len(), bench.manifests_in_bucket().await), (1, 1));
    bench.lab.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_waits_with_what_it_found_until_redis_is_back() {
    let is_read = |asked: &Asked| asked.is_get() && !asked.target.contains("/manifests/");
    let mut bench = Bench::new(is_read, Line::Good).await;
    bench.lab.json(&["backup", "media"]);
    let worker = bench.lab.worker();
    worker.ready().await;
    let done = "waiting for the broker to confirm the lock";
    let id = bench.order(&worker, task::VERIFY, Outage::Killed, done).await;
    let reads = bench.line.count(is_read);
    Outage::Killed.end(&mut bench.lab).await;
    let result = bench.lab.ended(&id).await;
    assert_eq!(result["status"], "SUCCESS", "{result}");
    assert_eq!(bench.line.count(is_read), reads, "nothing is read again");
    assert!(!worker.log().contains("tried again"), "{}", worker.log());
}
