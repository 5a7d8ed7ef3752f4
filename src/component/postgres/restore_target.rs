//! The target of a restore, and the means of the restore: looked up before anything is touched.

use crate::base::chain;
use crate::component::postgres::{
    admin::{self, Admin, fault},
    clients::{self, Client},
    config::PostgresConfig,
    database::{self, Database},
    language::Language,
    load,
    mark::{LONGEST_NAME, ident},
    rights::OwnershipMode,
    single_database_extensions,
    snapshot::Server,
    tablespaces,
};
use crate::component::{ComponentError, RestoreMode, Target};
use crate::domain::{facts::Facts, properties::Properties, rights::Rights};
use std::path::{Path, PathBuf};

/// The database that a restore replaces, with the client program, the sessions and the rights that the restore has.
pub struct RestoreTarget {
    /// The name of the database.
    pub name: String,
    /// The database as it is, if there is one.
    pub live: Option<Database>,
    /// The database that the new one takes owner, encoding and locale from: the live one, or the one of the configuration.
    pub like: Option<Database>,
    /// The owner of the database after the restore.
    pub owner: String,
    /// True if the copy is compared and thrown away.
    pub drill: bool,
    /// True if another database than the live one is named.
    pub is_elsewhere: bool,
    /// True if a copy can be made beside the database; if not, the contents are replaced in place.
    pub swaps: bool,
    /// The statements that would let the role make a copy.
    pub wants: String,
    /// Owners and privileges of the objects after the restore.
    pub rights: OwnershipMode,
    /// The setting under which event triggers do not fire in a session.
    pub quiet: Option<&'static str>,
    /// The settings of a session of `pg_restore`.
    pub options: String,
    /// The language of the server's words in such a session.
    pub language: Language,
    /// The tablespaces of the backup that the server does not have or does not let the role use, a whole sentence for each.
    pub lost_tablespaces: Vec<String>,
    /// The server.
    pub server: Server,
    /// The `pg_restore` to use.
    pub client: Client,
    /// A session in another database of the server.
    pub admin: Admin,
}

fn unusable(what: String) -> ComponentError {
    ComponentError::Unusable { what, source: None }
}

impl RestoreTarget {
    /// Looks up the target, and takes the [steps](super::steps) of this mode that change nothing.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unusable`] when the target is none, a right or a program is missing; else the error of the server.
    pub async fn find(
        config: &PostgresConfig,
        target: &Target,
        facts: Option<&Facts>,
        mode: RestoreMode,
    ) -> Result<Self, ComponentError> {
        let name = &name_of(config, target)?;
        let admin = Admin::beside(config, name).await?;
        let server = Server::ask(&admin.client).await?;
        let rights = facts.and_then(|facts| facts.rights.as_ref());
        let quiet = load::quiet(admin.superuser, server.major, rights);
        let live = Database::find(&admin, name).await?;
        let like = match &live {
            Some(live) => Some(live.clone()),
            None => Database::find(&admin, &config.database).await?,
        };
        let owner = match &like {
            Some(like) => like.owner.clone(),
            None => noted_owner(&admin, rights).await?,
        };
        let wants = admin.no_swap(name, &owner).await?;
        let swaps = wants.is_none();
        let drill = *target == Target::Scratch;
        let set = config.bin_dir.as_deref();
        let found = clients::search(set).await?;
        let client = load::choose(server.major, facts, &found).cloned();
        let client = client.ok_or_else(|| unusable(no_client(set, &found, facts)))?;
        let rights = ownership_mode(config, &admin, live.as_ref(), rights, &owner).await?;
        let derived = facts.and_then(|facts| facts.derived.as_ref());
        let lc_monetary = derived.and_then(|derived| derived.lc_monetary.as_deref());
        // Where contents are replaced in place, settings of the database itself are in force.
        let inside = if swaps || live.is_none() { None } else { Some(admin::alone(config, name).await?) };
        let language = Language::ask(inside.as_ref().unwrap_or(&admin.client), server.major).await?;
        let options = load::options(&language, quiet, server.major, lc_monetary);
        let lost_tablespaces = tablespaces::lost(&admin, &rights, derived).await?;
        let (name, wants) = (name.clone(), wants.unwrap_or_default());
        let target = Self {
            name,
            live,
            like,
            owner,
            drill,
            is_elsewhere: matches!(target, Target::Custom(_)),
            swaps,
            wants,
            rights,
            quiet,
            options,
            language,
            lost_tablespaces,
            server,
            client,
            admin,
        };
        target.ask_all(config, mode).await?;
        Ok(target)
    }

