//! The contents of a database beside rows and rights: empty materialized views, objects that an empty `search_path` hides,
//! and what users have put on tables of extensions.

use crate::component::ComponentError;
use crate::component::postgres::{connect::sort, extension_rows, version_filter::of_version};
use crate::domain::derived::{Derived, UnqualifiedObject};
use deadpool_postgres::{Transaction, tokio_postgres::Row};
use std::time::{Duration, Instant};

/// The materialized views that were emptied.
const EMPTY: &str = "
    SELECT nspname || '.' || relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
     WHERE relkind = 'm' AND NOT relispopulated ORDER BY 1";

/// The locale of columns of type `money`, and of domains over it and arrays of it.
const MONEY: &str = "
    SELECT current_setting('lc_monetary') WHERE EXISTS (
      SELECT FROM pg_attribute JOIN pg_type t ON t.oid = atttypid
       WHERE (atttypid IN (790, 791) OR typbasetype = 790) AND attrelid >= 16384 AND NOT attisdropped)";

const TABLESPACES: &str = "
    SELECT DISTINCT spcname::text FROM pg_class c JOIN pg_tablespace t ON t.oid = reltablespace
     WHERE c.oid >= 16384 AND relpersistence <> 't' AND relkind IN ('r', 'p', 'm', 'i', 'I') ORDER BY 1";

/// Objects and properties that `pg_dump` leaves out (`getIndexes`, `getConstraints`, `getTriggers` of its source), a whole
/// sentence for each. The last line is of PostgreSQL 14 and newer.
const LEFT_OUT: &str = "
    SELECT * FROM (
      SELECT format('Index %s is invalid, and no backup has it: REINDEX INDEX %1$s, or drop it.', i.indexrelid::regclass)
        FROM pg_index i JOIN pg_class t ON t.oid = indrelid
       WHERE NOT indisvalid AND t.relkind <> 'p' AND indrelid >= 16384
      UNION ALL
      SELECT format('Triggers of foreign key %I on %s are disabled, and a restore enables them.', conname, conrelid::regclass)
        FROM pg_constraint k WHERE contype = 'f' AND conparentid = 0
         AND EXISTS (SELECT FROM pg_trigger WHERE tgconstraint = k.oid AND tgenabled = 'D')
      UNION ALL
      -- The row type is noted when the table is made: another transaction than that has put the table into the extension, or one in which
      -- no script has made other objects, or another command of the transaction of CREATE EXTENSION, whose script notes each object and its
      -- place in the extension at once. After pg_upgrade objects of an extension have transactions of their own, or all of them two commands.
      SELECT format('Table %s was put into extension %I, so that pg_dump leaves out its definition and its rows, and no restore brings them '
                    'back: ALTER EXTENSION %2$I DROP TABLE %1$s.', c.oid::regclass, extname)
        FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_class c ON c.oid = d.objid JOIN pg_type t ON t.typrelid = c.oid
        JOIN pg_depend i ON i.classid = 'pg_type'::regclass AND i.objid = t.oid AND i.refclassid = d.classid AND i.refobjid = c.oid
       WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND i.deptype = 'i'
         AND c.relkind IN ('r', 'p')
         AND (i.xmin <> d.xmin
              OR d.xmin <> e.xmin
                 AND EXISTS (SELECT FROM pg_depend o WHERE o.refclassid = d.refclassid AND o.refobjid = e.oid AND o.deptype = 'e' AND o.xmin = e.xmin)
                 AND NOT EXISTS (SELECT FROM pg_depend o WHERE o.refclassid = d.refclassid AND o.refobjid = e.oid AND o.deptype = 'e'
                                    AND o.xmin = d.xmin AND o.classid NOT IN (d.classid, 'pg_type'::regclass))
              OR d.xmin = e.xmin AND NOT i.cmin = d.cmin
                 AND EXISTS (SELECT FROM pg_depend o JOIN pg_depend s ON (s.classid, s.objid) = (o.classid, o.objid) AND s.deptype <> 'e'
                              WHERE o.refclassid = d.refclassid AND o.refobjid = e.oid AND o.deptype = 'e' AND o.xmin = e.xmin
                                AND s.xmin = o.xmin AND s.cmin = o.cmin))
      UNION ALL SELECT format('Partition %s is about to be detached, and a restore attaches it: ALTER TABLE %s DETACH PARTITION %1$s FINALIZE.', inhrelid::regclass, inhparent::regclass) FROM pg_inherits WHERE inhdetachpending -- since 14
    ) found ORDER BY 1 LIMIT 200";

