//! `component::postgres`: rights of odd kinds: of extensions and of the server, of superusers, of memberships that do not
//! inherit, of sessions that act as another role.

use crate::postgres::backup;
use crate::postgres_restore::{component, with_own_clients};
use crate::postgres_rights::{as_role, dumped, restore};
use crate::support::lab::Lab;
use crate::support::postgres::PostgresServer;
use rna_backup::base::chain;
use rna_backup::component::postgres::PostgresConfig;
use rna_backup::component::{Plan, Restorable, RestoreOrder, Source, Target, Undo};
use rna_backup::domain::facts::Facts;
use rna_backup::domain::progress::Meter;

/// Owners of the extensions of a database.
const OWNERS: &str =
    "SELECT extname, extowner::regrole FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1";

/// Restores, and tells the differences and the warnings.
async fn walk(
    config: &PostgresConfig,
    archive: &[u8],
    facts: &Facts,
    target: &Target,
) -> (Vec<String>, Vec<String>) {
    let (meter, mut feed) = (Meter::default(), archive);
    let staged =
        component(config).stage(&mut feed, &RestoreOrder::new(target, Some(facts)), &meter).await.unwrap();
    let differences = staged.differences(&mut &*archive, &Meter::default()).await.unwrap();
    if *target == Target::Scratch {
        staged.discard().await.unwrap();
    } else {
        staged.swap().await.unwrap();
        component(config).delete_undo_data().await.unwrap();
    }
    (differences, meter.take_warnings())
}

async fn plan(config: &PostgresConfig, facts: &Facts) -> Plan {
    component(config).plan(&Target::Live, Some(facts)).await.unwrap()
}

/// A database that `<prefix>_app` owns with all that is in it, with rights of extensions and of the server beside it.
fn of_one_owner(server: &PostgresServer, prefix: &str, more: &str) -> String {
    for role in ["app", "reader"] {
        server.psql("postgres", &format!("CREATE ROLE {prefix}_{role}"));
    }
    let name = server.database(&format!("{prefix}_odd"), &format!("OWNER {prefix}_app TEMPLATE template0"));
    server.psql(
        &name,
        &format!(
            "SET ROLE {prefix}_app; CREATE EXTENSION citext; CREATE TABLE paper (id int PRIMARY KEY, title citext);
             INSERT INTO paper VALUES (1, 'x'); CREATE TYPE span AS RANGE (subtype = float8); RESET ROLE;
             REVOKE EXECUTE ON FUNCTION regexp_match(citext, citext) FROM PUBLIC;
             REVOKE EXECUTE ON FUNCTION pg_catalog.pg_sleep(float8) FROM PUBLIC; REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC;
             GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) TO {prefix}_app;
             GRANT SELECT ON pg_catalog.pg_authid TO {prefix}_app; GRANT SELECT (rolname) ON pg_catalog.pg_authid TO {prefix}_reader;
             GRANT EXECUTE ON FUNCTION pg_catalog.version() TO {prefix}_reader;
             REVOKE EXECUTE ON FUNCTION pg_catalog.version() FROM {prefix}_reader; {more}"
        ),
    );
    name
}

