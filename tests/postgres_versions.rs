//! `component::postgres` on servers of other versions, and with clients of other versions than the server.

use crate::postgres::{FINGERPRINT, NASTY, backup};
use crate::postgres_restore::{
    component, databases, everything_comes_back, in_parallel, small, stage, with_own_clients,
};
use crate::support::lab::Lab;
use crate::support::postgres::{PASSWORD, PostgresServer};
use rna_backup::component::postgres::PostgresConfig;
use rna_backup::component::{ComponentError, Restorable, Target, Undo};
use rna_backup::domain::facts::Facts;
use rna_backup::domain::progress::Meter;
use std::{path::Path, sync::LazyLock};

fn eighteen() -> &'static PostgresServer {
    static SERVER: LazyLock<PostgresServer> = LazyLock::new(|| PostgresServer::of(18));
    &SERVER
}

/// Their packages are built without ICU, and 16 without extensions of its own.
#[tokio::test]
async fn a_database_of_everything_comes_back_on_16() {
    let more =
        "CREATE TABLE packed (x text STORAGE EXTERNAL COMPRESSION pglz); INSERT INTO packed VALUES ('x')";
    everything_comes_back(&PostgresServer::of(16), "LOCALE 'C'", more).await;
}

#[tokio::test]
async fn a_database_of_everything_comes_back_on_18() {
    let builtin = "LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'";
    let more = "CREATE EXTENSION hstore; CREATE TABLE pairs AS SELECT 'a=>1'::hstore AS p; CREATE EXTENSION btree_gist;
        CREATE TABLE stay (room int, at tstzrange, PRIMARY KEY (room, at WITHOUT OVERLAPS));
        INSERT INTO stay VALUES (1, '[2026-01-01,2026-02-01)'), (1, '[2026-02-01,2026-03-01)');
        CREATE TABLE computed (a int, twice int GENERATED ALWAYS AS (a * 2) VIRTUAL, b int CHECK (b > 0) NOT ENFORCED);
        INSERT INTO computed VALUES (1, DEFAULT, -1); ALTER TABLE plain ADD CONSTRAINT said NOT NULL body NOT VALID";
    everything_comes_back(eighteen(), builtin, more).await;
}

/// A database of everything on `server`, backed up by the server's own clients.
async fn everything(server: &PostgresServer, name: &str) -> (Vec<u8>, Facts) {
    let name = server.database(name, "TEMPLATE template0 LOCALE 'C'");
    server.psql(&name, NASTY);
    backup(with_own_clients(server, &name)).await.unwrap()
}

/// Restores with the clients in `bin`, streaming and in parallel, and compares with `wanted`.
async fn comes_back(
    server: &PostgresServer,
    name: &str,
    bin: &Path,
    (archive, facts): &(Vec<u8>, Facts),
    wanted: &str,
) {
    server.database(name, "TEMPLATE template0 LOCALE 'C'");
    let config = PostgresConfig { bin_dir: Some(bin.into()), ..server.config(name) };
    for jobs in [1, 3] {
        let (config, _scratch) = in_parallel(config.clone());
        let config = PostgresConfig { jobs, ..config };
        server.psql(name, "CREATE TABLE spoilt (n int)");
        let staged = stage(&config, archive, &Target::Live, Some(facts)).await.unwrap();
        assert_eq!(staged.counts(), &facts.counts, "{jobs} jobs");
        staged.swap().await.unwrap().unwrap();
        assert!(server.psql(name, FINGERPRINT) == wanted, "{jobs} jobs");
        let lab = component(&config);
        lab.undo(None, &Meter::default()).await.unwrap();
        assert_eq!(server.psql(name, "SELECT count(*) FROM spoilt"), "0");
        lab.delete_undo_data().await.unwrap();
        server.psql(name, "DROP TABLE spoilt");
    }
}

#[tokio::test]
async fn a_dump_of_15_is_restored_into_18_by_either_client() {
    let (old, new) = (PostgresServer::shared(), eighteen());
    let dumped = everything(old, "upgraded").await;
    let wanted = old.psql("upgraded", FINGERPRINT);
    comes_back(new, "upgraded by 18", new.bin(), &dumped, &wanted).await;
    comes_back(new, "upgraded by 15", old.bin(), &dumped, &wanted).await;
}

#[tokio::test]
async fn a_dump_by_18_is_restored_into_15_by_18() {
    let (old, new) = (PostgresServer::shared(), eighteen());
    // Of a server of 15, and of one of 18.
    old.database("by newer", "TEMPLATE template0 LOCALE 'C'");
    old.psql("by newer", NASTY);
    let config = PostgresConfig { bin_dir: Some(new.bin().into()), ..old.config("by newer") };
    let by_newer = backup(config).await.unwrap();
    assert!(by_newer.1.versions["pg_dump"].starts_with("18."), "{:?}", by_newer.1);
    let wanted = old.psql("by newer", FINGERPRINT);
    comes_back(old, "by newer restored", new.bin(), &by_newer, &wanted).await;
    let of_newer = everything(new, "of newer").await;
    let wanted = new.psql("of newer", FINGERPRINT);
    comes_back(old, "of newer restored", new.bin(), &of_newer, &wanted).await;
}

