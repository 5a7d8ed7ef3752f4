//! `component::postgres` restores when things go wrong: the live database is the old or the new, whole.

use crate::postgres::backup;
use crate::postgres_restore::{component, databases, in_parallel, small, stage};
use crate::support::postgres::{PASSWORD, PostgresServer};
use rna_backup::component::postgres::PostgresConfig;
use rna_backup::component::{ComponentError, Restorable, RestoreOrder, Target, Undo};
use rna_backup::domain::progress::Meter;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};

const LIVE: &str = "SELECT count(*), sum(hashtextextended(t::text, 0)), (SELECT oid FROM pg_database WHERE datname = current_database()) FROM t";

#[tokio::test]
async fn a_damaged_archive_is_refused_with_the_live_database_unchanged() {
    let server = PostgresServer::shared();
    let name = server.database("damaged", "");
    server.psql(
        &name,
        "CREATE TABLE t AS SELECT g, repeat('first', 20) AS x FROM generate_series(1, 3000) g; \
                        CREATE TABLE second AS TABLE t; ALTER TABLE second ADD PRIMARY KEY (g)",
    );
    let (config, _scratch) = in_parallel(server.config(&name));
    let (archive, facts) = backup(config.clone()).await.unwrap();
    server.psql(&name, "DELETE FROM t WHERE g > 5");
    let live = server.psql(&name, LIVE);
    let len = archive.len();
    let mut flipped = archive.clone();
    let row = memchr::memmem::find(&archive, b"\tfirst").unwrap();
    flipped[row] ^= 0x40;
    let mut tar = b"media/".to_vec();
    tar.resize(100_000, 0);
    let cases: [(&str, &[u8]); 6] = [
        ("truncated at 70 %", &archive[..len * 7 / 10]),
        ("truncated by the last 64 KB", &archive[..len - 65_536]),
        ("truncated by one byte", &archive[..len - 1]),
        ("empty", b""),
        ("wrong component", &tar),
        ("a flipped bit", &flipped),
    ];
    for jobs in [1, 2] {
        for (what, bytes) in cases {
            let config = PostgresConfig { jobs, ..config.clone() };
            let err = stage(&config, bytes, &Target::Live, Some(&facts)).await.expect_err(what);
            let corrupt = matches!(err, ComponentError::Corrupt { .. });
            assert!(corrupt || what == "a flipped bit", "{what}, {jobs} jobs: {err:?}");
            assert!(!err.is_transient(), "{what}");
            assert_eq!(databases(server, "damaged"), ["damaged"], "{what}");
            assert_eq!(server.psql(&name, LIVE), live, "{what}");
        }
    }
}

#[tokio::test]
async fn a_lost_row_shows_in_the_counts_of_the_copy() {
    let server = PostgresServer::shared();
    let (config, mut archive, facts) = small(server, "lost_row").await;
    // A lost line end and a lost tab join two rows.
    let end = memchr::memmem::find(&archive, b"xxx\n").unwrap() + 3;
    let tab = end + memchr::memchr(b'\t', &archive[end..]).unwrap();
    (archive[end], archive[tab]) = (b'x', b'x');
    let staged = stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap();
    assert_eq!(facts.counts.differences(staged.counts()), ["table public.t: expected 3000 rows, found 2999"]);
    staged.discard().await.unwrap();
    assert_eq!(databases(server, "lost_row"), ["lost_row"]);
}

/// A feed that has given a part and then waits.
async fn halfway(archive: &[u8]) -> (impl tokio::io::AsyncRead + Send + Unpin, DuplexStream) {
    let (mut writer, reader) = tokio::io::duplex(archive.len());
    let (first, _) = archive.split_at(archive.len() / 2);
    writer.write_all(first).await.unwrap();
    (reader.chain(tokio::io::empty()), writer)
}

/// The `pg_restore` that works on a copy of `database`.
fn restorer(database: &str) -> Option<Pid> {
    let wanted = format!("PGDATABASE={database}_restore_");
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read(entry.path().join("comm")).ok()?;
        let environment = fs::read(entry.path().join("environ")).ok()?;
        let ours = name == b"pg_restore\n" && memchr::memmem::find(&environment, wanted.as_bytes()).is_some();
        ours.then(|| Pid::from_raw(pid)).flatten()
    })
}

