//! What operators do to a running worker: revoke, terminate, limit, resize, shut down.

use crate::support::{
    lab::{Lab, eventually, files, unfinished},
    python::Python,
};
use jiff::{SignedDuration, Timestamp};
use redis::AsyncCommands;
use rna_backup::{celery::publish::Outgoing, domain::command::task};
use rustix::process::Signal;
use serde_json::{Value, json};

/// State, exception and its arguments of a task that ended.
fn ended_by(result: &Value) -> (&str, &str, &Value) {
    let exception = &result["result"];
    (result["status"].as_str().unwrap(), exception["exc_type"].as_str().unwrap(), &exception["exc_message"])
}

/// Nothing of a stopped backup is left: no archive, no manifest, no partial file, no message.
async fn nothing_is_left(lab: &Lab) {
    lab.settled().await;
    assert_eq!(unfinished(&lab.backups()).len(), 0);
    for folder in ["media", "manifests/media"] {
        assert_eq!(files(&lab.backups().join(folder)).len(), 0, "{folder}");
    }
}

fn in_an_hour() -> Timestamp {
    Timestamp::now() + SignedDuration::from_hours(1)
}

#[tokio::test]
async fn a_revoked_task_does_not_run_whether_it_comes_later_or_waits_for_its_time_or_in_its_queue() {
    let lab = Lab::endless();
    let worker = lab.worker();
    worker.ready().await;
    let mut python = Python::newest().client(&lab.celery_url());
    let running = lab.order(task::BACKUP_MEDIA, json!({})).await;
    lab.under_way().await;

    let to_come = Outgoing::new(task::PING, "backups");
    let early = lab.send(&Outgoing::new(task::FULL_BACKUP, "backups").eta(in_an_hour())).await;
    let scheduled =
        eventually(async || python.control("scheduled", json!({})).await[0]["request"]["id"] == json!(early));
    assert!(scheduled.await, "{}", worker.log());
    let behind = lab.order(task::BACKUP_MEDIA, json!({})).await; // its component is busy for ever
    let ids = json!([to_come.id(), early, behind]);
    python.control("revoke", json!({"task_id": ids})).await;
    lab.send(&to_come).await;
    for id in ids.as_array().unwrap() {
        let result = lab.ended(id.as_str().unwrap()).await;
        assert_eq!(ended_by(&result), ("REVOKED", "TaskRevokedError", &json!(["revoked"])));
    }
    let got = python.get(&behind, 10).await;
    assert_eq!(got["error"]["class"], "TaskRevokedError", "{got}");
    assert_ne!(lab.result(&running).await.unwrap()["status"], "REVOKED");

    python.control("revoke", json!({"task_id": running})).await;
    assert_eq!(
        python.control("active", json!({})).await[0]["id"],
        json!(running),
        "without terminate it runs on"
    );
    python.control("revoke", json!({"task_id": running, "terminate": true, "signal": "SIGTERM"})).await;
    let result = lab.ended(&running).await;
    assert_eq!(ended_by(&result), ("REVOKED", "TaskRevokedError", &json!(["terminated"])));
    nothing_is_left(&lab).await;
    assert_eq!(worker.stop(), Some(0));
}

#[tokio::test]
async fn a_task_over_its_time_limit_is_stopped_with_the_exception_that_celery_raises() {
    let lab = Lab::endless().set("BACKUP_TIME_LIMIT", "1s");
    let _worker = lab.worker();
    let mut python = Python::celery_5_3().client(&lab.celery_url());
    let by_setting = lab.order(task::BACKUP_MEDIA, json!({})).await;
    assert_eq!(ended_by(&lab.ended(&by_setting).await), ("FAILURE", "TimeLimitExceeded", &json!([1])));
    let limits = json!({"time_limit": 300, "soft_time_limit": 0.2});
    let request = json!({"task": task::BACKUP_MEDIA, "options": limits});
    let soft = python.send(request).await;
    assert_eq!(ended_by(&lab.ended(&soft).await), ("FAILURE", "SoftTimeLimitExceeded", &json!([])));
    let got = python.get(&soft, 10).await;
    assert_eq!(got["error"]["module"], "billiard.exceptions", "{got}");

    let limits = json!({"task_name": task::BACKUP_MEDIA, "soft": 0.1, "hard": 0.3});
    assert_eq!(python.control("time_limit", limits).await, json!({"ok": "time limits set successfully"}));
    let by_control = lab.order(task::BACKUP_MEDIA, json!({})).await;
    assert_eq!(ended_by(&lab.ended(&by_control).await).1, "SoftTimeLimitExceeded");
    nothing_is_left(&lab).await;
}

