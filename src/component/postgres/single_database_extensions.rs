//! Extensions that the server lets be in one database alone, which no copy under another name can have.

use crate::component::ComponentError;
use crate::component::postgres::{
    admin::{self, fault},
    config::PostgresConfig,
};

/// An extension that the server allows in one database alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SingleDatabaseExtension {
    /// The one database that can have it.
    database: String,
    /// The name of the extension, and those of its tables and sequences whose contents are dumped.
    pub names: Vec<String>,
}

/// The server's error for such an extension in another database.
pub const REFUSED: &str = "can only create extension in database";

impl SingleDatabaseExtension {
    /// A sentence about the consequence for a restore.
    pub fn words(&self) -> String {
        format!(
            "pg_cron can only be in database {} (cron.database_name), so that it is left out of a restore, as of a drill: \
             afterwards CREATE EXTENSION pg_cron there, and for its jobs pg_restore --data-only --schema=cron of the archive",
            self.database
        )
    }
}

/// Finds such an extension in the database.
///
/// # Errors
///
/// The error of the server, sorted by the remedy.
pub async fn find(
    config: &PostgresConfig,
    database: &str,
) -> Result<Option<SingleDatabaseExtension>, ComponentError> {
    const ASK: &str = "
        SELECT e.extname || '', format('%s.%s', n.nspname, c.relname) FROM pg_catalog.pg_extension e
          LEFT JOIN pg_catalog.pg_class c ON c.oid = ANY (e.extconfig) LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE e.extname = 'pg_cron' AND current_setting('cron.database_name', true) = current_database()";
    let client = admin::alone(config, database).await?;
    let rows = client.query(ASK, &[]).await.map_err(|err| fault("look at the extensions", err))?;
    let mut names: Vec<String> =
        rows.iter().map(|row| row.get(1)).filter(|name: &String| name != ".").collect();
    let Some(first) = rows.first() else { return Ok(None) };
    names.push(first.get(0));
    names.sort();
    Ok(Some(SingleDatabaseExtension { database: database.to_owned(), names }))
}
