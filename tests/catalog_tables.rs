//! The catalogue in the app's database, as Django Admin reads it.

use crate::support::{
    catalog,
    lab::{Lab, Worker, eventually},
    postgres::{PASSWORD, PostgresServer},
};
use rna_backup::catalog::{
    Entry, Listing, Origin, StoredCopy,
    mirror::{Mirror, RunRow},
};
use rna_backup::component::postgres;
use rna_backup::domain::{command::task, component::ComponentName, listing::BackupState};
use serde_json::{Value, json};
use std::{fs, sync::Arc};

const WARNING: &str = "the tables for Django Admin are not up to date";
const BACKUPS: &str = "SELECT coalesce(jsonb_agg(to_jsonb(b) ORDER BY created_at DESC, backup_id DESC), '[]') FROM rna_backup_backup b";
const RUNS: &str = "SELECT coalesce(jsonb_agg(to_jsonb(r) ORDER BY started_at), '[]') FROM rna_backup_run r";

/// The app's database.
pub struct Database<'a>(pub &'a PostgresServer, pub String);

impl Database<'_> {
    pub fn sql(&self, sql: &str) -> String {
        self.0.psql(&self.1, sql)
    }

    /// The rows that a query makes one array of; none while there is no such table.
    pub fn rows(&self, query: &str) -> Vec<Value> {
        let out = self.0.run("psql", &self.1, &["-X", "-q", "-A", "-t", "-f", "-"], query.as_bytes());
        serde_json::from_slice(&out.stdout).unwrap_or_default()
    }

    /// Waits until the table says what `list` says.
    pub async fn follows(&self, lab: &Lab) {
        let listed = |mut backup: Value| {
            let fields = backup.as_object_mut().unwrap();
            // The server writes times in its own way; what else there is stands in no listing.
            for name in ["created_at", "finished_at", "task_id", "verified_at", "manifest", "digest"] {
                fields.remove(name);
            }
            backup
        };
        let (mut listing, mut rows) = (Vec::new(), Vec::new());
        let equal = eventually(async || {
            let all = lab.json(&["list"])["backups"].as_array().unwrap().clone();
            listing = all.into_iter().map(listed).collect();
            rows = self.rows(BACKUPS).into_iter().map(listed).collect();
            // Within one second the table and the list have orders of their own.
            for found in [&mut listing, &mut rows] {
                found.sort_by_key(|backup: &Value| backup["backup_id"].to_string());
            }
            !listing.is_empty() && listing == rows
        });
        assert!(equal.await, "listed: {listing:?}\nin the table: {rows:?}");
    }

    /// Waits for the only run of an operation that ended as it did.
    pub async fn run(&self, operation: &str, state: &str) -> Value {
        let mut rows = Vec::new();
        let found = eventually(async || {
            rows = self.rows(RUNS);
            rows.retain(|row| row["operation"] == operation && row["state"] == state);
            rows.len() == 1
        });
        assert!(found.await, "no run {operation} {state}: {rows:?}\n{:?}", self.rows(RUNS));
        rows.remove(0)
    }
}

pub fn lab(name: &str) -> (Lab, Database<'static>) {
    let server = PostgresServer::shared();
    let database = server.database(name, "");
    server.psql(&database, "CREATE TABLE paper AS SELECT generate_series(1, 500) AS id");
    (Lab::new().database(server, &database), Database(server, database))
}

pub fn warnings(worker: &Worker) -> usize {
    worker.log().lines().filter(|line| line.contains(WARNING)).count()
}

pub async fn succeeds(lab: &Lab, task: &str, kwargs: Value) -> Value {
    let ended = lab.ended(&lab.order(task, kwargs).await).await;
    assert_eq!(ended["status"], "SUCCESS", "{ended}");
    ended["result"].clone()
}

