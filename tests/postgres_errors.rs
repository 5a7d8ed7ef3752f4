//! `component::postgres` when things go wrong: each fault in its class, none taken for success.

use crate::postgres::{Gated, MemoryOutput, backup, decode};
use crate::support::postgres::{PASSWORD, PostgresServer};
use async_trait::async_trait;
use bytes::Bytes;
use rna_backup::component::postgres::{Postgres, PostgresConfig};
use rna_backup::component::{ComponentError, Source};
use rna_backup::domain::progress::Meter;
use rna_backup::stream::{Content, Output};
use std::{
    error::Error as _,
    fs,
    io::{self, Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// All that an error shows to anybody.
fn shown(err: &ComponentError) -> String {
    let mut text = format!("{err:?} {err}");
    let mut cause = err.source();
    while let Some(err) = cause {
        text = format!("{text}: {err}");
        cause = err.source();
    }
    text
}

async fn check_error(config: PostgresConfig) -> ComponentError {
    let err = Postgres::new(config.clone(), Vec::new()).check().await.unwrap_err();
    let backup = backup(config).await.map(|(_, facts)| facts).unwrap_err();
    assert_eq!(err.to_string(), backup.to_string(), "a check says what a backup would fail with");
    assert!(!shown(&err).contains("s3cr3t") && !shown(&backup).contains("s3cr3t"), "{err:?}");
    err
}

/// A folder of client programs: `pg_dump` runs `script`, in which `$real` is the real folder.
///
/// Written by a shell of its own: a file that a process forked from us still holds open for
/// writing could not be run.
fn fake_client(script: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let real = PostgresServer::bin_dir();
    let script = format!(
        "#!/bin/sh\nreal={}\nhere={}\n[ \"$1\" = --version ] && exec $real/pg_dump --version\n{script}\n",
        real.display(),
        dir.path().display()
    );
    write_program(&dir.path().join("pg_dump"), &script);
    std::os::unix::fs::symlink(real.join("pg_restore"), dir.path().join("pg_restore")).unwrap();
    dir
}

pub fn write_program(path: &Path, text: &str) {
    let mut shell = Command::new("sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
}

/// The way into a database with tables enough that a dump cannot hide in pipes and sockets.
fn large(server: &PostgresServer, name: &str) -> PostgresConfig {
    let database = server.database(name, "");
    server.psql(
        &database,
        "CREATE TABLE large AS SELECT g, repeat('x', 1000) AS x FROM generate_series(1, 20000) g",
    );
    server.config(&database)
}

fn sessions(server: &PostgresServer, database: &str) -> String {
    let count = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND application_name = 'rna-backup'"
    );
    server.psql("postgres", &count)
}

#[tokio::test]
async fn refused_credentials_are_denied_and_stay_secret() {
    let server = PostgresServer::shared();
    for password in [Some("s3cr3t wrong".into()), None] {
        let err = check_error(PostgresConfig { password, ..server.config("postgres") }).await;
        assert!(matches!(err, ComponentError::Denied { .. }), "{err:?}");
        assert!(!err.is_transient());
    }
}

#[tokio::test]
async fn a_missing_database_says_what_to_do() {
    let err = check_error(PostgresServer::shared().config("no such database")).await;
    assert!(matches!(err, ComponentError::Unusable { .. }), "{err:?}");
    assert!(err.to_string().contains("no such database: the database does not exist: create it"), "{err}");
}

#[tokio::test]
async fn a_server_that_is_away_starting_full_or_silent_is_unavailable() {
    let server = PostgresServer::shared();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    server.psql(
        "postgres",
        &format!("CREATE ROLE crowd LOGIN CONNECTION LIMIT 0 PASSWORD '{}'", PASSWORD.replace('\'', "''")),
    );
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let starting = TcpListener::bind("127.0.0.1:0").unwrap();
    let (silent_port, starting_port) =
        (silent.local_addr().unwrap().port(), starting.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for stream in starting.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0";
            let length = u32::try_from(fields.len() + 4).unwrap().to_be_bytes();
            let _ = stream.write_all(&[b"E", &length[..], fields].concat());
        }
    });
    let base = PostgresConfig {
        sslmode: "disable".parse().unwrap(),
        connect_timeout: Duration::from_millis(500),
        ..server.config("postgres")
    };
    let cases = [
        ("nobody listens", PostgresConfig { port: free, ..base.clone() }),
        ("no socket", PostgresConfig { host: "/nonexistent".into(), ..base.clone() }),
        ("no such host", PostgresConfig { host: "host.invalid".into(), ..base.clone() }),
        ("silent", PostgresConfig { port: silent_port, ..base.clone() }),
        ("starting up", PostgresConfig { port: starting_port, ..base.clone() }),
        (
            "too many connections",
            PostgresConfig { user: "crowd".into(), connect_timeout: Duration::from_secs(10), ..base },
        ),
    ];
    for (what, config) in cases {
        let err = check_error(config).await;
        assert!(matches!(err, ComponentError::Unavailable { .. }), "{what}: {err:?}");
        assert!(err.is_transient(), "{what}");
    }
}