#[tokio::test]
async fn what_an_older_server_does_not_know_is_an_error_however_much_is_forgiven() {
    let (old, new) = (PostgresServer::shared(), eighteen());
    new.database("too new", "");
    new.psql(
        "too new",
        "CREATE TABLE a AS SELECT 1 AS n; CREATE TABLE computed (a int, twice int GENERATED ALWAYS AS (a * 2) VIRTUAL)",
    );
    let (archive, facts) = backup(with_own_clients(new, "too new")).await.unwrap();
    old.database("too new", "");
    old.psql("too new", "CREATE TABLE live AS SELECT 7 AS n");
    for jobs in [1, 2] {
        let (config, _scratch) = in_parallel(old.config("too new"));
        let config = PostgresConfig { jobs, bin_dir: Some(new.bin().into()), ..config };
        let plan = component(&config).plan(&Target::Live, Some(&facts)).await.unwrap();
        assert!(plan.warnings[0].contains("made of PostgreSQL 18"), "{plan:?}");
        let err = stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap_err();
        assert!(matches!(err, ComponentError::Failed { transient: false, .. }), "{err:?}");
        assert!(err.to_string().contains("syntax error"), "{err}");
        assert_eq!(databases(old, "too new"), ["too new"]);
        assert_eq!(old.psql("too new", "SELECT n FROM live"), "7");
    }
    // The client of 15 cannot read it at all.
    let config = with_own_clients(old, "too new");
    let err = stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap_err();
    assert!(matches!(err, ComponentError::Unusable { .. }), "{err:?}");
    assert!(err.to_string().contains("install postgresql-client-18"), "{err}");
    let err = stage(&config, &archive, &Target::Live, None).await.unwrap_err();
    assert!(err.to_string().contains("a newer pg_dump made the archive"), "{err}");
    assert_eq!(databases(old, "too new"), ["too new"]);
}

#[tokio::test]
async fn in_place_a_client_that_sets_what_the_server_does_not_know_is_refused() {
    let (old, new) = (PostgresServer::shared(), eighteen());
    old.psql("postgres", "CREATE ROLE modest LOGIN PASSWORD 'modest'");
    let name = old.database("modest", "OWNER modest");
    old.psql(&name, "SET ROLE modest; CREATE TABLE t AS SELECT generate_series(1, 9) AS n");
    let config = PostgresConfig {
        user: "modest".into(),
        password: Some("modest".into()),
        ..with_own_clients(old, &name)
    };
    let (archive, facts) = backup(config.clone()).await.unwrap();
    old.psql(&name, "DELETE FROM t");
    let newer = PostgresConfig { bin_dir: Some(new.bin().into()), ..config.clone() };
    let staged = stage(&newer, &archive, &Target::Live, Some(&facts)).await.unwrap();
    let err = staged.swap().await.unwrap_err();
    assert!(err.to_string().contains("install postgresql-client-15"), "{err}");
    assert_eq!(old.psql(&name, "SELECT count(*) FROM t"), "0");
    let staged = stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap();
    assert_eq!(staged.swap().await.unwrap(), None);
    assert_eq!(old.psql(&name, "SELECT count(*) FROM t"), "9");
}

#[tokio::test]
async fn the_client_that_fits_is_found_and_a_missing_one_is_named() {
    let (old, new) = (PostgresServer::shared(), eighteen());
    let (config, ..) = small(new, "found").await;
    let lab = || {
        let lab = Lab::new().set("POSTGRES_HOST", &config.host).set("POSTGRES_PORT", config.port);
        lab.set("POSTGRES_DB", "found").set("POSTGRES_PASSWORD", PASSWORD).set("RUST_LOG", "")
    };
    let (sixteen, fifteen) = (PostgresServer::bin_dir_of(16), old.bin());
    let path = |dirs: &[&Path]| std::env::join_paths(dirs).unwrap().into_string().unwrap();
    let refused = [
        (lab().set("PATH", path(&[&sixteen])), "newest pg_dump found is 16", "or set BACKUP_PG_BIN_DIR"),
        (
            lab().set("PATH", path(&[new.bin()])).set("BACKUP_PG_BIN_DIR", fifteen.display()),
            "is 15",
            "and correct BACKUP_PG_BIN_DIR",
        ),
    ];
    for (lab, found, fix) in refused {
        for command in [&["backup", "postgres"][..], &["check"]] {
            let (code, out, err) = lab.run(command);
            let said = out + &err;
            let install = format!("install postgresql-client-18 {fix}");
            assert!(code != 0 && said.contains(found) && said.contains(&install), "{command:?}: {said}");
        }
        assert_eq!(lab.manifests("postgres").len(), 0);
    }
    let found = [
        lab().set("PATH", path(&[&sixteen, new.bin()])),
        lab().set("PATH", path(&[&sixteen])).set("BACKUP_PG_BIN_DIR", new.bin().display()),
    ];
    for lab in found {
        let (_, out, _) = lab.run(&["check"]);
        assert!(out.contains(&format!("in {}", new.bin().display())), "{out}");
        lab.json(&["backup", "postgres"]);
        new.psql("found", "DELETE FROM t");
        let (code, _, err) = lab.run(&["restore", "postgres", "latest", "--yes"]);
        assert_eq!((code, new.psql("found", "SELECT count(*) FROM t").as_str()), (0, "5"), "{err}");
    }
}
