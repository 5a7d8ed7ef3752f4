//! Backups that are suspiciously small: kept, flagged, and a reason to delete no other.

use crate::schemas::validates;
use crate::support::{
    catalog::manifest,
    lab::Lab,
    postgres::{PASSWORD, PostgresServer},
};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use rna_backup::domain::{
    anomaly::{Anomaly, size_drops},
    command::task,
    component::ComponentName,
    facts::{Counts, Facts, FileCounts, TableRows},
};
use serde_json::{Value, json};
use std::fs;

/// Facts with these source bytes, rows of tables, files and bytes in files.
fn facts(source_bytes: u64, rows: &[u64], files: u64, bytes: u64) -> Facts {
    let table =
        |(n, rows): (usize, &u64)| TableRows { schema: "a".into(), table: n.to_string(), rows: *rows };
    let tables = rows.iter().enumerate().map(table).collect();
    let files = Some(FileCounts { files, bytes, ..FileCounts::default() });
    Facts { source_bytes, counts: Counts { tables, files, ..Counts::default() }, ..Facts::default() }
}

fn by(backend: &str, facts: Facts) -> Facts {
    Facts { backend: Some(backend.to_owned()), ..facts }
}

#[test]
fn what_falls_by_more_than_half_is_named_and_nothing_else_is() {
    let whole = || facts(1000, &[60, 40, 0], 10, 500);
    let none: &[&str] = &[];
    for (what, before, now, expected) in vec![
        ("the same", whole(), whole(), none),
        ("exactly half", whole(), facts(500, &[50, 0], 5, 250), none),
        ("bytes", whole(), facts(499, &[60, 40, 0], 10, 500), &["source bytes fell from 1000 to 499"]),
        ("rows of all tables", whole(), facts(1000, &[0, 49, 0], 10, 500), &["rows fell from 100 to 49"]),
        ("one table of many", whole(), facts(1000, &[60, 0, 0], 10, 500), none),
        ("tables", whole(), facts(1000, &[100], 10, 500), &["tables fell from 3 to 1"]),
        ("files", whole(), facts(1000, &[60, 40, 0], 4, 500), &["files fell from 10 to 4"]),
        ("bytes in files", whole(), facts(1000, &[60, 40, 0], 10, 0), &["bytes in files fell from 500 to 0"]),
        (
            "everything",
            whole(),
            Facts::default(),
            &[
                "source bytes fell from 1000 to 0",
                "tables fell from 3 to 0",
                "rows fell from 100 to 0",
                "files fell from 10 to 0",
                "bytes in files fell from 500 to 0",
            ],
        ),
        ("bytes of another way", whole(), by("export", facts(3, &[60, 40, 0], 10, 500)), none),
        (
            "bytes of the same way",
            by("export", whole()),
            by("export", facts(3, &[60, 40, 0], 10, 500)),
            &["source bytes fell from 1000 to 3"],
        ),
        (
            "bytes of files that the server compacts",
            by("filesystem", whole()),
            by("filesystem", facts(3, &[60, 40, 0], 10, 500)),
            none,
        ),
        ("from nothing to nothing", Facts::default(), Facts::default(), none),
        ("the largest", facts(u64::MAX, &[u64::MAX; 3], 1, 1), facts(u64::MAX, &[u64::MAX; 3], 1, 1), none),
    ] {
        assert_eq!(size_drops(&before, &now), expected, "{what}");
    }
}

#[test]
fn a_backup_is_suspect_until_it_is_accepted() {
    let before = manifest(ComponentName::Media, 1, &["local"]);
    let mut now = manifest(ComponentName::Media, 2, &["local"]);
    assert!(!now.is_suspect());
    now.anomaly = Anomaly::between(&before, &Facts::default());
    assert_eq!(now.anomaly.as_ref().unwrap().against, before.backup_id);
    assert!(now.is_suspect());
    now.pinned = true;
    assert!(now.is_suspect(), "who ordered it pinned did not know");
    now.accept(now.created_at);
    assert!(!now.is_suspect());
}

proptest! {
    #[test]
    fn growth_is_never_an_anomaly(
        sizes in proptest::collection::vec(0..u64::MAX / 2, 5),
        more in proptest::collection::vec(0..u64::MAX / 2, 5),
    ) {
        let before = facts(sizes[0], &sizes[1..3], sizes[3], sizes[4]);
        let grown: Vec<u64> = sizes.iter().zip(&more).map(|(size, more)| size + more).collect();
        let mut rows = grown[1..3].to_vec();
        rows.push(more[0]);
        prop_assert_eq!(size_drops(&before, &facts(grown[0], &rows, grown[3], grown[4])), Vec::<String>::new());
    }

    #[test]
    fn a_fall_below_half_always_is_one(before in 1..u64::MAX, part in 3..u64::MAX) {
        let now = before / part;
        let found = size_drops(&facts(before, &[], 1, 1), &facts(now, &[], 1, 1));
        prop_assert_eq!(found.len(), 1);
    }
}

