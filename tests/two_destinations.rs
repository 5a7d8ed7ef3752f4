//! A folder and a real bucket: what goes wrong with one leaves the other whole, and says where that is.

use crate::{
    catalog_rebuild::{flip, with_bucket},
    support::{
        disk::Tmpfs,
        lab::{Lab, files, unfinished},
        postgres::PostgresServer,
        s3::{Bucket, S3Server, SECRET},
        s3_proxy::{Asked, BadLine, Line},
        tree,
    },
    verify::noise,
};
use rna_backup::domain::command::task as tasks;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

const MIB: usize = 1 << 20;

/// A lab with a bucket of its own.
pub async fn lab() -> (Lab, Bucket) {
    let config = S3Server::shared().bucket().await;
    (with_bucket(Lab::new().set("RUST_LOG", ""), &config), Bucket::of(&config))
}

/// The key in the bucket that a URL names.
pub fn key(bucket: &Bucket, url: &Value) -> String {
    url.as_str().unwrap().strip_prefix(&format!("s3://{}/", bucket.name)).unwrap().to_owned()
}

/// Flips a bit of an object.
async fn flip_in(bucket: &Bucket, key: &str) {
    let object = bucket.client.get_object().bucket(&bucket.name).key(key).send().await.unwrap();
    let mut bytes = object.body.collect().await.unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bucket.put(key, bytes.into()).await;
}

pub fn path(report: &Value) -> PathBuf {
    report["path"].as_str().unwrap().into()
}