#[tokio::test]
async fn missing_rights_name_the_tables_and_the_grant() {
    let server = PostgresServer::shared();
    let database = server.database("guarded", "");
    let password = PASSWORD.replace('\'', "''");
    server.psql(
        &database,
        &format!(
            "CREATE ROLE \"Rea\"\"der\" LOGIN PASSWORD '{password}'; CREATE TABLE open (n int); GRANT SELECT ON open TO public; \
             CREATE TABLE closed (n int); CREATE TABLE veiled (n int); GRANT SELECT ON veiled TO public; \
             ALTER TABLE veiled ENABLE ROW LEVEL SECURITY; CREATE SEQUENCE closed_sequence"
        ),
    );
    let config = PostgresConfig { user: "Rea\"der".into(), ..server.config(&database) };
    let err = check_error(config.clone()).await;
    assert!(matches!(err, ComponentError::Unusable { .. }), "{err:?}");
    let text = err.to_string();
    assert!(text.contains("not read all of public.closed, public.closed_sequence, public.veiled:"), "{text}");
    assert!(text.contains("GRANT pg_read_all_data TO \"Rea\"\"der\""), "{text}");

    // What the message says must help.
    server.psql(&database, "GRANT pg_read_all_data TO \"Rea\"\"der\"; ALTER ROLE \"Rea\"\"der\" BYPASSRLS");
    let (archive, facts) = backup(config).await.unwrap();
    assert_eq!(facts.counts, decode(&archive).await.unwrap());
}

#[tokio::test]
async fn a_client_that_is_too_old_or_missing_says_what_to_install() {
    let server = PostgresServer::shared();
    let old = tempfile::tempdir().unwrap();
    write_program(&old.path().join("pg_dump"), "#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n");
    write_program(&old.path().join("pg_restore"), "#!/bin/sh\n");
    let none = tempfile::tempdir().unwrap();
    for (dir, words) in
        [(&old, "is 9: install postgresql-client-"), (&none, "find pg_dump and pg_restore in /")]
    {
        let config = PostgresConfig { bin_dir: Some(dir.path().into()), ..server.config("postgres") };
        let err = check_error(config).await;
        assert!(matches!(err, ComponentError::Unusable { .. }), "{err:?}");
        assert!(err.to_string().contains(words), "{err}");
    }
}

#[tokio::test]
async fn a_killed_pg_dump_is_a_failure_that_may_pass() {
    let server = PostgresServer::shared();
    let client = fake_client("echo $$ > $here/pid; exec $real/pg_dump \"$@\"");
    let config = PostgresConfig { bin_dir: Some(client.path().into()), ..large(server, "killed") };
    let (mut out, at_gate, open) = Gated::new();
    let postgres = Postgres::new(config, Vec::new());
    let meter = Meter::default();
    let kill = async {
        at_gate.await.unwrap();
        let pid = fs::read_to_string(client.path().join("pid")).unwrap();
        assert!(Command::new("kill").args(["-9", pid.trim()]).status().unwrap().success());
        open.send(()).await.unwrap();
    };
    let (result, ()) = tokio::join!(postgres.back_up(None, &mut out, &meter), kill);
    let err = result.unwrap_err();
    assert!(matches!(&err, ComponentError::Failed { status, .. } if status.contains("SIGKILL")), "{err:?}");
    assert!(err.is_transient());
}

