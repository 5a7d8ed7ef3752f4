//! The app's PostgreSQL database: dumped by `pg_dump`, proven by `pg_restore`.

mod admin;
mod advisory_lock;
mod blockers;
mod by_hand;
mod clients;
mod comparison;
mod config;
mod connect;
mod copy;
mod database;
mod decode;
mod definitions;
mod dependencies;
mod derived;
mod dropped_objects;
mod entries;
mod extension_rows;
mod extensions;
mod in_place;
pub mod kinds;
mod language;
mod libpq;
mod load;
mod lock_waits;
mod mark;
mod membership;
mod names;
mod plan;
mod predicted_differences;
mod properties;
mod reader;
mod refusal;
mod restore_target;
mod rights;
mod rows;
mod server_messages;
mod sessions;
mod settings;
mod single_database_extensions;
mod snapshot;
mod steps;
mod subscriptions;
mod swap;
mod tablespaces;
mod tls;
mod toc;
mod undo;
mod version_filter;
mod views;

use crate::component::process::Program;
use crate::component::{
    CompletedSwap, Component, ComponentError, Feed, IncrementalBase, Plan, Restorable, RestoreMode,
    RestoreOrder, Source, Staged, Target, Undo, UndoPoint,
};
use crate::domain::{
    component::ComponentName,
    derived::Derived,
    facts::{Counts, Facts},
    progress::Meter,
    task_note::TaskNote,
};
use crate::stream::Output;
use advisory_lock::AdvisoryLock;
use async_trait::async_trait;
use clients::Client;
use copy::Copy;
use deadpool_postgres::{ClientWrapper, Object, Pool};
use in_place::InPlace;
use language::Language;
use restore_target::{RestoreTarget, name_of};
use snapshot::{Server, Snapshot};
use std::{ffi::OsString, fmt, os::unix::ffi::OsStringExt, sync::Arc, time::Duration};
use tokio::sync::OnceCell;

pub use config::{InvalidSetting, PostgresConfig, SslMode};
pub use connect::pool;
pub(in crate::component) use settings::REGISTRATION;
pub use snapshot::Excluded;

/// One database of a PostgreSQL server, 12 or newer.
///
/// A backup is `pg_dump --format=custom --compress=0` of an exported snapshot: compression is the
/// pipeline's business, and the rows of every table are counted in the same snapshot while the dump
/// runs. It keeps the encoding of the database, so that no byte of the data has to be converted.
pub struct Postgres {
    config: PostgresConfig,
    exclude: Vec<Excluded>,
    pool: OnceCell<Pool>,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("config", &self.config)
            .field("exclude", &self.exclude)
            .finish_non_exhaustive()
    }
}

/// The order of a restore.
#[derive(Debug)]
struct Order {
    /// Names of objects that may be missing afterwards.
    without: Vec<String>,
    /// Tables whose rows are neither in backups nor in counts.
    exclude: Vec<Excluded>,
    /// The facts of the manifest about the archive.
    facts: Option<Facts>,
}

impl Postgres {
    /// The database of `config`. Connects when it is first used.
    ///
    /// The rows of the tables in `exclude` are left out of backups and counts; their definitions are dumped.
    pub const fn new(config: PostgresConfig, exclude: Vec<Excluded>) -> Self {
        Self { config, exclude, pool: OnceCell::const_new() }
    }

    async fn connect(&self) -> Result<Object, ComponentError> {
        let pool = self.pool.get_or_try_init(|| async { connect::pool(&self.config) }).await?;
        connect::connect(pool, &self.config).await
    }

    /// Checks the requirements of a dump: rights, and a client that fits.
    async fn prepare(&self, connection: &ClientWrapper) -> Result<(Server, Client), ComponentError> {
        let server = Server::ask(connection).await?;
        let needed = ("a backup", sessions::OF_BACKUP);
        sessions::suffice(connection, Some(&self.config.database), needed).await?;
        let set = self.config.bin_dir.as_deref();
        let found = clients::search(set).await?;
        let unusable = |what| ComponentError::Unusable { what, source: None };
        let client = clients::choose(server.major, &found, set).map_err(unusable)?.clone();
        match reader::missing_privilege(connection, &server).await? {
            Some(what) => Err(unusable(what)),
            None => Ok((server, client)),
        }
    }

    /// Waits until the dump has begun, and with it its locks, and looks whether it came too late for a table.
    async fn nothing_is_rewritten(
        &self,
        snapshot: &Snapshot<'_>,
        meter: &Meter,
    ) -> Result<(), ComponentError> {
        /// Between two looks whether the first bytes are there.
        const LOOK: Duration = Duration::from_millis(20);
        while meter.read().0 == 0 {
            tokio::time::sleep(LOOK).await;
        }
        let now = admin::alone(&self.config, &self.config.database).await?;
        snapshot.nothing_is_rewritten(&now).await
    }

