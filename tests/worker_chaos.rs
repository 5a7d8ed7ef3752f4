//! Nothing lost and nothing done twice: workers killed at any instant, Redis stopped under load.

use crate::support::{
    chance::Chance,
    lab::{Lab, Worker, eventually, files},
};
use redis::AsyncCommands;
use rna_backup::{celery::publish::Outgoing, domain::command::task};
use serde_json::json;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// As many instants as the promise names.
const KILLS: u32 = 200;

/// Every backup that was ordered has ended well, and exists once.
async fn each_is_done_once(lab: &Lab, ids: &[String]) {
    let mut backups = BTreeSet::new();
    for id in ids {
        let ended = lab.ended(id).await;
        assert_eq!(ended["status"], "SUCCESS", "{ended}");
        backups.insert(ended["result"]["backup_id"].as_str().unwrap().to_owned());
    }
    lab.settled().await;
    let manifests = lab.manifests("media");
    let makers: BTreeSet<_> = manifests.iter().map(|m| m["task_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(makers, ids.iter().cloned().collect(), "each task made a backup and nobody else did");
    assert_eq!((manifests.len(), backups.len()), (ids.len(), ids.len()), "and each made one");
    assert_eq!(
        files(&lab.backups().join("media")).len(),
        ids.len(),
        "an archive for each manifest, none besides"
    );
}

#[tokio::test]
async fn two_hundred_sigkills_lose_no_task_and_do_none_twice() {
    let seed = std::process::id().into();
    println!("seed {seed}");
    let mut chance = Chance::new(seed);
    let lab = Lab::new().set("RUST_LOG", "warn").set("BACKUP_CONCURRENCY", 4);
    let (mut backups, mut sets) = (Vec::new(), Vec::new());
    for kill in 0..KILLS {
        // A burst that goes on while workers die: more is ordered than one life can do.
        if kill % 2 == 0 {
            backups.push(lab.send(&Outgoing::new(task::BACKUP_MEDIA, "backups")).await);
        }
        if kill % 20 == 0 {
            sets.push(lab.order(task::FULL_BACKUP, json!({})).await);
        }
        let mut worker = lab.worker();
        // Not a wait for something: the instant of death is the point.
        tokio::time::sleep(Duration::from_millis(chance.below(150) as u64)).await;
        worker.kill();
        lab.forget_deaths().await;
    }
    let _worker = lab.worker();
    for set in &sets {
        let ended = lab.ended(set).await;
        assert_eq!(ended["status"], "SUCCESS", "{ended}");
        backups.push(ended["result"]["task_ids"]["media"].as_str().unwrap().to_owned());
    }
    each_is_done_once(&lab, &backups).await;
    println!("{KILLS} kills: {} backups, each made once", backups.len());
}

#[tokio::test]
async fn redis_stopped_and_started_under_load_loses_nothing() {
    let mut lab = Lab::new();
    let worker = lab.worker();
    worker.ready().await;
    let (mut ids, mut slowest) = (Vec::new(), Duration::ZERO);
    for round in 0..5 {
        for _ in 0..6 {
            ids.push(lab.send(&Outgoing::new(task::BACKUP_MEDIA, "backups")).await);
        }
        // In the middle of it: some are done, some are not.
        assert_eq!(lab.ended(&ids[round * 6]).await["status"], "SUCCESS");
        lab.redis.stop();
        let noticed = eventually(async || matches!(worker.http("/readyz").await, Some((503, _))));
        assert!(noticed.await, "the worker does not notice that Redis is gone");
        lab.redis.start_again();
        let back = Instant::now();
        let ping = lab.order(task::PING, json!({})).await;
        lab.ended(&ping).await;
        slowest = slowest.max(back.elapsed());
    }
    println!("after each return of Redis a new task was done within {slowest:?}");
    each_is_done_once(&lab, &ids).await;
    assert_eq!(worker.stop(), Some(0), "the worker lived through all of it");
}

#[tokio::test]
async fn a_worker_that_starts_before_redis_waits_for_it() {
    let mut lab = Lab::new();
    lab.redis.stop();
    let worker = lab.worker();
    let waits = eventually(async || matches!(worker.http("/readyz").await, Some((503, _))));
    assert!(waits.await, "{}", worker.log());
    lab.redis.start_again();
    let id = lab.order(task::PING, json!({})).await;
    assert_eq!(lab.ended(&id).await["result"], "pong");
}

/// Gives or takes commands of Redis, from then on.
async fn permit(lab: &Lab, rules: &[&str]) {
    let mut setuser = redis::cmd("ACL");
    setuser.arg("SETUSER").arg("default").arg(rules);
    setuser.exec_async(&mut lab.connection().await).await.unwrap();
}

/// The value of a gauge without labels, or with these.
async fn gauge(worker: &Worker, name: &str) -> Option<f64> {
    let (_, text) = worker.http("/metrics").await?;
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[tokio::test]
async fn a_redis_that_answers_and_forbids_to_take_is_no_broker_that_is_polled() {
    const POLLED: &str = "rna_backup_broker_last_poll_timestamp_seconds ";
    const WAITING: &str = "rna_backup_queue_length{queue=\"backups\"} ";
    let lab = Lab::new();
    let worker = lab.worker();
    worker.ready().await;
    permit(&lab, &["-eval", "-evalsha"]).await;
    assert!(eventually(async || worker.log().contains("cannot take tasks")).await, "{}", worker.log());
    let last = gauge(&worker, POLLED).await;
    let mut sender = lab.connection().await;
    for waiting in [1.0, 2.0] {
        let () = sender.lpush("backups", "{}").await.unwrap();
        // Whoever asks only how many wait gets an answer.
        assert!(
            eventually(async || gauge(&worker, WAITING).await == Some(waiting)).await,
            "{}",
            worker.log()
        );
    }
    assert_eq!(gauge(&worker, POLLED).await, last);
    permit(&lab, &["+eval", "+evalsha"]).await;
    assert!(eventually(async || gauge(&worker, POLLED).await > last).await, "{}", worker.log());
    assert_eq!(lab.ended(&lab.order(task::PING, json!({})).await).await["result"], "pong");
}

#[tokio::test]
async fn a_full_backup_whose_parts_redis_refuses_is_tried_again_and_fails() {
    let lab = Lab::new().set("BACKUP_MAX_RETRIES", 1).set("BACKUP_RETRY_DELAY", "100ms");
    let worker = lab.worker();
    worker.ready().await;
    let message = Outgoing::new(task::FULL_BACKUP, "backups");
    permit(&lab, &["-exists"]).await; // asked for only where tasks are sent
    let text = message.text();
    let () = lab.connection().await.lpush("backups", text).await.unwrap();
    let ended = lab.ended(message.id()).await;
    assert_eq!((&ended["status"], &ended["result"]["exc_type"]), (&json!("FAILURE"), &json!("RuntimeError")));
    assert!(ended["result"]["exc_message"][0].as_str().unwrap().contains("redis refuses"), "{ended}");
    let tries = worker.log().matches("task will be tried again").count();
    assert_eq!((tries, lab.manifests("media").len()), (1, 0), "{}", worker.log());
}
