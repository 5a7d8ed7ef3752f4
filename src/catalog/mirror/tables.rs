//! The two tables: how they are made, and known for ours.

use crate::catalog::mirror::MirrorError;
use deadpool_postgres::{Transaction, tokio_postgres::error::SqlState};

/// Schema and names of the tables.
pub const TABLES: [(&str, &str); 2] = [("public", "rna_backup_backup"), ("public", "rna_backup_run")];

/// The beginning of the comment on each table of ours; the version of the table's columns follows. The comment goes
/// with the table into dumps and out of them.
pub const MARK: &str = "rna-backup catalogue, version ";

/// The statements that lead from each version of the tables to the next; the first from no tables at all.
const MIGRATIONS: [&str; 1] = [include_str!("../../../schemas/catalog.sql")];

/// `rna-back` in ASCII: two workers that start at once make the tables one after the other.
const TURN: i64 = 0x726e_612d_6261_636b;

/// Begins a change of the tables: waits for its turn, and never for long.
pub(super) async fn lock_tables(transaction: &Transaction<'_>) -> Result<(), MirrorError> {
    let begin = format!(
        "SET LOCAL search_path = pg_catalog; SET LOCAL lock_timeout = '3s'; SET LOCAL statement_timeout = '8s'; \
         SELECT pg_advisory_xact_lock({TURN})"
    );
    Ok(transaction.batch_execute(&begin).await?)
}

/// Brings the tables up to this version, and makes missing ones if `makes` is set; `None` where there are none.
/// Returns whether the database takes any character.
pub(super) async fn prepare(transaction: &Transaction<'_>, makes: bool) -> Result<Option<bool>, MirrorError> {
    const LOOK: &str = "
        SELECT c.oid IS NOT NULL, coalesce(c.relkind = 'r', false), coalesce(obj_description(c.oid, 'pg_class'), ''),
               getdatabaseencoding()::text = 'UTF8', current_user::text
          FROM unnest($1::text[], $2::text[]) WITH ORDINALITY t(schema, name, turn)
          LEFT JOIN pg_namespace n ON n.nspname = t.schema
          LEFT JOIN pg_class c ON c.relname = t.name AND c.relnamespace = n.oid
         ORDER BY t.turn";
    let (schemas, names): (Vec<_>, Vec<_>) = TABLES.into_iter().unzip();
    let (mut utf8, mut version, mut role) = (true, MIGRATIONS.len(), String::new());
    for (row, table) in transaction.query(LOOK, &[&schemas, &names]).await?.iter().zip(names) {
        let (is_there, is_table, comment): (bool, bool, &str) = (row.get(0), row.get(1), row.get(2));
        (utf8, role) = (row.get(3), row.get(4));
        let ours = is_table.then(|| version_in(comment)).flatten();
        version = match (is_there, ours) {
            (false, _) => 0,
            (true, Some(ours)) => version.min(ours),
            (true, None) => return Err(MirrorError::Foreign { table }),
        };
    }
    if version == 0 && !makes {
        return Ok(None);
    }
    for migration in &MIGRATIONS[version..] {
        transaction.batch_execute(migration).await.map_err(|err| match err.code() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                MirrorError::Rights { role: role.replace('"', "\"\""), source: err }
            }
            _ => MirrorError::Database(err),
        })?;
        tracing::info!("made the tables of the catalogue in the app's database");
    }
    Ok(Some(utf8))
}

/// The version of a table of ours, by its comment.
fn version_in(comment: &str) -> Option<usize> {
    let digits = comment.strip_prefix(MARK)?.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().filter(|version| *version > 0)
}

#[test]
fn a_table_is_known_by_its_comment() {
    assert_eq!(version_in("rna-backup catalogue, version 12: whatever"), Some(12));
    for foreign in ["", "a table", "rna-backup catalogue, version x", "rna-backup catalogue, version 0"] {
        assert_eq!(version_in(foreign), None, "{foreign}");
    }
    let newest = MIGRATIONS[MIGRATIONS.len() - 1];
    for (schema, table) in TABLES {
        let comment = format!("COMMENT ON TABLE {schema}.{table} IS '{MARK}{}:", MIGRATIONS.len());
        assert!(newest.contains(&comment), "{comment}");
    }
    assert!(MIGRATIONS.iter().all(|migration| migration.is_ascii()), "databases of any encoding take it");
}