async fn a_superuser_keeps_all_rights(server: &PostgresServer, prefix: &str) {
    let of_a_superuser = format!(
        "CREATE EXTENSION pg_stat_statements; CREATE EXTENSION file_fdw; CREATE ACCESS METHOD pile TYPE TABLE HANDLER heap_tableam_handler;
         CREATE TEXT SEARCH TEMPLATE plain (LEXIZE = dsimple_lexize, INIT = dsimple_init);
         CREATE FUNCTION loud() RETURNS int LANGUAGE sql LEAKPROOF SET log_statement = 'none' AS 'SELECT 1';
         CREATE FUNCTION size(int) RETURNS int LANGUAGE internal IMMUTABLE STRICT AS 'int4abs';
         ALTER FUNCTION loud() OWNER TO {prefix}_app; ALTER FUNCTION size(int) OWNER TO {prefix}_app"
    );
    let name = of_one_owner(server, prefix, &of_a_superuser);
    let before = dumped(server, &name);
    for words in [
        "ON FUNCTION pg_catalog.pg_sleep",
        "ON FUNCTION public.regexp_match",
        "pg_authid TO",
        "LANGUAGE plpgsql",
    ] {
        assert!(before.contains(words), "{words}: {before}");
    }
    let owners = server.psql(&name, OWNERS);
    assert!(owners.contains(&format!("citext|{prefix}_app\nfile_fdw|postgres")), "{owners}");
    let config = with_own_clients(server, &name);
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let special = facts.rights.as_ref().unwrap().special_words().unwrap();
    for words in [
        "system function pg_catalog.pg_sleep(double precision) is without PUBLIC EXECUTE",
        "extension function public.regexp_match(public.citext,public.citext) is without PUBLIC EXECUTE",
        "extension language plpgsql is without PUBLIC USAGE",
        &format!("system column pg_catalog.pg_authid.rolname is with {prefix}_reader SELECT"),
    ] {
        assert!(special.contains(words), "{words}: {special}");
    }
    assert!(!special.contains("version()"), "{special}");
    let planned = plan(&config, &facts).await;
    assert_eq!((planned.warnings, planned.advice, planned.lost_rights), (Vec::new(), Vec::new(), None));
    for target in [Target::Scratch, Target::Live] {
        assert_eq!(walk(&config, &archive, &facts, &target).await, (Vec::new(), Vec::new()));
    }
    assert_eq!((dumped(server, &name), server.psql(&name, OWNERS)), (before, owners));
    // What another archive has not brought is seen.
    let mut other = facts;
    let hash = &mut other.rights.as_mut().unwrap().kinds.get_mut("system function").unwrap().sha256;
    hash.replace_range(..1, "x");
    let words = "owners or privileges of system functions are not as they were";
    assert_eq!(walk(&config, &archive, &other, &Target::Scratch).await.0, [words]);
}

#[tokio::test]
async fn a_superuser_keeps_all_rights_though_one_role_owns_everything() {
    a_superuser_keeps_all_rights(PostgresServer::shared(), "odd15").await;
}

#[tokio::test]
async fn a_superuser_keeps_all_rights_though_one_role_owns_everything_on_postgresql_18() {
    a_superuser_keeps_all_rights(&PostgresServer::of(18), "odd18").await;
}

#[tokio::test]
async fn an_extension_whose_owner_cannot_create_it_anew_is_named() {
    let server = PostgresServer::shared();
    let name = of_one_owner(server, "oddext", "CREATE SCHEMA apart AUTHORIZATION oddext_app");
    server.psql(&name, "SET ROLE oddext_app; CREATE EXTENSION hstore SCHEMA apart");
    // Once a superuser, and so the owner of an extension that no other may create.
    server.psql(
        &name,
        "ALTER ROLE oddext_app SUPERUSER; SET ROLE oddext_app; CREATE EXTENSION pageinspect; RESET ROLE; ALTER ROLE oddext_app NOSUPERUSER",
    );
    let config = server.config(&name);
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let words =
        "Extension pageinspect belongs to postgres after a restore and belonged to oddext_app at the backup";
    let named = |warnings: &[String]| warnings.len() == 1 && warnings[0].starts_with(words);
    let advice = plan(&config, &facts).await.advice;
    assert!(named(&advice), "{advice:?}");
    for target in [Target::Scratch, Target::Live] {
        let (differences, warnings) = walk(&config, &archive, &facts, &target).await;
        assert!(differences.is_empty() && named(&warnings), "{differences:?} {warnings:?}");
    }
    assert_eq!(server.psql(&name, OWNERS), "citext|oddext_app\nhstore|oddext_app\npageinspect|postgres");
}

#[tokio::test]
async fn privileges_on_extensions_and_the_server_are_named_before_a_restore_by_somebody_else_than_a_superuser()
 {
    let server = PostgresServer::shared();
    let name = of_one_owner(server, "oddba", "");
    as_role(server, &name, "oddba_rna", "CREATEDB IN ROLE oddba_app");
    let lab = Lab::new().database(server, &name).set("BACKUP_COMPONENTS", "postgres");
    let id = lab.json(&["backup", "postgres"])["backup_id"].as_str().unwrap().to_owned();
    server.psql(&name, "DELETE FROM paper");
    let lab = lab.set("POSTGRES_USER", "oddba_rna");
    let lost = [
        "Privileges on objects of extensions and of the server are not restored",
        "extension function public.regexp_match(public.citext,public.citext) is without PUBLIC EXECUTE",
        "system function pg_catalog.pg_sleep(double precision) is without PUBLIC EXECUTE",
        "--without-rights",
    ];
    let names_all = |said: &str| lost.iter().all(|words| said.contains(words));
    let planned = lab.json(&["restore", "postgres", &id, "--dry-run"])["warnings"].to_string();
    assert!(names_all(&planned), "{planned}");
    // The drill cannot know of the switch: a good backup is whole, and what is not tried is named.
    let drilled = lab.json(&["verify", "postgres", "--drill"]).to_string();
    assert!(names_all(&drilled) && drilled.contains("Neither tried nor compared"), "{drilled}");
    let (code, _, said) = lab.run(&["restore", "postgres", &id, "--yes"]);
    assert!(code != 0 && names_all(&said), "{said}");
    lab.json(&["restore", "postgres", &id, "--yes", "--without-rights"]);
    let found = server.psql(
        &name,
        "SELECT count(*), has_function_privilege('oddba_reader', 'pg_sleep(float8)', 'EXECUTE') FROM paper",
    );
    assert_eq!(found, "1|t");
    assert_eq!(server.psql(&name, OWNERS), "citext|oddba_app");
    assert!(!dumped(server, &name).contains("oddba_rna"));
}

