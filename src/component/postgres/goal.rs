//! What a restore is to become, and by which way: looked up before anything is touched.

use crate::base::chain;
use crate::component::postgres::{
    admin::{self, Admin, fault},
    bound::{self, Bound},
    clients::{self, Client},
    config::PostgresConfig,
    database::{self, Database},
    extensions, load,
    mark::{LONGEST_NAME, ident},
    rights::Way,
    snapshot::Server,
    tablespaces,
};
use crate::component::{ComponentError, Plan, Target, Walk, scratch};
use crate::domain::{
    derived::{Derived, Unqualified, VIEW},
    facts::Facts,
    rights::Rights,
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// A database to be replaced, and what there is to do it with.
pub struct Goal {
    /// Its name.
    pub name: String,
    /// Itself, if it is there.
    pub live: Option<Database>,
    /// Whose owner, encoding and locale the new one gets: the live one, or the one of the configuration.
    pub like: Option<Database>,
    /// Whether the copy is only to be looked at.
    pub drill: bool,
    /// Whether a copy can be made beside it; if not, only what is in it can be replaced.
    pub swaps: bool,
    /// The statements that would let the role make one.
    wants: String,
    /// Owners and privileges of the objects after the restore.
    pub rights: Way,
    /// The setting under which event triggers do not fire in a session.
    pub quiet: Option<&'static str>,
    /// The settings of a session of `pg_restore`.
    pub options: String,
    /// The tablespaces of the backup that the server does not have or does not let the role use, a whole sentence for each.
    pub lost_tablespaces: Vec<String>,
    /// The server.
    pub server: Server,
    /// The `pg_restore` to use.
    pub client: Client,
    /// A session beside it.
    pub admin: Admin,
}

fn unusable(what: String) -> ComponentError {
    ComponentError::Unusable { what, source: None }
}

impl Goal {
    /// Looks up everything, and asks what such a walk over the [steps](super::steps) of a restore asks.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unusable`] when the target is none, a right or a program is missing; as sorted otherwise.
    pub async fn find(
        config: &PostgresConfig,
        target: &Target,
        facts: Option<&Facts>,
        walk: Walk,
    ) -> Result<Self, ComponentError> {
        let name = match target {
            Target::Live | Target::Scratch => &config.database,
            Target::Database(name) => checked(name)?,
            Target::Folder(folder) => {
                return Err(unusable(format!(
                    "a database cannot be restored into the folder {}: name a database",
                    folder.display()
                )));
            }
            Target::Classes(_) => return Err(unusable("a database has no classes".to_owned())),
            Target::LiveWithAccess => {
                return Err(unusable("the roles of PostgreSQL are not in backups of a database".to_owned()));
            }
        };
        let admin = Admin::beside(config, name).await?;
        let server = Server::ask(&admin.client).await?;
        let rights = facts.and_then(|facts| facts.rights.as_ref());
        let quiet = load::quiet(admin.superuser, server.major, rights);
        let live = Database::find(&admin, name).await?;
        let like = match &live {
            Some(live) => Some(live.clone()),
            None => Database::find(&admin, &config.database).await?,
        };
        let owner = like.as_ref().map_or(&admin.user, |like| &like.owner);
        let wants = admin.no_swap(name, owner).await?;
        let swaps = wants.is_none();
        let drill = *target == Target::Scratch;
        let set = config.bin_dir.as_deref();
        let found = clients::search(set).await?;
        let client = load::choose(server.major, facts, &found).cloned();
        let client = client.ok_or_else(|| unusable(no_client(set, &found, facts)))?;
        let rights = Way::find(&admin, rights, owner).await?;
        let derived = facts.and_then(|facts| facts.derived.as_ref());
        let lc_monetary = derived.and_then(|derived| derived.lc_monetary.as_deref());
        let options = load::options(admin.superuser, quiet, server.major, lc_monetary);
        let lost_tablespaces = tablespaces::lost(&admin, &rights, derived).await?;
        let (name, wants) = (name.clone(), wants.unwrap_or_default());
        let goal = Self {
            name,
            live,
            like,
            drill,
            swaps,
            wants,
            rights,
            quiet,
            options,
            lost_tablespaces,
            server,
            client,
            admin,
        };
        goal.ask_all(config, walk).await?;
        Ok(goal)
    }

    /// Refuses a restore that must make a database and may not.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unusable`] with the right that is missing; as sorted.
    pub async fn may_be_made(&self) -> Result<(), ComponentError> {
        let (user, name) = (&self.admin.user, &self.name);
        let owner = self.like.as_ref().map_or(user, |like| &like.owner);
        if self.swaps {
            return Ok(());
        }
        if !self.drill && self.live.is_some() {
            // Objects that are made in place by a role that may not act as the owner would belong to that role.
            let Some(grant) = self.admin.lacks(owner).await? else { return Ok(()) };
            return Err(unusable(format!(
                "role {user} may not act as {owner}, to whom belongs what is restored into {name}: {grant}"
            )));
        }
        let why = if self.drill { "to try a restore" } else { "because there is no such database" };
        Err(unusable(format!(
            "role {user} must create a database for {owner} beside {name} {why}: {}",
            self.wants
        )))
    }

    /// Tries to give a database everything that the live one has beside its contents, and takes that back. Returns the
    /// statements that the server refuses, each with a warning.
    ///
    /// # Errors
    ///
    /// As sorted.
    pub async fn try_properties(&mut self, copy: &str) -> Result<Vec<(String, String)>, ComponentError> {
        let Some(live) = &self.live else { return Ok(Vec::new()) };
        let dress = live.dress(&self.admin, copy).await?;
        let refused = self.admin.rehearse(&dress).await?;
        let warned = |(statement, said): (String, String)| {
            let later = database::without_secret(&statement.replace(&ident(copy), &ident(&self.name)));
            let words =
                format!("A property of the database is not carried over ({said}). As a superuser: {later}");
            (statement, words)
        };
        Ok(refused.into_iter().map(warned).collect())
    }

    /// How the configured database would be restored, in words for whoever looks before the bad day.
    pub async fn way(config: &PostgresConfig) -> String {
        match Self::find(config, &Target::Live, None, Walk::Check).await {
            Ok(goal) if goal.swaps => {
                let bound = bound::find(config, &config.database).await.ok().flatten();
                let bound = bound.map_or_else(String::new, |bound| format!("; {}", bound.words()));
                format!("a restore is made beside it and swapped in{bound}")
            }
            Ok(goal) => format!(
                "a restore would replace its contents in place, without undo, since role {} may not make a \
                 database for its owner ({})",
                ident(&goal.admin.user),
                goal.wants
            ),
            Err(err) => format!("a restore would not begin: {}", chain(&err)),
        }
    }

    /// Says what would happen.
    ///
    /// # Errors
    ///
    /// As sorted.
    pub async fn plan(
        &mut self,
        config: &PostgresConfig,
        facts: Option<&Facts>,
    ) -> Result<Plan, ComponentError> {
        let mut warnings = self.warnings(facts);
        let mut lost_properties = Vec::new();
        if let (Some(live), true, false) = (&self.live, self.swaps, self.drill) {
            warnings.extend(self.admin.stays_with(&live.name).await?);
            // On the live database, which keeps everything: the transaction is taken back.
            let name = self.name.clone();
            lost_properties = self.try_properties(&name).await?.into_iter().map(|(_, words)| words).collect();
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
        let bound = if self.swaps { self.bound(config).await? } else { None };
        refuses.extend(bound.iter().flat_map(|bound| bound.names.clone()));
        let dumped = ["postgres_server", "pg_dump"].into_iter().filter_map(|program| {
            Some(format!("backup made of {program} {}", facts?.versions.get(program)?))
        });
        let here = [
            format!("PostgreSQL server {}", self.server.version),
            format!("pg_restore {} in {}", self.client.version, self.client.dir.display()),
        ];
        Ok(Plan {
            replaces: self.replaces(config).await?,
            method: method.into(),
            needs_bytes,
            free_bytes,
            downtime: if self.drill { "none".into() } else { downtime.into() },
            versions: here.into_iter().chain(dumped).collect(),
            warnings,
            advice: unqualified()
                .map(Unqualified::warning)
                .chain(lost)
                .chain(owners)
                .chain(lost_properties)
                .chain(bound.map(|bound| format!("Extension {}.", bound.words())))
                .collect(),
            lost_rights: self.lost_rights(facts),
            refuses: refuses.into_iter().collect(),
            looks_into_archive: !self.swaps,
        })
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
    /// As sorted.
    pub async fn bound(&self, config: &PostgresConfig) -> Result<Option<Bound>, ComponentError> {
        match &self.live {
            Some(live) if live.allows => bound::find(config, &live.name).await,
            _ => Ok(None),
        }
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
        let owner = self.like.as_ref().map_or(&self.admin.user, |like| &like.owner);
        extensions::foreseen(&self.admin, &rights.extensions, creator, owner).await
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
                self.name, self.admin.user
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

    /// Tests whether the backup was made of a server of this major version.
    pub fn is_of_its_version(&self, facts: Option<&Facts>) -> bool {
        facts.and_then(|facts| load::major(facts.versions.get("postgres_server")?)) == Some(self.server.major)
    }

    /// The warning that owners, privileges and definitions are not compared, because the major versions are others.
    pub fn uncompared(&self, facts: Option<&Facts>) -> Option<String> {
        let dumped = facts.filter(|facts| facts.definitions.is_some())?.versions.get("postgres_server")?;
        (!self.is_of_its_version(facts)).then(|| {
            format!(
                "The backup was made of PostgreSQL {dumped}, and this server is {}: rows are compared, but not owners, \
                 privileges and definitions.",
                self.server.version
            )
        })
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

/// Where the archive waits for the transaction that restores it in place.
pub fn in_place_folder(config: &PostgresConfig) -> PathBuf {
    config.scratch.clone().unwrap_or_else(std::env::temp_dir)
}

/// A name that a database can have and that is not the server's own.
fn checked(name: &String) -> Result<&String, ComponentError> {
    let own = ["template0", "template1"].contains(&name.as_str());
    if name.is_empty() || name.len() > LONGEST_NAME || name.contains('\0') || own {
        return Err(unusable(format!(
            "{name:?} cannot be restored to: name a database, in at most {LONGEST_NAME} bytes"
        )));
    }
    Ok(name)
}

fn no_client(set: Option<&Path>, found: &[Client], facts: Option<&Facts>) -> String {
    if found.is_empty() {
        return clients::missing(set);
    }
    let by = facts.and_then(|facts| facts.versions.get("pg_dump")).map_or("?", String::as_str);
    let major = load::major(by).map_or("?".to_owned(), |major| major.to_string());
    format!("pg_dump {by} made the archive: install postgresql-client-{major}")
}