/// A lab without a retention period and with ten files.
fn lab() -> Lab {
    let lab = Lab::new().set("RUST_LOG", "").set("BACKUP_RETENTION_DAYS", "0");
    for n in 0..8 {
        fs::write(lab.media().join(format!("{n}.txt")), "RNA".repeat(2000)).unwrap();
    }
    lab
}

fn lose_files(lab: &Lab) {
    (0..8).for_each(|n| fs::remove_file(lab.media().join(format!("{n}.txt"))).unwrap());
}

fn id(report: &Value) -> &str {
    report["backup_id"].as_str().unwrap()
}

#[test]
fn as_long_as_the_newest_backup_is_suspect_none_is_deleted() {
    let lab = lab();
    let first = lab.json(&["backup", "media"]);
    assert_eq!(first["anomaly"], Value::Null);
    lose_files(&lab);
    let second = lab.json(&["backup", "media"]);
    validates("result-backup", &second);
    assert_eq!(second["anomaly"]["against"], first["backup_id"]);
    assert!(second["anomaly"]["what"].to_string().contains("files fell from 10 to 2"), "{second}");
    assert_eq!((&second["verified"], &second["pruned"]), (&json!("decode"), &json!([])));
    validates("manifest", &lab.manifests("media")[1]);
    // A second one of the same size does not make the first one right.
    let third = lab.json(&["backup", "media"]);
    assert_eq!((&third["anomaly"]["against"], &third["pruned"]), (&first["backup_id"], &json!([])));

    for command in [&["prune"][..], &["prune", "--dry-run"]] {
        let plan = lab.json(command);
        assert_eq!(plan["deleted"], json!([]));
        let why: Vec<_> =
            plan["kept"].as_array().unwrap().iter().map(|kept| kept["why"].as_str().unwrap()).collect();
        assert_eq!(why[0], "newest verified", "the newest comes first: {plan}");
        assert!(why[1..].iter().all(|why| why.starts_with("held back: the newest backup is much smaller")));
        assert_eq!(why.len(), 3);
    }
    let (_, out, _) = lab.run(&["show", "latest"]);
    assert!(out.contains(&format!("anomaly    much smaller than {}: ", id(&first))), "{out}");

    // The older one is not what holds retention back.
    lab.json(&["accept", id(&second)]);
    assert_eq!(lab.json(&["prune"])["deleted"], json!([]));
    let (code, out, err) = lab.run(&["accept", "latest"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, format!("{}: accepted\n", id(&third)).as_str(), ""));
    validates("manifest", &lab.manifests("media")[2]);
    assert_eq!(lab.json(&["prune"])["deleted"], json!([first["backup_id"], second["backup_id"]]));
    let fourth = lab.json(&["backup", "media"]);
    assert_eq!((&fourth["anomaly"], &fourth["pruned"]), (&Value::Null, &json!([third["backup_id"]])));
}

#[test]
fn a_pin_says_as_much_and_so_does_the_return_of_the_files() {
    for pin in [true, false] {
        let lab = lab();
        let first = lab.json(&["backup", "media"]);
        lose_files(&lab);
        let small = lab.json(&["backup", "media"]);
        assert_eq!(lab.json(&["prune"])["deleted"], json!([]));
        if pin {
            lab.json(&["pin", id(&small)]);
            assert!(lab.manifests("media")[1]["anomaly"]["accepted"].is_string());
            lab.json(&["unpin", id(&small)]);
            assert_eq!(lab.json(&["prune"])["deleted"], json!([first["backup_id"]]));
        } else {
            (0..8).for_each(|n| fs::write(lab.media().join(format!("{n}.txt")), "RNA".repeat(2000)).unwrap());
            let again = lab.json(&["backup", "media"]);
            assert_eq!(again["anomaly"], Value::Null);
            assert_eq!(again["pruned"], json!([first["backup_id"], small["backup_id"]]));
        }
    }
}

#[test]
fn a_pin_that_is_ordered_with_a_backup_accepts_nothing() {
    let lab = lab();
    lab.json(&["backup", "media"]);
    lose_files(&lab);
    assert_eq!(lab.json(&["backup", "media", "--pin"])["pruned"], json!([]));
    assert_eq!(lab.json(&["prune"])["deleted"], json!([]));
}