/// Statements for what users have put on tables of extensions, of which `pg_dump` writes rows and grants alone. What the
/// scripts of an extension have made has the transaction of something else that is the extension's own.
const ON_EXTENSIONS: &str = "
    WITH script(extension, id) AS (
      SELECT DISTINCT refobjid, xmin::text FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'),
    own(id, extension, quoted) AS (
      SELECT c.oid, d.refobjid, format('%I.%I', n.nspname, c.relname)
        FROM pg_depend d JOIN pg_class c ON c.oid = d.objid JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
         AND c.relkind IN ('r', 'p')),
    added(place, id, made_by, statement) AS (
      SELECT 1, attrelid, a.xmin::text, format('ALTER TABLE %s ADD COLUMN %I %s', own.quoted, attname, format_type(atttypid, atttypmod))
        FROM pg_attribute a JOIN own ON own.id = attrelid
       WHERE attnum > 0 AND NOT attisdropped AND attacl IS NULL AND attoptions IS NULL AND coalesce(attstattarget, -1) = -1
      UNION ALL
      SELECT 2, conrelid, k.xmin::text, format('ALTER TABLE %s ADD CONSTRAINT %I %s', own.quoted, conname, pg_get_constraintdef(k.oid))
        FROM pg_constraint k JOIN own ON own.id = conrelid WHERE contype IN ('c', 'f', 'p', 'u', 'x')
      UNION ALL
      SELECT 3, indrelid, i.xmin::text, pg_get_indexdef(indexrelid) FROM pg_index i JOIN own ON own.id = indrelid
       WHERE NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND contype IN ('p', 'u', 'x'))
      UNION ALL
      SELECT 4, tgrelid, t.xmin::text, pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN own ON own.id = tgrelid WHERE NOT tgisinternal
      UNION ALL
      SELECT 5, polrelid, p.xmin::text,
             concat(format('CREATE POLICY %I ON %s AS %s FOR %s TO %s', polname, own.quoted,
                           CASE WHEN polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                           CASE polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                           (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END, ', ') FROM unnest(polroles) r)),
                    ' USING (' || pg_get_expr(polqual, polrelid) || ')', ' WITH CHECK (' || pg_get_expr(polwithcheck, polrelid) || ')')
        FROM pg_policy p JOIN own ON own.id = polrelid),
    by_user AS (
      SELECT place, id, statement FROM added JOIN own USING (id)
       WHERE NOT EXISTS (SELECT FROM script WHERE script.extension = own.extension AND script.id = made_by))
    SELECT statement FROM (
      SELECT place, statement FROM by_user
      UNION ALL
      SELECT 6, format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', own.quoted) FROM own JOIN pg_class c ON c.oid = own.id
       WHERE relrowsecurity AND NOT EXISTS (SELECT FROM pg_policy p JOIN script ON script.id = p.xmin::text AND script.extension = own.extension
                                             WHERE polrelid = own.id)) s
     ORDER BY place, statement LIMIT 200";

/// Statements that begin to change the user mappings whose options the role of the session may not read, by the rules of the
/// view `pg_user_mappings`, which `pg_dump` reads.
const HIDDEN_MAPPINGS: &str = "
    SELECT format('ALTER USER MAPPING FOR %s SERVER %I', CASE umuser WHEN 0 THEN 'PUBLIC' ELSE quote_ident(usename) END, m.srvname)
      FROM pg_user_mappings m JOIN pg_foreign_server s ON s.oid = m.srvid
     WHERE umoptions IS NULL AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
       AND NOT CASE WHEN umuser = 0 THEN pg_has_role(srvowner, 'USAGE')
                    ELSE usename = current_user AND (pg_has_role(srvowner, 'USAGE') OR has_server_privilege(s.oid, 'USAGE')) END
     ORDER BY 1 LIMIT 200";

