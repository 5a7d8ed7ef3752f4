//! One backup: read, pack, store, prove, and only then let it exist.

use crate::catalog::archive_key;
use crate::component::Component;
use crate::domain::command::Backup;
use crate::domain::id::BackupId;
use crate::domain::manifest::{Manifest, StoredObject, Verified, VerifyLevel};
use crate::domain::report::BackupReport;
use crate::engine::pipeline::{self, Filled};
use crate::engine::{Engine, EngineError, Held, Run, Standing};
use crate::observe::labels::{Operation, RunResult};
use crate::store::{ObjectKey, Upload};
use crate::stream::pack::Packed;
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
        let began = self.clock.now();
        self.metrics.backup_began(name, began.as_second());
        let outcome = tokio::select! {
            outcome = self.backup_alone(order, run) => outcome,
            () = run.cancel.cancelled() => Err(EngineError::Cancelled),
        };
        let took = self.clock.now().duration_since(began).unsigned_abs();
        let result = match &outcome {
            Ok(_) => RunResult::Success,
            Err(EngineError::Cancelled) => RunResult::Cancelled,
            Err(err) => {
                self.metrics.failed(name, err.reason());
                RunResult::Failure
            }
        };
        self.metrics.run_ended(name, Operation::Backup, result, took);
        self.refresh_metrics().await;
        outcome
    }

    async fn backup_alone(&self, order: &Backup, run: &Run) -> Result<BackupReport, EngineError> {
        let component = self.component(order.component)?;
        run.meter.begin("waiting for its turn", 0);
        // A second delivery of a task that is under way waits here too, and then finds its own work done.
        let mut held = self.take(order.component, run).await?;
        let outcome = self.backup_held(component, order, run, &mut held).await;
        held.free().await;
        outcome
    }

    async fn backup_held(
        &self,
        component: &Arc<dyn Component>,
        order: &Backup,
        run: &Run,
        held: &mut Held,
    ) -> Result<BackupReport, EngineError> {
        if let Some(task_id) = &run.task_id
            && let Some(manifest) = self.catalog.by_task(order.component, task_id).await?
        {
            tracing::info!(backup_id = %manifest.backup_id, "this task has made its backup already");
            return Ok(self.report(&manifest, Vec::new()));
        }
        let manifest = self.make(component, order, run, held).await?;
        self.metrics.backed_up(&manifest);
        let pruned = self.prune_after(order.component, held).await;
        Ok(self.report(&manifest, pruned))
    }

    async fn make(
        &self,
        component: &Arc<dyn Component>,
        order: &Backup,
        run: &Run,
        held: &mut Held,
    ) -> Result<Manifest, EngineError> {
        let created_at = self.clock.now();
        let backup_id = self.catalog.next_id(order.component, created_at).await?;
        let key = archive_key(&backup_id, self.compression.extension());
        tracing::info!(%backup_id, "backup begins");
        let mut upload = self.store.begin(&key).await?;
        let lost = held.lost();
        let filled = tokio::select! {
            filled = self.fill(component, upload.as_mut(), run) => filled,
            () = lost.cancelled() => Err(EngineError::LockLost { component: order.component }),
        };
        let filled = match filled {
            Ok(filled) => filled,
            Err(err) => {
                upload.abort().await;
                return Err(err);
            }
        };
        held.note(Some(key.as_str()))?;
        upload.commit().await?;
        let made = Made { backup_id, source: component.source(), created_at, key: key.clone(), filled };
        let manifest = self.describe(order, run, made);
        if let Err(err) = self.write_manifest(&manifest, held).await {
            // Without a manifest it is no backup, only a file that would be in the way.
            if self.store.delete(&key).await.is_ok() {
                held.note(None)?;
            }
            return Err(err);
        }
        held.note(None)?;
        tracing::info!(
            backup_id = %manifest.backup_id,
            source_bytes = manifest.facts.source_bytes,
            stored_bytes = manifest.size_bytes(),
            warnings = manifest.facts.warning_count,
            "backup is proven and in place"
        );
        Ok(manifest)
    }

    /// Writes the manifest, unless the component is another worker's by now.
    async fn write_manifest(&self, manifest: &Manifest, held: &Held) -> Result<(), EngineError> {
        match held.standing().await {
            Standing::Ours => {}
            Standing::Lost => return Err(EngineError::LockLost { component: manifest.component }),
            // One backup more harms nobody, one less may.
            Standing::Unknown => {
                tracing::warn!("the broker does not tell whose the component is, the backup counts anyway");
            }
        }
        Ok(self.catalog.write(manifest).await?)
    }

    async fn fill(
        &self,
        component: &Arc<dyn Component>,
        upload: &mut dyn Upload,
        run: &Run,
    ) -> Result<Filled, EngineError> {
        let filled = pipeline::fill(component, self.compression, upload, &run.meter).await?;
        pipeline::prove(component.name(), &filled, upload, &run.meter).await?;
        Ok(filled)
    }

    fn describe(&self, order: &Backup, run: &Run, made: Made) -> Manifest {
        let finished_at = self.clock.now();
        let Packed { bytes, sha256, .. } = made.filled.packed;
        let destination = self.store.destination().to_owned();
        Manifest {
            format: Manifest::FORMAT,
            backup_id: made.backup_id,
            component: order.component,
            source: made.source,
            created_at: made.created_at,
            finished_at,
            set_id: order.set_id.clone(),
            label: order.label.clone(),
            pinned: order.pin,
            task_id: run.task_id.clone(),
            host: self.host.clone(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            compression: self.compression.to_string(),
            encryption: None,
            objects: vec![StoredObject { destination, key: made.key.to_string(), bytes, sha256 }],
            verified: Verified { level: VerifyLevel::Decode, at: Some(finished_at) },
            facts: made.filled.facts,
        }
    }

    fn report(&self, manifest: &Manifest, pruned: Vec<BackupId>) -> BackupReport {
        let key = manifest.objects.first().and_then(|object| object.key.parse().ok());
        let path = key.map_or(String::new(), |key| self.store.location(&key));
        BackupReport::new(manifest, path, pruned)
    }
}

/// A proven archive in its place, about to become a backup.
struct Made {
    backup_id: BackupId,
    source: String,
    created_at: Timestamp,
    key: ObjectKey,
    filled: Filled,
}
