//! The catalogue: which backups there are, told by the manifests in the stores.
//!
//! A backup exists when its manifest does. It is written last and deleted first, so a listing never
//! shows half a backup. Files that are not ours are never touched.

mod document;
mod entry;
mod error;
mod reference;

use crate::domain::{component::ComponentName, id::BackupId, listing::BackupState, manifest::Manifest};
use crate::store::{ObjectKey, ObjectMeta, Store, StoreError};
use document::{Cache, Document, Fault};
use entry::incumbent;
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use reference::Wanted;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use document::{archive_key, manifest_key};
pub use entry::{Entry, Origin, StoredCopy};
pub use error::CatalogError;

/// Manifests read at once, for stores that are far away.
const READ_AT_ONCE: usize = 16;

/// All backups in all destinations.
#[derive(Debug)]
pub struct Catalog {
    stores: Vec<Arc<dyn Store>>,
    cache: Cache,
}

/// What a look at the destinations found.
#[derive(Debug, Default)]
pub struct Listing {
    /// The backups, the newest first.
    pub entries: Vec<Entry>,
    /// Manifests that could not be read. They are left alone, and so are their archives.
    pub damaged: Vec<Damaged>,
    /// Archives of ours without a manifest: a run ended between the two steps of writing or
    /// deleting a backup, or is there at this moment.
    pub orphans: Vec<StoredCopy>,
}

/// A manifest that cannot be read. The cause says why.
#[derive(Debug, thiserror::Error)]
#[error("read manifest {location}")]
pub struct Damaged {
    /// Where it is.
    pub location: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// What one store says about one component.
struct Shelf {
    documents: BTreeMap<BackupId, Arc<Document>>,
    damaged: Vec<(BackupId, Damaged)>,
    objects: BTreeMap<ObjectKey, u64>,
}

impl Catalog {
    /// The catalogue of these stores, the nearest first: where several know the same backup, the
    /// nearest is believed.
    pub fn new(stores: Vec<Arc<dyn Store>>) -> Self {
        Self { stores, cache: Cache::default() }
    }

    /// The stores, the nearest first.
    pub fn stores(&self) -> &[Arc<dyn Store>] {
        &self.stores
    }

    /// The store of a destination, when it is configured.
    pub fn store(&self, destination: &str) -> Option<&Arc<dyn Store>> {
        self.stores.iter().find(|store| store.destination() == destination)
    }

    /// Every backup, or those of one component.
    ///
    /// # Errors
    ///
    /// [`CatalogError::Store`] when a store cannot be listed.
    pub async fn list(&self, component: Option<ComponentName>) -> Result<Listing, CatalogError> {
        let mut listing = Listing::default();
        for name in ComponentName::ALL {
            if component.is_none_or(|wanted| wanted == name) {
                self.list_one(name, &mut listing).await?;
            }
        }
        let newest_first = |entry: &Entry| std::cmp::Reverse((entry.created_at, entry.backup_id.clone()));
        listing.entries.sort_by_cached_key(newest_first);
        Ok(listing)
    }

    /// The backup that `reference` names: an id, a file name, `latest`, a component for its latest,
    /// or the location of an archive inside a store. With `component`, only of that one.
    ///
    /// The latest is the newest that is there and verified; failing that, the newest that is there,
    /// the app's old files last.
    ///
    /// # Errors
    ///
    /// [`CatalogError::NotFound`] when there is none, [`CatalogError::Refused`] when the reference
    /// leads elsewhere, or [`CatalogError::Store`].
    pub async fn find(
        &self,
        component: Option<ComponentName>,
        reference: &str,
    ) -> Result<Entry, CatalogError> {
        let wanted = Wanted::parse(reference, component, &self.stores)?;
        let listing = self.list(wanted.component().or(component)).await?;
        if let Some(entry) = wanted.pick(listing.entries) {
            return Ok(entry);
        }
        self.refuse_links(reference, &wanted).await?;
        Err(CatalogError::not_found(reference))
    }