#[tokio::test]
async fn a_worker_fills_the_tables_from_the_manifests_and_keeps_them_like_these() {
    let server = PostgresServer::shared();
    let lab = Lab::new();
    lab.json(&["backup", "media", "--label", "été"]);
    let database = Database(server, server.database("mirrored", ""));
    let lab = lab.database(server, &database.1);
    let worker = lab.worker();
    database.follows(&lab).await;
    let row = database.rows(BACKUPS).remove(0);
    let manifest = &lab.manifests("media")[0];
    assert_eq!(row["manifest"], *manifest);
    let times = database.sql(&format!(
        "SELECT created_at = '{}' AND finished_at = '{}' AND verified_at = '{}' FROM rna_backup_backup",
        manifest["created_at"].as_str().unwrap(),
        manifest["finished_at"].as_str().unwrap(),
        manifest["verified"]["at"].as_str().unwrap()
    ));
    assert_eq!(times, "t");

    let second = succeeds(&lab, task::BACKUP_MEDIA, json!({"pin": true})).await;
    database.follows(&lab).await;
    let first = row["backup_id"].as_str().unwrap();
    lab.json(&["pin", first]);
    database.follows(&lab).await;
    lab.json(&["unpin", first]);
    succeeds(&lab, task::CLEANUP, json!({"backup_type": "media", "retention_days": 0})).await;
    database.follows(&lab).await;
    assert_eq!(
        database.sql("SELECT backup_id FROM rna_backup_backup"),
        second["backup_id"].as_str().unwrap()
    );

    fs::write(second["path"].as_str().unwrap(), "x").unwrap();
    lab.run(&["verify", "media"]);
    database.follows(&lab).await;
    assert_eq!(database.sql("SELECT verified || ' ' || state FROM rna_backup_backup"), "none failed");
    let task = database.run("prune", "success").await;
    assert_eq!(task["result"]["deleted"], json!([first]));
    assert_eq!(warnings(&worker), 0, "{}", worker.log());
}

#[tokio::test]
async fn every_run_is_a_row_while_it_runs_and_when_it_has_ended() {
    let (lab, database) = lab("runs");
    let worker = lab.worker();
    let made = async || database.sql("SELECT to_regclass('rna_backup_run') IS NOT NULL") == "t";
    assert!(eventually(made).await);
    lab.json(&["backup", "media"]);
    let by_hand = database.run("backup", "success").await;
    assert_eq!((&by_hand["task_id"], by_hand["result"]["component"].as_str()), (&Value::Null, Some("media")));
    database.sql(
        "UPDATE rna_backup_run SET state = 'running', seen_at = now() - interval '1 hour', finished_at = NULL",
    );

    let id = lab.order(task::BACKUP_POSTGRES, json!({})).await;
    let result = lab.ended(&id).await["result"].clone();
    let row = database.run("backup", "success").await;
    assert_eq!((&row["task_id"], &row["run_id"]), (&json!(id), &json!(format!("{id}/postgres"))));
    assert_eq!((&row["backup_id"], &row["result"]), (&result["backup_id"], &result));
    assert!(row["finished_at"].is_string() && row["worker"].is_string() && row["error"].is_null(), "{row}");
    database.run("backup", "lost").await; // nobody has heard of that one for an hour

    let failed = lab.order(task::RESTORE_MEDIA, json!({"backup_path": "media_backup_20200101_000000"})).await;
    assert_eq!(lab.ended(&failed).await["status"], "FAILURE");
    let row = database.run("restore", "failure").await;
    assert!(row["error"].as_str().unwrap().contains("no such backup") && row["result"].is_null(), "{row}");

    succeeds(&lab, task::VERIFY, json!({"component": "media"})).await;
    assert_eq!(database.run("verify", "success").await["backup_id"], by_hand["result"]["backup_id"]);
    fs::write(by_hand["result"]["path"].as_str().unwrap(), "x").unwrap();
    lab.ended(&lab.order(task::VERIFY, json!({"component": "media"})).await).await;
    let row = database.run("verify", "failure").await;
    assert!(row["error"].as_str().unwrap().contains("it should have"), "{row}");
    let everything = format!("{}{}", database.sql(BACKUPS), database.sql(RUNS));
    let secret = serde_json::to_string(PASSWORD).unwrap();
    assert!(!everything.contains(secret.trim_matches('"')) && !everything.contains("s3cr3t"));
    assert_eq!(warnings(&worker), 0, "{}", worker.log());
}

