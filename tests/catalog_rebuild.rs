//! `catalog rebuild`: the catalogue made anew from what lies in the destinations.

use crate::{
    schemas::{examples_are_real, validates},
    support::{
        lab::{Lab, files},
        postgres::PostgresServer,
        s3::{Bucket, KEY_ID, S3Server, SECRET},
        tree,
    },
};
use rna_backup::{domain::rebuild::RebuildReport, store::S3Config};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Gives a lab a bucket.
pub fn with_bucket(lab: Lab, config: &S3Config) -> Lab {
    lab.set("AWS_BACKUP_BUCKET", &config.bucket)
        .set("AWS_S3_ENDPOINT", config.endpoint.as_ref().unwrap())
        .set("AWS_ACCESS_KEY_ID", KEY_ID)
        .set("AWS_SECRET_ACCESS_KEY", SECRET)
}

/// Flips a bit in the middle of a file.
pub fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// What `catalog rebuild` says, and its exit code.
fn rebuild(lab: &Lab, args: &[&str]) -> (i32, Value) {
    let (code, out, err) = lab.run(&[&["catalog", "rebuild", "--json"], args].concat());
    let report = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{code}: {err}"));
    validates("catalog-rebuild", &report);
    (code, report)
}

fn archive(lab: &Lab, component: &str) -> PathBuf {
    files(&lab.backups().join(component)).remove(0)
}

fn remove_manifests(lab: &Lab) {
    fs::remove_dir_all(lab.backups().join("manifests")).unwrap();
}

fn ids(report: &Value, list: &str) -> Vec<String> {
    let id = |entry: &Value| entry.get("backup_id").unwrap_or(entry).as_str().unwrap().to_owned();
    report[list].as_array().unwrap().iter().map(id).collect()
}

/// The lists that say that something is not as it should be.
fn remarks(report: &Value) -> usize {
    ["missing", "damaged", "skipped"].iter().map(|list| report[list].as_array().unwrap().len()).sum()
}

#[test]
fn the_examples_of_a_rebuild_are_real() {
    examples_are_real::<RebuildReport>("catalog-rebuild");
}