    /// The newest backup of a component that is verified and there.
    ///
    /// # Errors
    ///
    /// [`CatalogError::Store`].
    pub async fn latest_verified(&self, component: ComponentName) -> Result<Option<Entry>, CatalogError> {
        let usable = |entry: &Entry| entry.is_verified() && entry.state() == BackupState::Ok;
        Ok(self.list(Some(component)).await?.entries.into_iter().find(usable))
    }

    /// The manifest of the backup that the task `task_id` made: a message that is delivered again
    /// is answered from it. Quick, for manifests are read once.
    ///
    /// # Errors
    ///
    /// [`CatalogError::Store`].
    pub async fn by_task(
        &self,
        component: ComponentName,
        task_id: &str,
    ) -> Result<Option<Manifest>, CatalogError> {
        for store in &self.stores {
            let (documents, _) = self.documents(store, component).await?;
            let made = |document: &Arc<Document>| {
                document.manifest().filter(|m| m.task_id.as_deref() == Some(task_id)).cloned()
            };
            if let Some(manifest) = documents.values().rev().find_map(made) {
                return Ok(Some(manifest));
            }
        }
        Ok(None)
    }

    /// The first id of that second that nobody has: no manifest, no archive, no folder.
    ///
    /// # Errors
    ///
    /// [`CatalogError::Store`].
    pub async fn next_id(&self, component: ComponentName, now: Timestamp) -> Result<BackupId, CatalogError> {
        let mut taken = BTreeSet::new();
        for store in &self.stores {
            for folder in [document::manifests_of(component), document::archives_of(component)] {
                let found = store.list(&folder).await.map_err(CatalogError::store("list backups"))?;
                taken.extend(found.iter().filter_map(|meta| document::id_in(&folder, &meta.key)));
            }
        }
        let mut ids = (1..).map(|turn| BackupId::new(component, now, turn));
        Ok(ids.find(|id| !taken.contains(id)).expect("there are more numbers than backups"))
    }

    /// Writes a manifest into every store that holds the archive, in place of an earlier one: the
    /// last step of a backup, and how it is pinned or marked as verified later.
    ///
    /// # Errors
    ///
    /// [`CatalogError::Store`]; some stores may have it then.
    /// [`CatalogError::UnknownDestination`] when one of its stores is not configured.
    pub async fn write(&self, manifest: &Manifest) -> Result<(), CatalogError> {
        let key = manifest_key(&manifest.backup_id);
        let bytes = document::print(manifest);
        debug_assert!(document::parse(&manifest.backup_id, &bytes).is_ok(), "it is read as it is written");
        let destinations: BTreeSet<_> = manifest.objects.iter().map(|o| o.destination.as_str()).collect();
        for destination in &destinations {
            if self.store(destination).is_none() {
                let (id, destination) = (manifest.backup_id.clone(), (*destination).to_owned());
                return Err(CatalogError::UnknownDestination { id, destination });
            }
        }
        for store in self.stores.iter().filter(|store| destinations.contains(store.destination())) {
            let done = store.put(&key, bytes.clone()).await;
            self.cache.forget(store.destination(), &key);
            done.map_err(CatalogError::store("write manifest"))?;
        }
        Ok(())
    }

    /// Deletes a backup: its manifests first, then its archives. Deleting it again is done already.
    ///
    /// # Errors
    ///
    /// [`CatalogError::Protected`] when it is not ours to delete: a file of the app's old tasks, or
    /// of a newer version. [`CatalogError::Store`]; an archive may be left without a manifest then,
    /// which a listing shows among the orphans.
    pub async fn delete(&self, entry: &Entry) -> Result<(), CatalogError> {
        if let Some(why) = entry.protected() {
            return Err(CatalogError::Protected { id: entry.backup_id.clone(), why });
        }
        let key = manifest_key(&entry.backup_id);
        for store in &self.stores {
            store.delete(&key).await.map_err(CatalogError::store("delete manifest"))?;
        }
        for copy in &entry.copies {
            if let Some(store) = self.store(&copy.destination) {
                store.delete(&copy.key).await.map_err(CatalogError::store("delete archive"))?;
            }
        }
        Ok(())
    }

