//! Each archive in two destinations: what fails in one keeps nobody from the other.

use crate::support::{
    faulty::{self, AWAY, Fault, Faults, Faulty, GOOD, Op},
    lab::{files, unfinished},
    tree,
};
use jiff::SignedDuration;
use rna_backup::{
    base::clock::{Clock, SystemClock},
    catalog::Catalog,
    component::Target,
    component::media::{Media, MediaConfig},
    domain::{
        command::Backup,
        component::ComponentName,
        listing::BackupState,
        manifest::{Manifest, VerifyLevel},
        report::BackupReport,
        retention::Policy,
    },
    engine::{Changes, Engine, EngineError, Locks, PruneRequest, RestoreRequest, Run, VerifyRequest},
    observe::metrics::Metrics,
    store::{Store, local::LocalStore},
    stream::pack::Compression,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};
use tempfile::TempDir;

const MEDIA: ComponentName = ComponentName::Media;

/// A media folder and two destinations, the far one under the name of a bucket.
pub struct Bench(TempDir);

impl Bench {
    pub fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        fs::create_dir(bench.path("media")).unwrap();
        fs::write(bench.path("media/gel.txt"), "lane 1: RNA\n".repeat(9000)).unwrap();
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// An engine of real parts with the near destination alone, and faults in front of it.
    pub fn alone(&self, faults: Faults) -> Engine {
        let folder = LocalStore::open(self.path("near"), 0).unwrap();
        let store = Arc::new(Faulty::new(Arc::new(folder), faults));
        engine(&self.path("media"), &self.path("near/.locks"), vec![store])
    }

    /// An engine of real parts, with faults in front of its destinations.
    pub fn engine(&self, near: Faults, far: Faults) -> Engine {
        let folder = |name| Arc::new(LocalStore::open(self.path(name), 0).unwrap());
        let near = Arc::new(Faulty::new(folder("near"), near));
        let far = Arc::new(Faulty::new(folder("far"), far).named("s3"));
        engine(&self.path("media"), &self.path("near/.locks"), vec![near, far])
    }

    /// How many archives and manifests there are in a destination, and nothing else.
    pub fn counts(&self, destination: &str) -> (usize, usize) {
        let root = self.path(destination);
        assert_eq!(unfinished(&root), [""; 0].map(PathBuf::from), "{destination}");
        (files(&root.join("media")).len(), files(&root.join("manifests/media")).len())
    }
}

/// An engine of real parts that backs up a media folder.
pub fn engine(media: &Path, locks: &Path, stores: Vec<Arc<dyn Store>>) -> Engine {
    Engine {
        components: vec![Arc::new(Media::new(MediaConfig::full(media.to_owned())))],
        left_out: Vec::new(),
        catalog: Catalog::new(stores.clone()),
        mirror: None,
        destinations: stores,
        cleanup_local: false,
        locks: Locks::new(locks.to_owned()),
        compression: Compression::default(),
        encryption: rna_backup::stream::crypt::Encryption::default(),
        policy: Policy::default(),
        clock: Arc::new(SystemClock),
        observer: Arc::new(Metrics::new("test").unwrap()),
        changes: Changes::default(),
        host: "lab".to_owned(),
    }
}

/// An engine with metrics of its own.
pub fn counted(engine: Engine) -> (Engine, Metrics) {
    let metrics = Metrics::new("test").unwrap();
    (Engine { observer: Arc::new(metrics.clone()), ..engine }, metrics)
}

/// The task of that id.
pub fn task(id: &str) -> Run {
    Run { task_id: Some(id.to_owned()), ..Run::default() }
}

pub async fn back_up(engine: &Engine, run: &Run) -> Result<BackupReport, EngineError> {
    let order = Backup { component: MEDIA, label: None, pin: false, set_id: None };
    engine.backup(&order, run).await
}

fn the_same(left: &Path, right: &Path) -> bool {
    fs::read(left).unwrap() == fs::read(right).unwrap()
}

async fn manifest(engine: &Engine, report: &BackupReport) -> Manifest {
    engine.find(report.backup_id.as_str(), None).await.unwrap().manifest().unwrap().clone()
}

