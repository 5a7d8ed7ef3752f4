//! `component::postgres`: plain `pg_restore`, by the lines that `show` prints, brings back what a restore of ours does, also in an
//! empty cluster.

use crate::cli::shell;
use crate::postgres_rights::{dumped, of_a_dba_in};
use crate::support::{lab::Lab, postgres::PostgresServer};
use std::fs;

const EVERY_KIND: &str = include_str!("fixtures/postgres/every_kind.sql");

/// Owners, privileges and definitions of the whole database, as `pg_dump` writes them.
fn definitions(server: &PostgresServer, name: &str) -> String {
    let dump = server.run("pg_dump", name, &["--schema-only"], b"");
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let text = String::from_utf8(dump.stdout).unwrap();
    // A word of chance that the text of newer programs begins and ends with.
    let is_said = |line: &&str| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict");
    text.lines().filter(is_said).collect::<Vec<_>>().join("\n")
}

fn plain_tools_bring_back_the_same(server: &PostgresServer, empty: &PostgresServer, prefix: &str) {
    let name = of_a_dba_in(server, prefix);
    server.psql(&name, EVERY_KIND);
    server.psql(
        &name,
        &format!(
            "CREATE ROLE {prefix}_policy NOLOGIN IN ROLE {prefix}_reader; CREATE POLICY few ON paper FOR SELECT TO {prefix}_policy USING (id > 0);
             CREATE EXTENSION pg_stat_statements; REVOKE EXECUTE ON FUNCTION pg_catalog.pg_sleep(float8) FROM PUBLIC"
        ),
    );
    let before = dumped(server, &name);
    let bin = server.bin().display().to_string();
    let lab = Lab::new()
        .database(server, &name)
        .set("BACKUP_COMPONENTS", "postgres")
        .set("BACKUP_PG_BIN_DIR", &bin);
    lab.json(&["backup", "postgres"]);
    let mut shown = lab.json(&["show", "postgres"])["open_with"].clone();
    shown.as_array_mut().unwrap().insert(0, format!("PATH='{bin}':\"$PATH\"").into());
    let restored = lab.json(&["restore", "postgres", "--yes"]);
    let ours = definitions(server, &name);
    assert_eq!(dumped(server, &name), before, "{restored}");

    // A cluster that has none of the roles.
    let folder = lab.path("empty cluster");
    fs::create_dir(&folder).unwrap();
    let port = empty.config("postgres").port.to_string();
    let envs = [("PGHOST", empty.socket_dir().to_str().unwrap()), ("PGPORT", &port), ("PGUSER", "postgres")];
    shell(&folder, &shown, &envs);
    assert_eq!(definitions(empty, "restored"), ours);
    assert_eq!(empty.psql("restored", "SELECT count(*) FROM paper"), "1");
    let member = format!("SELECT pg_has_role('{prefix}_policy', '{prefix}_reader', 'MEMBER')");
    assert_eq!(empty.psql("restored", &member), "t");
}

#[test]
fn plain_pg_restore_brings_back_the_same_owners_privileges_and_definitions_in_an_empty_cluster() {
    plain_tools_bring_back_the_same(PostgresServer::shared(), &PostgresServer::start(), "hand15");
}

#[test]
fn plain_pg_restore_brings_back_the_same_owners_privileges_and_definitions_in_an_empty_cluster_on_18() {
    plain_tools_bring_back_the_same(&PostgresServer::of(18), &PostgresServer::of(18), "hand18");
}
