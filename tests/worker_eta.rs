//! Messages that wait for their eta: held by their outlines alone, whatever their size.

use crate::support::{
    lab::{Lab, eventually},
    python::Python,
};
use jiff::Timestamp;
use redis::AsyncCommands;
use rna_backup::celery::{
    client::{Client, ConnectOptions},
    keys::Keys,
    publish::{Outgoing, publish},
};
use rna_backup::domain::command::task;
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, time::Duration};
use tokio_util::sync::CancellationToken;

/// Resident memory of a process, in MiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

/// A task with arguments of so many bytes.
fn ping(bytes: usize, countdown: Duration) -> Outgoing {
    let Value::Object(kwargs) = json!({"padding": "x".repeat(bytes)}) else { unreachable!() };
    Outgoing::new(task::PING, "backups").kwargs(kwargs).countdown(countdown)
}

#[tokio::test]
async fn many_long_messages_with_an_eta_fit_into_memory_and_come_back_whole_and_in_order() {
    /// As many would take more memory than is promised.
    const MANY: usize = 48;
    const HOUR: Duration = Duration::from_hours(1);
    let lab = Lab::new();
    let client = Client::new(ConnectOptions::parse(&lab.redis.url()).unwrap()).unwrap();
    let messages: Vec<_> = (0..MANY).map(|_| ping(700 << 10, HOUR)).collect();
    for message in &messages {
        publish(&client, &Keys::default(), std::slice::from_ref(message), &CancellationToken::new())
            .await
            .unwrap();
    }
    let ids: Vec<_> = messages.iter().map(|message| message.id().to_owned()).collect();
    let worker = lab.worker();
    let mut redis = lab.connection().await;
    let all = eventually(async || redis.hlen::<_, usize>("unacked").await.unwrap() == MANY);
    assert!(all.await, "{}", worker.log());
    // Others go on, those with a time to come too.
    let soon =
        lab.send(&Outgoing::new(task::BACKUP_MEDIA, "backups").countdown(Duration::from_secs(1))).await;
    let now = lab.send(&Outgoing::new(task::PING, "backups")).await;
    assert_eq!(lab.ended(&now).await["result"], "pong");
    assert_eq!(lab.ended(&soon).await["status"], "SUCCESS");
    let mib = resident(worker.pid());
    assert!(mib < 128, "{mib} MiB for {MANY} messages of a megabyte");

    let mut python = Python::newest().client(&lab.celery_url());
    let scheduled = python.control("scheduled", json!({})).await;
    let id = |one: &Value| one["request"]["id"].as_str().unwrap().to_owned();
    let shown: BTreeSet<_> = scheduled.as_array().unwrap().iter().map(id).collect();
    assert_eq!(shown, ids.iter().cloned().collect());
    // An id that is too long to be remembered is revoked as well, and not run early.
    let long = "x".repeat(600);
    lab.send(&Outgoing::new(task::BACKUP_MEDIA, "backups").with_id(&long).countdown(HOUR)).await;
    assert!(eventually(async || redis.hlen::<_, usize>("unacked").await.unwrap() == MANY + 1).await);
    for id in [&long, &ids[7]] {
        python.control("revoke", json!({"task_id": id})).await;
        assert_eq!(lab.ended(id).await["status"], "REVOKED");
    }
    assert_eq!(lab.manifests("media").len(), 1);

    assert_eq!(worker.stop(), Some(0));
    let back: Vec<String> = redis.lrange("backups", 0, -1).await.unwrap();
    let back: Vec<Value> = back.iter().rev().map(|text| serde_json::from_str(text).unwrap()).collect();
    let left: Vec<_> = ids.iter().filter(|id| **id != ids[7]).collect();
    assert_eq!(back.iter().map(|message| &message["headers"]["id"]).collect::<Vec<_>>(), left);
    assert!(back.iter().all(|message| message["headers"]["redelivered"] == true));
    assert!(back.iter().all(|message| message["body"].as_str().unwrap().len() > 900_000), "they are whole");
    assert_eq!(redis.hlen::<_, usize>("unacked").await.unwrap(), 0);
}

#[tokio::test]
async fn a_message_that_became_due_while_redis_was_away_runs_when_redis_is_back() {
    let mut lab = Lab::new();
    let worker = lab.worker();
    worker.ready().await;
    let eta = Timestamp::now() + Duration::from_secs(2);
    let id = lab.send(&Outgoing::new(task::BACKUP_MEDIA, "backups").eta(eta)).await;
    assert!(eventually(async || worker.log().contains("waiting for its time")).await);
    lab.redis.stop();
    assert!(eventually(async || Timestamp::now() > eta && worker.log().contains("the broker is gone")).await);
    lab.redis.start_again();
    assert_eq!(lab.ended(&id).await["status"], "SUCCESS", "{}", worker.log());
    assert_eq!(lab.manifests("media").len(), 1);
}
