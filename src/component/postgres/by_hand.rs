//! The commands that open and restore a dump with plain tools alone.

use crate::domain::{facts::Facts, rights::RoleInUse};

/// The commands for a dump. Owners and privileges come back where the roles are there.
pub(super) fn commands(read: &str, facts: Option<&Facts>) -> Vec<String> {
    let make = |statement: String| {
        let quoted = statement.replace('\'', r"'\''");
        format!("psql --dbname=postgres --command='{quoted}' || true   # it may be there")
    };
    let rights = facts.and_then(|facts| facts.rights.as_ref());
    let roles = rights.map(|rights| RoleInUse::create_statements(&rights.roles)).unwrap_or_default();
    let unpack = [
        format!("{read} | pg_restore --list"),
        "createdb restored".to_owned(),
        "# As a superuser. Anybody else adds --no-owner --no-privileges, and owns all of it then.".to_owned(),
        format!("{read} | pg_restore --dbname=restored"),
    ];
    roles.into_iter().map(make).chain(unpack).collect()
}
