//! A database beside the live one, filled from an archive.

use crate::component::postgres::{
    Order,
    admin::{self, Admin, fault},
    advisory_lock::AdvisoryLock,
    comparison::{PropertyTrial, compare_properties, untried, wrong_definitions, wrong_rights},
    config::PostgresConfig,
    database, definitions, entries, extensions,
    load::Load,
    mark::{Mark, Role, comment_on},
    properties,
    refusal::{self, Refusal},
    restore_target::RestoreTarget,
    rights::PUBLIC_OF_THE_OWNER,
    sessions,
    snapshot::{Server, Snapshot},
    swap::DatabaseSwap,
    views,
};
use crate::component::{
    ComponentError, Feed, Staged, UndoPoint,
    scratch::{self, Scratch},
};
use crate::domain::{
    facts::{Counts, Facts, TableRows},
    progress::Meter,
    rights::Rights,
    task_note::TaskNote,
};
use async_trait::async_trait;
use jiff::Timestamp;
use std::{collections::BTreeSet, slice};

/// A whole copy.
#[derive(Debug)]
pub struct Copy {
    swap: DatabaseSwap,
    /// The lock of the whole restore.
    lock: AdvisoryLock,
    drill: bool,
    counts: Counts,
    /// The differences to the backup, in words.
    wrong: Vec<String>,
    /// The entries of the archive that it was made without.
    without: Vec<Refusal>,
}

impl Copy {
    /// Makes the copy.
    ///
    /// # Errors
    ///
    /// As [`crate::component::Restorable::stage`].
    pub async fn make(
        mut target: RestoreTarget,
        lock: AdvisoryLock,
        config: &PostgresConfig,
        order: &Order,
        feed: Feed<'_>,
        meter: &Meter,
    ) -> Result<Self, ComponentError> {
        let (name, tried) = create(&mut target, config, meter).await?;
        let inside = PostgresConfig { database: name.clone(), ..config.clone() };
        match whole(&target, &inside, order, tried, feed, meter).await {
            Ok((counts, wrong, without)) => {
                let swap = DatabaseSwap {
                    config: config.clone(),
                    target: target.name,
                    incoming: name,
                    kept: None,
                    note: None,
                };
                Ok(Self { swap, lock, drill: target.drill, counts, wrong, without })
            }
            Err(err) => {
                // `recover` removes it otherwise; the first error is the one that tells.
                if let Err(left) = target.admin.drop_database(&name).await {
                    tracing::warn!(database = name, err = %left, "an unfinished copy is left for now");
                }
                lock.free().await;
                Err(err)
            }
        }
    }
}

/// Fills a copy and makes it like the live database. Returns its counts, where it is otherwise than at the backup, and the
/// entries that are missing because the order goes on without them.
async fn whole(
    target: &RestoreTarget,
    inside: &PostgresConfig,
    order: &Order,
    tried: PropertyTrial,
    feed: Feed<'_>,
    meter: &Meter,
) -> Result<(Counts, Vec<String>, Vec<Refusal>), ComponentError> {
    let facts = order.facts.as_ref();
    let loaded = fill(target, inside, order, feed, meter).await?;
    let found = finish(target, inside, order, loaded).await?;
    found.warnings.into_iter().for_each(|warning| meter.warn(warning));
    // Without the rights of a superuser these are named before.
    let is_built_in = |refusal: &Refusal| !target.admin.superuser && refusal.is_right_on_server();
    let missing = found.missing.into_iter().filter(|refusal| !is_built_in(refusal));
    let (without, refused): (Vec<_>, Vec<_>) =
        missing.partition(|refusal| refusal.is_named_by(&order.without));
    if !refused.is_empty() {
        return Err(refusal::error(&refused));
    }
    for refusal in &without {
        meter.warn(format!("Restored without {}.", refusal.words()));
    }
    let mut wrong = wrong_rights(target, facts, &found.rights);
    let others = wrong_definitions(target, facts, &found.definitions);
    let name_others =
        || others.iter().for_each(|other| meter.warn(format!("Not as in the backup: {other}.")));
    if target.drill {
        wrong.extend(compare_properties(target, &tried, tried.found.clone(), facts, meter).await?);
        for words in untried(target, facts) {
            meter.warn(words);
        }
        if without.is_empty() {
            wrong.extend(others);
        } else {
            name_others();
        }
        return Ok((found.counts, wrong, without));
    }
    let is_used = |name: &&String| without.iter().any(|refusal| refusal.is_named_by(slice::from_ref(*name)));
    for name in order.without.iter().filter(|name| !is_used(name)) {
        meter
            .warn(format!("Nothing was left out for the name {name}: the server has refused nothing of it."));
    }
    if without.is_empty() && !wrong.is_empty() {
        let what = format!("restore owners and privileges: {}", wrong.join("; "));
        return Err(ComponentError::Unusable { what, source: None });
    }
    // Rows are worth more than an index: another definition does not keep them from coming back.
    name_others();
    // An object that is left out has no rights either.
    wrong.drain(..).for_each(|wrong| meter.warn(format!("Without these objects: {wrong}.")));
    let mut statements = match &target.live {
        Some(live) => live.property_statements(&target.admin, &inside.database).await?,
        None => vec![database::unlimited(&inside.database)],
    };
    statements.retain(|statement| !tried.refused.contains(statement));
    let applied = target.admin.at_once(&statements).await;
    applied.map_err(|err| fault("carry over settings and grants of the database", err))?;
    let present = properties::read(&*target.admin.client, &inside.database).await?;
    for wrong in compare_properties(target, &tried, present, facts, meter).await? {
        meter.warn(format!("Not taken over from the live database: {wrong}."));
    }
    Ok((found.counts, wrong, without))
}

