//! What retention cannot delete: it is said, it stays in the catalogue whole, and the rest goes.

use crate::copies::{counted, engine};
use crate::store_contract::{content, key, upload};
use crate::support::{
    catalog::manifest,
    faulty::{AWAY, Fault, Faults, Faulty, GOOD, Op},
    memory::Memory,
};
use rna_backup::{
    catalog::{Catalog, manifest_key},
    domain::{component::ComponentName, listing::BackupState, report::PruneReport},
    engine::{Engine, PruneRequest, Run},
    store::Store,
};
use std::{fs, sync::Arc};
use tempfile::TempDir;

const MEDIA: ComponentName = ComponentName::MEDIA;

/// Two destinations in memory.
struct Bench {
    dir: TempDir,
    near: Memory,
    far: Memory,
}

impl Bench {
    /// With backups of these hours, each in those destinations.
    async fn with(backups: &[(i64, &[&str])]) -> Self {
        let bench =
            Self { dir: tempfile::tempdir().unwrap(), near: Memory::default(), far: Memory::default() };
        let catalog = Catalog::new(bench.stores(GOOD, GOOD));
        for (hour, destinations) in backups {
            let manifest = manifest(MEDIA, *hour, destinations);
            for destination in *destinations {
                let store = catalog.store(destination).unwrap();
                upload(store.as_ref(), &key(&manifest.objects[0].key), &content(1000)).await.unwrap();
            }
            catalog.write(&manifest).await.unwrap();
        }
        bench
    }

    /// Three in both.
    async fn new() -> Self {
        let both: &[&str] = &["local", "s3"];
        Self::with(&[(1, both), (2, both), (3, both)]).await
    }

    fn stores(&self, near: Faults, far: Faults) -> Vec<Arc<dyn Store>> {
        let near = Faulty::new(Arc::new(self.near.clone()), near);
        let far = Faulty::new(Arc::new(self.far.clone()), far).named("s3");
        vec![Arc::new(near), Arc::new(far)]
    }

    fn engine(&self, near: Faults, far: Faults) -> Engine {
        engine(self.dir.path(), &self.dir.path().join(".locks"), self.stores(near, far))
    }

    async fn prune(&self, near: Faults, far: Faults) -> (PruneReport, String) {
        let (engine, metrics) = counted(self.engine(near, far));
        let request = PruneRequest {
            component: Some(MEDIA),
            retention_days: Some(0),
            trust_clock: true,
            ..PruneRequest::default()
        };
        let report = engine.prune(request, &Run::default()).await.unwrap();
        (report, metrics.render().unwrap())
    }

    /// Every backup, the oldest first: its hour, and where its copies are, each marked when it is not whole.
    async fn listed(&self) -> Vec<(String, String)> {
        let entries = Catalog::new(self.stores(GOOD, GOOD)).list(Some(MEDIA)).await.unwrap().entries;
        let places = entries.iter().rev().map(|entry| {
            assert!(entry.is_verified(), "{entry:?}");
            let copies = entry.copies.iter().map(|copy| match copy.state {
                BackupState::Ok => copy.destination.clone(),
                state => format!("{} {state:?}", copy.destination),
            });
            (entry.backup_id.to_string(), copies.collect::<Vec<_>>().join(" "))
        });
        places.map(|(id, copies)| (id[22..24].to_owned(), copies)).collect()
    }

    /// What the next run is to look for.
    fn noted(&self) -> String {
        fs::read_to_string(self.dir.path().join(".locks/media.lock")).unwrap().trim().to_owned()
    }
}

fn hours(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(hour, places)| ((*hour).to_owned(), (*places).to_owned())).collect()
}

#[tokio::test]
async fn what_a_destination_keeps_locked_stays_listed_and_whole_and_the_rest_goes() {
    let refusals: [(Faults, &str); 4] = [
        (&[(Op::Delete, Fault::Locked)], "locked"),
        (&[(Op::Delete, Fault::Denied)], "denied"),
        (&[(Op::Unlist, Fault::Locked)], "locked"),
        // Nothing can be deleted or replaced there.
        (&[(Op::Unlist, Fault::Locked), (Op::Delete, Fault::Locked), (Op::Put, Fault::Locked)], "locked"),
    ];
    for (faults, reason) in refusals {
        for (near, far, stays) in [(GOOD, faults, "s3"), (faults, GOOD, "local")] {
            if stays == "local" && faults.len() > 1 {
                continue; // in a folder where nothing can be written there is no new backup either
            }
            let bench = Bench::new().await;
            let (report, metrics) = bench.prune(near, far).await;
            let what = format!("{faults:?} {stays}");
            let expected = [("01", stays), ("02", stays), ("03", "local s3")];
            assert_eq!(bench.listed().await, hours(&expected), "{what}");
            let (told, other) = match reason {
                "locked" => (&report.locked, &report.problems),
                _ => (&report.problems, &report.locked),
            };
            assert_eq!((report.deleted.len(), told.len(), other.len()), (2, 2, 0), "{what}: {report:?}");
            let id = report.deleted[0].as_str();
            assert!(told[0].starts_with(&format!("{id}: delete ")), "{what}: {report:?}");
            let refused = format!("rna_backup_retention_refused_total{{reason=\"{reason}\"}} 2\n");
            assert!(metrics.contains(&refused), "{what}: {metrics}");
            let other = if stays == "s3" { "local" } else { "s3" };
            let deleted = |destination| {
                format!(
                    "rna_backup_retention_deleted_total{{component=\"media\",destination=\"{destination}\"}} "
                )
            };
            assert!(metrics.contains(&format!("{}2\n", deleted(other))), "{what}: {metrics}");
            assert!(!metrics.contains(&deleted(stays)), "{what}: {metrics}");
            // When the lock ends, they go.
            let (report, _) = bench.prune(GOOD, GOOD).await;
            assert_eq!((report.deleted.len(), report.problems.len()), (2, 0), "{what}: {report:?}");
            assert_eq!((bench.near.keys().len(), bench.far.keys().len()), (2, 2), "{what}");
        }
    }
}

