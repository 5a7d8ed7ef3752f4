//! Rows of tables of extensions that are the extension's own and that `pg_dump` leaves out: counted, so that somebody's changes
//! are found.

use crate::component::ComponentError;
use crate::component::postgres::connect::sort;
use crate::domain::derived::{Derived, ExtensionRows};
use deadpool_postgres::Transaction;
use std::time::{Duration, Instant};

/// Tables of extensions with rows that `pg_dump` leaves out: name, extension, version, the condition of rows that are dumped,
/// and the transactions in which the scripts of the extension have run.
const TABLES: &str = "
    SELECT format('%I.%I', nspname, relname), extname::text, extversion,
           (SELECT condition FROM unnest(extconfig, extcondition) t(id, condition) WHERE id = c.oid),
           ARRAY(SELECT xmin::text FROM pg_depend o WHERE o.refclassid = d.refclassid AND o.refobjid = e.oid AND o.deptype = 'e'
                 UNION SELECT e.xmin::text)
      FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_class c ON c.oid = d.objid JOIN pg_namespace n ON n.oid = relnamespace
     WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
       AND c.relkind = 'r' AND c.relpersistence <> 't' AND pg_relation_size(c.oid) > 0
       AND NOT EXISTS (SELECT FROM unnest(extconfig, extcondition) t(id, condition) WHERE id = c.oid AND condition = '')
     ORDER BY c.reltuples, 1 LIMIT 200";

/// Settings under which a value has one text, whatever role or database has set.
const AS_TEXT: &str = "
    SET LOCAL search_path = pg_catalog; SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'postgres';
    SET LOCAL timezone = 'UTC'; SET LOCAL extra_float_digits = 3; SET LOCAL bytea_output = 'hex';
    SET LOCAL statement_timeout = '1s'; SET LOCAL lock_timeout = '50ms'";

/// Counts and hashes the rows of each table of an extension that `pg_dump` leaves out. A table that takes too long, or that the role may not read, has a sentence that says so.
///
/// # Errors
///
/// The error of the server, sorted by the remedy.
pub async fn read(
    transaction: &mut Transaction<'_>,
) -> Result<(Vec<ExtensionRows>, Vec<String>), ComponentError> {
    /// The time that all tables may take, which is time of the backup.
    const BUDGET: Duration = Duration::from_secs(2);
    let failed = |err| sort("look at the rows of extensions".into(), err);
    let tables = transaction.query(TABLES, &[]).await.map_err(failed)?;
    let (begun, mut found, mut unknown) = (Instant::now(), Vec::new(), Vec::new());
    for row in &tables {
        let (table, extension, version): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let not_known = |why: &str| {
            format!(
                "It is not known whether rows of table {table} of extension {extension} were changed, since {why}. No backup \
                 has such rows: keep them by hand where somebody changes them."
            )
        };
        if begun.elapsed() > BUDGET || found.len() >= Derived::KEPT {
            unknown.push(not_known(
                "other tables of extensions have taken all the time that a backup has for them",
            ));
            continue;
        }
        let attempt = transaction.savepoint("rows").await.map_err(failed)?;
        attempt.batch_execute(AS_TEXT).await.map_err(failed)?;
        let counted = attempt.query_one(&count(&table, row.get(3)), &[&row.get::<_, Vec<String>>(4)]).await;
        attempt.rollback().await.map_err(failed)?;
        match counted {
            Ok(row) => {
                let (rows, hash, changed): (i64, String, i64) = (row.get(0), row.get(1), row.get(2));
                let (rows, changed) = (rows.unsigned_abs(), changed.unsigned_abs());
                found.push(ExtensionRows { table, extension, version, rows, hash, changed });
            }
            Err(err) => {
                let Some(said) = err.as_db_error() else { return Err(failed(err)) };
                unknown.push(not_known(&format!("to read it ended with: {}", said.message())));
            }
        }
    }
    Ok((found, unknown))
}

/// The query that counts the rows that are not dumped, hashes them whatever their order, and counts those that no script of
/// the extension has written. After `pg_upgrade` the catalog no longer has the transactions of the scripts:
/// then the transaction that wrote most rows is taken for that of a script.
fn count(table: &str, condition: Option<&str>) -> String {
    let not_dumped = condition.map_or_else(String::new, |condition| {
        format!(
            "WHERE NOT EXISTS (SELECT FROM (SELECT ctid AS place FROM ONLY {table} {condition}) dumped WHERE place = t.ctid)"
        )
    });
    format!(
        "WITH written AS (
           SELECT xmin::text AS writer, count(*) AS n, sum(hashtextextended((t.*)::text, 0)::numeric) AS hash
             FROM ONLY {table} t {not_dumped} GROUP BY 1)
         SELECT coalesce(sum(n), 0)::int8, coalesce(sum(hash), 0)::text,
                coalesce(CASE WHEN bool_or(writer = ANY ($1)) THEN sum(n) FILTER (WHERE writer <> ALL ($1)) ELSE sum(n) - max(n) END, 0)::int8
           FROM written"
    )
}
