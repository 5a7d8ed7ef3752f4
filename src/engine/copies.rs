//! One archive in several destinations: copied to one that failed, and taken away from one again.

use crate::base::chain;
use crate::domain::component::ComponentName;
use crate::domain::id::BackupId;
use crate::domain::manifest::{Manifest, StoredObject};
use crate::engine::archive::CHUNK;
use crate::engine::uploads::{ArchiveHashes, ArchiveUploads};
use crate::engine::{ComponentLock, Engine, EngineError, Run};
use crate::store::{ObjectKey, Store, StoreError};
use bytes::BytesMut;
use futures_util::TryFutureExt as _;
use std::{fmt::Display, sync::Arc};
use tokio::io::AsyncReadExt;

impl Engine {
    /// Copies a backup to every destination that should have it and has not, from a copy that is whole.
    ///
    /// # Errors
    ///
    /// [`EngineError::Copy`] for the first destination that did not take it.
    pub(super) async fn complete(
        &self,
        manifest: Manifest,
        run: &Run,
        held: &mut ComponentLock,
    ) -> Result<Manifest, EngineError> {
        let mut manifest = manifest;
        for store in &self.destinations {
            let destination = store.destination();
            if manifest.objects.iter().any(|object| object.destination == destination) {
                continue;
            }
            // The copy is noted first: should this run die, the next holder of the lock removes what no manifest names.
            if let Some(object) = manifest.objects.first() {
                held.note(Some(&noted([(destination, &object.key)]))).await?;
            }
            let copied = match self.copy_to(store, &manifest, run).await {
                Ok(object) => self.add_copy(&mut manifest, object, held).await,
                Err(err) => Err(err),
            };
            copied.map_err(|source| self.incomplete(&manifest, destination, source))?;
        }
        self.clean_up_local(manifest, held).await
    }

    /// The error of a backup that exists but is missing in a destination: it names a place where the backup is.
    pub(super) fn incomplete(
        &self,
        manifest: &Manifest,
        destination: &str,
        source: EngineError,
    ) -> EngineError {
        EngineError::Copy {
            id: manifest.backup_id.clone(),
            have: self.locations(manifest).next().unwrap_or_default(),
            destination: destination.to_owned(),
            source: Box::new(source),
        }
    }

    /// The paths and URLs of a backup's copies, the nearest first.
    pub(super) fn locations<'a>(&'a self, manifest: &'a Manifest) -> impl Iterator<Item = String> + 'a {
        self.catalog.stores().iter().filter_map(|store| location_in(store, manifest))
    }

    async fn copy_to(
        &self,
        store: &Arc<dyn Store>,
        manifest: &Manifest,
        run: &Run,
    ) -> Result<StoredObject, EngineError> {
        let component = manifest.component;
        let archive = self.archive(component, manifest.backup_id.as_str()).await?;
        let (key, bytes) = (archive.copy.key.clone(), archive.copy.bytes);
        let hashes = ArchiveHashes { bytes, sha256: manifest.sha256(), xxh3: None };
        tracing::info!(backup_id = %manifest.backup_id, destination = store.destination(), "copying a backup");
        run.meter.begin("copy", bytes);
        let mut uploads = ArchiveUploads::begin(std::slice::from_ref(store), &key, Some(bytes)).await?;
        let mut from = archive.reader().await?;
        let copied = async {
            loop {
                let mut chunk = BytesMut::with_capacity(CHUNK);
                let read = from.read_buf(&mut chunk).await;
                match read.map_err(|source| EngineError::Stream { what: "read the archive", source })? {
                    0 => return archive.finish(from).await,
                    read => run.meter.add(read as u64),
                }
                uploads.write(chunk.freeze()).await?;
            }
        };
        if let Err(err) = copied.await {
            uploads.abort().await;
            return Err(err);
        }
        let upload = uploads.0.swap_remove(0);
        match upload.commit(component, hashes, self.is_proven_by_reading(store), &run.meter).await {
            // An earlier attempt got as far as this.
            Err(EngineError::Store(StoreError::Exists { .. })) => {
                let there = store.open(&key, None).await?;
                if let Some(problem) = hashes.problem_of(there, &run.meter).await? {
                    return Err(EngineError::Verify { component, problems: vec![problem] });
                }
            }
            settled => settled?,
        }
        Ok(stored_object(store, &key, hashes))
    }

    /// True if a copy in that store counts only when it was read back. A copy far away is read back when it is to be
    /// the only one: otherwise the hash of each part, which its store has compared by then, is enough.
    pub(super) fn is_proven_by_reading(&self, store: &Arc<dyn Store>) -> bool {
        !store.capabilities().proves_parts || self.cleanup_local || self.destinations.len() == 1
    }

    /// Notes a further copy in a manifest that exists.
    pub(super) async fn add_copy(
        &self,
        manifest: &mut Manifest,
        object: StoredObject,
        held: &mut ComponentLock,
    ) -> Result<(), EngineError> {
        let copy = noted([(&*object.destination, &object.key)]);
        let written = self.write_copy(manifest, object, held).await;
        if matches!(written, Err(EngineError::LockLost { .. })) {
            // Another machine has the component, and no manifest names this copy: the next holder here removes it.
            let left: Vec<_> = held.left_behind().map(str::to_owned).into_iter().chain([copy]).collect();
            held.leave(&left).await?;
        } else {
            held.note(None).await?;
        }
        *manifest = written?;
        Ok(())
    }

