//! The lists of a queue under an app's own `priority_steps` and `sep`: read where the settings name them, found where
//! they do not.

use crate::cli_check::check;
use crate::support::{
    lab::{Lab, eventually},
    python::Python,
};
use redis::AsyncCommands;
use serde_json::json;

const MEDIA: &str = "api.backup.tasks.backup_media_files";

#[tokio::test]
async fn lists_by_the_apps_own_steps_and_separator_are_found_and_by_settings_read() {
    for python in Python::both() {
        let lab = Lab::new();
        let (ok, found, _) = check(&lab, "other lists");
        assert!(ok && found == "no backup task waits in another list", "{found}");
        let options = json!({"priority_steps": [0, 5], "sep": ":"}).to_string();
        let mut client = python.set("CELERY_BROKER_TRANSPORT_OPTIONS", &options).client(&lab.celery_url());
        let order = json!({"task": MEDIA, "options": {"queue": "backups", "priority": 7}});
        let id = client.send(order).await;
        let mut redis = lab.connection().await;
        // Lists of others, and what is no list, are left alone.
        let () = redis.lpush("backups:of-others", "no message").await.unwrap();
        let () = redis.set("backups:text", "no list").await.unwrap();
        let (ok, found, fix) = check(&lab, "other lists");
        assert!(!ok && found.ends_with("read: 1 in backups:5"), "{found}");
        let said = r#"unless another worker reads them: set BACKUP_BROKER_SEP to the app's sep, ":", and have 5 in BACKUP_BROKER_PRIORITY_STEPS"#;
        assert_eq!(fix, said);
        let worker = lab.worker();
        let measured = eventually(async || {
            let metrics = worker.http("/metrics").await;
            metrics.is_some_and(|(_, text)| text.contains("rna_backup_stray_messages{queue=\"backups\"} 1\n"))
        });
        assert!(measured.await, "{}", worker.log());
        assert!(
            worker.log().contains("backup tasks wait in a list that this worker does not read"),
            "{}",
            worker.log()
        );
        drop(worker);

        let half = lab.set("BACKUP_BROKER_SEP", ":");
        let (_, _, fix) = check(&half, "other lists");
        assert!(
            fix.ends_with(": add 5 to BACKUP_BROKER_PRIORITY_STEPS, as in the app's priority_steps"),
            "{fix}"
        );
        let lab = half.set("BACKUP_BROKER_PRIORITY_STEPS", "0,5");
        let (ok, found, _) = check(&lab, "other lists");
        assert!(ok, "{found}");
        let (_, found, _) = check(&lab, "queues");
        assert!(found.starts_with("waiting: 1 in backups"), "{found}");
        let worker = lab.worker();
        assert_eq!(lab.ended(&id).await["status"], "SUCCESS");
        // A reply to remote control is bound by the same separator.
        let pong = client.ask(&json!({"do": "control", "method": "ping", "timeout": 5, "limit": 1})).await;
        assert_eq!(pong["replies"], json!([{"backup@lab": {"ok": "pong"}}]));
        drop(worker);
    }
}

#[test]
fn steps_that_are_no_steps_are_refused() {
    for wrong in ["3,0", "0,0", "x", "256"] {
        let (code, _, err) = Lab::new().set("BACKUP_BROKER_PRIORITY_STEPS", wrong).run(&["check"]);
        assert!(code == 2 && err.contains("BACKUP_BROKER_PRIORITY_STEPS"), "{wrong}: {code} {err}");
    }
}
