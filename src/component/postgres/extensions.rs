//! Owners of extensions, which no archive has: an extension belongs to the role that creates it.

use crate::component::ComponentError;
use crate::component::postgres::{
    admin::{Admin, fault},
    mark::ident,
};
use crate::domain::rights::OwnedExtension;
use deadpool_postgres::{ClientWrapper, GenericClient};

/// Reads the extensions whose owners are no superusers, in the order in which they were made.
///
/// # Errors
///
/// The error of the server, sorted by the remedy.
pub async fn owned(client: &impl GenericClient) -> Result<Vec<OwnedExtension>, ComponentError> {
    const OWNED: &str = "
        SELECT extname::text, nspname::text, rolname::text
          FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace JOIN pg_roles r ON r.oid = extowner
         WHERE NOT rolsuper ORDER BY e.oid";
    let rows = client.query(OWNED, &[]).await.map_err(|err| fault("look at the extensions", err))?;
    let owned =
        rows.iter().map(|row| OwnedExtension { name: row.get(0), schema: row.get(1), owner: row.get(2) });
    Ok(owned.collect())
}

/// Creates the extensions of others than `creator`, each as its owner, before `pg_restore` finds them and would create
/// them as `creator`. An extension that its owner may not create is left to `pg_restore`.
///
/// # Errors
///
/// The error of the server, where the server has not answered.
pub async fn create(
    client: &ClientWrapper,
    owned: &[OwnedExtension],
    creator: &str,
) -> Result<(), ComponentError> {
    for OwnedExtension { name, schema, owner } in owned.iter().filter(|owned| owned.owner != creator) {
        let (quoted, owner) = (ident(schema), ident(owner));
        // A new database has these two. Of another one, `pg_restore` finds that it is there, and sets its owner.
        let make_schema = if ["public", "pg_catalog"].contains(&schema.as_str()) {
            String::new()
        } else {
            format!("CREATE SCHEMA IF NOT EXISTS {quoted} AUTHORIZATION {owner};")
        };
        let create = format!(
            "{make_schema} SET LOCAL ROLE {owner}; CREATE EXTENSION IF NOT EXISTS {} WITH SCHEMA {quoted}",
            ident(name)
        );
        match client.batch_execute(&create).await {
            Err(err) if err.as_db_error().is_none() => return Err(fault("create extensions", err)),
            Err(err) => {
                tracing::info!(extension = name, owner, %err, "its owner may not create the extension");
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

/// The extensions of these that `creator` cannot create on the server, by name, each with a whole sentence.
///
/// # Errors
///
/// The error of the server, sorted by the remedy.
pub async fn impossible(
    admin: &Admin,
    names: &[&str],
    creator: &str,
) -> Result<Vec<(String, String)>, ComponentError> {
    // Before 13 no extension was trusted.
    const ASK: &str = "
        SELECT w.name, a.name IS NULL
          FROM unnest($1::text[]) w(name) LEFT JOIN pg_available_extensions a ON a.name = w.name
          LEFT JOIN pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version
         WHERE a.name IS NULL
            OR v.superuser AND NOT coalesce((to_jsonb(v) ->> 'trusted')::bool, false)
               AND NOT coalesce((SELECT rolsuper FROM pg_roles WHERE rolname = $2), false)
         ORDER BY 1";
    let rows = admin.client.query(ASK, &[&names, &creator]).await;
    let sentence = |row: &deadpool_postgres::tokio_postgres::Row| {
        let name: String = row.get(0);
        let words = if row.get(1) {
            format!("Extension {name} is not installed on this server: install the package that has it.")
        } else {
            format!(
                "Extension {name} cannot be created by {}, since it is not trusted, so that a superuser alone may: restore \
                 as a superuser, who then owns it, or write `trusted = true` into its control file on the server.",
                ident(creator)
            )
        };
        (name, words)
    };
    Ok(rows.map_err(|err| fault("look at the extensions", err))?.iter().map(sentence).collect())
}

/// The warnings of a plan about extensions that [`create`] cannot create in a copy of a database of `database_owner`.
///
/// # Errors
///
/// The error of the server, sorted by the remedy.
pub async fn creation_warnings(
    admin: &Admin,
    owned: &[OwnedExtension],
    creator: &str,
    database_owner: &str,
) -> Result<Vec<String>, ComponentError> {
    // Before 13 no extension was trusted.
    const POSSIBLE: &str = "
        SELECT EXISTS (
          SELECT FROM pg_roles r WHERE rolname = $2 AND pg_has_role(r.oid, $3::text::name, 'USAGE') AND EXISTS (
            SELECT FROM pg_available_extensions a
              JOIN pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version
             WHERE a.name = $1::text::name AND (to_jsonb(v) ->> 'trusted')::bool))";
    let mut warnings = Vec::new();
    for extension in owned.iter().filter(|owned| owned.owner != creator) {
        let OwnedExtension { name, owner, .. } = extension;
        let row = admin.client.query_one(POSSIBLE, &[name, owner, &database_owner]).await;
        if !row.map_err(|err| fault("look at the extensions", err))?.get::<_, bool>(0) {
            warnings.push(extension.warning(creator));
        }
    }
    Ok(warnings)
}