    /// Refuses a restore that must make a database and may not.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unusable`] with the right that is missing; else the error of the server.
    pub async fn may_be_made(&self) -> Result<(), ComponentError> {
        let (user, name, owner) = (&self.admin.user, &self.name, &self.owner);
        if self.swaps {
            return Ok(());
        }
        if !self.drill && self.live.is_some() {
            // Objects that are made in place by a role that may not act as the owner would belong to that role.
            let Some(grant) = self.admin.missing_grant(owner).await? else { return Ok(()) };
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
    /// statements that the server refuses, each with a warning, and the properties that the database has by then.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn try_properties(
        &mut self,
        copy: &str,
    ) -> Result<(Vec<(String, String)>, Properties), ComponentError> {
        let statements = match &self.live {
            Some(live) => live.property_statements(&self.admin, copy).await?,
            None => Vec::new(),
        };
        let (refused, found) = self.admin.dry_run(&statements, copy).await?;
        let warned = |(statement, said): (String, String)| {
            let later = database::without_secret(&statement.replace(&ident(copy), &ident(&self.name)));
            let words =
                format!("A property of the database is not carried over ({said}). As a superuser: {later}");
            (statement, words)
        };
        Ok((refused.into_iter().map(warned).collect(), found))
    }

    /// A sentence about the way in which the configured database would be restored, for `check`.
    pub async fn describe_restore(config: &PostgresConfig) -> String {
        let found = Self::find(config, &Target::Live, None, RestoreMode::Check).await;
        let cure = found.as_ref().ok().and_then(|target| target.language.cure());
        let cure = cure.map_or_else(String::new, |cure| format!("; WARNING: {cure}"));
        let way = match found {
            Ok(target) if target.swaps => {
                let bound = single_database_extensions::find(config, &config.database).await.ok().flatten();
                let bound = bound.map_or_else(String::new, |bound| format!("; {}", bound.words()));
                format!("a restore is made beside it and swapped in{bound}")
            }
            Ok(target) => format!(
                "a restore would replace its contents in place, without undo, since role {} may not make a \
                 database for its owner ({})",
                ident(&target.admin.user),
                target.wants
            ),
            Err(err) => format!("a restore would not begin: {}", chain(&err)),
        };
        way + &cure
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
}

/// Owners and privileges after the restore. Names of roles are looked up in the live database where those of others have
/// other bytes.
async fn ownership_mode(
    config: &PostgresConfig,
    admin: &Admin,
    live: Option<&Database>,
    rights: Option<&Rights>,
    owner: &str,
) -> Result<OwnershipMode, ComponentError> {
    let beside = match live.filter(|live| live.allows && !live.is_utf8()) {
        Some(live) => Some(admin::alone(config, &live.name).await?),
        None => None,
    };
    OwnershipMode::find(admin, beside.as_ref().unwrap_or(&admin.client), rights, owner).await
}

/// The owner of a new database where none is there to be like: the one of the backup, if the role may act as that role.
async fn noted_owner(admin: &Admin, rights: Option<&Rights>) -> Result<String, ComponentError> {
    const IS_THERE: &str = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1::text)";
    let user = || Ok(admin.user.clone());
    let Some(noted) = rights.and_then(|rights| rights.database_owner.as_ref()) else { return user() };
    let found = admin.client.query_one(IS_THERE, &[noted]).await;
    if !found.map_err(|err| fault("look up roles", err))?.get::<_, bool>(0) {
        return user();
    }
    if admin.missing_grant(noted).await?.is_some() { user() } else { Ok(noted.clone()) }
}

/// The folder of the archive that waits for the transaction of a restore in place.
pub fn in_place_folder(config: &PostgresConfig) -> PathBuf {
    config.scratch.clone().unwrap_or_else(std::env::temp_dir)
}

/// The name of the database that is restored: with the option `database` another one than the live one.
pub fn name_of(config: &PostgresConfig, target: &Target) -> Result<String, ComponentError> {
    let Target::Custom(option) = target else { return Ok(config.database.clone()) };
    if option.name != "database" {
        return Err(unusable(format!(
            "a database is not restored by --{}, and its backups hold no users: leave it out, or name a database by \
             --database",
            option.name
        )));
    }
    // A name that a database can have and that is not the server's own.
    let name: String = option.texts().collect();
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
