//! `component::postgres`: owners and privileges come back as they were, or are named before anything is touched.

use crate::postgres::backup;
use crate::postgres_restore::{component, in_parallel, stage, with_own_clients};
use crate::support::lab::Lab;
use crate::support::postgres::{PASSWORD, PostgresServer};
use rna_backup::base::chain;
use rna_backup::component::postgres::PostgresConfig;
use rna_backup::component::{ComponentError, Restorable, RestoreOrder, Target, Undo};
use rna_backup::domain::command::task;
use rna_backup::domain::facts::Facts;
use rna_backup::domain::progress::Meter;
use serde_json::json;

/// What a DBA does beside the app: owners, revoked defaults, grants on columns, default privileges, a large object.
fn of_a_dba(prefix: &str) -> String {
    format!(
        "CREATE TABLE paper (id int, secret text); INSERT INTO paper VALUES (1, 'x');
         CREATE FUNCTION wipe() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'DELETE FROM public.paper';
         REVOKE EXECUTE ON FUNCTION wipe() FROM PUBLIC;
         GRANT SELECT (id) ON paper TO {prefix}_reader; GRANT UPDATE ON paper TO {prefix}_reader WITH GRANT OPTION;
         CREATE SCHEMA audit AUTHORIZATION {prefix}_auditor;
         CREATE TABLE audit.log (at timestamptz); ALTER TABLE audit.log OWNER TO {prefix}_auditor;
         CREATE VIEW audit.seen AS SELECT 1 AS one; ALTER VIEW audit.seen OWNER TO {prefix}_auditor;
         CREATE DOMAIN positive AS int CHECK (VALUE > 0); REVOKE USAGE ON DOMAIN positive FROM PUBLIC;
         ALTER DEFAULT PRIVILEGES FOR ROLE {prefix}_app IN SCHEMA public GRANT SELECT ON TABLES TO {prefix}_reader;
         SELECT lo_from_bytea(77, 'x'); ALTER LARGE OBJECT 77 OWNER TO {prefix}_auditor;
         GRANT SELECT ON LARGE OBJECT 77 TO {prefix}_reader;
         CREATE CONVERSION audit.latin FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8; ALTER CONVERSION audit.latin OWNER TO {prefix}_auditor;
         CREATE TEXT SEARCH DICTIONARY audit.plain (TEMPLATE = simple); ALTER TEXT SEARCH DICTIONARY audit.plain OWNER TO {prefix}_auditor;
         REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO {prefix}_reader"
    )
}

/// A database of `<prefix>_app` with all of that.
pub fn of_a_dba_in(server: &PostgresServer, prefix: &str) -> String {
    for role in ["app", "auditor", "reader"] {
        server.psql("postgres", &format!("CREATE ROLE {prefix}_{role}"));
    }
    let name =
        server.database(&format!("{prefix}_rights"), &format!("OWNER {prefix}_app TEMPLATE template0"));
    server.psql(&name, &of_a_dba(prefix));
    server.psql(
        &name,
        &format!("ALTER TABLE paper OWNER TO {prefix}_app; ALTER FUNCTION wipe() OWNER TO {prefix}_app; ALTER DOMAIN positive OWNER TO {prefix}_app"),
    );
    name
}

/// Owners and privileges of the whole database, as `pg_dump` writes them.
pub fn dumped(server: &PostgresServer, name: &str) -> String {
    let dump = server.run("pg_dump", name, &["--schema-only"], b"");
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let text = String::from_utf8(dump.stdout).unwrap();
    let is_a_right = |line: &&str| {
        ["OWNER TO", "GRANT ", "REVOKE ", "DEFAULT PRIVILEGES"].iter().any(|words| line.contains(words))
    };
    text.lines().filter(is_a_right).collect::<Vec<_>>().join("\n")
}

