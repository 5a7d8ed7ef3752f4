//! Verification as a task, and one that takes long.

use crate::schemas::validates;
use crate::support::{
    lab::{Lab, eventually},
    python::Python,
};
use crate::verify::archive;
use rna_backup::domain::command::task;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{fs, process::Stdio};

#[tokio::test]
async fn verify_backup_returns_what_it_found_and_fails_when_a_backup_is_not_whole() {
    let lab = Lab::new();
    let report = lab.json(&["backup", "media"]);
    let worker = lab.worker();
    worker.ready().await;
    for kwargs in [json!({}), json!({"component": "media", "backup": report["backup_id"], "drill": false})] {
        let ended = lab.ended(&lab.order(task::VERIFY, kwargs).await).await;
        assert_eq!(ended["status"], "SUCCESS", "{ended}");
        validates("result-verify", &ended["result"]);
        assert_eq!(ended["result"]["results"][0]["ok"], true);
    }
    let metrics = worker.http("/metrics").await.unwrap().1;
    for line in [
        r#"rna_backup_verify_last_success_timestamp_seconds{component="media",level="decode"} 1"#,
        r#"rna_backup_runs_total{component="media",operation="verify",result="success"} 2"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }

    let path = report["path"].as_str().unwrap();
    let whole = fs::read(path).unwrap();
    fs::write(path, &whole[..whole.len() / 2]).unwrap();
    let ended = lab.ended(&lab.order(task::VERIFY, json!({})).await).await;
    assert_eq!((&ended["status"], &ended["result"]["exc_type"]), (&json!("FAILURE"), &json!("RuntimeError")));
    let words = ended["result"]["exc_message"].to_string();
    let id = report["backup_id"].as_str().unwrap();
    assert!(words.contains(&format!("not whole: {id}: local: it should have ")), "{words}");
    let counted = async || {
        let metrics = worker.http("/metrics").await.unwrap().1;
        metrics.contains(r#"rna_backup_runs_total{component="media",operation="verify",result="failure"} 1"#)
            && metrics.contains(r#"rna_backup_failures_total{component="media",reason="verify"} 1"#)
            && metrics.contains(
                r#"rna_backup_catalog_backups{component="media",destination="local",state="failed"} 1"#,
            )
    };
    assert!(eventually(counted).await);
}

#[tokio::test]
async fn what_verify_backup_cannot_do_fails_at_once_with_a_clear_word() {
    let lab = Lab::new();
    lab.json(&["backup", "media"]);
    let before = lab.manifests("media");
    let worker = lab.worker();
    worker.ready().await;
    for (kwargs, exc_type, words) in [
        (json!({"drill": "yes"}), "TypeError", "argument 'drill' must be True or False"),
        (json!({"backup": "media_backup_20200101_000000"}), "FileNotFoundError", "no such backup"),
        (json!({"backup": "../../etc/passwd"}), "ValueError", "not inside a configured destination"),
        (json!({"component": "postgres"}), "ValueError", "DATABASE_URL"),
        (json!({"backup": 7}), "TypeError", "must be a string"),
    ] {
        let ended = lab.ended(&lab.order(task::VERIFY, kwargs).await).await;
        assert_eq!((&ended["status"], &ended["result"]["exc_type"]), (&json!("FAILURE"), &json!(exc_type)));
        let message = ended["result"]["exc_message"].to_string();
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(lab.manifests("media"), before, "nothing was touched");
}

/// A lab with a backup that takes longer to read than any test.
fn endless() -> Lab {
    let lab = Lab::new().set("BACKUP_COMPRESSION", "none").set("RUST_LOG", "");
    let path = archive(&lab.json(&["backup", "media"]));
    fs::File::options().write(true).open(path).unwrap().set_len(1 << 40).unwrap();
    lab
}

#[tokio::test]
async fn a_verification_keeps_its_component_from_others_and_can_be_stopped() {
    let lab = endless();
    let before = lab.manifests("media");
    let verifying = lab.program(&["verify", "media", "--wait"]).stderr(Stdio::piped()).spawn().unwrap();
    let holder = format!("media is busy: process {} on ", verifying.id());
    let busy = eventually(async || lab.run(&["prune", "--component", "media"]).2.contains(&holder));
    assert!(busy.await, "retention does not touch what is being verified");
    kill_process(Pid::from_child(&verifying), Signal::TERM).unwrap();
    let ended = verifying.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8(ended.stderr).unwrap();
    // The verification may have waited for the retention command that looked first, and says so on a line before.
    assert!(said.contains("error: the run was stopped\n"), "{said}");
    assert_eq!(lab.manifests("media"), before);
    assert_eq!(lab.run(&["prune", "--component", "media"]).0, 0);
}

#[tokio::test]
async fn a_task_that_verifies_shows_its_progress_and_can_be_terminated() {
    let lab = endless();
    let before = lab.manifests("media");
    let worker = lab.worker();
    worker.ready().await;
    let id = lab.order(task::VERIFY, json!({})).await;
    let mut shown = Value::Null;
    let progress = eventually(async || {
        shown = lab.result(&id).await.unwrap_or_default();
        shown["status"] == "PROGRESS" && shown["result"]["phase"] == "verify" && shown["result"]["bytes"] != 0
    });
    assert!(progress.await, "{shown}");
    validates("progress", &shown["result"]);
    let mut python = Python::newest().client(&lab.celery_url());
    python.control("revoke", json!({"task_id": id, "terminate": true})).await;
    assert_eq!(lab.ended(&id).await["status"], "REVOKED");
    assert_eq!(lab.manifests("media"), before);
    assert_eq!(lab.run(&["prune", "--component", "media"]).0, 0);
}