#[tokio::test]
async fn a_server_shut_down_during_a_dump_is_a_passing_fault() {
    let server = PostgresServer::start();
    server.psql("postgres", "ALTER SYSTEM SET lc_messages = 'C.UTF-8'");
    let (mut out, at_gate, open) = Gated::new();
    let postgres = Postgres::new(large(&server, "shut down"), Vec::new());
    let meter = Meter::default();
    let stop = async {
        at_gate.await.unwrap();
        server.control(&["-m", "fast", "stop"]);
        open.send(()).await.unwrap();
    };
    let (result, ()) = tokio::join!(postgres.back_up(None, &mut out, &meter), stop);
    let err = result.unwrap_err();
    assert!(err.is_transient(), "{err:?}");
    let err = postgres.check().await.unwrap_err();
    assert!(err.is_transient(), "{err:?}");
}

#[tokio::test]
async fn a_dropped_backup_leaves_no_child_and_no_session() {
    let server = PostgresServer::shared();
    let config = large(server, "dropped");
    // The real one also ends by itself when its output is closed; the other one never would.
    for rest in ["exec $real/pg_dump \"$@\"", "head -c 1000000 /dev/zero; exec sleep 1000"] {
        let client = fake_client(&format!("echo $$ > $here/pid; {rest}"));
        let config = PostgresConfig { bin_dir: Some(client.path().into()), ..config.clone() };
        let (mut out, at_gate, _open) = Gated::new();
        let postgres = Postgres::new(config, Vec::new());
        let meter = Meter::default();
        tokio::select! {
            _ = postgres.back_up(None, &mut out, &meter) => panic!("the gate is closed"),
            reached = at_gate => reached.unwrap(),
        }
        let pid = fs::read_to_string(client.path().join("pid")).unwrap();
        let alive = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        let gone = async {
            while alive() || sessions(server, "dropped") != "0" {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), gone).await.expect("both end at once");
    }
}

#[tokio::test]
async fn a_table_cannot_be_emptied_between_the_snapshot_and_the_dump() {
    let server = PostgresServer::shared();
    let database = server.database("truncated", "");
    server.psql(
        &database,
        "CREATE TABLE filler AS SELECT generate_series(1, 500000) AS n; CREATE TABLE t AS SELECT generate_series(1, 5) AS n",
    );
    let truncate = "SET lock_timeout = 100; TRUNCATE t";
    let client =
        fake_client(&format!("$real/psql -Xc '{truncate}' > $here/said 2>&1; exec $real/pg_dump \"$@\""));
    let config = PostgresConfig { bin_dir: Some(client.path().into()), ..server.config(&database) };
    let (archive, facts) = backup(config).await.unwrap();
    let said = fs::read_to_string(client.path().join("said")).unwrap();
    assert!(said.contains("canceling statement due to lock timeout"), "{said}");
    assert_eq!(facts.counts.tables[1].rows, 5);
    assert_eq!(decode(&archive).await.unwrap(), facts.counts);
}