pub async fn restore(
    config: &PostgresConfig,
    archive: &[u8],
    facts: &Facts,
    target: &Target,
) -> Result<Vec<String>, ComponentError> {
    let staged = stage(config, archive, target, Some(facts)).await?;
    let differences = staged.differences(&mut &*archive, &Meter::default()).await?;
    if *target == Target::Scratch {
        staged.discard().await?;
    } else {
        staged.swap().await?;
        component(config).delete_undo_data().await?;
    }
    Ok(differences)
}

/// The owners and privileges that a restore would not bring back, in words.
async fn lost_rights(config: &PostgresConfig, facts: &Facts) -> String {
    let plan = component(config).plan(&Target::Live, Some(facts)).await.unwrap();
    assert_eq!(plan.warnings, [""; 0]);
    plan.lost_rights.unwrap()
}

async fn a_superuser_brings_them_back(server: &PostgresServer, prefix: &str) {
    let name = of_a_dba_in(server, prefix);
    // These can only be made by a superuser, whoever owns the database.
    let of_a_superuser = format!(
        "CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.paper VALUES (2, tg_tag); END';
         CREATE PUBLICATION everything FOR ALL TABLES;
         CREATE EVENT TRIGGER noting ON ddl_command_end EXECUTE FUNCTION note();
         CREATE OPERATOR CLASS by_number FOR TYPE int USING hash AS OPERATOR 1 =, FUNCTION 1 hashint4(int);
         ALTER OPERATOR CLASS by_number USING hash OWNER TO {prefix}_auditor;
         ALTER OPERATOR FAMILY by_number USING hash OWNER TO {prefix}_auditor"
    );
    server.psql(&name, &of_a_superuser);
    let before = dumped(server, &name);
    assert!(before.contains("REVOKE ALL ON FUNCTION public.wipe() FROM PUBLIC"), "{before}");
    let (config, _scratch) = in_parallel(with_own_clients(server, &name));
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let rights = facts.rights.clone().unwrap();
    let special = rights.special.join("; ");
    for words in [
        "function public.wipe() is without PUBLIC EXECUTE",
        &format!("table audit.log belongs to \"{prefix}_auditor\""),
        &format!("column public.paper.id is with {prefix}_reader SELECT"),
        &format!("table public.paper is with {prefix}_reader UPDATE WITH GRANT OPTION"),
        "schema public is without PUBLIC USAGE",
        &format!("conversion audit.latin belongs to \"{prefix}_auditor\""),
        &format!("text search dictionary audit.plain belongs to \"{prefix}_auditor\""),
        &format!("operator class public.by_number USING hash belongs to \"{prefix}_auditor\""),
        &format!("operator family public.by_number USING hash belongs to \"{prefix}_auditor\""),
        &format!("large object 77 belongs to \"{prefix}_auditor\""),
    ] {
        assert!(special.contains(words), "{words}: {special}");
    }
    server.psql(
        &name,
        "GRANT EXECUTE ON FUNCTION wipe() TO PUBLIC; DROP SCHEMA audit CASCADE; DROP PUBLICATION everything",
    );
    for jobs in [1, 2] {
        let config = PostgresConfig { jobs, ..config.clone() };
        let plan = component(&config).plan(&Target::Live, Some(&facts)).await.unwrap();
        assert_eq!((plan.warnings, plan.lost_rights), (Vec::new(), None));
        assert_eq!(restore(&config, &archive, &facts, &Target::Scratch).await.unwrap(), [""; 0]);
        restore(&config, &archive, &facts, &Target::Live).await.unwrap();
        assert_eq!(dumped(server, &name), before);
    }
    // What is not as it was is seen by a drill, and does not go live.
    let mut other = facts;
    other.rights.as_mut().unwrap().kinds.get_mut("function").unwrap().sha256.replace_range(..1, "x");
    let words = "owners or privileges of functions are not as they were";
    assert_eq!(restore(&config, &archive, &other, &Target::Scratch).await.unwrap(), [words]);
    let err = restore(&config, &archive, &other, &Target::Live).await.unwrap_err();
    assert!(chain(&err).contains(words), "{err:?}");
    assert_eq!(dumped(server, &name), before);
}