#[tokio::test]
async fn a_copy_that_a_destination_does_not_let_go_stays_beside_the_others() {
    // Each destination keeps the newest that it has, so the first goes from the bucket alone.
    let both: &[&str] = &["local", "s3"];
    for op in [Op::Delete, Op::Unlist] {
        let bench = Bench::with(&[(1, both), (2, &["s3"])]).await;
        let faults: Faults =
            if op == Op::Delete { &[(Op::Delete, Fault::Locked)] } else { &[(Op::Unlist, Fault::Locked)] };
        let (report, _) = bench.prune(GOOD, faults).await;
        assert_eq!((report.deleted.len(), report.locked.len()), (0, 1), "{op:?}: {report:?}");
        assert_eq!(bench.listed().await, hours(&[("01", "local s3"), ("02", "s3")]), "{op:?}");
        let (report, _) = bench.prune(GOOD, GOOD).await;
        assert_eq!((report.deleted.len(), report.problems.len()), (1, 0), "{op:?}: {report:?}");
        assert_eq!(bench.listed().await, hours(&[("01", "local"), ("02", "s3")]), "{op:?}");
        assert_eq!((bench.near.keys().len(), bench.far.keys().len()), (2, 2), "{op:?}");
    }
}

#[tokio::test]
async fn what_nobody_knows_to_be_gone_is_looked_for_by_the_next_run() {
    let all = hours(&[("01", "local s3"), ("02", "local s3"), ("03", "local s3")]);
    let newest = hours(&[("03", "local s3")]);
    let cases: [(Faults, _, usize); 4] = [
        (&[(Op::Unlist, Fault::Away)], &all, 6),
        (&[(Op::Delete, Fault::Away)], &newest, 4),
        // The server has done it.
        (&[(Op::Unlist, Fault::LoseReply)], &all, 4),
        (&[(Op::Delete, Fault::LoseReply)], &newest, 2),
    ];
    for (faults, listed, far) in cases {
        let bench = Bench::new().await;
        let (report, metrics) = bench.prune(GOOD, faults).await;
        assert_eq!((report.deleted.len(), report.problems.len()), (0, 2), "{faults:?}: {report:?}");
        assert_eq!((&bench.listed().await, bench.far.keys().len()), (listed, far), "{faults:?}");
        assert!(metrics.contains("rna_backup_retention_refused_total{reason=\"locked\"} 0\n"), "{metrics}");
        assert!(bench.noted().contains("s3/media/media_backup_20261122_010000"), "{faults:?}");

        // As long as nobody answers there, it stays noted and keeps nobody from work.
        bench.prune(GOOD, AWAY).await;
        assert!(bench.noted().contains("s3/media/media_backup_20261122_010000"), "{faults:?}");
        let (report, _) = bench.prune(GOOD, GOOD).await;
        assert!(report.problems.is_empty(), "{faults:?}: {report:?}");
        assert_eq!(bench.listed().await, newest, "{faults:?}");
        assert_eq!((bench.near.keys().len(), bench.far.keys().len()), (2, 2), "{faults:?}");
        assert_eq!(bench.noted(), "", "{faults:?}");
    }
}

#[tokio::test]
async fn a_locked_archive_that_a_dead_run_left_keeps_nobody_from_work() {
    let bench = Bench::new().await;
    let archive = manifest(MEDIA, 1, &["s3"]).objects[0].key.clone();
    let id = manifest(MEDIA, 1, &["s3"]).backup_id;
    // As a SIGKILL between the two steps leaves it.
    for store in [&bench.near, &bench.far] {
        store.delete(&manifest_key(&id)).await.unwrap();
    }
    bench.near.delete(&key(&archive)).await.unwrap();
    fs::create_dir(bench.dir.path().join(".locks")).unwrap();
    let words =
        serde_json::json!({"pid": 1, "host": "lab", "task_id": null, "loose": format!("s3/{archive}")});
    fs::write(bench.dir.path().join(".locks/media.lock"), words.to_string()).unwrap();
    let locked: Faults = &[(Op::Delete, Fault::Locked)];
    bench.prune(GOOD, locked).await;
    assert_eq!(bench.noted(), "", "nobody tries it again");
    assert!(bench.far.keys().contains(&archive), "{:?}", bench.far.keys());
    let listing = bench.engine(GOOD, GOOD).catalog.list(Some(MEDIA)).await.unwrap();
    assert!(listing.orphans.iter().any(|orphan| orphan.key.to_string() == archive), "{listing:?}");
}

#[tokio::test]
async fn thousands_of_backups_go_batch_by_batch() {
    let both: &[&str] = &["local", "s3"];
    let hours: Vec<_> = (0..2_500).map(|hour| (-hour, both)).collect();
    let bench = Bench::with(&hours).await;
    let (report, _) = bench.prune(GOOD, GOOD).await;
    assert_eq!((report.deleted.len(), report.kept.len()), (2_499, 1), "{:?}", report.problems);
    assert!(
        report.deleted.is_sorted_by_key(rna_backup::domain::id::BackupId::created),
        "the oldest go first"
    );
    assert_eq!((bench.near.keys().len(), bench.far.keys().len(), bench.noted().as_str()), (2, 2, ""));
}
