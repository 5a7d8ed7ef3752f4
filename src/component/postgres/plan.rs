//! The plan of a restore, in words for people who look before the bad day.

use crate::component::postgres::{
    admin::{self, fault},
    config::PostgresConfig,
    extensions, load, properties,
    restore_target::{RestoreTarget, in_place_folder},
    single_database_extensions::{self, SingleDatabaseExtension},
};
use crate::component::{ComponentError, Plan, scratch};
use crate::domain::{
    derived::{Derived, UnqualifiedObject, VIEW},
    facts::Facts,
    rights::Rights,
};
use std::{collections::BTreeSet, path::Path};

impl RestoreTarget {
    /// The plan of the restore.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn plan(
        &mut self,
        config: &PostgresConfig,
        facts: Option<&Facts>,
    ) -> Result<Plan, ComponentError> {
        let mut warnings = self.warnings(facts);
        let mut lost_properties = Vec::new();
        if let (Some(live), true, false) = (&self.live, self.swaps, self.drill) {
            warnings.extend(self.admin.left_behind(&live.name).await?);
            // On the live database, which keeps everything: the transaction is taken back.
            let name = self.name.clone();
            let (refused, _) = self.try_properties(&name).await?;
            lost_properties = refused.into_iter().map(|(_, words)| words).collect();
        }
        if let (Some(live), false) = (&self.live, self.drill) {
            let found = properties::read(&*self.admin.client, &live.name).await?;
            lost_properties.extend(self.other_properties(&found, facts));
        }
        let derived = facts.and_then(|facts| facts.derived.as_ref());
        let lost = derived.into_iter().flat_map(|derived| derived.lost(&Derived::default()));
        let owners = self.owners_of_extensions(facts).await?;
        let source = facts.map(|facts| facts.source_bytes);
        let scratch = in_place_folder(config);
        let (method, downtime, needs_bytes, free_bytes) = if self.swaps {
            let needs = facts.and_then(|facts| facts.database_bytes).or(source);
            ("swap by rename", "milliseconds", needs, self.server_space(config).await)
        } else {
            let free = scratch::free_bytes(&scratch);
            ("in place in one transaction", "while the restore runs", source, free)
        };
        let unqualified = || derived.into_iter().flat_map(|derived| &derived.unqualified);
        let mut refuses: BTreeSet<_> =
            unqualified().filter(|object| object.kind != VIEW).map(|object| object.name.clone()).collect();
        let bound = if self.swaps { self.single_database_extension(config).await? } else { None };
        refuses.extend(bound.iter().flat_map(|bound| bound.names.clone()));
        let mut impossible = self.impossible_extensions(facts).await?;
        impossible.retain(|(name, _)| !refuses.contains(name));
        refuses.extend(impossible.iter().map(|(name, _)| name.clone()));
        let differences = || derived.into_iter().flat_map(|derived| &derived.refused);
        refuses.extend(differences().map(|object| object.name.clone()));
        Ok(Plan {
            replaces: self.replaces(config).await?,
            method: method.into(),
            needs_bytes,
            free_bytes,
            downtime: if self.drill { "none".into() } else { downtime.into() },
            versions: self.versions(facts),
            warnings,
            advice: unqualified()
                .map(UnqualifiedObject::warning)
                .chain(lost)
                .chain(owners)
                .chain(lost_properties)
                .chain(differences().map(|object| object.warning.clone()))
                .chain(impossible.into_iter().map(|(_, words)| words))
                .chain(bound.map(|bound| format!("Extension {}.", bound.words())))
                .collect(),
            lost_rights: self.lost_rights(facts),
            refuses: refuses.into_iter().collect(),
            not_tried: Vec::new(),
            looks_into_archive: !self.swaps,
            is_elsewhere: self.is_elsewhere,
        })
    }

    /// The versions of the programs here and of those that made the backup.
    fn versions(&self, facts: Option<&Facts>) -> Vec<String> {
        let dumped = ["postgres_server", "pg_dump"].into_iter().filter_map(|program| {
            Some(format!("backup made of {program} {}", facts?.versions.get(program)?))
        });
        let here = [
            format!("PostgreSQL server {}", self.server.version),
            format!("pg_restore {} in {}", self.client.version, self.client.dir.display()),
        ];
        here.into_iter().chain(dumped).collect()
    }

    /// The database that the restore replaces, for people.
    async fn replaces(&self, config: &PostgresConfig) -> Result<String, ComponentError> {
        Ok(match &self.live {
            _ if self.drill => "nothing: the copy is compared and dropped".to_owned(),
            None => format!("nothing: there is no database {}", self.name),
            Some(live) => {
                let tables = tables_in(config, &self.name).await?;
                format!("database {} ({} MB, {tables} tables)", live.name, live.bytes / 1_000_000)
            }
        })
    }

    /// The extension of the live database that no copy of it can have.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn single_database_extension(
        &self,
        config: &PostgresConfig,
    ) -> Result<Option<SingleDatabaseExtension>, ComponentError> {
        match &self.live {
            Some(live) if live.allows => single_database_extensions::find(config, &live.name).await,
            _ => Ok(None),
        }
    }

    /// The extensions of the backup that cannot be created here, by name, each with a whole sentence.
    async fn impossible_extensions(
        &self,
        facts: Option<&Facts>,
    ) -> Result<Vec<(String, String)>, ComponentError> {
        let Some(noted) = facts.and_then(|facts| facts.definitions.as_ref()) else { return Ok(Vec::new()) };
        // Every database has this one.
        let names: Vec<_> =
            noted.extensions.keys().map(String::as_str).filter(|name| *name != "plpgsql").collect();
        let creator = self.rights.creator(&self.admin.user).unwrap_or(&self.owner);
        extensions::impossible(&self.admin, &names, creator).await
    }

    /// Refuses a restore of extensions that cannot be created here, unless it goes on without them.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unusable`] with the way out; else the error of the server.
    pub async fn extensions_can_be_created(
        &self,
        facts: Option<&Facts>,
        without: &[String],
    ) -> Result<(), ComponentError> {
        let mut found = self.impossible_extensions(facts).await?;
        found.retain(|(name, _)| !without.contains(name));
        if found.is_empty() {
            return Ok(());
        }
        let (names, words): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        let lines: Vec<_> = names.iter().map(|name| format!("--without '{name}'")).collect();
        let what = format!("{} Or go on without what needs it: {}", words.join(" "), lines.join(" "));
        Err(ComponentError::Unusable { what, source: None })
    }

    /// The owners and privileges that become otherwise than they were, in a whole sentence.
    pub fn lost_rights(&self, facts: Option<&Facts>) -> Option<String> {
        self.rights.lost(facts.and_then(|facts| facts.rights.as_ref()), self.admin.superuser)
    }

    /// Warnings about the extensions whose owners become others.
    async fn owners_of_extensions(&self, facts: Option<&Facts>) -> Result<Vec<String>, ComponentError> {
        let rights = facts.and_then(|facts| facts.rights.as_ref());
        let (Some(rights), Some(creator)) = (rights, self.rights.creator(&self.admin.user)) else {
            return Ok(Vec::new());
        };
        if !self.swaps {
            return Ok(rights.other_owners(&Rights::default(), creator));
        }
        extensions::creation_warnings(&self.admin, &rights.extensions, creator, &self.owner).await
    }

    fn warnings(&self, facts: Option<&Facts>) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.swaps {
            warnings.push(format!(
                "Role {} may not create a database for its owner beside {} ({}): its contents are replaced in one \
                 transaction, and there is no undo. Tables that are not in the backup stay as they are; what was added since to a \
                 table that is in it (columns, indexes, triggers) goes.",
                self.admin.user, self.name, self.wants
            ));
        }
        if self.like.is_none() {
            warnings.push(format!(
                "There is no database {} to take owner, encoding, locale, settings and grants from: {} will own \
                 it, with the defaults of the server.",
                self.name, self.owner
            ));
        } else if self.live.is_none() {
            warnings.push(format!(
                "There is no database {}: it gets owner, encoding and locale of the one of the configuration, but no \
                 settings and grants.",
                self.name
            ));
        }
        warnings.extend(self.rights.unknown(facts.and_then(|facts| facts.rights.as_ref())));
        warnings.extend(self.uncompared(facts));
        warnings.extend(self.lost_tablespaces.iter().cloned());
        let derived = facts.and_then(|facts| facts.derived.as_ref());
        warnings.extend(derived.into_iter().flat_map(|derived| derived.left_out.iter().cloned()));
        let older = |dumped: &String| load::major(dumped).filter(|major| *major > self.server.major);
        if let Some(newer) = facts.and_then(|facts| facts.versions.get("postgres_server")).and_then(older) {
            warnings.push(format!(
                "The backup was made of PostgreSQL {newer}: this server is {} and may not understand it.",
                self.server.version
            ));
        }
        warnings
    }

    /// Room where the server keeps its data; only a server on this machine can show it.
    async fn server_space(&self, config: &PostgresConfig) -> Option<u64> {
        let local =
            config.host.starts_with('/') || ["localhost", "127.0.0.1", "::1"].contains(&&*config.host);
        // A port may be forwarded to a container, whose paths are not ours.
        let ask = "SELECT current_setting('data_directory'), inet_server_addr() IS NULL \
                   OR host(inet_server_addr()) IN ('127.0.0.1', '::1')";
        let row = self.admin.client.query_one(ask, &[]).await.ok()?;
        if !local || !row.get::<_, bool>(1) {
            return None;
        }
        scratch::free_bytes(Path::new(row.get::<_, &str>(0)))
    }
}

/// The number of tables in a database.
async fn tables_in(config: &PostgresConfig, name: &str) -> Result<i64, ComponentError> {
    const COUNT: &str = "
        SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND relkind IN ('r', 'p')";
    let client = admin::alone(config, name).await?;
    let row = client.query_one(COUNT, &[]).await.map_err(|err| fault("look at the tables", err))?;
    Ok(row.get(0))
}