#[tokio::test]
async fn a_ping_is_answered_while_all_places_are_taken_and_other_work_waits_in_its_queue() {
    let lab = Lab::endless().set("BACKUP_CONCURRENCY", 1);
    let worker = lab.worker();
    let running = lab.order(task::BACKUP_MEDIA, json!({})).await;
    lab.under_way().await;
    let list = lab.order(task::LIST, json!({})).await;
    let ping = lab.order(task::PING, json!({})).await;
    assert_eq!(lab.ended(&ping).await["result"], "pong");
    assert_eq!(lab.connection().await.llen::<_, u64>("backups").await.unwrap(), 1, "it is not hoarded");

    let mut python = Python::newest().client(&lab.celery_url());
    assert_eq!(python.control("pool_grow", json!({"n": 1})).await, json!({"ok": "pool will grow"}));
    assert_eq!(lab.ended(&list).await["status"], "SUCCESS", "there is a place more");
    python.control("pool_shrink", json!({"n": 1})).await;
    let list = lab.order(task::LIST, json!({})).await;
    assert_eq!(python.control("stats", json!({})).await["pool"]["max-concurrency"], 1);
    assert_eq!(lab.connection().await.llen::<_, u64>("backups").await.unwrap(), 1);
    python.control("revoke", json!({"task_id": running, "terminate": true})).await;
    assert_eq!(lab.ended(&list).await["status"], "SUCCESS");
    drop(worker);
}

#[tokio::test]
async fn a_task_that_waits_for_a_component_leaves_its_place_to_another() {
    let lab = Lab::endless().set("BACKUP_CONCURRENCY", 2);
    let worker = lab.worker();
    let running = lab.order(task::BACKUP_MEDIA, json!({})).await;
    lab.under_way().await;
    let waiting = [
        lab.order(task::VERIFY, json!({"component": "media"})).await,
        lab.order(task::PIN, json!({"backup": "media_backup_20261122_020000"})).await,
        lab.order(task::UNDO, json!({"component": "media"})).await,
    ];
    let list = lab.order(task::LIST, json!({})).await;
    assert_eq!(lab.ended(&list).await["status"], "SUCCESS");
    for id in &waiting {
        let result = lab.result(id).await;
        assert!(result.is_none_or(|result| result["date_done"] == Value::Null), "{id} did not wait");
    }
    let mut python = Python::newest().client(&lab.celery_url());
    python.control("revoke", json!({"task_id": running, "terminate": true})).await;
    for id in &waiting {
        assert_eq!(lab.ended(id).await["status"], "FAILURE", "there is no backup");
    }
    drop(worker);
}

#[tokio::test]
async fn queues_are_added_and_left_while_the_worker_runs() {
    let lab = Lab::new();
    let _worker = lab.worker();
    let mut python = Python::celery_5_3().client(&lab.celery_url());
    lab.ended(&lab.order(task::PING, json!({})).await).await;
    python.control("add_consumer", json!({"queue": "more"})).await;
    lab.ended(&lab.send(&Outgoing::new(task::PING, "more")).await).await;
    for queue in ["backups", "more"] {
        python.control("cancel_consumer", json!({"queue": queue})).await;
    }
    assert_eq!(python.control("active_queues", json!({})).await, json!([]));
    let waits = lab.order(task::PING, json!({})).await;
    python.control("add_consumer", json!({"queue": "more"})).await;
    lab.ended(&lab.send(&Outgoing::new(task::PING, "more")).await).await;
    assert_eq!(lab.result(&waits).await, None, "nobody takes from its queue");
    python.control("add_consumer", json!({"queue": "backups"})).await;
    lab.ended(&waits).await;
}

