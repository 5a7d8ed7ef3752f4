//! Without the right to create databases: the contents of the live one, replaced in one transaction.

use crate::base::chain;
use crate::component::postgres::{
    Order,
    admin::{alone, alone_with, fault},
    advisory_lock::AdvisoryLock,
    blockers,
    config::PostgresConfig,
    decode::decode,
    dropped_objects::{self, DroppedObjects},
    entries::{CONTENTS, ROWS},
    load::Load,
    lock_waits, properties,
    restore_target::{self, RestoreTarget},
    rights::{self, OwnershipMode},
    snapshot::{Server, Snapshot},
    toc::{Contents, Entry, ListFile},
    views,
};
use crate::component::{ComponentError, Feed, Staged, UndoPoint, scratch::Scratch};
use crate::domain::{
    facts::{Counts, TableRows},
    progress::Meter,
};
use async_trait::async_trait;
use deadpool_postgres::ClientWrapper;
use std::{fmt, slice};
use tokio::io::AsyncReadExt as _;

/// A whole archive on disk, read to its end.
pub struct InPlace {
    target: RestoreTarget,
    /// The lock of the whole restore.
    lock: AdvisoryLock,
    config: PostgresConfig,
    order: Order,
    file: Scratch,
    contents: Contents,
    /// The entries that are restored in the transaction.
    list: ListFile,
    counts: Counts,
    meter: Meter,
}

impl fmt::Debug for InPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InPlace")
            .field("config", &self.config)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

impl InPlace {
    /// Puts the archive on disk and proves that it can be read.
    ///
    /// # Errors
    ///
    /// As [`crate::component::Restorable::stage`].
    pub async fn prepare(
        target: RestoreTarget,
        lock: AdvisoryLock,
        config: &PostgresConfig,
        order: Order,
        feed: Feed<'_>,
        meter: &Meter,
    ) -> Result<Self, ComponentError> {
        let file = Scratch::spool(&restore_target::in_place_folder(config), feed, meter).await?;
        let counts = decode(config, &mut file.reader().await?, &Meter::default()).await?;
        let config = PostgresConfig { database: target.name.clone(), ..config.clone() };
        let (contents, list, dropped) = Self::listed(&target, &config, &order.without, &file).await?;
        Self::is_possible(&target, &config, &dropped).await?;
        for name in &order.without {
            if !contents.0.iter().any(|entry| entry.may_be_missing(slice::from_ref(name))) {
                meter.warn(format!(
                    "Nothing is left out for the name {name}: the archive has nothing of it that may be missing."
                ));
            }
        }
        Ok(Self { target, lock, config, order, file, contents, list, counts, meter: meter.clone() })
    }

    /// The entries of an archive, those that are restored in the transaction, and the objects that it takes away.
    async fn listed(
        target: &RestoreTarget,
        config: &PostgresConfig,
        without: &[String],
        file: &Scratch,
    ) -> Result<(Contents, ListFile, DroppedObjects), ComponentError> {
        let mut contents = Contents::of_file(&target.client, file).await?;
        contents.put_first(&blockers::inherited(&session(config, &target.name).await?).await?);
        // A refused object would take the whole transaction back: objects that no rows need come afterwards, by themselves.
        let is_wanted = |entry: &Entry| entry.kind != CONTENTS && !entry.may_be_missing(without);
        let list = contents.list(&restore_target::in_place_folder(config), is_wanted).await?;
        let dropped = dropped_objects::read(&target.client, &mut file.reader().await?, Some(&list)).await?;
        Ok((contents, list, dropped))
    }

    /// Tests whether a restore `without` the objects of these names would run into others. The beginning of the archive
    /// is enough, which has the definitions.
    ///
    /// # Errors
    ///
    /// As [`InPlace::is_possible`].
    pub async fn preview(
        target: &RestoreTarget,
        config: &PostgresConfig,
        without: &[String],
        feed: Feed<'_>,
    ) -> Result<(), ComponentError> {
        /// More than the table of contents of any archive, which has some hundred bytes for each object.
        const BEGINNING: u64 = 256 << 20;
        let dropped = if without.is_empty() {
            dropped_objects::read(&target.client, feed, None).await?
        } else {
            let folder = restore_target::in_place_folder(config);
            let file = Scratch::spool(&folder, &mut feed.take(BEGINNING), &Meter::default()).await?;
            Self::listed(target, config, without, &file).await?.2
        };
        Self::is_possible(target, config, &dropped).await
    }

