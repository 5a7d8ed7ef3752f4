//! Backups that people want kept, whatever retention says.

use crate::schemas::validates;
use crate::support::lab::{Lab, eventually, files};
use rna_backup::{
    base::clock::SystemClock,
    domain::{command::task, component::ComponentName},
    engine::{ComponentLock, LockOwner, Locks},
};
use serde_json::{Value, json};
use std::{fs, process::Stdio};

#[test]
fn a_pinned_backup_stays_until_it_is_unpinned() {
    let lab = Lab::new().set("RUST_LOG", "").set("BACKUP_RETENTION_DAYS", "0");
    let first = lab.json(&["backup", "media"]);
    let id = first["backup_id"].as_str().unwrap();
    let before = lab.manifests("media").remove(0);
    let listed = lab.json(&["pin", id]);
    validates("list", &json!({"backups": [&listed]}));
    assert_eq!((&listed["backup_id"], &listed["pinned"]), (&json!(id), &json!(true)));
    let mut after = lab.manifests("media").remove(0);
    after["pinned"] = json!(false);
    assert_eq!(after, before, "nothing else has changed");

    assert_eq!(lab.json(&["backup", "media"])["pruned"], json!([]));
    let (code, out, err) = lab.run(&["unpin", id]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, format!("{id}: no longer pinned\n").as_str(), ""));
    assert_eq!(lab.json(&["prune"])["deleted"], json!([id]));
    let latest: Value = lab.json(&["pin", "latest", "--component", "media"]);
    assert_eq!(latest["pinned"], true);
}

#[test]
fn what_cannot_be_pinned_is_said_and_nothing_is_written() {
    let lab = Lab::new().set("RUST_LOG", "");
    let old = lab.backups().join("media/media_backup_20240101_040000.tar.gz");
    fs::create_dir_all(old.parent().unwrap()).unwrap();
    fs::write(&old, "old").unwrap();
    let (code, _, err) = lab.run(&["pin", "media_backup_20240101_040000"]);
    assert_eq!(code, 2);
    assert!(err.contains("was made by the app's old tasks and has no manifest"), "{err}");
    for (args, exit) in [
        (&["pin", "media_backup_20200101_000000"][..], 3),
        (&["unpin", "latest", "--component", "postgres"], 3),
        (&["pin", "../x"], 2),
        (&["pin"], 2),
    ] {
        let (code, out, err) = lab.run(args);
        assert_eq!((code, out.as_str()), (exit, ""), "{args:?}: {err}");
    }
    assert!(files(&lab.backups().join("manifests/media")).is_empty());
}

/// Takes media as another run would.
async fn media(lab: &Lab) -> ComponentLock {
    let owner = LockOwner { pid: 7, host: "lab".into(), task_id: None, recovers: false, loose: None };
    let locks = Locks::new(lab.backups().join(".locks"));
    locks.take(ComponentName::MEDIA, &owner, None, &SystemClock).await.unwrap()
}

#[tokio::test]
async fn a_manifest_is_not_changed_while_another_run_has_the_component() {
    let lab = Lab::new().set("RUST_LOG", "");
    lab.json(&["backup", "media"]);
    let held = media(&lab).await;
    let (code, _, err) = lab.run(&["pin", "latest"]);
    assert_eq!(code, 5, "{err}");
    let waiting = lab.program(&["pin", "latest", "--wait"]).stdout(Stdio::null()).spawn().unwrap();
    drop(held);
    assert!(waiting.wait_with_output().unwrap().status.success());
    assert_eq!(lab.manifests("media")[0]["pinned"], true);
}

#[tokio::test]
async fn a_task_pins_unpins_and_accepts_as_a_command_does() {
    let lab = Lab::new();
    let paper = lab.media().join("paper.pdf");
    fs::write(&paper, vec![1; 100_000]).unwrap();
    let large = lab.json(&["backup", "media"])["backup_id"].clone();
    fs::remove_file(&paper).unwrap();
    let small = lab.json(&["backup", "media"])["backup_id"].clone();
    let _worker = lab.worker();
    let amend = async |task, kwargs: Value| {
        let ended = lab.ended(&lab.order(task, kwargs).await).await;
        assert_eq!(ended["status"], "SUCCESS", "{ended}");
        validates("result-amend", &ended["result"]);
        ended["result"].clone()
    };
    let pinned = amend(task::PIN, json!({"backup": large})).await;
    assert_eq!(
        pinned,
        json!({"status": "success", "component": "media", "backup_id": large, "pinned": true, "anomaly": null})
    );
    assert_eq!(lab.manifests("media")[0]["pinned"], true);
    assert_eq!(amend(task::PIN, json!({"backup": large, "pinned": false})).await["pinned"], false);
    assert_eq!(lab.manifests("media")[0]["pinned"], false);

    let accepted = amend(task::ACCEPT, json!({"backup": "latest"})).await;
    assert_eq!((&accepted["backup_id"], &accepted["anomaly"]["against"]), (&small, &large));
    assert!(accepted["anomaly"]["accepted"].is_string(), "{accepted}");
    assert_eq!(lab.manifests("media")[1]["anomaly"], accepted["anomaly"]);
    assert_eq!(amend(task::ACCEPT, json!({"backup": small})).await, accepted, "what was accepted stays so");
    assert_eq!(amend(task::ACCEPT, json!({"backup": large})).await["anomaly"], Value::Null);
}

#[tokio::test]
async fn a_task_says_what_cannot_be_pinned_or_accepted() {
    let lab = Lab::new();
    let old = lab.backups().join("media/media_backup_20240101_040000.tar.gz");
    fs::create_dir_all(old.parent().unwrap()).unwrap();
    fs::write(&old, "old").unwrap();
    let _worker = lab.worker();
    for task in [task::PIN, task::ACCEPT] {
        for (backup, exception) in [
            ("media_backup_20200101_000000", "FileNotFoundError"),
            ("media_backup_20240101_040000", "ValueError"),
            ("../x", "ValueError"),
        ] {
            let ended = lab.ended(&lab.order(task, json!({"backup": backup})).await).await;
            assert_eq!(ended["result"]["exc_type"], exception, "{task} {backup}: {ended}");
        }
    }
}

#[tokio::test]
async fn a_task_waits_for_who_works_on_the_component_and_says_so() {
    let lab = Lab::new();
    lab.json(&["backup", "media"]);
    let held = media(&lab).await;
    let _worker = lab.worker();
    let id = lab.order(task::PIN, json!({"backup": "latest"})).await;
    let waits = eventually(async || {
        let said = lab.result(&id).await.unwrap_or_default();
        let phase = said["result"]["phase"].as_str();
        phase.is_some_and(|phase| phase.starts_with("waiting: media is busy"))
    });
    assert!(waits.await, "{:?}", lab.result(&id).await);
    assert_eq!(lab.manifests("media")[0]["pinned"], false);
    drop(held);
    assert_eq!(lab.ended(&id).await["result"]["pinned"], true);
}