#[test]
fn what_is_not_flagged_needs_no_acceptance() {
    let lab = lab();
    let report = lab.json(&["backup", "media"]);
    let (code, out, _) = lab.run(&["accept", "latest"]);
    assert_eq!((code, out), (0, format!("{}: nothing to accept, it is not flagged\n", id(&report))));
    assert_eq!(lab.run(&["accept", "media_backup_20200101_000000"]).0, 3);
}

#[test]
fn an_emptied_table_is_an_anomaly_whatever_the_size_of_the_dump() {
    let server = PostgresServer::shared();
    let database = server.database("emptied", "");
    server.psql(
        &database,
        "CREATE TABLE paper AS SELECT generate_series(1, 1000) AS id; \
         CREATE TABLE image AS SELECT repeat('x', 100000) AS body FROM generate_series(1, 10)",
    );
    let config = server.config(&database);
    let lab = Lab::new().set("POSTGRES_HOST", &config.host).set("POSTGRES_PORT", config.port);
    let lab = lab.set("POSTGRES_DB", &database).set("POSTGRES_PASSWORD", PASSWORD).set("RUST_LOG", "");
    let first = lab.json(&["backup", "postgres"]);
    server.psql(&database, "DELETE FROM paper");
    let (code, out, _) = lab.run(&["backup", "postgres"]);
    assert_eq!(code, 0);
    assert!(
        out.contains(&format!("warning: much smaller than {}: rows fell from 1010 to 10\n", id(&first))),
        "{out}"
    );
    assert!(out.contains("rna-backup accept pg_backup_"), "{out}");
}

