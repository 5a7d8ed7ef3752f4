//! Rights that a backup needs: to read every table, and all its rows.

use crate::component::ComponentError;
use crate::component::postgres::{connect::sort, mark::ident, snapshot::Server};
use deadpool_postgres::ClientWrapper;

/// The tables and sequences that `pg_dump` has to read and the role of the session may not.
const MISSING: &str = "
    SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
       AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                          AND d.objid = c.oid AND d.deptype = 'e')
       AND (NOT has_schema_privilege(n.oid, 'USAGE') OR NOT has_table_privilege(c.oid, 'SELECT')
            OR row_security_active(c.oid))
     ORDER BY 1";

/// The role of the session, and whether it is a member of `pg_read_all_data` without having its rights.
const ROLE: &str = "
    SELECT current_user::text, coalesce(bool_or(pg_has_role(oid, 'MEMBER') AND NOT pg_has_role(oid, 'USAGE')), false)
      FROM pg_roles WHERE rolname = 'pg_read_all_data'";

/// Since this version a membership says by itself whether rights are inherited.
const INHERITED_BY_MEMBERSHIP: u32 = 16;

/// A sentence about the tables that the role of the session may not read, with the statements that allow it; `None` when a
/// dump is possible.
///
/// # Errors
///
/// The error of the server, sorted by the remedy.
pub async fn missing_privilege(
    client: &ClientWrapper,
    server: &Server,
) -> Result<Option<String>, ComponentError> {
    const NAMED: usize = 5;
    let failed = |err| sort("look which tables can be read".into(), err);
    let rows = client.query(MISSING, &[]).await.map_err(failed)?;
    if rows.is_empty() {
        return Ok(None);
    }
    let row = client.query_one(ROLE, &[]).await.map_err(failed)?;
    let (user, inherits_nothing): (String, bool) = (row.get(0), row.get(1));
    let role = ident(&user);
    let more = rows.len().saturating_sub(NAMED);
    let named = rows.iter().take(NAMED).map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let cure = match server.major {
        INHERITED_BY_MEMBERSHIP.. if inherits_nothing => {
            format!(
                "GRANT pg_read_all_data TO {role} WITH INHERIT TRUE, whose rights it has not now as a member"
            )
        }
        _ if inherits_nothing => {
            format!(
                "ALTER ROLE {role} INHERIT, or it has not the rights of pg_read_all_data, of which it is a member"
            )
        }
        _ => format!(
            "GRANT pg_read_all_data TO {role} (before PostgreSQL 14: GRANT USAGE ON SCHEMA and SELECT ON ALL TABLES and \
             SEQUENCES)"
        ),
    };
    Ok(Some(format!(
        "role {user} may not read all of {named}{more}: {cure}, and with row security also ALTER ROLE {role} BYPASSRLS"
    )))
}
