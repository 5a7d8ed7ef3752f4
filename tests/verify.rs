//! Verification by hand: what is damaged is named and marked, and what is whole is not.

use crate::schemas::validates;
use crate::support::{
    lab::{Lab, files},
    postgres::PostgresServer,
};
use jiff::Timestamp;
use rna_backup::{
    base::clock::SystemClock,
    domain::component::ComponentName,
    engine::{LockOwner, Locks},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

/// Bytes that no compressor makes smaller, the same ones each time.
pub fn noise(len: usize) -> Vec<u8> {
    (0..len.div_ceil(32)).flat_map(|n| Sha256::digest(n.to_le_bytes())).take(len).collect()
}

/// A lab with archives of a few hundred KB.
fn lab(database: &str, compression: &str) -> Lab {
    let server = PostgresServer::shared();
    let database = server.database(database, "");
    server.psql(
        &database,
        "CREATE TABLE paper AS SELECT g AS id, sha512(g::text::bytea)::text AS body \
         FROM generate_series(1, 4000) g; CREATE TABLE author (name text)",
    );
    let lab = Lab::new().database(server, &database);
    let lab = lab.set("BACKUP_COMPRESSION", compression).set("RUST_LOG", "");
    fs::write(lab.media().join("blot.tiff"), noise(300_000)).unwrap();
    lab
}

pub fn archive(report: &Value) -> PathBuf {
    report["path"].as_str().unwrap().into()
}

fn manifest_of(lab: &Lab, report: &Value) -> PathBuf {
    let (component, id) = (report["component"].as_str().unwrap(), report["backup_id"].as_str().unwrap());
    lab.backups().join(format!("manifests/{component}/{id}.json"))
}

pub fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Runs `verify … --json`: exit status and document.
fn verify(lab: &Lab, args: &[&str]) -> (i32, Value) {
    let (code, out, err) = lab.run(&[&["verify", "--json"], args].concat());
    let report = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{code}: {out}{err}"));
    validates("result-verify", &report);
    (code, report)
}

/// What is done to a backup: its archive, its manifest, and the archive of another component.
type Damage = fn(&Path, &Path, &Path);

/// Does the damage to backups of each component in each compression. Each is reported, marked, shown, and
/// counted on no more.
fn is_found(name: &str, damage: Damage, words: &str, state: &str) {
    for compression in ["zstd", "gzip", "none"] {
        let lab = lab(&format!("{name} {compression}"), compression);
        let made = [lab.json(&["backup", "postgres"]), lab.json(&["backup", "media"])];
        for (report, other) in [(&made[0], &made[1]), (&made[1], &made[0])] {
            let component = report["component"].as_str().unwrap();
            let whole = fs::read(archive(report)).unwrap();
            damage(&archive(report), &manifest_of(&lab, report), &archive(other));
            let (code, found) = verify(&lab, &[component]);
            let result = &found["results"][0];
            assert_eq!((code, &result["ok"]), (4, &json!(false)), "{compression}: {found}");
            assert_eq!(result["backup_id"], report["backup_id"]);
            let problems = result["problems"].to_string();
            assert!(problems.contains(words), "{compression} {component}: {problems}");
            let noted: Value = serde_json::from_slice(&fs::read(manifest_of(&lab, report)).unwrap()).unwrap();
            validates("manifest", &noted);
            assert_eq!(noted["verified"], json!({"level": "none", "at": null}), "{compression} {component}");
            let listed = &lab.json(&["list", component])["backups"][0];
            assert_eq!((&listed["state"], &listed["verified"]), (&json!(state), &json!("none")));
            fs::write(archive(report), whole).unwrap();
        }
    }
}

fn cut(archive: &Path, keep: impl Fn(usize) -> usize) {
    let bytes = fs::read(archive).unwrap();
    assert!(bytes.len() > 100_000, "{} bytes", bytes.len());
    fs::write(archive, &bytes[..keep(bytes.len())]).unwrap();
}

#[test]
fn an_archive_cut_at_70_percent_is_found() {
    is_found("cut at 70", |archive, _, _| cut(archive, |len| len * 7 / 10), "it should have ", "failed");
}

#[test]
fn an_archive_without_its_last_64_kb_is_found() {
    is_found("cut by 64", |archive, _, _| cut(archive, |len| len - 65_536), "it should have ", "failed");
}

#[test]
fn one_flipped_bit_is_found() {
    let flip: Damage = |archive, _, _| {
        let mut bytes = fs::read(archive).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(archive, bytes).unwrap();
    };
    is_found("flipped", flip, "its hash is not the one in its manifest", "failed");
}

#[test]
fn a_wrong_hash_in_the_manifest_is_found() {
    let swap: Damage =
        |_, manifest, _| edit(manifest, |m| m["objects"][0]["sha256"] = json!("ab".repeat(32)));
    is_found("wrong hash", swap, "its hash is not the one in its manifest", "failed");
}

#[test]
fn an_empty_archive_is_found() {
    is_found("empty", |archive, _, _| fs::write(archive, "").unwrap(), "and has 0", "failed");
}

#[test]
fn a_missing_archive_is_found() {
    let remove: Damage = |archive, _, _| fs::remove_file(archive).unwrap();
    is_found("missing", remove, "the archive is missing", "missing");
}

#[test]
fn an_archive_of_another_component_is_found_though_its_hash_is_right() {
    let swap: Damage = |archive, manifest, other| {
        let bytes = fs::read(other).unwrap();
        edit(manifest, |m| {
            m["objects"][0]["bytes"] = json!(bytes.len());
            let hash =
                Sha256::digest(&bytes).iter().fold(String::new(), |hash, byte| hash + &format!("{byte:02x}"));
            m["objects"][0]["sha256"] = json!(hash);
        });
        fs::write(archive, bytes).unwrap();
    };
    is_found("other", swap, " archive", "failed");
}

#[test]
fn counts_that_are_not_those_of_the_manifest_are_found() {
    let swap: Damage = |_, manifest, _| {
        edit(manifest, |m| {
            let counts = &mut m["facts"]["counts"];
            match counts.pointer_mut("/tables/1/rows") {
                Some(rows) => *rows = json!(4001),
                None => counts["files"]["files"] = json!(4001),
            }
        });
    };
    is_found("counts", swap, "expected 4001", "failed");
}

#[test]
fn what_is_whole_is_proven_again_and_nothing_else_about_it_changes() {
    for compression in ["zstd", "gzip", "none"] {
        let lab = lab(&format!("whole {compression}"), compression);
        lab.json(&["backup", "all", "--pin"]);
        let before = [lab.manifests("postgres"), lab.manifests("media")].concat();
        for args in [&["all", "--level", "checksum"][..], &["all"], &["all", "all"]] {
            let (code, found) = verify(&lab, args);
            assert_eq!(code, 0, "{found}");
            assert_eq!(found["results"].as_array().unwrap().len(), 2);
            assert!(found["results"][0]["destinations"][0]["bytes"].as_u64().unwrap() > 100_000);
        }
        let after = [lab.manifests("postgres"), lab.manifests("media")].concat();
        for (mut before, after) in before.into_iter().zip(after) {
            let at = |manifest: &Value| manifest["verified"]["at"].as_str().unwrap().parse::<Timestamp>();
            assert!(at(&before).unwrap() < at(&after).unwrap());
            before["verified"]["at"] = after["verified"]["at"].clone();
            assert_eq!(before, after);
        }
        let (code, out, err) = lab.run(&["verify", "media"]);
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(out.ends_with(": whole (decode)\n"), "{out}");
    }
}

#[test]
fn what_is_damaged_is_neither_the_latest_nor_what_retention_counts_on() {
    let lab = Lab::new().set("RUST_LOG", "").set("BACKUP_RETENTION_DAYS", "0");
    let good = lab.json(&["backup", "media", "--pin"]);
    let bad = lab.json(&["backup", "media"]);
    let path = archive(&bad);
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[20] ^= 4;
    fs::write(&path, flipped).unwrap();
    assert_eq!(lab.json(&["show", "latest"])["backup"]["backup_id"], bad["backup_id"], "nobody knows yet");
    let (code, out, _) = lab.run(&["verify", "media"]);
    assert_eq!(code, 4, "{out}");
    assert!(out.contains("NOT WHOLE (decode)\n  local: its hash is not the one in its manifest\n"), "{out}");
    assert_eq!(lab.json(&["show", "latest"])["backup"]["backup_id"], good["backup_id"]);
    let (_, out, _) = lab.run(&["show", bad["backup_id"].as_str().unwrap()]);
    assert!(out.contains("warning    its hash is not the one in its manifest\n"), "{out}");
    // The newest one is looked at again, and not the older one in its place.
    assert_eq!(verify(&lab, &["media"]).0, 4);
    assert_eq!(verify(&lab, &["media", good["backup_id"].as_str().unwrap()]).0, 0);

    // A proof that is made good counts again.
    fs::write(&path, &whole).unwrap();
    assert_eq!(verify(&lab, &["media"]).0, 0);
    assert_eq!(lab.json(&["show", "latest"])["backup"]["backup_id"], bad["backup_id"]);
    fs::write(&path, &whole[1..]).unwrap();
    assert_eq!(verify(&lab, &["media"]).0, 4);
    assert_eq!(lab.json(&["prune"])["deleted"], json!([bad["backup_id"]]));
}

#[test]
fn a_newest_backup_whose_manifest_cannot_be_read_is_not_passed_over() {
    let lab = Lab::new().set("RUST_LOG", "");
    let good = lab.json(&["backup", "media"]);
    let bad = lab.json(&["backup", "media"]);
    fs::write(manifest_of(&lab, &bad), "{").unwrap();
    for args in [&["media"][..], &["all", "all"]] {
        let (code, found) = verify(&lab, args);
        let ids: Vec<_> =
            found["results"].as_array().unwrap().iter().map(|r| (&r["backup_id"], &r["ok"])).collect();
        let expected = [(&bad["backup_id"], &json!(false)), (&good["backup_id"], &json!(true))];
        assert_eq!((code, ids.as_slice()), (4, expected.as_slice()));
        assert!(
            found["results"][0]["problems"][0].as_str().unwrap().starts_with("its manifest cannot be read")
        );
    }
    // An older one is not the latest.
    fs::write(manifest_of(&lab, &good), "{").unwrap();
    fs::remove_file(manifest_of(&lab, &bad)).unwrap();
    lab.json(&["backup", "media"]);
    assert_eq!(verify(&lab, &["media"]).0, 0);
    assert_eq!(verify(&lab, &["media", "all"]).0, 4);
}

#[test]
fn what_cannot_be_verified_is_said_and_has_its_exit_status() {
    let lab = Lab::new().set("RUST_LOG", "");
    assert_eq!(lab.run(&["verify", "media"]).0, 3, "there is no folder");
    fs::create_dir(lab.backups()).unwrap();
    for args in
        [&["verify", "media"][..], &["verify", "all"], &["verify", "media", "media_backup_20200101_000000"]]
    {
        let (code, _, err) = lab.run(args);
        assert_eq!(code, 3, "{err}");
    }
    for args in
        [&["verify", "postgres"][..], &["verify", "media", "../x"], &["verify", "media", "--level", "drill"]]
    {
        let (code, out, err) = lab.run(args);
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
    }
    let (code, _, err) = lab.run(&["verify", "media", "--drill", "--level", "decode"]);
    assert_eq!(code, 2, "{err}");
}

#[test]
fn files_of_the_old_tasks_are_read_to_their_end_and_what_cannot_be_compared_is_said() {
    let lab = lab("old files", "gzip");
    let media = archive(&lab.json(&["backup", "media"]));
    let lab = lab.set("BACKUP_COMPRESSION", "none");
    let dump = archive(&lab.json(&["backup", "postgres"]));
    let places = [
        lab.backups().join("media/media_backup_20240101_040000.tar.gz"),
        lab.backups().join("postgres/pg_backup_20240101_020000.sql"),
    ];
    fs::copy(media, &places[0]).unwrap();
    fs::copy(dump, &places[1]).unwrap();
    for (component, place) in [("media", &places[0]), ("postgres", &places[1])] {
        let name = place.file_name().unwrap().to_str().unwrap();
        let (code, found) = verify(&lab, &[component, name]);
        assert_eq!(code, 0, "{found}");
        assert!(found["results"][0]["warnings"][0].as_str().unwrap().contains("nothing to compare it with"));
        let (code, found) = verify(&lab, &[component, name, "--level", "checksum"]);
        assert_eq!(code, 4, "{found}");
        assert!(found["results"][0]["problems"][0].as_str().unwrap().starts_with("has no manifest"));
        cut(place, |len| len * 7 / 10);
        assert_eq!(verify(&lab, &[component, name]).0, 4);
    }
    assert_eq!(files(&lab.backups().join("manifests/media")).len(), 1);
}

#[tokio::test]
async fn a_component_that_another_run_has_is_busy_or_waited_for() {
    let lab = Lab::new().set("RUST_LOG", "");
    lab.json(&["backup", "media"]);
    let owner = LockOwner { pid: 7, host: "lab".into(), task_id: None, recovers: false, loose: None };
    let locks = Locks::new(lab.backups().join(".locks"));
    let held = locks.take(ComponentName::MEDIA, &owner, None, &SystemClock).await.unwrap();
    let (code, _, err) = lab.run(&["verify", "media"]);
    assert_eq!(code, 5, "{err}");
    assert!(err.contains("process 7 on lab works on it") && err.contains("--wait"), "{err}");
    let waiting = lab.program(&["verify", "media", "--wait"]).stdout(Stdio::null()).spawn().unwrap();
    drop(held);
    assert!(waiting.wait_with_output().unwrap().status.success());
}
