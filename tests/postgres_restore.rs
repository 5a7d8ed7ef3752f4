//! `component::postgres` restores: beside the live database, swapped, undone, forgotten.

use crate::postgres::{FINGERPRINT, NASTY, backup};
use crate::support::postgres::PostgresServer;
use rna_backup::component::postgres::{Postgres, PostgresConfig};
use rna_backup::component::{ComponentError, Restorable, RestoreOrder, Staged, Target, Undo};
use rna_backup::domain::facts::Facts;
use rna_backup::domain::progress::Meter;
use tempfile::TempDir;

/// What a database is beside its contents, in words that do not name it.
const NATURE: &str = r"
SELECT to_jsonb(d) - '{oid,datname,datacl,datfrozenxid,datminmxid}'::text[], shobj_description(oid, 'pg_database')
  FROM pg_database d WHERE datname = current_database();
SELECT coalesce(setrole::regrole::text, ''), c FROM pg_db_role_setting, unnest(setconfig) c
 WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1, 2;
SELECT grantee::regrole, privilege_type, is_grantable FROM pg_database, aclexplode(datacl)
 WHERE datname = current_database() ORDER BY 1, 2, 3;
SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'public'::regnamespace;
SELECT obj_description('plain'::regclass);
SELECT attname, attidentity, attgenerated FROM pg_attribute WHERE attrelid = 'generated'::regclass AND attnum > 0;
SELECT c.relname, pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid), relpersistence
  FROM pg_class c WHERE relnamespace = 'public'::regnamespace ORDER BY 1;
SELECT extname, extversion FROM pg_extension ORDER BY 1;
";

pub fn component(config: &PostgresConfig) -> Postgres {
    Postgres::new(config.clone(), Vec::new())
}

pub async fn stage(
    config: &PostgresConfig,
    mut archive: &[u8],
    target: &Target,
    facts: Option<&Facts>,
) -> Result<Box<dyn Staged>, ComponentError> {
    component(config).stage(&mut archive, &RestoreOrder::new(target, facts), &Meter::default()).await
}

/// The differences and the warnings of a drill.
pub async fn drill(config: &PostgresConfig, archive: &[u8], facts: &Facts) -> (Vec<String>, Vec<String>) {
    let (meter, mut feed) = (Meter::default(), archive);
    let staged = component(config)
        .stage(&mut feed, &RestoreOrder::new(&Target::Scratch, Some(facts)), &meter)
        .await
        .unwrap();
    let differences = staged.differences(&mut &*archive, &Meter::default()).await.unwrap();
    staged.discard().await.unwrap();
    (differences, meter.take_warnings())
}

/// The databases whose names begin with `name`.
pub fn databases(server: &PostgresServer, name: &str) -> Vec<String> {
    let list = format!(
        "SELECT datname FROM pg_database WHERE starts_with(datname, '{}') ORDER BY 1",
        name.replace('\'', "''")
    );
    server.psql("postgres", &list).lines().map(str::to_owned).collect()
}

/// The way into a database with the clients that came with its server.
pub fn with_own_clients(server: &PostgresServer, database: &str) -> PostgresConfig {
    PostgresConfig { bin_dir: Some(server.bin().into()), ..server.config(database) }
}

pub fn in_parallel(config: PostgresConfig) -> (PostgresConfig, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (PostgresConfig { scratch: Some(dir.path().into()), jobs: 2, ..config }, dir)
}

#[tokio::test]
async fn a_database_of_everything_is_restored_undone_and_restored_again() {
    let icu = "LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'de-AT'";
    let more = "CREATE EXTENSION hstore; CREATE TABLE pairs AS SELECT 'a=>1'::hstore AS p;
        CREATE COLLATION numeric (provider = icu, locale = 'en-u-kn-true'); ALTER TABLE plain ADD UNIQUE (body)";
    everything_comes_back(PostgresServer::shared(), icu, more).await;
}

