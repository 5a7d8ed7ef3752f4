//! Tasks that worker after worker dies over: they fail after five deaths, and nothing else counts as one.

use crate::{
    schemas::validates,
    support::{
        lab::{Lab, Worker, eventually, unfinished},
        python::Python,
        tree,
    },
};
use redis::AsyncCommands;
use rna_backup::domain::command::task;
use rna_backup::worker::MOST_DEATHS;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;

/// The sets of workers that have begun a task and neither ended it nor given it back.
async fn begun(lab: &Lab) -> Vec<String> {
    lab.connection().await.keys("rna-backup:begun:*").await.unwrap()
}

/// Waits until so many workers have begun the one task there is.
async fn have_begun(lab: &Lab, workers: usize, last: &Worker) {
    let mut link = lab.connection().await;
    let as_many = eventually(async || match begun(lab).await.as_slice() {
        [set] => link.scard::<_, usize>(set).await.unwrap() == workers,
        _ => false,
    });
    assert!(as_many.await, "{workers} workers did not begin: {}", last.log());
}

/// Waits until this worker writes its archive.
async fn is_writing(lab: &Lab, worker: &Worker) {
    let own = format!("{}-", worker.pid());
    let writes = eventually(async || {
        unfinished(&lab.backups())
            .iter()
            .any(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&own))
    });
    assert!(writes.await, "{}", worker.log());
}

/// Has so many workers die in the midst of the backup of an endless media folder.
async fn die(lab: &Lab, times: usize) {
    for _ in 0..times {
        let mut worker = lab.worker();
        is_writing(lab, &worker).await;
        worker.kill();
    }
}

fn words(result: &Value) -> &str {
    result["result"]["exc_message"][0].as_str().unwrap()
}

