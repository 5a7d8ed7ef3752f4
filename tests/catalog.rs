//! The catalogue over real folders.

use crate::store_contract::{content, key, upload};
use crate::support::catalog::{Lab, at, manifest, named};
use crate::support::s3::S3Server;
use rna_backup::catalog::{Catalog, CatalogError, Origin, manifest_key};
use rna_backup::domain::{
    component::ComponentName,
    listing::BackupState,
    manifest::{Manifest, VerifyLevel},
    retention::VerificationStatus,
};
use rna_backup::store::{S3Store, Store};
use std::{
    error::Error as _,
    fs,
    sync::{Arc, atomic::Ordering},
};
use tempfile::tempdir;

const MEDIA: ComponentName = ComponentName::MEDIA;
const POSTGRES: ComponentName = ComponentName::POSTGRES;
const WEAVIATE: ComponentName = ComponentName::WEAVIATE;

#[tokio::test]
async fn a_backup_is_there_when_its_manifest_is() {
    let lab = Lab::new();
    assert_eq!(lab.ids(None).await, [""; 0]);
    let manifest = manifest(MEDIA, 1, &["local"]);
    upload(lab.store.as_ref(), &key(&manifest.objects[0].key), &content(1000)).await.unwrap();
    let listing = lab.catalog.list(None).await.unwrap();
    assert!(listing.entries.is_empty());
    assert_eq!(listing.orphans[0].location, lab.path(&manifest.objects[0].key).display().to_string());

    lab.catalog.write(&manifest).await.unwrap();
    let listing = lab.catalog.list(None).await.unwrap();
    assert!(listing.orphans.is_empty());
    let [entry] = listing.entries.as_slice() else { panic!("{listing:?}") };
    assert_eq!(entry.manifest(), Some(&manifest));
    assert!(entry.is_verified());
    let text = fs::read_to_string(lab.path("manifests/media/media_backup_20261122_010000.json")).unwrap();
    assert!(text.starts_with("{\n  \"format\": 1,") && text.ends_with("}\n"), "{text}");

    lab.catalog.delete_copies(entry, vec!["local"]).await.unwrap();
    lab.catalog.delete_copies(entry, vec!["local"]).await.unwrap();
    assert_eq!(lab.ids(None).await, [""; 0]);
    assert!(!lab.path(&manifest.objects[0].key).exists());
}

#[tokio::test]
async fn a_listing_is_newest_first_and_of_the_component_that_was_asked_for() {
    let lab = Lab::new();
    for (component, hour) in [(MEDIA, 3), (POSTGRES, 5), (MEDIA, 9), (POSTGRES, 1)] {
        lab.backup(component, hour).await;
    }
    assert_eq!(
        lab.ids(None).await,
        [
            "media_backup_20261122_090000",
            "pg_backup_20261122_050000",
            "media_backup_20261122_030000",
            "pg_backup_20261122_010000"
        ]
    );
    assert_eq!(lab.ids(Some(POSTGRES)).await, ["pg_backup_20261122_050000", "pg_backup_20261122_010000"]);
    assert_eq!(lab.ids(Some(WEAVIATE)).await, [""; 0]);
}

#[tokio::test]
async fn the_listing_has_the_keys_of_the_contract() {
    let lab = Lab::new();
    lab.backup(POSTGRES, 2).await;
    let entry = lab.catalog.find(None, "latest").await.unwrap();
    let path = lab.path("postgres/pg_backup_20261122_020000.dump.zst").display().to_string();
    assert_eq!(
        serde_json::to_value(entry.listed()).unwrap(),
        serde_json::json!({
            "backup_id": "pg_backup_20261122_020000",
            "component": "postgres",
            "created_at": "2026-11-22T02:00:00Z",
            "label": "before the move",
            "pinned": false,
            "set_id": null,
            "size_bytes": 1000,
            "source_bytes": 5000,
            "sha256": "ab".repeat(32),
            "verified": "decode",
            "state": "ok",
            "destinations": [{"destination": "local", "location": path, "bytes": 1000, "state": "ok"}],
        })
    );
}

