//! The worker as a process, against a real Redis: what Celery's users see of it.

use crate::{
    schemas::validates,
    support::lab::{Lab, eventually, files, unfinished},
};
use jiff::{SignedDuration, Timestamp};
use redis::AsyncCommands;
use rna_backup::{
    celery::publish::Outgoing,
    domain::{
        command::task,
        signature::{self, Order},
    },
};
use serde_json::{Value, json};

/// The body of a call without arguments, as it is sent.
const BODY: &[u8] = br#"[[], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;

/// The exception of a failed task: type and text.
fn exception(result: &Value) -> (&str, &str) {
    let exception = &result["result"];
    (exception["exc_type"].as_str().unwrap(), exception["exc_message"][0].as_str().unwrap())
}

#[tokio::test]
async fn a_media_backup_is_stored_proven_and_answered() {
    let lab = Lab::new();
    let worker = lab.worker();
    let id = lab.order(task::BACKUP_MEDIA, json!({"label": "before upgrade", "pin": true})).await;
    let result = lab.ended(&id).await;
    assert_eq!(result["status"], "SUCCESS", "{result}");
    validates("task-meta", &result);
    let report = &result["result"];
    validates("result-backup", report);
    assert_eq!(report["media_dir"], lab.media().display().to_string());
    assert_eq!((&report["label"], &report["verified"]), (&json!("before upgrade"), &json!("decode")));

    let manifests = lab.manifests("media");
    assert_eq!(manifests.len(), 1);
    validates("manifest", &manifests[0]);
    assert_eq!((&manifests[0]["task_id"], &manifests[0]["pinned"]), (&json!(id), &json!(true)));
    let archive = report["path"].as_str().unwrap();
    assert_eq!(std::fs::metadata(archive).unwrap().len(), report["size_bytes"].as_u64().unwrap());
    assert!(unfinished(&lab.backups()).is_empty());
    lab.settled().await;

    worker
        .shows(r#"rna_backup_catalog_backups{component="media",destination="local",state="verified"} 1"#)
        .await;
    let (_, metrics) = worker.http("/metrics").await.unwrap();
    for line in [
        r#"rna_backup_runs_total{component="media",operation="backup",result="success"} 1"#,
        r#"rna_backup_last_status{component="media"} 1"#,
        r#"rna_backup_tasks_total{state="SUCCESS",task="api.backup.tasks.backup_media_files"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert_eq!(worker.stop(), Some(0));
}

#[tokio::test]
async fn a_full_backup_dispatches_its_children_with_one_set_id() {
    let lab = Lab::new();
    let _worker = lab.worker();
    let id = lab.order(task::FULL_BACKUP, json!({"label": "weekly"})).await;
    let result = lab.ended(&id).await;
    validates("task-meta", &result);
    validates("result-full-backup", &result["result"]);
    let child = result["result"]["task_ids"]["media"].as_str().unwrap();
    assert_eq!(result["children"], json!([[[child, null], null]]));
    let child = lab.ended(child).await;
    assert_eq!(child["status"], "SUCCESS", "{child}");
    assert_eq!(child["parent_id"], json!(id));
    assert_eq!((&child["result"]["set_id"], &child["result"]["label"]), (&json!(id), &json!("weekly")));
}

#[tokio::test]
async fn a_delivery_of_a_task_that_is_done_has_no_second_effect() {
    let lab = Lab::new();
    let _worker = lab.worker();
    let message = Outgoing::new(task::BACKUP_MEDIA, "backups");
    let id = lab.send(&message).await;
    let first = lab.ended(&id).await;
    // The result is lost as well, say by its expiry: the manifest answers.
    let () = lab.connection().await.del(format!("celery-task-meta-{id}")).await.unwrap();
    lab.send(&Outgoing::new(task::BACKUP_MEDIA, "backups").with_id(&id)).await;
    let second = lab.ended(&id).await;
    assert_eq!(first["result"]["backup_id"], second["result"]["backup_id"]);
    assert_eq!(first["result"]["sha256"], second["result"]["sha256"]);
    assert_eq!(lab.manifests("media").len(), 1);
    lab.settled().await;
}

#[tokio::test]
async fn a_call_that_no_retry_can_help_fails_at_once_with_an_exception_that_python_knows() {
    let lab = Lab::new();
    let _worker = lab.worker();
    let cases = [
        ("api.backup.tasks.backup_redis", json!({}), "NotRegistered", "api.backup.tasks.backup_redis"),
        (
            task::BACKUP_MEDIA,
            json!({"compress": 1}),
            "TypeError",
            "backup_media_files() got an unexpected keyword argument 'compress'",
        ),
        (
            task::BACKUP_MEDIA,
            json!({"label": "x".repeat(65)}),
            "ValueError",
            "label is longer than 64 characters",
        ),
        (
            task::BACKUP_POSTGRES,
            json!({}),
            "ValueError",
            "postgres is not configured: set DATABASE_URL (or POSTGRES_DB)",
        ),
        (task::BACKUP_WEAVIATE, json!({}), "ValueError", "weaviate is not configured: set WEAVIATE_URL"),
        (
            task::RESTORE_WEAVIATE,
            json!({"backup_path": "latest"}),
            "TypeError",
            "restore_weaviate_from_backup() missing 1 required positional argument: 'backup_name'",
        ),
    ];
    for (task, kwargs, exc_type, message) in cases {
        let id = lab.order(task, kwargs).await;
        let result = lab.ended(&id).await;
        assert_eq!(
            (result["status"].as_str().unwrap(), exception(&result)),
            ("FAILURE", (exc_type, message))
        );
        validates("task-meta", &result);
    }
    lab.settled().await;
    assert!(lab.manifests("media").is_empty());
}

#[tokio::test]
async fn a_passing_fault_is_tried_again_with_the_same_id_until_it_has_passed() {
    let lab = Lab::new().set("BACKUP_RETRY_DELAY", "100ms").set("BACKUP_MAX_RETRIES", 50);
    // A destination that is full for now: the smallest size that no disk has free.
    let lab = lab.set("BACKUP_MIN_FREE", format!("{}", u64::MAX / 2));
    let worker = lab.worker();
    let id = lab.order(task::BACKUP_MEDIA, json!({})).await;
    let retried =
        eventually(async || lab.result(&id).await.is_some_and(|result| result["status"] == "RETRY"));
    assert!(retried.await, "{:?}", lab.result(&id).await);
    let result = lab.result(&id).await.unwrap();
    assert_eq!((exception(&result).0, &result["date_done"]), ("OSError", &Value::Null));
    validates("task-meta", &result);
    // celery-progress looks for these words.
    let traceback = result["traceback"].as_str().unwrap();
    assert!(traceback.contains("celery.exceptions.Retry: Retry in 0s: OSError("), "{traceback}");
    assert_eq!(worker.stop(), Some(0));

    let lab = lab.set("BACKUP_MIN_FREE", "1MiB");
    let _worker = lab.worker();
    assert_eq!(lab.ended(&id).await["status"], "SUCCESS");
    lab.settled().await;
}

#[tokio::test]
async fn after_the_last_retry_the_task_fails_with_its_cause() {
    let lab = Lab::new().set("BACKUP_RETRY_DELAY", "10ms").set("BACKUP_MAX_RETRIES", 2);
    let lab = lab.set("BACKUP_MIN_FREE", format!("{}", u64::MAX / 2));
    let worker = lab.worker();
    let id = lab.order(task::BACKUP_MEDIA, json!({})).await;
    let result = lab.ended(&id).await;
    assert_eq!((&result["status"], exception(&result).0), (&json!("FAILURE"), "OSError"));
    let (_, metrics) = worker.http("/metrics").await.unwrap();
    assert!(
        metrics.contains(r#"rna_backup_failures_total{component="media",reason="space"} 3"#),
        "{metrics}"
    );
    lab.settled().await;
}

#[tokio::test]
async fn a_message_whose_time_has_passed_is_revoked_and_one_whose_time_is_to_come_waits() {
    let lab = Lab::new();
    let _worker = lab.worker();
    let now = Timestamp::now();
    let old = Outgoing::new(task::BACKUP_MEDIA, "backups").expires(now - SignedDuration::from_secs(1));
    let result = lab.ended(&lab.send(&old).await).await;
    assert_eq!((&result["status"], exception(&result)), (&json!("REVOKED"), ("TaskRevokedError", "expired")));

    let eta = Timestamp::now() + SignedDuration::from_secs(1);
    let early = lab.send(&Outgoing::new(task::PING, "backups").eta(eta)).await;
    // Later in the queue, earlier in time: what waits holds nobody up.
    let ping = lab.order(task::PING, json!({})).await;
    assert_eq!(lab.ended(&ping).await["result"], "pong");
    let ended = lab.ended(&early).await;
    let done: Timestamp = ended["date_done"].as_str().unwrap().parse().unwrap();
    assert!(done >= eta, "{done} is before {eta}");
}

#[tokio::test]
async fn retention_runs_as_a_task_and_says_what_stays_and_why() {
    let lab = Lab::new();
    let _worker = lab.worker();
    for _ in 0..3 {
        let id = lab.order(task::BACKUP_MEDIA, json!({})).await;
        assert_eq!(lab.ended(&id).await["status"], "SUCCESS");
    }
    let order = json!({"backup_type": "media", "retention_days": 0, "dry_run": true});
    let plan = lab.ended(&lab.order(task::CLEANUP, order).await).await;
    validates("result-prune", &plan["result"]);
    assert_eq!(lab.manifests("media").len(), 3, "a dry run deletes nothing");
    let order = json!({"backup_type": "media", "retention_days": 0});
    let done = lab.ended(&lab.order(task::CLEANUP, order).await).await;
    assert_eq!(done["result"]["deleted"], plan["result"]["deleted"]);
    assert_eq!(done["result"]["deleted"].as_array().unwrap().len(), 2);
    let left = lab.manifests("media");
    assert_eq!(left.len(), 1);
    assert_eq!(
        done["result"]["kept"],
        json!([{"backup_id": left[0]["backup_id"], "why": "newest verified"}])
    );
    assert_eq!(files(&lab.backups().join("media")).len(), 1);

    let listed = lab.ended(&lab.order(task::LIST, json!({"component": "media"})).await).await;
    validates("list", &listed["result"]);
    assert_eq!(listed["result"]["backups"][0]["backup_id"], left[0]["backup_id"]);
}

#[tokio::test]
async fn with_a_key_set_what_deletes_must_be_signed_and_backups_need_not() {
    let lab = Lab::new().set("BACKUP_RESTORE_KEY", "between app and worker");
    let worker = lab.worker();
    let backup = lab.order(task::BACKUP_MEDIA, json!({})).await;
    assert_eq!(lab.ended(&backup).await["status"], "SUCCESS");

    let unsigned = lab.ended(&lab.order(task::CLEANUP, json!({})).await).await;
    assert_eq!(exception(&unsigned).0, "PermissionError");
    let message = Outgoing::new(task::CLEANUP, "backups");
    let order = Order { task_id: message.id(), task: task::CLEANUP, body: BODY };
    let header = signature::sign("between app and worker", &order, Timestamp::now());
    let id = lab.send(&message.clone().header(signature::HEADER, json!(header))).await;
    assert_eq!(lab.ended(&id).await["status"], "SUCCESS");
    assert!(!worker.log().contains("between app and worker"));
}

#[tokio::test]
async fn a_stopped_worker_gives_back_what_it_did_not_begin() {
    let lab = Lab::new();
    let worker = lab.worker();
    worker.ready().await;
    let later = Timestamp::now() + SignedDuration::from_hours(1);
    let id = lab.send(&Outgoing::new(task::BACKUP_MEDIA, "backups").eta(later)).await;
    let mut redis = lab.connection().await;
    let taken = eventually(async || redis.hlen::<_, u64>("unacked").await.unwrap() == 1);
    assert!(taken.await, "the worker holds the message while it waits for its time");
    assert_eq!(worker.stop(), Some(0));
    let back: Vec<String> = redis.lrange("backups", 0, -1).await.unwrap();
    assert_eq!(back.len(), 1);
    let message: Value = serde_json::from_str(&back[0]).unwrap();
    assert_eq!((&message["headers"]["id"], &message["headers"]["redelivered"]), (&json!(id), &json!(true)));
    lab.settled().await;
}

#[tokio::test]
async fn a_result_that_redis_refuses_is_lost_and_not_tried_for_ever() {
    let lab = Lab::new();
    let worker = lab.worker();
    let message = Outgoing::new(task::BACKUP_MEDIA, "backups");
    // A list where the result belongs: no SET script of ours may replace what it cannot read.
    let () = lab.connection().await.lpush(format!("celery-task-meta-{}", message.id()), "odd").await.unwrap();
    lab.send(&message).await;
    let done = eventually(async || worker.log().contains("redis refuses the result, it is lost")).await;
    assert!(done, "{}", worker.log());
    lab.settled().await;
    assert_eq!(lab.manifests("media").len(), 1);
}
