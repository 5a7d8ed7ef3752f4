//! Objects of the live database that a restore in place runs into: made after the backup, and in need of what it replaces.

use crate::component::ComponentError;
use crate::component::postgres::{admin::fault, toc::Contents};
use deadpool_postgres::ClientWrapper;
use std::collections::BTreeSet;

/// Dependent objects: kind, schema and name as in a table of contents; the same of what each needs; in words; the
/// statement that takes it away, and the one that brings it back.
const DEPENDENT: &str = "
    SELECT 'FK CONSTRAINT', n.nspname::text, c.relname || ' ' || k.conname, 'TABLE', rn.nspname::text, r.relname::text,
           format('foreign key %I of table %I.%I', k.conname, n.nspname, c.relname),
           format('ALTER TABLE %I.%I DROP CONSTRAINT %I', n.nspname, c.relname, k.conname),
           format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s', n.nspname, c.relname, k.conname, pg_get_constraintdef(k.oid))
      FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_class r ON r.oid = k.confrelid JOIN pg_namespace rn ON rn.oid = r.relnamespace
     WHERE k.contype = 'f' AND k.conparentid = 0
    UNION
    SELECT CASE v.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END, n.nspname, v.relname,
           CASE r.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'v' THEN 'VIEW' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END,
           rn.nspname, r.relname,
           format('%sview %I.%I', CASE v.relkind WHEN 'm' THEN 'materialized ' END, n.nspname, v.relname),
           format('DROP %sVIEW %I.%I', CASE v.relkind WHEN 'm' THEN 'MATERIALIZED ' END, n.nspname, v.relname),
           format('CREATE %sVIEW %I.%I AS %s', CASE v.relkind WHEN 'm' THEN 'MATERIALIZED ' END, n.nspname, v.relname,
                  rtrim(pg_get_viewdef(v.oid), '; '))
      FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid JOIN pg_class v ON v.oid = w.ev_class AND v.relkind IN ('v', 'm')
      JOIN pg_namespace n ON n.oid = v.relnamespace JOIN pg_class r ON r.oid = d.refobjid AND r.oid <> v.oid
      JOIN pg_namespace rn ON rn.oid = r.relnamespace
     WHERE v.oid >= 16384 AND d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'n'
    UNION
    SELECT 'TABLE', n.nspname, c.relname, 'TABLE', rn.nspname, r.relname,
           format('%s %I.%I', CASE WHEN c.relispartition THEN 'partition' ELSE 'child table' END, n.nspname, c.relname),
           format('ALTER TABLE %I.%I %s %I.%I', CASE WHEN c.relispartition THEN rn.nspname ELSE n.nspname END,
                  CASE WHEN c.relispartition THEN r.relname ELSE c.relname END,
                  CASE WHEN c.relispartition THEN 'DETACH PARTITION' ELSE 'NO INHERIT' END,
                  CASE WHEN c.relispartition THEN n.nspname ELSE rn.nspname END,
                  CASE WHEN c.relispartition THEN c.relname ELSE r.relname END),
           CASE WHEN c.relispartition
                THEN format('ALTER TABLE %I.%I ATTACH PARTITION %I.%I %s', rn.nspname, r.relname, n.nspname, c.relname,
                            pg_get_expr(c.relpartbound, c.oid))
                ELSE format('ALTER TABLE %I.%I INHERIT %I.%I', n.nspname, c.relname, rn.nspname, r.relname) END
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid AND c.relkind IN ('r', 'p')
      JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_class r ON r.oid = i.inhparent
      JOIN pg_namespace rn ON rn.oid = r.relnamespace
    UNION
    SELECT 'FUNCTION', n.nspname, format('%s(%s)', p.proname, oidvectortypes(p.proargtypes)),
           CASE t.typtype WHEN 'c' THEN 'TABLE' WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, rn.nspname, coalesce(r.relname, t.typname),
           format('function %s', p.oid::regprocedure), format('DROP FUNCTION %s', p.oid::regprocedure), pg_get_functiondef(p.oid)
      FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid AND p.prokind IN ('f', 'p') JOIN pg_namespace n ON n.oid = p.pronamespace
      JOIN pg_type t ON t.oid = d.refobjid JOIN pg_namespace rn ON rn.oid = t.typnamespace
      LEFT JOIN pg_class r ON r.oid = t.typrelid
     WHERE p.oid >= 16384 AND d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_type'::regclass AND d.deptype = 'n'
    UNION
    SELECT 'TABLE', n.nspname, c.relname, CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, rn.nspname, t.typname,
           format('table %I.%I', n.nspname, c.relname),
           format('ALTER TABLE %I.%I ALTER COLUMN %I TYPE text', n.nspname, c.relname, a.attname),
           format('ALTER TABLE %1$I.%2$I ALTER COLUMN %3$I TYPE %4$s USING %3$I::%4$s', n.nspname, c.relname, a.attname,
                  format_type(a.atttypid, a.atttypmod))
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p') JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_type t ON t.oid = a.atttypid AND t.typtype IN ('e', 'd') JOIN pg_namespace rn ON rn.oid = t.typnamespace
     WHERE c.oid >= 16384 AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY 1, 2, 3, 5, 6";

/// Refuses a restore in place that would run into objects that the archive does not know, on a session whose search path is
/// `pg_catalog`.
///
/// # Errors
///
/// [`ComponentError::Unusable`] with the statements that take them away; as sorted.
pub async fn refuse(client: &ClientWrapper, contents: &Contents) -> Result<(), ComponentError> {
    let rows = client.query(DEPENDENT, &[]).await;
    let rows = rows.map_err(|err| fault("look what depends on the tables", err))?;
    let known: BTreeSet<_> = contents
        .0
        .iter()
        .map(|entry| (entry.kind.as_str(), entry.schema.as_str(), entry.tag.as_str()))
        .collect();
    let is_known = |at: usize, row: &deadpool_postgres::tokio_postgres::Row| {
        known.contains(&(row.get::<_, &str>(at), row.get::<_, &str>(at + 1), row.get::<_, &str>(at + 2)))
    };
    let in_the_way = rows.iter().filter(|row| !is_known(0, row) && is_known(3, row));
    let words: BTreeSet<_> = in_the_way
        .map(|row| {
            let (what, needs): (&str, String) =
                (row.get(6), format!("{}.{}", row.get::<_, &str>(4), row.get::<_, &str>(5)));
            let (away, back): (&str, &str) = (row.get(7), row.get(8));
            format!("{what} needs {needs}: before the restore {away}; and after it {back}")
        })
        .collect();
    if words.is_empty() {
        return Ok(());
    }
    let what = format!(
        "made after the backup and in the way of a restore in place: {}",
        words.into_iter().collect::<Vec<_>>().join(". ")
    );
    Err(ComponentError::Unusable { what, source: None })
}
