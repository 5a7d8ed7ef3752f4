//! `component::postgres`: what would stop a restore is found before it begins.

use crate::postgres::backup;
use crate::postgres_restore::{component, stage, with_own_clients};
use crate::support::postgres::{PASSWORD, PostgresServer};
use rna_backup::base::chain;
use rna_backup::component::postgres::PostgresConfig;
use rna_backup::component::{ComponentError, Restorable, RestoreOrder, Source, Target};
use rna_backup::domain::progress::Meter;
use std::{fs, net::TcpListener, os::unix::process::CommandExt, path::Path, process::Command};

/// A database of an owner who may not make another.
pub fn of_a_poor_owner(server: &PostgresServer, name: &str) -> PostgresConfig {
    let password = PASSWORD.replace('\'', "''");
    server.psql("postgres", &format!("CREATE ROLE {name} LOGIN PASSWORD '{password}'"));
    server.database(name, &format!("OWNER {name}"));
    PostgresConfig { user: name.into(), ..with_own_clients(server, name) }
}

async fn what_came_later_is_named(server: &PostgresServer) {
    let config = of_a_poor_owner(server, "later");
    server.psql(
        "later",
        "SET ROLE later; CREATE TYPE mood AS ENUM ('good'); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
         CREATE TABLE a (id int PRIMARY KEY, m mood); CREATE TABLE b (id int PRIMARY KEY, a int); CREATE TABLE parent (p int);
         CREATE TABLE parts (p int) PARTITION BY LIST (p); CREATE TABLE one PARTITION OF parts FOR VALUES IN (1);
         ALTER TABLE b ADD FOREIGN KEY (id) REFERENCES a; CREATE VIEW old AS SELECT id FROM a;
         CREATE FUNCTION of_a(a) RETURNS int LANGUAGE sql AS 'SELECT 1'; INSERT INTO a VALUES (1)",
    );
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let preview = || async {
        component(&config).preview(&mut &*archive, &RestoreOrder::new(&Target::Live, Some(&facts))).await
    };
    preview().await.unwrap();
    assert!(component(&config).plan(&Target::Live, Some(&facts)).await.unwrap().looks_into_archive);
    server.psql(
        "later",
        "SET ROLE later; ALTER TABLE b ADD CONSTRAINT b_a_fk FOREIGN KEY (a) REFERENCES a;
         CREATE VIEW \"new One\" AS SELECT * FROM a; CREATE TABLE child () INHERITS (parent);
         CREATE TABLE two PARTITION OF parts FOR VALUES IN (2); CREATE TABLE more (m mood);
         CREATE FUNCTION also_of_a(a) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TABLE unrelated (n int)",
    );
    let said = chain(&preview().await.unwrap_err());
    for words in [
        "constraint b_a_fk on table public.b needs constraint a_pkey on table public.a: before the restore ALTER TABLE public.b DROP CONSTRAINT b_a_fk; \
         and after it ALTER TABLE public.b ADD CONSTRAINT b_a_fk FOREIGN KEY (a) REFERENCES public.a(id)",
        "DROP VIEW public.\"new One\"",
        "ALTER TABLE public.child NO INHERIT public.parent",
        "ALTER TABLE public.parts DETACH PARTITION public.two",
        "DROP FUNCTION public.also_of_a(public.a)",
        "ALTER TABLE public.more ALTER COLUMN m TYPE text; and after it ALTER TABLE public.more ALTER COLUMN m TYPE public.mood \
         USING m::public.mood",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("old") && !said.contains("unrelated") && !said.contains("b_id_fkey"), "{said}");
    let err = stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap_err();
    assert!(matches!(&err, ComponentError::Unusable { what, .. } if what.contains("b_a_fk")), "{err}");
    // What it says helps.
    server.psql(
        "later",
        "ALTER TABLE public.b DROP CONSTRAINT b_a_fk; DROP VIEW public.\"new One\"; ALTER TABLE public.child NO INHERIT public.parent;
         ALTER TABLE public.parts DETACH PARTITION public.two; DROP FUNCTION public.also_of_a(public.a);
         ALTER TABLE public.more ALTER COLUMN m TYPE text; DELETE FROM b; DELETE FROM a",
    );
    preview().await.unwrap();
    stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap().swap().await.unwrap();
    let back = "ALTER TABLE public.parts ATTACH PARTITION public.two FOR VALUES IN (2);
                ALTER TABLE public.b ADD CONSTRAINT b_a_fk FOREIGN KEY (a) REFERENCES public.a(id);
                ALTER TABLE public.more ALTER COLUMN m TYPE public.mood USING m::public.mood; SELECT count(*) FROM a";
    assert_eq!(server.psql("later", back), "1");
}

