//! Whatever goes wrong in a backup, there is no backup, and nothing is left of it.

use crate::support::{
    faulty::{Fault, FaultyComponent, FaultyStore},
    lab::files,
};
use rna_backup::{
    base::clock::SystemClock,
    catalog::Catalog,
    component::media::{Media, MediaConfig},
    domain::{command::Backup, component::ComponentName, retention::Policy},
    engine::{Engine, EngineError, Locks, PruneRequest, Run},
    observe::metrics::Metrics,
    store::{Store, StoreError, local::LocalStore},
    stream::pack::Compression,
};
use std::{fs, path::PathBuf, sync::Arc};
use tempfile::TempDir;
use tokio::sync::Notify;

struct Bench {
    dir: TempDir,
    has_read: Arc<Notify>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("media")).unwrap();
        fs::write(dir.path().join("media/gel.txt"), "lane 1: RNA\n".repeat(9000)).unwrap();
        Self { dir, has_read: Arc::default() }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("backups")
    }

    /// An engine of real parts, with a fault in front of them.
    fn engine(&self, fault: Option<Fault>) -> Engine {
        let mut store: Arc<dyn Store> = Arc::new(LocalStore::open(self.root(), 0).unwrap());
        let mut media: Arc<dyn rna_backup::component::Component> =
            Arc::new(Media::new(MediaConfig { root: self.dir.path().join("media") }));
        if let Some(fault) = fault {
            store = Arc::new(FaultyStore { real: store, fault });
            media = Arc::new(FaultyComponent { real: media, fault, has_read: Arc::clone(&self.has_read) });
        }
        Engine {
            components: vec![media],
            not_yet: Vec::new(),
            left_out: Vec::new(),
            catalog: Catalog::new(vec![Arc::clone(&store)]),
            store,
            locks: Locks::new(self.root().join(".locks")),
            compression: Compression::default(),
            policy: Policy::default(),
            clock: Arc::new(SystemClock),
            metrics: Metrics::new("test").unwrap(),
            host: "lab".to_owned(),
        }
    }

    fn archives(&self) -> Vec<PathBuf> {
        [files(&self.root().join("media")), files(&self.root().join(".partial"))].concat()
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
    let cases: [(Fault, Expected); 7] = [
        (Fault::DiskFull, |err| matches!(err, EngineError::Store(StoreError::NoSpace { .. }))),
        (Fault::BitFlip, |err| matches!(err, EngineError::Verify { .. })),
        (Fault::CutShort, |err| matches!(err, EngineError::Verify { .. })),
        (Fault::Commit, unavailable),
        (Fault::Manifest, |err| matches!(err, EngineError::Catalog(_))),
        (Fault::SourceAtItsEnd, |err| matches!(err, EngineError::Component { .. })),
        (Fault::LostFile, |err| matches!(err, EngineError::Verify { .. })),
    ];
    for (fault, expected) in cases {
        let bench = Bench::new();
        let err = bench.engine(Some(fault)).backup(&order(), &Run::default()).await.unwrap_err();
        assert!(expected(&err), "{fault:?}: {err:?}");
        assert!(err.is_transient(), "{fault:?} may pass");
        assert_eq!((bench.archives(), bench.manifests()), (vec![], vec![]), "{fault:?}");
        // What stood in the way has passed: the next run is as good as any.
        bench.engine(None).backup(&order(), &Run::default()).await.unwrap();
        assert_eq!((bench.archives().len(), bench.manifests().len()), (1, 1), "{fault:?}");
    }
}

#[tokio::test]
async fn a_backup_that_is_stopped_leaves_nothing_and_frees_its_component() {
    let bench = Bench::new();
    let run = Run::default();
    let stop = async {
        bench.has_read.notified().await;
        run.cancel.cancel();
    };
    let engine = bench.engine(Some(Fault::Endless));
    let order = order();
    let (outcome, ()) = tokio::join!(engine.backup(&order, &run), stop);
    assert!(matches!(outcome, Err(EngineError::Cancelled)), "{outcome:?}");
    assert_eq!((bench.archives(), bench.manifests()), (vec![], vec![]));
    bench.engine(None).backup(&order, &Run::default()).await.unwrap();
}

#[tokio::test]
async fn an_archive_that_a_dead_run_left_without_a_manifest_goes_with_the_next_run() {
    let bench = Bench::new();
    bench.engine(None).backup(&order(), &Run::default()).await.unwrap();
    let archive = bench.archives().remove(0);
    // As a SIGKILL between the two steps leaves it: the lock file names what was loose.
    fs::remove_file(bench.manifests().remove(0)).unwrap();
    let key = format!("media/{}", archive.file_name().unwrap().to_str().unwrap());
    let words = serde_json::json!({"pid": 1, "host": "lab", "task_id": null, "loose": key});
    fs::write(bench.root().join(".locks/media.lock"), words.to_string()).unwrap();
    // A file of the same kind that nobody noted is somebody's, and stays.
    let foreign = archive.with_file_name("media_backup_20200101_000000.tar.zst");
    fs::copy(&archive, &foreign).unwrap();

    let engine = bench.engine(None);
    engine.prune(PruneRequest::default()).await.unwrap();
    assert_eq!(bench.archives(), [foreign]);
    // What is noted but has its manifest is a backup.
    engine.backup(&order(), &Run::default()).await.unwrap();
    let key = bench.archives().iter().find_map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        (!name.contains("2020")).then(|| format!("media/{name}"))
    });
    let words = serde_json::json!({"pid": 1, "host": "lab", "task_id": null, "loose": key});
    fs::write(bench.root().join(".locks/media.lock"), words.to_string()).unwrap();
    engine.prune(PruneRequest::default()).await.unwrap();
    assert_eq!((bench.archives().len(), bench.manifests().len()), (2, 1));
}
