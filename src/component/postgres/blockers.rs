//! Objects of the live database that a restore in place runs into: made after the backup, and in need of what it replaces;
//! those of other owners; and default privileges, which new objects would get.

use crate::component::ComponentError;
use crate::component::postgres::{
    admin::fault,
    dependencies::{Blocker, Dependencies},
    dropped_objects::DroppedObjects,
};
use deadpool_postgres::{ClientWrapper, tokio_postgres::Row};

/// Objects in words, with the statements that take them away and bring them back.
const WORDS: &str = include_str!("blockers.sql");

/// The default privileges that objects of role $1 would get while they are restored, with the statements that take them away
/// and bring them back. A schema that is made again has none at first; `public` alone is not made again.
const DEFAULTS: &str = "
    WITH defaults AS (
      SELECT defaclrole AS owner, n.nspname AS schema, defaclacl AS acl,
             CASE defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' WHEN 'T' THEN 'TYPES'
                                WHEN 'n' THEN 'SCHEMAS' ELSE 'LARGE OBJECTS' END AS kind,
             CASE defaclnamespace WHEN 0 THEN acldefault(CASE defaclobjtype WHEN 'S' THEN 's' ELSE defaclobjtype END, defaclrole)
                                  END AS usual
        FROM pg_default_acl LEFT JOIN pg_namespace n ON n.oid = defaclnamespace
       WHERE defaclrole = (SELECT oid FROM pg_roles WHERE rolname = $1) AND (defaclnamespace = 0 OR n.nspname = 'public')),
    differing AS (
      SELECT owner, schema, kind, true AS is_more, e.* FROM defaults, LATERAL (
        SELECT grantee, privilege_type, is_grantable FROM aclexplode(acl)
        EXCEPT SELECT grantee, privilege_type, is_grantable FROM aclexplode(usual)) e
      UNION ALL
      SELECT owner, schema, kind, false, e.* FROM defaults, LATERAL (
        SELECT grantee, privilege_type, is_grantable FROM aclexplode(usual)
        EXCEPT SELECT grantee, privilege_type, is_grantable FROM aclexplode(acl)) e),
    statement AS (
      SELECT kind, is_more,
             format('ALTER DEFAULT PRIVILEGES FOR ROLE %I%s ', pg_get_userbyid(owner), ' IN SCHEMA ' || quote_ident(schema)) AS alter,
             format('%s ON %s', string_agg(privilege_type, ', ' ORDER BY privilege_type), kind) AS what,
             CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS whom,
             CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS option
        FROM differing GROUP BY owner, schema, kind, is_more, grantee, is_grantable)
    SELECT lower(kind), CASE WHEN is_more THEN revoke ELSE give END, CASE WHEN is_more THEN give ELSE revoke END
      FROM statement, LATERAL (SELECT format('%sREVOKE %s FROM %s', alter, what, whom) AS revoke,
                                      format('%sGRANT %s TO %s%s', alter, what, whom, option) AS give) s
     ORDER BY 1, 2";

/// The constraints of partitions that those of their parents bring, deepest first, as `pg_restore --list` has them.
const INHERITED: &str = "
    SELECT translate(concat_ws(' ', n.nspname, c.relname, k.conname), E'\\n\\r', '  ')
      FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE k.conparentid <> 0 AND k.contype IN ('p', 'u', 'x')
     ORDER BY (SELECT count(*) FROM pg_partition_ancestors(c.oid)) DESC, 1";

/// At most this many objects are named.
const NAMED: usize = 100;

