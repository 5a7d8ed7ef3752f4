//! The archives without a manifest: files of the app's old tasks, and orphans.

use crate::catalog::{
    document,
    entry::{Entry, Origin, StoredCopy},
};
use crate::domain::{
    component::{ComponentName, kinds::LegacyBackup},
    id::BackupId,
    listing::BackupState,
};
use crate::store::{ObjectKey, ObjectMeta, Store};
use std::collections::{BTreeMap, BTreeSet};

/// Splits the objects that no manifest knows into backups of the old tasks and archives of ours.
/// Anything else is foreign, and left out.
pub(in crate::catalog) fn sort(
    component: ComponentName,
    store: &dyn Store,
    objects: &BTreeMap<ObjectKey, u64>,
    known: &BTreeSet<BackupId>,
) -> (Vec<Entry>, Vec<StoredCopy>) {
    let folder = document::archives_of(component);
    let mut old: BTreeMap<ObjectKey, (BackupId, u64)> = BTreeMap::new();
    let mut orphans = Vec::new();
    for (key, bytes) in objects {
        let Some(id) = document::id_in(&folder, key).filter(|id| !known.contains(id)) else { continue };
        if let Some(key) = old_key(component, &folder, key, &id).filter(|_| store.capabilities().is_local) {
            old.entry(key).or_insert((id, 0)).1 += bytes;
        } else if document::is_archive_of(&id, key) {
            orphans.push(copy(store, key.clone(), *bytes));
        }
    }
    let entries = old.into_iter().map(|(key, (backup_id, bytes))| Entry {
        created_at: backup_id.created(),
        backup_id,
        origin: Origin::Legacy,
        copies: vec![copy(store, key, bytes)],
    });
    (entries.collect(), orphans)
}

/// A file of any name, taken for an archive of that component because somebody says so.
pub(in crate::catalog) fn foreign_file(
    component: ComponentName,
    store: &dyn Store,
    meta: ObjectMeta,
) -> Entry {
    Entry {
        backup_id: BackupId::new(component, meta.modified, 1),
        created_at: meta.modified,
        origin: Origin::Legacy,
        copies: vec![copy(store, meta.key, meta.bytes)],
    }
}

fn copy(store: &dyn Store, key: ObjectKey, bytes: u64) -> StoredCopy {
    let (destination, location) = (store.destination().to_owned(), store.location(&key));
    StoredCopy { destination, key, location, bytes, state: BackupState::Ok }
}

/// The key of the old backup that the object belongs to: the file itself, or the folder that a server wrote.
fn old_key(
    component: ComponentName,
    folder: &ObjectKey,
    key: &ObjectKey,
    id: &BackupId,
) -> Option<ObjectKey> {
    let whole = folder.join(id.as_str()).ok()?;
    let rest = key.as_str().strip_prefix(whole.as_str())?;
    match component.kind().legacy? {
        LegacyBackup::File(extension) => (rest == extension).then(|| key.clone()),
        LegacyBackup::Folder => rest.starts_with('/').then_some(whole),
    }
}