#[tokio::test]
async fn a_backup_lies_in_every_destination() {
    let bench = Bench::new();
    let engine = bench.engine(GOOD, GOOD);
    let report = back_up(&engine, &Run::default()).await.unwrap();
    let far = PathBuf::from(report.s3_uri.as_ref().unwrap());
    assert!(the_same(Path::new(&report.path), &far), "{} and {}", report.path, far.display());
    assert_eq!((bench.counts("near"), bench.counts("far")), ((1, 1), (1, 1)));
    let manifests = ["near", "far"].map(|name| files(&bench.path(name).join("manifests/media")).remove(0));
    assert!(the_same(&manifests[0], &manifests[1]));
    let listed = &engine.listing(None).await.unwrap().backups[0];
    let places: Vec<_> = listed.destinations.iter().map(|copy| (&*copy.destination, copy.state)).collect();
    assert_eq!(places, [("local", BackupState::Ok), ("s3", BackupState::Ok)]);
}

#[tokio::test]
async fn every_destination_is_told_that_nothing_more_comes() {
    let bench = Bench::new();
    let stores = ["near", "far"].map(|name| {
        let folder = LocalStore::open(bench.path(name), 0).unwrap();
        Arc::new(Faulty::new(Arc::new(folder), GOOD).named(if name == "near" { "local" } else { "s3" }))
    });
    let ended = stores.clone().map(|store| store.ended.clone());
    let engine = engine(&bench.path("media"), &bench.path("near/.locks"), stores.map(|s| s as _).into());
    back_up(&engine, &Run::default()).await.unwrap();
    assert_eq!(ended.map(|times| times.load(Ordering::Relaxed)), [1, 1]);
}

#[tokio::test]
async fn what_fails_in_one_destination_is_a_backup_in_the_other_and_the_next_attempt_copies_it() {
    let faults: [Faults; 7] = [
        AWAY,
        &[(Op::Begin, Fault::Full)],
        faulty::DISK_FULL,
        &[(Op::Commit, Fault::Full)],
        &[(Op::Put, Fault::Full)],
        faulty::NO_COMMIT,
        faulty::NO_MANIFEST,
    ];
    for fault in faults {
        for fails in ["far", "near"] {
            let bench = Bench::new();
            let (near, far) = if fails == "near" { (fault, GOOD) } else { (GOOD, fault) };
            let err = back_up(&bench.engine(near, far), &task("a")).await.unwrap_err();
            assert!(
                matches!(err, EngineError::Copy { .. }) && err.is_transient(),
                "{fault:?} {fails}: {err:?}"
            );
            let other = if fails == "near" { "far" } else { "near" };
            let good = files(&bench.path(other).join("media")).remove(0);
            let words = err.to_string();
            assert!(words.contains(&format!("is whole in {}", good.display())), "{fault:?} {fails}: {words}");
            assert_eq!(bench.counts(other), (1, 1), "{fault:?} {fails}");

            // Another attempt of that task takes what is there, whatever the source is by now.
            fs::write(bench.path("media/gel.txt"), "another gel").unwrap();
            let report = back_up(&bench.engine(GOOD, GOOD), &task("a")).await.unwrap();
            assert_eq!((bench.counts("near"), bench.counts("far")), ((1, 1), (1, 1)), "{fault:?} {fails}");
            assert!(the_same(Path::new(&report.path), Path::new(&report.s3_uri.unwrap())));
        }
    }
}

#[tokio::test]
async fn where_every_destination_fails_there_is_no_backup_and_nothing_is_left() {
    for fault in [faulty::DISK_FULL, faulty::NO_COMMIT, faulty::NO_MANIFEST] {
        let bench = Bench::new();
        let err = back_up(&bench.engine(fault, fault), &Run::default()).await.unwrap_err();
        assert!(!matches!(err, EngineError::Copy { .. }) && err.is_transient(), "{fault:?}: {err:?}");
        assert_eq!((bench.counts("near"), bench.counts("far")), ((0, 0), (0, 0)), "{fault:?}");
    }
}

#[tokio::test]
async fn a_copy_that_is_not_what_was_written_is_no_copy() {
    for fault in [faulty::BIT_FLIP, faulty::CUT_SHORT] {
        let bench = Bench::new();
        let err = back_up(&bench.engine(fault, GOOD), &task("a")).await.unwrap_err();
        assert!(matches!(err, EngineError::Copy { .. }), "{fault:?}: {err:?}");
        assert_eq!((bench.counts("near"), bench.counts("far")), ((0, 0), (1, 1)), "{fault:?}");
    }
}