/// The kind and the message of a stored exception.
fn exception(result: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&result["result"]["exc_type"]), text(&result["result"]["exc_message"][0]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_gone_or_damaged_is_reported_and_the_other_one_restored() {
    let server = PostgresServer::shared();
    let database = server.database("two destinations", "");
    server.psql(&database, "CREATE TABLE paper AS SELECT g AS id FROM generate_series(1, 999) g");
    let (lab, bucket) = lab().await;
    let lab = lab.database(server, &database).set("BACKUP_S3_PREFIX", "lab/backups");
    let made = ["postgres", "media"].map(|component| lab.json(&["backup", component]));
    let whole = tree::look(&lab.media());
    for report in &made {
        assert!(key(&bucket, &report["s3_uri"]).starts_with("lab/backups/"), "{report}");
    }
    let spoil = || {
        server.psql(&database, "DELETE FROM paper");
        fs::write(lab.media().join("figures/gel.txt"), "gone").unwrap();
    };
    let restored = |component: &str, reference: &str| -> Value {
        spoil();
        let report = lab.json(&["restore", component, reference, "--yes"]);
        match component {
            "media" => assert!(tree::look(&lab.media()) == whole, "{report}"),
            _ => assert_eq!(server.psql(&database, "SELECT count(*) FROM paper"), "999", "{report}"),
        }
        report
    };
    for (component, report) in ["postgres", "media"].into_iter().zip(&made) {
        let id = report["backup_id"].as_str().unwrap();
        let (near, far) = (path(report), key(&bucket, &report["s3_uri"]));
        let good = fs::read(&near).unwrap();
        assert_eq!(restored(component, id)["path"], report["path"]);
        assert_eq!(restored(component, report["s3_uri"].as_str().unwrap())["backup_id"], id);

        fs::remove_file(&near).unwrap();
        assert_eq!(restored(component, id)["path"], report["s3_uri"]);

        fs::write(&near, &good).unwrap();
        flip(&near);
        let from_far = restored(component, id);
        assert_eq!(from_far["path"], report["s3_uri"]);
        let warned = from_far["warnings"].to_string();
        assert!(warned.contains(near.to_str().unwrap()) && warned.contains("hash"), "{warned}");

        fs::write(&near, &good).unwrap();
        flip_in(&bucket, &far).await;
        assert_eq!(restored(component, id)["path"], report["path"]);
        // The very copy that is named is the bad one: the good one is used all the same.
        assert_eq!(restored(component, report["s3_uri"].as_str().unwrap())["path"], report["path"]);

        let (code, out, err) = lab.run(&["verify", component, "--json"]);
        let found: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{err}"));
        let states: Vec<_> = found["results"][0]["destinations"]
            .as_array()
            .unwrap()
            .iter()
            .map(|copy| &copy["state"])
            .collect();
        assert_eq!((code, states), (4, vec![&json!("ok"), &json!("failed")]), "{found}");
        flip(&near);
        spoil();
        let before = server.psql(&database, "SELECT count(*) FROM paper");
        assert_eq!(lab.run(&["restore", component, id, "--yes"]).0, 4);
        assert_eq!(server.psql(&database, "SELECT count(*) FROM paper"), before, "nothing was touched");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_leads_into_the_bucket_and_below_the_prefix_and_nowhere_else() {
    let (lab, bucket) = lab().await;
    let outside = lab.json(&["backup", "media"]);
    let lab = lab.set("BACKUP_S3_PREFIX", "lab/backups");
    let file = path(&outside).file_name().unwrap().to_str().unwrap().to_owned();
    let name = &bucket.name;
    for url in [
        outside["s3_uri"].as_str().unwrap().to_owned(),
        format!("s3://{name}/lab/backups/../../media/{file}"),
        format!("s3://{name}-other/lab/backups/media/{file}"),
        format!("s3://{name}/lab/backups-old/media/{file}"),
        format!("s3:///lab/backups/media/{file}"),
        format!("https://{name}/lab/backups/media/{file}"),
    ] {
        let (code, out, err) = lab.run(&["restore", "media", &url, "--yes"]);
        assert_eq!((code, out.as_str()), (2, ""), "{url}: {err}");
        assert!(err.contains("is not inside a configured destination"), "{url}: {err}");
    }
    let missing = format!("s3://{name}/lab/backups/media/no-{file}");
    assert_eq!(lab.run(&["restore", "media", &missing, "--yes"]).0, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_s3_alone_nothing_of_the_archive_is_ever_on_the_local_disk() {
    let (lab, bucket) = lab().await;
    let lab = lab.set("BACKUP_LOCAL", "False").set("BACKUP_COMPRESSION", "none");
    fs::write(lab.media().join("noise"), noise(10 * MIB)).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let watch = std::thread::spawn({
        let (done, root) = (done.clone(), lab.backups());
        move || {
            let mut seen = 0;
            while !done.load(Ordering::Relaxed) {
                assert_eq!(other_than_locks(&root), Vec::<PathBuf>::new());
                seen += 1;
                std::thread::yield_now();
            }
            seen
        }
    });
    let report = lab.json(&["backup", "media"]);
    done.store(true, Ordering::Relaxed);
    assert!(watch.join().unwrap() > 10, "it looked while the backup was made");
    assert_eq!((&report["path"], other_than_locks(&lab.backups()).len()), (&report["s3_uri"], 0));
    let listed = lab.json(&["list"])["backups"][0]["destinations"].clone();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(bucket.uploads().await, [""; 0]);
    let whole = tree::look(&lab.media());
    fs::remove_file(lab.media().join("noise")).unwrap();
    lab.json(&["restore", "media", "--yes"]);
    assert!(tree::look(&lab.media()) == whole);
}

/// Every file below a folder but those of locks, of notes on open uploads, and of runs that look whether they can write.
fn other_than_locks(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let entries = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with(".locks") && !path.ends_with(".uploads"));
    entries
        .flat_map(|path| match path.file_name().unwrap().to_str().unwrap() {
            ".partial" => unfinished(root),
            _ if path.is_dir() => other_than_locks(&path),
            _ => vec![path],
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_copy_goes_once_the_other_one_is_proven() {
    let (lab, _) = lab().await;
    let lab = lab.set("BACKUP_CLEANUP_LOCAL", "True");
    let report = lab.json(&["backup", "media"]);
    assert_eq!((&report["path"], other_than_locks(&lab.backups()).len()), (&report["s3_uri"], 0));
    let listed = lab.json(&["list"])["backups"][0].clone();
    assert_eq!((&listed["state"], listed["destinations"].as_array().unwrap().len()), (&json!("ok"), 1));
    lab.json(&["verify", "media"]);
    lab.json(&["restore", "media", "--yes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_pins_and_what_is_shown_hold_in_both() {
    let (lab, bucket) = lab().await;
    let made: Vec<_> = (0..3).map(|_| lab.json(&["backup", "media"])).collect();
    let id = |n: usize| made[n]["backup_id"].as_str().unwrap();
    lab.json(&["pin", id(0)]);
    for bytes in [
        fs::read(lab.backups().join(format!("manifests/media/{}.json", id(0)))).unwrap(),
        get(&bucket, &format!("manifests/media/{}.json", id(0))).await,
    ] {
        assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap()["pinned"], true);
    }
    let shown = lab.json(&["show", id(1)]).to_string();
    assert!(
        shown.contains(made[1]["s3_uri"].as_str().unwrap())
            && shown.contains(path(&made[1]).to_str().unwrap())
    );
    let verified = lab.json(&["verify", "media", id(1)])["results"][0].clone();
    assert_eq!((&verified["ok"], verified["destinations"].as_array().unwrap().len()), (&json!(true), 2));

    let pruned = lab.json(&["prune", "--retention-days", "0"]);
    assert_eq!(pruned["deleted"], json!([id(1)]), "{pruned}");
    assert!(!path(&made[1]).exists());
    let gone = key(&bucket, &made[1]["s3_uri"]);
    let left = bucket.objects().await;
    assert!(left.len() == 4 && !left.contains(&gone), "{left:?}");
    assert_eq!(files(&lab.backups().join("manifests/media")).len(), 2);
    let listed = lab.json(&["list"])["backups"].as_array().unwrap().clone();
    assert!(
        listed.iter().all(|backup| backup["state"] == "ok" && backup["destinations"][1]["state"] == "ok")
    );
    lab.json(&["unpin", id(0)]);
    assert_eq!(lab.json(&["prune", "--retention-days", "0"])["deleted"], json!([id(0)]));
}

pub async fn get(bucket: &Bucket, key: &str) -> Vec<u8> {
    let object = bucket.client.get_object().bucket(&bucket.name).key(key).send().await.unwrap();
    object.body.collect().await.unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_encrypted_lies_encrypted_in_both() {
    let (lab, bucket) = lab().await;
    let secret = lab.path("lab.key");
    assert!(Command::new("age-keygen").arg("-o").arg(&secret).output().unwrap().status.success());
    let public = Command::new("age-keygen").arg("-y").arg(&secret).output().unwrap();
    let lab = lab.set("BACKUP_AGE_RECIPIENTS", String::from_utf8(public.stdout).unwrap().trim());
    let report = lab.json(&["backup", "media"]);
    let (near, far) =
        (fs::read(path(&report)).unwrap(), get(&bucket, &key(&bucket, &report["s3_uri"])).await);
    assert!(near == far && near.starts_with(b"age-encryption.org/v1\n"));
    let lab = lab.set("BACKUP_AGE_IDENTITY_FILE", secret.display());
    let whole = tree::look(&lab.media());
    fs::remove_file(path(&report)).unwrap();
    fs::write(lab.media().join("figures/gel.txt"), "gone").unwrap();
    assert_eq!(lab.json(&["restore", "media", "--yes"])["path"], report["s3_uri"]);
    assert!(tree::look(&lab.media()) == whole);
}

/// A lab whose way to the bucket is bad for what `is_bad` says, as long as the switch is on.
async fn behind(is_bad: fn(&Asked) -> bool, line: Line) -> (Lab, Bucket, Arc<AtomicBool>, BadLine) {
    let mut config = S3Server::shared().bucket().await;
    let bucket = Bucket::of(&config);
    let on = Arc::new(AtomicBool::new(true));
    let rule = {
        let on = on.clone();
        move |asked: &Asked| {
            if on.load(Ordering::Relaxed) && is_bad(asked) { line.clone() } else { Line::Good }
        }
    };
    let proxy = BadLine::to(&mut config, rule).await;
    let lab = with_bucket(Lab::new().set("BACKUP_RETRY_DELAY", "10ms"), &config);
    (lab, bucket, on, proxy)
}

fn writes(asked: &Asked) -> bool {
    asked.is_put() || asked.is_part() || asked.is_create()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_cannot_reach_the_bucket_says_in_the_end_where_the_good_copy_lies() {
    let (lab, bucket, _, proxy) = behind(writes, Line::Busy).await;
    let lab = lab.set("BACKUP_MAX_RETRIES", 1);
    let worker = lab.worker();
    let id = lab.order(tasks::BACKUP_MEDIA, json!({})).await;
    let result = lab.ended(&id).await;
    let (kind, words) = exception(&result);
    let archive = files(&lab.backups().join("media")).remove(0);
    assert_eq!((&result["status"], kind.as_str()), (&json!("FAILURE"), "OSError"), "{result}");
    let whole = format!("is whole in {}, but could not be stored in s3", archive.display());
    assert!(words.contains(&whole) && words.contains("SlowDown"), "{words}");
    lab.settled().await;
    // The first attempt, and the one retry.
    assert_eq!(worker.log().matches("copying a backup").count(), 1, "{}", worker.log());
    assert_eq!(worker.log().matches("backup begins").count(), 1, "it was dumped once");
    assert!(proxy.count(writes) > 2);
    let (_, metrics) = worker.http("/metrics").await.unwrap();
    for text in [worker.log(), result.to_string(), metrics, words] {
        assert!(!text.contains(SECRET) && !text.contains("Signature="), "a secret is in {text}");
    }
    assert_eq!((bucket.objects().await, bucket.uploads().await), (vec![], vec![]));
    let listed = lab.json(&["list"])["backups"].clone();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["state"]), (1, &json!("ok")));
    lab.json(&["restore", "media", "--yes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_uploads_the_file_that_is_there_and_does_not_dump_again() {
    let (lab, bucket, bad, _proxy) = behind(writes, Line::Busy).await;
    let lab = lab.set("BACKUP_MAX_RETRIES", 50);
    let worker = lab.worker();
    let id = lab.order(tasks::BACKUP_MEDIA, json!({})).await;
    let mut seen = Value::Null;
    let retried = crate::support::lab::eventually(async || {
        seen = lab.result(&id).await.unwrap_or_default();
        seen["status"] == "RETRY"
    });
    assert!(retried.await);
    let words = exception(&seen).1;
    assert!(words.contains("is whole in /"), "{words}");
    fs::write(lab.media().join("figures/gel.txt"), "another gel").unwrap();
    bad.store(false, Ordering::Relaxed);
    let result = lab.ended(&id).await;
    assert_eq!(result["status"], "SUCCESS", "{result}");
    let archive = fs::read(files(&lab.backups().join("media")).remove(0)).unwrap();
    assert!(get(&bucket, &key(&bucket, &result["result"]["s3_uri"])).await == archive);
    assert_eq!(worker.log().matches("backup begins").count(), 1, "it was dumped once");
    assert_eq!(lab.manifests("media")[0]["objects"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_and_a_missing_bucket_fail_at_once_and_the_local_copy_counts() {
    let good = S3Server::shared().bucket().await;
    let missing = S3Server::shared().no_bucket();
    for (config, secret, advice) in [
        (&good, "another-s3cret", "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (&missing, SECRET, "create the bucket, or correct AWS_BACKUP_BUCKET"),
    ] {
        let lab = with_bucket(Lab::new(), config).set("AWS_SECRET_ACCESS_KEY", secret);
        let worker = lab.worker();
        let id = lab.order(tasks::BACKUP_MEDIA, json!({})).await;
        let result = lab.ended(&id).await;
        let (kind, words) = exception(&result);
        assert_eq!((&result["status"], kind.as_str()), (&json!("FAILURE"), "PermissionError"), "{result}");
        let archive = files(&lab.backups().join("media")).remove(0);
        assert!(
            words.contains(&format!("is whole in {}", archive.display())) && words.contains(advice),
            "{words}"
        );
        let (_, metrics) = worker.http("/metrics").await.unwrap();
        for text in [worker.log(), result.to_string(), metrics] {
            assert!(!text.contains(secret), "a secret is in {text}");
        }
        lab.json(&["restore", "media", "--yes"]);
    }
    assert_eq!(Bucket::of(&good).uploads().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_local_disk_is_full_the_copy_in_the_bucket_counts() {
    let Some(disk) = Tmpfs::mount("6m") else {
        return println!("skipped: mounting a tmpfs is not allowed here");
    };
    let (lab, bucket) = lab().await;
    let lab = lab.set("BACKUP_COMPRESSION", "none").set("BACKUP_RETRY_DELAY", "10ms").set("RUST_LOG", "info");
    let lab = lab.set("BACKUP_MAX_RETRIES", 1).set("BACKUP_ROOT", disk.path().display());
    fs::write(lab.media().join("noise"), noise(10 * MIB)).unwrap();
    let worker = lab.worker();
    let id = lab.order(tasks::BACKUP_MEDIA, json!({})).await;
    let result = lab.ended(&id).await;
    let (kind, words) = exception(&result);
    assert_eq!((&result["status"], kind.as_str()), (&json!("FAILURE"), "OSError"), "{result}");
    let whole = format!("is whole in s3://{}/media/", bucket.name);
    assert!(words.contains(&whole) && words.contains("could not be stored in local"), "{words}");
    assert!(words.contains("not enough space"), "{words}");
    assert_eq!(worker.log().matches("backup begins").count(), 1, "it was read once");
    assert_eq!(worker.stop(), Some(0));
    assert_eq!((other_than_locks(disk.path()).len(), bucket.uploads().await.len()), (0, 0));
    let whole = tree::look(&lab.media());
    fs::remove_file(lab.media().join("noise")).unwrap();
    lab.json(&["restore", "media", "--yes"]);
    assert!(tree::look(&lab.media()) == whole);
}
