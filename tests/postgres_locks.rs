//! `component::postgres` and locks: those that others hold are named, and its own are few.

use crate::postgres::backup;
use crate::postgres_restore::{component, stage, with_own_clients};
use crate::support::{lab::Lab, postgres::PostgresServer};
use bytes::Bytes;
use rna_backup::base::chain;
use rna_backup::component::postgres::Postgres;
use rna_backup::component::{Source, Target, Undo};
use rna_backup::domain::progress::Meter;
use rna_backup::stream::{Content, Output};
use std::{io, process::Stdio, time::Duration};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

/// Somebody's session, which stays in its transaction until it is dropped.
struct Session(tokio::process::Child);

impl Session {
    /// Runs statements and returns when they are done.
    async fn begin(server: &PostgresServer, database: &str, sql: &str) -> Self {
        let mut psql = tokio::process::Command::new(server.bin().join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"])
            .env("PGHOST", server.socket_dir())
            .env("PGPORT", server.config(database).port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", database)
            .env("PGAPPNAME", "a migration")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let script = format!("BEGIN; {sql}; SELECT 'ready';\n");
        psql.stdin.as_mut().unwrap().write_all(script.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(psql.stdout.as_mut().unwrap()).lines();
        while lines.next_line().await.unwrap().expect("psql goes on") != "ready" {}
        Self(psql)
    }

    async fn end(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().await.unwrap();
    }
}

#[derive(Debug, Default)]
struct Nowhere;

#[async_trait::async_trait]
impl Output for Nowhere {
    async fn write(&mut self, _: Bytes) -> io::Result<()> {
        Ok(())
    }

    fn content(&mut self, _: Content) {}
}

/// Waits until the meter shows a phase with these words, and returns the phase.
async fn until_phase(meter: &Meter, words: &str) -> String {
    let seen = async {
        loop {
            let phase = meter.read().2;
            if phase.contains(words) {
                return phase.into_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), seen).await.expect("the phase comes")
}

/// A backup by hand says so on standard error, where no bar is drawn.
async fn a_lock_is_named_by_hand(server: &PostgresServer, name: &str) {
    let holder = Session::begin(server, name, "LOCK TABLE s.b IN ACCESS EXCLUSIVE MODE").await;
    let lab = Lab::new().database(server, name).set("BACKUP_COMPONENTS", "postgres");
    let lab = lab.set("BACKUP_PG_BIN_DIR", server.bin().display());
    let mut command = tokio::process::Command::from(lab.program(&["backup", "postgres"]));
    let mut run = command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(run.stderr.take().unwrap()).lines();
    let told = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("the backup waits");
            if line.starts_with("postgres: waiting: ") {
                return line;
            }
        }
    };
    let line = tokio::time::timeout(Duration::from_secs(30), told).await.expect("the line comes");
    assert!(line.contains("a lock on s.b, held by pid ") && line.contains("(a migration, since 2"), "{line}");
    holder.end().await;
    while lines.next_line().await.unwrap().is_some() {}
    assert!(run.wait().await.unwrap().success());
}

async fn a_lock_is_named(server: &PostgresServer) {
    let name = server.database("locked", "");
    server.psql(&name, "CREATE TABLE a (n int); CREATE SCHEMA s; CREATE TABLE s.b (n int)");
    let holder = Session::begin(server, &name, "LOCK TABLE s.b IN ACCESS EXCLUSIVE MODE").await;
    let meter = Meter::default();
    let (config, shown) = (with_own_clients(server, &name), meter.clone());
    let run = tokio::spawn(async move {
        Postgres::new(config, Vec::new()).back_up(None, &mut Nowhere, &meter).await.unwrap();
    });
    let phase = until_phase(&shown, "waiting: ").await;
    assert!(
        phase.contains("a lock on s.b, held by pid ") && phase.contains("(a migration, since 2"),
        "{phase}"
    );
    holder.end().await;
    run.await.unwrap();
    assert!(!shown.read().2.contains("waiting"));
    a_lock_is_named_by_hand(server, &name).await;
}

#[tokio::test]
async fn who_holds_the_lock_that_a_backup_waits_for_is_said() {
    a_lock_is_named(PostgresServer::shared()).await;
}

#[tokio::test]
async fn who_holds_the_lock_that_a_backup_waits_for_is_said_on_18() {
    a_lock_is_named(&PostgresServer::of(18)).await;
}

/// A server with little room for locks, and more tables than fit twice.
fn crowded(server: &PostgresServer) -> String {
    server.psql("postgres", "ALTER SYSTEM SET max_locks_per_transaction = 10");
    server.control(&["stop", "-w", "-m", "fast"]);
    server.start_again();
    let name = server.database("crowded", "");
    for first in (1..=600).step_by(100) {
        let table = |n: i32| {
            format!(
                "CREATE TABLE t{n} (a int PRIMARY KEY, b int, c int); CREATE INDEX ON t{n} (b); CREATE INDEX ON t{n} (c);"
            )
        };
        server.psql(&name, &(first..first + 100).map(table).collect::<String>());
    }
    server.psql(&name, "INSERT INTO t7 VALUES (1, 2, 3)");
    name
}

async fn many_tables_are_backed_up(server: &PostgresServer) {
    let name = crowded(server);
    let plain = server.run("pg_dump", &name, &["--format=custom"], b"");
    assert!(plain.status.success(), "{}", String::from_utf8_lossy(&plain.stderr));
    let config = with_own_clients(server, &name);
    let (archive, facts) = backup(config.clone()).await.unwrap();
    assert_eq!(facts.counts.tables.iter().map(|table| table.rows).sum::<u64>(), 1);
    for target in [Target::Scratch, Target::Live] {
        let staged = stage(&config, &archive, &target, Some(&facts)).await.unwrap();
        assert_eq!(staged.counts(), &facts.counts);
        if target == Target::Scratch {
            staged.discard().await.unwrap();
        } else {
            staged.swap().await.unwrap();
            component(&config).delete_undo_data().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_backup_of_many_tables_needs_no_more_locks_than_pg_dump() {
    many_tables_are_backed_up(&PostgresServer::start()).await;
}

#[tokio::test]
async fn a_backup_of_many_tables_needs_no_more_locks_than_pg_dump_on_18() {
    many_tables_are_backed_up(&PostgresServer::of(18)).await;
}

#[tokio::test]
async fn a_table_that_is_emptied_while_a_dump_of_many_begins_is_not_taken_for_empty() {
    let server = PostgresServer::start();
    server.psql("postgres", "CREATE DATABASE early");
    let name = crowded(&server);
    // Locked by pg_dump before the others, and not looked at before.
    server
        .psql(&name, "CREATE TABLE parent (a int) PARTITION BY LIST (a); CREATE TABLE rows AS SELECT 1 AS a");
    let holder = Session::begin(&server, &name, "LOCK TABLE ONLY parent IN ACCESS EXCLUSIVE MODE").await;
    let meter = Meter::default();
    let (config, shown) = (with_own_clients(&server, &name), meter.clone());
    let run =
        tokio::spawn(
            async move { Postgres::new(config, Vec::new()).back_up(None, &mut Nowhere, &meter).await },
        );
    until_phase(&shown, "a lock on public.parent").await;
    server.psql(&name, "SET lock_timeout = '5s'; TRUNCATE rows");
    holder.end().await;
    let err = run.await.unwrap().unwrap_err();
    assert!(
        err.is_transient() && chain(&err).contains("emptied or rewritten while the dump began"),
        "{}",
        chain(&err)
    );
}