    /// Tests whether objects of the database, or default privileges, are in the way of what takes these away and makes them
    /// again.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unusable`] names them; else the error of the server.
    async fn is_possible(
        target: &RestoreTarget,
        config: &PostgresConfig,
        dropped: &DroppedObjects,
    ) -> Result<(), ComponentError> {
        let role = match &target.rights {
            OwnershipMode::AsTheyWere(role) => role.clone(),
            OwnershipMode::OfTheOwner(_) => owner(target).await?.map(str::to_owned),
        };
        let role = role.unwrap_or_else(|| target.admin.user.clone());
        blockers::refuse(&session(config, &target.name).await?, &role, dropped).await
    }

    /// Counts the objects of the archive that are in the database now.
    async fn count(&self) -> Result<Counts, ComponentError> {
        let mut client = alone(&self.config, &self.config.database).await?;
        let server = Server::ask(&client).await?;
        let snapshot = Snapshot::open(&mut client, &server, &self.order.exclude).await?;
        let mut tables = snapshot.count().await?;
        snapshot.close().await?;
        let known = |schema: &str, table: &str| {
            self.counts.tables.iter().any(|known| known.schema == schema && known.table == table)
        };
        tables.retain(|found| known(&found.schema, &found.table));
        Ok(Counts { tables, ..Counts::default() })
    }

    /// Fills the materialized views, once everything else is there.
    async fn fill_views(&self) -> Result<(), ComponentError> {
        let client = alone_with(&self.config, &self.config.database, self.target.quiet).await?;
        let _ = client.batch_execute("SET default_transaction_read_only = off").await;
        let derived = self.order.facts.as_ref().and_then(|facts| facts.derived.as_ref());
        let contents = self.contents.0.iter().filter(|entry| entry.kind == CONTENTS);
        let contents: Vec<_> = contents.map(|entry| entry.refused("not filled yet")).collect();
        let (empty, _) = views::fill(&client, derived, &contents).await?;
        for refusal in empty {
            self.meter.warn(format!(
                "{} stays empty ({}): REFRESH MATERIALIZED VIEW, once that is mended.",
                refusal.name(),
                refusal.said
            ));
        }
        Ok(())
    }

    /// Warns of owners and privileges, of extensions too, that are not those of the backup. The restore is done, and cannot be
    /// taken back.
    async fn compare_rights(&self) -> Result<(), ComponentError> {
        let facts = self.order.facts.as_ref();
        let Some(promised) = facts.and_then(|facts| facts.rights.as_ref()) else { return Ok(()) };
        if !matches!(self.target.rights, OwnershipMode::AsTheyWere(_))
            || !self.target.is_of_its_version(facts)
        {
            return Ok(());
        }
        let mut client = session(&self.config, &self.config.database).await?;
        let transaction = client.transaction().await.map_err(|err| fault("begin a transaction", err))?;
        let found = rights::read(&transaction).await?;
        let creator = self.target.rights.creator(&self.target.admin.user).unwrap_or(&self.target.owner);
        promised.other_owners(&found, creator).into_iter().for_each(|words| self.meter.warn(words));
        let differences = promised.named_differences(&found);
        if !differences.is_empty() {
            self.meter.warn(format!(
                "Owners and privileges are not those of the backup, whose objects alone get them: {}.",
                differences.join("; ")
            ));
        }
        Ok(())
    }

    /// Warns of properties of the database, which stay, that are not those of the backup.
    async fn compare_properties(&self) -> Result<(), ComponentError> {
        let found = properties::read(&*self.target.admin.client, &self.target.name).await?;
        let others = self.target.other_properties(&found, self.order.facts.as_ref());
        if let Some(words) = others {
            self.meter.warn(words);
        }
        Ok(())
    }

    /// The counts of the database, less rows beyond those of the backup where event triggers of the database note what a restore does:
    /// only a superuser can keep them from it.
    async fn without_events(&self, mut found: Counts) -> Result<Counts, ComponentError> {
        const ANY: &str = "SELECT EXISTS (SELECT FROM pg_event_trigger WHERE evtenabled <> 'D')";
        if self.target.admin.superuser {
            return Ok(found);
        }
        let client = alone(&self.config, &self.config.database).await?;
        let any = client.query_one(ANY, &[]).await.map_err(|err| fault("look for event triggers", err))?;
        if !any.get::<_, bool>(0) {
            return Ok(found);
        }
        for table in &mut found.tables {
            let promised = self.counts.tables.iter().find(|promised| {
                promised.schema == table.schema && promised.table == table.table && promised.rows < table.rows
            });
            if let Some(promised) = promised {
                self.meter.warn(format!(
                    "Table {}.{} has {} rows and had {} at the backup: event triggers of the database fire while it is \
                     restored in place.",
                    table.schema, table.table, table.rows, promised.rows
                ));
                table.rows = promised.rows;
            }
        }
        Ok(found)
    }

