//! Backup folders on file systems that lack something, and what killed commands have left in them.

#![allow(clippy::print_stdout)] // a skipped test says so

use crate::store_contract as contract;
use crate::support::{
    disk::{ExFat, Tmpfs},
    lab::{Lab, unfinished},
};
use rna_backup::store::LocalStore;
use serde_json::{Value, json};
use std::{fs, process::Stdio};

/// What `check` says of the backup folder.
fn local(lab: &Lab) -> Value {
    let (_, out, _) = lab.run(&["check", "--json"]);
    let checks: Value = serde_json::from_str(&out).unwrap();
    let mut checks = checks["checks"].as_array().unwrap().iter();
    checks.find(|check| check["name"] == "local destination").unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_without_hard_links_holds_what_every_store_promises() {
    let Some(disk) = ExFat::mount() else { return };
    let new = |name: &str| LocalStore::open(disk.path().join(name), 0).unwrap();
    contract::a_commit_never_replaces(&new("one")).await;
    contract::of_uploads_of_one_key_at_once_exactly_one_wins(&new("two")).await;
    contract::an_aborted_or_dropped_upload_leaves_nothing(&new("three")).await;
    contract::what_is_deleted_at_once_is_gone_and_the_rest_stays(&new("five")).await;
}

#[test]
fn backups_go_to_a_folder_without_hard_links_and_come_back() {
    let Some(disk) = ExFat::mount() else { return };
    let lab = Lab::new().set("BACKUP_ROOT", disk.path().join("backups").display()).set("RUST_LOG", "");
    assert_eq!(local(&lab)["ok"], json!(true));
    let first = lab.json(&["backup", "media"]);
    let second = lab.json(&["backup", "media"]);
    assert_ne!(first["backup_id"], second["backup_id"]);
    assert_eq!(lab.json(&["verify", "media", "all", "--drill"])["results"].as_array().unwrap().len(), 2);
    fs::remove_dir_all(lab.media().join("figures")).unwrap();
    assert_eq!(lab.json(&["restore", "media", "--yes"])["backup_id"], second["backup_id"]);
    assert!(lab.media().join("figures/gel.txt").exists());
    assert!(unfinished(&disk.path().join("backups")).is_empty());
}

#[test]
fn a_check_takes_the_last_step_of_a_backup_and_leaves_nothing() {
    let lab = Lab::new().set("RUST_LOG", "");
    let archives = lab.backups().join("media");
    fs::create_dir_all(&archives).unwrap();
    assert_eq!(local(&lab)["ok"], json!(true));
    let Some(disk) = Tmpfs::mount_at("8m", &archives) else {
        return println!("skipped: mounting is not allowed");
    };
    let found = local(&lab);
    assert_eq!(found["ok"], json!(false), "{found}");
    assert!(found["detail"].as_str().unwrap().contains("mounted by itself"), "{found}");
    let (code, _, err) = lab.run(&["backup", "media"]);
    assert!(code == 1 && err.contains("mounted by itself"), "{code}: {err}");
    drop(disk);
    for folder in [archives, lab.backups(), lab.backups().join(".partial")] {
        let is_trial = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().contains("trial");
        assert!(!fs::read_dir(folder).unwrap().any(|entry| is_trial(&entry.unwrap())));
    }
}

#[tokio::test]
async fn each_command_that_writes_or_makes_room_sweeps_what_killed_ones_have_left_and_nothing_of_live_ones() {
    // Also by a command that is about another component, and so does not take up what the killed one had noted.
    for sweeping in [&["backup", "media"][..], &["prune"], &["prune", "--component", "postgres"]] {
        let lab = Lab::endless();
        let backup = || lab.program(&["backup", "media"]).stderr(Stdio::null()).spawn().unwrap();
        let mut killed = backup();
        lab.under_way().await;
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert_eq!(unfinished(&lab.backups()).len(), 1);

        assert_eq!(lab.run(&["prune", "--dry-run"]).0, 0);
        assert_eq!(unfinished(&lab.backups()).len(), 1, "a dry run removes nothing");
        fs::remove_file(lab.media().join("endless")).unwrap();
        let (code, _, err) = lab.run(sweeping);
        assert_eq!(code, 0, "{err}");
        assert_eq!(unfinished(&lab.backups()).len(), 0, "{sweeping:?}");
    }

    let lab = Lab::endless();
    let mut live = lab.program(&["backup", "media"]).stderr(Stdio::null()).spawn().unwrap();
    lab.under_way().await;
    assert_eq!(lab.run(&["prune", "--component", "postgres"]).0, 0);
    assert_eq!(unfinished(&lab.backups()).len(), 1, "a live run is left alone");
    live.kill().unwrap();
    live.wait().unwrap();
}

#[test]
fn a_trial_of_a_run_that_died_in_its_last_step_is_swept_and_one_of_a_live_run_stays() {
    let lab = Lab::new();
    lab.json(&["backup", "media"]);
    let places = ["", "media", "manifests", "manifests/media"];
    let places = places.map(|folder| lab.backups().join(folder).join(".17-trial-0123456789abcdef"));
    for place in &places {
        fs::write(place, "").unwrap();
    }
    let live = fs::File::open(&places[1]).unwrap();
    rustix::fs::flock(&live, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert_eq!(lab.run(&["prune"]).0, 0);
    assert_eq!(places.map(|place| place.exists()), [false, true, false, false]);
}