#[tokio::test]
async fn a_task_that_five_workers_died_over_fails_with_a_worker_lost_error_and_the_next_one_runs() {
    let lab = Lab::endless();
    let mut python = Python::newest().client(&lab.celery_url());
    // A part of a chord, with an errback: both are told.
    let backup = format!("signature('{}', queue='backups', task_id='lost')", task::BACKUP_MEDIA);
    let canvas = format!("chord([{backup}.on_error(py.errback.s())], py.same.s())");
    let (body, _) = python.canvas(&canvas).await;
    die(&lab, MOST_DEATHS).await;

    let worker = lab.worker();
    let ended = lab.ended("lost").await;
    validates("task-meta", &ended);
    let exception = (&ended["result"]["exc_type"], &ended["result"]["exc_module"]);
    assert_eq!(exception, (&json!("WorkerLostError"), &json!("billiard.exceptions")), "{ended}");
    for part in
        ["5 workers died over this task", "OOMKilled in `docker inspect`", "mem_limit", "order it again"]
    {
        assert!(words(&ended).contains(part), "{part} is not in {}", words(&ended));
    }
    for python in [Python::celery_5_3(), Python::newest()] {
        let error = python.client(&lab.celery_url()).get("lost", 60).await["error"].clone();
        let class = (&error["class"], &error["module"]);
        assert_eq!(class, (&json!("WorkerLostError"), &json!("billiard.exceptions")), "{error}");
    }
    let chord = lab.ended(&body).await;
    assert_eq!(chord["result"]["exc_type"], "ChordError", "{chord}");
    assert!(words(&chord).contains("WorkerLostError"), "{chord}");
    lab.settled().await;
    let mut link = lab.connection().await;
    assert_eq!(link.llen::<_, u64>("celery").await.unwrap(), 1, "the errback");
    assert_eq!(link.hlen::<_, u64>("rna-backup:locks").await.unwrap(), 0);
    assert_eq!(begun(&lab).await, [""; 0]);
    assert!(unfinished(&lab.backups()).is_empty() && lab.manifests("media").is_empty());

    let (_, metrics) = worker.http("/metrics").await.unwrap();
    for line in [
        r#"rna_backup_failures_total{component="media",reason="worker_lost"} 1"#,
        r#"rna_backup_runs_total{component="media",operation="backup",result="failure"} 1"#,
        r#"rna_backup_last_status{component="media"} 0"#,
        r#"rna_backup_tasks_total{state="FAILURE",task="api.backup.tasks.backup_media_files"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let log = worker.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(told.len() == 1 && told[0].contains("5 workers died over this task"), "{log}");

    fs::remove_file(lab.media().join("endless")).unwrap();
    let next = lab.ended(&lab.order(task::BACKUP_MEDIA, json!({})).await).await;
    assert_eq!(next["status"], "SUCCESS", "{next}");
}

#[tokio::test]
async fn a_shutdown_is_no_death_over_a_task() {
    let lab = Lab::endless();
    let id = lab.order(task::BACKUP_MEDIA, json!({})).await;
    die(&lab, MOST_DEATHS - 1).await;
    for _ in 0..MOST_DEATHS {
        let worker = lab.worker();
        is_writing(&lab, &worker).await;
        worker.signal(Signal::QUIT);
        assert_eq!(worker.ended(), Some(0));
    }
    let mut worker = lab.worker();
    is_writing(&lab, &worker).await;
    have_begun(&lab, MOST_DEATHS, &worker).await; // the dead, and this one
    assert_ne!(lab.result(&id).await.unwrap()["status"], "FAILURE");
    worker.kill();
    let _worker = lab.worker();
    assert_eq!(lab.ended(&id).await["result"]["exc_type"], "WorkerLostError");
}

#[tokio::test]
async fn a_worker_that_dies_while_a_task_waits_for_its_component_has_not_died_over_that_task() {
    let lab = Lab::endless();
    let first = lab.order(task::BACKUP_MEDIA, json!({})).await;
    let mut holder = lab.worker_named("holder@lab");
    is_writing(&lab, &holder).await;
    // Of another worker, which waits for the first.
    let second = lab.order(task::BACKUP_MEDIA, json!({})).await;
    for _ in 0..=MOST_DEATHS {
        let mut waiting = lab.worker();
        let waits = eventually(async || waiting.log().contains("waiting for another run to end"));
        assert!(waits.await, "{}", waiting.log());
        waiting.kill();
    }
    have_begun(&lab, 1, &holder).await;
    fs::remove_file(lab.media().join("endless")).unwrap();
    holder.kill();
    let _worker = lab.worker();
    for id in [first, second] {
        assert_eq!(lab.ended(&id).await["status"], "SUCCESS");
    }
}

#[tokio::test]
async fn a_restore_that_five_workers_died_over_fails_and_the_live_data_is_whole() {
    let lab = Lab::new();
    // What takes some seconds to restore.
    fs::write(lab.media().join("large"), vec![0; 1 << 29]).unwrap();
    lab.json(&["backup", "media"]);
    fs::remove_file(lab.media().join("large")).unwrap();
    fs::write(lab.media().join("later"), "made after the backup").unwrap();
    let before = tree::look(&lab.media());
    let id = lab.order(task::RESTORE_MEDIA, json!({"backup_path": "latest"})).await;
    for deaths in 1..=MOST_DEATHS {
        let mut worker = lab.worker();
        have_begun(&lab, deaths, &worker).await;
        worker.kill();
    }
    let worker = lab.worker();
    let ended = lab.ended(&id).await;
    assert_eq!(ended["result"]["exc_type"], "WorkerLostError", "{ended}");
    assert!(words(&ended).contains("media is as it was or as it was to be, or is put right"), "{ended}");
    assert!(tree::look(&lab.media()) == before);
    lab.settled().await;
    let again = lab.ended(&lab.order(task::RESTORE_MEDIA, json!({"backup_path": "latest"})).await).await;
    assert_eq!(again["status"], "SUCCESS", "{}", worker.log());
}
