//! A session that works on whole databases: it must sit in none of those it renames.

use crate::component::ComponentError;
use crate::component::postgres::{
    config::PostgresConfig,
    connect::{self, sort},
    mark::{self, FRESH, Mark, Role},
    properties,
};
use crate::domain::properties::Properties;
use deadpool_postgres::{
    ClientWrapper, Object,
    tokio_postgres::{self, error::SqlState},
};
use jiff::Timestamp;
use std::time::{Duration, Instant};

/// Settings under which our statements mean what they say, whatever role or database has set.
const SESSION: &str = "
    SET standard_conforming_strings = on; SET search_path = pg_catalog; SET lock_timeout = '20s';
    SET default_transaction_read_only = off; SET default_transaction_isolation = 'read committed';
    SET synchronous_commit = on; SET jit = off; SET quote_all_identifiers = off";

/// Key of the advisory locks by which our sessions are known; the database of the configuration is the other.
const OURS: i32 = i32::from_be_bytes(*b"rna-");

/// The time in which a session must end.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// The pause between two looks whether a session has ended.
pub const LOOK: Duration = Duration::from_millis(2);

/// A session beside the databases.
pub struct Admin {
    /// The connection.
    pub client: ClientWrapper,
    /// The database that it sits in.
    pub session_database: String,
    /// The role that logged in.
    pub user: String,
    /// True if the role that logged in is a superuser.
    pub superuser: bool,
    /// Major version of the server.
    pub major: u32,
    create: bool,
}

/// One connection of its own to `database`; it ends with the value.
///
/// # Errors
///
/// As [`connect::connect`].
pub async fn alone(config: &PostgresConfig, database: &str) -> Result<ClientWrapper, ComponentError> {
    alone_with(config, database, None).await
}

/// The same, with settings of the session that are there from its very beginning: `-c event_triggers=off`.
///
/// # Errors
///
/// As there.
pub async fn alone_with(
    config: &PostgresConfig,
    database: &str,
    options: Option<&str>,
) -> Result<ClientWrapper, ComponentError> {
    let config = PostgresConfig { database: database.to_owned(), ..config.clone() };
    let pool = connect::pool_with(&config, options)?;
    Ok(Object::take(connect::connect(&pool, &config).await?))
}

/// Sorts an error of making or renaming a database. `what` was tried.
pub fn fault(what: impl Into<String>, err: tokio_postgres::Error) -> ComponentError {
    let what = what.into();
    let message = err.as_db_error().map(|db| db.message().to_owned()).unwrap_or_default();
    match err.code().map(tokio_postgres::error::SqlState::code) {
        Some("42501") => {
            ComponentError::Unusable { what: format!("{what}: {message}"), source: Some(err.into()) }
        }
        // In use by others; created by somebody else in the same instant.
        Some("55006" | "42P04") => {
            ComponentError::Unavailable { what: format!("{what}: {message}"), source: Some(err.into()) }
        }
        _ => sort(what, err),
    }
}

impl Admin {
    /// Opens a session in `postgres` or `template1`, or, where neither lets us in, in `target` itself.
    ///
    /// # Errors
    ///
    /// Of the first that was tried, when none lets us in.
    pub async fn beside(config: &PostgresConfig, target: &str) -> Result<Self, ComponentError> {
        let mut first = None;
        let usual =
            ["postgres", "template1"].into_iter().filter(|session_database| *session_database != target);
        for session_database in usual.chain([target]) {
            match alone(config, session_database).await {
                Ok(client) => return Self::begin(client, session_database.to_owned()).await,
                Err(err) if err.is_transient() => return Err(err),
                Err(err) => first = first.or(Some(err)),
            }
        }
        Err(first.expect("at least two were tried"))
    }

    async fn begin(client: ClientWrapper, session_database: String) -> Result<Self, ComponentError> {
        const ASK: &str = "
            SELECT current_user::text, rolsuper, rolcreatedb, current_setting('server_version_num')::int4
              FROM pg_roles WHERE rolname = current_user";
        let failed = |err| fault("begin a session", err);
        client.batch_execute(SESSION).await.map_err(failed)?;
        let row = client.query_one(ASK, &[]).await.map_err(failed)?;
        let major = (row.get::<_, i32>(3) / 10_000).unsigned_abs();
        Ok(Self {
            session_database,
            user: row.get(0),
            superuser: row.get(1),
            create: row.get(2),
            major,
            client,
        })
    }

