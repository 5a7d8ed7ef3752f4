//! `component::postgres`: definitions come back as they were, and a drill names those that did not.

use crate::postgres::backup;
use crate::postgres_restore::{component, drill, with_own_clients};
use crate::support::{lab::Lab, postgres::PostgresServer};
use rna_backup::component::postgres::kinds::KINDS;
use rna_backup::component::{Restorable, RestoreOrder, Target, Undo};
use rna_backup::domain::progress::Meter;
use serde_json::json;
use std::{collections::BTreeSet, fs};

const EVERY_KIND: &str = include_str!("fixtures/postgres/every_kind.sql");

/// Backs up a database before and after each change, and compares the archive of after with the facts of before.
async fn a_change_is_named(server: &PostgresServer, name: &str) {
    const CHANGES: &[(&str, &str)] = &[
        ("ALTER TABLE other DISABLE ROW LEVEL SECURITY", "table: public.other"),
        ("ALTER TABLE ul SET (fillfactor = 71)", "table: public.ul"),
        ("ALTER TABLE other ALTER note SET STATISTICS 56", "column: public.other.note"),
        ("ALTER TABLE exc ALTER h TYPE text", "column: public.exc.h"),
        ("ALTER TABLE other VALIDATE CONSTRAINT nv", "constraint: public.other.nv"),
        ("ALTER TABLE ser DROP CONSTRAINT self_too", "constraint"),
        ("ALTER INDEX ex RENAME TO fx", "index: public.fx"),
        ("ALTER TABLE other ENABLE TRIGGER t1", "trigger: public.other.t1"),
        ("ALTER POLICY po ON other TO postgres", "policy: public.other.po"),
        ("DROP RULE ru ON vw", "rule"),
        ("ALTER VIEW vw RESET (security_barrier)", "view: public.vw"),
        ("ALTER FUNCTION tg() SECURITY DEFINER", "function: public.tg()"),
        ("ALTER SEQUENCE s1 NO CYCLE", "sequence: public.s1"),
        ("ALTER TYPE mood RENAME VALUE 'meh' TO 'well'", "type: public.mood"),
        ("ALTER STATISTICS st SET STATISTICS 78", "statistic: public.st"),
        ("ALTER PUBLICATION pb2 DROP TABLE par", "publication: pb2"),
        ("ALTER EVENT TRIGGER et2 DISABLE", "event trigger: et2"),
        ("COMMENT ON POLICY po ON other IS 'q'", "comment: policy po on public.other"),
        ("COMMENT ON LARGE OBJECT 55 IS NULL", "comment"),
        ("ALTER TEXT SEARCH CONFIGURATION tsc DROP MAPPING FOR word", "text search configuration"),
    ];
    let config = with_own_clients(server, name);
    let (archive, facts) = backup(config.clone()).await.unwrap();
    assert_eq!(drill(&config, &archive, &facts).await, (Vec::new(), Vec::new()));
    server.psql(name, &CHANGES.iter().map(|(change, _)| *change).collect::<Vec<_>>().join(";"));
    let (archive, _) = backup(config.clone()).await.unwrap();
    let (differences, _) = drill(&config, &archive, &facts).await;
    for (change, words) in CHANGES {
        let (kind, name) = words.split_once(": ").unwrap_or((words, ""));
        let is_it = |line: &&String| line.starts_with(&format!("{kind} definitions")) && line.contains(name);
        assert!(differences.iter().any(|line| is_it(&line)), "{change}: {words}: {differences:#?}");
    }
    // A difference keeps no rows from coming back: the result names it.
    let (meter, mut feed) = (Meter::default(), &*archive);
    let staged = component(&config)
        .stage(&mut feed, &RestoreOrder::new(&Target::Live, Some(&facts)), &meter)
        .await
        .unwrap();
    staged.swap().await.unwrap();
    let warnings = meter.take_warnings();
    let words = "Not as in the backup: policy definitions are not as they were: public.other.po.";
    assert!(warnings.iter().any(|warning| warning == words), "{warnings:#?}");
    component(&config).delete_undo_data().await.unwrap();
}

#[tokio::test]
async fn every_definition_comes_back_and_a_changed_one_is_named() {
    let server = PostgresServer::shared();
    let name = server.database("definitions", "");
    server.psql(&name, EVERY_KIND);
    a_change_is_named(server, &name).await;
}