#[tokio::test]
async fn a_task_says_so_in_its_result_the_log_and_the_metrics() {
    let lab = lab().set("RUST_LOG", "info");
    let worker = lab.worker();
    worker.ready().await;
    let order = async || lab.ended(&lab.order(task::BACKUP_MEDIA, json!({})).await).await["result"].clone();
    order().await;
    let metrics = worker.http("/metrics").await.unwrap().1;
    assert!(metrics.contains(r#"rna_backup_anomaly{component="media"} 0"#), "{metrics}");
    assert!(metrics.contains(r#"rna_backup_retention_refused_total{reason="anomaly"} 0"#), "{metrics}");
    lose_files(&lab);
    let result = order().await;
    validates("result-backup", &result);
    assert!(result["anomaly"]["what"][0].is_string(), "{result}");
    worker.shows(r#"rna_backup_anomaly{component="media"} 1"#).await;
    let metrics = worker.http("/metrics").await.unwrap().1;
    assert!(metrics.contains(r#"rna_backup_retention_refused_total{reason="anomaly"} 1"#), "{metrics}");
    let log = worker.log();
    assert!(
        log.lines().any(|l| l.contains("WARN") && l.contains("backup is much smaller than before")),
        "{log}"
    );
}

#[test]
fn what_a_restore_of_a_wrong_backup_has_replaced_is_kept_until_somebody_accepts_that_there_is_less() {
    let lab = Lab::new();
    let small = lab.json(&["backup", "media"]);
    let grown = lab.media().join("thesis.pdf");
    fs::write(&grown, vec![1; 100_000]).unwrap();
    lab.json(&["backup", "media"]);
    lab.json(&["restore", "media", small["backup_id"].as_str().unwrap(), "--yes"]);
    assert!(!grown.exists());
    let suspect = lab.json(&["backup", "media"]);
    assert!(!suspect["anomaly"].is_null());
    lab.json(&["undo", "media", "--yes"]);
    assert_eq!(fs::metadata(&grown).unwrap().len(), 100_000);

    lab.json(&["undo", "media", "--yes"]);
    assert_eq!(lab.run(&["accept", suspect["backup_id"].as_str().unwrap()]).0, 0);
    lab.json(&["backup", "media"]);
    assert_eq!(lab.run(&["undo", "media", "--yes"]).0, 1, "it was accepted, and another backup was made");
}

#[test]
fn a_restore_of_the_latest_passes_over_a_flagged_backup_and_says_so() {
    let lab = lab();
    let first = lab.json(&["backup", "media"]);
    lose_files(&lab);
    let small = lab.json(&["backup", "media"]);
    let words = format!("much smaller than {}: ", id(&first));
    let accept = format!("rna-backup accept {}", id(&small));

    let plan = lab.json(&["restore", "media", "--dry-run"]);
    validates("restore-plan", &plan);
    assert_eq!(plan["backup_id"], first["backup_id"]);
    assert_eq!(plan["passed_over"][0]["backup_id"], small["backup_id"]);
    let why = plan["passed_over"][0]["why"].as_str().unwrap();
    assert!(why.contains(&words) && why.contains(&accept), "{why}");
    let (_, out, _) = lab.run(&["restore", "media", "latest", "--dry-run"]);
    assert!(
        out.contains(&format!("`latest` passed over {}: ", id(&small))) && out.contains(&accept),
        "{out}"
    );

    let report = lab.json(&["restore", "media", "--yes"]);
    validates("result-restore", &report);
    assert_eq!(report["backup_id"], first["backup_id"]);
    let warning = report["warnings"][0].as_str().unwrap();
    assert!(warning.contains(id(&small)) && warning.contains(&words), "{warning}");
    assert!(lab.media().join("7.txt").exists());

    for command in [&["show", "latest"][..], &["verify", "media"]] {
        let (code, out, err) = lab.run(command);
        assert_eq!(code, 0);
        assert!((out + &err).contains(&accept), "{command:?}");
    }
    let named = lab.json(&["restore", "media", id(&small), "--dry-run"]);
    assert_eq!((&named["backup_id"], named.get("passed_over")), (&small["backup_id"], None));
    lab.json(&["accept", "latest"]);
    let plan = lab.json(&["restore", "media", "--dry-run"]);
    assert_eq!((&plan["backup_id"], plan.get("passed_over")), (&small["backup_id"], None));
}

#[test]
fn where_each_backup_is_flagged_a_restore_of_the_latest_is_refused_with_both_ways_on() {
    let lab = lab();
    let first = lab.json(&["backup", "media"]);
    lose_files(&lab);
    let small = lab.json(&["backup", "media"]);
    fs::remove_file(first["path"].as_str().unwrap()).unwrap();
    fs::write(lab.backups().join("media/media_backup_20200101_000000.tar.gz"), "an old file").unwrap();
    for args in [&["restore", "media", "--dry-run"][..], &["restore", "media", "--yes"]] {
        let (code, _, err) = lab.run(args);
        assert_eq!(code, 3, "{err}");
        assert!(err.contains(&format!("rna-backup accept {}", id(&small))), "{err}");
        assert!(err.contains("its id restores it as it is"), "{err}");
    }
    assert_eq!(lab.json(&["restore", "media", id(&small), "--yes"])["backup_id"], small["backup_id"]);
}

#[test]
fn the_latest_is_none_of_a_clock_ahead_and_both_restore_and_drill_say_so() {
    let lab = lab();
    let report = lab.json(&["backup", "media"]);
    let ahead = (Timestamp::now() + SignedDuration::from_mins(20)).round(jiff::Unit::Second).unwrap();
    let name = ahead.strftime("media_backup_%Y%m%d_%H%M%S").to_string();
    let archive = fs::read(report["path"].as_str().unwrap()).unwrap();
    fs::write(report["path"].as_str().unwrap().replace(id(&report), &name), archive).unwrap();
    let manifest =
        fs::read_to_string(lab.backups().join(format!("manifests/media/{}.json", id(&report)))).unwrap();
    let mut manifest: Value = serde_json::from_str(&manifest.replace(id(&report), &name)).unwrap();
    manifest["created_at"] = json!(ahead);
    let at = lab.backups().join(format!("manifests/media/{name}.json"));
    fs::write(at, manifest.to_string()).unwrap();

    let plan = lab.json(&["restore", "media", "--dry-run"]);
    assert_eq!(
        (&plan["backup_id"], &plan["passed_over"][0]["backup_id"]),
        (&report["backup_id"], &json!(name))
    );
    for args in
        [&["restore", "media", "--yes"][..], &["verify", "media", "--drill"], &["verify", "media", "media"]]
    {
        let (code, out, err) = lab.run(args);
        assert_eq!(code, 0, "{err}");
        assert!(
            out.contains(id(&report)) && out.contains(&format!("`latest` passed over {name}: ")),
            "{out}"
        );
        assert!(out.contains("a clock ahead"), "{out}");
    }
}

#[tokio::test]
async fn a_task_that_restores_the_latest_tells_in_its_result_which_backup_it_passed_over() {
    let lab = lab();
    let first = lab.json(&["backup", "media"]);
    lose_files(&lab);
    let small = lab.json(&["backup", "media"]);
    let worker = lab.worker();
    worker.ready().await;
    let ordered = lab.order(task::RESTORE_MEDIA, json!({"backup_path": "latest"})).await;
    let result = lab.ended(&ordered).await["result"].clone();
    assert_eq!(result["backup_id"], first["backup_id"]);
    let warning = result["warnings"][0].as_str().unwrap();
    assert!(warning.contains(id(&small)) && warning.contains("accept_backup"), "{warning}");
}