#[tokio::test]
async fn a_superuser_brings_every_owner_and_privilege_back() {
    a_superuser_brings_them_back(PostgresServer::shared(), "su15").await;
}

#[tokio::test]
async fn a_superuser_brings_every_owner_and_privilege_back_on_postgresql_18() {
    a_superuser_brings_them_back(&PostgresServer::of(18), "su18").await;
}

/// The way in for a role of these attributes.
pub fn as_role(server: &PostgresServer, name: &str, role: &str, attributes: &str) -> PostgresConfig {
    let password = PASSWORD.replace('\'', "''");
    server.psql("postgres", &format!("CREATE ROLE {role} LOGIN PASSWORD '{password}' {attributes}"));
    PostgresConfig { user: role.into(), ..server.config(name) }
}

#[tokio::test]
async fn a_member_of_all_owners_brings_them_back_and_who_is_none_names_what_is_lost_and_opened() {
    let server = PostgresServer::shared();
    let name = of_a_dba_in(server, "member");
    let before = dumped(server, &name);
    let (archive, facts) = backup(server.config(&name)).await.unwrap();
    let config = as_role(server, &name, "member_rna", "CREATEDB IN ROLE member_app");
    let warnings = lost_rights(&config, &facts).await;
    for words in [
        "GRANT \"member_auditor\" TO \"member_rna\"",
        "function public.wipe() is without PUBLIC EXECUTE",
        "table audit.log belongs to \"member_auditor\"",
    ] {
        assert!(warnings.contains(words), "{words}: {warnings}");
    }
    server.psql("postgres", "GRANT member_auditor TO member_rna");
    let plan = component(&config).plan(&Target::Live, Some(&facts)).await.unwrap();
    assert_eq!((plan.warnings, plan.lost_rights), (Vec::new(), None));
    assert_eq!(restore(&config, &archive, &facts, &Target::Scratch).await.unwrap(), [""; 0]);
    restore(&config, &archive, &facts, &Target::Live).await.unwrap();
    assert_eq!(dumped(server, &name), before);
    // Nobody is told to become a superuser.
    server.psql(&name, "CREATE TABLE of_a_superuser (id int)");
    let (_, other) = backup(server.config(&name)).await.unwrap();
    let warnings = lost_rights(&config, &other).await;
    assert!(
        warnings.contains("another owner, or restore as a superuser")
            && !warnings.contains("GRANT \"postgres\""),
        "{warnings}"
    );
    server.psql(&name, "DROP TABLE of_a_superuser");
    // Nobody notes what an earlier version has not read.
    let old = Facts { rights: None, ..facts };
    let warnings = component(&config).plan(&Target::Live, Some(&old)).await.unwrap().warnings.join(" ");
    assert!(warnings.contains("Owners and privileges are not restored (the backup notes none"), "{warnings}");
    restore(&config, &archive, &old, &Target::Live).await.unwrap();
}

#[tokio::test]
async fn an_object_in_a_schema_of_others_is_given_to_its_owner_by_a_superuser_alone() {
    let server = PostgresServer::shared();
    let name = of_a_dba_in(server, "guest");
    server.psql(
        &name,
        "GRANT CREATE ON SCHEMA public TO guest_auditor; CREATE TABLE visit (id int); ALTER TABLE visit OWNER TO guest_auditor",
    );
    let before = dumped(server, &name);
    let (archive, facts) = backup(server.config(&name)).await.unwrap();
    let config = as_role(server, &name, "guest_rna", "CREATEDB IN ROLE guest_app, guest_auditor");
    let lost = lost_rights(&config, &facts).await;
    assert!(lost.contains("table public.visit belongs to a role that is no member"), "{lost}");
    restore(&config, &archive, &facts, &Target::Live).await.unwrap();
    assert!(!dumped(server, &name).contains("guest_auditor"));
    restore(&server.config(&name), &archive, &facts, &Target::Live).await.unwrap();
    assert_eq!(dumped(server, &name), before);
}