#[tokio::test]
async fn a_run_that_is_taken_up_again_by_another_worker_is_one_row() {
    let server = PostgresServer::shared();
    let database = Database(server, server.database("endless", ""));
    let lab = Lab::endless().database(server, &database.1).set("BACKUP_SHUTDOWN_GRACE", "0s");
    let mut killed = lab.worker();
    let id = lab.order(task::BACKUP_MEDIA, json!({})).await;
    let running = database.run("backup", "running").await;
    assert_eq!(running["task_id"], json!(id));
    lab.under_way().await;
    killed.kill();
    let again = lab.worker();
    let newer =
        eventually(async || database.run("backup", "running").await["started_at"] != running["started_at"]);
    assert!(newer.await, "it was not taken up again: {}", again.log());
    again.stop();
    database.run("backup", "cancelled").await;
    assert_eq!(database.rows(RUNS).len(), 1);
}

#[tokio::test]
async fn after_a_restore_of_that_very_database_the_tables_are_right_again() {
    let (lab, database) = lab("restored with tables");
    let worker = lab.worker();
    succeeds(&lab, task::BACKUP_MEDIA, json!({})).await;
    let media_run = database.run("backup", "success").await;
    let backup = succeeds(&lab, task::BACKUP_POSTGRES, json!({})).await;
    let manifest = lab.manifests("postgres").remove(0);
    let tables: Vec<_> =
        manifest["facts"]["counts"]["tables"].as_array().unwrap().iter().map(|t| &t["table"]).collect();
    assert_eq!(tables, ["paper"], "rows of our tables are in no backup");
    database.follows(&lab).await;

    // What somebody has dumped by hand, with rows of ours in it that are of no use any more.
    let stale = "INSERT INTO rna_backup_backup SELECT 'media_backup_20200101_000000', component, created_at, \
         finished_at, label, pinned, set_id, task_id, size_bytes, source_bytes, sha256, verified, verified_at, \
         state, destinations, manifest, digest FROM rna_backup_backup LIMIT 1";
    database.sql(stale);
    let file = lab.backups().join("postgres/pg_backup_20240101_020000.sql");
    let dump = database.0.run("pg_dump", &database.1, &["-Fc", "-f", file.to_str().unwrap()], b"");
    assert!(dump.status.success());

    for reference in [backup["backup_id"].as_str().unwrap(), "pg_backup_20240101_020000.sql"] {
        database.sql("DELETE FROM paper WHERE id > 100");
        let restored = succeeds(&lab, task::RESTORE_POSTGRES, json!({"backup_path": reference})).await;
        assert_eq!(database.sql("SELECT count(*) FROM paper"), "500");
        database.follows(&lab).await;
        let there = eventually(async || {
            let runs = database.rows(RUNS);
            runs.iter().any(|row| row["result"] == restored) && runs.contains(&media_run)
        });
        assert!(there.await, "{:?}", database.rows(RUNS));
    }
    succeeds(&lab, task::UNDO, json!({"component": "postgres"})).await;
    assert_eq!(database.sql("SELECT count(*) FROM paper"), "100");
    database.follows(&lab).await;
    database.run("undo", "success").await;
    // In the tables that came back with the database, the restore that was undone had only begun.
    let restores = async || {
        let runs = database.rows(RUNS);
        runs.iter().filter(|row| row["operation"] == "restore").all(|row| row["state"] == "success")
    };
    assert!(eventually(restores).await, "{:?}", database.rows(RUNS));
    assert!(database.rows(RUNS).contains(&media_run), "what had ended is as it was");
    succeeds(&lab, task::VERIFY, json!({"component": "postgres", "drill": true})).await;
    succeeds(&lab, task::BACKUP_POSTGRES, json!({})).await;
    assert!(
        lab.manifests("postgres").last().unwrap()["anomaly"].is_object(),
        "of `paper`, and of nothing else"
    );
    assert_eq!(warnings(&worker), 0, "{}", worker.log());
}

#[tokio::test]
async fn two_workers_make_the_tables_at_once() {
    let (lab, database) = lab("two at once");
    lab.json(&["backup", "media"]);
    let made = database.sql("SELECT count(*) FROM pg_class WHERE relname ~ '^rna_backup'");
    assert_eq!(made, "0", "a command by hand leaves a database as it finds it");
    let workers = ["backup@one", "backup@two"].map(|name| lab.worker_named(name));
    for worker in &workers {
        worker.ready().await;
    }
    database.follows(&lab).await;
    for worker in workers {
        let log = worker.log();
        assert!(!log.contains(" WARN ") && !log.contains(WARNING), "{log}");
        assert_eq!(worker.stop(), Some(0));
    }
}

