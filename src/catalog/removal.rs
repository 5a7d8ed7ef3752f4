//! Deleting backups, many at once: what is known of them first, then the archives, and back into the
//! catalogue what a destination did not let go.

use crate::catalog::{Catalog, CatalogError, Entry, manifest_key};
use crate::domain::manifest::Manifest;
use crate::store::{ObjectKey, Store, StoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A backup that is to go from some destinations. With its last copy it is gone.
#[derive(Debug, Clone)]
pub struct PendingRemoval<'a> {
    /// The backup.
    pub entry: &'a Entry,
    /// The destinations that the copies go from.
    pub from: Vec<&'static str>,
}

/// The outcome of the removal of a backup.
#[derive(Debug, Default)]
pub struct RemovalOutcome {
    /// Destinations that the backup is gone from.
    pub from: Vec<&'static str>,
    /// Destinations that refused, each with the reason. The backup stays in the catalogue with the copies that are
    /// there.
    pub refused: Vec<(&'static str, CatalogError)>,
    /// Any other failure. The progress before it is not known: archives may be left without a manifest, which a
    /// listing shows among the orphans.
    pub failed: Option<CatalogError>,
}

impl RemovalOutcome {
    /// Succeeds if the backup is gone from all destinations that it was to go from.
    ///
    /// # Errors
    ///
    /// The failure, or else the first refusal.
    pub fn done(self) -> Result<(), CatalogError> {
        let refused = self.refused.into_iter().map(|(_, err)| err).next();
        self.failed.or(refused).map_or(Ok(()), Err)
    }

    fn note(&mut self, destination: &'static str, op: &'static str, source: StoreError) {
        let refused = source.is_refusal();
        let err = CatalogError::Store { op, source };
        if refused {
            self.refused.push((destination, err));
        } else {
            self.failed.get_or_insert(err);
        }
    }

    fn has_refused(&self, destination: &str) -> bool {
        self.refused.iter().any(|(by, _)| *by == destination)
    }
}

/// One backup of a batch.
struct Removal<'a> {
    pending: &'a PendingRemoval<'a>,
    manifest: &'a Manifest,
    /// The manifest of the copies that stay, if any does.
    left: Option<Manifest>,
    outcome: RemovalOutcome,
    /// Destinations whose manifest has changed.
    changed: BTreeSet<&'static str>,
}

impl<'a> Removal<'a> {
    fn goes_from(&self, destination: &str) -> bool {
        self.pending.from.contains(&destination)
    }

    /// True if a destination loses the backup's manifest and archives: with the last copy of all, every destination
    /// does, since a copy may be there that no manifest knows of.
    fn clears(&self, destination: &str) -> bool {
        self.left.is_none() || self.goes_from(destination)
    }

    /// Keys of the archive that are to go from a destination. All of them, when nothing stays: a copy may have
    /// arrived that could not be noted any more, and nobody would ever look for it again.
    fn keys(&self, destination: &str) -> BTreeSet<&'a ObjectKey> {
        let copies = self.pending.entry.copies.iter();
        copies
            .filter(|copy| self.left.is_none() || copy.destination == destination)
            .map(|copy| &copy.key)
            .collect()
    }

    /// The manifest of the copies that are there when all is done.
    fn kept(&self) -> Manifest {
        let mut kept = self.manifest.clone();
        kept.objects.retain(|object| {
            let destination = object.destination.as_str();
            let stays = self.left.as_ref().is_some_and(|left| left.objects.contains(object));
            stays || self.outcome.has_refused(destination)
        });
        kept
    }
}

impl Catalog {
    /// Deletes the copies of a backup in some destinations: what is known of them first, then the archives.
    /// With its last copy the backup is gone. Deleting it again is done already.
    ///
    /// # Errors
    ///
    /// [`CatalogError::Protected`] when it is not ours to delete: a file of the app's old tasks, or
    /// of a newer version. [`CatalogError::Store`]; an archive may be left without a manifest then,
    /// which a listing shows among the orphans.
    pub async fn delete_copies(&self, entry: &Entry, from: Vec<&'static str>) -> Result<(), CatalogError> {
        let mut outcomes = self.delete_all(&[PendingRemoval { entry, from }]).await;
        outcomes.pop().unwrap_or_default().done()
    }

