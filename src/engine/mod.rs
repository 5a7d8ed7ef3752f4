//! Floor 3: backup and retention, the same for every front door.
//!
//! The engine introduces components to stores: it knows both, they know nothing of each other,
//! and it knows nothing of Celery.

mod backup;
mod error;
mod fleet;
mod listing;
mod locks;
mod pipeline;
mod prune;

pub use error::EngineError;
pub use fleet::{Fleet, FleetError, FleetHold, FleetTake, Standing};
pub use locks::{Held, Locks, Owner};
pub use prune::PruneRequest;

use crate::base::clock::Clock;
use crate::catalog::{Catalog, Entry};
use crate::component::Component;
use crate::domain::component::ComponentName;
use crate::domain::listing::BackupState;
use crate::domain::progress::Meter;
use crate::domain::retention::Policy;
use crate::observe::metrics::Metrics;
use crate::store::{ObjectKey, Store};
use crate::stream::pack::Compression;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Everything a run works with.
#[derive(Debug)]
pub struct Engine {
    /// The configured components.
    pub components: Vec<Arc<dyn Component>>,
    /// Components that have settings but that this version cannot back up yet.
    pub not_yet: Vec<ComponentName>,
    /// Components that have settings but that `BACKUP_COMPONENTS` does not name.
    pub left_out: Vec<ComponentName>,
    /// Where archives and manifests go.
    pub store: Arc<dyn Store>,
    /// What there is.
    pub catalog: Catalog,
    /// Who works on what, on this machine and in the fleet.
    pub locks: Locks,
    /// How archives are compressed.
    pub compression: Compression,
    /// What retention keeps.
    pub policy: Policy,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Metrics,
    /// Host name, for manifests and locks.
    pub host: String,
}

/// One run: who ordered it, how it shows its progress, how it is stopped.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// The Celery task, so that a repeated delivery finds its own work.
    pub task_id: Option<String>,
    /// Shows how far it is.
    pub meter: Meter,
    /// Stops it: children are killed, partial files removed.
    pub cancel: CancellationToken,
    /// Whether to wait for a component that another run has.
    pub wait: bool,
}

impl Engine {
    /// The configured components, in the order of a full backup.
    pub fn configured(&self) -> Vec<ComponentName> {
        let has = |name: &ComponentName| self.components.iter().any(|component| component.name() == *name);
        ComponentName::ALL.into_iter().filter(|name| has(name) || self.not_yet.contains(name)).collect()
    }

    fn component(&self, name: ComponentName) -> Result<&Arc<dyn Component>, EngineError> {
        let found = self.components.iter().find(|component| component.name() == name);
        match found {
            Some(component) => Ok(component),
            None if self.not_yet.contains(&name) => Err(EngineError::NotYet { component: name }),
            None if self.left_out.contains(&name) => Err(EngineError::LeftOut { component: name }),
            None => Err(EngineError::NotConfigured { component: name }),
        }
    }

    /// Takes a component for one run, and removes what a run that died on it left half done.
    async fn take(&self, component: ComponentName, run: &Run) -> Result<Held, EngineError> {
        let wait = run.wait.then_some(&run.meter);
        let mut held = self.locks.take(component, &self.owner(run), wait, &*self.clock).await?;
        let Some(left) = held.left_behind() else { return Ok(held) };
        if let Ok(key) = left.parse::<ObjectKey>()
            && !self.is_in_catalogue(component, &key).await?
        {
            tracing::warn!(archive = left, "removing an archive without a manifest that a dead run left");
            self.store.delete(&key).await?;
        }
        held.note(None)?;
        Ok(held)
    }

    async fn is_in_catalogue(&self, component: ComponentName, key: &ObjectKey) -> Result<bool, EngineError> {
        let entries = self.catalog.list(Some(component)).await?.entries;
        Ok(entries.iter().any(|entry| entry.copies.iter().any(|copy| copy.key == *key)))
    }

    fn owner(&self, run: &Run) -> Owner {
        Owner { pid: std::process::id(), host: self.host.clone(), task_id: run.task_id.clone(), loose: None }
    }

    /// Brings the gauges that come from the catalogue up to date: at start, and after each run.
    pub async fn refresh_metrics(&self) {
        let destination = self.store.destination();
        let free = self.store.free_bytes().await;
        let entries = match self.catalog.list(None).await {
            Ok(found) => found.entries,
            Err(err) => {
                tracing::warn!(error = %crate::base::chain(&err), "the catalogue cannot be read");
                return self.metrics.destination(destination, false, None);
            }
        };
        self.metrics.destination(destination, free.is_ok(), free.ok().flatten());
        for name in ComponentName::ALL {
            let of_this = || entries.iter().filter(move |entry| entry.component() == name);
            for state in CATALOGUE_STATES {
                let count = of_this().filter(|entry| catalogue_state(entry) == state).count();
                self.metrics.catalogue(name, destination, state, count);
            }
            let newest = of_this().filter_map(Entry::manifest).find(|manifest| manifest.is_verified());
            if let Some(manifest) = newest {
                self.metrics.newest(manifest);
            }
        }
    }
}

/// How the catalogue's backups are counted.
const CATALOGUE_STATES: [&str; 4] = ["verified", "unverified", "failed", "missing"];

fn catalogue_state(entry: &Entry) -> &'static str {
    match entry.state() {
        BackupState::Ok if entry.is_verified() => "verified",
        BackupState::Ok => "unverified",
        BackupState::Failed => "failed",
        BackupState::Missing => "missing",
    }
}
