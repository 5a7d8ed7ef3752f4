//! A folder and a bucket behind a line that fails, at every stage of a backup.

use crate::{
    copies::{back_up, engine, task},
    support::{
        dense::endless,
        lab::eventually,
        s3::{Bucket, S3Server, SECRET},
        s3_proxy::{Asked, BadLine, Line},
    },
    two_destinations::{get, key, lab},
    verify::noise,
};
use futures_util::future::join_all;
use rna_backup::{
    base::chain,
    domain::listing::BackupState,
    engine::{Engine, EngineError, Run},
    store::{LocalStore, S3Config, S3Store, Store},
    stream::pack::Compression,
};
use serde_json::json;
use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, LazyLock},
    time::Duration,
};
use tempfile::TempDir;

const MIB: usize = 1 << 20;

/// When a server that says nothing is taken for dead; one under load is slow as well, so only where it has to be.
const SOON: Duration = Duration::from_millis(600);

/// A media folder, a folder of backups and a bucket.
struct Bench {
    dir: TempDir,
    config: S3Config,
}

/// A kind of request, by the stage of a backup that it belongs to.
type Stage = (&'static str, fn(&Asked) -> bool);

/// What takes two of the shortest parts.
static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| noise(7 * MIB));

const STAGES: [Stage; 4] = [
    ("begin", Asked::is_create),
    ("middle", |asked| asked.is_part() && asked.target.contains("partNumber=2&")),
    ("completion", Asked::is_complete),
    ("manifest", |asked| asked.is_put() && asked.target.contains("/manifests/")),
];

impl Bench {
    /// With one small backup in both destinations: the next archive goes in short parts, then.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = S3Server::shared().bucket().await;
        let bench = Self { dir, config };
        fs::create_dir(bench.path("media")).unwrap();
        fs::write(bench.path("media/gel.txt"), "lane 1: RNA\n").unwrap();
        let (engine, _) = bench.engine(&bench.config).await;
        back_up(&engine, &Run::default()).await.unwrap();
        fs::write(bench.path("media/noise"), &*NOISE).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn engine(&self, config: &S3Config) -> (Engine, S3Store) {
        let near = LocalStore::open(self.path("near"), 0).unwrap();
        let far = S3Store::open(config.clone(), None).await.unwrap();
        let stores: Vec<Arc<dyn Store>> = vec![Arc::new(near), Arc::new(far.clone())];
        let engine = engine(&self.path("media"), &self.path("near/.locks"), stores);
        (Engine { compression: Compression::None, ..engine }, far)
    }

    /// A backup over a line that does this to every request of a stage: what comes of it, and of the next
    /// attempt over a good one.
    async fn run(self, (name, stage): Stage, line: Line) {
        let what = format!("{name} {line:?}");
        let bucket = Bucket::of(&self.config);
        let before = bucket.objects().await;
        let mut config = self.config.clone();
        if line == Line::BlackHole {
            config.patience = SOON;
        }
        let rule = {
            let line = line.clone();
            move |asked: &Asked| if stage(asked) { line.clone() } else { Line::Good }
        };
        let proxy = BadLine::to(&mut config, rule).await;
        let (engine, store) = self.engine(&config).await;
        let err = back_up(&engine, &task("a")).await.unwrap_err();
        assert!(proxy.count(stage) > 0, "{what}: it came so far");
        let lasting = matches!(&line, Line::Say(_, text) if !text.contains("Quota"));
        assert!(matches!(err, EngineError::Copy { .. }) && err.is_transient() != lasting, "{what}: {err:?}");
        let words = chain(&err);
        let listed = engine.listing(None).await.unwrap().backups;
        let copies = &listed[0].destinations;
        assert_eq!((listed.len(), copies.len(), copies[0].state), (2, 1, BackupState::Ok), "{what}");
        assert!(words.contains(&format!("is whole in {}", copies[0].location)), "{what}: {words}");
        assert!(!words.contains(SECRET) && !words.contains("Signature="), "{what}: {words}");
        store.wait_for_cleanup().await;
        // A request without a body may do its work after we have looked for what the lost ones left.
        if !(name == "begin" && line == Line::CutRequest(0)) {
            assert_eq!(bucket.uploads().await, [""; 0], "{what}");
        }
        let mut after = bucket.objects().await;
        // What the manifest was to be written for may be there, and nobody knows it.
        after.retain(|key| name != "manifest" || !key.starts_with("media/"));
        assert!(after.iter().all(|key| before.contains(key)), "{what}: {after:?}");
        let good = fs::read(&copies[0].location).unwrap();

        fs::write(self.path("media/noise"), "another").unwrap();
        let (engine, store) = self.engine(&self.config).await;
        let report = back_up(&engine, &task("a")).await.unwrap();
        store.wait_for_cleanup().await;
        let far = key(&bucket, &json!(report.s3_uri.unwrap()));
        assert!(get(&bucket, &far).await == good, "{what}: it is the same archive");
        assert_eq!(engine.listing(None).await.unwrap().backups.len(), 2, "{what}");
        assert_eq!(bucket.uploads().await, [""; 0], "{what}");
        assert_eq!(bucket.objects().await.len(), 4, "{what}");
    }
}

