//! `component::postgres`: what somebody has changed in the tables of an extension is named by the backup, compared by the drill,
//! and comes back by the statements that are named.

use crate::postgres::backup;
use crate::postgres_odd::restore_without;
use crate::postgres_restore::{component, drill, with_own_clients};
use crate::support::postgres::PostgresServer;
use rna_backup::base::chain;
use rna_backup::component::postgres::PostgresConfig;
use rna_backup::component::{Restorable, Target};
use rna_backup::domain::facts::Facts;
use std::{fs, path::PathBuf};

/// An extension with two tables: one whose rows are all its own, and one of which rows of users are dumped.
const SCRIPT: &str = "
    CREATE TABLE units (id int PRIMARY KEY, name text); INSERT INTO units VALUES (1, 'm'), (2, 'kg'), (3, 's');
    CREATE TABLE refs (id int, name text, at timestamptz DEFAULT now()); INSERT INTO refs VALUES (1, 'own'), (2, 'own');
    SELECT pg_catalog.pg_extension_config_dump('refs', 'WHERE id > 100');";

/// The files of an extension among those of a server, which go with the value.
struct Installed(Vec<PathBuf>);

impl Installed {
    /// Installs an extension; `None` where nobody may write beside those of the server.
    fn install(server: &PostgresServer, name: &str) -> Option<Self> {
        let share = server.psql("postgres", "SELECT setting FROM pg_config WHERE name = 'SHAREDIR'");
        let folder = PathBuf::from(share).join("extension");
        let file = |ending: &str| folder.join(format!("{name}{ending}"));
        let installed = Self(vec![file(".control"), file("--1.0.sql")]);
        let texts = ["default_version = '1.0'\nrelocatable = true\ntrusted = true\n", SCRIPT];
        let mut written = installed.0.iter().zip(texts).map(|(path, text)| fs::write(path, text));
        let done = written.all(|written| written.is_ok());
        if !done {
            eprintln!("not tried: nobody may write into {}", folder.display());
        }
        done.then_some(installed)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        for file in &self.0 {
            let _ = fs::remove_file(file);
        }
    }
}

/// The sentences about tables of extensions.
fn told(warnings: &[String]) -> String {
    warnings.join("\n")
}

/// Runs the statements of psql that a warning has for a table: those that keep the rows, or those that bring them back.
fn by_hand(server: &PostgresServer, name: &str, folder: &str, warning: &str, back: bool) {
    let of = |begin: &str, end: &str| {
        let (_, rest) = warning.split_once(begin).unwrap_or_else(|| panic!("{begin} is not in {warning}"));
        rest.split_once(end).unwrap().0.to_owned()
    };
    let lines = if back { of("on a line of its own: ", "COMMIT.") + "COMMIT;" } else { of("(psql: ", ")") };
    // A command of psql ends with its line.
    let lines = lines.replace("'rows.copy'", &format!("'{folder}/rows.copy'")).replace("; ", ";\n");
    server.psql(name, &lines.replace("rows.copy';", "rows.copy'"));
}