#[tokio::test]
async fn an_archive_that_is_gone_or_cut_is_seen() {
    let lab = Lab::new();
    for hour in [1, 2, 3] {
        lab.backup(MEDIA, hour).await;
    }
    fs::remove_file(lab.path("media/media_backup_20261122_030000.tar.zst")).unwrap();
    fs::write(lab.path("media/media_backup_20261122_020000.tar.zst"), "short").unwrap();
    let entries = lab.catalog.list(None).await.unwrap().entries;
    let seen: Vec<_> =
        entries.iter().map(|entry| (entry.state(), entry.candidate("local").unwrap().verification)).collect();
    assert_eq!(
        seen,
        [
            (BackupState::Missing, VerificationStatus::Missing),
            (BackupState::Failed, VerificationStatus::Failed),
            (BackupState::Ok, VerificationStatus::Verified)
        ]
    );
    let good = "media_backup_20261122_010000";
    assert_eq!(lab.find(Some(MEDIA), "latest").await.unwrap(), good);
    assert_eq!(lab.find(None, "media_backup_20261122_030000").await.unwrap(), "media_backup_20261122_030000");
    assert!(entries[0].candidate("s3").is_none());
}

#[tokio::test]
async fn a_task_finds_the_manifest_that_it_wrote() {
    let lab = Lab::new();
    let made = lab.backup(MEDIA, 1).await;
    lab.backup(MEDIA, 2).await;
    let by_task = async |task_id: &str| lab.catalog.list(None).await.unwrap().by_task(task_id).cloned();
    assert_eq!(by_task("task-media-1").await, Some(made.clone()));
    assert_eq!(by_task("task-media-9").await, None);

    let pinned = Manifest { pinned: true, ..made };
    lab.catalog.write(&pinned).await.unwrap();
    assert_eq!(by_task("task-media-1").await, Some(pinned));
}