#[tokio::test]
async fn the_child_gets_the_password_by_its_environment_alone_and_never_repeats_it() {
    let server = PostgresServer::shared();
    let database = server.database("secretive", "");
    let client = fake_client(
        "for arg; do printf '%s\\n' \"$arg\"; done > $here/args; env > $here/env\n\
         i=0; while [ $i -lt 400 ]; do printf 'a line with %s inside\\n' \"$PGPASSWORD\" >&2; i=$((i+1)); done; exit 3",
    );
    let config = PostgresConfig { bin_dir: Some(client.path().into()), ..server.config(&database) };
    let err = backup(config).await.unwrap_err();
    let ComponentError::Failed { stderr, status, transient: false, .. } = &err else { panic!("{err:?}") };
    assert!(status.contains('3') && stderr.contains("a line with *** inside"), "{err}");
    assert!(stderr.len() <= 4096 && stderr.len() > 1000, "{}", stderr.len());
    assert!(
        PASSWORD.char_indices().all(|(at, _)| at + 6 > PASSWORD.len()
            || !stderr.contains(&PASSWORD[at..].chars().take(5).collect::<String>())),
        "{stderr}"
    );

    let args = fs::read_to_string(client.path().join("args")).unwrap();
    assert!(
        args.contains("--compress=0") && !args.contains("s3cr3t") && !args.contains("secretive"),
        "{args}"
    );
    let env = fs::read_to_string(client.path().join("env")).unwrap();
    let names: Vec<_> = env.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    let known = ["LC_ALL", "HOME", "PATH", "LD_LIBRARY_PATH", "PWD", "SHLVL", "_", "OLDPWD"];
    assert!(names.iter().all(|name| name.starts_with("PG") || known.contains(name)), "{names:?}");
    assert!(names.contains(&"PGPASSWORD"), "{names:?}");
}

#[tokio::test]
async fn warnings_of_a_dump_that_went_well_are_kept() {
    let server = PostgresServer::shared();
    let database = server.database("warned", "");
    let client = fake_client(
        "echo 'pg_dump: warning: there are circular foreign-key constraints on this table:' >&2\n\
         echo 'pg_dump: detail: circle' >&2; echo 'pg_dump: warning: other' >&2; exec $real/pg_dump \"$@\"",
    );
    let config = PostgresConfig { bin_dir: Some(client.path().into()), ..server.config(&database) };
    let (_, facts) = backup(config).await.unwrap();
    let circular = "pg_dump: there are circular foreign-key constraints on this table: detail: circle";
    assert_eq!(facts.warnings, [circular, "pg_dump: other"]);
}

struct Full;

#[async_trait]
impl Output for Full {
    async fn write(&mut self, _: Bytes) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn content(&mut self, _: Content) {}
}

#[tokio::test]
async fn an_output_that_refuses_is_the_error() {
    let server = PostgresServer::shared();
    let postgres = Postgres::new(large(server, "refused"), Vec::new());
    let err = postgres.back_up(None, &mut Full, &Meter::default()).await.unwrap_err();
    assert!(
        matches!(&err, ComponentError::Output(err) if err.kind() == io::ErrorKind::StorageFull),
        "{err:?}"
    );
}

#[tokio::test]
async fn progress_counts_the_bytes_of_the_dump() {
    let server = PostgresServer::shared();
    let postgres = Postgres::new(large(server, "measured"), Vec::new());
    let (mut out, meter) = (MemoryOutput::default(), Meter::default());
    postgres.back_up(None, &mut out, &meter).await.unwrap();
    let (done, expected, phase) = meter.read();
    assert_eq!((done, &*phase), (out.0.len() as u64, "dump"));
    assert!(expected > done / 2 && expected < done * 2, "{done} of {expected}");
}

/// `ALTER TABLE` waits for the snapshot's session, `pg_dump` behind it, and all readers behind both.
#[tokio::test]
async fn a_dump_behind_a_change_that_waits_for_its_snapshot_gives_way() {
    let server = PostgresServer::shared();
    let database = server.database("altered", "");
    server.psql(&database, "CREATE TABLE t AS SELECT generate_series(1, 5) AS n");
    let client = fake_client(
        "$real/psql -Xc 'ALTER TABLE t ADD later int' > $here/altered 2>&1 &\n\
         until $real/psql -XAtc 'SELECT count(*) FROM pg_locks WHERE NOT granted' | grep -q 1; do :; done\n\
         exec $real/pg_dump \"$@\"",
    );
    let config = PostgresConfig { bin_dir: Some(client.path().into()), ..server.config(&database) };
    let err = tokio::time::timeout(Duration::from_mins(1), backup(config)).await.expect("it gives way");
    let err = err.unwrap_err();
    assert!(err.is_transient() && err.to_string().contains("statement timeout"), "{err:?}");
    assert_eq!(server.psql(&database, "SELECT count(*) FROM t"), "5", "the app goes on");
}
