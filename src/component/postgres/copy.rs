//! A database beside the live one, filled from an archive.

use crate::component::postgres::{
    admin::{self, Admin, fault},
    config::PostgresConfig,
    database,
    goal::Goal,
    load::{self, Load},
    mark::{Mark, Role, comment_on, ident},
    rights::Way,
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
    rights::Rights,
};
use async_trait::async_trait;
use jiff::Timestamp;
use std::collections::BTreeSet;

/// A whole copy.
#[derive(Debug)]
pub struct Copy {
    exchange: Exchange,
    drill: bool,
    counts: Counts,
    /// Where owners and privileges are not as they were, in words.
    wrong_rights: Vec<String>,
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
        let (name, refused) = create(&mut goal, config, meter).await?;
        let inside = PostgresConfig { database: name.clone(), ..config.clone() };
        let filled = async {
            fill(&goal, &inside, feed, facts, meter).await?;
            let (counts, rights) = count(&inside, exclude).await?;
            let wrong_rights = wrong_rights(&goal, facts, &rights);
            if !goal.drill && !wrong_rights.is_empty() {
                let what = format!("restore owners and privileges: {}", wrong_rights.join("; "));
                return Err(ComponentError::Unusable { what, source: None });
            }
            if !goal.drill
                && let Some(live) = &goal.live
            {
                let mut dress = live.dress(&goal.admin, &name).await?;
                dress.retain(|statement| !refused.contains(statement));
                goal.admin.at_once(&dress).await.map_err(undressed)?;
            }
            Ok((counts, wrong_rights))
        };
        match filled.await {
            Ok((counts, wrong_rights)) => {
                let exchange =
                    Exchange { config: config.clone(), target: goal.name, incoming: name, kept: None };
                Ok(Self { exchange, drill: goal.drill, counts, wrong_rights })
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

/// Creates an empty database beside the live one, with our mark, and tries whether the role may give it everything that
/// the live one has: statements that it may not run are a warning.
async fn create(
    goal: &mut Goal,
    config: &PostgresConfig,
    meter: &Meter,
) -> Result<(String, BTreeSet<String>), ComponentError> {
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
    let mut refused = BTreeSet::new();
    let marked = async {
        goal.admin.client.batch_execute(&comment_on(&name, Some(&mark.text()))).await.map_err(failed)?;
        if !goal.drill
            && let Some(live) = &goal.live
        {
            let dress = live.dress(&goal.admin, &name).await?;
            for (statement, said) in goal.admin.rehearse(&dress).await.map_err(undressed)? {
                let later = statement.replace(&ident(&name), &ident(&goal.name));
                meter.warn(format!(
                    "A property of the database is not carried over ({said}). As a superuser: {later}"
                ));
                refused.insert(statement);
            }
        }
        Ok(())
    };
    if let Err(err) = marked.await {
        let _ = goal.admin.drop_database(&name).await;
        return Err(err);
    }
    Ok((name, refused))
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
    let load =
        Load { client: &goal.client, config: inside, role, rights: &goal.rights, server: goal.server.major };
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

/// Where the owners and privileges of a copy are not those of the backup, in words. Nothing is compared where they are not
/// restored, and between two major versions, which have other privileges.
fn wrong_rights(goal: &Goal, facts: Option<&Facts>, found: &Rights) -> Vec<String> {
    let promised = facts.and_then(|facts| facts.rights.as_ref());
    let made_by = facts.and_then(|facts| load::major(facts.versions.get("postgres_server")?));
    let is_comparable = matches!(goal.rights, Way::AsTheyWere(_)) && made_by == Some(goal.server.major);
    promised.filter(|_| is_comparable).map(|promised| promised.differences(found)).unwrap_or_default()
}

/// Counts the rows of every table, lets the planner know them too, and reads owners and privileges.
async fn count(inside: &PostgresConfig, exclude: &[Excluded]) -> Result<(Counts, Rights), ComponentError> {
    let mut client = admin::alone(inside, &inside.database).await?;
    let _ = client.batch_execute("SET default_transaction_read_only = off").await;
    client.batch_execute("ANALYZE").await.map_err(|err| fault("analyze the copy", err))?;
    let server = Server::ask(&client).await?;
    let snapshot = Snapshot::open(&mut client, &server, exclude).await?;
    let (tables, rights) = (snapshot.count().await?, snapshot.rights().await?);
    snapshot.close().await?;
    Ok((Counts { tables, ..Counts::default() }, rights))
}

#[async_trait]
impl Staged for Copy {
    fn counts(&self) -> &Counts {
        &self.counts
    }

    async fn differences(&self, _: Feed<'_>, _: &Meter) -> Result<Vec<String>, ComponentError> {
        Ok(self.wrong_rights.clone())
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