    /// One dump of one snapshot, and what was counted in it.
    async fn dump_whole(&self, out: &mut dyn Output, meter: &Meter) -> Result<Facts, ComponentError> {
        // Taken out of the pool: dropped in the middle of a dump, it is closed and not used again.
        let mut connection = Object::take(self.connect().await?);
        let (server, client) = self.prepare(&connection).await?;
        let language = Language::ask(&connection, server.major).await?;
        let mut snapshot = Snapshot::open(&mut connection, &server, &self.exclude).await?;
        meter.begin("dump", snapshot.estimate());
        let dump = self.dump(&client, &server, &snapshot, &language)?.write_into(out, meter);
        let looked_up = async {
            if !snapshot.is_locked {
                self.nothing_is_rewritten(&snapshot, meter).await?;
            }
            let (tables, migrations) = (snapshot.count().await?, snapshot.migrations(&server).await?);
            let definitions = snapshot.definitions(&server, None).await?.definitions;
            let rights = snapshot.rights().await?;
            let properties = snapshot.properties(&self.config.database).await?;
            let derived = snapshot.derived_and_tried(&server).await?;
            Ok((tables, migrations, (rights, properties), definitions, derived))
        };
        let (dumped, (tables, migrations, (rights, properties), definitions, derived)) =
            match tokio::try_join!(dump, looked_up) {
                Ok(done) => done,
                Err(err) => return Err(classify_failure(err, snapshot, &language).await),
            };
        // Only a snapshot that still stands at the end was the same one all the time.
        snapshot.close().await?;
        let mut facts = Facts {
            source_bytes: dumped.bytes,
            counts: Counts { tables, ..Counts::default() },
            versions: [("postgres_server", server.version), ("pg_dump", client.version)]
                .map(|(name, version)| (name.to_owned(), version))
                .into(),
            migrations,
            database_bytes: Some(server.database_bytes),
            rights: Some(rights),
            properties: properties.as_ref().ok().cloned(),
            definitions: Some(definitions),
            ..Facts::default()
        };
        derived.unqualified.iter().for_each(|object| facts.warn(object.warning()));
        derived.refused.iter().for_each(|object| facts.warn(object.warning.clone()));
        properties.err().into_iter().for_each(|unread| facts.warn(unread));
        derived.left_out.iter().for_each(|left_out| facts.warn(left_out.clone()));
        derived.lost(&Derived::default()).into_iter().for_each(|lost| facts.warn(lost));
        facts.derived = Some(derived);
        server_messages::warnings(&dumped.stderr).for_each(|warning| facts.warn(warning));
        Ok(facts)
    }

    /// `pg_dump` of a snapshot.
    fn dump(
        &self,
        client: &Client,
        server: &Server,
        snapshot: &Snapshot<'_>,
        language: &Language,
    ) -> Result<Program, ComponentError> {
        let exclude = snapshot
            .excluded
            .iter()
            .map(|table| OsString::from_vec([b"--exclude-table-data=", &*table.pattern].concat()));
        let program = Program::new("pg_dump", &client.dir.join("pg_dump"))
            .args(["--format=custom", "--compress=0", LOCK_WAIT])
            .args([format!("--snapshot={}", snapshot.id), format!("--encoding={}", server.encoding)])
            .args(server.login.as_ref().map(|login| format!("--role={login}")))
            .args(exclude);
        let program = libpq::with_connection(program, &self.config)?;
        Ok(language.option.into_iter().fold(program, |program, option| program.env("PGOPTIONS", option)))
    }
}

impl From<Postgres> for Component {
    fn from(postgres: Postgres) -> Self {
        let postgres = Arc::new(postgres);
        Self { restorable: Some(postgres.clone()), undo: Some(postgres.clone()), ..Self::of(postgres) }
    }
}

#[async_trait]
impl Source for Postgres {
    fn name(&self) -> ComponentName {
        ComponentName::POSTGRES
    }

    fn address(&self) -> String {
        self.config.database.clone()
    }

    fn host(&self) -> Option<String> {
        Some(self.config.to_string())
    }

    async fn check(&self) -> Result<String, ComponentError> {
        // Taken out of the pool: a limit on sessions counts those that are idle.
        let connection = Object::take(self.connect().await?);
        let (server, client) = self.prepare(&connection).await?;
        drop(connection);
        Ok(format!(
            "PostgreSQL {} at {}, {} MB; pg_dump {} in {}; {}",
            server.version,
            self.config,
            server.database_bytes / 1_000_000,
            client.version,
            client.dir.display(),
            RestoreTarget::describe_restore(&self.config).await
        ))
    }

    async fn ping(&self) -> Result<(), ComponentError> {
        // Taken out of the pool, so that it is closed: nobody's connection is kept between two looks.
        self.connect().await.map(|connection| drop(Object::take(connection)))
    }