async fn changed_rows_are_named(server: &PostgresServer) {
    let Some(_installed) = Installed::install(server, "rna_units") else { return };
    let name = server.database("units", "");
    server.psql(&name, "SET client_min_messages = error; CREATE EXTENSION rna_units; CREATE TABLE t (id int); INSERT INTO refs VALUES (101, 'mine')");
    let config: PostgresConfig = with_own_clients(server, &name);
    let (archive, untouched): (Vec<u8>, Facts) = backup(config.clone()).await.unwrap();
    assert_eq!(untouched.warnings, [""; 0], "nothing was changed");
    assert_eq!(drill(&config, &archive, &untouched).await, (Vec::new(), Vec::new()));

    server.psql(&name, "UPDATE units SET name = 'metre' WHERE id = 1; INSERT INTO units VALUES (4, 'A'); UPDATE refs SET name = 'changed' WHERE id = 1");
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let night = told(&facts.warnings);
    let (units, refs) =
        ("Table public.units of extension rna_units", "Table public.refs of extension rna_units");
    for words in [
        format!("{units} has rows that were added or changed since CREATE EXTENSION, 2 in all"),
        format!("{refs} has rows that were added or changed since CREATE EXTENSION, 1 in all"),
    ] {
        assert!(night.contains(&words), "{words}: {night}");
    }
    assert!(!night.contains("mine") && !night.contains("metre"), "{night}");
    let planned = component(&config).plan(&Target::Live, Some(&facts)).await.unwrap().advice;
    assert!(planned.iter().any(|said| said.contains(units)), "{planned:?}");
    let (differences, warnings) = drill(&config, &archive, &facts).await;
    let drilled = told(&warnings);
    assert_eq!(differences, [""; 0]);
    for words in
        [format!("{units} had 4 rows of its own at the backup, and has 3 now"), format!("{refs} had 2 rows")]
    {
        assert!(drilled.contains(&words), "{words}: {drilled}");
    }

    // The statements in the warning of the backup keep the rows and bring the rows back.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let line = facts.warnings.iter().find(|warning| warning.contains(units)).unwrap();
    by_hand(server, &name, path, line, false);
    restore_without(&config, &archive, &[], &facts).await.unwrap();
    let seen = "SELECT string_agg(name, ' ' ORDER BY id) FROM units";
    assert_eq!(server.psql(&name, seen), "m kg s");
    by_hand(server, &name, path, line, true);
    assert_eq!(server.psql(&name, seen), "metre kg s A");
    what_the_drill_alone_finds_is_named(server, &config).await;
    additions_are_named(server, &config).await;
}

/// A row that was removed leaves no trace.
async fn what_the_drill_alone_finds_is_named(server: &PostgresServer, config: &PostgresConfig) {
    let name = &config.database;
    let units = "Table public.units of extension rna_units";
    server.psql(name, "SET client_min_messages = error; DROP EXTENSION rna_units; CREATE EXTENSION rna_units; INSERT INTO refs VALUES (102, 'x')");
    server.psql(name, "DELETE FROM units WHERE id = 2");
    let (archive, facts) = backup(config.clone()).await.unwrap();
    assert_eq!(facts.warnings, [""; 0]);
    let drilled = told(&drill(config, &archive, &facts).await.1);
    assert!(
        drilled.contains(&format!("{units} had 2 rows of its own at the backup, and has 3 now")),
        "{drilled}"
    );
}

/// Columns, indexes and triggers that were added to tables of an extension are named by the backup, with their statements.
async fn additions_are_named(server: &PostgresServer, config: &PostgresConfig) {
    let name = &config.database;
    let added = [
        "ALTER TABLE public.units ADD COLUMN note text",
        "CREATE INDEX by_name ON public.units USING btree (name)",
        "CREATE TRIGGER touch BEFORE UPDATE ON public.units FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    ];
    server.psql(name, &format!("{}; ALTER TABLE refs ADD COLUMN more int", added.join("; ")));
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let night = told(&facts.warnings);
    for statement in added.iter().chain(&["ALTER TABLE public.refs ADD COLUMN more integer"]) {
        assert!(night.contains(statement), "{statement}: {night}");
    }
    // The rows of that column have no table to go to.
    assert!(night.contains("Column more of table public.refs was added or altered"), "{night}");
    let err = chain(&restore_without(config, &archive, &[], &facts).await.unwrap_err());
    assert!(err.contains("public.refs"), "{err}");
    restore_without(config, &archive, &["public.refs"], &facts).await.unwrap();
    server.psql(name, "ALTER TABLE public.refs ADD COLUMN more integer");
    let rows = ["--data-only", "--schema=public", "--table=refs", "-d", name.as_str()];
    let out = server.run("pg_restore", name, &rows, &archive);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(server.psql(name, "SELECT id, more FROM refs WHERE id > 100"), "102|");
}

#[tokio::test]
async fn changed_rows_and_additions_to_tables_of_an_extension_are_named_compared_and_brought_back() {
    for server in [PostgresServer::start(), PostgresServer::of(18)] {
        changed_rows_are_named(&server).await;
    }
}
