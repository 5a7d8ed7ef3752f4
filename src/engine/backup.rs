//! One backup: read, pack, store, prove, and only then let it exist.

use crate::base::chain;
use crate::catalog::{Entry, Listing, archive_key, manifest_key};
use crate::component::Component;
use crate::domain::anomaly::Anomaly;
use crate::domain::command::Backup;
use crate::domain::id::BackupId;
use crate::domain::labels::{Operation, Reason};
use crate::domain::listing::BackupState;
use crate::domain::manifest::{Manifest, Verified, VerifyLevel};
use crate::domain::report::BackupReport;
use crate::engine::copies::{location_in, noted, stored_object};
use crate::engine::last::Attempt;
use crate::engine::pipeline::{self, Filled};
use crate::engine::restore::{recover, tell_unrecovered};
use crate::engine::uploads::{ArchiveHashes, ArchiveUploads};
use crate::engine::{ComponentLock, Engine, EngineError, Run};
use crate::store::{ObjectKey, Store, StoreError};
use crate::stream::crypt::Recipients;
use jiff::Timestamp;
use std::sync::Arc;

impl Engine {
    /// Backs up one component, or answers from the manifest if this very task has done so already.
    ///
    /// The archive is written under a name that nobody lists, decoded and counted on the way, read
    /// back and hashed; then it gets its name, then its manifest. What fails before that leaves
    /// nothing. Retention runs after it; its problems are logged and never fail the backup.
    ///
    /// # Errors
    ///
    /// [`EngineError::is_transient`] tells whether another attempt makes sense. After any error
    /// the backup does not exist.
    pub async fn backup(&self, order: &Backup, run: &Run) -> Result<BackupReport, EngineError> {
        let name = order.component;
        let work = async {
            let component = self.component(name)?;
            // A second delivery of a task that is under way waits here too, and then finds its own work done.
            self.locked(name, run, async |held| self.backup_held(component, order, run, held).await).await
        };
        // The future is large, for all the buffers that it holds.
        let work = Box::pin(work);
        let remembered = async {
            let began = self.clock.now();
            self.observer.backup_began(name, began.as_second());
            let outcome = tokio::select! {
                outcome = work => outcome,
                () = run.cancel.cancelled() => Err(EngineError::Cancelled),
            };
            if !matches!(outcome, Err(EngineError::Cancelled)) {
                let attempt = Attempt { began, ended: self.clock.now(), ok: outcome.is_ok() };
                self.remember(name, |last| last.attempt = Some(attempt)).await;
            }
            if outcome.as_ref().is_err_and(|err| err.reason() == Reason::Store) {
                self.observer.doubt_destinations();
            }
            outcome
        };
        self.recorded(Operation::Backup, name, run, |_| Vec::new(), remembered).await
    }

    async fn backup_held(
        &self,
        component: &Component,
        order: &Backup,
        run: &Run,
        held: &mut ComponentLock,
    ) -> Result<BackupReport, EngineError> {
        let listing = self.catalog.list(Some(order.component)).await?;
        if let Some(manifest) = run.task_id.as_deref().and_then(|task_id| listing.by_task(task_id)) {
            tracing::info!(backup_id = %manifest.backup_id, "this task has made its backup already");
            let entry = listing.entries.iter().find(|entry| entry.backup_id == manifest.backup_id);
            let copies = entry.map_or(&[][..], |entry| &entry.copies);
            let is_here = |destination: &str| copies.iter().any(|copy| copy.destination == destination);
            // Another machine may have made it, in a folder of its own.
            let elsewhere: Vec<_> =
                manifest.objects.iter().filter(|object| !is_here(&object.destination)).cloned().collect();
            let mut manifest = self.complete(manifest.clone(), run, held).await?;
            manifest.objects.retain(|object| !elsewhere.contains(object));
            return Ok(self.report(&manifest, Vec::new()));
        }
        if let Err(err) = recover(component).await {
            // A backup of the present data is better than none.
            tell_unrecovered(&err);
        }
        let (manifest, failed) = self.make(component, order, listing, run, held).await?;
        self.observer.backed_up(&manifest);
        let manifest = self.clean_up_local(manifest, held).await?;
        let pruned = self.prune_superseded(component, &manifest, held).await;
        match failed {
            Some((destination, err)) => Err(self.incomplete(&manifest, destination, err)),
            None => Ok(self.report(&manifest, pruned)),
        }
    }

