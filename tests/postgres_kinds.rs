//! `component::postgres::kinds`: the list of everything that a database holds has no gap, on real servers.

use crate::support::postgres::PostgresServer;
use rna_backup::component::postgres::kinds::{DATABASE, KINDS, page};
use std::{collections::BTreeSet, fs, path::Path};

/// The words of a query's only column.
fn words(server: &PostgresServer, query: &str) -> BTreeSet<String> {
    server.psql("postgres", query).lines().map(str::to_owned).collect()
}

#[test]
fn every_catalog_of_a_server_and_every_property_of_a_database_is_on_the_list() {
    let listed: BTreeSet<_> = KINDS.iter().flat_map(|kind| kind.catalogs).copied().collect();
    let columns: BTreeSet<_> = DATABASE.iter().map(|(column, _)| *column).collect();
    let (mut catalogs, mut properties) = (BTreeSet::new(), BTreeSet::new());
    for server in [PostgresServer::shared(), &PostgresServer::of(18)] {
        let version = server.psql("postgres", "SHOW server_version");
        let found = words(
            server,
            "SELECT relname FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r'",
        );
        let missing: Vec<_> = found.iter().filter(|name| !listed.contains(name.as_str())).collect();
        assert!(missing.is_empty(), "{version}: {missing:?}");
        catalogs.extend(found);
        let found = words(
            server,
            "SELECT attname FROM pg_attribute WHERE attrelid = 'pg_database'::regclass AND (attnum > 0 OR attname = 'oid')",
        );
        let missing: Vec<_> = found.iter().filter(|name| !columns.contains(name.as_str())).collect();
        assert!(missing.is_empty(), "{version}: {missing:?}");
        properties.extend(found);
    }
    let gone: Vec<_> = listed.iter().filter(|name| !catalogs.contains(**name)).collect();
    assert!(gone.is_empty(), "no server has {gone:?}");
    let gone: Vec<_> = columns.iter().filter(|name| !properties.contains(**name)).collect();
    // PostgreSQL 16 called it so.
    assert!(gone.iter().all(|name| **name == "daticulocale"), "no server has {gone:?}");
}

#[test]
fn the_page_of_the_documentation_is_the_list() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/postgres-objects.md");
    let page = page();
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "{} is not the list; it should be:\n{page}", path.display());
}
