//! The tablespaces of tables and indexes: a restore goes on without those that the server does not have.

use crate::component::ComponentError;
use crate::component::postgres::{
    admin::{Admin, fault},
    mark::ident,
    rights::OwnershipMode,
};
use crate::domain::derived::Derived;
use std::collections::BTreeSet;

/// The tablespaces of a backup that the server does not have, or in which the role may not make tables, a whole sentence for
/// each.
///
/// # Errors
///
/// The error of the server, sorted by the remedy.
pub async fn lost(
    admin: &Admin,
    rights: &OwnershipMode,
    derived: Option<&Derived>,
) -> Result<Vec<String>, ComponentError> {
    const USABLE: &str = "SELECT spcname::text FROM pg_tablespace
        WHERE spcname::text = ANY ($1) AND has_tablespace_privilege($2::name, oid, 'CREATE')";
    let Some(derived) = derived.filter(|derived| !derived.tablespaces.is_empty()) else {
        return Ok(Vec::new());
    };
    let maker = match rights {
        OwnershipMode::AsTheyWere(Some(role)) => role,
        _ => &admin.user,
    };
    let rows = admin.client.query(USABLE, &[&derived.tablespaces, maker]).await;
    let rows = rows.map_err(|err| fault("look up tablespaces", err))?;
    let usable: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let lost = derived.tablespaces.iter().filter(|name| !usable.contains(*name));
    let words = |name: &String| {
        let name = ident(name);
        format!(
            "Tables and indexes do not go to their tablespaces but to that of the database, since {name} is not there or {} may \
             not use it: CREATE TABLESPACE {name} LOCATION …, or GRANT CREATE ON TABLESPACE {name} TO {}.",
            ident(maker),
            ident(maker)
        )
    };
    Ok(lost.map(words).collect())
}