    /// Deletes copies of many backups, and tells of each what became of it: all their manifests first, the
    /// farthest first, then all their archives. What a destination refuses to delete, such as a locked object,
    /// is put back into the catalogue.
    pub async fn delete_all(&self, batch: &[PendingRemoval<'_>]) -> Vec<RemovalOutcome> {
        let mut removals = Vec::new();
        let mut outcomes: Vec<_> = batch.iter().map(|_| RemovalOutcome::default()).collect();
        for (n, pending) in batch.iter().enumerate() {
            match self.begin(pending) {
                Ok(removal) => removals.push((n, removal)),
                Err(err) => outcomes[n].failed = Some(err),
            }
        }
        let mut work: Vec<_> = removals.iter_mut().map(|(_, removal)| removal).collect();
        for removal in &mut work {
            self.write_left(removal).await;
        }
        // As long as one destination does not say whether a manifest is gone, its archives stay.
        for store in self.stores.iter().rev() {
            self.delete_manifests(store, &mut work).await;
        }
        work.retain(|removal| removal.outcome.failed.is_none());
        for store in self.stores.iter().rev() {
            delete_archives(store, &mut work).await;
        }
        for removal in work {
            self.put_back(removal).await;
        }
        for (n, removal) in removals {
            outcomes[n] = removal.end();
        }
        outcomes
    }

    fn begin<'a>(&self, pending: &'a PendingRemoval<'a>) -> Result<Removal<'a>, CatalogError> {
        let entry = pending.entry;
        let Some(manifest) = entry.manifest() else {
            let why = entry.protected().unwrap_or_default();
            return Err(CatalogError::Protected { id: entry.backup_id.clone(), why });
        };
        let mut left = manifest.clone();
        // A copy in a destination that is not configured here is for machines where it is. A copy that this listing
        // does not show is not written down here.
        left.objects.retain(|object| {
            let destination = object.destination.as_str();
            let is_here = entry.copies.iter().any(|copy| copy.destination == destination);
            is_here && !pending.from.contains(&destination) && self.store(destination).is_some()
        });
        let left = Some(left).filter(|left| !left.objects.is_empty());
        Ok(Removal { pending, manifest, left, outcome: RemovalOutcome::default(), changed: BTreeSet::new() })
    }

    /// Writes the manifest of the copies that stay, where any does.
    async fn write_left(&self, removal: &mut Removal<'_>) {
        let Some(left) = &removal.left else { return };
        let destinations = self.stores.iter().map(|store| store.destination());
        let holds = |destination: &&str| left.objects.iter().any(|object| object.destination == *destination);
        removal.changed.extend(destinations.filter(holds));
        removal.outcome.failed = self.write(left).await.err();
    }

    async fn delete_manifests(&self, store: &Arc<dyn Store>, removals: &mut [&mut Removal<'_>]) {
        let destination = store.destination();
        let mut of_key = BTreeMap::new();
        for (n, removal) in removals.iter_mut().enumerate() {
            if removal.outcome.failed.is_none() && removal.clears(destination) {
                removal.changed.insert(destination);
                of_key.insert(manifest_key(&removal.pending.entry.backup_id), n);
            }
        }
        let keys: Vec<_> = of_key.keys().cloned().collect();
        for (key, err) in store.delete_all(&keys).await {
            if let Some(n) = of_key.get(&key) {
                removals[*n].changed.remove(destination);
                removals[*n].outcome.note(destination, "delete manifest", err);
            }
        }
        for key in &keys {
            self.cache.forget(destination, key);
        }
    }

    /// Writes the manifest of the remaining copies again, after a refusal.
    async fn put_back(&self, removal: &mut Removal<'_>) {
        let kept = removal.kept();
        if removal.outcome.refused.is_empty() || kept.objects.is_empty() {
            return;
        }
        let mut failed = None;
        for store in self.stores.iter().rev() {
            let destination = store.destination();
            let is_right = kept == *removal.manifest && !removal.changed.contains(destination);
            let holds = kept.objects.iter().any(|object| object.destination == destination);
            if holds && !is_right {
                failed = self.write_into(store.as_ref(), &kept).await.err().or(failed);
            }
        }
        if failed.is_none() {
            return;
        }
        // If a destination with a copy takes no manifest either, the nearest store that takes one keeps it and is
        // believed.
        for store in &self.stores {
            if self.write_into(store.as_ref(), &kept).await.is_ok() {
                return;
            }
        }
        removal.outcome.failed = failed;
    }
}

impl Removal<'_> {
    fn end(self) -> RemovalOutcome {
        let mut outcome = self.outcome;
        if outcome.failed.is_none() {
            let from = self.pending.from.iter().copied();
            outcome.from = from.filter(|destination| !outcome.has_refused(destination)).collect();
        }
        outcome
    }
}

async fn delete_archives(store: &Arc<dyn Store>, removals: &mut [&mut Removal<'_>]) {
    let destination = store.destination();
    let mut of_key = BTreeMap::new();
    for (n, removal) in removals.iter().enumerate() {
        if removal.clears(destination) && !removal.outcome.has_refused(destination) {
            of_key.extend(removal.keys(destination).into_iter().map(|key| (key.clone(), n)));
        }
    }
    let keys: Vec<_> = of_key.keys().cloned().collect();
    for (key, err) in store.delete_all(&keys).await {
        if let Some(n) = of_key.get(&key) {
            removals[*n].outcome.note(destination, "delete archive", err);
        }
    }
}