#[test]
fn manifests_that_are_gone_are_made_from_the_archives() {
    let server = PostgresServer::shared();
    let database = server.database("rebuilt", "");
    server.psql(&database, "CREATE TABLE paper AS SELECT g AS id FROM generate_series(1, 321) g");
    let lab = Lab::new().database(server, &database).set("RUST_LOG", "");
    let made = ["postgres", "media"].map(|component| lab.json(&["backup", component]));
    let before = ["postgres", "media"].map(|component| lab.manifests(component).remove(0));
    remove_manifests(&lab);
    assert_eq!(lab.json(&["list"])["backups"], json!([]));

    let (code, plan) = rebuild(&lab, &["--dry-run"]);
    assert_eq!((code, &plan["dry_run"], remarks(&plan)), (0, &json!(true), 0), "{plan}");
    assert_eq!(ids(&plan, "made").len(), 2);
    assert!(!lab.backups().join("manifests").exists(), "a plan writes nothing");

    let (code, report) = rebuild(&lab, &[]);
    assert_eq!((code, remarks(&report)), (0, 0), "{report}");
    let wanted: Vec<_> = made.iter().map(|made| made["backup_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids(&report, "made"), wanted);
    for (component, before) in ["postgres", "media"].into_iter().zip(before) {
        let after = lab.manifests(component).remove(0);
        validates("manifest", &after);
        for same in ["backup_id", "source", "compression", "encryption", "objects"] {
            assert_eq!(after[same], before[same], "{component} {same}");
        }
        assert_eq!(after["facts"]["counts"], before["facts"]["counts"], "{component}");
        assert_eq!(after["facts"]["source_bytes"], before["facts"]["source_bytes"], "{component}");
        assert_eq!(after["verified"]["level"], "decode");
        assert_eq!(after["label"], "rebuilt from its archive");
        let second = |manifest: &Value| manifest["created_at"].as_str().unwrap()[..19].to_owned();
        assert_eq!(second(&after), second(&before));
    }
    assert_eq!(rebuild(&lab, &[]).1["made"], json!([]), "there is nothing left to do");

    let whole = tree::look(&lab.media());
    fs::write(lab.media().join("figures/gel.txt"), "gone").unwrap();
    server.psql(&database, "DROP TABLE paper");
    lab.json(&["restore", "media", "--yes"]);
    lab.json(&["restore", "postgres", "--yes"]);
    assert!(tree::look(&lab.media()) == whole);
    assert_eq!(server.psql(&database, "SELECT count(*) FROM paper"), "321");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_new_machine_the_bucket_alone_is_enough() {
    let config = S3Server::shared().bucket().await;
    let old = with_bucket(Lab::new().set("RUST_LOG", ""), &config);
    let made = old.json(&["backup", "media", "--label", "before the flood"]);
    let id = made["backup_id"].as_str().unwrap();
    let whole = tree::look(&old.media());

    let new = with_bucket(Lab::new().set("RUST_LOG", ""), &config);
    let listed = new.json(&["list"])["backups"][0].clone();
    assert_eq!((&listed["backup_id"], &listed["state"]), (&json!(id), &json!("ok")), "{listed}");
    fs::remove_dir_all(new.media()).unwrap();
    fs::create_dir(new.media()).unwrap();
    let restored = new.json(&["restore", "media", "--yes"]);
    assert_eq!(restored["path"], made["s3_uri"]);
    assert!(tree::look(&new.media()) == whole);

    // The local copy of the old machine is in the manifest: missing here, and no fault.
    let (code, report) = rebuild(&new, &[]);
    assert_eq!((code, ids(&report, "missing"), remarks(&report)), (0, vec![id.to_owned()], 1), "{report}");
    assert_eq!((report["made"].as_array().unwrap().len(), &report["written"]), (0, &json!([])));
    let found = report["found"].as_array().unwrap();
    let media: Vec<_> = found.iter().filter(|found| found["component"] == "media").collect();
    assert_eq!((&media[0]["backups"], &media[1]["backups"]), (&json!(0), &json!(1)), "{report}");

    // What the bucket knows goes to where the archive is copied, by whatever means.
    let copy =
        new.backups().join("media").join(Path::new(made["path"].as_str().unwrap()).file_name().unwrap());
    fs::create_dir_all(copy.parent().unwrap()).unwrap();
    fs::copy(made["path"].as_str().unwrap(), &copy).unwrap();
    let (code, report) = rebuild(&new, &[]);
    assert_eq!((code, remarks(&report), ids(&report, "written")), (0, 0, vec![id.to_owned()]), "{report}");
    assert_eq!(new.manifests("media")[0]["label"], "before the flood");

    // And without any manifest there, from the archive in the bucket.
    let bucket = Bucket::of(&config);
    let key = format!("manifests/media/{id}.json");
    bucket.client.delete_object().bucket(&bucket.name).key(&key).send().await.unwrap();
    let third = with_bucket(Lab::new().set("RUST_LOG", ""), &config);
    assert_eq!(third.json(&["list"])["backups"], json!([]));
    let (code, report) = rebuild(&third, &[]);
    assert_eq!((code, remarks(&report), ids(&report, "made")), (0, 0, vec![id.to_owned()]), "{report}");
    assert!(bucket.objects().await.contains(&key));
    assert_eq!(third.json(&["restore", "media", "--yes"])["path"], made["s3_uri"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_in_two_places_gets_one_manifest_that_names_the_whole_ones() {
    let config = S3Server::shared().bucket().await;
    let bucket = Bucket::of(&config);
    let lab = with_bucket(Lab::new().set("RUST_LOG", ""), &config);
    let made = lab.json(&["backup", "media"]);
    let key = format!("manifests/media/{}.json", made["backup_id"].as_str().unwrap());
    for (is_damaged, copies) in [(false, &["local", "s3"][..]), (true, &["s3"])] {
        remove_manifests(&lab);
        bucket.client.delete_object().bucket(&bucket.name).key(&key).send().await.unwrap();
        if is_damaged {
            flip(&archive(&lab, "media"));
        }
        let (code, report) = rebuild(&lab, &[]);
        assert_eq!((code, ids(&report, "made").len()), (if is_damaged { 4 } else { 0 }, 1), "{report}");
        assert_eq!(report["damaged"].as_array().unwrap().len(), usize::from(is_damaged), "{report}");
        let listed = lab.json(&["list"])["backups"].clone();
        assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
        let places = listed[0]["destinations"].as_array().unwrap();
        let places: Vec<_> = places.iter().map(|copy| copy["destination"].as_str().unwrap()).collect();
        assert_eq!((places, &listed[0]["state"]), (copies.to_vec(), &json!("ok")), "{listed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_a_manifest_does_not_know_is_noted_when_it_is_the_same() {
    let config = S3Server::shared().bucket().await;
    let alone = Lab::new().set("RUST_LOG", "");
    let made = alone.json(&["backup", "media"]);
    let path = Path::new(made["path"].as_str().unwrap());
    let bucket = Bucket::of(&config);
    let key = format!("media/{}", path.file_name().unwrap().to_str().unwrap());
    let bytes = fs::read(path).unwrap();
    let mut other = bytes.clone();
    other[100] ^= 1;
    let lab = with_bucket(alone, &config);
    bucket.put(&key, other.into()).await;
    let (code, report) = rebuild(&lab, &[]);
    assert_eq!((code, report["damaged"].as_array().unwrap().len()), (4, 1), "{report}");
    assert_eq!(lab.manifests("media")[0]["objects"].as_array().unwrap().len(), 1);

    bucket.put(&key, bytes.into()).await;
    let (code, report) = rebuild(&lab, &[]);
    assert_eq!((code, remarks(&report), ids(&report, "written").len()), (0, 0, 2), "{report}");
    let listed = lab.json(&["list"])["backups"][0].clone();
    assert_eq!(listed["destinations"].as_array().unwrap().len(), 2, "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_that_was_written_last_replaces_older_and_unreadable_ones() {
    let config = S3Server::shared().bucket().await;
    let lab = with_bucket(Lab::new().set("RUST_LOG", ""), &config);
    let made = lab.json(&["backup", "media"]);
    let path = lab.backups().join(format!("manifests/media/{}.json", made["backup_id"].as_str().unwrap()));
    let older = fs::read(&path).unwrap();
    lab.json(&["verify", "media"]);
    let newer = fs::read(&path).unwrap();
    assert_ne!(older, newer);
    for text in [&older[..], b"{ no manifest"] {
        fs::write(&path, text).unwrap();
        let (code, report) = rebuild(&lab, &[]);
        assert_eq!((code, remarks(&report), ids(&report, "written").len()), (0, 0, 1), "{report}");
        assert!(fs::read(&path).unwrap() == newer);
    }
}

#[test]
fn what_is_damaged_is_said_and_left_alone() {
    let lab = Lab::new().set("RUST_LOG", "");
    lab.json(&["backup", "media"]);
    let (code, out, _) = lab.run(&["catalog", "rebuild"]);
    assert!(code == 0 && out.contains("media") && !out.contains("made"), "{out}");
    remove_manifests(&lab);
    let archive = archive(&lab, "media");
    let good = fs::read(&archive).unwrap();
    flip(&archive);
    let bad = fs::read(&archive).unwrap();
    for (bytes, what) in [(&bad[..], "flipped"), (&good[..good.len() / 2], "cut"), (b"", "empty")] {
        fs::write(&archive, bytes).unwrap();
        let (code, report) = rebuild(&lab, &[]);
        assert_eq!((code, report["damaged"].as_array().unwrap().len()), (4, 1), "{what}: {report}");
        assert_eq!(report["damaged"][0]["location"], archive.to_str().unwrap());
        assert!(lab.manifests("media").is_empty() && fs::read(&archive).unwrap() == bytes, "{what}");
    }
    let manifest = lab.backups().join("manifests/media").join(archive.file_name().unwrap());
    let manifest = manifest.with_extension("").with_extension("json");
    fs::create_dir_all(manifest.parent().unwrap()).unwrap();
    fs::write(&archive, good).unwrap();
    fs::write(&manifest, "{}").unwrap();
    let (code, out, err) = lab.run(&["catalog", "rebuild"]);
    assert!(code == 4 && out.contains("DAMAGED: ") && out.contains("move it away"), "{out}{err}");
    fs::remove_file(&manifest).unwrap();
    assert_eq!(rebuild(&lab, &[]).0, 0);
}

#[test]
fn without_the_key_an_encrypted_archive_is_left_alone_and_with_it_it_gets_its_manifest() {
    let lab = Lab::new().set("RUST_LOG", "");
    let secret = lab.path("lab.key");
    assert!(Command::new("age-keygen").arg("-o").arg(&secret).output().unwrap().status.success());
    let public = Command::new("age-keygen").arg("-y").arg(&secret).output().unwrap();
    let lab = lab.set("BACKUP_AGE_RECIPIENTS", String::from_utf8(public.stdout).unwrap().trim());
    lab.json(&["backup", "media"]);
    let before = lab.manifests("media").remove(0);
    remove_manifests(&lab);
    let (code, report) = rebuild(&lab, &[]);
    assert_eq!((code, report["skipped"].as_array().unwrap().len()), (1, 1), "{report}");
    assert!(report["skipped"][0]["why"].as_str().unwrap().contains("BACKUP_AGE_IDENTITY_FILE"), "{report}");
    let lab = lab.set("BACKUP_AGE_IDENTITY_FILE", secret.display());
    assert_eq!(rebuild(&lab, &[]).0, 0);
    let after = lab.manifests("media").remove(0);
    assert_eq!((&after["encryption"], &after["objects"]), (&before["encryption"], &before["objects"]));
    lab.json(&["restore", "media", "--yes"]);
}

/// Ids tell backups of the same second apart, and so does what is made of their archives.
#[test]
fn the_latest_of_backups_of_the_same_second_is_the_latest_after_a_rebuild_too() {
    let lab = Lab::new().set("RUST_LOG", "").set("BACKUP_MEDIA_FULL_EVERY", 0);
    let second = |id: &str| id[.."media_backup_20261130_072343".len()].to_owned();
    let mut made: Vec<String> = Vec::new();
    // On a machine of which each second has room for two.
    while made.last_chunk().is_none_or(|[older, newer]| second(older) != second(newer)) {
        fs::write(lab.media().join("figures/gel.txt"), made.len().to_string()).unwrap();
        made.push(lab.json(&["backup", "media"])["backup_id"].as_str().unwrap().to_owned());
        assert!(made.len() < 30, "no two of these backups are of the same second: {made:?}");
    }
    remove_manifests(&lab);
    assert_eq!(ids(&rebuild(&lab, &[]).1, "made").len(), made.len());
    lab.json(&["restore", "media", "--yes"]);
    let newest = (made.len() - 1).to_string();
    assert_eq!(fs::read_to_string(lab.media().join("figures/gel.txt")).unwrap(), newest);
}