    /// Replaces the contents, and looks that they are those of the backup.
    async fn replace(&self) -> Result<(), ComponentError> {
        self.lock.confirm().await?;
        let admin = &self.target.admin;
        // Whoever sits idle in a transaction would hold the restore up for ever. Others wait for its locks.
        if admin.session_database != self.target.name
            && let Err(err) = admin.close_sessions(&self.target.name).await
        {
            tracing::warn!(%err, "sessions go on, and the restore waits for them");
        }
        let load = Load {
            client: &self.target.client,
            config: &self.config,
            role: owner(&self.target).await?,
            rights: &self.target.rights,
            server: self.target.server.major,
            options: &self.target.options,
            without: &self.order.without,
            in_tablespaces: self.target.lost_tablespaces.is_empty(),
            language: &self.target.language,
            schemas: &[],
        };
        lock_waits::show_during(&self.config, &self.meter, load.in_place(&self.file, &self.list)).await?;
        // From here on the contents are replaced: nothing that goes wrong is a reason to restore again.
        let unfilled = |err: ComponentError| ComponentError::Unusable {
            what:
                "the restore in place is done, but its materialized views could not be filled: REFRESH them"
                    .into(),
            source: Some(err.into()),
        };
        self.fill_views().await.map_err(unfilled)?;
        if let Err(err) = self.compare_rights().await {
            self.meter.warn(format!("Owners and privileges could not be compared: {}.", chain(&err)));
        }
        if let Err(err) = self.compare_properties().await {
            self.meter.warn(format!("Properties of the database could not be compared: {}.", chain(&err)));
        }
        let uncounted = |err: ComponentError| ComponentError::Unusable {
            what: "the restore in place is done, but its rows could not be counted".into(),
            source: Some(err.into()),
        };
        let found = self.count().await.map_err(uncounted)?;
        let wrong = self.expected(&self.counts).differences(&self.without_events(found).await?);
        if wrong.is_empty() {
            return Ok(());
        }
        let what = format!(
            "the restore in place is done, but something else is there now than in the backup: {}",
            wrong.join("; ")
        );
        Err(ComponentError::Corrupt { what, source: None })
    }
}

/// A session in a database that reads its catalogs.
async fn session(config: &PostgresConfig, database: &str) -> Result<ClientWrapper, ComponentError> {
    let client = alone(config, database).await?;
    let set = client.batch_execute("SET search_path = pg_catalog; SET jit = off").await;
    set.map_err(|err| fault("begin a session", err))?;
    Ok(client)
}

/// The owner of the live database, if the role may act as that owner.
async fn owner(target: &RestoreTarget) -> Result<Option<&str>, ComponentError> {
    let Some(owner) = target.live.as_ref().map(|live| live.owner.as_str()) else { return Ok(None) };
    Ok(target.admin.missing_grant(owner).await?.is_none().then_some(owner))
}

#[async_trait]
impl Staged for InPlace {
    fn counts(&self) -> &Counts {
        &self.counts
    }

    fn expected(&self, promised: &Counts) -> Counts {
        let mut expected = promised.clone();
        let is_left_out = |table: &TableRows| {
            self.contents.0.iter().any(|entry| {
                entry.kind == ROWS
                    && entry.whole() == format!("{} {}", table.schema, table.table).replace(['\n', '\r'], " ")
                    && entry.may_be_missing(&self.order.without)
            })
        };
        expected.tables.iter_mut().filter(|table| is_left_out(table)).for_each(|table| table.rows = 0);
        expected
    }

    async fn swap(self: Box<Self>) -> Result<Option<UndoPoint>, ComponentError> {
        let done = self.replace().await;
        self.lock.free().await;
        done.map(|()| None)
    }

    async fn discard(self: Box<Self>) -> Result<(), ComponentError> {
        self.lock.free().await; // the file goes with the value
        Ok(())
    }
}
