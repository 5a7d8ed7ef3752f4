//! Nothing is lost when workers or Redis die: leases come back, consumers resume.

use celery_redis::CeleryError;
use celery_redis::consumer::{Consumer, Notice};
use celery_redis::keys::Keys;
use celery_redis::lease::{Instance, Leases, Record};
use celery_redis::sweep::LeaseKeeper;
use redis::AsyncCommands;
use serde_json::Value;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::celery_lab::{Lab, client, content, judge, message, next, until, within};
use test_support::redis::Redis;
use tokio_util::sync::CancellationToken;

const HOUR: Duration = Duration::from_hours(1);

/// A process that does nothing until it is killed.
fn process() -> Child {
    Command::new("sleep").arg("1000").spawn().unwrap()
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The record of another process on this machine.
fn record_of(child: &Child) -> Record {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let started = stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap();
    Record { pid: child.id(), started: Some(started), ..Instance::here("other@lab").record().clone() }
}

fn elsewhere() -> Record {
    Record { boot_id: Some("another-machine".to_owned()), ..Instance::here("far@lab").record().clone() }
}

/// The leases of another worker on the same Redis.
fn other(lab: &Lab, record: Record) -> Leases {
    Leases::new(client(&lab.redis), Keys::default(), Instance::new(record))
}

fn consumer(leases: &Leases) -> Consumer {
    Consumer::new(leases.clone(), &["q".to_owned()]).unwrap()
}

/// Takes `count` messages and goes away without a word, as a killed process does.
async fn take_and_vanish(leases: &Leases, count: usize) {
    let consumer = consumer(leases);
    for _ in 0..count {
        std::mem::forget(next(&consumer).await.lease);
    }
}

#[tokio::test]
async fn what_a_killed_process_held_comes_back_at_once_and_in_order() {
    let lab = Lab::new();
    lab.push(&(0..4).map(|n| message("ours", &n.to_string())).collect::<Vec<_>>()).await;
    let child = process();
    take_and_vanish(&other(&lab, record_of(&child)), 3).await;

    let mut keeper = LeaseKeeper::new(lab.leases.clone(), HOUR).with_patience(Duration::ZERO);
    assert_eq!(keeper.round().await.unwrap(), 0, "it is alive");
    kill(child);
    assert_eq!(keeper.round().await.unwrap(), 3);
    assert_eq!(lab.unacked().await, [""; 0]);
    let consumer = lab.consumer();
    for n in 0..4 {
        let delivery = next(&consumer).await;
        assert_eq!((content(&delivery).id.clone(), content(&delivery).redelivered), (n.to_string(), n < 3));
        delivery.lease.ack(&lab.stop).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_worker_elsewhere_held_comes_back_when_its_record_has_ended() {
    let lab = Lab::new();
    lab.push(&[message("ours", "1")]).await;
    let far = other(&lab, elsewhere());
    take_and_vanish(&far, 1).await;

    let mut link = lab.link().await;
    let record = Keys::default().worker(far.instance().id());
    let life: u64 = link.pttl(&record).await.unwrap();
    assert!((15_000..=20_000).contains(&life), "{life} ms");
    let mut patient = LeaseKeeper::new(lab.leases.clone(), HOUR);
    let mut keeper = LeaseKeeper::new(lab.leases.clone(), HOUR).with_patience(Duration::ZERO);
    assert_eq!(keeper.round().await.unwrap(), 0, "its record says that it is alive");
    let _: usize = link.del(&record).await.unwrap();
    assert_eq!(patient.round().await.unwrap(), 0, "all records end while Redis is down");
    assert_eq!(keeper.round().await.unwrap(), 1);
    assert_eq!(content(&next(&lab.consumer()).await).id, "1");
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_comes_back_and_what_is_in_hand_stays() {
    let lab = Lab::new();
    lab.push(&[message("ours", "1"), message("ours", "2")]).await;
    let known = next(&lab.consumer()).await;
    // The same instance, but these leases are not in the hands of `lab.leases`.
    let unknown = Leases::new(lab.client.clone(), Keys::default(), lab.leases.instance().clone());
    take_and_vanish(&unknown, 1).await;
    let mut keeper = LeaseKeeper::new(lab.leases.clone(), HOUR);
    assert_eq!(keeper.round().await.unwrap(), 1);
    assert_eq!(lab.unacked().await, ["tag-1"]);
    assert_eq!(content(&next(&lab.consumer()).await).id, "2");
    known.lease.ack(&lab.stop).await.unwrap();
}

#[tokio::test]
async fn a_dropped_lease_comes_back() {
    let lab = Lab::new();
    lab.push(&[message("ours", "1")]).await;
    let delivery = next(&lab.consumer()).await;
    assert_eq!(lab.leases.in_hand(), ["tag-1"]);
    drop(delivery);
    assert_eq!(lab.leases.in_hand(), [""; 0]);
    let stop = CancellationToken::new();
    let keeper = tokio::spawn(LeaseKeeper::new(lab.leases.clone(), HOUR).run(stop.clone()));
    let again = next(&lab.consumer()).await;
    assert!(content(&again).redelivered);
    again.lease.ack(&lab.stop).await.unwrap();
    stop.cancel();
    within(keeper).await.unwrap();
    let left: Vec<String> = lab.link().await.keys("*").await.unwrap();
    assert_eq!(left, [""; 0], "the record is removed at the end");
}

#[tokio::test]
async fn what_python_put_back_and_took_is_left_to_it() {
    let lab = Lab::new();
    lab.push(&[message("ours", "1"), message("ours", "2")]).await;
    let mine = next(&lab.consumer()).await;
    let child = process();
    take_and_vanish(&other(&lab, record_of(&child)), 1).await;
    kill(child);
    // As after a sweep by visibility timeout: other entries under the same tags, known to kombu alone.
    let mut link = lab.link().await;
    for tag in ["tag-1", "tag-2"] {
        let _: usize =
            link.hset("unacked", tag, r#"[{"headers": {"redelivered": true}}, "", "q"]"#).await.unwrap();
    }
    let mut keeper = LeaseKeeper::new(lab.leases.clone(), HOUR);
    assert_eq!(keeper.round().await.unwrap(), 0);
    let error = mine.lease.ack(&lab.stop).await.unwrap_err();
    assert!(matches!(error, CeleryError::LeaseLost { .. }), "{error:?}");
    assert_eq!(link.hlen::<_, usize>("unacked").await.unwrap(), 2);
    assert_eq!(link.zcard::<_, usize>("unacked_index").await.unwrap(), 2);
    assert_eq!(link.hlen::<_, usize>("celery-redis:leases").await.unwrap(), 0);
}

#[tokio::test]
async fn a_lease_whose_message_is_gone_is_forgotten() {
    let lab = Lab::new();
    lab.push(&[message("ours", "1")]).await;
    let child = process();
    take_and_vanish(&other(&lab, record_of(&child)), 1).await;
    kill(child);
    let mut link = lab.link().await;
    let _: usize = link.hdel("unacked", "tag-1").await.unwrap();
    assert_eq!(LeaseKeeper::new(lab.leases.clone(), HOUR).round().await.unwrap(), 0);
    assert_eq!(lab.unacked().await, [""; 0]);
    assert_eq!(lab.list("q").await, [""; 0]);
}

#[tokio::test]
async fn what_is_in_hand_looks_freshly_taken_to_kombu() {
    let lab = Lab::new();
    lab.push(&[message("ours", "1")]).await;
    let delivery = next(&lab.consumer()).await;
    let mut link = lab.link().await;
    let taken: f64 = link.zscore("unacked_index", "tag-1").await.unwrap();
    for tag in ["tag-1", "of-others"] {
        let _: usize = link.zadd("unacked_index", tag, taken - 60.5).await.unwrap();
    }
    LeaseKeeper::new(lab.leases.clone(), HOUR).round().await.unwrap();
    assert!(link.zscore::<_, _, f64>("unacked_index", "tag-1").await.unwrap() >= taken);
    let others: f64 = link.zscore("unacked_index", "of-others").await.unwrap();
    assert!((others - (taken - 60.5)).abs() < 1e-3, "only its own worker renews it");
    delivery.lease.ack(&lab.stop).await.unwrap();
}

#[tokio::test]
async fn a_worker_resumes_by_itself_when_redis_returns() {
    let mut lab = Lab::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hear = Arc::clone(&heard);
    let consumer = lab.consumer().on_notice(move |notice| hear.lock().unwrap().push(notice));
    let stop = CancellationToken::new();
    let keeper = tokio::spawn(LeaseKeeper::new(lab.leases.clone(), HOUR).run(stop.clone()));
    lab.push(&[message("ours", "0")]).await;
    let mut in_hand = next(&consumer).await;

    for id in ["1", "2", "3"] {
        lab.redis.stop();
        let never = CancellationToken::new();
        let consume = within(consumer.next(&judge, &never));
        let ack = in_hand.lease.ack(&never);
        let meddle = async {
            // Both have met the loss before Redis returns.
            until(async || matches!(heard.lock().unwrap().last(), Some(Notice::Lost { .. }))).await;
            until(async || !*lab.client.connected().borrow()).await;
            lab.redis.start_again();
            lab.push(&[message("ours", id)]).await;
        };
        let (delivery, acked, ()) = tokio::join!(consume, ack, meddle);
        acked.unwrap();
        in_hand = delivery.unwrap().unwrap();
        assert_eq!(content(&in_hand).id, id);
        assert_eq!(heard.lock().unwrap().last(), Some(&Notice::Back));
        assert_eq!(lab.unacked().await, [format!("tag-{id}")]);
    }
    assert!(lab.client.reconnects() >= 3);
    in_hand.lease.ack(&lab.stop).await.unwrap();
    stop.cancel();
    within(keeper).await.unwrap();
}

#[tokio::test]
async fn under_load_a_restart_of_redis_loses_nothing() {
    let mut lab = Lab::new();
    lab.push(&(0..500).map(|n| message("ours", &format!("{n:03}"))).collect::<Vec<_>>()).await;
    let stop = CancellationToken::new();
    let keeper = tokio::spawn(LeaseKeeper::new(lab.leases.clone(), HOUR).run(stop.clone()));
    let done = Arc::new(Mutex::new(Vec::new()));
    let worker = tokio::spawn({
        let (consumer, done, stop) = (lab.consumer(), Arc::clone(&done), stop.clone());
        async move {
            while let Some(delivery) = consumer.next(&judge, &stop).await.unwrap() {
                done.lock().unwrap().push(content(&delivery).id.clone());
                delivery.lease.ack(&stop).await.unwrap();
            }
        }
    });
    for part in 1..=4 {
        until(async || done.lock().unwrap().len() > part * 100).await;
        lab.redis.stop();
        lab.redis.start_again();
    }
    let all: Vec<_> = (0..500).map(|n| format!("{n:03}")).collect();
    until(async || all.iter().all(|id| done.lock().unwrap().contains(id))).await;
    until(async || lab.link().await.hlen::<_, usize>("unacked").await.unwrap() == 0).await;
    assert_eq!(lab.list("q").await, [""; 0]);
    stop.cancel();
    within(async { tokio::join!(worker, keeper) }).await.0.unwrap();
}

#[tokio::test]
async fn scripts_are_loaded_again_when_the_server_has_forgotten_them() {
    let lab = Lab::new();
    let consumer = lab.consumer();
    for id in ["1", "2"] {
        lab.push(&[message("ours", id)]).await;
        redis::cmd("SCRIPT").arg("FLUSH").exec_async(&mut lab.link().await).await.unwrap();
        let delivery = next(&consumer).await;
        redis::cmd("SCRIPT").arg("FLUSH").exec_async(&mut lab.link().await).await.unwrap();
        delivery.lease.ack(&lab.stop).await.unwrap();
    }
}

#[tokio::test]
async fn a_read_only_server_is_waited_for() {
    let lab = Lab::new();
    let consumer = lab.consumer();
    let mut link = lab.link().await;
    lab.push(&[message("ours", "1")]).await;
    // A replica of nobody keeps its data and refuses writes.
    redis::cmd("REPLICAOF").arg("127.0.0.1").arg("1").exec_async(&mut link).await.unwrap();
    let promote = async {
        let refused = async || {
            let info: String =
                redis::cmd("INFO").arg("errorstats").query_async(&mut lab.link().await).await.unwrap();
            info.contains("READONLY")
        };
        until(refused).await;
        redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec_async(&mut lab.link().await).await.unwrap();
    };
    let (delivery, ()) = tokio::join!(next(&consumer), promote);
    assert_eq!(content(&delivery).id, "1");
}

#[tokio::test]
async fn a_silent_server_is_noticed() {
    let lab = Lab::new();
    lab.push(&[message("ours", "1")]).await;
    let delivery = next(&lab.consumer()).await;
    let signal = |name: &str| {
        let pid = lab.redis.pid().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    lab.client.ping().await.unwrap();
    signal("-STOP");
    let mut connected = lab.client.connected();
    let wake = async {
        within(connected.wait_for(|connected| !connected)).await.unwrap();
        signal("-CONT");
    };
    let (acked, ()) = tokio::join!(delivery.lease.ack(&lab.stop), wake);
    acked.unwrap();
    assert_eq!(lab.unacked().await, [""; 0]);
}

#[tokio::test]
async fn a_wrong_password_is_an_error_and_not_a_wait() {
    let lab = Lab::on(Redis::start_with(&["--requirepass", "right"]));
    let error = within(lab.consumer().next(&judge, &lab.stop)).await.unwrap_err();
    assert!(matches!(error, CeleryError::Refused { .. }) && !error.is_transient(), "{error:?}");

    let url = lab.redis.url().replace("unix://", "unix://:right@");
    let options = celery_redis::client::ConnectOptions::parse(&url).unwrap();
    celery_redis::client::Client::new(options).unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn a_record_tells_who_a_worker_is() {
    let lab = Lab::new();
    LeaseKeeper::new(lab.leases.clone(), HOUR).round().await.unwrap();
    let key = Keys::default().worker(lab.leases.instance().id());
    let text: String = lab.link().await.get(key).await.unwrap();
    let record: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&record["node"], &record["pid"]), (&"test@lab".into(), &std::process::id().into()));
    for field in ["host", "boot_id", "pid_ns", "started"] {
        assert!(!record[field].is_null(), "{field}");
    }
}

/// A Redis that refuses to write refuses it to all: who is first to write again finds the records of the others ended.
#[tokio::test]
async fn after_a_time_of_refusals_the_others_are_not_taken_for_dead_at_once() {
    const PATIENCE: Duration = Duration::from_secs(5);
    let lab = Lab::new();
    let limit = async |bytes: &str| {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("maxmemory").arg(bytes).exec_async(&mut lab.link().await).await.unwrap();
    };
    let mut keeper = LeaseKeeper::new(lab.leases.clone(), HOUR).with_patience(PATIENCE);
    assert_eq!(keeper.round().await.unwrap(), 0);
    let begun = std::time::Instant::now();
    until(async || begun.elapsed() > PATIENCE).await;
    lab.push(&[message("ours", "1")]).await;
    take_and_vanish(&other(&lab, elsewhere()), 1).await;
    limit("1").await;
    keeper.round().await.unwrap_err();
    limit("0").await;
    assert_eq!(keeper.round().await.unwrap(), 0, "it may still come back");
    until(async || keeper.round().await.unwrap() == 1).await;
}