/// Backs a database up that has everything, and `more`; spoils it, restores it, takes that back, and so on.
pub async fn everything_comes_back(server: &PostgresServer, locale: &str, more: &str) {
    server.psql("postgres", "CREATE ROLE \"Bo'ss\" LOGIN; CREATE ROLE \"Gu\"\"est\"");
    let name = server.database(
        "Lab \"Größe\" o'x",
        &format!("OWNER \"Bo'ss\" ENCODING 'UTF8' {locale} TEMPLATE template0"),
    );
    let quoted = "\"Lab \"\"Größe\"\" o'x\"";
    server.psql(&name, &format!("SET ROLE \"Bo'ss\"; {NASTY}; {more}"));
    let nature = format!(
        "COMMENT ON DATABASE {quoted} IS 'the lab''s \\ own'; ALTER DATABASE {quoted} CONNECTION LIMIT 33;
         ALTER DATABASE {quoted} SET search_path TO \"$user\", 'a \"b, c', public;
         ALTER DATABASE {quoted} SET default_transaction_read_only = on;
         ALTER DATABASE {quoted} SET my.own TO 'it''s';
         ALTER ROLE \"Gu\"\"est\" IN DATABASE {quoted} SET work_mem = '7MB';
         REVOKE ALL ON DATABASE {quoted} FROM PUBLIC; GRANT CONNECT ON DATABASE {quoted} TO \"Gu\"\"est\" WITH GRANT OPTION"
    );
    server.psql("postgres", &nature);
    let writable = |sql: &str| {
        server
            .psql(&name, &format!("SET default_transaction_read_only = off; SET search_path = public; {sql}"))
    };
    let see = || (writable(FINGERPRINT), writable(NATURE));
    let (config, scratch) = in_parallel(with_own_clients(server, &name));
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let old = see();
    writable(
        "DROP TABLE circle; DELETE FROM plain WHERE id > 10; CREATE TABLE added AS SELECT 1 AS n; SELECT nextval('plain_id_seq')",
    );
    let changed = see();
    assert_ne!(old.0, changed.0);

    let plan = component(&config).plan(&Target::Live, Some(&facts)).await.unwrap();
    assert_eq!((&*plan.method, &*plan.downtime), ("swap by rename", "milliseconds"));
    assert!(plan.replaces.starts_with(&format!("database {name} (")) && plan.warnings.is_empty(), "{plan:?}");
    let staged = stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap();
    assert_eq!(staged.counts(), &facts.counts);
    assert_eq!(see(), changed, "nothing live is touched before the swap");
    let kept = staged.swap().await.unwrap().unwrap();
    assert_eq!(see(), old);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    let lab = component(&config);
    assert_eq!(lab.undo_point().await.unwrap(), Some(kept.clone()));
    assert!(kept.place.starts_with(&format!("{name}_before_2")), "{kept:?}");

    let again = lab.undo(None, &Meter::default()).await.unwrap();
    assert_eq!(see(), changed, "undo brings back exactly what was there");
    assert_eq!(lab.undo_point().await.unwrap(), Some(again));
    lab.undo(None, &Meter::default()).await.unwrap();
    assert_eq!(see(), old);
    assert_eq!(databases(server, &name).len(), 2);
    assert_eq!(lab.recover().await.unwrap(), [""; 0], "there is nothing to put right");
    lab.delete_undo_data().await.unwrap();
    assert_eq!((lab.undo_point().await.unwrap(), databases(server, &name)), (None, vec![name.clone()]));
    let nothing = lab.undo(None, &Meter::default()).await.unwrap_err();
    assert!(matches!(nothing, ComponentError::Unusable { .. }), "{nothing:?}");
    assert_eq!(see(), old);
}