    /// The reason why the role may not make a database for `owner` beside the live one and rename both, with the
    /// statements that let it; `None` where it may.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn no_swap(&self, target: &str, owner: &str) -> Result<Option<String>, ComponentError> {
        if self.session_database == target {
            return Ok(Some("it may connect to neither postgres nor template1".to_owned()));
        }
        let create = !(self.superuser || self.create);
        let create = create.then(|| format!("ALTER ROLE {} CREATEDB", mark::ident(&self.user)));
        let wanted: Vec<_> = create.into_iter().chain(self.missing_grant(owner).await?).collect();
        Ok((!wanted.is_empty()).then(|| wanted.join("; ")))
    }

    /// Makes this session known as one that makes and renames databases for `by`.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn announce(&self, by: &str) -> Result<(), ComponentError> {
        let lock = "SELECT FROM pg_advisory_lock_shared($1, hashtext($2))";
        let locked = self.client.execute(lock, &[&OURS, &by]).await;
        locked.map(drop).map_err(|err| fault("begin a session", err))
    }

    /// Ends the sessions that announced themselves for `by`: what a client sent before it was killed goes on
    /// without it, and its database would be there only after we have looked.
    ///
    /// # Errors
    ///
    /// The error of the server; [`ComponentError::Unavailable`] when they do not end in time.
    pub async fn end_announced(&self, by: &str) -> Result<(), ComponentError> {
        let end = "SELECT pid, pg_terminate_backend(pid) FROM pg_locks
                    WHERE locktype = 'advisory' AND classid = $1::int::oid AND objid = hashtext($2)::oid
                      AND pid <> pg_backend_pid()";
        let what = "end the sessions of a run that died";
        let deadline = Instant::now() + PATIENCE;
        while !self.client.query(end, &[&OURS, &by]).await.map_err(|err| fault(what, err))?.is_empty() {
            if Instant::now() > deadline {
                return Err(ComponentError::Unavailable { what: what.into(), source: None });
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// A name for a new database beside `target` that is free now.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn free_name(&self, target: &str, role: Role, at: Timestamp) -> Result<String, ComponentError> {
        let mut attempt = 1;
        loop {
            let name = mark::name_beside(target, role, at, attempt);
            if !self.exists(&name).await? {
                return Ok(name);
            }
            attempt += 1;
        }
    }

    /// The databases that bear a mark of `by`, oldest first.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn marked(&self, by: &str) -> Result<Vec<Mark>, ComponentError> {
        // Names and comments of databases of others may be bytes of another encoding.
        let list = "SELECT textsend(d.datname::text), textsend(s.description)
                      FROM pg_database d
                      JOIN pg_shdescription s ON s.objoid = d.oid AND s.classoid = 'pg_database'::regclass";
        let rows = self.client.query(list, &[]).await.map_err(|err| fault("list databases", err))?;
        let text = |row: &tokio_postgres::Row, column: usize| String::from_utf8(row.get(column)).ok();
        let marks = rows.iter().filter_map(|row| Mark::parse(&text(row, 0)?, &text(row, 1)?));
        let mut marks: Vec<_> = marks.filter(|mark| mark.by == by).collect();
        marks.sort_by_key(|mark| mark.at);
        Ok(marks)
    }

    /// Databases that were created for a copy of `by` and died before they could be marked.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn unmarked(&self, by: &str) -> Result<Vec<String>, ComponentError> {
        let list = "SELECT datname::text FROM pg_database
                     WHERE datconnlimit = $1 AND shobj_description(oid, 'pg_database') IS NULL";
        let rows = self.client.query(list, &[&FRESH]).await.map_err(|err| fault("list databases", err))?;
        let names = rows.iter().map(|row| row.get::<_, String>(0));
        Ok(names.filter(|name| mark::is_copy_name(by, name)).collect())
    }

    /// Tests whether there is a database of this name.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn exists(&self, name: &str) -> Result<bool, ComponentError> {
        let ask = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";
        let row = self.client.query_one(ask, &[&name]).await;
        Ok(row.map_err(|err| fault("look for a database", err))?.get(0))
    }

    async fn is_template(&self, name: &str) -> Result<bool, ComponentError> {
        let ask = "SELECT coalesce(bool_or(datistemplate), false) FROM pg_database WHERE datname = $1";
        let row = self.client.query_one(ask, &[&name]).await;
        Ok(row.map_err(|err| fault("look for a database", err))?.get(0))
    }

    /// Drops a database, whoever is in it.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn drop_database(&self, name: &str) -> Result<(), ComponentError> {
        let quoted = mark::ident(name);
        let failed = |err| fault(format!("drop database {quoted}"), err);
        // A template cannot be dropped.
        let plain = format!("ALTER DATABASE {quoted} IS_TEMPLATE false");
        if self.is_template(name).await? {
            self.client.batch_execute(&plain).await.map_err(failed)?;
        }
        let force =
            self.client.batch_execute(&format!("DROP DATABASE IF EXISTS {quoted} WITH (FORCE)")).await;
        match force {
            // Before 13 there was no such option, and it refuses a database in which autovacuum works to a role that is no
            // superuser. Without the option the server ends autovacuum by itself.
            Err(err)
                if err.code().is_some_and(|code| {
                    [SqlState::SYNTAX_ERROR, SqlState::INSUFFICIENT_PRIVILEGE].contains(code)
                }) =>
            {
                self.close_sessions(name).await?;
                self.client.batch_execute(&format!("DROP DATABASE IF EXISTS {quoted}")).await.map_err(failed)
            }
            Err(err) if err.code() == Some(&SqlState::OBJECT_IN_USE) => {
                match self.drop_obstacles(name).await? {
                    Some(what) => Err(ComponentError::Unusable { what, source: Some(err.into()) }),
                    None => Err(failed(err)),
                }
            }
            done => done.map_err(failed),
        }
    }

    /// Ends the sessions in a database, as far as we may, and tells how many there were.
    ///
    /// In one statement: who is cut off connects again at once, and fifty that do keep a machine so busy that
    /// a statement for each would take a tenth of a second.
    ///
    /// # Errors
    ///
    /// The error of the server; [`ComponentError::Unusable`] when a client's session may not be ended.
    pub async fn close_sessions(&self, name: &str) -> Result<usize, ComponentError> {
        // Autovacuum may be ended by superusers alone; RENAME and DROP see to it themselves. Its sessions have no user, which
        // every role may see, unlike their type.
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = $1 AND pid <> pg_backend_pid() AND ($2 OR usesysid IS NOT NULL)";
        let ended = async {
            let end = self.client.prepare_cached(end).await?;
            self.client.query(&end, &[&name, &self.superuser]).await
        };
        let ended = ended.await.map_err(|err| {
            let role = mark::ident(&self.user);
            fault(format!("end the sessions in {name} (GRANT pg_signal_backend TO {role})"), err)
        })?;
        Ok(ended.len())
    }

    /// Refuses a database in which a transaction is prepared and was never ended: it cannot be renamed, which the server
    /// would say after five seconds behind a closed door.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unusable`]; else the error of the server.
    pub async fn nothing_is_prepared_in(&self, name: &str) -> Result<(), ComponentError> {
        let ask = "SELECT string_agg(quote_literal(gid), ', ' ORDER BY prepared) FROM pg_prepared_xacts WHERE database = $1";
        let found = self.client.query_one(ask, &[&name]).await;
        let found = found.map_err(|err| fault(format!("look for prepared transactions in {name}"), err))?;
        match found.get::<_, Option<String>>(0) {
            None => Ok(()),
            Some(prepared) => {
                let what = format!(
                    "database {name} cannot be renamed while transactions are prepared in it: COMMIT PREPARED or \
                     ROLLBACK PREPARED {prepared}"
                );
                Err(ComponentError::Unusable { what, source: None })
            }
        }
    }

    /// Runs statements in one transaction, all in one message: the server makes a [transaction] of it, and each way
    /// there and back would be time in which nobody can use the database.
    ///
    /// [transaction]: https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-MULTI-STATEMENT
    ///
    /// # Errors
    ///
    /// The driver's, for the caller to sort.
    pub async fn at_once(&self, statements: &[String]) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute(&statements.join(";")).await
    }

    /// Tries each statement in a transaction that is then taken back, and tells those that the server refuses, each with
    /// the server's words, and the properties that the database `of` has by then.
    ///
    /// # Errors
    ///
    /// The error of the server, where the server might say something else the next time.
    pub async fn dry_run(
        &mut self,
        statements: &[String],
        of: &str,
    ) -> Result<(Vec<(String, String)>, Properties), ComponentError> {
        let failed = |err| fault("try settings and grants of the database", err);
        let mut refused = Vec::new();
        let mut transaction = self.client.transaction().await.map_err(failed)?;
        for statement in statements {
            let step = transaction.savepoint("step").await.map_err(failed)?;
            let Err(err) = step.batch_execute(statement).await else {
                step.commit().await.map_err(failed)?;
                continue;
            };
            // XX000, an internal error, is the server's word where two sessions change one row of a catalog.
            let said = err.as_db_error().filter(|said| *said.code() != SqlState::INTERNAL_ERROR);
            match (said.map(|said| said.message().to_owned()), failed(err)) {
                (Some(said), failure) if !failure.is_transient() => {
                    step.rollback().await.map_err(failed)?;
                    refused.push((statement.clone(), said));
                }
                (_, failure) => return Err(failure),
            }
        }
        let found = properties::read(&*transaction, of).await?;
        transaction.rollback().await.map_err(failed)?;
        Ok((refused, found))
    }
}
