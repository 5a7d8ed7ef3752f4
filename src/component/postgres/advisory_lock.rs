//! The lock of a database: an advisory lock on the server, which keeps two runs from restoring one database at once, on
//! whatever machines they are, and a recovery from clearing away what a living run works with.

use crate::base::{chain, host_name};
use crate::component::ComponentError;
use crate::component::postgres::{
    admin::{Admin, fault},
    config::PostgresConfig,
    mark::literal,
};
use deadpool_postgres::tokio_postgres::{Error, error::SqlState};
use std::{
    fmt,
    time::{Duration, Instant},
};

/// The first key of these advisory locks; the second is a hash of the name of the database.
const KEY: i32 = i32::from_be_bytes(*b"rna!");

/// The longest wait for the lock: the server takes a moment to notice that a client is gone.
const PATIENCE: Duration = Duration::from_secs(3);

/// The pause between two tries.
const AGAIN: Duration = Duration::from_millis(20);

/// The lock of a database, held by a transaction of a session of its own: so it also holds through a connection pooler,
/// and ends with the session. Dropping it frees the database.
pub struct AdvisoryLock {
    admin: Admin,
    database: String,
    pid: i32,
}

impl fmt::Debug for AdvisoryLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdvisoryLock")
            .field("database", &self.database)
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

impl AdvisoryLock {
    /// Takes the lock of the database of the configuration, for work on the database `target`, in which its session does
    /// not sit.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Taken`] when another run has it; else the error of the server.
    pub async fn take(config: &PostgresConfig, target: &str) -> Result<Self, ComponentError> {
        const TRY: &str = "SELECT pg_try_advisory_xact_lock($1, hashtext($2)), pg_backend_pid()";
        // An advisory lock is one of the database that its session sits in, and another run may sit elsewhere.
        const ELSEWHERE: &str = "
            SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid()
                AND classid = $1::int::oid AND objid = hashtext($2)::oid)";
        let admin = Admin::beside(config, target).await?;
        let database = config.database.clone();
        let failed = |err| fault(format!("lock database {database} for a restore"), err);
        // Over TCP the server notices within half a minute that a machine is gone.
        let begin = format!(
            "BEGIN; SET LOCAL application_name = {}; SET LOCAL idle_in_transaction_session_timeout = 0;
             SET LOCAL tcp_keepalives_idle = 15; SET LOCAL tcp_keepalives_interval = 5; SET LOCAL tcp_keepalives_count = 3",
            literal(&own_name())
        );
        admin.client.batch_execute(&begin).await.map_err(failed)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let row = admin.client.query_one(TRY, &[&KEY, &database]).await.map_err(failed)?;
            if row.get(0) {
                let elsewhere =
                    admin.client.query_one(ELSEWHERE, &[&KEY, &database]).await.map_err(failed)?;
                if !elsewhere.get::<_, bool>(0) {
                    return Ok(Self { pid: row.get(1), admin, database });
                }
            }
            if Instant::now() > deadline {
                return Err(taken(&admin, &database).await);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Tests whether the lock still holds.
    ///
    /// # Errors
    ///
    /// When it was lost, because the server has restarted or somebody has ended the session: another run may have it.
    pub async fn confirm(&self) -> Result<(), ComponentError> {
        let asked = self.admin.client.batch_execute(&self.guard()).await;
        asked.map_err(|err| lost(&self.database, Some(err)))
    }

    /// Frees the database at once, where dropping it would do so as soon as the runtime has closed the session.
    pub async fn free(self) {
        // A session that is broken holds nothing.
        let _ = self.admin.client.batch_execute("ROLLBACK").await;
    }

    /// A statement that fails where the lock does not hold any more, for the beginning of a transaction that must not go
    /// on then.
    pub fn guard(&self) -> String {
        format!(
            "SELECT 1 / count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = {} \
             AND classid = {KEY}::int::oid AND objid = hashtext({})::oid",
            self.pid,
            literal(&self.database)
        )
    }

    /// Tests whether the error of a transaction is that of its [guard](Self::guard).
    pub fn is_lost(err: &Error) -> bool {
        err.code() == Some(&SqlState::DIVISION_BY_ZERO)
    }
}

/// The error of a run that has lost its lock.
pub fn lost(database: &str, err: Option<Error>) -> ComponentError {
    let what = format!(
        "the lock of database {database} is lost, as when the server restarts, so another run may work on it: this one \
         has stopped and changes nothing more"
    );
    ComponentError::Unavailable { what, source: err.map(Into::into) }
}

/// The error of a run that finds the lock taken, with the name of its holder.
async fn taken(admin: &Admin, database: &str) -> ComponentError {
    const WHO: &str = "
        SELECT l.pid, concat_ws(', ', nullif(a.application_name, ''), 'role ' || a.usename, 'from ' || host(a.client_addr))
          FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
         WHERE locktype = 'advisory' AND granted AND classid = $1::int::oid AND objid = hashtext($2)::oid
           AND l.pid <> pg_backend_pid() LIMIT 1";
    let what = match admin.client.query_opt(WHO, &[&KEY, &database]).await {
        Ok(Some(row)) => {
            let (pid, who): (i32, String) = (row.get(0), row.get(1));
            format!(
                "database {database} is locked by a restore, drill, undo or clean-up of another process ({who}): wait until \
                 that has ended; if that process is known to be dead, end its session by SELECT pg_terminate_backend({pid})"
            )
        }
        Ok(None) => format!("database {database} was locked by another process until now: try again"),
        Err(err) => format!("database {database} is locked by another process ({}): try again", chain(&err)),
    };
    ComponentError::Taken { what }
}

/// The name of this process in the server's list of sessions; the server cuts it after 63 bytes.
fn own_name() -> String {
    format!("rna-backup, process {} on {}", std::process::id(), host_name())
}
