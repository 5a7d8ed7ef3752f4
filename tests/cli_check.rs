//! `check` and `healthcheck`: a line for each dependency, what to do about it, and never a secret.

use crate::{
    schemas::validates,
    support::{
        lab::{Lab, eventually},
        postgres::{PASSWORD, PostgresServer},
    },
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// What `check --json` says of one dependency: whether it is fit, what was found, what to do.
fn check(lab: &Lab, name: &str) -> (bool, String, String) {
    let (code, out, err) = lab.run(&["check", "--json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    validates("check", &report);
    let checks = report["checks"].as_array().unwrap();
    assert_eq!(code == 0, checks.iter().all(|check| check["ok"] == true), "{err}");
    let found = checks.iter().find(|check| check["name"] == name);
    let found = found.unwrap_or_else(|| panic!("{name} is not in {report}"));
    let text = |key: &str| found[key].as_str().unwrap().to_owned();
    (found["ok"] == true, text("detail"), text("fix"))
}

#[tokio::test]
async fn a_lab_in_order_passes() {
    let server = PostgresServer::shared();
    let database = server.database("cli check", "");
    let config = server.config(&database);
    let lab = Lab::new().set("POSTGRES_HOST", &config.host).set("POSTGRES_PORT", config.port);
    let lab = lab.set("POSTGRES_DB", &database).set("POSTGRES_PASSWORD", PASSWORD).set("RUST_LOG", "");
    let (code, out, err) = lab.run(&["check"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let names: Vec<&str> = out.lines().map(|line| line.split("  ").next().unwrap()).collect();
    assert_eq!(names, ["CHECK", "local destination", "broker", "postgres", "media"]);
    assert!(out.lines().skip(1).all(|line| line.contains("  ok  ")), "{out}");
    assert_eq!(lab.json(&["check"])["checks"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn what_is_out_of_order_is_said_with_what_to_do() {
    let mut lab = Lab::new().set("RUST_LOG", "");
    lab.redis.stop();
    let server = PostgresServer::shared();
    let config = server.config("postgres");
    let lab = lab.set("POSTGRES_HOST", &config.host).set("POSTGRES_PORT", config.port);
    let lab = lab.set("POSTGRES_DB", "postgres").set("POSTGRES_PASSWORD", "wr0ng-pa55word");
    let gone = lab.path("gone");
    let lab = lab.set("MEDIA_ROOT", gone.display());
    let (code, out, err) = lab.run(&["check"]);
    assert_eq!((code, err.as_str()), (1, ""));
    assert!(!out.contains("wr0ng-pa55word"), "{out}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 1 + 1 + 3 * 2, "a line each, and one more for what to do:\n{out}");
    for (at, name, found, fix) in [
        (2, "broker", "redis is not available", "start Redis, or correct the host in REDIS_URL"),
        (4, "postgres", "access denied", "correct user and password in DATABASE_URL"),
        (6, "media", "find MEDIA_ROOT", "correct MEDIA_ROOT, or what it points to"),
    ] {
        assert!(lines[at].starts_with(name) && lines[at].contains(found), "{}", lines[at]);
        assert!(lines[at].contains("  NOT OK  ") && lines[at + 1].contains(fix), "{}", lines[at + 1]);
    }
}

#[tokio::test]
async fn each_fault_has_its_own_remedy() {
    let lab = Lab::new().set("RUST_LOG", "").set("MEDIA_ROOT", "");
    let (ok, found, fix) = check(&lab, "components");
    assert!(!ok && found.contains("nothing would be backed up") && fix.contains("MEDIA_ROOT"), "{found}");

    let server = PostgresServer::shared();
    let config = server.config("postgres");
    let lab = lab.set("POSTGRES_HOST", &config.host).set("POSTGRES_PORT", config.port);
    let lab = lab.set("POSTGRES_PASSWORD", PASSWORD).set("POSTGRES_DB", "no such lab");
    let (_, found, fix) = check(&lab, "postgres");
    assert!(found.contains("the database does not exist"), "{found}");
    assert!(fix.contains("DATABASE_URL"), "{fix}");
    let (_, found, fix) = check(&lab.set("POSTGRES_PORT", 1), "postgres");
    assert!(found.contains("127.0.0.1:1/") && fix.starts_with("start PostgreSQL, or correct"), "{found}");

    let lab = Lab::new().set("BACKUP_MIN_FREE", "900TiB");
    let (_, found, fix) = check(&lab, "local destination");
    assert!(found.contains("900.0 TiB") && fix.starts_with("make room"), "{found}");
    let lab = lab.set("BACKUP_ROOT", "/proc/backups");
    let (_, found, fix) = check(&lab, "local destination");
    assert!(found.contains("/proc/backups") && fix.starts_with("let the user of this process"), "{found}");

    let lab = Lab::new().set("CELERY_RESULT_BACKEND", "redis://:s3same@127.0.0.1:1/3");
    let (_, found, fix) = check(&lab, "result backend");
    assert!(found.starts_with("redis://127.0.0.1:1/3: ") && !found.contains("s3same"), "{found}");
    assert!(fix.contains("CELERY_RESULT_BACKEND"), "{fix}");
    assert!(check(&lab, "broker").0);
}

#[tokio::test]
async fn a_redis_that_wants_a_password_and_one_that_hangs_are_told_apart() {
    let lab = Lab::new().set("RUST_LOG", "");
    let mut redis = lab.connection().await;
    let () =
        redis::cmd("CONFIG").arg(&["SET", "requirepass", "sesame"]).query_async(&mut redis).await.unwrap();
    let (ok, found, fix) = check(&lab, "broker");
    assert!(!ok && fix.starts_with("correct the user, password or database"), "{found} {fix}");

    let pid = rustix::process::Pid::from_raw(i32::try_from(lab.redis.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    let (ok, found, fix) = check(&lab, "broker");
    rustix::process::kill_process(pid, Signal::CONT).unwrap();
    assert!(!ok && fix.starts_with("start Redis, or"), "{found} {fix}");
}

#[tokio::test]
async fn what_this_version_cannot_do_yet_is_said_before_it_is_missed() {
    let lab = Lab::new().set("RUST_LOG", "").set("WEAVIATE_URL", "http://lab:s3same@127.0.0.1:1");
    let lab = lab.set("AWS_BACKUP_BUCKET", "lab").set("AWS_S3_ENDPOINT", "http://127.0.0.1:1");
    let lab = lab.set("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE").set("AWS_SECRET_ACCESS_KEY", "s3same");
    let (ok, found, fix) = check(&lab, "weaviate");
    assert!(!ok && fix.contains("BACKUP_COMPONENTS") && !found.contains("s3same"), "{found}");
    let (ok, found, fix) = check(&lab, "s3");
    assert!(!ok && fix.contains("backups are kept in BACKUP_ROOT") && !found.contains("s3same"), "{found}");
    let (code, out, _) = lab.set("BACKUP_COMPONENTS", "media").set("AWS_BACKUP_BUCKET", "").run(&["check"]);
    assert_eq!(code, 0, "{out}");
}

#[tokio::test]
async fn a_container_learns_whether_its_worker_lives() {
    let lab = Lab::new().set("BACKUP_METRICS_ADDR", "127.0.0.1:1").set("RUST_LOG", "");
    let (code, out, err) = lab.run(&["healthcheck"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("the worker at 127.0.0.1:1 is not well: ") && err.contains("refused"), "{err}");
    let (code, out, _) = lab.run(&["healthcheck", "--json"]);
    let answer: Value = serde_json::from_str(&out).unwrap();
    validates("healthcheck", &answer);
    assert_eq!((code, answer), (1, json!({"ok": false, "address": "127.0.0.1:1"})));

    let worker = lab.worker();
    // Listening everywhere, it is asked here.
    let lab = lab.set("BACKUP_METRICS_ADDR", format!("0.0.0.0:{}", worker.port()));
    assert!(eventually(async || lab.run(&["healthcheck"]) == (0, "ok\n".to_owned(), String::new())).await);
    validates("healthcheck", &lab.json(&["healthcheck"]));
}