/// Creates an empty database beside the live one, with our mark, and tries whether the role may give it everything that
/// the live one has: statements that it may not run are a warning.
async fn create(
    target: &mut RestoreTarget,
    config: &PostgresConfig,
    meter: &Meter,
) -> Result<(String, PropertyTrial), ComponentError> {
    let at = Timestamp::now();
    target.admin.announce(&config.database).await?;
    let name = target.admin.free_name(&target.name, Role::Copy, at).await?;
    let failed = |err| fault(format!("create database {name} beside the live one"), err);
    let create = match &target.like {
        Some(like) => like.create_like(&name),
        None => database::create_plain(&name, &target.owner),
    };
    target.admin.client.batch_execute(&create).await.map_err(failed)?;
    let mark = Mark {
        role: Role::Copy,
        name: name.clone(),
        by: config.database.clone(),
        of: target.name.clone(),
        at,
        comment: None,
        allow: true,
        task_notes: None,
    };
    let marked = async {
        target.admin.client.batch_execute(&comment_on(&name, Some(&mark.text()))).await.map_err(failed)?;
        let (warned, found) = target.try_properties(&name).await?;
        let mut refused = BTreeSet::new();
        for (statement, words) in warned {
            meter.warn(words);
            refused.insert(statement);
        }
        Ok(PropertyTrial { refused, found })
    };
    match marked.await {
        Ok(tried) => Ok((name, tried)),
        Err(err) => {
            let _ = target.admin.drop_database(&name).await;
            Err(err)
        }
    }
}

/// Loads the archive, and tells the entries that the server has refused.
async fn fill(
    target: &RestoreTarget,
    inside: &PostgresConfig,
    order: &Order,
    feed: Feed<'_>,
    meter: &Meter,
) -> Result<Vec<Refusal>, ComponentError> {
    let facts = order.facts.as_ref();
    if let Some(rights) = facts.and_then(|facts| facts.rights.as_ref()) {
        prepare(target, inside, rights).await?;
    }
    let rights = facts.and_then(|facts| facts.rights.as_ref());
    let schemas: Vec<_> = rights.into_iter().flat_map(Rights::schemas_of_extensions).collect();
    let jobs = sessions::jobs(&target.admin.client, inside.jobs).await?;
    let load = Load {
        client: &target.client,
        config: inside,
        role: Some(target.owner.as_str()).filter(|owner| *owner != target.admin.user),
        rights: &target.rights,
        server: target.server.major,
        options: &target.options,
        without: &order.without,
        in_tablespaces: target.lost_tablespaces.is_empty(),
        language: &target.language,
        schemas: &schemas,
    };
    // The dump is about as long as what was read; some room for others.
    let folder = inside.scratch.as_deref().filter(|folder| {
        let fits =
            |facts: &Facts| Some(facts.source_bytes + facts.source_bytes / 8 < scratch::free_bytes(folder)?);
        jobs > 1 && facts.and_then(fits) == Some(true)
    });
    match folder {
        Some(folder) => load.parallel(&Scratch::spool(folder, feed, meter).await?, jobs).await,
        None => load.stream(feed, meter).await,
    }
}

