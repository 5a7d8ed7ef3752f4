//! The composition root: settings become an engine. No logic.

use crate::base::chain;
use crate::base::clock::SystemClock;
use crate::catalog::Catalog;
use crate::catalog::mirror::{self, Mirror};
use crate::celery::CeleryError;
use crate::component::media::Media;
use crate::component::postgres::{self, Excluded, Postgres, PostgresConfig};
use crate::component::weaviate::Weaviate;
use crate::component::{BucketFolder, Component};
use crate::config::Config;
use crate::domain::component::ComponentName;
use crate::engine::{Changes, Engine, Locks, StoreFolder};
use crate::observe::metrics::Metrics;
use crate::store::Store;
use crate::store::local::{LocalStore, RootError};
use crate::store::s3::{Observer, Request, S3OpenError, S3Store};
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
    /// The destination as what it is, for what only a folder needs.
    local: Arc<LocalStore>,
    /// The bucket, for multipart clean-up; `None` without one.
    bucket: Option<Arc<S3Store>>,
    /// The configuration that this app was built from.
    pub config: Config,
}

/// The reason that the app cannot be built from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The backup folder cannot be used.
    #[error("open BACKUP_ROOT")]
    Root(#[from] RootError),
    /// The certificates for the bucket cannot be used.
    #[error("open AWS_BACKUP_BUCKET")]
    Bucket(#[from] S3OpenError),
    /// A metric is wrong: a bug.
    #[error("register metrics")]
    Metrics(#[from] prometheus::Error),
}

impl App {
    /// Puts the parts together and opens the destination; connects to nothing yet.
    ///
    /// # Errors
    ///
    /// [`BuildError::Root`] when the backup folder cannot be made or read.
    pub async fn build(config: Config) -> Result<Self, BuildError> {
        let app = Self::assemble(config).await?;
        app.local.ready()?;
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
        let local = Arc::new(LocalStore::later(&config.root, config.min_free)?);
        let bucket = bucket(&config, &metrics).await?;
        let near: Arc<dyn Store> = Arc::clone(&local) as _;
        let far = bucket.clone().map(|bucket| bucket as Arc<dyn Store>);
        let stores: Vec<_> = std::iter::once(near).chain(far).collect();
        // What lies in the folder is seen also where nothing new goes there.
        let destinations = stores.iter().skip(usize::from(!config.destinations.local)).cloned().collect();
        let clock = Arc::new(SystemClock);
        let bucket_folder = bucket.clone().and_then(|bucket| bucket_folder_in(bucket, &config));
        let engine = Engine {
            components: components(&config, bucket_folder),
            left_out: config.left_out(),
            catalog: Catalog::new(stores),
            mirror: mirror(&config),
            destinations,
            cleanup_local: config.destinations.cleanup_local,
            locks: Locks::new(config.root.join(".locks")),
            compression: config.compression,
            encryption: config.encryption.clone(),
            policy: config.policy,
            clock,
            observer: Arc::new(metrics.clone()),
            changes: Changes::default(),
            host: config.host.clone(),
        };
        Ok(Self { engine: Arc::new(engine), metrics, local, bucket, config })
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

    /// Removes the partial files of dead runs from the folder: at the start of a worker, and of each command that
    /// writes or makes room. Files of live runs, of this process or another, are locked and stay.
    pub async fn sweep(&self) {
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
    }

    /// The start of a worker: removes what dead runs have left, and reads the last
    /// times back from the catalogue, so that a restart neither clears nor fires an alert.
    pub async fn prepare(&self) {
        self.sweep().await;
        if let Some(mirror) = &self.engine.mirror {
            mirror.make_tables();
        }
        self.sweep_bucket().await;
        self.engine.recover().await;
        // Of destinations that cannot be used the looks of every minute tell, which begin at the start as well.
        self.engine.read_destinations(true).await;
    }
}

impl App {
    /// Removes what uploads of dead runs have left in the bucket.
    pub async fn sweep_bucket(&self) {
        /// Longer than any upload takes: nobody can tell in a bucket whether a process lives.
        const STALE: Duration = Duration::from_hours(24);
        let Some(bucket) = &self.bucket else { return };
        let folders: Vec<_> =
            ComponentName::ALL.iter().filter_map(|component| component.as_str().parse().ok()).collect();
        match bucket.sweep_uploads(&folders, STALE).await {
            Ok(0) => {}
            Ok(uploads) => tracing::info!(uploads, "removed the uploads of dead runs from the bucket"),
            Err(err) => {
                tracing::warn!(error = %chain(&err), "cannot look for uploads of dead runs in the bucket");
            }
        }
    }

    /// Waits until metrics and the tables in the app's database are up to date, and what uploads have left that were given
    /// up is removed; for some seconds at most. For the end of the program.
    pub async fn wait_for_background(&self) {
        self.engine.refresh().await;
        if let Some(mirror) = &self.engine.mirror {
            mirror.close().await;
        }
        if let Some(bucket) = &self.bucket {
            bucket.wait_for_cleanup().await;
        }
    }
}

/// The bucket, whose requests are counted.
async fn bucket(config: &Config, metrics: &Metrics) -> Result<Option<Arc<S3Store>>, S3OpenError> {
    let Some(config) = &config.destinations.bucket else { return Ok(None) };
    let metrics = metrics.clone();
    let observer: Observer =
        Arc::new(move |request: Request| metrics.request("s3", request.op, request.result, request.retry));
    Ok(Some(Arc::new(S3Store::open(config.clone(), Some(observer)).await?)))
}

/// The folder in the bucket that Weaviate may write to by itself; `None` without a bucket that can be used.
pub async fn bucket_folder(config: &Config) -> Option<Arc<dyn BucketFolder>> {
    let bucket = S3Store::open(config.destinations.bucket.clone()?, None).await.ok()?;
    bucket_folder_in(Arc::new(bucket), config)
}

fn bucket_folder_in(bucket: Arc<S3Store>, config: &Config) -> Option<Arc<dyn BucketFolder>> {
    let at = config.destinations.bucket.as_ref()?;
    let place = (at.bucket.clone(), at.prefix.as_ref().map(ToString::to_string));
    Some(Arc::new(StoreFolder::new(bucket, ComponentName::Weaviate, place)))
}

/// The tables in the app's database, when there is one; whether it may be backed up or not.
fn mirror(config: &Config) -> Option<Mirror> {
    /// The timeout of a connection for the tables. No run waits for the tables, but the end of the program does.
    const CONNECT: Duration = Duration::from_secs(3);
    let postgres = config.postgres.clone()?;
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

/// The components that are configured and that `BACKUP_COMPONENTS` names: a fourth one is a row here.
pub fn components(config: &Config, bucket_folder: Option<Arc<dyn BucketFolder>>) -> Vec<Arc<dyn Component>> {
    let mut found: Vec<Arc<dyn Component>> = Vec::new();
    if let Some(postgres) = config.postgres.clone().filter(|_| config.wants(ComponentName::Postgres)) {
        found.push(Arc::new(Postgres::new(postgres, mirrored())));
    }
    if let Some(weaviate) = config.weaviate.clone().filter(|_| config.wants(ComponentName::Weaviate)) {
        found.push(Arc::new(Weaviate::new(weaviate, bucket_folder)));
    }
    if let Some(media) = config.media.clone().filter(|_| config.wants(ComponentName::Media)) {
        found.push(Arc::new(Media::new(media)));
    }
    found
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
