//! Objects that a restore will not make as they were, found during the backup, beside those of the
//! [empty `search_path`](super::derived::find_unqualified).

use crate::component::ComponentError;
use crate::component::postgres::connect::sort;
use crate::domain::derived::{Derived, PredictedDifference};
use deadpool_postgres::{
    Transaction,
    tokio_postgres::{Error, error::SqlState},
};
use std::time::{Duration, Instant};

/// Filled materialized views that read what their owner, or the owner of a view in between, may not read: who has filled
/// them could, and a restore cannot.
const UNREADABLE: &str = "
    WITH RECURSIVE reading(view, role, rel, col) AS (
      SELECT c.oid, c.relowner, d.refobjid, d.refobjsubid
        FROM pg_class c JOIN pg_rewrite r ON r.ev_class = c.oid
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
       WHERE c.relkind = 'm' AND c.relispopulated AND d.refobjid <> c.oid
      UNION
      SELECT view, CASE WHEN v.reloptions::text ~* 'security_invoker=(true|on|yes|1)' THEN role ELSE v.relowner END, d.refobjid, d.refobjsubid
        FROM reading JOIN pg_class v ON v.oid = rel AND v.relkind = 'v' JOIN pg_rewrite r ON r.ev_class = v.oid AND r.ev_type = '1'
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
       WHERE d.refobjid <> v.oid),
    unreadable AS (
      SELECT DISTINCT view, role, rel FROM reading JOIN pg_class c ON c.oid = rel AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
       WHERE NOT CASE WHEN col > 0 THEN has_column_privilege(role, rel, col::int2, 'SELECT') ELSE has_any_column_privilege(role, rel, 'SELECT') END)
    SELECT format('%s.%s', nspname, relname),
           format('Materialized view %s cannot be filled by a restore, since its owner may not read what it reads: %s, and back up anew; or '
                  'restore without its contents, and REFRESH it afterwards.', view::regclass,
                  string_agg(format('GRANT SELECT ON %s TO %I', rel::regclass, pg_get_userbyid(role)), '; ' ORDER BY rel, role))
      FROM unreadable JOIN pg_class c ON c.oid = view JOIN pg_namespace n ON n.oid = relnamespace
     GROUP BY view, nspname, relname ORDER BY 1 LIMIT 200";

/// Check constraints that call a function of somebody's, which may have become another function since the rows were
/// written: name of the table, a query for a row that the constraint refuses, and a whole sentence. As in the trials of
/// expressions, only functions are called that the role of the session could have written itself.
const CHECKS: &str = "
    WITH trusted(id) AS (SELECT oid FROM pg_roles WHERE rolname = current_user OR rolsuper)
    SELECT format('%s.%s', nspname, relname),
           format('SELECT FROM ONLY %I.%I WHERE NOT (%s) LIMIT 1', nspname, relname, pg_get_expr(conbin, conrelid)),
           format('Rows of table %1$s violate its check constraint %2$I, so that a restore cannot load the rows of this table: ALTER TABLE %1$s '
                  'DROP CONSTRAINT %2$I, ADD CONSTRAINT %2$I %3$s NOT VALID, and back up anew. From a backup without NOT VALID: restore without '
                  'these rows, run ALTER TABLE %1$s DROP CONSTRAINT %2$I, bring them by pg_restore --data-only --schema=%4$I --table=%5$I of the '
                  'unpacked archive (`show` prints how to unpack it), and add the constraint as NOT VALID.',
                  conrelid::regclass, conname, pg_get_constraintdef(k.oid), nspname, relname), NULL::text
      FROM pg_constraint k JOIN pg_class c ON c.oid = conrelid JOIN pg_namespace n ON n.oid = relnamespace
     WHERE contype = 'c' AND convalidated AND relkind = 'r' AND relpersistence <> 't' AND relowner IN (SELECT id FROM trusted)
       AND nspname !~ '^pg_' AND nspname <> 'information_schema'
       AND (SELECT bool_and(p.proowner IN (SELECT id FROM trusted))
              FROM pg_depend d JOIN pg_proc p ON p.oid = d.refobjid JOIN pg_language l ON l.oid = p.prolang
             WHERE d.classid = 'pg_constraint'::regclass AND d.objid = k.oid AND d.refclassid = 'pg_proc'::regclass
               AND l.lanname NOT IN ('internal', 'c'))
     ORDER BY c.reltuples, 1 LIMIT 500";

