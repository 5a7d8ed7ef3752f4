//! The catalogue: which backups there are, told by the manifests in the stores.
//!
//! A backup exists when its manifest does. It is written last and deleted first, so a listing never
//! shows half a backup. Files that are not ours are never touched.

mod change;
mod document;
mod entry;
mod error;
mod latest;
mod listing;
pub mod mirror;
mod reference;
mod removal;
mod survey;
mod unreachable_log;

use crate::base::chain;
use crate::domain::{component::ComponentName, id::BackupId, listing::BackupState};
use crate::store::{ObjectKey, ObjectMeta, Store, StoreError};
use document::{Cache, Document, ManifestFault};
use entry::{ObjectCheck, ObjectState, legacy};
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use latest::Purpose;
use reference::ResolvedReference;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use unreachable_log::UnreachableLog;

pub use document::{archive_key, folders, manifest_key};
pub use entry::{Entry, Origin, StoredCopy};
pub use error::CatalogError;
pub use latest::{Choice, newest};
pub use listing::{Damaged, Listing, UnreachableStore};
pub use removal::{PendingRemoval, RemovalOutcome};
pub use survey::DestinationSummary;

/// Manifests read at once, for stores that are far away.
const READ_AT_ONCE: usize = 16;

/// All backups in all destinations.
#[derive(Debug)]
pub struct Catalog {
    stores: Vec<Arc<dyn Store>>,
    cache: Cache,
    unreachable_log: UnreachableLog,
}

/// The contents of one store, for some components.
struct StoreContents {
    documents: BTreeMap<BackupId, Arc<Document>>,
    damaged: Vec<Damaged>,
    objects: BTreeMap<ObjectKey, u64>,
    /// The ids that are in use there.
    taken: BTreeSet<BackupId>,
}

impl Catalog {
    /// The catalogue of these stores, the nearest first: where several know the same backup, the later word is
    /// believed, and of equals the nearest.
    pub fn new(stores: Vec<Arc<dyn Store>>) -> Self {
        Self { stores, cache: Cache::default(), unreachable_log: UnreachableLog::default() }
    }

    /// The stores, the nearest first.
    pub fn stores(&self) -> &[Arc<dyn Store>] {
        &self.stores
    }

    /// The store of a destination, when it is configured.
    pub fn store(&self, destination: &str) -> Option<&Arc<dyn Store>> {
        self.stores.iter().find(|store| store.destination() == destination)
    }

    /// A destination has answered a question that was asked elsewhere: it is asked again.
    pub fn answers(&self, destination: &'static str) {
        self.unreachable_log.note(destination, None);
    }

    /// Every backup, or those of one component. A destination that is away keeps nobody from what lies in
    /// the others.
    ///
    /// # Errors
    ///
    /// [`CatalogError::Store`] when no store can be listed.
    pub async fn list(&self, component: Option<ComponentName>) -> Result<Listing, CatalogError> {
        let names: Vec<_> = component.map_or_else(|| ComponentName::all().collect(), |one| vec![one]);
        let mut listing = self.list_all(&names).await?;
        entry::judge_chains(&mut listing.entries);
        let newest_first = |entry: &Entry| {
            // A manifest that was made from an archive knows the second alone; the id tells the order within it.
            std::cmp::Reverse((entry.created_at.as_second(), entry.backup_id.clone()))
        };
        listing.entries.sort_by_cached_key(newest_first);
        Ok(listing)
    }