    /// Writes the manifest with a further copy. While the broker does not answer, others may have changed the
    /// manifest, so it is read again first; a store where they have deleted the backup is not written.
    async fn write_copy(
        &self,
        manifest: &Manifest,
        object: StoredObject,
        held: &ComponentLock,
    ) -> Result<Manifest, EngineError> {
        let mut manifest = manifest.clone();
        if !held.may_add().await? {
            tracing::warn!("the broker does not tell whose the component is, the copy counts anyway");
            let entry = self.find(manifest.backup_id.as_str(), Some(manifest.component)).await?;
            manifest = entry.manifest().cloned().unwrap_or(manifest);
        }
        manifest.objects.push(object);
        self.catalog.update(&manifest, None).await?;
        Ok(manifest)
    }

    /// With `BACKUP_CLEANUP_LOCAL`, removes the local copy of a backup that is whole elsewhere.
    pub(super) async fn clean_up_local(
        &self,
        mut manifest: Manifest,
        held: &mut ComponentLock,
    ) -> Result<Manifest, EngineError> {
        let mut stores = self.catalog.stores().iter().filter(|store| store.capabilities().is_local);
        let Some(near) = stores.next().map(|store| store.destination()).filter(|_| self.cleanup_local) else {
            return Ok(manifest);
        };
        let (local, others): (Vec<_>, Vec<_>) =
            manifest.objects.iter().cloned().partition(|object| object.destination == near);
        if local.is_empty() || others.is_empty() {
            return Ok(manifest);
        }
        if let Err(err) = held.confirm().await {
            tracing::warn!(error = %chain(&err), "the local copy stays until retention removes it");
            return Ok(manifest);
        }
        let entry = self.find(manifest.backup_id.as_str(), Some(manifest.component)).await?;
        held.note(Some(&noted([(near, &local[0].key)]))).await?;
        self.catalog.delete_copies(&entry, vec![near]).await?;
        held.note(None).await?;
        tracing::info!(backup_id = %manifest.backup_id, "the local copy is removed, the other one is proven");
        manifest.objects = others;
        Ok(manifest)
    }

    /// Removes copies that a dead run has left where no manifest knows them, one a line, and returns those that
    /// are to be looked for again: as long as a destination is away, nobody can tell what is known there.
    pub(super) async fn remove_left(
        &self,
        component: ComponentName,
        left: &str,
    ) -> Result<Vec<String>, EngineError> {
        let listing = self.catalog.list(Some(component)).await?;
        if !listing.unreachable.is_empty() {
            tracing::warn!("what a dead run left stays until every destination can be read");
            return Ok(left.lines().map(str::to_owned).collect());
        }
        // Each destination by itself: a run that died before it changed the manifest here may have changed the one there, and
        // another machine may have said since that the backup is there.
        let surveys = match self.catalog.survey(component).await {
            Ok(surveys) => surveys,
            Err(err) => {
                tracing::warn!(error = %chain(&err), "what a dead run left stays until every destination can be read");
                return Ok(left.lines().map(str::to_owned).collect());
            }
        };
        let known = |destination: &str, key: &ObjectKey| {
            let is_it =
                |object: &StoredObject| object.destination == destination && object.key == key.as_str();
            // If a manifest cannot be read, only its name is known, which is that of its archive too.
            let is_its = |id: &BackupId| key.file_name().starts_with(id.as_str());
            surveys.iter().any(|survey| {
                let mut unread = survey.damaged.iter().map(|damaged| &damaged.backup_id).chain(&survey.newer);
                unread.any(is_its)
                    || survey.manifests.values().any(|manifest| manifest.objects.iter().any(is_it))
            })
        };
        let mut still = Vec::new();
        for line in left.lines() {
            let Some((destination, key)) = line.split_once('/') else { continue };
            let Ok(key) = key.parse::<ObjectKey>() else { continue };
            let Some(store) = self.catalog.store(destination) else {
                still.push(line.to_owned()); // for who has that destination
                continue;
            };
            if known(destination, &key) {
                continue;
            }
            tracing::info!(archive = line, "removing what a run that ended early may have left");
            match store.abort_uploads(&key).and_then(|()| store.delete(&key)).await {
                Ok(()) => {}
                // The archive is listed among the orphans, and keeps nobody from work.
                Err(err) if err.is_refusal() => tracing::warn!(error = chain(&err), "it stays"),
                Err(err) => {
                    tracing::warn!(error = chain(&err), "it is left to the next run");
                    still.push(line.to_owned());
                }
            }
        }
        Ok(still)
    }
}

/// The form in which copies are noted in the lock file: one line for each.
pub(super) fn noted<'a, K: Display>(copies: impl IntoIterator<Item = (&'a str, K)>) -> String {
    let lines: Vec<_> = copies.into_iter().map(|(destination, key)| format!("{destination}/{key}")).collect();
    lines.join("\n")
}

/// A copy as it stands in a manifest.
pub(super) fn stored_object(
    store: &Arc<dyn Store>,
    key: &ObjectKey,
    hashes: ArchiveHashes<'_>,
) -> StoredObject {
    StoredObject {
        destination: store.destination().to_owned(),
        key: key.to_string(),
        bytes: hashes.bytes,
        sha256: hashes.sha256.to_owned(),
        problems: Vec::new(),
        found: None,
    }
}

/// The path or URL of a backup's copy in a store.
pub(super) fn location_in(store: &Arc<dyn Store>, manifest: &Manifest) -> Option<String> {
    let object = manifest.objects.iter().find(|object| object.destination == store.destination())?;
    Some(store.location(&object.key.parse().ok()?))
}
