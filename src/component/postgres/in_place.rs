//! Without the right to create databases: the contents of the live one, replaced in one transaction.

use crate::component::postgres::{
    admin::alone,
    config::PostgresConfig,
    decode,
    goal::{self, Goal},
    load::Load,
    snapshot::{Excluded, Server, Snapshot},
};
use crate::component::{ComponentError, Feed, Kept, Staged, scratch::Scratch};
use crate::domain::{facts::Counts, progress::Meter};
use async_trait::async_trait;
use std::fmt;

/// A whole archive on disk, read to its end.
pub struct InPlace {
    goal: Goal,
    config: PostgresConfig,
    exclude: Vec<Excluded>,
    file: Scratch,
    counts: Counts,
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
    /// Puts the archive on disk and proves that it can be read. `exclude` as for the backup.
    ///
    /// # Errors
    ///
    /// As [`crate::component::Component::stage`].
    pub async fn prepare(
        goal: Goal,
        config: &PostgresConfig,
        exclude: &[Excluded],
        feed: Feed<'_>,
        meter: &Meter,
    ) -> Result<Self, ComponentError> {
        let file = Scratch::spool(&goal::in_place_folder(config), feed, meter).await?;
        let counts = decode(config, &mut file.reader().await?, &Meter::default()).await?;
        let config = PostgresConfig { database: goal.name.clone(), ..config.clone() };
        Ok(Self { goal, config, exclude: exclude.to_vec(), file, counts })
    }

    /// What is in the database now, of that what the archive has.
    async fn count(&self) -> Result<Counts, ComponentError> {
        let mut client = alone(&self.config, &self.config.database).await?;
        let server = Server::ask(&client).await?;
        let snapshot = Snapshot::open(&mut client, &server, &self.exclude).await?;
        let mut tables = snapshot.count().await?;
        snapshot.close().await?;
        let known = |schema: &str, table: &str| {
            self.counts.tables.iter().any(|known| known.schema == schema && known.table == table)
        };
        tables.retain(|found| known(&found.schema, &found.table));
        Ok(Counts { tables, ..Counts::default() })
    }
}

#[async_trait]
impl Staged for InPlace {
    fn counts(&self) -> &Counts {
        &self.counts
    }

    async fn swap(self: Box<Self>) -> Result<Option<Kept>, ComponentError> {
        let admin = &self.goal.admin;
        // Whoever sits idle in a transaction would hold the restore up for ever. Others wait for its locks.
        if admin.seat != self.goal.name
            && let Err(err) = admin.close_sessions(&self.goal.name).await
        {
            tracing::warn!(%err, "sessions go on, and the restore waits for them");
        }
        let (client, server) = (&self.goal.client, self.goal.server.major);
        let role = self.goal.live.as_ref().map(|live| live.owner.as_str());
        let role = if admin.is_member(role).await? { role } else { None };
        let rights = &self.goal.rights;
        Load { client, config: &self.config, role, rights, server }.in_place(&self.file).await?;
        let uncounted = |err: ComponentError| ComponentError::Unusable {
            what: "the restore in place is done, but its rows could not be counted".into(),
            source: Some(err.into()),
        };
        let wrong = self.counts.differences(&self.count().await.map_err(uncounted)?);
        if wrong.is_empty() {
            return Ok(None);
        }
        let what = format!(
            "the restore in place is done, but something else is there now than in the backup: {}",
            wrong.join("; ")
        );
        Err(ComponentError::Corrupt { what, source: None })
    }

    async fn discard(self: Box<Self>) -> Result<(), ComponentError> {
        Ok(()) // the file goes with the value
    }
}