#[tokio::test]
async fn in_place_what_was_made_after_the_backup_and_is_in_the_way_is_named_with_a_way_out() {
    what_came_later_is_named(PostgresServer::shared()).await;
}

#[tokio::test]
async fn in_place_what_was_made_after_the_backup_and_is_in_the_way_is_named_with_a_way_out_on_18() {
    what_came_later_is_named(&PostgresServer::of(18)).await;
}

async fn a_pooler_is_recognised(server: &PostgresServer, bouncer: &Path) {
    server.database("pooled", "");
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (ini, direct) = (folder.path().join("ini"), server.config("pooled"));
    fs::write(folder.path().join("users"), "\"postgres\" \"secret\"\n").unwrap();
    let socket = server.socket_dir().display();
    let settings = format!(
        "[databases]\n* = user=postgres host={socket} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\n\
         auth_file = {}\nunix_socket_dir =\nlogfile = {}\n",
        direct.port,
        folder.path().join("users").display(),
        folder.path().join("log").display()
    );
    fs::write(&ini, settings).unwrap();
    let mut command = Command::new(bouncer);
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        command.args(["-u", "postgres"]);
    }
    command.arg("-q").arg(&ini).stderr(std::process::Stdio::null());
    let mut running = command.process_group(0).spawn().unwrap();
    let config = PostgresConfig { port, ..with_own_clients(server, "pooled") };
    let (mut tries, mut said) = (0, String::new());
    while tries < 100 {
        said = match component(&config).check().await {
            Ok(said) => said,
            Err(err) => chain(&err),
        };
        if said.contains("a restore") {
            break;
        }
        tries += 1;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let planned = component(&config).plan(&Target::Live, None).await;
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(
        said.contains("a restore would not begin") && said.contains("is a connection pooler (PgBouncer)"),
        "{said}"
    );
    let planned = chain(&planned.unwrap_err());
    assert!(planned.contains("name the PostgreSQL server itself"), "{planned}");
}

#[tokio::test]
async fn a_connection_pooler_is_recognised_before_a_restore() {
    let bouncer = Path::new("/usr/sbin/pgbouncer");
    if !bouncer.exists() {
        return println!("pgbouncer is not installed");
    }
    for server in [PostgresServer::start(), PostgresServer::of(18)] {
        a_pooler_is_recognised(&server, bouncer).await;
    }
}

/// A server with `pg_cron`, which can only be in one database; none where it is not installed.
fn with_cron(name: &str) -> Option<PostgresServer> {
    let server = PostgresServer::start();
    let known = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_cron'";
    if server.psql("postgres", known) == "0" {
        println!("pg_cron is not installed (postgresql-15-cron)");
        return None;
    }
    let name_it = format!("ALTER SYSTEM SET cron.database_name = '{name}'");
    for setting in ["ALTER SYSTEM SET shared_preload_libraries = 'pg_cron'", &name_it] {
        server.psql("postgres", setting);
        server.control(&["stop", "-w", "-m", "fast"]);
        server.start_again();
    }
    server.database(name, "");
    Some(server)
}