/// Until a copy of `database` has a table.
async fn loading(server: &PostgresServer, database: &str) {
    loop {
        let copies = databases(server, &format!("{database}_restore_"));
        if copies.iter().any(|copy| server.psql(copy, "SELECT to_regclass('t') IS NOT NULL") == "t") {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_killed_pg_restore_is_a_failure_that_may_pass_and_leaves_nothing() {
    let server = PostgresServer::shared();
    let (config, archive, facts) = small(server, "killed restorer").await;
    let live = server.psql("killed restorer", LIVE);
    let (mut feed, _open) = halfway(&archive).await;
    let lab = component(&config);
    let meter = Meter::default();
    let kill = async {
        loading(server, "killed restorer").await;
        kill_process(restorer("killed restorer").unwrap(), Signal::KILL).unwrap();
    };
    let order = RestoreOrder::new(&Target::Live, Some(&facts));
    let (staged, ()) = tokio::join!(lab.stage(&mut feed, &order, &meter), kill);
    let err = staged.unwrap_err();
    assert!(matches!(err, ComponentError::Failed { transient: true, .. }), "{err:?}");
    assert_eq!(
        (databases(server, "killed restorer"), server.psql("killed restorer", LIVE)),
        (vec!["killed restorer".into()], live)
    );
}

#[tokio::test]
async fn a_dropped_restore_ends_its_child_and_recover_removes_the_copy() {
    let server = PostgresServer::shared();
    let (config, archive, facts) = small(server, "abandoned").await;
    let (mut feed, _open) = halfway(&archive).await;
    let lab = component(&config);
    let meter = Meter::default();
    let order = RestoreOrder::new(&Target::Live, Some(&facts));
    tokio::select! {
        staged = lab.stage(&mut feed, &order, &meter) => panic!("{staged:?}"),
        () = loading(server, "abandoned") => {}
    }
    while restorer("abandoned").is_some() {}
    // Others look alike and are not ours.
    let fresh = "CONNECTION LIMIT 1726621";
    for (name, options) in [
        ("abandoned_restore_20260101_000000", ""),
        ("abandoned_before_20260101_000000", ""),
        ("abandoned_restore_20260101_000001", fresh),
        ("other_restore_20260101_000001", fresh),
    ] {
        server.database(name, options);
    }
    let done = lab.recover().await.unwrap();
    assert_eq!(done.len(), 2, "{done:?}");
    let left = ["abandoned", "abandoned_before_20260101_000000", "abandoned_restore_20260101_000000"];
    assert_eq!(databases(server, "abandoned"), left);
    lab.delete_undo_data().await.unwrap();
    assert_eq!((databases(server, "abandoned").len(), databases(server, "other_restore").len()), (3, 1));
}

/// As exporters do that connect to every database there is, and again when they are cut off.
#[tokio::test]
async fn whoever_keeps_looking_into_the_copy_does_not_hold_up_the_swap() {
    let server = PostgresServer::shared();
    let (config, archive, facts) = small(server, "looked_into").await;
    let staged = stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap();
    let copy = databases(server, "looked_into_restore_").remove(0);
    let look = format!("while :; do {}/psql -c 'SELECT pg_sleep(600)'; done", server.bin().display());
    let mut exporter = Command::new("sh");
    exporter.args(["-c", &look]).env("PGDATABASE", &copy).env("PGHOST", server.socket_dir());
    exporter.env("PGPORT", config.port.to_string()).env("PGUSER", "postgres");
    let mut exporter = exporter.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let sessions = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{copy}'");
    while server.psql("postgres", &sessions) != "1" {}
    let swapped = staged.swap().await;
    exporter.kill().unwrap();
    exporter.wait().unwrap();
    swapped.unwrap().unwrap();
    assert_eq!(server.psql("looked_into", "SELECT count(*) FROM t"), "3000");
}

#[tokio::test]
async fn what_a_swap_that_died_had_closed_is_opened_again() {
    let server = PostgresServer::shared();
    let (config, archive, facts) = small(server, "closed").await;
    let mark = r#"rna-backup: {"role":"closed","name":"closed","by":"closed","of":"closed","at":"2026-01-01T00:00:00Z","comment":"mine","allow":true}"#;
    let close =
        format!("COMMENT ON DATABASE closed IS '{mark}'; ALTER DATABASE closed ALLOW_CONNECTIONS false");
    server.psql("postgres", &close);
    let done = component(&config).recover().await.unwrap();
    assert_eq!(done, ["database closed takes connections again: a swap had died"]);
    let comment = "SELECT shobj_description(oid, 'pg_database'), datallowconn FROM pg_database WHERE datname LIKE 'closed%' ORDER BY datname";
    assert_eq!(server.psql("closed", comment), "mine|t");
    // A restore on top of it does not take the mark for a comment.
    server.psql("postgres", &close);
    stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap().swap().await.unwrap().unwrap();
    assert!(server.psql("closed", comment).starts_with("mine|t\nrna-backup: "));
    // Somebody drops the live one: what was kept has its name again.
    server.psql("postgres", "DROP DATABASE closed WITH (FORCE)");
    let done = component(&config).recover().await.unwrap();
    assert!(done.len() == 1 && done[0].starts_with("database closed was missing"), "{done:?}");
    assert_eq!(server.psql("closed", &format!("{comment}; SELECT count(*) FROM t")), "mine|t\n5");
}

#[tokio::test]
async fn a_session_that_may_not_be_ended_fails_the_swap_and_the_door_opens_again() {
    let server = PostgresServer::shared();
    server.psql("postgres", "CREATE ROLE no_signals LOGIN CREATEDB PASSWORD 'no_signals'");
    let name = server.database("unsignalled", "OWNER no_signals");
    server.psql(
        &name,
        "SET ROLE no_signals; CREATE TABLE t AS SELECT generate_series(1, 3000) AS n; COMMENT ON DATABASE unsignalled IS 'mine'",
    );
    let role = || "no_signals".to_owned();
    let config = PostgresConfig { user: role(), password: Some(role().into()), ..server.config(&name) };
    let (archive, facts) = backup(config.clone()).await.unwrap();
    // What an earlier restore has kept is no sign that this one went well.
    stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap().swap().await.unwrap().unwrap();
    server.psql(&name, "DELETE FROM t WHERE n > 5");
    let staged = stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap();
    // A session of a superuser, whom the role may not end.
    let mut session = Command::new(server.bin().join("psql"));
    session.args(["-c", "SELECT pg_sleep(600)"]).env("PGDATABASE", &name).env("PGHOST", server.socket_dir());
    session.env("PGPORT", config.port.to_string()).env("PGUSER", "postgres").stdout(Stdio::null());
    let mut session = session.spawn().unwrap();
    let sleeps =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'unsignalled' AND wait_event = 'PgSleep'";
    while server.psql("postgres", sleeps) != "1" {}

    // Another database, in the middle of a swap of its own.
    let other = server.database("unsignalled_too", "OWNER no_signals");
    let mark = r#"rna-backup: {"role":"closed","name":"unsignalled_too","by":"unsignalled","of":"unsignalled_too","at":"2026-01-01T00:00:00Z","comment":null,"allow":true}"#;
    let close =
        format!("COMMENT ON DATABASE {other} IS '{mark}'; ALTER DATABASE {other} ALLOW_CONNECTIONS false");
    server.psql("postgres", &close);

    let err = staged.swap().await.unwrap_err();
    assert!(err.to_string().contains("GRANT pg_signal_backend"), "{err}");
    let closed = "SELECT datallowconn FROM pg_database WHERE datname = 'unsignalled_too'";
    assert_eq!(server.psql("postgres", closed), "f");
    let see = "SELECT datallowconn, shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'unsignalled'";
    assert_eq!(server.psql("postgres", see), "t|mine");
    assert_eq!(server.psql(&name, "SELECT count(*) FROM t"), "5");
    assert_eq!(server.psql("postgres", sleeps), "1");
    session.kill().unwrap();
    session.wait().unwrap();
    component(&config).recover().await.unwrap();
    component(&config).delete_undo_data().await.unwrap();
    assert_eq!(databases(server, &name), [name, other]);
}

/// A way to the server on which the answer to whoever renames a database is lost.
async fn mute_renames(server: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
            tokio::spawn(async move {
                let ((mut asks, mut hears), (mut answers, mut told)) = (client.split(), server.split());
                let renames = AtomicBool::new(false);
                let up = async {
                    let mut bytes = vec![0; 64 << 10];
                    while let Ok(read @ 1..) = asks.read(&mut bytes).await {
                        let is_rename = bytes[..read].windows(9).any(|words| words == b"RENAME TO");
                        renames.fetch_or(is_rename, Relaxed);
                        told.write_all(&bytes[..read]).await.unwrap();
                    }
                };
                let down = async {
                    let mut bytes = vec![0; 64 << 10];
                    while let Ok(read @ 1..) = answers.read(&mut bytes).await {
                        if renames.load(Relaxed) || hears.write_all(&bytes[..read]).await.is_err() {
                            break;
                        }
                    }
                };
                tokio::select! { () = up => {} () = down => {} }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_swap_whose_answer_is_lost_has_happened_all_the_same() {
    let server = PostgresServer::shared();
    let (config, archive, facts) = small(server, "unheard").await;
    let config =
        PostgresConfig { host: "127.0.0.1".to_owned(), port: mute_renames(config.port).await, ..config };
    let staged = stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap();
    let kept = staged.swap().await.unwrap().unwrap();
    assert_eq!(databases(server, "unheard"), ["unheard", &kept.place]);
    assert_eq!(server.psql("unheard", "SELECT count(*) FROM t"), "3000");
}

#[tokio::test]
async fn a_database_with_a_prepared_transaction_is_refused_before_anybody_waits() {
    let server = PostgresServer::shared();
    let (config, archive, facts) = small(server, "prepared").await;
    let prepare = "BEGIN; DELETE FROM t; PREPARE TRANSACTION 'of the app'";
    let staged = stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap();
    server.psql("prepared", prepare);
    let refusals = [
        staged.swap().await.unwrap_err(),
        stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap_err(),
    ];
    for err in refusals {
        assert!(err.to_string().contains("ROLLBACK PREPARED 'of the app'") && !err.is_transient(), "{err}");
    }
    // Nobody was cut off, and a drill needs no other name for it.
    assert_eq!(server.psql("prepared", "SELECT count(*) FROM t"), "5");
    let staged = stage(&config, &archive, &Target::Scratch, Some(&facts)).await.unwrap();
    staged.discard().await.unwrap();
    server.psql("prepared", "ROLLBACK PREPARED 'of the app'");
    stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap().swap().await.unwrap().unwrap();
    assert_eq!(server.psql("prepared", "SELECT count(*) FROM t"), "3000");
}

#[tokio::test]
async fn what_is_kept_of_another_database_takes_no_name_when_the_live_one_is_missing() {
    let server = PostgresServer::shared();
    let (config, archive, facts) = small(server, "vanished").await;
    server.database("bystander", "");
    server.psql("bystander", "CREATE TABLE mine (id int)");
    let target = Target::custom("database", ["bystander"]);
    for target in [&target, &Target::Live] {
        stage(&config, &archive, target, Some(&facts)).await.unwrap().swap().await.unwrap().unwrap();
    }
    // Of the live one nothing is kept, and of the other its old state is.
    for kept in databases(server, "vanished_before_") {
        server.psql("postgres", &format!("DROP DATABASE {kept}"));
    }
    server.psql("postgres", "DROP DATABASE vanished WITH (FORCE)");
    assert_eq!(component(&config).recover().await.unwrap(), [""; 0]);
    assert_eq!(server.psql("bystander", "SELECT count(*) FROM t"), "3000");
    assert_eq!((databases(server, "bystander").len(), databases(server, "vanished").len()), (2, 0));
}

#[tokio::test]
async fn a_drill_of_a_database_with_a_subscription_leaves_nothing() {
    let server = PostgresServer::shared();
    let name = server.database("subscribed", "");
    let subscribe = "CREATE SUBSCRIPTION s CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false)";
    server.psql(&name, &format!("CREATE TABLE t (id int); CREATE PUBLICATION p FOR TABLE t; {subscribe}"));
    let config = server.config(&name);
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let staged = stage(&config, &archive, &Target::Scratch, Some(&facts)).await.unwrap();
    staged.discard().await.unwrap();
    assert_eq!(databases(server, "subscribed"), ["subscribed"]);
    server.psql(&name, "ALTER SUBSCRIPTION s SET (slot_name = NONE)");
    server.psql(&name, "DROP SUBSCRIPTION s");
}

#[tokio::test]
async fn a_restore_outlasts_what_a_role_may_do_nothing() {
    let server = PostgresServer::shared();
    let name = server.database("idle", "");
    server.psql(&name, "CREATE TABLE t AS SELECT n FROM generate_series(1, 800000) n");
    let (archive, facts) = backup(server.config(&name)).await.unwrap();
    server.psql(
        "postgres",
        &format!("CREATE ROLE hasty SUPERUSER LOGIN PASSWORD '{}'", PASSWORD.replace('\'', "''")),
    );
    server.psql("postgres", "ALTER ROLE hasty SET idle_session_timeout = 250");
    let config = PostgresConfig { user: "hasty".to_owned(), ..server.config(&name) };
    let staged = stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap();
    staged.swap().await.unwrap().unwrap();
    assert_eq!(server.psql(&name, "SELECT count(*) FROM t"), "800000");
}