/// Queries that evaluate, for one row, each expression that a restore evaluates and that calls a function of somebody's:
/// kind, name, query. Only where nobody's functions run who could not do as much as the role of the session by
/// himself: a restore evaluates them as the owner of the table, and a session of ours cannot.
const TRIALS: &str = "
    WITH trusted(id) AS (SELECT oid FROM pg_roles WHERE rolname = current_user OR rolsuper),
    called(class, id, by_trusted) AS (
      SELECT d.classid, d.objid, bool_and(p.proowner IN (SELECT id FROM trusted))
        FROM pg_depend d JOIN pg_proc p ON p.oid = d.refobjid JOIN pg_language l ON l.oid = p.prolang
       WHERE d.refclassid = 'pg_proc'::regclass AND l.lanname NOT IN ('internal', 'c')
       GROUP BY 1, 2),
    expression(kind, class, id, rel, query) AS (
      SELECT 'generated column', 'pg_attrdef'::regclass, d.oid, d.adrelid, pg_get_expr(d.adbin, d.adrelid)
        FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE a.attgenerated <> ''
      UNION ALL
      SELECT 'check constraint', 'pg_constraint'::regclass, oid, conrelid, pg_get_expr(conbin, conrelid)
        FROM pg_constraint WHERE contype = 'c' AND conrelid <> 0
      UNION ALL
      SELECT 'index', 'pg_class'::regclass, indexrelid, indrelid,
             concat_ws(', ', pg_get_expr(indexprs, indrelid), pg_get_expr(indpred, indrelid))
        FROM pg_index WHERE indexprs IS NOT NULL OR indpred IS NOT NULL)
    SELECT 'materialized view', format('%s.%s', nspname, relname),
           format('SELECT q FROM (%s) q LIMIT 1', rtrim(pg_get_viewdef(c.oid), '; '))
      FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace JOIN pg_rewrite r ON r.ev_class = c.oid
      LEFT JOIN called ON called.class = 'pg_rewrite'::regclass AND called.id = r.oid
     WHERE relkind = 'm' AND relispopulated AND relowner IN (SELECT id FROM trusted) AND coalesce(by_trusted, true)
    UNION ALL
    SELECT kind, CASE kind WHEN 'index' THEN (SELECT format('%s.%s', n.nspname, relname) FROM pg_class WHERE oid = e.id)
                           ELSE format('%s.%s', n.nspname, c.relname) END,
           format('SELECT ROW(%s) FROM ONLY %I.%I LIMIT 1', query, n.nspname, c.relname)
      FROM expression e JOIN called USING (class, id) JOIN pg_class c ON c.oid = e.rel JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE by_trusted AND c.relowner IN (SELECT id FROM trusted) AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
     ORDER BY 1, 2 LIMIT 500";

/// Reads what there is, in the snapshot of a dump. `search_path` is that of the role.
///
/// # Errors
///
/// The error of the server, sorted by the remedy.
pub async fn read(
    transaction: &mut Transaction<'_>,
    search_path: &str,
    major: u32,
) -> Result<Derived, ComponentError> {
    let failed = |err| sort("look what depends on the tables".into(), err);
    let mut lists = Vec::new();
    let left_out = of_version(LEFT_OUT, major);
    for query in [EMPTY, ON_EXTENSIONS, HIDDEN_MAPPINGS, TABLESPACES, MONEY, &left_out] {
        let rows = transaction.query(query, &[]).await.map_err(failed)?;
        lists.push(rows.iter().map(|row| row.get(0)).collect::<Vec<String>>());
    }
    let [empty_views, on_extensions, hidden_mappings, tablespaces, money, mut left_out] =
        lists.try_into().expect("each query has a list");
    let (own_rows, unknown) = extension_rows::read(transaction).await?;
    left_out.extend(unknown);
    Ok(Derived {
        search_path: search_path.to_owned(),
        lc_monetary: money.into_iter().next(),
        tablespaces,
        left_out,
        empty_views,
        on_extensions,
        own_rows,
        hidden_mappings,
        ..Derived::default()
    })
}

/// The objects that cannot be made under an empty `search_path`, found by evaluating each for one row. Those that take too
/// long are passed over: a drill finds out about them.
///
/// # Errors
///
/// The error of the server, sorted by the remedy.
pub async fn find_unqualified(
    transaction: &mut Transaction<'_>,
) -> Result<Vec<UnqualifiedObject>, ComponentError> {
    /// The time that all of them may take, which is time of the backup.
    const BUDGET: Duration = Duration::from_secs(3);
    let failed = |err| sort("look what depends on the tables".into(), err);
    let trials = transaction.query(TRIALS, &[]).await.map_err(failed)?;
    let (begun, mut found) = (Instant::now(), Vec::new());
    for trial in &trials {
        if begun.elapsed() > BUDGET || found.len() == Derived::KEPT {
            break;
        }
        found.extend(try_one(transaction, trial).await.map_err(failed)?);
    }
    Ok(found)
}

async fn try_one(
    transaction: &mut Transaction<'_>,
    trial: &Row,
) -> Result<Option<UnqualifiedObject>, deadpool_postgres::tokio_postgres::Error> {
    // One row takes milliseconds; a busy machine takes longer, and must not hide what cannot be restored.
    const AS_IN_A_RESTORE: &str =
        "SET LOCAL search_path = ''; SET LOCAL statement_timeout = '1s'; SET LOCAL lock_timeout = '50ms'";
    let attempt = transaction.savepoint("trial").await?;
    attempt.batch_execute(AS_IN_A_RESTORE).await?;
    let outcome = attempt.batch_execute(trial.get(2)).await;
    attempt.rollback().await?;
    let Err(err) = outcome else { return Ok(None) };
    let Some(said) = err.as_db_error() else { return Err(err) };
    // What is not found: a table, a function, a type or another object, a schema.
    let is_hidden = ["42P01", "42883", "42704", "3F000"].contains(&said.code().code());
    let (kind, name) = (trial.get(0), trial.get(1));
    Ok(is_hidden.then(|| UnqualifiedObject { kind, name, said: said.message().to_owned() }))
}