pub fn entries(count: i64) -> Vec<Entry> {
    let entry = |hour| {
        let manifest = catalog::manifest(ComponentName::MEDIA, hour, &["local"]);
        let object = &manifest.objects[0];
        let copy = StoredCopy {
            destination: object.destination.clone(),
            key: object.key.parse().unwrap(),
            location: format!("/backups/{}", object.key),
            bytes: object.bytes,
            state: BackupState::Ok,
        };
        Entry {
            backup_id: manifest.backup_id.clone(),
            created_at: manifest.created_at,
            origin: Origin::Manifest(Arc::new(manifest)),
            copies: vec![copy],
        }
    };
    (0..count).map(entry).collect()
}

#[tokio::test]
async fn of_ten_thousand_backups_only_those_are_written_that_have_changed() {
    // Its encoding has no way to write most names.
    let server = PostgresServer::shared();
    let latin = "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0";
    let database = Database(server, server.database("ten thousand", latin));
    let pool = || postgres::pool(&server.config(&database.1)).unwrap();
    let mut all = entries(10_000);
    let Origin::Manifest(manifest) = &mut all[7].origin else { panic!() };
    Arc::make_mut(manifest).label = Some("中\0文".to_owned());
    let mirror = Mirror::new(pool());
    mirror.make_tables();
    mirror.show(Listing { entries: all.clone(), ..Listing::default() });
    let count =
        async || database.rows("SELECT jsonb_build_array(count(*)) FROM rna_backup_backup") == [10_000];
    assert!(eventually(count).await);
    mirror.close().await;
    assert_eq!(database.sql("SELECT label FROM rna_backup_backup WHERE label LIKE '?%'"), "???");

    database.sql("CREATE TABLE before AS SELECT xmin::text AS was, backup_id FROM rna_backup_backup");
    let Origin::Manifest(manifest) = &mut all[8].origin else { panic!() };
    Arc::make_mut(manifest).pinned = true;
    let gone = all.pop().unwrap();
    let mirror = Mirror::new(pool());
    mirror.make_tables();
    mirror.show(Listing { entries: all.clone(), ..Listing::default() });
    // The end of a program waits for some seconds only, and ten thousand rows may take a busy machine longer.
    let is_pinned = format!("SELECT pinned FROM rna_backup_backup WHERE backup_id = '{}'", all[8].backup_id);
    assert!(eventually(async || database.sql(&is_pinned) == "t").await);
    mirror.close().await;
    let changed = "SELECT b.backup_id, pinned FROM rna_backup_backup b JOIN before USING (backup_id) WHERE b.xmin::text <> was";
    assert_eq!(database.sql(changed), format!("{}|t", all[8].backup_id));
    let left = "SELECT backup_id FROM before EXCEPT SELECT backup_id FROM rna_backup_backup";
    assert_eq!(database.sql(left), gone.backup_id.as_str());
}

#[tokio::test]
async fn old_runs_go() {
    let server = PostgresServer::shared();
    let database = Database(server, server.database("old runs", ""));
    let show = async |hour: i64| {
        let mirror = Mirror::new(postgres::pool(&server.config(&database.1)).unwrap());
        mirror.make_tables();
        mirror.record(RunRow {
            run_id: format!("{hour}/media"),
            task_id: None,
            operation: "backup",
            component: ComponentName::MEDIA,
            state: "success",
            started_at: jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hour),
            finished_at: None,
            backup_id: None,
            error: Some("e".repeat(100_000)),
            result: Some(json!("r".repeat(300_000))),
            worker: "lab".into(),
        });
        mirror.close().await;
    };
    show(24 * 91).await;
    assert_eq!(database.rows(RUNS).len(), 0, "of more than 90 days ago");
    show(24 * 89).await;
    let row = database.rows(RUNS).remove(0);
    assert_eq!((row["error"].as_str().unwrap().len(), &row["result"]), (8000, &Value::Null));
    database.sql(
        "INSERT INTO rna_backup_run (run_id, operation, component, state, started_at, worker) \
         SELECT g, 'backup', 'media', 'success', now() - g * interval '1 s', 'lab' FROM generate_series(1, 10000) g",
    );
    show(0).await;
    assert_eq!(database.sql("SELECT count(*) FROM rna_backup_run"), "10000");
    assert_eq!(database.sql("SELECT count(*) FROM rna_backup_run WHERE run_id IN ('0/media', '9999')"), "2");
}