#[tokio::test]
async fn a_restore_that_loses_rights_wants_to_be_told_so() {
    let server = PostgresServer::shared();
    let name = of_a_dba_in(server, "told");
    as_role(server, &name, "told_rna", "CREATEDB IN ROLE told_app");
    let ours = Lab::new().database(server, &name).set("BACKUP_COMPONENTS", "postgres");
    let id = ours.json(&["backup", "postgres"])["backup_id"].as_str().unwrap().to_owned();
    server.psql(&name, "DELETE FROM paper");
    let lab = ours.set("POSTGRES_USER", "told_rna");
    let rows = || server.psql(&name, "SELECT count(*) FROM paper");
    let lost =
        ["function public.wipe() is without PUBLIC EXECUTE", "--without-rights", "without_rights=True"];
    let (code, _, said) = lab.run(&["restore", "postgres", &id, "--yes"]);
    assert!(code != 0 && lost.iter().all(|words| said.contains(words)), "{said}");
    for option in [&["--without-rights"][..], &["--without", "x"]] {
        let (code, _, said) = lab.run(&[&["restore", "weaviate", "--dry-run"], option].concat());
        assert!(code == 2 && said.contains("of postgres alone"), "{code} {said}");
    }
    let planned = lab.json(&["restore", "postgres", &id, "--dry-run"])["warnings"].to_string();
    assert!(lost.iter().all(|words| planned.contains(words)), "{planned}");
    // The live database is not touched by a restore beside it, which nobody but the person who looks may read.
    lab.json(&["restore", "postgres", &id, "--database", "told_look", "--yes"]);
    let worker = lab.worker();
    worker.ready().await;
    let refused = lab.ended(&lab.order(task::RESTORE_POSTGRES, json!({"backup_path": id})).await).await;
    assert_eq!(refused["status"], "FAILURE");
    assert!(lost.iter().all(|words| refused["result"].to_string().contains(words)), "{refused}");
    assert_eq!(rows(), "0");
    let order = json!({"backup_path": id, "without_rights": true});
    let restored = lab.ended(&lab.order(task::RESTORE_POSTGRES, order).await).await;
    assert_eq!(restored["status"], "SUCCESS", "{restored}");
    let warnings = restored["result"]["warnings"].to_string();
    assert!(warnings.contains(lost[0]) && !warnings.contains(lost[1]), "{warnings}");
    assert_eq!(rows(), "1");
}

async fn missing_roles_are_named(server: &PostgresServer) {
    let name = server.database("missing_roles", "");
    server.psql(
        "postgres",
        "CREATE ROLE missing_group; CREATE ROLE \"missing One\" LOGIN NOINHERIT CONNECTION LIMIT 3 IN ROLE missing_group;
         CREATE ROLE missing_policy",
    );
    server.psql(
        &name,
        "CREATE TABLE t (id int); GRANT SELECT ON t TO \"missing One\"; ALTER TABLE t ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON t TO missing_policy USING (true)",
    );
    let config = with_own_clients(server, &name);
    let (archive, facts) = backup(config.clone()).await.unwrap();
    server.psql(&name, "DROP TABLE t");
    server.psql("postgres", "DROP ROLE \"missing One\"; DROP ROLE missing_policy");
    let create = "CREATE ROLE \"missing One\" LOGIN NOINHERIT CONNECTION LIMIT 3; GRANT \"missing_group\" TO \"missing One\"";
    let err = component(&config).plan(&Target::Live, Some(&facts)).await.unwrap_err();
    let said = chain(&err);
    let (made, granted) = create.split_once("; ").unwrap();
    // Memberships come once all roles are there.
    let all = format!("{made}; CREATE ROLE \"missing_policy\" NOLOGIN; {granted}");
    assert!(said.contains(&all), "{said}");
    let refused = restore(&config, &archive, &facts, &Target::Live).await.unwrap_err();
    assert_eq!(chain(&refused), said);
    server.psql("postgres", "CREATE ROLE missing_policy");
    let warnings = lost_rights(&config, &facts).await;
    assert!(
        warnings.contains(create) && warnings.contains("table public.t is with \"missing One\" SELECT"),
        "{warnings}"
    );
    restore(&config, &archive, &facts, &Target::Live).await.unwrap();
    server.psql("postgres", create);
    restore(&config, &archive, &facts, &Target::Live).await.unwrap();
    assert_eq!(server.psql(&name, "SELECT has_table_privilege('missing One', 't', 'SELECT')"), "t");
}