    /// Deletes the undo data and the backups that a new backup supersedes. Returns the deleted backups. An error is a
    /// warning, and no reason for the backup to fail.
    async fn prune_superseded(
        &self,
        component: &Component,
        manifest: &Manifest,
        held: &mut ComponentLock,
    ) -> Vec<BackupId> {
        if let Err(err) = held.confirm().await {
            // Another worker may be restoring at this moment.
            tracing::warn!(error = %chain(&err), "nothing old is deleted after this backup, only after the next one");
            return Vec::new();
        }
        // After a sudden loss of data, somebody may need the old data that a restore has set aside.
        if manifest.is_suspect() {
            tracing::warn!(
                "what a restore may have set aside is kept until the backup is accepted and another made"
            );
        } else if let Err(err) = self.delete_undo_data(component).await {
            tracing::warn!(error = %chain(&err), "cannot remove what an earlier restore set aside");
        }
        self.prune_after(manifest.component, held).await
    }

    async fn make(
        &self,
        component: &Component,
        order: &Backup,
        before: Listing,
        run: &Run,
        held: &mut ComponentLock,
    ) -> Result<(Manifest, Failed), EngineError> {
        let created_at = self.clock.now();
        let backup_id = before.next_id(order.component, created_at);
        let key = archive_key(&backup_id, &self.extension());
        let base = self.incremental_base(&backup_id, created_at, &before);
        tracing::info!(%backup_id, "backup begins");
        let manifests = before.entries.iter().filter_map(Entry::manifest);
        let expected = manifests.map(Manifest::size_bytes).max();
        let baseline = baseline_backup(before, created_at);
        // The archive is noted first: should this run die, the next holder of the lock gives up its uploads.
        let places = self.destinations.iter().map(|store| (store.destination(), &key));
        held.note(Some(&noted(places))).await?;
        let mut uploads = ArchiveUploads::begin(&self.destinations, &key, expected).await?;
        let packing = (self.compression, self.encryption.recipients.as_ref());
        let lost = held.lost();
        let filled = tokio::select! {
            filled = pipeline::fill(component, &base, packing, &mut uploads, &run.meter) => filled,
            () = lost.cancelled() => Err(EngineError::LockLost { component: order.component }),
        };
        let filled = match filled.and_then(|filled| filled.agree(order.component).map(|()| filled)) {
            Ok(filled) => filled,
            Err(err) => {
                uploads.abort().await;
                // A stale note is harmless.
                let _ = held.note(None).await;
                return Err(err);
            }
        };
        let archive =
            ProvenArchive { backup_id, source: component.source.address(), created_at, key, filled };
        let mut manifest = self.describe(order, run, &archive);
        manifest.anomaly = baseline.and_then(|before| Anomaly::between(before.manifest()?, &manifest.facts));
        let failed = self.commit(uploads, &archive, &mut manifest, run, held).await?;
        if let Some(incremental) = &component.incremental
            && let Err(err) = incremental.backup_committed(&archive.backup_id).await
        {
            tracing::warn!(error = %chain(&err), "the next backup builds on none of this one");
        }
        if let Some(anomaly) = &manifest.anomaly {
            let (what, against) = (anomaly.what.join("; "), &anomaly.against);
            tracing::warn!(backup_id = %manifest.backup_id, %against, what, "backup is much smaller than before");
        }
        tracing::info!(
            backup_id = %manifest.backup_id,
            source_bytes = manifest.facts.source_bytes,
            stored_bytes = manifest.size_bytes(),
            builds_on = manifest.facts.builds_on.len(),
            warnings = manifest.facts.warning_count,
            "backup is proven and in place"
        );
        Ok((manifest, failed))
    }