    async fn list_one(&self, component: ComponentName, listing: &mut Listing) -> Result<(), CatalogError> {
        let mut shelves = Vec::new();
        for store in &self.stores {
            shelves.push((store, self.shelf(store, component).await?));
        }
        let mut documents = BTreeMap::new();
        let mut known = BTreeSet::new();
        for (_, shelf) in shelves.iter_mut().rev() {
            documents.append(&mut shelf.documents);
            for (id, damaged) in shelf.damaged.drain(..) {
                known.insert(id);
                listing.damaged.push(damaged);
            }
        }
        let look = |destination: &str, key: &ObjectKey| {
            let shelf = shelves.iter().find(|(store, _)| store.destination() == destination);
            shelf.map(|(store, shelf)| (store.location(key), shelf.objects.get(key).copied()))
        };
        for (id, document) in &documents {
            listing.entries.push(Entry::new(id, document, look));
        }
        known.extend(documents.into_keys());
        for (store, shelf) in &shelves {
            let (old, orphans) = incumbent::sort(component, store.as_ref(), &shelf.objects, &known);
            listing.entries.extend(old);
            listing.orphans.extend(orphans);
        }
        Ok(())
    }

    async fn shelf(&self, store: &Arc<dyn Store>, component: ComponentName) -> Result<Shelf, CatalogError> {
        let (documents, damaged) = self.documents(store, component).await?;
        // After the manifests: an archive whose manifest was there is there, or was just deleted.
        let objects = store.list(&document::archives_of(component)).await;
        let objects = objects.map_err(CatalogError::store("list backups"))?;
        let objects = objects.into_iter().map(|meta| (meta.key, meta.bytes)).collect();
        Ok(Shelf { documents, damaged, objects })
    }

    /// The manifests of one component in one store, each read once in its life.
    #[allow(clippy::type_complexity)] // two lists
    async fn documents(
        &self,
        store: &Arc<dyn Store>,
        component: ComponentName,
    ) -> Result<(BTreeMap<BackupId, Arc<Document>>, Vec<(BackupId, Damaged)>), CatalogError> {
        let folder = document::manifests_of(component);
        let found = store.list(&folder).await.map_err(CatalogError::store("list manifests"))?;
        // A list of futures rather than a stream of closures: a future that holds the latter over an
        // await is `Send` for some lifetimes only, which nobody can spawn.
        let mut reads = Vec::new();
        for meta in &found {
            if let Some(id) = document::id_in(&folder, &meta.key).filter(|id| meta.key == manifest_key(id)) {
                reads.push(async move { (self.read(store, &id, meta).await, id) });
            }
        }
        let mut reads = stream::iter(reads).buffered(READ_AT_ONCE);
        let (mut documents, mut damaged) = (BTreeMap::new(), Vec::new());
        while let Some((read, id)) = reads.next().await {
            match read {
                Ok(Some(document)) => drop(documents.insert(id, document)),
                Ok(None) => {} // deleted since
                Err(fault) => {
                    let location = store.location(&manifest_key(&id));
                    damaged.push((id, Damaged { location, source: fault.into() }));
                }
            }
        }
        self.cache.keep_only(store.destination(), &folder, &found);
        Ok((documents, damaged))
    }

    async fn read(
        &self,
        store: &Arc<dyn Store>,
        id: &BackupId,
        meta: &ObjectMeta,
    ) -> Result<Option<Arc<Document>>, Fault> {
        if let Some(cached) = self.cache.get(store.destination(), meta) {
            return cached.map(Some);
        }
        let Some(bytes) = document::read(store.as_ref(), meta).await? else { return Ok(None) };
        let document = document::parse(id, &bytes).map(Arc::new);
        self.cache.insert(store.destination(), meta, document.clone());
        document.map(Some)
    }

    /// A path that names a symbolic link, or something below one, is refused and not just absent.
    async fn refuse_links(&self, reference: &str, wanted: &Wanted) -> Result<(), CatalogError> {
        let Wanted::Object(destination, key) = wanted else { return Ok(()) };
        let Some(store) = self.store(destination) else { return Ok(()) };
        match store.head(key).await {
            Err(err @ StoreError::Denied { .. }) => {
                Err(CatalogError::refused_because(reference, "cannot be followed", err))
            }
            _ => Ok(()),
        }
    }
}