#[tokio::test]
async fn the_local_copy_goes_when_it_is_to_and_the_other_one_is_proven() {
    let bench = Bench::new();
    let engine = |far| Engine { cleanup_local: true, ..bench.engine(GOOD, far) };
    let report = back_up(&engine(GOOD), &Run::default()).await.unwrap();
    assert_eq!((bench.counts("near"), bench.counts("far")), ((0, 0), (1, 1)));
    assert_eq!(Some(&report.path), report.s3_uri.as_ref());
    assert_eq!(manifest(&engine(GOOD), &report).await.objects.len(), 1);
    // One that was damaged on the way is no reason to remove the good one.
    back_up(&engine(faulty::BIT_FLIP), &task("a")).await.unwrap_err();
    assert_eq!((bench.counts("near"), bench.counts("far")), ((1, 1), (1, 1)));
    back_up(&engine(GOOD), &task("a")).await.unwrap();
    assert_eq!((bench.counts("near"), bench.counts("far")), ((0, 0), (2, 2)));
}

#[tokio::test]
async fn a_restore_takes_the_copy_that_is_whole() {
    let bench = Bench::new();
    let engine = bench.engine(GOOD, GOOD);
    let report = back_up(&engine, &Run::default()).await.unwrap();
    let whole = tree::look(&bench.path("media"));
    let request = RestoreRequest {
        component: MEDIA,
        reference: report.backup_id.to_string(),
        target: Target::Live,
        without_rights: false,
        without: Vec::new(),
    };
    let spoil = |path: &str| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    spoil(&report.path);
    fs::write(bench.path("media/gel.txt"), "gone").unwrap();
    let restored = engine.restore(&request, &Run::default()).await.unwrap();
    assert_eq!(Some(restored.path), report.s3_uri);
    assert!(
        restored.warnings.iter().any(|warning| warning.contains(&report.path)),
        "{:?}",
        restored.warnings
    );
    assert_eq!(tree::look(&bench.path("media")), whole);

    spoil(report.s3_uri.as_ref().unwrap());
    let err = engine.restore(&request, &Run::default()).await.unwrap_err();
    assert!(matches!(err, EngineError::Damaged { .. }), "{err:?}");
    assert_eq!(tree::look(&bench.path("media")), whole);
}

#[tokio::test]
async fn a_destination_that_is_away_keeps_nobody_from_the_other() {
    let bench = Bench::new();
    let report = back_up(&bench.engine(GOOD, GOOD), &Run::default()).await.unwrap();
    for (near, far) in [(GOOD, AWAY), (AWAY, GOOD)] {
        let engine = bench.engine(near, far);
        let listed = engine.listing(None).await.unwrap().backups;
        assert_eq!((listed.len(), listed[0].state), (1, BackupState::Ok));
        let request = RestoreRequest {
            component: MEDIA,
            reference: report.backup_id.to_string(),
            target: Target::Live,
            without_rights: false,
            without: Vec::new(),
        };
        engine.restore(&request, &Run::default()).await.unwrap();
        let pruned = engine.prune(PruneRequest::default(), &Run::default()).await.unwrap();
        assert!(pruned.problems.iter().any(|problem| problem.starts_with("read destination ")), "{pruned:?}");
    }
    assert!(bench.engine(AWAY, AWAY).listing(None).await.is_err());
}

/// A clock that goes ahead.
#[derive(Debug)]
struct Ahead(SignedDuration);

#[async_trait::async_trait]
impl Clock for Ahead {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now() + self.0
    }
    async fn sleep(&self, duration: std::time::Duration) {
        SystemClock.sleep(duration).await;
    }
}

#[tokio::test]
async fn retention_keeps_the_newest_good_backup_of_each_destination() {
    let bench = Bench::new();
    let mut made = Vec::new();
    for (days, far) in [(0, GOOD), (1, GOOD), (2, AWAY)] {
        let clock = Arc::new(Ahead(SignedDuration::from_hours(24 * days)));
        let engine = Engine { clock, ..bench.engine(GOOD, far) };
        let _ = back_up(&engine, &Run::default()).await;
        made.push(engine.listing(None).await.unwrap().backups[0].backup_id.clone());
    }
    let clock = Arc::new(Ahead(SignedDuration::from_hours(24 * 60)));
    let engine = Engine { clock, ..bench.engine(GOOD, GOOD) };
    let request = PruneRequest { trust_clock: true, ..PruneRequest::default() };
    engine.prune(request, &Run::default()).await.unwrap();
    let places = |backup: &rna_backup::domain::listing::ListedBackup| {
        let places = backup.destinations.iter().map(|copy| copy.destination.clone()).collect::<Vec<_>>();
        (backup.backup_id.clone(), places.join(" "))
    };
    let left: Vec<_> = engine.listing(None).await.unwrap().backups.iter().map(places).collect();
    assert_eq!(left, [(made[2].clone(), "local".to_owned()), (made[1].clone(), "s3".to_owned())]);
    assert_eq!((bench.counts("near"), bench.counts("far")), ((1, 1), (1, 1)));
}