/// At every stage, each with a bench of its own.
async fn at_every_stage(line: Line) {
    let runs = STAGES.map(|stage| {
        let line = line.clone();
        tokio::spawn(async move { Bench::new().await.run(stage, line).await })
    });
    for done in join_all(runs).await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_line_to_the_bucket_costs_no_backup_at_any_stage() {
    at_every_stage(Line::CutRequest(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_in_a_black_hole_costs_no_backup_at_any_stage() {
    at_every_stage(Line::BlackHole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_bucket_costs_no_backup_at_any_stage() {
    at_every_stage(Line::Busy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_missing_cost_no_backup_at_any_stage() {
    at_every_stage(says(403, "AccessDenied")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_revoked_cost_no_backup_at_any_stage() {
    at_every_stage(says(403, "InvalidAccessKeyId")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_deleted_costs_no_backup_at_any_stage() {
    at_every_stage(says(404, "NoSuchBucket")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_full_costs_no_backup_at_any_stage() {
    at_every_stage(says(403, "QuotaExceeded")).await;
}

fn says(status: u16, code: &str) -> Line {
    Line::Say(status, format!("<Error><Code>{code}</Code></Error>"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_costs_no_backup_at_any_stage() {
    // The server has done what it was asked to: all is well in the end, or the next attempt finds it done.
    let runs = STAGES.map(|(name, stage)| {
        tokio::spawn(async move {
            let bench = Bench::new().await;
            let bucket = Bucket::of(&bench.config);
            let mut config = bench.config.clone();
            let mut lost = false;
            let rule = move |asked: &Asked| {
                if stage(asked) && !std::mem::replace(&mut lost, true) {
                    Line::LoseAnswer
                } else {
                    Line::Good
                }
            };
            let _proxy = BadLine::to(&mut config, rule).await;
            let (engine, store) = bench.engine(&config).await;
            back_up(&engine, &task("a")).await.unwrap_or_else(|err| panic!("{name}: {}", chain(&err)));
            store.wait_for_cleanup().await;
            let listed = engine.listing(None).await.unwrap().backups;
            assert!(listed.iter().all(|backup| backup.destinations.len() == 2), "{name}");
            assert_eq!(bucket.objects().await.len(), 4, "{name}");
        })
    });
    for done in join_all(runs).await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_goes_away_in_the_middle_leaves_no_upload_after_the_next_attempt() {
    let bench = Bench::new().await;
    let bucket = Bucket::of(&bench.config);
    let mut config = S3Config { patience: SOON, ..bench.config.clone() };
    let mut gone = false;
    let rule = move |asked: &Asked| {
        gone |= asked.is_part();
        if gone { Line::BlackHole } else { Line::Good }
    };
    let _proxy = BadLine::to(&mut config, rule).await;
    let (engine, store) = bench.engine(&config).await;
    let err = back_up(&engine, &task("a")).await.unwrap_err();
    assert!(matches!(err, EngineError::Copy { .. }) && err.is_transient(), "{err:?}");
    store.wait_for_cleanup().await;
    // A store that is slow to begin an upload is asked once more, and has begun two.
    assert!(!bucket.uploads().await.is_empty(), "nobody could take it back");
    let (engine, store) = bench.engine(&bench.config).await;
    back_up(&engine, &task("a")).await.unwrap();
    store.wait_for_cleanup().await;
    assert_eq!(bucket.uploads().await, [""; 0]);
    assert_eq!(bucket.objects().await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_nobody_could_note_goes_with_its_backup() {
    let bench = Bench::new().await;
    let bucket = Bucket::of(&bench.config);
    let mut config = bench.config.clone();
    let rule = |asked: &Asked| {
        if STAGES[3].1(asked) { Line::Say(403, String::new()) } else { Line::Good }
    };
    let _proxy = BadLine::to(&mut config, rule).await;
    let (engine, _) = bench.engine(&config).await;
    back_up(&engine, &task("a")).await.unwrap_err();
    let entry = engine.catalog.list(None).await.unwrap().entries.remove(0);
    let arrived = entry.copies[0].key.to_string();
    assert!(entry.copies.len() == 1 && bucket.objects().await.contains(&arrived));
    engine.catalog.delete_copies(&entry, vec!["local", "s3"]).await.unwrap();
    assert!(!bucket.objects().await.contains(&arrived));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_lists_the_bucket_once_before_and_twice_after_it() {
    let bench = Bench::new().await;
    let mut config = bench.config.clone();
    let proxy = BadLine::to(&mut config, |_| Line::Good).await;
    let (engine, _) = bench.engine(&config).await;
    back_up(&engine, &task("a")).await.unwrap();
    engine.refresh().await;
    engine.refresh().await;
    let asked = proxy.asked();
    let lists = |asked: &[Asked]| {
        let prefix = |asked: &Asked| {
            let (_, rest) = asked.target.split_once("list-type=2")?.1.split_once("prefix=")?;
            Some(rest.split('&').next()?.replace("%2F", "/"))
        };
        asked.iter().filter_map(prefix).collect::<Vec<_>>()
    };
    let begun = asked.iter().position(Asked::is_create).unwrap();
    let (before, after) = (lists(&asked[..begun]), lists(&asked[begun..]));
    assert_eq!(
        before,
        ["manifests/media/", "media/"],
        "what is there: ids, this task's backup, the size to expect"
    );
    let all = ["manifests/", "postgres/", "weaviate/", "media/"];
    assert_eq!(after, [&["manifests/media/", "media/"][..], &all].concat(), "retention, then what is shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upload_of_a_run_that_was_killed_is_given_up_by_the_next_one() {
    let (lab, bucket) = lab().await;
    let lab = lab.set("BACKUP_COMPRESSION", "none");
    let large = lab.media().join("large");
    endless(&large);
    let mut run =
        lab.program(&["backup", "media"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(eventually(async || bucket.uploads().await.len() == 1).await, "it uploads in parts");
    run.kill().unwrap();
    run.wait().unwrap();
    assert_eq!(bucket.uploads().await.len(), 1, "nobody could take it back");

    fs::remove_file(large).unwrap();
    lab.json(&["backup", "media"]);
    assert_eq!(bucket.uploads().await, [""; 0]);
}