/// A small database of its own, backed up, and then changed.
pub async fn small(server: &PostgresServer, name: &str) -> (PostgresConfig, Vec<u8>, Facts) {
    let name = server.database(name, "");
    server.psql(&name, "CREATE TABLE t (n serial PRIMARY KEY, x text); INSERT INTO t (x) SELECT repeat('x', 100) FROM generate_series(1, 3000)");
    let config = PostgresConfig { jobs: 1, ..with_own_clients(server, &name) };
    let (archive, facts) = backup(config.clone()).await.unwrap();
    server.psql(&name, "DELETE FROM t WHERE n > 5");
    (config, archive, facts)
}

fn rows(server: &PostgresServer, database: &str) -> String {
    server.psql(database, "SELECT count(*) FROM t")
}

#[tokio::test]
async fn any_name_can_be_given_and_only_that_database_is_touched() {
    let server = PostgresServer::shared();
    let (config, archive, facts) = small(server, "given").await;
    for name in ["given  \"else\" =x", "GIVEN 'ö' \\ %s", &"gé".repeat(21)] {
        for kept in [false, true] {
            let target = Target::custom("database", [name]);
            let staged = stage(&config, &archive, &target, Some(&facts)).await.unwrap();
            assert_eq!(staged.swap().await.unwrap().is_some(), kept, "{name}");
            assert_eq!(rows(server, name), "3000");
        }
        let before = databases(server, &name[..3]).into_iter().filter(|other| other.contains("_before_"));
        assert_eq!(before.count(), 1, "{name}");
        component(&config).delete_undo_data().await.unwrap();
        assert_eq!(databases(server, name), [name]);
    }
    assert_eq!(rows(server, "given"), "5");
    for name in ["", "template1", &"x".repeat(64)] {
        let err = component(&config).plan(&Target::custom("database", [name]), None).await.unwrap_err();
        assert!(matches!(err, ComponentError::Unusable { .. }), "{err:?}");
    }
    let err = component(&config).plan(&Target::custom("into", ["/tmp/x"]), None).await.unwrap_err();
    assert!(err.to_string().contains("name a database"), "{err}");
}

#[tokio::test]
async fn a_database_that_somebody_dropped_comes_back() {
    let server = PostgresServer::shared();
    let (config, archive, facts) = small(server, "dropped_by_hand").await;
    server.psql("postgres", "DROP DATABASE dropped_by_hand WITH (FORCE)");
    let plan = component(&config).plan(&Target::Live, Some(&facts)).await.unwrap();
    assert_eq!(plan.replaces, "nothing: there is no database dropped_by_hand");
    assert_eq!(plan.warnings.len(), 1);
    let staged = stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap();
    assert_eq!(staged.swap().await.unwrap(), None);
    assert_eq!(
        (rows(server, "dropped_by_hand"), databases(server, "dropped_by_hand")),
        ("3000".into(), vec!["dropped_by_hand".into()])
    );
}

#[tokio::test]
async fn a_drill_leaves_nothing_and_cannot_become_live() {
    let server = PostgresServer::shared();
    let (config, archive, facts) = small(server, "drilled").await;
    let staged = stage(&config, &archive, &Target::Scratch, Some(&facts)).await.unwrap();
    assert_eq!(staged.counts(), &facts.counts);
    assert_eq!(databases(server, "drilled").len(), 2);
    staged.discard().await.unwrap();
    assert_eq!(databases(server, "drilled"), ["drilled"]);
    let staged = stage(&config, &archive, &Target::Scratch, None).await.unwrap();
    assert!(matches!(staged.swap().await.unwrap_err(), ComponentError::Unusable { .. }));
    assert_eq!(rows(server, "drilled"), "5");
    let done = component(&config).recover().await.unwrap();
    assert!(done.len() == 1 && done[0].contains("drilled_restore_"), "{done:?}");
    assert_eq!(databases(server, "drilled"), ["drilled"]);
}