#[tokio::test]
async fn roles_that_the_server_does_not_have_are_named_with_the_statement_that_makes_them() {
    missing_roles_are_named(PostgresServer::shared()).await;
}

async fn a_setting_is_a_warning(server: &PostgresServer) {
    server.psql("postgres", "CREATE ROLE settings_app");
    let name = server.database("settings_app", "OWNER settings_app");
    server.psql(
        &name,
        "CREATE TABLE t (id int); ALTER TABLE t OWNER TO settings_app;
         ALTER DATABASE settings_app SET log_min_duration_statement = 250; ALTER DATABASE settings_app SET work_mem = '7MB'",
    );
    let config = as_role(server, &name, "settings_rna", "CREATEDB IN ROLE settings_app");
    let config = PostgresConfig { bin_dir: Some(server.bin().into()), ..config };
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let statement = "ALTER DATABASE \"settings_app\" SET \"log_min_duration_statement\" TO '250'";
    let advice = component(&config).plan(&Target::Live, Some(&facts)).await.unwrap().advice.join(" ");
    assert!(advice.contains(statement), "{advice}");
    let meter = Meter::default();
    let staged = component(&config)
        .stage(&mut &*archive, &RestoreOrder::new(&Target::Live, Some(&facts)), &meter)
        .await
        .unwrap();
    staged.swap().await.unwrap();
    let said = meter.take_warnings().join(" ");
    assert!(said.contains(statement), "{said}");
    let set = "SELECT setconfig FROM pg_db_role_setting WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = 'settings_app')";
    assert_eq!(server.psql(&name, set), "{work_mem=7MB}");
    component(&config).delete_undo_data().await.unwrap();
}

#[tokio::test]
async fn a_setting_that_the_role_may_not_carry_over_is_a_warning_with_the_statement() {
    a_setting_is_a_warning(PostgresServer::shared()).await;
}

#[tokio::test]
async fn missing_roles_and_settings_that_may_not_be_set_are_named_on_postgresql_18() {
    let server = PostgresServer::of(18);
    missing_roles_are_named(&server).await;
    a_setting_is_a_warning(&server).await;
}

#[tokio::test]
async fn limits_of_time_that_a_role_has_set_end_no_work_of_ours() {
    let server = PostgresServer::of(18);
    let name = server.database("limits", "");
    server.psql(
        &name,
        "CREATE FUNCTION slow(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
           'BEGIN PERFORM pg_catalog.pg_sleep(0.002); RETURN n; END';
         CREATE TABLE t AS SELECT generate_series(1, 500) AS n; CREATE INDEX ON t (slow(n))",
    );
    let config = as_role(&server, &name, "limited", "SUPERUSER");
    for limit in
        ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"]
    {
        server.psql("postgres", &format!("ALTER ROLE limited SET {limit} = '300ms'"));
    }
    let config = PostgresConfig { bin_dir: Some(server.bin().into()), ..config };
    let (archive, facts) = backup(config.clone()).await.unwrap();
    for target in [Target::Scratch, Target::Live] {
        assert_eq!(restore(&config, &archive, &facts, &target).await.unwrap(), [""; 0]);
    }
}