/// Makes an empty copy what the archive takes for granted: without the schema `public` where somebody has dropped it, and
/// with the extensions of owners that `pg_restore` would not give them.
async fn prepare(
    target: &RestoreTarget,
    inside: &PostgresConfig,
    rights: &Rights,
) -> Result<(), ComponentError> {
    let drops = rights.lacks_public && (target.admin.superuser || target.server.major >= PUBLIC_OF_THE_OWNER);
    let creator = target.rights.creator(&target.admin.user);
    if !drops && (creator.is_none() || rights.extensions.is_empty()) {
        return Ok(());
    }
    let client = admin::alone(inside, &inside.database).await?;
    let _ = client.batch_execute("SET default_transaction_read_only = off").await;
    if drops {
        let drop = client.batch_execute("DROP SCHEMA IF EXISTS public").await;
        drop.map_err(|err| fault("drop schema public in the copy, as in the backup", err))?;
    }
    match creator {
        Some(creator) => extensions::create(&client, &rights.extensions, creator).await,
        None => Ok(()),
    }
}

/// The contents of a copy.
struct CopyContents {
    counts: Counts,
    rights: Rights,
    definitions: definitions::FoundDefinitions,
    missing: Vec<Refusal>,
    warnings: Vec<String>,
}

/// Fills materialized views that `pg_restore` has left empty, lets the planner know the rows, counts them, and reads owners,
/// privileges and definitions. `refused` are the entries that `pg_restore` has not brought.
async fn finish(
    target: &RestoreTarget,
    inside: &PostgresConfig,
    order: &Order,
    mut refused: Vec<Refusal>,
) -> Result<CopyContents, ComponentError> {
    let mut client = admin::alone_with(inside, &inside.database, target.quiet).await?;
    let _ = client.batch_execute("SET default_transaction_read_only = off").await;
    let server = Server::ask(&client).await?;
    let contents = refused.extract_if(.., |refusal| refusal.kind == entries::CONTENTS).collect::<Vec<_>>();
    let derived = order.facts.as_ref().and_then(|facts| facts.derived.as_ref());
    let (empty, mut warnings) = views::fill(&client, derived, &contents).await?;
    refused.extend(empty);
    client.batch_execute("ANALYZE").await.map_err(|err| fault("analyze the copy", err))?;
    let mut snapshot = Snapshot::open(&mut client, &server, &order.exclude).await?;
    let (tables, rights) = (snapshot.count().await?, snapshot.rights().await?);
    let promised = order.facts.as_ref().and_then(|facts| facts.definitions.as_ref());
    let definitions = snapshot.definitions(&server, promised).await?;
    warnings.extend(promised.into_iter().flat_map(|p| p.other_extensions(&definitions.definitions)));
    let present = snapshot.derived(&server).await?;
    warnings.extend(derived.into_iter().flat_map(|derived| derived.lost(&present)));
    snapshot.close().await?;
    let noted = order.facts.as_ref().and_then(|facts| facts.rights.as_ref());
    if let (Some(noted), Some(creator)) = (noted, target.rights.creator(&target.admin.user)) {
        warnings.extend(noted.other_owners(&rights, creator));
    }
    Ok(CopyContents {
        counts: Counts { tables, ..Counts::default() },
        rights,
        definitions,
        missing: refused,
        warnings,
    })
}

#[async_trait]
impl Staged for Copy {
    fn counts(&self) -> &Counts {
        &self.counts
    }

    fn expected(&self, promised: &Counts) -> Counts {
        let mut expected = promised.clone();
        let rows = self.without.iter().filter(|refusal| refusal.kind == entries::ROWS);
        for refusal in rows {
            let is_it = |table: &TableRows| {
                table.table == refusal.tag
                    && refusal.schema.as_ref().is_none_or(|schema| table.schema == *schema)
            };
            let found = |table: &TableRows| {
                self.counts.tables.iter().find(|found| is_it(found) && found.schema == table.schema)
            };
            expected.tables.retain(|table| !is_it(table) || found(table).is_some());
            for table in expected.tables.iter_mut().filter(|table| is_it(table)) {
                table.rows = found(table).map_or(0, |found| found.rows);
            }
        }
        expected
    }

    async fn differences(&self, _: Feed<'_>, _: &Meter) -> Result<Vec<String>, ComponentError> {
        Ok(self.wrong.clone())
    }

    fn set_task_note(&mut self, note: TaskNote) {
        self.swap.note = Some(note);
    }

    async fn swap(self: Box<Self>) -> Result<Option<UndoPoint>, ComponentError> {
        if self.drill {
            let what = "a drill's copy does not become the live database".into();
            return Err(ComponentError::Unusable { what, source: None });
        }
        self.swap.carry_out(self.lock).await
    }

    async fn discard(self: Box<Self>) -> Result<(), ComponentError> {
        let admin = Admin::beside(&self.swap.config, &self.swap.target).await?;
        admin.drop_database(&self.swap.incoming).await?;
        self.lock.free().await;
        Ok(())
    }
}
