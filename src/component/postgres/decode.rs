//! An archive read to its end by `pg_restore`, without a server.

use crate::component::postgres::{clients, config::PostgresConfig, rows::RowCounter};
use crate::component::process::Program;
use crate::component::{ComponentError, Feed};
use crate::domain::{
    facts::{Counts, TableRows},
    progress::Meter,
};

/// Reads an archive to its end and counts its rows.
///
/// # Errors
///
/// [`ComponentError::Corrupt`] when the archive is damaged or cut short.
pub async fn decode(
    config: &PostgresConfig,
    feed: Feed<'_>,
    meter: &Meter,
) -> Result<Counts, ComponentError> {
    let set = config.bin_dir.as_deref();
    let found = clients::search(set).await?;
    let client = clients::newest(&found)
        .ok_or_else(|| ComponentError::Unusable { what: clients::missing(set), source: None })?;
    let mut rows = RowCounter::default();
    let corrupt = |what: String| ComponentError::Corrupt { what, source: None };
    // All data blocks are read; the definitions are in the table of contents, which is read
    // in full whatever is asked for. To name them in the output would only slow it down.
    let finished = Program::new("pg_restore", &client.dir.join("pg_restore"))
        .args(["--data-only", "--file=-"])
        .env("LC_ALL", "C")
        .pass(feed, meter, |chunk| rows.read(chunk).map_err(|err| corrupt(err.to_string())))
        .await
        .map_err(refused)?;
    if finished.unread {
        return Err(corrupt("bytes follow the end of the archive".into()));
    }
    let tables = rows.finish().map_err(|err| corrupt(err.to_string()))?;
    let row = |((schema, table), rows)| TableRows { schema, table, rows };
    Ok(Counts { tables: tables.into_iter().map(row).collect(), ..Counts::default() })
}

/// Sorts the refusal of `pg_restore`: an archive that is too new is not a damaged one.
fn refused(err: ComponentError) -> ComponentError {
    match err {
        ComponentError::Failed { stderr, .. } if stderr.contains("unsupported version") => {
            ComponentError::Unusable {
                what: format!("{stderr}: a newer pg_dump made the archive: install its postgresql-client"),
                source: None,
            }
        }
        ComponentError::Failed { transient: false, stderr, .. } => {
            ComponentError::Corrupt { what: format!("archive cannot be read: {stderr}"), source: None }
        }
        other => other,
    }
}
