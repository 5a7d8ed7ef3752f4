//! `check` and `healthcheck`: a line for each dependency, what to do about it, and never a secret.

use crate::{
    catalog_rebuild::with_bucket,
    schemas::validates,
    support::{
        lab::{Lab, eventually, files},
        postgres::{PASSWORD, PostgresServer},
        s3::{Bucket, S3Server, SECRET},
    },
};
use redis::AsyncCommands;
use rna_backup::celery::publish::Outgoing;
use rna_backup::domain::command::task;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{fs, fs::File, process::Command};

/// What `check --json` says of one dependency: whether it is fit, what was found, what to do.
pub fn check(lab: &Lab, name: &str) -> (bool, String, String) {
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
    let all =
        ["CHECK", "local destination", "broker", "queues", "other lists", "routing", "postgres", "media"];
    assert_eq!(names, all);
    assert!(out.lines().skip(1).all(|line| line.contains("  ok  ")), "{out}");
    assert_eq!(lab.json(&["check"])["checks"].as_array().unwrap().len(), 7);
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
        (
            6,
            "media",
            "does not exist; this process is ",
            "create or mount the folder, or correct the setting",
        ),
    ] {
        assert!(lines[at].starts_with(name) && lines[at].contains(found), "{}", lines[at]);
        assert!(lines[at].contains("  NOT OK  ") && lines[at + 1].contains(fix), "{}", lines[at + 1]);
    }
    assert!(
        lines[5].contains("a `$` in an env file") && lines[5].contains("POSTGRES_PASSWORD_FILE"),
        "{}",
        lines[5]
    );
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
async fn a_redis_that_may_lose_keys_or_runs_no_scripts_is_named() {
    let lab = Lab::new();
    let mut redis = lab.connection().await;
    let mut say = async |words: &[&str]| {
        let () = redis::cmd(words[0]).arg(&words[1..]).query_async(&mut redis).await.unwrap();
    };
    say(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    assert!(check(&lab, "broker").0, "memory without a limit is never full");
    say(&["CONFIG", "SET", "maxmemory", "64mb"]).await;
    let (ok, found, fix) = check(&lab, "broker");
    assert!(
        !ok && found.contains("maxmemory-policy allkeys-lru") && fix.contains("noeviction"),
        "{found} {fix}"
    );
    say(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    assert!(check(&lab, "broker").0);
    say(&["ACL", "SETUSER", "default", "-@scripting"]).await;
    let (ok, found, fix) = check(&lab, "broker");
    assert!(
        !ok && found.contains("run a script on redis") && fix.contains("the rights in docs/security.md"),
        "{found} {fix}"
    );
}

#[tokio::test]
async fn a_redis_that_wants_a_password_and_one_that_hangs_are_told_apart() {
    let lab = Lab::new().set("RUST_LOG", "");
    let mut redis = lab.connection().await;
    let () =
        redis::cmd("CONFIG").arg(&["SET", "requirepass", "sesame"]).query_async(&mut redis).await.unwrap();
    let (ok, found, fix) = check(&lab, "broker");
    assert!(!ok && fix.starts_with("correct the user, password or database"), "{found} {fix}");
    let dollar =
        "compose reads a `$` in an env file as a variable: write the value in single quotes, or give it by ";
    assert!(fix.ends_with(&format!("; {dollar}REDIS_URL_FILE")), "{fix}");

    let pid = rustix::process::Pid::from_raw(i32::try_from(lab.redis.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    let (ok, found, fix) = check(&lab, "broker");
    rustix::process::kill_process(pid, Signal::CONT).unwrap();
    assert!(!ok && fix.starts_with("start Redis, or"), "{found} {fix}");
}

#[tokio::test]
async fn what_does_not_answer_is_said_before_it_is_missed() {
    let lab = Lab::new()
        .set("RUST_LOG", "")
        .set("WEAVIATE_URL", "http://127.0.0.1:1")
        .set("WEAVIATE_API_KEY", "s3same");
    let lab = lab.set("AWS_BACKUP_BUCKET", "lab").set("AWS_S3_ENDPOINT", "http://127.0.0.1:1");
    let lab = lab.set("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE").set("AWS_SECRET_ACCESS_KEY", "s3same");
    let (ok, found, fix) = check(&lab, "weaviate");
    assert!(
        !ok && fix.contains("start Weaviate, or correct WEAVIATE_URL") && !found.contains("s3same"),
        "{found}"
    );
    let (ok, found, fix) = check(&lab, "s3");
    assert!(!ok && fix.starts_with("start the server, or") && !found.contains("s3same"), "{found}");
    assert!(found.contains("Connection refused"), "{found}");
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

#[tokio::test]
async fn messages_that_nobody_takes_are_a_fault_until_a_worker_lives() {
    let lab = Lab::new().set("BACKUP_QUEUES", "backups,urgent").set("BACKUP_BROKER_KEYPREFIX", "");
    let (ok, found, _) = check(&lab, "queues");
    assert!(ok && found == "waiting: 0 in backups, 0 in urgent; no rna-backup worker is alive", "{found}");
    for priority in [0, 5, 9] {
        lab.send(&Outgoing::new(task::BACKUP_MEDIA, "urgent").priority(priority)).await;
    }
    let (ok, found, fix) = check(&lab, "queues");
    assert!(!ok && found.starts_with("waiting: 0 in backups, 3 in urgent, and no"), "{found}");
    assert_eq!(fix, "start one: rna-backup worker");
    let _worker = lab.worker();
    let lives = eventually(async || {
        let (ok, found, _) = check(&lab, "queues");
        ok && found == "waiting: 0 in backups, 0 in urgent; one rna-backup worker is alive"
    });
    assert!(lives.await);
}

#[tokio::test]
async fn backup_tasks_in_the_apps_own_queue_are_found_and_left_there() {
    let lab = Lab::new();
    assert!(check(&lab, "routing").0);
    for n in 0..25 {
        lab.send(&Outgoing::new("api.tasks.index_paper", "celery")).await;
        if n % 12 == 0 {
            lab.send(&Outgoing::new(task::BACKUP_MEDIA, "celery").priority(n % 9)).await;
        }
    }
    let mut redis = lab.connection().await;
    let () = redis.lpush("celery", "no message").await.unwrap();
    let before: Vec<String> = redis.lrange("celery", 0, -1).await.unwrap();
    let (ok, found, fix) = check(&lab, "routing");
    assert!(!ok && found.starts_with("3 backup task(s) wait in celery"), "{found}");
    assert!(fix.contains(r#"CELERY_TASK_ROUTES = {"api.backup.*": {"queue": "backups"}}"#), "{fix}");
    let after: Vec<String> = redis.lrange("celery", 0, -1).await.unwrap();
    assert!(before == after && before.len() > 25, "nothing was taken");
    let lab = lab.set("BACKUP_QUEUES", "celery");
    let (_, out, _) = lab.run(&["check", "--json"]);
    assert!(!out.contains("routing"), "that queue is ours then: {out}");
}

#[test]
fn room_for_less_than_the_last_backup_took_is_too_little() {
    let lab = Lab::new().set("RUST_LOG", "");
    lab.json(&["backup", "media"]);
    let (ok, found, _) = check(&lab, "local destination");
    assert!(ok && found.contains("the last backups took "), "{found}");
    // A backup of 8 TiB, by its length.
    let archive = files(&lab.backups().join("media")).remove(0);
    let bytes = 8_u64 << 40;
    File::options().write(true).open(archive).unwrap().set_len(bytes).unwrap();
    let path = files(&lab.backups().join("manifests/media")).remove(0);
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["objects"][0]["bytes"] = bytes.into();
    fs::write(path, manifest.to_string()).unwrap();
    let (ok, found, fix) = check(&lab, "local destination");
    assert!(
        !ok && found.contains("the last backups took 8.0 TiB") && fix.starts_with("make room"),
        "{found}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_tried_out_and_nothing_is_left_in_it() {
    let config = S3Server::shared().bucket().await;
    let bucket = Bucket::of(&config);
    let lab = with_bucket(Lab::new().set("RUST_LOG", ""), &config);
    let (ok, found, _) = check(&lab, "s3");
    assert!(ok && found.contains(&config.bucket) && found.contains("written, read, listed"), "{found}");
    assert_eq!((bucket.objects().await, bucket.uploads().await), (vec![], vec![]));

    let alone = lab.set("BACKUP_LOCAL", "False");
    alone.json(&["backup", "media"]);
    let (ok, found, _) = check(&alone, "local destination");
    assert!(ok && found.contains("BACKUP_LOCAL is off"), "{found}");
    let wrong = alone.set("AWS_SECRET_ACCESS_KEY", "s3same");
    let (ok, found, fix) = check(&wrong, "s3");
    assert!(!ok && found.contains("correct AWS_ACCESS_KEY_ID") && !found.contains("s3same"), "{found}");
    assert!(fix.contains("a `$` in an env file") && fix.ends_with("AWS_SECRET_ACCESS_KEY_FILE"), "{fix}");
    let missing = wrong.set("AWS_SECRET_ACCESS_KEY", SECRET).set("AWS_BACKUP_BUCKET", "lab-is-not-there");
    let (ok, found, fix) = check(&missing, "s3");
    assert!(!ok && found.contains("create the bucket") && fix.contains("AWS_BACKUP_BUCKET"), "{found} {fix}");
}

#[tokio::test]
async fn who_may_not_make_a_database_learns_how_a_restore_would_go() {
    let server = PostgresServer::shared();
    let database = server.database("cli check in place", "");
    server.psql(
        &database,
        "CREATE ROLE \"check owner\" LOGIN PASSWORD 'hunter2'; GRANT pg_read_all_data TO \"check owner\";
         ALTER DATABASE \"cli check in place\" OWNER TO \"check owner\"",
    );
    let lab = Lab::new().database(server, &database);
    let (ok, found, _) = check(&lab, "postgres");
    assert!(ok && found.ends_with("; a restore is made beside it and swapped in"), "{found}");
    assert!(found.contains("PostgreSQL ") && found.contains(" MB; pg_dump "), "{found}");
    let lab = lab.set("POSTGRES_USER", "check owner").set("POSTGRES_PASSWORD", "hunter2");
    let (ok, found, _) = check(&lab, "postgres");
    assert!(ok && found.contains("in place, without undo"), "{found}");
    assert!(found.contains("ALTER ROLE \"check owner\" CREATEDB") && !found.contains("hunter2"), "{found}");
    server.psql(&database, "ALTER ROLE \"check owner\" CREATEDB");
    assert!(check(&lab, "postgres").1.ends_with("swapped in"));
    server.psql(&database, "REVOKE pg_read_all_data FROM \"check owner\"; CREATE TABLE paper (id int)");
    let (ok, found, _) = check(&lab, "postgres");
    assert!(!ok && found.contains("GRANT pg_read_all_data"), "{found}");
}

#[test]
fn a_machine_without_the_key_and_a_misspelled_setting_are_told() {
    let lab = Lab::new().set("RUST_LOG", "").set("BACKUP_KEEP_LATS", "3");
    let secret = lab.path("lab.key");
    assert!(Command::new("age-keygen").arg("-o").arg(&secret).output().unwrap().status.success());
    let public = Command::new("age-keygen").arg("-y").arg(&secret).output().unwrap();
    let lab = lab.set("BACKUP_AGE_RECIPIENTS", String::from_utf8(public.stdout).unwrap().trim());
    let (ok, found, _) = check(&lab, "encryption");
    assert!(ok && found.contains("neither verify contents nor restore"), "{found}");
    let (code, _, err) = lab.run(&["check"]);
    let warned = err.contains("BACKUP_KEEP_LATS: is not a known setting: did you mean BACKUP_KEEP_LAST?");
    assert!(code == 0 && warned, "{err}");
    let lab = lab.set("BACKUP_AGE_IDENTITY_FILE", secret.display());
    let (ok, found, _) = check(&lab, "encryption");
    assert!(ok && found.ends_with("is there to open them"), "{found}");
}
