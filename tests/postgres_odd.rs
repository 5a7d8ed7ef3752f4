//! `component::postgres`: odd databases and servers: words in another language, few sessions, objects that no restore makes
//! as they were, a database that is gone.

use crate::postgres::backup;
use crate::postgres_restore::{component, stage};
use crate::postgres_rights::{as_role, dumped};
use crate::support::{lab::eventually, postgres::PostgresServer};
use rna_backup::base::chain;
use rna_backup::component::postgres::PostgresConfig;
use rna_backup::component::{ComponentError, Restorable, RestoreOrder, Source, Target, Undo};
use rna_backup::domain::{facts::Facts, progress::Meter};

/// A drill that is expected to fail.
async fn failed_drill(config: &PostgresConfig, archive: &[u8], facts: &Facts) -> ComponentError {
    stage(config, archive, &Target::Scratch, Some(facts)).await.map(drop).unwrap_err()
}

pub async fn restore_without(
    config: &PostgresConfig,
    mut archive: &[u8],
    without: &[&str],
    facts: &Facts,
) -> Result<(), ComponentError> {
    let names: Vec<_> = without.iter().map(|&name| name.to_owned()).collect();
    let (postgres, meter) = (component(config), Meter::default());
    let staged = postgres
        .stage(
            &mut archive,
            &RestoreOrder { target: &Target::Live, without: &names, facts: Some(facts) },
            &meter,
        )
        .await?;
    staged.swap().await?;
    postgres.delete_undo_data().await
}

