//! Whatever goes wrong in a backup, there is no backup, and nothing is left of it.

use crate::support::{
    faulty::{self, Fault, Faults, Faulty, GOOD, Op},
    lab::{files, unfinished},
    source::{FaultySource, SourceFault},
};
use rna_backup::{
    base::clock::SystemClock,
    catalog::Catalog,
    component::{
        Component,
        media::{Media, MediaConfig},
    },
    domain::{command::Backup, component::ComponentName, retention::Policy},
    engine::{Changes, Engine, EngineError, Locks, PruneRequest, Run},
    observe::metrics::Metrics,
    store::{Store, StoreError, local::LocalStore},
    stream::pack::Compression,
};
use std::{fs, path::PathBuf, sync::Arc};
use tempfile::TempDir;

struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("media")).unwrap();
        fs::write(dir.path().join("media/gel.txt"), "lane 1: RNA\n".repeat(9000)).unwrap();
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("backups")
    }

    /// An engine of real parts.
    fn engine(&self) -> Engine {
        self.faulty(GOOD, None)
    }

    /// An engine of real parts, with faults in front of its store and behind its source.
    fn faulty(&self, faults: Faults, source: Option<SourceFault>) -> Engine {
        self.over(Arc::new(self.source(source)), faults)
    }

    fn source(&self, fault: Option<SourceFault>) -> FaultySource {
        let media = Media::new(MediaConfig::full(self.dir.path().join("media")));
        FaultySource::new(Arc::new(media), fault)
    }

    fn over(&self, media: Arc<dyn Component>, faults: Faults) -> Engine {
        let real = Arc::new(LocalStore::open(self.root(), 0).unwrap());
        let store: Arc<dyn Store> = Arc::new(Faulty::new(real, faults));
        Engine {
            components: vec![media],
            left_out: Vec::new(),
            catalog: Catalog::new(vec![Arc::clone(&store)]),
            mirror: None,
            destinations: vec![store],
            cleanup_local: false,
            locks: Locks::new(self.root().join(".locks")),
            compression: Compression::default(),
            encryption: rna_backup::stream::crypt::Encryption::default(),
            policy: Policy::default(),
            clock: Arc::new(SystemClock),
            observer: Arc::new(Metrics::new("test").unwrap()),
            changes: Changes::default(),
            host: "lab".to_owned(),
        }
    }

    fn archives(&self) -> Vec<PathBuf> {
        [files(&self.root().join("media")), unfinished(&self.root())].concat()
    }

    fn manifests(&self) -> Vec<PathBuf> {
        files(&self.root().join("manifests/media"))
    }
}

fn order() -> Backup {
    Backup { component: ComponentName::Media, label: None, pin: false, set_id: None }
}

#[tokio::test]
async fn a_backup_that_fails_anywhere_does_not_exist_and_leaves_nothing() {
    type Expected = fn(&EngineError) -> bool;
    let unavailable = |err: &EngineError| matches!(err, EngineError::Store(StoreError::Unavailable { .. }));
    let verify = |err: &EngineError| matches!(err, EngineError::Verify { .. });
    let full = |err: &EngineError| matches!(err, EngineError::Store(StoreError::NoSpace { .. }));
    let component = |err: &EngineError| matches!(err, EngineError::Component { .. });
    let cases: [(Faults, Option<SourceFault>, Expected); 9] = [
        (faulty::DISK_FULL, None, full),
        (&[(Op::Begin, Fault::Away)], None, unavailable),
        (&[(Op::Write, Fault::CutAfter(20))], None, unavailable),
        (faulty::BIT_FLIP, None, verify),
        (faulty::CUT_SHORT, None, verify),
        (faulty::NO_COMMIT, None, unavailable),
        (faulty::NO_MANIFEST, None, |err| matches!(err, EngineError::Catalog(_))),
        (GOOD, Some(SourceFault::AtItsEnd), component),
        (GOOD, Some(SourceFault::LostFile), verify),
    ];
    for (store, source, expected) in cases {
        let (bench, fault) = (Bench::new(), format!("{store:?} {source:?}"));
        let err = bench.faulty(store, source).backup(&order(), &Run::default()).await.unwrap_err();
        assert!(expected(&err), "{fault}: {err:?}");
        assert!(err.is_transient(), "{fault} may pass");
        assert_eq!((bench.archives(), bench.manifests()), (vec![], vec![]), "{fault}");
        // What stood in the way has passed: the next run is as good as any.
        bench.engine().backup(&order(), &Run::default()).await.unwrap();
        assert_eq!((bench.archives().len(), bench.manifests().len()), (1, 1), "{fault}");
    }
}

#[tokio::test]
async fn a_backup_that_is_stopped_leaves_nothing_and_frees_its_component() {
    let bench = Bench::new();
    let run = Run::default();
    // Nobody ever lets it go on.
    let source = bench.source(Some(SourceFault::Waits));
    let has_read = source.has_read.clone();
    let stop = async {
        has_read.notified().await;
        run.cancel.cancel();
    };
    let engine = bench.over(Arc::new(source), GOOD);
    let order = order();
    let (outcome, ()) = tokio::join!(engine.backup(&order, &run), stop);
    assert!(matches!(outcome, Err(EngineError::Cancelled)), "{outcome:?}");
    assert_eq!((bench.archives(), bench.manifests()), (vec![], vec![]));
    bench.engine().backup(&order, &Run::default()).await.unwrap();
}

#[tokio::test]
async fn an_archive_that_a_dead_run_left_without_a_manifest_goes_with_the_next_run() {
    let bench = Bench::new();
    bench.engine().backup(&order(), &Run::default()).await.unwrap();
    let archive = bench.archives().remove(0);
    // As a SIGKILL between the two steps leaves it: the lock file names what was loose.
    fs::remove_file(bench.manifests().remove(0)).unwrap();
    let key = format!("local/media/{}", archive.file_name().unwrap().to_str().unwrap());
    let words = serde_json::json!({"pid": 1, "host": "lab", "task_id": null, "loose": key});
    fs::write(bench.root().join(".locks/media.lock"), words.to_string()).unwrap();
    // A file of the same kind that nobody noted is somebody's, and stays.
    let foreign = archive.with_file_name("media_backup_20200101_000000.tar.zst");
    fs::copy(&archive, &foreign).unwrap();

    let engine = bench.engine();
    engine.prune(PruneRequest::default(), &Run::default()).await.unwrap();
    assert_eq!(bench.archives(), [foreign]);
    // What is noted but has its manifest is a backup.
    engine.backup(&order(), &Run::default()).await.unwrap();
    let key = bench.archives().iter().find_map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        (!name.contains("2020")).then(|| format!("local/media/{name}"))
    });
    let words = serde_json::json!({"pid": 1, "host": "lab", "task_id": null, "loose": key});
    fs::write(bench.root().join(".locks/media.lock"), words.to_string()).unwrap();
    engine.prune(PruneRequest::default(), &Run::default()).await.unwrap();
    assert_eq!((bench.archives().len(), bench.manifests().len()), (2, 1));
}