    /// Gives the archive its name in every destination, the nearest first. With the first one that is proven the
    /// backup exists; what keeps it from another is returned, with that destination.
    async fn commit(
        &self,
        uploads: ArchiveUploads,
        archive: &ProvenArchive,
        manifest: &mut Manifest,
        run: &Run,
        held: &mut ComponentLock,
    ) -> Result<Failed, EngineError> {
        let (component, key) = (manifest.component, &archive.key);
        let packed = &archive.filled.packed;
        let hashes = ArchiveHashes { bytes: packed.bytes, sha256: &packed.sha256, xxh3: Some(packed.xxh3) };
        // An archive that is on its way is noted until it is settled.
        let mut open: Vec<_> = uploads.0.iter().map(|upload| upload.store.destination()).collect();
        let (mut failed, mut unknown) = (None, Vec::new());
        for upload in uploads.0 {
            let store = Arc::clone(&upload.store);
            let destination = store.destination();
            let is_first = manifest.objects.is_empty();
            let prove = is_first || self.is_proven_by_reading(&store);
            let settled = upload.commit(component, hashes, prove, &run.meter).await;
            let object = stored_object(&store, key, hashes);
            let settled = match settled {
                Ok(()) if is_first => {
                    manifest.objects.push(object);
                    manifest.finished_at = self.clock.now();
                    manifest.verified.at = Some(manifest.finished_at);
                    let written = self.write_manifest(manifest, held).await;
                    if written.is_err() {
                        manifest.objects.clear();
                        if !retracted(&store, archive).await {
                            return written.map(|()| None);
                        }
                    }
                    written
                }
                Ok(()) => self.add_copy(manifest, object, held).await,
                Err(err) => Err(err),
            };
            open.retain(|other| *other != destination);
            let still = noted(open.iter().map(|other| (*other, key)));
            held.note(Some(&*still).filter(|still| !still.is_empty())).await?;
            if let Err(err) = settled {
                if matches!(err, EngineError::Store(StoreError::Unavailable { .. })) {
                    unknown.push(noted([(destination, key)]));
                }
                failed.get_or_insert((destination, err));
            }
        }
        if !unknown.is_empty() {
            // An archive that lies there without being in a manifest is removed by the next holder of the component.
            let left = held.left_behind().map(str::to_owned);
            unknown.extend(left);
            held.leave(&unknown).await?;
        }
        match failed {
            Some((_, err)) if manifest.objects.is_empty() => Err(err),
            failed => Ok(failed),
        }
    }

    /// Writes the manifest, unless the component is another worker's by now.
    async fn write_manifest(&self, manifest: &Manifest, held: &ComponentLock) -> Result<(), EngineError> {
        // A backup too many does no harm, a backup too few may.
        if !held.may_add().await? {
            tracing::warn!("the broker does not tell whose the component is, the backup counts anyway");
        }
        Ok(self.catalog.write(manifest).await?)
    }

    /// The extension of file names, after the extension of the archive itself.
    fn extension(&self) -> String {
        let age = if self.encryption.recipients.is_some() { Recipients::EXTENSION } else { "" };
        format!("{}{age}", self.compression.extension())
    }

    /// The manifest of an archive that lies nowhere yet.
    fn describe(&self, order: &Backup, run: &Run, archive: &ProvenArchive) -> Manifest {
        let finished_at = self.clock.now();
        Manifest {
            format: Manifest::format_of(&archive.filled.facts),
            backup_id: archive.backup_id.clone(),
            component: order.component,
            source: archive.source.clone(),
            created_at: archive.created_at,
            finished_at,
            set_id: order.set_id.clone(),
            label: order.label.clone(),
            pinned: order.pin,
            task_id: run.task_id.clone(),
            host: self.host.clone(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            compression: self.compression.to_string(),
            encryption: self.encryption.recipients.is_some().then(|| Recipients::NAME.to_owned()),
            objects: Vec::new(),
            verified: Verified { level: VerifyLevel::Decode, at: Some(finished_at) },
            anomaly: None,
            facts: archive.filled.facts.clone(),
        }
    }

    fn report(&self, manifest: &Manifest, pruned: Vec<BackupId>) -> BackupReport {
        let path = self.locations(manifest).next().unwrap_or_default();
        let far = self.catalog.stores().iter().find(|store| !store.capabilities().is_local);
        let s3_uri = far.and_then(|store| location_in(store, manifest));
        BackupReport { s3_uri, ..BackupReport::new(manifest, path, pruned) }
    }
}

/// Deletes an archive whose manifest could not be written, and that manifest, which may be stored all the same. Returns
/// `false` if one of the two may be left. An archive without a manifest is no backup, only a file that would be in the
/// way.
async fn retracted(store: &Arc<dyn Store>, archive: &ProvenArchive) -> bool {
    let unlisted = store.delete(&manifest_key(&archive.backup_id)).await;
    unlisted.is_ok() && store.delete(&archive.key).await.is_ok()
}

/// The newest backup that is whole and whose size nobody doubts: what a new one is compared with. A second
/// small one does not make the first one right.
fn baseline_backup(before: Listing, now: Timestamp) -> Option<Entry> {
    let is_trusted = |entry: &Entry| {
        entry.state() == BackupState::Ok
            && !entry.is_ahead(now)
            && entry.manifest().is_some_and(|manifest| manifest.is_verified() && !manifest.is_suspect())
    };
    before.entries.into_iter().find(is_trusted)
}

/// The destination that a backup which exists is not in, and the error.
type Failed = Option<(&'static str, EngineError)>;

/// A proven archive in its place, about to become a backup.
struct ProvenArchive {
    backup_id: BackupId,
    source: String,
    created_at: Timestamp,
    key: ObjectKey,
    filled: Filled,
}