/// Checks of domains that call a function of somebody's, and that rows of a table may not hold any more: name of the table, a
/// query that fails over such a row and finds none, a whole sentence, and the name of the check. A cast evaluates all checks of
/// a domain and of those that it is made of, so each owner and each function must be one that could do as much as the role of
/// the session.
const DOMAINS: &str = "
    WITH RECURSIVE trusted(id) AS (SELECT oid FROM pg_roles WHERE rolname = current_user OR rolsuper),
    checked(domain, own, name, definition) AS (
      SELECT contypid, contypid, conname, pg_get_constraintdef(k.oid) FROM pg_constraint k
       WHERE contype = 'c' AND contypid <> 0 AND convalidated
         AND (SELECT bool_and(p.proowner IN (SELECT id FROM trusted))
                FROM pg_depend d JOIN pg_proc p ON p.oid = d.refobjid JOIN pg_language l ON l.oid = p.prolang
               WHERE d.classid = 'pg_constraint'::regclass AND d.objid = k.oid AND d.refclassid = 'pg_proc'::regclass
                 AND l.lanname NOT IN ('internal', 'c'))
      UNION ALL
      SELECT t.oid, own, name, definition FROM checked JOIN pg_type t ON t.typbasetype = domain AND t.typtype = 'd'),
    untrusted(domain) AS (
      SELECT t.oid FROM pg_type t
       WHERE typtype = 'd'
         AND (typowner NOT IN (SELECT id FROM trusted)
              OR EXISTS (SELECT FROM pg_constraint k JOIN pg_depend d ON d.classid = 'pg_constraint'::regclass AND d.objid = k.oid
                           JOIN pg_proc p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid JOIN pg_language l ON l.oid = p.prolang
                          WHERE k.contypid = t.oid AND l.lanname NOT IN ('internal', 'c') AND p.proowner NOT IN (SELECT id FROM trusted)))
      UNION
      SELECT t.oid FROM untrusted JOIN pg_type t ON t.typbasetype = domain AND t.typtype = 'd')
    SELECT format('%s.%s', nspname, relname),
           format('SELECT FROM (SELECT count(%I::%s::%s) AS n FROM ONLY %I.%I) q WHERE n < 0', attname,
                  format_type(typbasetype, typtypmod), format_type(atttypid, NULL), nspname, relname),
           format('Rows of table %1$s violate the check %2$I of domain %3$s in column %4$I, so that a restore cannot load the rows of this '
                  'table: ALTER DOMAIN %3$s DROP CONSTRAINT %2$I; ALTER DOMAIN %3$s ADD CONSTRAINT %2$I %5$s NOT VALID, and back up anew. '
                  'From a backup without NOT VALID: restore without these rows, run ALTER DOMAIN %3$s DROP CONSTRAINT %2$I, bring them by '
                  'pg_restore --data-only --schema=%6$I --table=%7$I of the unpacked archive (`show` prints how to unpack it), and add the '
                  'constraint as NOT VALID.',
                  attrelid::regclass, name, own::regtype, attname, definition, nspname, relname), name::text
      FROM checked JOIN pg_attribute a ON a.atttypid = domain AND NOT attisdropped JOIN pg_type t ON t.oid = domain
      JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace
     WHERE relkind = 'r' AND relpersistence <> 't' AND relowner IN (SELECT id FROM trusted)
       AND nspname !~ '^pg_' AND nspname <> 'information_schema' AND domain NOT IN (SELECT domain FROM untrusted)
     ORDER BY c.reltuples, 1 LIMIT 500";