#[tokio::test]
async fn trusted_extensions_come_back_to_an_ordinary_owner_whoever_restores() {
    const OWNERS: &str = "SELECT extname, extowner::regrole FROM pg_extension
        UNION SELECT relname, relowner::regrole FROM pg_class WHERE oid = 't'::regclass ORDER BY 1";
    const ROWS: &str = "SELECT count(*) FROM t WHERE x = 'BODY' AND h ? 'a'";
    let server = PostgresServer::shared();
    server.psql("postgres", "CREATE ROLE gardener LOGIN CREATEDB PASSWORD 'gardener'");
    let name = server.database("garden", "OWNER gardener");
    server.psql(
        &name,
        "SET ROLE gardener; CREATE EXTENSION citext; CREATE EXTENSION pg_trgm;
         CREATE SCHEMA beside; CREATE EXTENSION hstore SCHEMA beside;
         CREATE TABLE t AS SELECT 'body'::citext AS x, 'a=>1'::beside.hstore AS h; CREATE INDEX ON t USING gin (x gin_trgm_ops);
         RESET ROLE; ALTER DATABASE garden SET search_path = public, beside",
    );
    let superuser = server.config(&name);
    let password = Some("gardener".into());
    let owner = PostgresConfig { user: "gardener".into(), password, ..superuser.clone() };
    let (archive, facts) = backup(owner.clone()).await.unwrap();
    let owners = server.psql(&name, OWNERS);
    assert!(owners.contains("citext|gardener"), "{owners}");
    for config in [owner.clone(), superuser.clone()] {
        server.psql(&name, "DROP EXTENSION pg_trgm CASCADE; DELETE FROM t");
        let staged = stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap();
        staged.swap().await.unwrap().unwrap();
        assert_eq!((server.psql(&name, OWNERS), server.psql(&name, ROWS)), (owners.clone(), "1".into()));
        component(&config).delete_undo_data().await.unwrap();
    }
    // An extension that only a superuser may create does not come back by an ordinary owner.
    server.psql(&name, "CREATE EXTENSION pageinspect");
    let (archive, facts) = backup(superuser.clone()).await.unwrap();
    let err = stage(&owner, &archive, &Target::Live, Some(&facts)).await.unwrap_err();
    assert!(matches!(err, ComponentError::Unusable { .. }), "{err:?}");
    assert!(err.to_string().contains("pageinspect") && err.to_string().contains("trusted"), "{err}");
    assert_eq!((databases(server, &name), server.psql(&name, ROWS)), (vec![name.clone()], "1".into()));
    stage(&superuser, &archive, &Target::Live, Some(&facts)).await.unwrap().swap().await.unwrap().unwrap();
    let found = server.psql(&name, OWNERS);
    assert!(found.contains("pageinspect|postgres") && found.contains("hstore|gardener"), "{found}");
}

#[tokio::test]
async fn without_the_right_to_create_databases_it_is_one_transaction_in_place() {
    let server = PostgresServer::shared();
    server.psql("postgres", "CREATE ROLE simple LOGIN PASSWORD 'simple'");
    let name = server.database("in_place", "OWNER simple");
    server.psql(
        &name,
        "SET ROLE simple; CREATE TABLE t AS SELECT generate_series(1, 3000) AS n; CREATE VIEW v AS TABLE t",
    );
    let config =
        PostgresConfig { user: "simple".into(), password: Some("simple".into()), ..server.config(&name) };
    let (archive, facts) = backup(config.clone()).await.unwrap();
    server.psql(&name, "SET ROLE simple; DELETE FROM t WHERE n > 5; CREATE TABLE later AS SELECT 1 AS n");
    let lab = component(&config);
    let plan = lab.plan(&Target::Live, Some(&facts)).await.unwrap();
    assert_eq!((&*plan.method, &*plan.downtime), ("in place in one transaction", "while the restore runs"));
    assert!(plan.warnings[0].contains("there is no undo"), "{plan:?}");
    assert!(plan.free_bytes.unwrap() > 0 && plan.needs_bytes == Some(facts.source_bytes), "{plan:?}");
    for target in [Target::Scratch, Target::custom("database", ["in_place_other"])] {
        let err = lab.plan(&target, None).await.unwrap_err();
        assert!(err.to_string().contains("CREATEDB"), "{err}");
    }
    // What the archive does not know stands in the way: all or nothing.
    let staged = stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap();
    server.psql(&name, "CREATE VIEW in_the_way AS TABLE t");
    let err = staged.swap().await.unwrap_err();
    assert!(matches!(err, ComponentError::Failed { transient: false, .. }), "{err:?}");
    let err = stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap_err();
    assert!(err.to_string().contains("before the restore DROP VIEW public.in_the_way"), "{err}");
    assert_eq!(server.psql(&name, "SELECT count(*) FROM in_the_way"), "5");
    server.psql(&name, "DROP VIEW in_the_way");

    let staged = stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap();
    assert_eq!((staged.counts(), rows(server, &name)), (&facts.counts, "5".into()));
    assert_eq!(staged.swap().await.unwrap(), None);
    assert_eq!((rows(server, &name), server.psql(&name, "SELECT n FROM later")), ("3000".into(), "1".into()));
    assert_eq!(lab.undo_point().await.unwrap(), None);
    assert_eq!(databases(server, &name), [name]);
}

