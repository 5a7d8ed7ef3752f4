//! Limits on the number of sessions (`CONNECTION LIMIT` of a role and of a database), asked before work that needs several.

use crate::component::ComponentError;
use crate::component::postgres::{
    admin::{LOOK, fault},
    mark::ident,
};
use deadpool_postgres::ClientWrapper;
use std::time::{Duration, Instant};

/// The sessions of the role that a backup has at once: one holds the snapshot, in the other `pg_dump` reads.
pub const OF_BACKUP: i64 = 2;

/// The sessions of the role that a restore has at once: one holds the lock, one makes databases, in the third the archive
/// is loaded.
pub const OF_RESTORE: i64 = 3;

/// A limit on sessions.
struct Limit {
    most: i64,
    used: i64,
    /// `ALTER ROLE "rna"`, the beginning of the statement that changes the limit.
    alter: String,
}

/// Reads the limits of the role of the session and of a database, with the sessions that there are: autovacuum, whose sessions
/// have no user, counts for none. Superusers have no limits.
async fn limits(client: &ClientWrapper, database: Option<&str>) -> Result<Vec<Limit>, ComponentError> {
    const ASK: &str = "
        SELECT 'ROLE', rolname::text, rolconnlimit::int8, (SELECT count(*) FROM pg_stat_activity WHERE usename = rolname)
          FROM pg_roles WHERE rolname = current_user AND rolconnlimit >= 0 AND NOT rolsuper
        UNION ALL
        SELECT 'DATABASE', datname::text, datconnlimit::int8,
               (SELECT count(*) FROM pg_stat_activity a
                 WHERE a.datname = d.datname AND usesysid IS NOT NULL)
          FROM pg_database d
         WHERE datname = $1::text AND datconnlimit >= 0 AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)";
    let rows =
        client.query(ASK, &[&database]).await.map_err(|err| fault("look at the limits of sessions", err))?;
    let limit = |row: &deadpool_postgres::tokio_postgres::Row| Limit {
        most: row.get(2),
        used: row.get(3),
        alter: format!("ALTER {} {}", row.get::<_, &str>(0), ident(row.get(1))),
    };
    Ok(rows.iter().map(limit).collect())
}

/// Refuses work that needs more sessions at once than the role may have, and, where one is named, a database.
///
/// # Errors
///
/// [`ComponentError::Unusable`] with the statement that raises the limit; else the error of the server.
pub async fn suffice(
    client: &ClientWrapper,
    database: Option<&str>,
    (work, needed): (&str, i64),
) -> Result<(), ComponentError> {
    let limits = limits(client, database).await?;
    let Some(Limit { most, alter, .. }) = limits.into_iter().find(|limit| limit.most < needed) else {
        return Ok(());
    };
    let what = format!(
        "{work} needs {needed} sessions at once, and {most} are allowed: {alter} CONNECTION LIMIT {needed}, or more"
    );
    Err(ComponentError::Unusable { what, source: None })
}

/// The number of jobs of `pg_restore` that the role may have now, at most `wanted`. Sessions of ours that have just ended
/// may still count, so that there is a short wait for them.
///
/// # Errors
///
/// The error of the server, sorted by the remedy.
pub async fn jobs(client: &ClientWrapper, wanted: usize) -> Result<usize, ComponentError> {
    const PATIENCE: Duration = Duration::from_millis(500);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Some(limit) = limits(client, None).await?.into_iter().next() else { return Ok(wanted) };
        let room = usize::try_from(limit.most - limit.used).unwrap_or(0);
        if room >= wanted || Instant::now() > deadline {
            return Ok(room.clamp(1, wanted));
        }
        tokio::time::sleep(LOOK).await;
    }
}
