//! A database beside the live one, filled from an archive.

use crate::component::postgres::{
    admin::{self, Admin, fault},
    config::PostgresConfig,
    database,
    goal::Goal,
    load::Load,
    mark::{Mark, Role, comment_on},
    snapshot::{Excluded, Server, Snapshot},
    swap::Exchange,
};
use crate::component::{
    ComponentError, Feed, Kept, Staged,
    scratch::{self, Scratch},
};
use crate::domain::{
    facts::{Counts, Facts},
    progress::Meter,
};
use async_trait::async_trait;
use jiff::Timestamp;

/// A whole copy.
#[derive(Debug)]
pub struct Copy {
    exchange: Exchange,
    drill: bool,
    counts: Counts,
}

impl Copy {
    /// Makes the copy. `exclude` as for the backup.
    ///
    /// # Errors
    ///
    /// As [`crate::component::Component::stage`].
    pub async fn make(
        mut goal: Goal,
        config: &PostgresConfig,
        exclude: &[Excluded],
        feed: Feed<'_>,
        facts: Option<&Facts>,
        meter: &Meter,
    ) -> Result<Self, ComponentError> {
        let name = create(&mut goal, config).await?;
        let inside = PostgresConfig { database: name.clone(), ..config.clone() };
        let filled = async {
            fill(&goal, &inside, feed, facts, meter).await?;
            let counts = count(&inside, exclude).await?;
            if !goal.drill
                && let Some(live) = &goal.live
            {
                let dress = live.dress(&goal.admin, &name).await?;
                goal.admin.at_once(&dress).await.map_err(undressed)?;
            }
            Ok(counts)
        };
        match filled.await {
            Ok(counts) => {
                let exchange =
                    Exchange { config: config.clone(), target: goal.name, incoming: name, kept: None };
                Ok(Self { exchange, drill: goal.drill, counts })
            }
            Err(err) => {
                // `recover` removes it otherwise; the first error is the one that tells.
                if let Err(left) = goal.admin.drop_database(&name).await {
                    tracing::warn!(database = name, err = %left, "an unfinished copy is left for now");
                }
                Err(err)
            }
        }
    }
}

fn undressed(err: deadpool_postgres::tokio_postgres::Error) -> ComponentError {
    fault("carry over settings and grants of the database", err)
}

/// Creates an empty database beside the live one, with our mark, and makes sure that the role may give it
/// everything that the live one has.
async fn create(goal: &mut Goal, config: &PostgresConfig) -> Result<String, ComponentError> {
    let at = Timestamp::now();
    goal.admin.announce(&config.database).await?;
    let name = goal.admin.free_name(&goal.name, Role::Copy, at).await?;
    let failed = |err| fault(format!("create database {name} beside the live one"), err);
    let create =
        goal.like.as_ref().map_or_else(|| database::create_plain(&name), |like| like.create_like(&name));
    goal.admin.client.batch_execute(&create).await.map_err(failed)?;
    let mark = Mark {
        role: Role::Copy,
        name: name.clone(),
        by: config.database.clone(),
        of: goal.name.clone(),
        at,
        comment: None,
        allow: true,
    };
    let marked = async {
        goal.admin.client.batch_execute(&comment_on(&name, Some(&mark.text()))).await.map_err(failed)?;
        if !goal.drill
            && let Some(live) = &goal.live
        {
            let dress = live.dress(&goal.admin, &name).await?;
            goal.admin.rehearse(&dress).await.map_err(undressed)?;
        }
        Ok(())
    };
    if let Err(err) = marked.await {
        let _ = goal.admin.drop_database(&name).await;
        return Err(err);
    }
    Ok(name)
}

async fn fill(
    goal: &Goal,
    inside: &PostgresConfig,
    feed: Feed<'_>,
    facts: Option<&Facts>,
    meter: &Meter,
) -> Result<(), ComponentError> {
    let owner = goal.like.as_ref().map(|like| like.owner.as_str());
    let role = owner.filter(|owner| *owner != goal.admin.user);
    let load = Load { client: &goal.client, config: inside, role, server: goal.server.major };
    // The dump is about as long as what was read; some room for others.
    let folder = inside.scratch.as_deref().filter(|folder| {
        let fits =
            |facts: &Facts| Some(facts.source_bytes + facts.source_bytes / 8 < scratch::free_bytes(folder)?);
        inside.jobs > 1 && facts.and_then(fits) == Some(true)
    });
    match folder {
        Some(folder) => load.parallel(&Scratch::spool(folder, feed, meter).await?, inside.jobs).await,
        None => load.stream(feed, meter).await,
    }
}

/// Counts the rows of every table and lets the planner know them too.
async fn count(inside: &PostgresConfig, exclude: &[Excluded]) -> Result<Counts, ComponentError> {
    let mut client = admin::alone(inside, &inside.database).await?;
    let _ = client.batch_execute("SET default_transaction_read_only = off").await;
    client
        .batch_execute("SET statement_timeout = 0; ANALYZE")
        .await
        .map_err(|err| fault("analyze the copy", err))?;
    let server = Server::ask(&client).await?;
    let snapshot = Snapshot::open(&mut client, &server, exclude).await?;
    let tables = snapshot.count().await?;
    snapshot.close().await?;
    Ok(Counts { tables, ..Counts::default() })
}

#[async_trait]
impl Staged for Copy {
    fn counts(&self) -> &Counts {
        &self.counts
    }

    async fn swap(self: Box<Self>) -> Result<Option<Kept>, ComponentError> {
        if self.drill {
            let what = "a drill's copy does not become the live database".into();
            return Err(ComponentError::Unusable { what, source: None });
        }
        self.exchange.carry_out().await
    }

    async fn discard(self: Box<Self>) -> Result<(), ComponentError> {
        let admin = Admin::beside(&self.exchange.config, &self.exchange.target).await?;
        admin.drop_database(&self.exchange.incoming).await
    }
}