#[tokio::test]
async fn a_dropped_schema_public_stays_away() {
    let server = PostgresServer::shared();
    server.psql("postgres", "CREATE ROLE nopub_app");
    let name = server.database("nopub", "OWNER nopub_app TEMPLATE template0");
    server.psql(
        &name,
        "SET ROLE nopub_app; DROP SCHEMA public; CREATE SCHEMA app; CREATE TABLE app.t (id int)",
    );
    let (archive, facts) = backup(server.config(&name)).await.unwrap();
    for config in [server.config(&name), as_role(server, &name, "nopub_rna", "CREATEDB IN ROLE nopub_app")] {
        for target in [Target::Scratch, Target::Live] {
            assert_eq!(walk(&config, &archive, &facts, &target).await, (Vec::new(), Vec::new()));
        }
        let schemas =
            "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'";
        assert_eq!(server.psql(&name, schemas), "app");
    }
}

/// A role that is a member of the owner, but in a way that allows no swap, is told the statement that allows it.
async fn is_told(server: &PostgresServer, role: &str, attributes: &str, grant: &str, cure: &str) {
    server.psql("postgres", &format!("CREATE ROLE {role}_app"));
    let name = server.database(&format!("{role}_db"), &format!("OWNER {role}_app TEMPLATE template0"));
    server.psql(&name, &format!("SET ROLE {role}_app; CREATE TABLE t (id int)"));
    let (archive, facts) = backup(with_own_clients(server, &name)).await.unwrap();
    let config =
        PostgresConfig { bin_dir: Some(server.bin().into()), ..as_role(server, &name, role, attributes) };
    server.psql("postgres", &grant.replace("MEMBER", role));
    let cure = cure.replace("MEMBER", role);
    let postgres = component(&config);
    if attributes.contains("CREATEDB") {
        // In place, all would belong to the role.
        let refused = chain(&postgres.plan(&Target::Live, Some(&facts)).await.unwrap_err());
        assert!(refused.contains("may not act as") && refused.ends_with(&cure), "{cure}: {refused}");
    } else {
        let planned = plan(&config, &facts).await;
        assert_eq!(planned.method, "in place in one transaction");
        assert!(planned.warnings[0].contains(&format!("({cure})")), "{cure}: {:?}", planned.warnings);
    }
    let err = chain(&restore(&config, &archive, &facts, &Target::Scratch).await.unwrap_err());
    assert!(err.contains(&cure) && err.contains("must create a database for"), "{err}");
    server.psql("postgres", &cure);
    let planned = plan(&config, &facts).await;
    assert_eq!(
        (planned.method.as_str(), planned.warnings, planned.lost_rights),
        ("swap by rename", vec![], None)
    );
    for target in [Target::Scratch, Target::Live] {
        assert_eq!(walk(&config, &archive, &facts, &target).await, (Vec::new(), Vec::new()));
    }
}

#[tokio::test]
async fn a_member_that_may_not_act_as_the_owner_is_told_the_statement_that_lets_it() {
    let server = PostgresServer::shared();
    is_told(server, "mem_no", "CREATEDB", "", "GRANT \"MEMBER_app\" TO \"MEMBER\"").await;
    is_told(
        server,
        "mem_dark",
        "CREATEDB NOINHERIT",
        "GRANT MEMBER_app TO MEMBER",
        "ALTER ROLE \"MEMBER\" INHERIT",
    )
    .await;
    is_told(server, "mem_db", "", "GRANT MEMBER_app TO MEMBER", "ALTER ROLE \"MEMBER\" CREATEDB").await;
}