#[tokio::test]
async fn an_extension_that_can_only_be_in_one_database_is_known_beforehand_and_keeps_no_rows() {
    let Some(server) = with_cron("scheduled") else { return };
    server.psql(
        "scheduled",
        "CREATE EXTENSION pg_cron; SELECT cron.schedule('nightly', '0 3 * * *', 'SELECT 1');
         CREATE TABLE t AS SELECT generate_series(1, 7) AS n",
    );
    let config = with_own_clients(&server, "scheduled");
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let checked = component(&config).check().await.unwrap();
    assert!(checked.contains("pg_cron can only be in database scheduled"), "{checked}");
    let plan = component(&config).plan(&Target::Live, Some(&facts)).await.unwrap();
    assert!(plan.advice.join("; ").contains("CREATE EXTENSION pg_cron"), "{plan:?}");
    assert!(plan.refuses.contains(&"pg_cron".to_owned()), "{plan:?}");
    let err = stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap_err();
    let ComponentError::Refused { names, what } = &err else { panic!("{}", chain(&err)) };
    assert!(!what.contains("Add cron.database_name"), "the server's hint does harm: {what}");
    // pg_restore names sequences without their schemas.
    let planned =
        |name: &String| plan.refuses.iter().any(|known| known.rsplit('.').next() == name.rsplit('.').next());
    assert!(names.len() == plan.refuses.len() && names.iter().all(planned), "{names:?} {:?}", plan.refuses);
    let staged = stage(&config, &archive, &Target::Scratch, Some(&facts)).await.unwrap();
    assert_eq!(staged.expected(&facts.counts), *staged.counts());
    staged.discard().await.unwrap();
    let meter = Meter::default();
    let staged = component(&config)
        .stage(
            &mut &*archive,
            &RestoreOrder { target: &Target::Live, without: &plan.refuses, facts: Some(&facts) },
            &meter,
        )
        .await
        .unwrap();
    staged.swap().await.unwrap();
    assert_eq!(server.psql("scheduled", "SELECT count(*) FROM t"), "7");
    // What the plan says brings the jobs back.
    server.psql("scheduled", "CREATE EXTENSION pg_cron");
    let jobs = server.run(
        "pg_restore",
        "scheduled",
        &["--data-only", "--schema=cron", "--dbname=scheduled"],
        &archive,
    );
    assert!(jobs.status.success(), "{}", String::from_utf8_lossy(&jobs.stderr));
    assert_eq!(server.psql("scheduled", "SELECT jobname FROM cron.job"), "nightly");
}

#[tokio::test]
async fn what_was_put_on_a_table_of_an_extension_is_named_with_its_statement() {
    let Some(server) = with_cron("additions") else { return };
    server.psql("postgres", "CREATE ROLE guest");
    let added = [
        "ALTER TABLE cron.job_run_details ADD CONSTRAINT told CHECK ((status <> 'x'::text))",
        "CREATE INDEX by_status ON cron.job_run_details USING btree (status)",
        "CREATE POLICY a_few ON cron.job_run_details AS PERMISSIVE FOR SELECT TO guest USING ((runid = 1))",
    ];
    server.psql("additions", "CREATE EXTENSION pg_cron");
    let config = with_own_clients(&server, "additions");
    let (_, facts) = backup(config.clone()).await.unwrap();
    assert_eq!(facts.warnings, [""; 0], "nothing was put on them");
    server.psql("additions", &added.join("; "));
    server.psql("additions", "ALTER TABLE cron.job ADD COLUMN note text");
    let (_, facts) = backup(config.clone()).await.unwrap();
    let said = facts.warnings.join("; ");
    for statement in added.into_iter().chain(["ALTER TABLE cron.job ADD COLUMN note text"]) {
        assert!(said.contains(statement), "{statement}: {said}");
    }
    let plan = component(&config).plan(&Target::Live, Some(&facts)).await.unwrap();
    assert!(plan.advice.join("; ").contains(added[2]), "{plan:?}");
}
