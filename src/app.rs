//! The composition root: settings become an engine. No logic.

use crate::base::chain;
use crate::base::clock::SystemClock;
use crate::catalog::Catalog;
use crate::catalog::mirror::{self, Mirror};
use crate::celery::CeleryError;
use crate::component::postgres::{self, Excluded, PostgresConfig};
use crate::component::{BucketFolder, Component, Parts};
use crate::config::Config;
use crate::domain::component::ComponentName;
use crate::engine::{Changes, Engine, Locks, StoreFolder};
use crate::observe::metrics::Metrics;
use crate::store::{Capabilities, Observer, OpenError, Request, Store, Usage};
use crate::worker::{Ending, Worker};
use std::{sync::Arc, time::Duration};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The parts that worker and command line work with.
#[derive(Debug)]
pub struct App {
    /// Does the work.
    pub engine: Arc<Engine>,
    /// Counts it.
    pub metrics: Metrics,
    /// The configuration that this app was built from.
    pub config: Config,
}

/// The reason that the app cannot be built from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A destination cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A metric is wrong: a bug.
    #[error("register metrics")]
    Metrics(#[from] prometheus::Error),
}

impl App {
    /// Puts the parts together and opens the destinations; connects to nothing yet.
    ///
    /// # Errors
    ///
    /// [`BuildError::Open`] when the backup folder cannot be made or read.
    pub async fn build(config: Config) -> Result<Self, BuildError> {
        let app = Self::assemble(config).await?;
        app.stores().try_for_each(|store| store.ready())?;
        Ok(app)
    }

    /// Puts the parts together for a worker, which waits for a backup folder that cannot be used: a restart would
    /// not mend it, and nobody would hear why.
    ///
    /// # Errors
    ///
    /// [`BuildError`] of a certificate file that cannot be used.
    pub async fn assemble(config: Config) -> Result<Self, BuildError> {
        let metrics = Metrics::new(env!("CARGO_PKG_VERSION"))?;
        for kind in &config.kinds {
            metrics.start_destination(kind.name, kind.counts_requests);
        }
        let stores = open(&config, &metrics).await?;
        // The backups in a destination are seen also where nothing new goes there.
        let used = config.destinations.iter().map(|destination| destination.usage() != Usage::Reads);
        let destinations = stores.iter().zip(used).filter(|(_, used)| *used);
        let destinations = destinations.map(|(store, _)| Arc::clone(store)).collect();
        let clock = Arc::new(SystemClock);
        let engine = Engine {
            components: components(&config, bucket_folder_in(&stores)),
            left_out: config.left_out(),
            catalog: Catalog::new(stores),
            mirror: mirror(&config),
            destinations,
            cleanup_local: config.cleanup_local(),
            locks: Locks::new(config.root.join(".locks")),
            compression: config.compression,
            encryption: config.encryption.clone(),
            policy: config.policy,
            clock,
            observer: Arc::new(metrics.clone()),
            changes: Changes::default(),
            host: config.host.clone(),
        };
        Ok(Self { engine: Arc::new(engine), metrics, config })
    }
}

impl App {
    /// A worker over the same engine.
    ///
    /// # Errors
    ///
    /// When a certificate file of a `rediss://` URL cannot be read.
    pub fn worker(&self) -> Result<Worker, CeleryError> {
        Worker::new(self.config.worker.clone(), Arc::clone(&self.engine), self.metrics.clone())
    }

    fn stores(&self) -> impl Iterator<Item = &Arc<dyn Store>> {
        self.engine.catalog.stores().iter()
    }

    /// Removes what dead runs have left on this machine: at the start of a backup by hand.
    pub async fn sweep(&self) {
        self.sweep_where(|capabilities| capabilities.is_local).await;
    }

    /// Removes what dead runs have left in every destination: at the start of a worker, and of a command that makes room.
    pub async fn sweep_all(&self) {
        self.sweep_where(|_| true).await;
    }

    async fn sweep_where(&self, is_wanted: impl Fn(Capabilities) -> bool) {
        let folders: Vec<_> =
            ComponentName::all().filter_map(|component| component.as_str().parse().ok()).collect();
        for store in self.stores().filter(|store| is_wanted(store.capabilities())) {
            store.sweep_dead_runs(&folders).await;
        }
    }

    /// The start of a worker: removes what dead runs have left, and reads the last
    /// times back from the catalogue, so that a restart neither clears nor fires an alert.
    pub async fn prepare(&self) {
        if let Some(mirror) = &self.engine.mirror {
            mirror.make_tables();
        }
        self.sweep_all().await;
        self.engine.recover().await;
        // Of destinations that cannot be used the looks of every minute tell, which begin at the start as well.
        self.engine.read_destinations(true).await;
    }
}