#[tokio::test]
async fn a_member_that_may_not_act_as_the_owner_is_told_the_statement_that_lets_it_on_postgresql_18() {
    let server = &PostgresServer::of(18);
    let (set, inherit) = (
        "GRANT \"MEMBER_app\" TO \"MEMBER\" WITH SET TRUE",
        "GRANT \"MEMBER_app\" TO \"MEMBER\" WITH INHERIT TRUE",
    );
    is_told(server, "mem_set", "CREATEDB", "GRANT MEMBER_app TO MEMBER WITH SET FALSE", set).await;
    is_told(server, "mem_inh", "CREATEDB", "GRANT MEMBER_app TO MEMBER WITH INHERIT FALSE", inherit).await;
    is_told(server, "mem_dark", "CREATEDB NOINHERIT", "", inherit).await;
}

#[tokio::test]
async fn options_of_user_mappings_that_a_backup_may_not_read_are_named() {
    let server = PostgresServer::shared();
    server.psql("postgres", "CREATE ROLE maps_app");
    let name = server.database("maps", "OWNER maps_app TEMPLATE template0");
    server.psql(
        &name,
        "CREATE EXTENSION postgres_fdw; CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw;
         CREATE USER MAPPING FOR maps_app SERVER other OPTIONS (user 'far', password 'hunter2')",
    );
    let config = as_role(server, &name, "maps_reader", "IN ROLE pg_read_all_data");
    let (_, facts) = backup(config).await.unwrap();
    let words = "ALTER USER MAPPING FOR maps_app SERVER other OPTIONS (ADD …)";
    assert!(facts.warnings.len() == 1 && facts.warnings[0].contains(words), "{:?}", facts.warnings);
    let advice = plan(&server.config(&name), &facts).await.advice.join(" ");
    assert!(advice.contains(words) && !advice.contains("hunter2"), "{advice}");
    assert_eq!(backup(server.config(&name)).await.unwrap().1.warnings, [""; 0]);
}

#[tokio::test]
async fn a_reader_that_does_not_inherit_its_rights_is_told_so() {
    let cases = [
        (PostgresServer::start(), "", "ALTER ROLE \"dark\" INHERIT"),
        (
            PostgresServer::of(18),
            "ALTER ROLE dark INHERIT; GRANT pg_read_all_data TO dark WITH INHERIT FALSE",
            "GRANT pg_read_all_data TO \"dark\" WITH INHERIT TRUE",
        ),
    ];
    for (server, more, cure) in cases {
        let name = server.database("dark", "");
        server.psql(&name, "CREATE TABLE t (id int)");
        let config = as_role(&server, &name, "dark", "NOINHERIT IN ROLE pg_read_all_data");
        let config = PostgresConfig { bin_dir: Some(server.bin().into()), ..config };
        server.psql(&name, more);
        let err = chain(&component(&config).check().await.unwrap_err());
        assert!(err.contains(&format!("public.t: {cure}")), "{err}");
        server.psql(&name, cure);
        backup(config).await.unwrap();
    }
}

#[tokio::test]
async fn a_setting_that_lets_sessions_act_as_another_role_changes_nothing() {
    let server = PostgresServer::shared();
    server.psql("postgres", "CREATE ROLE acts_app; CREATE ROLE acts_other");
    let name = server.database("acts", "OWNER acts_app TEMPLATE template0");
    server.psql(&name, "SET ROLE acts_app; CREATE TABLE t (id int)");
    let config = as_role(server, &name, "acts_rna", "CREATEDB IN ROLE acts_app");
    server.psql(
        "postgres",
        "ALTER ROLE acts_rna SET role = 'acts_app'; ALTER DATABASE acts SET role = 'acts_other'",
    );
    server.psql("postgres", "GRANT acts_other TO acts_rna");
    for config in [config, server.config(&name)] {
        let (archive, facts) = backup(config.clone()).await.unwrap();
        assert_eq!(plan(&config, &facts).await.method, "swap by rename");
        for target in [Target::Scratch, Target::Live] {
            assert_eq!(walk(&config, &archive, &facts, &target).await, (Vec::new(), Vec::new()));
        }
        let owner = "SELECT relowner::regrole, current_user FROM pg_class WHERE relname = 't'";
        assert_eq!(server.psql(&name, owner), "acts_app|acts_other");
    }
}