    /// The backup that `reference` names: an id, a file name, `latest`, a component for its latest,
    /// or the location of an archive inside a store. With `component`, only of that one.
    ///
    /// A path may also lead to any other file in a destination: what somebody has made by hand. Nothing is
    /// known of it, and it stands in no listing.
    ///
    /// The latest may be flagged as suspiciously small: it is the one that people look at and accept.
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
        Ok(self.look_up(component, reference, Purpose::Show).await?.entry)
    }

    /// Finds the backup for a restore: the latest is none that is flagged as suspiciously small.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find), and [`CatalogError::NotFound`] when each backup is flagged.
    pub async fn choose(&self, component: ComponentName, reference: &str) -> Result<Choice, CatalogError> {
        self.look_up(Some(component), reference, Purpose::Restore).await
    }

    async fn look_up(
        &self,
        component: Option<ComponentName>,
        reference: &str,
        purpose: Purpose,
    ) -> Result<Choice, CatalogError> {
        let resolved = ResolvedReference::parse(reference, component, &self.stores)?;
        let listing = self.list(resolved.component().or(component)).await?;
        let (unreachable, count) = (listing.unreachable.into_iter().next(), listing.entries.len());
        let newest = listing.entries.first().map(|entry| entry.passed_over(purpose, Timestamp::now()));
        let is_latest = matches!(resolved, ResolvedReference::Latest(_));
        let choice = if is_latest {
            latest::choose(reference, purpose, &listing.entries, &listing.damaged)
        } else {
            Ok(resolved.pick(listing.entries).map(Choice::named))
        };
        let (choice, unreachable) = match (choice, unreachable) {
            // A better one may lie there.
            (Err(_), Some(unreachable)) => return Err(unreachable.source),
            (choice, unreachable) => (choice?, unreachable),
        };
        if let Some(choice) = choice {
            if let Some(unreachable) = unreachable.filter(|_| is_latest) {
                tracing::warn!(
                    why = chain(&unreachable),
                    "the latest backup of those that can be read may not be the latest"
                );
            }
            return Ok(choice);
        }
        self.refuse_links(reference, &resolved).await?;
        let found = match (component, &resolved, newest) {
            (Some(component), ResolvedReference::Object(destination, key), _) => {
                self.foreign_file(component, destination, key, reference).await
            }
            (_, ResolvedReference::Latest(_), Some(newest)) => {
                Err(CatalogError::none_whole(reference, count, &newest))
            }
            _ => Err(CatalogError::not_found(reference)),
        };
        match (found, unreachable) {
            // The backup may be in the destination that could not be read.
            (Err(CatalogError::NotFound { .. }), Some(unreachable)) => Err(unreachable.source),
            (found, _) => found.map(Choice::named),
        }
    }

    /// A file that no listing shows, unless it is a backup of another component.
    async fn foreign_file(
        &self,
        component: ComponentName,
        destination: &str,
        key: &ObjectKey,
        reference: &str,
    ) -> Result<Entry, CatalogError> {
        let not_found = || CatalogError::not_found(reference);
        let store = self.store(destination).ok_or_else(not_found)?;
        let found = store.head(key).await.map_err(|_| not_found())?;
        let is_it = |copy: &StoredCopy| copy.destination == destination && copy.key == *key;
        let entries = self.list(None).await?.entries;
        match entries.iter().find(|entry| entry.copies.iter().any(is_it)) {
            Some(other) => {
                let of = other.component();
                Err(CatalogError::refused(reference, format!("is a backup of {of}, not of {component}")))
            }
            None => Ok(legacy::foreign_file(component, store.as_ref(), found)),
        }
    }

    /// Asks a store, unless it did not answer a moment ago. A store that does not answer is noted in `unreachable`; an error
    /// when there is no other store.
    async fn ask<T>(
        &self,
        store: &Arc<dyn Store>,
        question: impl Future<Output = Result<T, CatalogError>>,
        unreachable: &mut Vec<UnreachableStore>,
    ) -> Result<Option<T>, CatalogError> {
        let destination = store.destination();
        let answer =
            if let Some(source) = self.unreachable_log.of(destination).filter(|_| self.stores.len() > 1) {
                Err(source)
            } else {
                let answer = question.await;
                self.unreachable_log.note(destination, answer.as_ref().err());
                answer
            };
        match answer {
            Ok(found) => Ok(Some(found)),
            Err(source) if unreachable.len() + 1 == self.stores.len() => Err(source),
            Err(source) => {
                unreachable.push(UnreachableStore { destination, source });
                Ok(None)
            }
        }
    }

    async fn list_all(&self, names: &[ComponentName]) -> Result<Listing, CatalogError> {
        let (mut listing, mut all_contents) = (Listing::default(), Vec::new());
        for store in &self.stores {
            let contents = self.contents(store, names);
            if let Some(contents) = self.ask(store, contents, &mut listing.unreachable).await? {
                all_contents.push((store, contents));
            }
        }
        let mut documents = BTreeMap::new();
        let (mut known, mut told) = (BTreeSet::new(), BTreeSet::new());
        for (store, contents) in all_contents.iter_mut().rev() {
            told.extend(contents.taken.iter().map(|id| (store.destination(), id.clone())));
            listing.taken.append(&mut contents.taken);
            for (id, document) in std::mem::take(&mut contents.documents) {
                let document = match documents.remove(&id) {
                    Some(farther) => document::merged(&farther, document),
                    None => document,
                };
                documents.insert(id, document);
            }
            for damaged in contents.damaged.drain(..) {
                known.insert(damaged.backup_id.clone());
                listing.damaged.push(damaged);
            }
        }
        let check = |destination: &str, key: &ObjectKey| {
            let Some(store) = self.store(destination) else { return ObjectCheck::default() };
            let contents = all_contents.iter().find(|(of, _)| of.destination() == destination);
            let found = match contents {
                Some((_, contents)) => contents
                    .objects
                    .get(key)
                    .map_or(ObjectState::Missing, |bytes| ObjectState::Present(*bytes)),
                None => ObjectState::Unknown,
            };
            ObjectCheck { location: Some(store.location(key)), found }
        };
        for (id, document) in &documents {
            let mut entry = Entry::new(id, document, check);
            // A destination without any trace of a backup never had the backup: where several machines share a bucket,
            // `local` is a folder of each.
            entry.copies.retain(|copy| {
                let has_read = all_contents.iter().any(|(store, _)| store.destination() == copy.destination);
                let is_told = |told: &(&str, BackupId)| told.0 == copy.destination && told.1 == *id;
                copy.state != BackupState::Missing || !has_read || told.iter().any(is_told)
            });
            listing.entries.push(entry);
        }
        known.extend(documents.into_keys());
        for name in names {
            for (store, contents) in &all_contents {
                let (old, orphans) = legacy::sort(*name, store.as_ref(), &contents.objects, &known);
                listing.entries.extend(old);
                listing.orphans.extend(orphans);
            }
        }
        Ok(listing)
    }

    async fn contents(
        &self,
        store: &Arc<dyn Store>,
        names: &[ComponentName],
    ) -> Result<StoreContents, CatalogError> {
        let mut contents = self.documents(store, names).await?;
        // After the manifests: an archive whose manifest was there is there, or was just deleted.
        for name in names {
            let folder = document::archives_of(*name);
            let found = store.list(&folder).await.map_err(CatalogError::store("list backups"))?;
            contents.taken.extend(found.iter().filter_map(|meta| document::id_in(&folder, &meta.key)));
            contents.objects.extend(found.into_iter().map(|meta| (meta.key, meta.bytes)));
        }
        Ok(contents)
    }

    /// The manifests of some components in one store, listed at once and each read once in its life.
    async fn documents(
        &self,
        store: &Arc<dyn Store>,
        names: &[ComponentName],
    ) -> Result<StoreContents, CatalogError> {
        let folder = match names {
            [name] => document::manifests_of(*name),
            _ => document::manifests(),
        };
        let found = store.list(&folder).await.map_err(CatalogError::store("list manifests"))?;
        let id_of = |key| names.iter().find_map(|name| document::id_in(&document::manifests_of(*name), key));
        // A list of futures rather than a stream of closures: a future that holds the latter over an
        // await is `Send` for some lifetimes only, which nobody can spawn.
        let (mut reads, mut taken) = (Vec::new(), BTreeSet::new());
        for meta in &found {
            let Some(id) = id_of(&meta.key) else { continue };
            taken.insert(id.clone());
            if meta.key == manifest_key(&id) {
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
                    damaged.push(Damaged { backup_id: id, location, source: fault.into() });
                }
            }
        }
        self.cache.keep_only(store.destination(), &folder, &found);
        Ok(StoreContents { documents, damaged, objects: BTreeMap::new(), taken })
    }

    async fn read(
        &self,
        store: &Arc<dyn Store>,
        id: &BackupId,
        meta: &ObjectMeta,
    ) -> Result<Option<Arc<Document>>, ManifestFault> {
        if let Some(cached) = self.cache.get(store.destination(), meta) {
            return cached.map(Some);
        }
        let Some(bytes) = document::read(store.as_ref(), meta).await? else { return Ok(None) };
        let document = document::parse(id, &bytes).map(Arc::new);
        self.cache.insert(store.destination(), meta, document.clone());
        document.map(Some)
    }

    /// A path that names a symbolic link, or something below one, is refused and not just absent.
    async fn refuse_links(&self, reference: &str, resolved: &ResolvedReference) -> Result<(), CatalogError> {
        let ResolvedReference::Object(destination, key) = resolved else { return Ok(()) };
        let Some(store) = self.store(destination) else { return Ok(()) };
        match store.head(key).await {
            Err(err @ StoreError::Denied { .. }) => {
                Err(CatalogError::refused_because(reference, "cannot be followed", err))
            }
            _ => Ok(()),
        }
    }
}