/// Refuses a restore in place by `role` that would run into objects of the database, on a session whose search path is
/// `pg_catalog`.
///
/// # Errors
///
/// [`ComponentError::Unusable`] with the statements that take them away; else the error of the server.
pub async fn refuse(
    client: &ClientWrapper,
    role: &str,
    dropped: &DroppedObjects,
) -> Result<(), ComponentError> {
    let mut dependencies = Dependencies::read(client, role).await?;
    let found = dependencies.drop_all(&dropped.objects);
    let rows = words(client, &found).await?;
    let sentences = |is_other: bool| {
        let found = rows.iter().zip(&found).filter(|(_, one)| (one.object == one.needs) == is_other);
        found.map(|(row, one)| sentence(row, one)).collect::<Vec<_>>()
    };
    let what: Vec<_> = [
        ("made after the backup, or left out, and in the way of a restore in place", sentences(false), ""),
        ("of another kind than in the backup", sentences(true), ""),
        (
            "what a restore in place replaces must belong to the role that restores, or be left out",
            of_others(client, &dependencies, dropped).await?,
            ": give it to that role, or make the role a member of the owner",
        ),
        (
            "default privileges would change the rights of what is restored in place",
            defaults(client, role).await?,
            "",
        ),
    ]
    .into_iter()
    .filter(|(_, named, _)| !named.is_empty())
    .map(|(what, named, cure)| {
        let more = named.len().saturating_sub(NAMED);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        format!("{what}: {}{more}{cure}", named.into_iter().take(NAMED).collect::<Vec<_>>().join(". "))
    })
    .collect();
    if what.is_empty() {
        return Ok(());
    }
    let what = format!(
        "{}. None of it is in the way of a restore beside the live database: `check` names the right that this needs",
        what.join(". ")
    );
    Err(ComponentError::Unusable { what, source: None })
}

/// The objects that the restore takes away and the role may not, in words.
async fn of_others(
    client: &ClientWrapper,
    dependencies: &Dependencies,
    dropped: &DroppedObjects,
) -> Result<Vec<String>, ComponentError> {
    let found: Vec<_> = dependencies.of_others(dropped).into_iter().collect();
    let objects: Vec<_> =
        found.iter().map(|(object, _)| Blocker { object: *object, column: 0, needs: *object }).collect();
    let rows = words(client, &objects).await?;
    let words = rows.iter().zip(&found);
    Ok(words.map(|(row, (_, owner))| format!("{} belongs to {owner}", row.get::<_, &str>(0))).collect())
}

/// The default privileges that new objects of the role would get.
async fn defaults(client: &ClientWrapper, role: &str) -> Result<Vec<String>, ComponentError> {
    let rows = client.query(DEFAULTS, &[&role]).await;
    let rows = rows.map_err(|err| fault("look at default privileges", err))?;
    let words = |row: &Row| {
        let (kind, away, back): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        format!("{kind}: before the restore {away}; and after it, unless the restore has done so, {back}")
    };
    Ok(rows.iter().map(words).collect())
}

/// The constraints of the database that PostgreSQL drops with those of a parent alone, on a session whose search path is
/// `pg_catalog`.
///
/// # Errors
///
/// The error of the server, sorted by the remedy.
pub async fn inherited(client: &ClientWrapper) -> Result<Vec<String>, ComponentError> {
    let rows = client.query(INHERITED, &[]).await;
    Ok(rows.map_err(|err| fault("look at constraints", err))?.iter().map(|row| row.get(0)).collect())
}

/// The words of objects, in their order.
async fn words(client: &ClientWrapper, found: &[Blocker]) -> Result<Vec<Row>, ComponentError> {
    let of = |part: fn(&Blocker) -> u32| found.iter().map(part).collect::<Vec<_>>();
    let columns: Vec<_> = found.iter().map(|blocker| blocker.column).collect();
    let rows = client
        .query(
            WORDS,
            &[
                &of(|blocker| blocker.object.0),
                &of(|blocker| blocker.object.1),
                &columns,
                &of(|blocker| blocker.needs.0),
                &of(|blocker| blocker.needs.1),
            ],
        )
        .await;
    rows.map_err(|err| fault("name what is in the way", err))
}

/// An object that is in the way, and the way out.
fn sentence(row: &Row, blocker: &Blocker) -> String {
    let (what, needed, save): (&str, &str, &str) = (row.get(0), row.get(1), row.get(4));
    let (away, back): (Option<&str>, Option<&str>) = (row.get(2), row.get(3));
    let needs = if blocker.object == blocker.needs { String::new() } else { format!(" needs {needed}") };
    match (away, back) {
        (None, _) => format!("{what}{needs}, and no statement takes it away without a loss"),
        (Some(away), Some(back)) => {
            format!("{what}{needs}: before the restore {away}; and after it {back}")
        }
        (Some(away), None) => {
            format!(
                "{what}{needs}: before the restore {away} (save it first: {save}), and make it again after it"
            )
        }
    }
}
