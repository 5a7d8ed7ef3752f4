//! Folders with backups in them, and their catalogue.

use crate::store_contract::{content, key, upload};
use crate::support::faulty::{Faulty, GOOD};
use jiff::{SignedDuration, Timestamp};
use rna_backup::catalog::{Catalog, CatalogError, archive_key};
use rna_backup::domain::{
    component::ComponentName,
    facts::Facts,
    id::BackupId,
    manifest::{Manifest, StoredObject, Verified, VerifyLevel},
};
use rna_backup::store::LocalStore;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::{TempDir, tempdir};

pub fn at(hour: i64) -> Timestamp {
    "2026-11-22T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_hours(hour)
}

/// The manifest of a backup that was made that many hours into 22 November 2026, of 1000 bytes.
pub fn manifest(component: ComponentName, hour: i64, destinations: &[&str]) -> Manifest {
    let backup_id = BackupId::new(component, at(hour), 1);
    let stored = |destination: &&str| StoredObject {
        destination: (*destination).to_owned(),
        key: archive_key(&backup_id, ".zst").to_string(),
        bytes: 1000,
        sha256: "ab".repeat(32),
        problems: Vec::new(),
        found: None,
    };
    Manifest {
        format: 1,
        component,
        source: "lab".to_owned(),
        created_at: at(hour),
        finished_at: at(hour) + SignedDuration::from_secs(5),
        set_id: None,
        label: Some("before the move".to_owned()),
        pinned: false,
        task_id: Some(format!("task-{component}-{hour}")),
        host: "lab".to_owned(),
        program: "0.1.0".to_owned(),
        compression: "zstd:3".to_owned(),
        encryption: None,
        objects: destinations.iter().map(stored).collect(),
        verified: Verified { level: VerifyLevel::Decode, at: Some(at(hour)) },
        anomaly: None,
        facts: Facts { source_bytes: 5000, ..Facts::default() },
        backup_id,
    }
}

/// A catalogue over one folder.
pub struct Lab {
    pub dir: TempDir,
    pub store: Arc<LocalStore>,
    pub catalog: Catalog,
}

impl Lab {
    pub fn new() -> Self {
        let dir = tempdir().unwrap();
        let store = Arc::new(LocalStore::open(dir.path(), 0).unwrap());
        let catalog = Catalog::new(vec![store.clone()]);
        Self { dir, store, catalog }
    }

    pub fn path(&self, inside: &str) -> PathBuf {
        self.dir.path().join(inside)
    }

    /// A file that nobody made through the store.
    pub fn plant(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub async fn backup(&self, component: ComponentName, hour: i64) -> Manifest {
        let manifest = manifest(component, hour, &["local"]);
        self.finish(&manifest).await;
        manifest
    }

    pub async fn finish(&self, manifest: &Manifest) {
        upload(self.store.as_ref(), &key(&manifest.objects[0].key), &content(1000)).await.unwrap();
        self.catalog.write(manifest).await.unwrap();
    }

    pub async fn ids(&self, component: Option<ComponentName>) -> Vec<String> {
        let listing = self.catalog.list(component).await.unwrap();
        assert!(listing.damaged.is_empty(), "{:?}", listing.damaged);
        listing.entries.iter().map(|entry| entry.backup_id.to_string()).collect()
    }

    pub async fn find(
        &self,
        component: Option<ComponentName>,
        reference: &str,
    ) -> Result<String, CatalogError> {
        self.catalog.find(component, reference).await.map(|entry| entry.backup_id.to_string())
    }
}

/// A folder under the name of any destination.
pub fn named(dir: &Path, destination: &'static str) -> Faulty {
    Faulty::new(Arc::new(LocalStore::open(dir, 0).unwrap()), GOOD).named(destination)
}