impl App {
    /// Waits until metrics and the tables in the app's database are up to date, and what uploads have left that were given
    /// up is removed; for some seconds at most. For the end of the program.
    pub async fn wait_for_background(&self) {
        /// Longer than a destination that works needs, and no longer than a person waits for one that hangs.
        const LONGEST: Duration = Duration::from_secs(15);
        if tokio::time::timeout(LONGEST, self.engine.refresh()).await.is_err() {
            tracing::warn!(
                "the destinations do not answer, the tables of the catalogue are not up to date before the next run"
            );
        }
        if let Some(mirror) = &self.engine.mirror {
            mirror.close().await;
        }
        for store in self.stores() {
            store.wait_for_cleanup().await;
        }
    }
}

/// The stores of all destinations, the nearest first. Their requests are counted in `metrics`.
async fn open(config: &Config, metrics: &Metrics) -> Result<Vec<Arc<dyn Store>>, OpenError> {
    let mut stores = Vec::new();
    for destination in &config.destinations {
        let name = destination.kind().name;
        let metrics = metrics.clone();
        let observer: Observer =
            Arc::new(move |Request { op, result, retry }| metrics.request(name, op, result, retry));
        stores.push(destination.open(Some(observer)).await?);
    }
    Ok(stores)
}

/// The folder in a bucket that Weaviate may write to by itself; `None` without a bucket that can be used.
pub async fn bucket_folder(config: &Config) -> Option<Arc<dyn BucketFolder>> {
    let mut stores = Vec::new();
    for destination in &config.destinations {
        // One that cannot be opened has its own line in `check`, and is no reason to overlook another.
        stores.extend(destination.open(None).await.ok());
    }
    bucket_folder_in(&stores)
}

fn bucket_folder_in(stores: &[Arc<dyn Store>]) -> Option<Arc<dyn BucketFolder>> {
    let folder =
        stores.iter().find_map(|store| StoreFolder::new(Arc::clone(store), ComponentName::WEAVIATE))?;
    Some(Arc::new(folder))
}

/// The tables in the app's database, when there is one; whether it may be backed up or not.
fn mirror(config: &Config) -> Option<Mirror> {
    /// The timeout of a connection for the tables. No run waits for the tables, but the end of the program does.
    const CONNECT: Duration = Duration::from_secs(3);
    let postgres = config.settings::<PostgresConfig>()?.clone();
    let postgres = PostgresConfig { connect_timeout: postgres.connect_timeout.min(CONNECT), ..postgres };
    match postgres::pool(&postgres) {
        Ok(pool) => Some(Mirror::new(pool)),
        Err(err) => {
            // A backup says so too, louder.
            tracing::warn!(error = %chain(&err), "there will be no tables for Django Admin");
            None
        }
    }
}

/// The tables whose rows come from the catalogue and not from backups.
fn mirrored() -> Vec<Excluded> {
    let excluded = |(schema, table): (&str, &str)| Excluded {
        schema: schema.to_owned(),
        table: table.to_owned(),
        comment: mirror::MARK.to_owned(),
    };
    mirror::TABLES.into_iter().map(excluded).collect()
}

/// The components that are configured and that `BACKUP_COMPONENTS` names.
pub fn components(config: &Config, bucket_folder: Option<Arc<dyn BucketFolder>>) -> Vec<Component> {
    let parts = Parts { bucket_folder, catalog_tables: mirrored() };
    let wanted = config.components.iter().filter(|settings| config.wants(settings.name()));
    wanted.map(|settings| settings.build(&parts)).collect()
}

/// The signals by which a program is asked to end: SIGTERM (an orchestrator), SIGINT (a terminal), SIGQUIT (at once).
#[derive(Debug)]
pub struct Signals {
    term: Signal,
    int: Signal,
    quit: Signal,
}

impl Signals {
    /// From here on signals are waited for, and none of these ends the process by itself.
    pub fn listen() -> Self {
        let listen = |kind| signal(kind).expect("these three can be handled");
        Self {
            term: listen(SignalKind::terminate()),
            int: listen(SignalKind::interrupt()),
            quit: listen(SignalKind::quit()),
        }
    }

    /// The next of them, or one that came since the last call.
    pub async fn next(&mut self) -> Ending {
        let (name, ending) = tokio::select! {
            _ = self.term.recv() => ("SIGTERM", Ending::Warm),
            _ = self.int.recv() => ("SIGINT", Ending::Warm),
            _ = self.quit.recv() => ("SIGQUIT", Ending::Cold),
        };
        tracing::info!("{name}");
        ending
    }
}