#[tokio::test]
async fn retention_deletes_nothing_by_a_clock_that_has_jumped_until_it_was_right_for_two_days() {
    let bench = Bench::new();
    let on = |day: i64| {
        let clock = Arc::new(Ahead(SignedDuration::from_hours(24 * day)));
        Engine { clock, ..bench.engine(GOOD, GOOD) }
    };
    let mut made = Vec::new();
    for day in [0, 1, 2, 30] {
        made.push(back_up(&on(day), &Run::default()).await.unwrap().backup_id);
    }
    let (jumped, metrics) = counted(on(30));
    for retention_days in [None, Some(0)] {
        for dry_run in [true, false] {
            let request = PruneRequest { retention_days, dry_run, ..PruneRequest::default() };
            let report = jumped.prune(request, &Run::default()).await.unwrap();
            assert_eq!((report.deleted.len(), report.problems.len()), (0, 0), "{report:?}");
            let held = report.kept.iter().filter(|kept| kept.why.contains("the clock stands far after"));
            assert_eq!(held.count(), 3, "{report:?}");
        }
    }
    jumped.read_destinations(false).await;
    let metrics = metrics.render().unwrap();
    assert!(metrics.contains(r#"rna_backup_clock_in_doubt{component="media"} 1"#), "{metrics}");
    assert!(metrics.contains(r#"rna_backup_retention_refused_total{reason="clock"} 2"#), "{metrics}");

    made.push(back_up(&on(31), &Run::default()).await.unwrap().backup_id);
    let listed = async |day| {
        let listed = on(day).listing(None).await.unwrap().backups.into_iter().rev();
        listed.map(|backup| backup.backup_id).collect::<Vec<_>>()
    };
    assert_eq!(listed(31).await, made);
    // Retention runs after each backup.
    made.push(back_up(&on(33), &Run::default()).await.unwrap().backup_id);
    assert_eq!(listed(33).await, made[3..]);
    let (right, metrics) = counted(on(33));
    right.read_destinations(false).await;
    let metrics = metrics.render().unwrap();
    assert!(metrics.contains(r#"rna_backup_clock_in_doubt{component="media"} 0"#), "{metrics}");
    // The metric of the last verification leaves out a time that a clock ahead has noted.
    let (early, metrics) = counted(on(30));
    early.read_destinations(false).await;
    let metrics = metrics.render().unwrap();
    assert!(metrics.contains(r#"rna_backup_clock_in_doubt{component="media"} 1"#), "{metrics}");
    let verified = "rna_backup_verify_last_success_timestamp_seconds{component=\"media\",level=\"decode\"} ";
    let at: i64 = metrics.lines().find_map(|line| line.strip_prefix(verified)?.parse().ok()).unwrap();
    assert!(at <= early.clock.now().as_second(), "{metrics}");
}

#[tokio::test]
async fn a_backup_that_a_clock_ahead_has_made_is_not_the_newest() {
    let bench = Bench::new();
    let ahead =
        Engine { clock: Arc::new(Ahead(SignedDuration::from_hours(24 * 1000))), ..bench.engine(GOOD, GOOD) };
    let wrong = back_up(&ahead, &Run::default()).await.unwrap();
    let engine = bench.engine(GOOD, GOOD);
    let right = back_up(&engine, &Run::default()).await.unwrap();
    assert_ne!(right.backup_id, wrong.backup_id);
    let latest = engine.catalog.find(Some(MEDIA), "latest").await.unwrap();
    assert_eq!(latest.backup_id, right.backup_id);
    let request =
        VerifyRequest { component: Some(MEDIA), backup: "latest".to_owned(), level: VerifyLevel::Checksum };
    let verified = engine.verify(MEDIA, &request, &Run::default()).await.unwrap();
    assert_eq!(verified[0].backup_id, right.backup_id);
}