#[tokio::test]
async fn a_creator_of_databases_who_is_no_superuser_swaps_too() {
    let server = PostgresServer::shared();
    server.psql("postgres", "CREATE ROLE creator LOGIN CREATEDB PASSWORD 'creator'");
    let name = server.database("created", "OWNER creator");
    server.psql(
        &name,
        "SET ROLE creator; CREATE TABLE t AS SELECT generate_series(1, 3000) AS n; \
                        COMMENT ON DATABASE created IS 'mine'; ALTER DATABASE created SET work_mem = '9MB'",
    );
    let config =
        PostgresConfig { user: "creator".into(), password: Some("creator".into()), ..server.config(&name) };
    let (archive, facts) = backup(config.clone()).await.unwrap();
    server.psql(&name, "DELETE FROM t");
    let staged = stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap();
    staged.swap().await.unwrap().unwrap();
    let see = "SELECT current_setting('work_mem'), shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()";
    assert_eq!((rows(server, &name), server.psql(&name, see)), ("3000".into(), "9MB|mine".into()));
    let lab = component(&config);
    lab.undo(None, &Meter::default()).await.unwrap();
    assert_eq!((rows(server, &name), server.psql(&name, see)), ("0".into(), "9MB|mine".into()));
    lab.delete_undo_data().await.unwrap();
    assert_eq!(databases(server, &name), [name]);
}

#[test]
fn sessions_in_use_are_closed_and_find_the_new_database_at_once() {
    let server = PostgresServer::shared();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (config, archive, facts) = runtime.block_on(small(server, "in_use"));
    let staged = runtime.block_on(stage(&config, &archive, &Target::Live, Some(&facts))).unwrap();
    let ask = || {
        server.run(
            "psql",
            "in_use",
            &["-X", "-A", "-t", "-q"],
            b"SELECT count(*) FROM t; SELECT pg_sleep(60)",
        )
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..5)
            .map(|_| {
                scope.spawn(move || {
                    let closed = ask();
                    assert_eq!(
                        (closed.stdout.as_slice(), closed.status.code()),
                        (b"5\n".as_slice(), Some(2))
                    );
                    // Comes back until it is let in.
                    let again =
                        || server.run("psql", "in_use", &["-X", "-A", "-t"], b"SELECT count(*) FROM t");
                    std::iter::repeat_with(again).find(|out| out.status.success()).unwrap().stdout
                })
            })
            .collect();
        let busy =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = 'in_use' AND wait_event = 'PgSleep'";
        while server.psql("postgres", busy) != "5" {}
        runtime.block_on(staged.swap()).unwrap().unwrap();
        for client in clients {
            assert_eq!(client.join().unwrap(), b"3000\n");
        }
    });
    assert_eq!(rows(server, "in_use"), "3000");
    runtime.block_on(component(&config).delete_undo_data()).unwrap();
}
