//! What a worker needs and cannot use: said at its start and every minute, in the log, by `/readyz`, by the metrics and by
//! `check`, with path, owner, user and the command that helps; and all is well within a minute of being mended.

use crate::{
    catalog_rebuild::with_bucket,
    support::{
        disk::Tmpfs,
        lab::{Lab, Worker, eventually, files},
        s3::{Bucket, S3Server},
    },
};
use rna_backup::domain::command::task;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

/// The user of the container's worker.
const WORKER: u32 = 10001;
/// Another user, who owns what the worker should.
const APP: u32 = 1000;

/// Gives a folder and what is in it to a user, with a mode for the folder.
fn give(folder: &Path, user: u32, mode: u32) {
    fs::create_dir_all(folder).unwrap();
    for path in walk(folder) {
        chown(&path, Some(user), Some(user)).unwrap();
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut all = vec![folder.to_owned()];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        all.extend(if path.is_dir() { walk(&path) } else { vec![path] });
    }
    all
}

/// A lab that the worker's user can pass through, and whose Redis it can reach.
fn lab() -> Lab {
    let lab = Lab::new();
    fs::set_permissions(lab.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    lab.redis.open_to_all();
    lab
}

/// The answer of `/readyz` once it is `status`, within the minute that is promised and a busy machine's time.
async fn readiness(worker: &Worker, status: u16) -> String {
    let mut last = None;
    let came = eventually(async || {
        last = worker.http("/readyz").await;
        last.as_ref().is_some_and(|(found, _)| *found == status)
    });
    assert!(came.await, "/readyz does not get {status}: {last:?}\n{}", worker.log());
    last.unwrap().1
}

/// Waits until a gauge of a destination has this value.
async fn is_up(worker: &Worker, destination: &str, up: u8) {
    let line = format!("rna_backup_destination_up{{destination=\"{destination}\"}} {up}\n");
    let shown =
        eventually(async || worker.http("/metrics").await.is_some_and(|(_, text)| text.contains(&line)));
    assert!(shown.await, "{line}{}", worker.log());
}

async fn logged(worker: &Worker, words: &str, times: usize) {
    let shown = eventually(async || worker.log().matches(words).count() >= times);
    assert!(shown.await, "`{words}` is not logged {times} times:\n{}", worker.log());
}

/// What `check` says of one dependency, for that user: whether it is fit, what was found, what to do.
fn check_as(lab: &Lab, user: u32, name: &str) -> (bool, String, String) {
    let out = lab.program_as(user, &["check", "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let found = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).cloned();
    let found = found.unwrap_or_else(|| panic!("{name} is not in {report}"));
    let text = |key: &str| found[key].as_str().unwrap().to_owned();
    (found["ok"] == true, text("detail"), text("fix"))
}

#[tokio::test]
async fn a_folder_for_backups_that_belongs_to_another_is_said_until_it_is_mended_and_then_used() {
    let lab = lab().set("BACKUP_MAX_RETRIES", 0);
    give(&lab.backups(), APP, 0o755);
    let worker = lab.worker_as(WORKER);
    let why = readiness(&worker, 503).await;
    let root = lab.backups().display().to_string();
    let facts = format!("{root} belongs to 1000:1000 with mode 755; this process is 10001:10001");
    // Until Redis is connected, that is the reason.
    let why = if why.starts_with("the destination") { why } else { closed(&worker).await };
    assert!(why.starts_with("the destination local cannot be used: ") && why.contains(&facts), "{why}");
    assert!(why.contains("chown -R 10001:10001 ") && why.contains("1000:1000"), "{why}");
    is_up(&worker, "local", 0).await;
    assert!(worker.http("/livez").await.unwrap().0 == 200, "a restart would not help");
    logged(&worker, "local destination cannot be used: BACKUP_ROOT: ", 1).await;
    assert!(worker.log().contains(&facts), "{}", worker.log());
    let (ok, found, fix) = check_as(&lab, WORKER, "local destination");
    assert!(!ok && found.contains(&facts) && fix.contains("chown -R 10001:10001 "), "{found} {fix}");

    let failed = lab.ended(&lab.order(task::BACKUP_MEDIA, json!({})).await).await;
    let words = failed["result"]["exc_message"].to_string();
    assert!(words.contains(&facts), "a backup says it as well: {failed}");

    logged(&worker, "local destination cannot be used: BACKUP_ROOT: ", 2).await;
    give(&lab.backups(), WORKER, 0o755);
    readiness(&worker, 200).await;
    is_up(&worker, "local", 1).await;
    logged(&worker, "local destination can be used again", 1).await;
    let done = lab.ended(&lab.order(task::BACKUP_MEDIA, json!({})).await).await;
    assert_eq!(done["status"], "SUCCESS", "{done}");
    assert_eq!(fs::metadata(&files(&lab.backups().join("media"))[0]).unwrap().uid(), WORKER);
}

/// The reason that `/readyz` gives once the broker is connected.
async fn closed(worker: &Worker) -> String {
    let mut last = String::new();
    let came = eventually(async || {
        last = worker.http("/readyz").await.map_or_else(String::new, |(_, text)| text);
        last.starts_with("the destination")
    });
    assert!(came.await, "{last}\n{}", worker.log());
    last
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_or_that_is_mounted_read_only_keeps_the_worker_waiting() {
    let lab = lab();
    give(&lab.path("disk"), 0, 0o755);
    let disk = lab.path("disk");
    let lab = lab.set("BACKUP_ROOT", disk.join("backups").display());
    let worker = lab.worker_as(WORKER);
    let why = closed(&worker).await;
    assert!(why.contains(&format!("{} belongs to 0:0 with mode 755", disk.display())), "{why}");
    let Some(_disk) = Tmpfs::mount_at("16m", &disk) else {
        return println!("mounting is not allowed here");
    };
    give(&disk, WORKER, 0o755);
    give(&disk.join("backups"), WORKER, 0o700);
    let remount = |how: &str| {
        assert!(Command::new("mount").args(["-o", how]).arg(&disk).status().unwrap().success());
    };
    remount("remount,ro");
    let (ok, found, fix) = check_as(&lab, WORKER, "local destination");
    assert!(!ok && found.contains("is mounted read-only; this process is 10001:10001"), "{found}");
    assert!(fix.starts_with("mount it for writing"), "{fix}");
    logged(&worker, "is mounted read-only; this process is 10001:10001", 1).await;
    remount("remount,rw");
    readiness(&worker, 200).await;
    drop(worker);
}

#[tokio::test]
async fn a_folder_of_one_component_that_another_user_made_is_found_before_a_backup_fails_over_it() {
    let lab = lab();
    give(&lab.backups(), WORKER, 0o755);
    give(&lab.backups().join("lost+found"), 0, 0o700); // of the disk, and nobody's business
    assert!(check_as(&lab, WORKER, "local destination").0);
    give(&lab.backups().join("media"), 0, 0o755);
    let (ok, found, _) = check_as(&lab, WORKER, "local destination");
    let media = lab.backups().join("media");
    assert!(!ok && found.contains(&format!("{} belongs to 0:0 with mode 755", media.display())), "{found}");
}

#[tokio::test]
async fn media_that_cannot_be_read_are_said_every_minute_and_such_that_cannot_be_written_are_a_warning() {
    let lab = lab();
    give(&lab.backups(), WORKER, 0o755);
    give(&lab.media(), APP, 0o700);
    let media = lab.media().display().to_string();
    let facts = format!("{media} belongs to 1000:1000 with mode 700; this process is 10001:10001");
    let (ok, found, fix) = check_as(&lab, WORKER, "media");
    assert!(!ok && found.starts_with("MEDIA_ROOT: ") && found.contains(&facts), "{found}");
    assert!(fix.contains("chown -R 10001:10001 "), "{fix}");
    let worker = lab.worker_as(WORKER);
    logged(&worker, &format!("media cannot be used: MEDIA_ROOT: {media}: permission denied: {facts}"), 1)
        .await;
    readiness(&worker, 200).await;

    give(&lab.media(), APP, 0o755);
    let (ok, found, fix) = check_as(&lab, WORKER, "media");
    assert!(
        ok && fix.is_empty() && found.contains("; a restore would not begin: make a folder in "),
        "{found}"
    );
    logged(&worker, "media can be used again", 1).await;
    let done = lab.ended(&lab.order(task::BACKUP_MEDIA, json!({})).await).await;
    assert_eq!(done["status"], "SUCCESS", "{done}");
    let id = done["result"]["backup_id"].as_str().unwrap();
    let failed = lab.ended(&lab.order(task::RESTORE_MEDIA, json!({"backup_path": id})).await).await;
    let words = failed["result"]["exc_message"].to_string();
    assert!(words.contains(&media) && words.contains("this process is 10001:10001"), "{failed}");
}

#[tokio::test]
async fn weaviates_folder_is_looked_at_where_it_is_to_be_used() {
    let lab = lab().set("WEAVIATE_URL", "http://127.0.0.1:1").set("BACKUP_WEAVIATE_BACKEND", "filesystem");
    give(&lab.path("weaviate"), 0, 0o755);
    let folder = lab.path("weaviate");
    let lab = lab.set("BACKUP_WEAVIATE_DIR", folder.display());
    let (ok, found, fix) = check_as(&lab, WORKER, "weaviate folder");
    assert!(!ok && found.starts_with("BACKUP_WEAVIATE_DIR: ") && found.contains("belongs to 0:0"), "{found}");
    assert!(fix.contains("chown -R 10001:10001 "), "{fix}");
    give(&folder, WORKER, 0o755);
    assert!(check_as(&lab, WORKER, "weaviate folder").0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_there_is_said_while_backups_go_to_the_disk_and_is_used_once_it_is() {
    let config = S3Server::shared().bucket().await;
    let missing = format!("{}-later", config.bucket);
    let lab =
        with_bucket(Lab::new(), &config).set("AWS_BACKUP_BUCKET", &missing).set("BACKUP_MAX_RETRIES", 0);
    let worker = lab.worker();
    let why = closed(&worker).await;
    assert!(why.starts_with("the destination s3 cannot be used: ") && why.contains("NoSuchBucket"), "{why}");
    is_up(&worker, "s3", 0).await;
    is_up(&worker, "local", 1).await;
    logged(&worker, &format!("s3 cannot be used: bucket {missing}: "), 1).await;
    let id = lab.order(task::BACKUP_MEDIA, json!({})).await;
    assert_eq!(lab.ended(&id).await["status"], "FAILURE");
    assert_eq!(lab.manifests("media").len(), 1, "it lies on the disk, and counts");

    let bucket = Bucket::of(&config);
    bucket.client.create_bucket().bucket(&missing).send().await.unwrap();
    readiness(&worker, 200).await;
    is_up(&worker, "s3", 1).await;
    logged(&worker, "s3 can be used again", 1).await;
}

#[tokio::test]
async fn names_that_no_network_knows_are_told_from_servers_that_are_down() {
    let lab = Lab::new().set("RUST_LOG", "info");
    let lab = lab.set("REDIS_URL", "redis://:hunter2@redis-of-the-lab:6379/0");
    let lab = lab.set("DATABASE_URL", "postgres://rna:hunter2@postgres-of-the-lab/rna");
    let lab = lab.set("WEAVIATE_URL", "http://weaviate-of-the-lab:8080");
    let lab = lab.set("AWS_BACKUP_BUCKET", "lab").set("AWS_S3_ENDPOINT", "http://minio-of-the-lab:9000");
    let lab = lab.set("AWS_ACCESS_KEY_ID", "hunter2").set("AWS_SECRET_ACCESS_KEY", "hunter2");
    let (_, out, _) = lab.run(&["check", "--json"]);
    assert!(!out.contains("hunter2"), "{out}");
    let report: Value = serde_json::from_str(&out).unwrap();
    for name in ["broker", "postgres", "weaviate", "s3"] {
        let checks = report["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["name"] == name).unwrap();
        let fix = check["fix"].as_str().unwrap();
        assert!(check["ok"] == false && fix.contains("networks: [default, monitoring, NAME]"), "{check}");
        assert!(
            fix.contains("add that to the service rna-backup") && fix.contains("else correct the host in ")
        );
    }
    let worker = lab.worker();
    for name in ["broker", "postgres", "weaviate"] {
        logged(&worker, &format!("{name} cannot be used: "), 2).await;
    }
    assert!(!worker.log().contains("hunter2"), "{}", worker.log());
}