#[tokio::test]
async fn every_definition_comes_back_and_a_changed_one_is_named_on_postgresql_18() {
    let server = PostgresServer::of(18);
    let name = server.database("definitions", "");
    server.psql(&name, EVERY_KIND);
    a_change_is_named(&server, &name).await;
}

#[test]
fn every_entry_of_an_archive_is_of_a_kind_on_the_list() {
    let listed: BTreeSet<_> =
        KINDS.iter().flat_map(|kind| kind.holding.iter().chain(kind.derived)).copied().collect();
    let folder = tempfile::tempdir().unwrap();
    for (version, server) in [(15, &PostgresServer::start()), (18, &PostgresServer::of(18))] {
        let name = server.database("entries", "");
        server.psql(&name, EVERY_KIND);
        let dump = server.run("pg_dump", &name, &["--format=custom"], b"");
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        let path = folder.path().join(format!("{version}.dump"));
        fs::write(&path, dump.stdout).unwrap();
        let list = server.run("pg_restore", &name, &["--list"], &fs::read(&path).unwrap());
        let text = String::from_utf8(list.stdout).unwrap();
        let entries = text.lines().filter(|line| !line.starts_with(';'));
        let unknown: Vec<_> = entries
            .filter(|line| {
                // Number, OID of the catalog, OID: then the kind, in capital letters, and the schema.
                let rest = line.splitn(4, ' ').nth(3).unwrap_or_default();
                !listed.iter().any(|kind| rest.strip_prefix(kind).is_some_and(|rest| rest.starts_with(' ')))
            })
            .collect();
        assert!(unknown.is_empty(), "{version}: {unknown:#?}");
        assert!(text.lines().count() > 150, "{text}");
    }
}

#[tokio::test]
async fn a_dry_run_and_a_drill_name_the_steps_that_they_do_not_take() {
    let server = PostgresServer::shared();
    let name = server.database("steps", "");
    server.psql(&name, "CREATE TABLE t (id int)");
    let lab = Lab::new().database(server, &name).set("BACKUP_COMPONENTS", "postgres");
    lab.json(&["backup", "postgres"]);
    let [load, compare, swap] = [
        "load the archive, into a new database where the role may make one",
        "compare rows, owners and privileges, and the definitions of a new database",
        "end all sessions of the live database, and rename or replace it",
    ];
    let planned = lab.json(&["restore", "postgres", "--dry-run"]);
    assert_eq!(planned["not_tried"], json!([load, compare, swap]));
    let drilled = lab.json(&["verify", "postgres", "--drill"]);
    let live_alone = [
        "look for prepared transactions in the live database",
        "look for subscriptions of the live database",
        "look for objects that the archive does not know, where contents are replaced in place",
    ];
    assert_eq!(drilled["results"][0]["not_tried"], json!([&live_alone[..], &[swap]].concat()));
}

#[tokio::test]
async fn a_property_of_the_database_that_is_refused_is_named_by_dry_run_and_restore() {
    let server = PostgresServer::shared();
    let name = server.database("properties", "");
    server.psql(&name, "CREATE TABLE t (id int)");
    // A setting that an older version of the server has known.
    let set = "INSERT INTO pg_db_role_setting SELECT oid, 0, ARRAY['no_such_setting=on'] FROM pg_database WHERE datname = 'properties'";
    server.psql(&name, set);
    let lab = Lab::new().database(server, &name).set("BACKUP_COMPONENTS", "postgres");
    lab.json(&["backup", "postgres"]);
    let statement = "ALTER DATABASE \\\"properties\\\" SET \\\"no_such_setting\\\" TO 'on'";
    let planned = lab.json(&["restore", "postgres", "--dry-run"])["warnings"].to_string();
    assert!(planned.contains(statement), "{planned}");
    let restored = lab.json(&["restore", "postgres", "--yes", "--without", "nosuch"])["warnings"].to_string();
    assert!(restored.contains(statement), "{restored}");
    assert!(restored.contains("Nothing was left out for the name nosuch"), "{restored}");
    let (code, _, said) = lab.run(&["restore", "postgres", "--yes", "--without", ""]);
    assert!(code == 2 && said.contains("--without"), "{code} {said}");
}