#[tokio::test]
async fn a_manifest_is_read_once_until_it_changes() {
    let lab = Lab::new();
    let counted = Arc::new(named(lab.dir.path(), "local"));
    let catalog = Catalog::new(vec![counted.clone()]);
    for hour in 0..20 {
        lab.backup(MEDIA, hour).await;
    }
    for component in [None, Some(MEDIA), None] {
        assert!(catalog.list(component).await.unwrap().by_task("task-media-3").is_some());
    }
    assert_eq!(counted.opened.load(Ordering::Relaxed), 20);
    // Written by another process, so that only its length and time tell.
    let other = Manifest { pinned: true, ..manifest(MEDIA, 3, &["local"]) };
    lab.catalog.write(&other).await.unwrap();
    assert_eq!(catalog.list(None).await.unwrap().by_task("task-media-3"), Some(&other));
    assert_eq!(counted.opened.load(Ordering::Relaxed), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_keeps_its_length_and_its_time_is_read_again_when_others_have_changed_it() {
    let label = async |catalog: &Catalog| {
        let listing = catalog.list(None).await.unwrap();
        listing.by_task("task-media-1").unwrap().label.clone().unwrap()
    };
    let lab = Lab::new();
    let made = lab.backup(MEDIA, 1).await;
    assert_eq!(label(&lab.catalog).await, "before the move");
    let path = lab.path(manifest_key(&made.backup_id).as_str());
    let (text, at) = (fs::read_to_string(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
    let other = text.replace("before the move", "behind the move");
    fs::write(&path, &other).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(at).unwrap();
    assert_eq!(label(&lab.catalog).await, "behind the move");

    let bucket = S3Store::open(S3Server::shared().bucket().await, None).await.unwrap();
    let (bucket, key): (Arc<dyn Store>, _) = (Arc::new(bucket), manifest_key(&made.backup_id));
    let catalog = Catalog::new(vec![bucket.clone()]);
    let within_a_second = async || {
        let mut times = Vec::new();
        for (text, said) in [(&text, "before the move"), (&other, "behind the move")] {
            bucket.put(&key, text.clone().into_bytes().into()).await.unwrap();
            times.push(bucket.head(&key).await.unwrap().modified);
            assert_eq!(label(&catalog).await, said);
        }
        times[0] == times[1]
    };
    for _ in 0..20 {
        if within_a_second().await {
            return;
        }
    }
    panic!("twenty times the second ended between two requests");
}

#[tokio::test]
async fn an_id_is_free_when_nothing_has_its_name() {
    let lab = Lab::new();
    let of =
        async |name, component| lab.catalog.list(component).await.unwrap().next_id(name, at(1)).to_string();
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let id = of(MEDIA, Some(MEDIA)).await;
        assert!(id.starts_with("media_backup_20261122_010000_1") && id.len() == 39, "{id}");
        lab.plant(&format!("media/{id}.tar.zst"), "an orphan");
        assert!(ids.insert(id));
    }
    assert!(of(POSTGRES, None).await.starts_with("pg_backup_20261122_010000_1"));
}

#[tokio::test]
async fn damaged_manifests_are_reported_and_hide_nothing_else() {
    let lab = Lab::new();
    lab.backup(MEDIA, 1).await;
    let good = fs::read_to_string(lab.path("manifests/media/media_backup_20261122_010000.json")).unwrap();
    let put = |hour: &str, text: &str| {
        lab.plant(&format!("manifests/media/media_backup_20261122_{hour}0000.json"), text);
    };
    put("02", "{ \"format\": 1,");
    put("03", "");
    put("04", &good); // of another backup
    put("05", &good.replace("_010000\"", "_050000\"")); // with its archive
    put("06", &good.replace("\"media\"", "\"postgres\""));
    put("07", &good.replace("media/media_backup_20261122_01", "../etc/media_backup_20261122_07"));
    put("08", "[1]");
    lab.plant("media/media_backup_20261122_020000.tar.gz", "must not look like an old one");
    let listing = lab.catalog.list(None).await.unwrap();
    assert_eq!(listing.entries.len(), 1, "{listing:#?}");
    assert_eq!(listing.damaged.len(), 7);
    assert!(listing.orphans.is_empty());
    let first = &listing.damaged[0];
    let path = lab.path("manifests/media/media_backup_20261122_020000.json");
    assert_eq!(first.to_string(), format!("read manifest {}", path.display()));
    assert!(first.source().unwrap().to_string().contains("EOF"), "{first:?}");
}

#[tokio::test]
async fn foreign_files_are_neither_listed_nor_touched() {
    let lab = Lab::new();
    let foreign = [
        "media/notes.txt",
        "media/media_backup_latest.tar.gz",
        "media/media_backup_20261122_010000.zip",
        "media/pg_backup_20261122_010000.dump.zst",
        "media/sub/media_backup_20261122_010000.tar.zst",
        "postgres/pg_backup_20261122_010000.sql.gpg",
        "postgres/pg_backup_20261122_010000/toc.dat",
        "manifests/media/notes.json",
        "manifests/media/media_backup_20261122_010000.json.bak",
        "manifests/media/sub/media_backup_20261122_010000.json",
        "manifests/notes.json",
        "other/file",
    ];
    for name in foreign {
        lab.plant(name, "{}");
    }
    let listing = lab.catalog.list(None).await.unwrap();
    assert!(
        listing.entries.is_empty() && listing.damaged.is_empty() && listing.orphans.is_empty(),
        "{listing:#?}"
    );
    lab.backup(MEDIA, 1).await;
    let entry = lab.catalog.find(None, "media").await.unwrap();
    lab.catalog.delete_copies(&entry, vec!["local"]).await.unwrap();
    assert!(foreign.iter().all(|name| lab.path(name).exists()));
}

#[tokio::test]
async fn files_of_the_old_tasks_are_listed_and_never_deleted() {
    let lab = Lab::new();
    lab.plant("postgres/pg_backup_20250523_020000.sql", "12345");
    lab.plant("media/media_backup_20250523_040000.tar.gz", "1234567");
    lab.plant("weaviate/weaviate_backup_20250523_030000/node1/a", "123");
    lab.plant("weaviate/weaviate_backup_20250523_030000/backup.json", "1");
    let entries = lab.catalog.list(None).await.unwrap().entries;
    let seen: Vec<_> = entries.iter().map(|e| (e.component(), e.copies[0].bytes, e.state())).collect();
    assert_eq!(
        seen,
        [(MEDIA, 7, BackupState::Ok), (WEAVIATE, 4, BackupState::Ok), (POSTGRES, 5, BackupState::Ok)]
    );
    for (reference, file) in [
        ("pg_backup_20250523_020000.sql", "postgres/pg_backup_20250523_020000.sql"),
        ("media_backup_20250523_040000", "media/media_backup_20250523_040000.tar.gz"),
        ("weaviate_backup_20250523_030000", "weaviate/weaviate_backup_20250523_030000"),
    ] {
        let by_path = lab.catalog.find(None, lab.path(file).to_str().unwrap()).await.unwrap();
        let entry = lab.catalog.find(None, reference).await.unwrap();
        assert_eq!(entry.backup_id, by_path.backup_id);
        assert_eq!(entry.copies[0].location, lab.path(file).display().to_string());
        assert!(matches!(entry.origin, Origin::Legacy) && entry.candidate("local").is_none());
        assert_eq!(entry.listed().verified, VerifyLevel::None);
        let err = lab.catalog.delete_copies(&entry, vec!["local"]).await.unwrap_err();
        assert!(matches!(err, CatalogError::Protected { .. }), "{err:?}");
        assert!(lab.path(file).exists());
    }
}

#[tokio::test]
async fn a_manifest_of_a_newer_format_is_listed_but_not_touched() {
    let lab = Lab::new();
    let mut newer = serde_json::to_value(lab.backup(MEDIA, 1).await).unwrap();
    newer["format"] = 99.into();
    newer["facts"] = "something else altogether".into();
    let file = "manifests/media/media_backup_20261122_010000.json";
    fs::write(lab.path(file), newer.to_string()).unwrap();
    let entry = lab.catalog.find(None, "media_backup_20261122_010000").await.unwrap();
    assert!(matches!(entry.origin, Origin::Newer(99)), "{entry:?}");
    assert_eq!((entry.state(), entry.created_at), (BackupState::Ok, at(1)));
    assert!(entry.manifest().is_none() && entry.candidate("local").is_none());
    assert!(matches!(
        lab.catalog.delete_copies(&entry, vec!["local"]).await,
        Err(CatalogError::Protected { .. })
    ));
    assert!(lab.path(file).exists());
}

#[tokio::test]
async fn a_field_that_a_newer_program_added_does_no_harm() {
    let lab = Lab::new();
    let mut added = serde_json::to_value(lab.backup(MEDIA, 1).await).unwrap();
    added["colour"] = "green".into();
    fs::write(lab.path("manifests/media/media_backup_20261122_010000.json"), added.to_string()).unwrap();
    assert!(lab.catalog.find(None, "media").await.unwrap().is_verified());
}

#[tokio::test]
async fn several_destinations_are_one_catalogue() {
    let (near, far) = (tempdir().unwrap(), tempdir().unwrap());
    let local: Arc<dyn Store> = Arc::new(named(near.path(), "local"));
    let s3: Arc<dyn Store> = Arc::new(named(far.path(), "s3"));
    let catalog = Catalog::new(vec![local.clone(), s3.clone()]);
    let (both, far_only) = (manifest(MEDIA, 1, &["local", "s3"]), manifest(MEDIA, 2, &["s3"]));
    for (store, manifest) in [(&local, &both), (&s3, &both), (&s3, &far_only)] {
        upload(store.as_ref(), &key(&manifest.objects[0].key), &content(1000)).await.unwrap();
    }
    catalog.write(&both).await.unwrap();
    catalog.write(&far_only).await.unwrap();
    let states = async || -> Vec<_> {
        let entries = catalog.list(None).await.unwrap().entries;
        entries.iter().map(|e| (e.state(), e.copies.iter().map(|c| c.state).collect::<Vec<_>>())).collect()
    };
    let ok = BackupState::Ok;
    assert_eq!(states().await, [(ok, vec![ok]), (ok, vec![ok, ok])]);
    assert!(local.head(&manifest_key(&far_only.backup_id)).await.is_err());

    local.delete(&key(&both.objects[0].key)).await.unwrap();
    assert_eq!(states().await[1], (ok, vec![BackupState::Missing, ok]));
    // The nearest manifest is damaged: the far one is good.
    fs::write(near.path().join(manifest_key(&both.backup_id).as_str()), "{").unwrap();
    let listing = catalog.list(None).await.unwrap();
    assert_eq!((listing.entries.len(), listing.damaged.len()), (2, 1));

    catalog.delete_copies(&listing.entries[1], vec!["local", "s3"]).await.unwrap();
    assert_eq!(catalog.list(None).await.unwrap().entries.len(), 1);
    assert!(s3.head(&manifest_key(&both.backup_id)).await.is_err());
    assert_eq!(fs::read_dir(far.path().join("media")).unwrap().count(), 1);

    let nearer = Catalog::new(vec![local]);
    let err = nearer.write(&both).await.unwrap_err();
    assert_eq!(
        err.to_string(),
        "write manifest of media_backup_20261122_010000: destination s3 is not configured"
    );
}
