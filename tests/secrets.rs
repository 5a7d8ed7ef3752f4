//! No secret in any place where somebody could read it who has no business with it.

use crate::support::{
    lab::{Lab, files},
    postgres::PostgresServer,
    s3::{S3Server, SECRET},
};
use redis::AsyncCommands;
use rna_backup::domain::command::task;
use serde_json::{Value, json};
use std::{
    fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// What stands in every secret of this test: in those that are right, and in those that are wrong.
const MARKS: [&str; 4] = ["hunter2", "s3cr3t p@ss", "s3cr3t-of-the-lab", "AGE-SECRET-KEY-1"];

/// The marks that stand in a text.
fn marks_in(text: &[u8]) -> Vec<&'static str> {
    MARKS.into_iter().filter(|mark| memchr::memmem::find(text, mark.as_bytes()).is_some()).collect()
}

/// Looks at the command lines of all processes until it is told to stop; those with a secret.
fn watch_command_lines(stop: &AtomicBool) -> Vec<String> {
    let mut found = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if !marks_in(&line).is_empty() {
                found.push(String::from_utf8_lossy(&line).replace('\0', " "));
            }
        }
    }
    found
}

/// Every string and every field that Redis keeps.
async fn everything_in(redis: &mut redis::aio::MultiplexedConnection) -> Vec<u8> {
    let keys: Vec<String> = redis.keys("*").await.unwrap();
    let mut all = keys.join(" ").into_bytes();
    for key in keys {
        let dump: Vec<u8> =
            match redis::cmd("TYPE").arg(&key).query_async::<String>(redis).await.unwrap().as_str() {
                "string" => redis.get(&key).await.unwrap(),
                "list" => redis.lrange::<_, Vec<Vec<u8>>>(&key, 0, -1).await.unwrap().concat(),
                "hash" => redis.hvals::<_, Vec<Vec<u8>>>(&key).await.unwrap().concat(),
                _ => Vec::new(),
            };
        all.extend(dump);
    }
    all
}

/// Every row of the worker's tables in the app's database.
fn tables_in(server: &PostgresServer, database: &str) -> [(&'static str, Vec<u8>); 2] {
    ["rna_backup_backup", "rna_backup_run"].map(|table| {
        let rows = server.psql(database, &format!("SELECT t::text FROM {table} t"));
        assert!(!rows.is_empty(), "{table}");
        (table, rows.into_bytes())
    })
}

/// A lab with secrets in every setting, and a way into its Redis.
async fn sealed(lab: Lab) -> (Lab, redis::aio::MultiplexedConnection) {
    let bucket = S3Server::shared().bucket().await;
    let keys = bucket.keys.as_ref().unwrap();
    let key = lab.path("lab.key");
    let made = Command::new("age-keygen").arg("-o").arg(&key).output().unwrap();
    assert!(made.status.success());
    let public =
        String::from_utf8(Command::new("age-keygen").arg("-y").arg(&key).output().unwrap().stdout).unwrap();
    let mut redis = lab.connection().await;
    let user = ["SETUSER", "lab", "on", ">hunter2-redis", "~*", "&*", "+@all"];
    let () = redis::cmd("ACL").arg(&user).query_async(&mut redis).await.unwrap();
    let url = lab.redis.url().replacen("unix://", "unix://lab:hunter2-redis@", 1);
    let lab = lab
        .set("REDIS_URL", url)
        .set("AWS_BACKUP_BUCKET", &bucket.bucket)
        .set("AWS_S3_ENDPOINT", bucket.endpoint.as_ref().unwrap())
        .set("AWS_ACCESS_KEY_ID", secrecy::ExposeSecret::expose_secret(&keys.id))
        .set("AWS_SECRET_ACCESS_KEY", SECRET)
        .set("BACKUP_AGE_RECIPIENTS", public.trim())
        .set("BACKUP_AGE_IDENTITY_FILE", key.display())
        .set("BACKUP_RESTORE_KEY", "hunter2-restore")
        .set("BACKUP_MAX_RETRIES", 0)
        .set("WEAVIATE_URL", "http://127.0.0.1:1")
        .set("WEAVIATE_API_KEY", "hunter2-weaviate")
        .set("WEAVIATE_API_KEY", "hunter2-api");
    (lab, redis)
}

#[tokio::test]
async fn no_secret_is_in_a_log_a_result_a_metric_a_manifest_a_table_or_a_command_line() {
    let server = PostgresServer::shared();
    let database = server.database("discreet", "");
    server.psql(&database, "CREATE TABLE paper AS SELECT g AS id FROM generate_series(1, 200) g");
    let lab = Lab::new().database(server, &database).set("RUST_LOG", "debug");
    let (lab, mut redis) = sealed(lab).await;
    let stop = Arc::new(AtomicBool::new(false));
    let watching = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || watch_command_lines(&stop)
    });

    let (mut seen, mut states) = (Vec::new(), Vec::new());
    let wrong: [&[(&str, &str)]; 3] = [
        &[],
        &[("AWS_SECRET_ACCESS_KEY", "hunter2-s3"), ("POSTGRES_PASSWORD", "hunter2-postgres")],
        &[
            ("DATABASE_URL", "postgres://lab:hunter2-url@127.0.0.1:1/lab"),
            ("AWS_S3_ENDPOINT", "http://127.0.0.1:1"),
        ],
    ];
    let mut lab = lab;
    for settings in wrong {
        for (name, value) in settings {
            lab = lab.set(name, value);
        }
        let worker = lab.worker();
        worker.ready().await;
        for (name, kwargs) in [
            (task::BACKUP_POSTGRES, json!({"label": "of this test"})),
            (task::BACKUP_MEDIA, json!({})),
            (task::BACKUP_WEAVIATE, json!({})),
            (task::VERIFY, json!({"drill": true})),
            (task::RESTORE_MEDIA, json!({"backup_path": "latest"})),
        ] {
            let ended: Value = lab.ended(&lab.order(name, kwargs).await).await;
            states.push(ended["status"].as_str().unwrap().to_owned());
        }
        seen.push(("metrics", worker.http("/metrics").await.unwrap().1.into_bytes()));
        seen.push(("log", worker.log().into_bytes()));
        worker.stop();
        for args in [&["check"][..], &["list"], &["show", "latest"], &["backup", "all"], &["verify", "all"]] {
            let (_, out, err) = lab.run(args);
            seen.push(("command", [out, err].concat().into_bytes()));
        }
    }
    stop.store(true, Ordering::Relaxed);
    assert_eq!(watching.join().unwrap(), [""; 0]);
    // Both ways of ending were seen, so that both were looked at.
    assert!(states.iter().any(|state| state == "SUCCESS") && states.iter().any(|state| state == "FAILURE"));
    seen.extend(tables_in(server, &database));
    seen.push(("Redis", everything_in(&mut redis).await));
    for component in ["postgres", "media"] {
        let manifests = files(&lab.backups().join("manifests").join(component));
        assert!(!manifests.is_empty());
        seen.extend(manifests.iter().map(|path| ("manifest", fs::read(path).unwrap())));
    }
    seen.extend(files(&lab.backups().join(".locks")).iter().map(|path| ("lock", fs::read(path).unwrap())));
    for (what, text) in seen {
        let marks = marks_in(&text);
        assert!(marks.is_empty(), "{marks:?} in a {what}: {}", String::from_utf8_lossy(&text));
    }
}