#[tokio::test]
async fn a_rate_limit_holds_tasks_in_their_queue() {
    let lab = Lab::new();
    let _worker = lab.worker();
    let mut python = Python::newest().client(&lab.celery_url());
    lab.ended(&lab.order(task::PING, json!({})).await).await;
    let limit = |rate: &str| json!({"task_name": task::PING, "rate_limit": rate});
    python.control("rate_limit", limit("1/h")).await;
    lab.ended(&lab.order(task::PING, json!({})).await).await;
    let second = lab.order(task::PING, json!({})).await;
    lab.ended(&lab.order(task::LIST, json!({})).await).await; // later in the queue
    assert_eq!(lab.result(&second).await, None, "once an hour");
    python.control("rate_limit", limit("0")).await;
    lab.ended(&second).await;
}

#[tokio::test]
async fn a_shutdown_gives_back_what_was_not_done_in_the_order_in_which_it_was() {
    for how in ["SIGTERM twice", "SIGQUIT", "control"] {
        let lab = Lab::endless().set("BACKUP_SHUTDOWN_GRACE", if how == "control" { "200ms" } else { "1h" });
        let worker = lab.worker();
        worker.ready().await;
        let mut ids = vec![lab.order(task::BACKUP_MEDIA, json!({})).await];
        lab.under_way().await;
        for _ in 0..3 {
            ids.push(lab.send(&Outgoing::new(task::LIST, "backups").eta(in_an_hour())).await);
        }
        let mut redis = lab.connection().await;
        assert!(eventually(async || redis.hlen::<_, u64>("unacked").await.unwrap() == 4).await);
        match how {
            "SIGQUIT" => worker.signal(Signal::QUIT),
            "control" => {
                // No reply comes to this one, and none is asked for.
                let channel = "/0.celery.pidbox";
                let request = test_support::celery_lab::control_request("shutdown", &json!({}));
                let () = redis.publish(channel, request).await.unwrap();
            }
            _ => {
                worker.signal(Signal::TERM);
                let waiting_are_back =
                    eventually(async || redis.llen::<_, u64>("backups").await.unwrap() == 3);
                assert!(waiting_are_back.await, "what has not begun need not wait for what runs");
                worker.signal(Signal::TERM);
            }
        }
        assert_eq!(worker.ended(), Some(0), "{how}");
        let mut back: Vec<String> = redis.lrange("backups", 0, -1).await.unwrap();
        back.reverse();
        let id = |entry: &String| serde_json::from_str::<Value>(entry).unwrap()["headers"]["id"].clone();
        assert_eq!(json!(back.iter().map(id).collect::<Vec<_>>()), json!(ids), "{how}: served in this order");
        nothing_is_left(&lab).await;
    }
}

#[tokio::test]
async fn a_worker_that_still_prepares_ends_at_once_and_well_when_it_is_told_to() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let lab = Lab::new()
        .set("AWS_BACKUP_BUCKET", "backups")
        .set("AWS_ACCESS_KEY_ID", "id")
        .set("AWS_SECRET_ACCESS_KEY", "secret")
        .set("AWS_S3_ENDPOINT", format!("http://{}", silent.local_addr().unwrap()));
    let worker = lab.worker();
    let (_line, _) = tokio::task::spawn_blocking(move || silent.accept()).await.unwrap().unwrap();
    worker.signal(Signal::TERM);
    assert_eq!(worker.ended(), Some(0));
}

#[tokio::test]
async fn tasks_that_wait_for_their_time_keep_no_question_waiting() {
    const MANY: usize = 1000; // more than are in hand otherwise
    let lab = Lab::new();
    let worker = lab.worker();
    worker.ready().await;
    let mut redis = lab.connection().await;
    let later = || Outgoing::new(task::PING, "backups").eta(in_an_hour()).text();
    let () =
        redis.lpush("backups", std::iter::repeat_with(later).take(MANY).collect::<Vec<_>>()).await.unwrap();
    let all_taken = eventually(async || redis.hlen::<_, usize>("unacked").await.unwrap() == MANY);
    assert!(all_taken.await, "{}", worker.log());
    assert_eq!(lab.ended(&lab.order(task::PING, json!({})).await).await["result"], "pong");
    assert_eq!(worker.stop(), Some(0));
    assert_eq!(redis.llen::<_, usize>("backups").await.unwrap(), MANY, "they went back");
}