    async fn back_up(
        &self,
        _: Option<&IncrementalBase>,
        out: &mut dyn Output,
        meter: &Meter,
    ) -> Result<Facts, ComponentError> {
        Box::pin(lock_waits::show_during(&self.config, meter, Box::pin(self.dump_whole(out, meter)))).await
    }

    async fn decode(&self, feed: Feed<'_>, meter: &Meter) -> Result<Counts, ComponentError> {
        decode::decode(&self.config, feed, meter).await
    }

    async fn describe(&self, _: Feed<'_>) -> Result<Facts, ComponentError> {
        Ok(Facts::default())
    }
}

#[async_trait]
impl Restorable for Postgres {
    async fn plan(&self, target: &Target, facts: Option<&Facts>) -> Result<Plan, ComponentError> {
        let mode = if *target == Target::Scratch { RestoreMode::Drill } else { RestoreMode::DryRun };
        RestoreTarget::find(&self.config, target, facts, mode).await?.plan(&self.config, facts).await
    }

    async fn preview(&self, feed: Feed<'_>, order: &RestoreOrder<'_>) -> Result<(), ComponentError> {
        let target =
            RestoreTarget::find(&self.config, order.target, order.facts, RestoreMode::DryRun).await?;
        InPlace::preview(&target, &self.config, order.without, feed).await
    }

    fn skipped_steps(&self, mode: RestoreMode) -> Vec<&'static str> {
        steps::STEPS.skipped_steps(mode)
    }

    async fn stage(
        &self,
        feed: Feed<'_>,
        order: &RestoreOrder<'_>,
        meter: &Meter,
    ) -> Result<Box<dyn Staged>, ComponentError> {
        let RestoreOrder { target, without, facts } = *order;
        let mode = if *target == Target::Scratch { RestoreMode::Drill } else { RestoreMode::Restore };
        let lock = AdvisoryLock::take(&self.config, &name_of(&self.config, target)?).await?;
        let target = RestoreTarget::find(&self.config, target, facts, mode).await?;
        let mut order =
            Order { without: without.to_vec(), exclude: self.exclude.clone(), facts: facts.cloned() };
        if target.drill {
            order.without.extend(
                target
                    .single_database_extension(&self.config)
                    .await?
                    .into_iter()
                    .flat_map(|bound| bound.names),
            );
        }
        target.extensions_can_be_created(facts, &order.without).await?;
        if target.swaps {
            return Ok(Box::new(Copy::make(target, lock, &self.config, &order, feed, meter).await?));
        }
        Ok(Box::new(InPlace::prepare(target, lock, &self.config, order, feed, meter).await?))
    }

    async fn recover(&self) -> Result<Vec<String>, ComponentError> {
        undo::recover(&self.config).await
    }
}

#[async_trait]
impl Undo for Postgres {
    async fn undo_point(&self) -> Result<Option<UndoPoint>, ComponentError> {
        undo::undo_point(&self.config).await
    }

    async fn completed_by(&self, task: &str) -> Result<Option<CompletedSwap>, ComponentError> {
        undo::completed_by(&self.config, task).await
    }

    async fn result_stored(&self, task: &str) -> Result<(), ComponentError> {
        undo::result_stored(&self.config, task).await
    }

    async fn undo(&self, note: Option<TaskNote>, _: &Meter) -> Result<UndoPoint, ComponentError> {
        undo::undo(&self.config, note).await
    }

    async fn delete_undo_data(&self) -> Result<(), ComponentError> {
        undo::delete_undo_data(&self.config).await
    }
}

/// Makes a failure of `pg_dump` a passing one when the server went away, whatever its language.
async fn classify_failure(
    err: ComponentError,
    snapshot: Snapshot<'_>,
    language: &Language,
) -> ComponentError {
    /// The time in which a server that is still there ends a transaction.
    const ANSWER: Duration = Duration::from_secs(5);
    match err {
        ComponentError::Failed { stderr, .. } if server_messages::is_of_a_long_row(&stderr) => {
            ComponentError::Unusable {
                what: format!("{stderr}: {}", server_messages::LONG_ROW),
                source: None,
            }
        }
        ComponentError::Failed { program, status, stderr, transient: false } => {
            let gone = !matches!(tokio::time::timeout(ANSWER, snapshot.close()).await, Ok(Ok(())));
            let transient = gone || server_messages::PASSING.iter().any(|words| stderr.contains(words));
            language.sorted(program, status, stderr, transient)
        }
        other => other,
    }
}

/// The lock timeout of `pg_dump`, in milliseconds. The snapshot's session mostly holds all tables already, so `pg_dump`
/// waits behind an `ALTER TABLE` that waits for that session, and all the app's queries wait behind both: a
/// circle of which the server sees a half. Giving up ends it, and the backup is tried again.
const LOCK_WAIT: &str = "--lock-wait-timeout=10000";
