//! A worker whose user in Redis has the documented rights and no others.

use crate::support::lab::{Lab, eventually};
use crate::support::python::Python;
use redis::AsyncCommands;
use rna_backup::celery::publish::Outgoing;
use rna_backup::domain::command::task;
use serde_json::json;
use std::time::Duration;
use test_support::celery_lab::message;
use test_support::rights::{documented_rules, refused, user};

#[tokio::test]
async fn the_documented_rights_are_enough_for_all_that_a_worker_does() {
    let lab = Lab::new();
    user(&lab.redis, &documented_rules("backups", "rna-backup")).await;
    let url = lab.redis.url().replace("unix://", "unix://worker:p%40ss%2Fword@");
    let lab = lab.set("REDIS_URL", url).set("BACKUP_VISIBILITY_TIMEOUT", "15s");
    let mut admin = lab.connection().await;
    // Something that a dead worker of another language left.
    let left = message(task::PING, "left").replace("\"q\"", "\"backups\"");
    let entry = format!("[{left}, \"backups\", \"key\"]");
    let _: usize = admin.sadd("_kombu.binding.backups", "key\x06\x16\x06\x16backups").await.unwrap();
    let _: usize = admin.hset("unacked", "left", entry).await.unwrap();
    let _: usize = admin.zadd("unacked_index", "left", 1).await.unwrap();

    let worker = lab.worker();
    worker.ready().await;
    let mut python = Python::newest().client(&lab.celery_url());
    for command in ["enable_events", "ping", "active", "stats", "active_queues", "hello"] {
        python.control(command, json!({})).await;
    }
    let children = lab.order(task::FULL_BACKUP, json!({})).await;
    let media = lab.order(task::BACKUP_MEDIA, json!({})).await;
    let chord = json!({"do": "send", "task": task::PING, "options": {"queue": "backups", "priority": 5}});
    let ping = python.send(chord).await;
    for id in [children, media, ping, "left".to_owned()] {
        assert_eq!(lab.ended(&id).await["status"], "SUCCESS", "{id}\n{:?}", refused(&lab.redis).await);
    }
    let unreadable = lab.connection().await.lpush::<_, _, usize>("backups", "no message").await;
    assert!(unreadable.is_ok());
    let aside =
        eventually(async || lab.connection().await.llen::<_, u32>("backups.unreadable").await.unwrap() == 1);
    assert!(aside.await, "{:?}", refused(&lab.redis).await);
    let later = Outgoing::new(task::PING, "backups").eta(jiff::Timestamp::now() + Duration::from_hours(1));
    lab.send(&later).await;
    assert!(eventually(async || !python.control("scheduled", json!({})).await.is_null()).await);
    assert_eq!(worker.stop(), Some(0));
    assert_eq!(refused(&lab.redis).await, [""; 0]);
}
