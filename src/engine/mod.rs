//! Floor 3: backup, verification and retention, the same for worker and command line.
//!
//! The engine introduces components to stores: it knows both, they know nothing of each other,
//! and it knows nothing of Celery.

mod archive;
mod backup;
mod bucket_folder;
mod chain;
mod copies;
mod destinations;
mod drill;
mod error;
mod fleet;
mod inspect;
mod last;
mod listing;
mod lock_state;
mod locks;
mod manifest_update;
mod observer;
mod pipeline;
mod prune;
mod rebuild;
mod record;
mod recovery;
mod redelivery;
mod restore;
mod restore_records;
mod retry_hint;
mod uploads;
mod verify;
mod watched;
mod worker_lost;

pub use bucket_folder::StoreFolder;
pub use destinations::{Changes, Unusable};
pub use error::EngineError;
pub use fleet::{Fleet, FleetError, FleetHold, FleetTake, LockState};
pub use locks::{ComponentLock, LockOwner, Locks};
pub use observer::{RunInProgress, RunObserver};
pub use prune::PruneRequest;
pub use restore::RestoreRequest;
pub use verify::VerifyRequest;

use crate::base::clock::Clock;
use crate::catalog::{Catalog, mirror::Mirror};
use crate::component::Component;
use crate::domain::component::ComponentName;
use crate::domain::progress::Meter;
use crate::domain::retention::Policy;
use crate::store::Store;
use crate::stream::crypt::Encryption;
use crate::stream::pack::Compression;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// The parts that a run works with: components, destinations, catalogue, locks, settings.
#[derive(Debug)]
pub struct Engine {
    /// The configured components.
    pub components: Vec<Arc<dyn Component>>,
    /// Components that have settings but that `BACKUP_COMPONENTS` does not name.
    pub left_out: Vec<ComponentName>,
    /// The stores of archives and manifests, the nearest first; all of them are in the catalogue too.
    pub destinations: Vec<Arc<dyn Store>>,
    /// True if the local copy goes once there is a proven one elsewhere.
    pub cleanup_local: bool,
    /// The catalogue of backups.
    pub catalog: Catalog,
    /// The tables of the catalogue for Django Admin; `None` without a database.
    pub mirror: Option<Mirror>,
    /// The locks of components, on this machine and in the fleet.
    pub locks: Locks,
    /// The compression of archives.
    pub compression: Compression,
    /// The keys that encrypt and open archives.
    pub encryption: Encryption,
    /// The rule of retention.
    pub policy: Policy,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The observer of the runs: the metrics.
    pub observer: Arc<dyn RunObserver>,
    /// The changes in the destinations that metrics and tables do not show yet.
    pub changes: Changes,
    /// Host name, for manifests and locks.
    pub host: String,
}

/// The circumstances of one run: its task, its progress, its cancellation.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// The Celery task, so that a repeated delivery finds its own work.
    pub task_id: Option<String>,
    /// The progress of the run.
    pub meter: Meter,
    /// Cancels the run: children are killed, partial files removed.
    pub cancel: CancellationToken,
    /// True if the run waits for a component that another run has.
    pub wait: bool,
    /// The visibility timeout of the broker that the task came from.
    pub visibility_timeout: Duration,
    /// True if the run only puts right the remains of dead runs: even runs that would not wait for a backup wait for
    /// it.
    pub recovers: bool,
}

impl Engine {
    /// The configured components, in the order of a full backup.
    pub fn configured(&self) -> Vec<ComponentName> {
        let has = |name: &ComponentName| self.components.iter().any(|component| component.name() == *name);
        ComponentName::ALL.into_iter().filter(has).collect()
    }

    fn component(&self, name: ComponentName) -> Result<&Arc<dyn Component>, EngineError> {
        let found = self.components.iter().find(|component| component.name() == name);
        match found {
            Some(component) => Ok(component),
            None if self.left_out.contains(&name) => Err(EngineError::LeftOut { component: name }),
            None => Err(EngineError::NotConfigured { component: name }),
        }
    }

    /// Does work on a component that no other run works on meanwhile, and frees the component whatever comes of it.
    async fn locked<T>(
        &self,
        component: ComponentName,
        run: &Run,
        work: impl AsyncFnOnce(&mut ComponentLock) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let mut held = self.lock(component, run).await?;
        let outcome = work(&mut held).await;
        held.free().await;
        outcome
    }

    /// Takes a component for one run when its turn comes, unless the run is cancelled, and removes the archives without a
    /// manifest that a dead run left.
    async fn lock(&self, component: ComponentName, run: &Run) -> Result<ComponentLock, EngineError> {
        run.meter.begin("waiting for its turn", 0);
        let (owner, wait) = (self.owner(run), run.wait.then_some(&run.meter));
        let take = async {
            let mut held = self.locks.take(component, &owner, wait, &*self.clock).await?;
            if let Some(left) = held.left_behind() {
                let still = self.remove_left(component, left).await?;
                held.leave(&still).await?;
            }
            Ok(held)
        };
        tokio::select! {
            held = take => held,
            () = run.cancel.cancelled() => Err(EngineError::Cancelled),
        }
    }

    fn owner(&self, run: &Run) -> LockOwner {
        LockOwner {
            pid: std::process::id(),
            host: self.host.clone(),
            task_id: run.task_id.clone(),
            recovers: run.recovers,
            loose: None,
        }
    }
}