/// Columns that no script of an extension has written in tables whose rows are dumped, as whole sentences: the rows of a table
/// with a column that was added cannot be loaded, since `CREATE EXTENSION` makes the table without that column. A column that was
/// only altered looks the same.
const COLUMNS: &str = "
    SELECT format('Column %3$I of table %1$s was added or altered since extension %2$I has made the table. If it was added, a restore cannot load '
                  'the rows of this table: restore without them (--without), run ALTER TABLE %1$s ADD COLUMN %3$I %4$s, and bring them by '
                  'pg_restore --data-only --schema=%5$I --table=%6$I of the unpacked archive (`show` prints how to unpack it).',
                  attrelid::regclass, extname, attname, format_type(atttypid, atttypmod), nspname, relname)
      FROM pg_extension e, unnest(extconfig) config(id) JOIN pg_class c ON c.oid = config.id JOIN pg_namespace n ON n.oid = relnamespace
      JOIN pg_attribute a ON attrelid = c.oid
     WHERE relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped AND attacl IS NULL AND attoptions IS NULL AND coalesce(attstattarget, -1) = -1
       AND a.xmin::text <> ALL (ARRAY(SELECT xmin::text FROM pg_depend o WHERE o.refclassid = 'pg_extension'::regclass AND o.refobjid = e.oid
                                         AND o.deptype = 'e' UNION SELECT e.xmin::text))
     ORDER BY 1 LIMIT 200";

/// The sentences about columns of tables of extensions that may keep rows from being loaded.
///
/// # Errors
///
/// The error of the server, sorted by the remedy.
pub async fn find_columns(transaction: &Transaction<'_>) -> Result<Vec<String>, ComponentError> {
    let rows = transaction.query(COLUMNS, &[]).await;
    let rows = rows.map_err(|err| sort("look at the columns of extensions' tables".into(), err))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Returns whether a row violates the check constraint of this name.
fn is_violation_of(err: &Error, name: Option<&str>) -> bool {
    let found = err.as_db_error().filter(|_| err.code() == Some(&SqlState::CHECK_VIOLATION));
    found.is_some_and(|found| name.is_some() && found.constraint() == name)
}

/// Finds the objects that a restore cannot make as they were. Rows are looked at for a short time only: a drill finds the rest.
///
/// # Errors
///
/// The error of the server, sorted by the remedy.
pub async fn find(transaction: &mut Transaction<'_>) -> Result<Vec<PredictedDifference>, ComponentError> {
    /// The time that all rows may take, which is time of the backup.
    const BUDGET: Duration = Duration::from_secs(2);
    const AS_IN_A_RESTORE: &str =
        "SET LOCAL search_path = ''; SET LOCAL statement_timeout = '1s'; SET LOCAL lock_timeout = '50ms'";
    let failed = |err| sort("look what a restore could not make".into(), err);
    let difference = |name, warning| PredictedDifference { name, warning };
    let unreadable = transaction.query(UNREADABLE, &[]).await.map_err(failed)?;
    let mut found: Vec<_> = unreadable.iter().map(|row| difference(row.get(0), row.get(1))).collect();
    let mut checks = transaction.query(CHECKS, &[]).await.map_err(failed)?;
    checks.extend(transaction.query(DOMAINS, &[]).await.map_err(failed)?);
    let begun = Instant::now();
    for check in &checks {
        if begun.elapsed() > BUDGET || found.len() >= Derived::KEPT {
            break;
        }
        let attempt = transaction.savepoint("trial").await.map_err(failed)?;
        attempt.batch_execute(AS_IN_A_RESTORE).await.map_err(failed)?;
        let violating = attempt.query(check.get::<_, &str>(1), &[]).await;
        attempt.rollback().await.map_err(failed)?;
        match violating {
            Ok(rows) if rows.is_empty() => {}
            Ok(_) => found.push(difference(check.get(0), check.get(2))),
            Err(err) if is_violation_of(&err, check.get(3)) => {
                found.push(difference(check.get(0), check.get(2)));
            }
            // Too slow, found by the trials of expressions, or a check that is restored after the rows.
            Err(err) if err.as_db_error().is_some() => {}
            Err(err) => return Err(failed(err)),
        }
    }
    Ok(found)
}
