//! What a backup may be named by.

use crate::support::catalog::{Lab, manifest};
use rna_backup::catalog::CatalogError;
use rna_backup::domain::{
    component::ComponentName,
    manifest::{Verified, VerifyLevel},
};
use std::os::unix::fs::symlink;

const MEDIA: ComponentName = ComponentName::MEDIA;
const POSTGRES: ComponentName = ComponentName::POSTGRES;

#[tokio::test]
async fn the_latest_is_verified_if_any_is() {
    let lab = Lab::new();
    lab.plant("media/media_backup_20270101_000000.tar.gz", "old");
    assert_eq!(lab.find(None, "latest").await.unwrap(), "media_backup_20270101_000000");
    let mut unproven = manifest(MEDIA, 5, &["local"]);
    unproven.verified = Verified { level: VerifyLevel::Checksum, at: None };
    lab.finish(&unproven).await;
    assert_eq!(lab.find(None, "latest").await.unwrap(), "media_backup_20261122_050000");
    lab.backup(MEDIA, 2).await;
    lab.backup(MEDIA, 1).await;
    assert_eq!(lab.find(None, "media").await.unwrap(), "media_backup_20261122_020000");
    assert!(matches!(lab.find(Some(POSTGRES), "latest").await, Err(CatalogError::NotFound { .. })));
}

#[tokio::test]
async fn where_no_backup_is_whole_that_is_said_and_not_that_there_is_none() {
    let lab = Lab::new();
    for (hour, words) in [
        (
            1,
            "there is one, and it is damaged or its archive is gone (media_backup_20261122_010000: its archive is not there)",
        ),
        (
            2,
            "there are 2, and each is damaged or its archive is gone (media_backup_20261122_020000: its archive is",
        ),
    ] {
        let manifest = lab.backup(MEDIA, hour).await;
        std::fs::remove_file(lab.path(&manifest.objects[0].key)).unwrap();
        let err = lab.find(None, "media").await.unwrap_err();
        assert!(matches!(err, CatalogError::NotFound { .. }) && err.to_string().contains(words), "{err}");
    }
    assert!(lab.find(None, "postgres").await.unwrap_err().to_string().contains("no such backup"));
}

#[tokio::test]
async fn a_backup_is_found_by_all_its_names() {
    let lab = Lab::new();
    lab.backup(MEDIA, 1).await;
    lab.backup(POSTGRES, 1).await;
    lab.backup(POSTGRES, 2).await;
    let path = lab.path("postgres/pg_backup_20261122_010000.dump.zst");
    for name in [
        "pg_backup_20261122_010000",
        "pg_backup_20261122_010000.dump.zst",
        "postgres/pg_backup_20261122_010000.dump.zst",
        path.to_str().unwrap(),
    ] {
        for component in [None, Some(POSTGRES)] {
            assert_eq!(lab.find(component, name).await.unwrap(), "pg_backup_20261122_010000", "{name}");
        }
        let err = lab.find(Some(MEDIA), name).await.unwrap_err();
        assert!(err.to_string().contains("is a backup of postgres, not of media"), "{err}");
    }
    assert_eq!(lab.find(None, "postgres").await.unwrap(), "pg_backup_20261122_020000");
}

#[tokio::test]
async fn what_leads_elsewhere_is_refused_and_what_is_not_there_is_not_found() {
    let lab = Lab::new();
    lab.backup(MEDIA, 1).await;
    lab.plant("media/notes.txt", "x");
    symlink("/etc/passwd", lab.path("media/media_backup_20261122_020000.tar.zst")).unwrap();
    symlink("/etc", lab.path("media/etc")).unwrap();
    let long = "x".repeat(5000);
    let inside = lab.dir.path().display().to_string();
    for hostile in [
        String::new(),
        "../../etc/passwd".to_owned(),
        "media/../../etc/passwd".to_owned(),
        "/etc/passwd".to_owned(),
        format!("{inside}/../x"),
        format!("{inside}x/media"),
        "s3://bucket/media/media_backup_20261122_010000.tar.zst".to_owned(),
        "file:///etc/passwd".to_owned(),
        "a\nb".to_owned(),
        "..".to_owned(),
        long,
        format!("{inside}/media/media_backup_20261122_020000.tar.zst"),
        format!("{inside}/media/etc/passwd"),
    ] {
        let err = lab.find(None, &hostile).await.unwrap_err();
        assert!(matches!(err, CatalogError::Refused { .. }) && !err.is_transient(), "{hostile}: {err:?}");
        assert!(err.to_string().len() < 400 && !err.to_string().contains('\n'), "{err}");
    }
    for absent in [
        "media_backup_20261122_020000".to_owned(),
        "media_backup_20261122_010000.tar".to_owned(),
        "media/notes.txt".to_owned(),
        "notes.txt".to_owned(),
        "x/y/z".to_owned(),
        format!("{inside}/media/nothing"),
        format!("{inside}/manifests/media/media_backup_20261122_010000.json"),
        "weaviate".to_owned(),
    ] {
        let err = lab.find(None, &absent).await.unwrap_err();
        assert!(matches!(err, CatalogError::NotFound { .. }), "{absent}: {err:?}");
    }
}
