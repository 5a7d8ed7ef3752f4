//! The composition root: settings become an engine. No logic.

use crate::base::chain;
use crate::base::clock::SystemClock;
use crate::catalog::Catalog;
use crate::celery::CeleryError;
use crate::component::Component;
use crate::component::media::Media;
use crate::component::postgres::Postgres;
use crate::config::Config;
use crate::domain::component::ComponentName;
use crate::engine::{Engine, Locks};
use crate::observe::metrics::Metrics;
use crate::store::Store;
use crate::store::local::{LocalStore, RootError};
use crate::worker::{Ending, Worker};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// The parts that every front door works with.
#[derive(Debug)]
pub struct App {
    /// Does the work.
    pub engine: Arc<Engine>,
    /// Counts it.
    pub metrics: Metrics,
    /// The destination as what it is, for what only a folder needs.
    local: Arc<LocalStore>,
    /// As it was read.
    pub config: Config,
}

/// Why the parts do not fit together.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The backup folder cannot be used.
    #[error("open BACKUP_ROOT")]
    Root(#[from] RootError),
    /// A metric is wrong: a bug.
    #[error("register metrics")]
    Metrics(#[from] prometheus::Error),
}

impl App {
    /// Puts the parts together and opens the destination; connects to nothing yet.
    ///
    /// # Errors
    ///
    /// [`BuildError::Root`] when the backup folder cannot be made or written.
    pub fn build(config: Config) -> Result<Self, BuildError> {
        let metrics = Metrics::new(env!("CARGO_PKG_VERSION"))?;
        let local = Arc::new(LocalStore::open(&config.root, config.min_free)?);
        let store: Arc<dyn Store> = Arc::clone(&local) as _;
        let clock = Arc::new(SystemClock);
        let engine = Engine {
            components: components(&config),
            not_yet: config.not_yet(),
            left_out: config.left_out(),
            catalog: Catalog::new(vec![Arc::clone(&store)]),
            locks: Locks::new(config.root.join(".locks")),
            store,
            compression: config.compression,
            policy: config.policy,
            clock,
            metrics: metrics.clone(),
            host: config.host.clone(),
        };
        Ok(Self { engine: Arc::new(engine), metrics, local, config })
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

    /// What is done once at the start of a worker: removes what dead runs left, and reads the last
    /// times back from the catalogue, so that a restart neither clears nor fires an alert.
    pub async fn prepare(&self) {
        match self.local.sweep_partial().await {
            Ok(swept) if swept.files == 0 => {}
            Ok(swept) => {
                tracing::info!(
                    files = swept.files,
                    bytes = swept.bytes,
                    "removed the partial files of dead runs"
                );
            }
            Err(err) => tracing::warn!(error = %chain(&err), "cannot remove the partial files of dead runs"),
        }
        self.engine.refresh_metrics().await;
    }
}

/// The components that are configured and that `BACKUP_COMPONENTS` names: a fourth one is a row here.
pub fn components(config: &Config) -> Vec<Arc<dyn Component>> {
    let mut found: Vec<Arc<dyn Component>> = Vec::new();
    if let Some(postgres) = config.postgres.clone().filter(|_| config.wants(ComponentName::Postgres)) {
        found.push(Arc::new(Postgres::new(postgres, Vec::new())));
    }
    if let Some(media) = config.media.clone().filter(|_| config.wants(ComponentName::Media)) {
        found.push(Arc::new(Media::new(media)));
    }
    found
}

/// Returns at SIGTERM (an orchestrator), SIGINT (a terminal) or SIGQUIT (at once), whichever is first.
pub async fn signalled() -> Ending {
    let mut term = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
    let mut int = signal(SignalKind::interrupt()).expect("SIGINT can be handled");
    let mut quit = signal(SignalKind::quit()).expect("SIGQUIT can be handled");
    let (name, ending) = tokio::select! {
        _ = term.recv() => ("SIGTERM", Ending::Warm),
        _ = int.recv() => ("SIGINT", Ending::Warm),
        _ = quit.recv() => ("SIGQUIT", Ending::Cold),
    };
    tracing::info!("{name}");
    ending
}