/// A table whose rows the server does not take any more, since the function of its check has changed.
const CHANGED_CHECK: &str = "
    CREATE FUNCTION ok(i int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT i < 100';
    CREATE TABLE base (id int PRIMARY KEY, CHECK (public.ok(id))); INSERT INTO base SELECT generate_series(1, 10);
    CREATE DOMAIN few AS int CHECK (public.ok(VALUE)); CREATE DOMAIN fewer AS few;
    CREATE TABLE counted (a few, b fewer); INSERT INTO counted VALUES (1, 50);
    CREATE OR REPLACE FUNCTION ok(i int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT i < 5';";

#[tokio::test]
async fn words_in_another_language_say_nothing_about_a_backup() {
    let server = PostgresServer::shared();
    let spoken = "SET lc_messages = 'C.UTF-8'; DO $$ BEGIN PERFORM 1 / 0;
                  EXCEPTION WHEN division_by_zero THEN PERFORM set_config('a.said', SQLERRM, false); END $$;
                  SELECT current_setting('a.said')";
    if server.psql("postgres", spoken) != "Division durch Null" {
        eprintln!("not tried: the messages of PostgreSQL in German are not installed");
        return;
    }
    let config = as_role(server, "odd_german", "odd_german", "CREATEDB");
    server.psql("postgres", "ALTER ROLE odd_german SET lc_messages = 'C.UTF-8'");
    let name = server.database("odd_german", "OWNER odd_german");
    server.psql(
        &name,
        &format!("SET ROLE odd_german; GRANT ALL ON SCHEMA public TO odd_german; {CHANGED_CHECK}"),
    );
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let grant = "GRANT SET ON PARAMETER lc_messages TO \"odd_german\"";
    let err = failed_drill(&config, &archive, &facts).await;
    assert!(err.is_transient() && chain(&err).contains(grant), "{err:?}");
    assert!(chain(&err).contains("verletzt Check-Constraint"), "{err:?}");
    let said = component(&config).check().await.unwrap();
    assert!(said.contains(grant), "{said}");

    server.psql("postgres", grant);
    let said = component(&config).check().await.unwrap();
    assert!(!said.contains("GRANT"), "{said}");
    let err = failed_drill(&config, &archive, &facts).await;
    assert!(matches!(err, ComponentError::Refused { .. }), "{err:?}");
    assert!(chain(&err).contains("violates check constraint"), "{err:?}");
    server.psql("postgres", "REVOKE SET ON PARAMETER lc_messages FROM odd_german");
}

#[tokio::test]
async fn a_restore_takes_as_many_jobs_as_the_role_may_have_sessions_and_names_a_limit_that_is_too_low() {
    let server = PostgresServer::shared();
    let folder = tempfile::tempdir().unwrap();
    let config = PostgresConfig {
        jobs: 4,
        scratch: Some(folder.path().into()),
        ..as_role(server, "odd_limit", "odd_limit", "CREATEDB CONNECTION LIMIT 3")
    };
    let name = server.database("odd_limit", "OWNER odd_limit");
    for table in ["a", "b", "c", "d"] {
        let make = format!(
            "SET ROLE odd_limit; CREATE TABLE public.{table} AS SELECT generate_series(1, 20000) AS id;
             CREATE INDEX ON public.{table} (id)"
        );
        server.psql(&name, &make);
    }
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let staged = stage(&config, &archive, &Target::Scratch, Some(&facts)).await.unwrap();
    staged.discard().await.unwrap();

    server.psql("postgres", "ALTER ROLE odd_limit CONNECTION LIMIT 2");
    let needs =
        "a restore needs 3 sessions at once, and 2 are allowed: ALTER ROLE \"odd_limit\" CONNECTION LIMIT 3";
    let said = component(&config).check().await.unwrap();
    assert!(said.contains(needs), "{said}");
    let err = component(&config).plan(&Target::Live, Some(&facts)).await.unwrap_err();
    assert!(chain(&err).contains(needs), "{err:?}");
    let err = failed_drill(&config, &archive, &facts).await;
    assert!(chain(&err).contains(needs), "{err:?}");

    server.psql(
        "postgres",
        "ALTER ROLE odd_limit CONNECTION LIMIT -1; ALTER DATABASE odd_limit CONNECTION LIMIT 1",
    );
    let needs = "a backup needs 2 sessions at once, and 1 are allowed: ALTER DATABASE \"odd_limit\" CONNECTION LIMIT 2";
    let said = chain(&backup(config).await.unwrap_err());
    assert!(said.contains(needs), "{said}");
}

#[tokio::test]
async fn what_a_restore_cannot_make_is_named_at_night_and_by_the_dry_run_and_the_rest_comes_back() {
    let server = PostgresServer::shared();
    server.psql("postgres", "CREATE ROLE odd_viewer");
    let config = as_role(server, "odd_known", "odd_known", "CREATEDB IN ROLE odd_viewer");
    let name = server.database("odd_known", "OWNER odd_known");
    server.psql(
        &name,
        &format!(
            "CREATE EXTENSION amcheck; SET ROLE odd_known; CREATE EXTENSION citext; {CHANGED_CHECK}
             CREATE TABLE kept (id int); INSERT INTO kept VALUES (1), (2);
             CREATE SCHEMA m AUTHORIZATION odd_viewer; GRANT SELECT ON kept TO odd_viewer;
             SET ROLE odd_viewer; CREATE MATERIALIZED VIEW m.mv AS SELECT count(id) FROM public.kept;
             SET ROLE odd_known; REVOKE SELECT ON kept FROM odd_viewer;
             CREATE TABLE put (i int); INSERT INTO put VALUES (1); ALTER EXTENSION citext ADD TABLE put;
             BEGIN; CREATE TABLE at_once (i int); ALTER EXTENSION citext ADD TABLE at_once; COMMIT; RESET ROLE;
             BEGIN; CREATE EXTENSION hstore; CREATE TABLE with_it (i int); ALTER EXTENSION hstore ADD TABLE with_it; COMMIT"
        ),
    );
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let named = facts.warnings.join("\n");
    for words in [
        "Materialized view m.mv cannot be filled by a restore",
        "GRANT SELECT ON public.kept TO odd_viewer",
        "Rows of table public.base violate its check constraint base_id_check",
        "ADD CONSTRAINT base_id_check CHECK (public.ok(id)) NOT VALID",
        "Table public.put was put into extension citext",
        "ALTER EXTENSION citext DROP TABLE public.put",
        "ALTER EXTENSION citext DROP TABLE public.at_once",
        "ALTER EXTENSION hstore DROP TABLE public.with_it",
        "Rows of table public.counted violate the check few_check of domain public.few in column b",
        "ALTER DOMAIN public.few ADD CONSTRAINT few_check CHECK (public.ok(VALUE)) NOT VALID",
    ] {
        assert!(named.contains(words), "{words}\n{named}");
    }
    let plan = component(&config).plan(&Target::Live, Some(&facts)).await.unwrap();
    assert_eq!(plan.refuses, ["amcheck", "m.mv", "public.base", "public.counted"]);
    let advice = plan.advice.join("\n");
    let untrusted = "Extension amcheck cannot be created by \"odd_known\", since it is not trusted";
    assert!(
        advice.contains(untrusted) && advice.contains("m.mv") && advice.contains("public.base"),
        "{advice}"
    );
    let said = chain(&failed_drill(&config, &archive, &facts).await);
    assert!(said.contains(untrusted) && said.contains("--without 'amcheck'"), "{said}");

    restore_without(&config, &archive, &["amcheck", "m.mv", "public.base", "public.counted"], &facts)
        .await
        .unwrap();
    let count =
        "SELECT (SELECT count(*) FROM kept), (SELECT count(*) FROM base), (SELECT count(*) FROM counted)";
    assert_eq!(server.psql(&name, count), "2|0|0");
    the_way_out_that_the_backup_has_named(server, &config, &archive, count).await;
}

async fn the_way_out_that_the_backup_has_named(
    server: &PostgresServer,
    config: &PostgresConfig,
    archive: &[u8],
    count: &str,
) {
    let name = &config.database;
    server.psql(
        name,
        "ALTER TABLE base DROP CONSTRAINT base_id_check; ALTER DOMAIN public.few DROP CONSTRAINT few_check",
    );
    for table in ["--table=base", "--table=counted"] {
        let rows = ["--data-only", "--schema=public", table, "-d", name.as_str()];
        let out = server.run("pg_restore", name, &rows, archive);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    server.psql(
        name,
        "ALTER TABLE base ADD CONSTRAINT base_id_check CHECK (public.ok(id)) NOT VALID;
         ALTER DOMAIN public.few ADD CONSTRAINT few_check CHECK (public.ok(VALUE)) NOT VALID",
    );
    assert_eq!(server.psql(name, count), "2|10|1");
    // With NOT VALID the next backup names nothing of these, and comes back.
    server.psql(name, "DROP MATERIALIZED VIEW IF EXISTS m.mv; DROP EXTENSION IF EXISTS hstore CASCADE");
    let (archive, facts) = backup(config.clone()).await.unwrap();
    assert!(!facts.warnings.join("\n").contains("violate"), "{:?}", facts.warnings);
    restore_without(config, &archive, &[], &facts).await.unwrap();
    assert_eq!(server.psql(name, count), "2|10|1");
}

#[tokio::test]
async fn a_dry_run_of_a_restore_in_place_goes_on_without_what_the_restore_is_told_to_leave_out() {
    let server = PostgresServer::shared();
    let config = as_role(server, "odd_place", "odd_place", "");
    let name = server.database("odd_place", "OWNER odd_place");
    server.psql(
        &name,
        "SET client_min_messages = error; CREATE PUBLICATION news;
         SET ROLE odd_place; CREATE TABLE public.a (id int); INSERT INTO a VALUES (1)",
    );
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let preview = async |without: &[String]| {
        component(&config)
            .preview(&mut &*archive, &RestoreOrder { target: &Target::Live, without, facts: Some(&facts) })
            .await
    };
    let said = chain(&preview(&[]).await.unwrap_err());
    assert!(said.contains("publication news belongs to postgres"), "{said}");
    preview(&["news".to_owned()]).await.unwrap();
    restore_without(&config, &archive, &["news"], &facts).await.unwrap();
    assert_eq!(server.psql(&name, "SELECT pubname, (SELECT count(*) FROM a) FROM pg_publication"), "news|1");
}

#[tokio::test]
async fn a_database_that_is_gone_comes_back_with_its_owner_whoever_restores_it() {
    let server = PostgresServer::shared();
    server.psql("postgres", "CREATE ROLE odd_gone_app; CREATE ROLE odd_gone_reader");
    let name = server.database("odd_gone", "OWNER odd_gone_app");
    server.psql(
        &name,
        "SET ROLE odd_gone_app; CREATE TABLE public.a (id int); INSERT INTO a VALUES (1); GRANT SELECT ON a TO odd_gone_reader;
         CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; REVOKE EXECUTE ON FUNCTION f() FROM PUBLIC;
         GRANT USAGE ON SCHEMA public TO odd_gone_reader",
    );
    let before = dumped(server, &name);
    let member = as_role(server, &name, "odd_gone_member", "CREATEDB IN ROLE odd_gone_app");
    let (archive, facts) = backup(member.clone()).await.unwrap();
    let owner = "SELECT pg_get_userbyid(datdba), datconnlimit FROM pg_database WHERE datname = 'odd_gone'";
    for config in [member, server.config(&name)] {
        server.psql("postgres", "DROP DATABASE odd_gone WITH (FORCE)");
        restore_without(&config, &archive, &[], &facts).await.unwrap();
        assert_eq!(server.psql("postgres", owner), "odd_gone_app|-1", "{}", config.user);
        assert_eq!(dumped(server, &name), before, "{}", config.user);
    }
}

#[tokio::test]
async fn a_role_whose_name_is_latin1_owns_after_a_restore_what_it_owned() {
    // A server of its own for this test: the role's name is no text to a session in any other database.
    let server = PostgresServer::start();
    let name = server.database("odd_latin1", "ENCODING LATIN1 TEMPLATE template0 LOCALE 'C'");
    server.psql(
        &name,
        "SET client_encoding = UTF8; CREATE ROLE \"müller\"; CREATE TABLE a (id int); INSERT INTO a VALUES (1);
         ALTER TABLE a OWNER TO \"müller\"",
    );
    let config = server.config(&name);
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let plan = component(&config).plan(&Target::Live, Some(&facts)).await.unwrap();
    assert_eq!((plan.lost_rights, plan.refuses), (None, Vec::new()));
    restore_without(&config, &archive, &[], &facts).await.unwrap();
    let owner = "SET client_encoding = UTF8; SELECT relowner::regrole FROM pg_class WHERE relname = 'a'";
    assert_eq!(server.psql(&name, owner), "\"müller\"");
}

/// A cast to a domain evaluates all of its checks, also those that no restore evaluates before the rows are there.
#[tokio::test]
async fn checks_of_domains_run_no_functions_of_others_and_one_that_comes_after_the_rows_is_no_reason_to_warn()
{
    let server = PostgresServer::shared();
    let name = server.database("odd_lured", "");
    server.psql(
        &name,
        "CREATE ROLE odd_mallory;
         CREATE FUNCTION ok(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
         CREATE FUNCTION few(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN $1 < 10; END';
         CREATE FUNCTION spy(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE LOG 'odd_mallory is at work'; RETURN true; END $$;
         ALTER FUNCTION spy(int) OWNER TO odd_mallory;
         CREATE DOMAIN lured AS int CONSTRAINT fine CHECK (public.ok(VALUE));
         CREATE DOMAIN later AS int CONSTRAINT fine CHECK (public.ok(VALUE));
         CREATE TABLE t (v lured, w later); INSERT INTO t VALUES (1, 11);
         ALTER DOMAIN lured ADD CONSTRAINT hidden CHECK (public.spy(VALUE)) NOT VALID;
         ALTER DOMAIN later ADD CONSTRAINT after CHECK (public.few(VALUE)) NOT VALID;
         ALTER DOMAIN lured OWNER TO odd_mallory",
    );
    let config = server.config(&name);
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let log = std::fs::read_to_string(server.socket_dir().join("log")).unwrap();
    assert!(!log.contains("LOG:  odd_mallory is at work"), "a function of somebody else was run");
    assert_eq!(facts.warnings, [""; 0]);
    restore_without(&config, &archive, &[], &facts).await.unwrap();
    assert_eq!(server.psql(&name, "SELECT v, w FROM t"), "1|11");
}

#[tokio::test]
async fn a_database_in_which_autovacuum_works_is_dropped_by_a_role_that_may_not_end_autovacuum() {
    let server = PostgresServer::start();
    for set in ["naptime = '1s'", "vacuum_cost_limit = 1", "vacuum_cost_delay = '100ms'"] {
        server.psql("postgres", &format!("ALTER SYSTEM SET autovacuum_{set}"));
    }
    server.psql("postgres", "SELECT pg_reload_conf()");
    let config = as_role(&server, "odd_vacuum", "odd_vacuum", "CREATEDB");
    let name = server.database("odd_vacuum", "OWNER odd_vacuum");
    server
        .psql(&name, "SET ROLE odd_vacuum; CREATE TABLE public.t AS SELECT generate_series(1, 50000) AS id");
    let (archive, facts) = backup(config.clone()).await.unwrap();
    server.psql(&name, "DELETE FROM public.t");
    let staged = stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap();
    let kept = staged.swap().await.unwrap().unwrap().place;
    let at_work = format!(
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' AND datname = '{kept}'"
    );
    assert!(
        eventually(async || server.psql("postgres", &at_work) == "t").await,
        "autovacuum comes to {kept}"
    );
    component(&config).delete_undo_data().await.unwrap();
    assert_eq!(
        server.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname LIKE 'odd_vacuum%'"),
        "1"
    );
}
