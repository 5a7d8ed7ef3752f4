//! Commands that go wrong: settings, signals, two at once. What they say, and what they leave behind.

use crate::support::{
    lab::{Lab, eventually, files, unfinished},
    postgres::{PASSWORD, PostgresServer},
};
use rna_backup::{
    base::clock::SystemClock,
    domain::component::ComponentName,
    engine::{LockOwner, Locks},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

/// Starts a backup and waits until it writes.
async fn under_way(lab: &Lab, component: &str) -> Child {
    let child = lab.program(&["backup", component]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    assert!(eventually(async || unfinished(&lab.backups()).len() == 1).await, "the backup did not begin");
    child.unwrap()
}

/// Sends a signal and waits for the end: exit status and standard error. Nothing comes on standard output.
fn end(mut child: Child, signal: Signal) -> (Option<i32>, String) {
    kill_process(Pid::from_child(&child), signal).unwrap();
    let code = child.wait().unwrap().code();
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.unwrap().read_to_string(&mut out).unwrap();
    child.stderr.unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(out, "");
    (code, err)
}

/// Every file below a folder, but for locks.
fn left(dir: &Path) -> Vec<PathBuf> {
    let mut found = files(dir);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() && entry.file_name() != ".locks" {
            found.extend(left(&entry.path()));
        }
    }
    found
}

#[tokio::test]
async fn all_wrong_settings_are_named_at_once_and_no_value_is_shown() {
    let lab = Lab::new();
    let lab = lab
        .set("REDIS_URL", "http://:hunter2@redis")
        .set("DATABASE_URL", "postgres://lab:correct-horse@db:notaport/x")
        .set("BACKUP_CONCURRENCY", "0")
        .set("BACKUP_COMPRESSION", "brotli")
        .set("BACKUP_RETENTION_DAYS", "a week")
        .set("BACKUP_COMPONENTS", "media,redis")
        .set("BACKUP_RESTORE_KEY_FILE", "/nonexistent/key")
        .set("BACKUP_METRICS_ADDR", "everywhere");
    for command in [&["worker"][..], &["list"], &["backup", "all"], &["check"], &["healthcheck"]] {
        let (code, out, err) = lab.run(command);
        assert_eq!((code, out.as_str()), (2, ""), "{command:?}");
        // A command that needs no broker is not stopped by the three settings of the broker.
        let needs_broker = ["worker", "check"].contains(&command[0]);
        let (wrong, looks) = if needs_broker { (8, "") } else { (5, "\nand 3 look wrong\n") };
        assert!(err.starts_with(&format!("error: {wrong} settings need attention\n")), "{err}");
        assert!(err.contains(looks), "{err}");
        for name in [
            "REDIS_URL: redis url: begins with none of redis://, rediss://, unix://",
            "DATABASE_URL: ",
            "BACKUP_CONCURRENCY: must be at least 1",
            "BACKUP_COMPRESSION: is not one of zstd, ",
            "BACKUP_RETENTION_DAYS: is not a whole number of days",
            "BACKUP_COMPONENTS: item 2: is not one of postgres, weaviate, media",
            "BACKUP_RESTORE_KEY_FILE: names a file that cannot be read: /nonexistent/key does not exist; this process is ",
            "BACKUP_METRICS_ADDR: is not an address with a port, such as 0.0.0.0:9188",
        ] {
            assert!(err.contains(&format!("\n  {name}")), "{name} is not in {err}");
        }
        for value in ["hunter2", "correct-horse", "notaport", "brotli", "a week", "everywhere"] {
            assert!(!err.contains(value), "{value} is in {err}");
        }
    }
    assert!(!lab.backups().exists(), "nothing was touched");
}

#[tokio::test]
async fn a_misspelled_setting_is_a_warning_with_the_name_that_was_meant() {
    let lab = Lab::new().set("BACKUP_RETENTION_DAY", "30").set("RUST_LOG", "");
    fs::create_dir(lab.backups()).unwrap();
    let (code, out, err) = lab.run(&["list", "--json"]);
    assert_eq!((code, out.lines().count()), (0, 3));
    assert!(
        err.contains(
            "WARN BACKUP_RETENTION_DAY: is not a known setting: did you mean BACKUP_RETENTION_DAYS?"
        )
    );
    assert!(!err.contains("30?"), "{err}");
    // Beside others that are wrong it is no less likely to be the reason.
    let (code, _, err) = lab.set("BACKUP_CONCURRENCY", "0").run(&["check"]);
    let expected = "error: 1 setting needs attention\n  BACKUP_CONCURRENCY: must be at least 1\nand 1 looks wrong\n  \
                    BACKUP_RETENTION_DAY: is not a known setting: did you mean BACKUP_RETENTION_DAYS?\n";
    assert_eq!((code, err.as_str()), (2, expected));
}

#[tokio::test]
async fn what_is_set_for_a_bucket_that_is_not_is_said() {
    for off in ["False", "off", "0"] {
        let (code, _, err) = Lab::new().set("BACKUP_LOCAL", off).run(&["list"]);
        let expected = "error: 1 setting needs attention\n  BACKUP_LOCAL: is off and AWS_BACKUP_BUCKET is not set: backups \
                        would go nowhere\n";
        assert_eq!((code, err.as_str()), (2, expected));
    }
    let lab = Lab::new().set("BACKUP_CLEANUP_LOCAL", "True").set("RUST_LOG", "");
    fs::create_dir(lab.backups()).unwrap();
    let (code, _, err) = lab.run(&["list"]);
    let warned = err.contains("BACKUP_CLEANUP_LOCAL: does nothing as long as AWS_BACKUP_BUCKET is not set");
    assert!(code == 0 && warned, "{err}");
}

#[tokio::test]
async fn backups_do_not_go_where_the_media_are_by_whatever_way() {
    let lab = Lab::new();
    std::os::unix::fs::symlink(lab.media(), lab.path("link")).unwrap();
    let (media, dots) = (lab.media(), lab.path("media/../media/b"));
    for root in [media.clone(), media.join("deep/er"), dots, lab.path("link/b"), "media/b".into()] {
        let (code, _, err) = program(&lab, &["backup", "media"], "BACKUP_ROOT", &root);
        assert_eq!(code, Some(2), "{}", root.display());
        assert!(err.contains("BACKUP_ROOT: lies inside MEDIA_ROOT"), "{}: {err}", root.display());
    }
    // The other way round: the archives of media would lie in `<root>/media`.
    let (code, _, err) = program(&lab, &["backup", "media"], "BACKUP_ROOT", &lab.path(""));
    assert_eq!(code, Some(2));
    assert!(err.contains("MEDIA_ROOT: is a folder in which BACKUP_ROOT keeps backups"), "{err}");
    assert_eq!(fs::read_dir(media).unwrap().count(), 1, "nothing was written among the media");
}

fn program(lab: &Lab, args: &[&str], name: &str, value: &Path) -> (Option<i32>, String, String) {
    let out = lab.program(args).env(name, value).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

#[tokio::test]
async fn a_component_without_settings_is_refused_and_its_setting_named() {
    let lab = Lab::new().set("POSTGRES_DB", "lab").set("BACKUP_COMPONENTS", "media").set("RUST_LOG", "");
    for (component, why) in [
        ("weaviate", "weaviate is not configured: set WEAVIATE_URL"),
        ("postgres", "postgres is left out: add it to BACKUP_COMPONENTS"),
    ] {
        let (code, out, err) = lab.run(&["backup", component]);
        assert_eq!((code, out.as_str(), err), (2, "", format!("error: {why}\n")));
    }
    for args in
        [&["backup"][..], &["backup", "redis"], &["lsit"], &["list", "redis"], &["show"], &["prune", "--dry"]]
    {
        assert_eq!(lab.run(args).0, 2, "{args:?}");
    }
    let long = "x".repeat(65);
    assert_eq!(lab.run(&["backup", "media", "--label", &long]).0, 2);
    assert_eq!(lab.run(&["backup", "media", "--label", "bell \u{7}"]).0, 2);
}

#[tokio::test]
async fn a_component_that_another_process_has_is_busy() {
    let lab = Lab::endless();
    let first = under_way(&lab, "media").await;
    let holder = format!("error: media is busy: process {} on ", first.id());
    for args in [&["backup", "media"][..], &["prune", "--component", "media"]] {
        let (code, out, err) = lab.run(args);
        assert_eq!((code, out.as_str()), (5, ""), "{args:?}: {err}");
        assert!(err.contains(&holder) && err.contains("--wait"), "{err}");
    }
    let (code, _, err) = lab.run(&["prune"]);
    assert_eq!(code, 1, "the other components were looked after: {err}");
    let (code, _, _) = lab.run(&["prune", "--dry-run"]);
    assert_eq!(code, 0, "a plan needs no lock");
    end(first, Signal::INT);
}

#[tokio::test]
async fn told_to_wait_it_begins_when_the_other_has_ended() {
    let lab = Lab::new();
    let owner = LockOwner { pid: 7, host: "lab".into(), task_id: None, recovers: false, loose: None };
    let locks = Locks::new(lab.backups().join(".locks"));
    let held = locks.take(ComponentName::MEDIA, &owner, None, &SystemClock).await.unwrap();
    let log = lab.path("log");
    let mut waiting = lab.program(&["backup", "media", "--wait"]);
    let mut waiting = waiting.stdout(Stdio::null()).stderr(File::create(&log).unwrap()).spawn().unwrap();
    let told = eventually(async || fs::read_to_string(&log).unwrap().contains("waiting for another run"));
    assert!(told.await);
    assert!(waiting.try_wait().unwrap().is_none());
    drop(held);
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
    assert_eq!(lab.manifests("media").len(), 1);
}

#[tokio::test]
async fn ctrl_c_leaves_nothing_behind() {
    let lab = Lab::endless().set("RUST_LOG", "");
    for signal in [Signal::INT, Signal::TERM] {
        for scope in ["media", "all"] {
            let (code, err) = end(under_way(&lab, scope).await, signal);
            assert_eq!(code, Some(1), "{err}");
            assert_eq!(err, "error: the run was stopped\nhint: nothing of it was kept\n");
            assert_eq!(left(&lab.backups()), Vec::<PathBuf>::new());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_dump_leaves_no_child_and_no_session_in_the_database() {
    let server = PostgresServer::start();
    let database = server.database("stopped", "");
    server.psql(&database, "CREATE TABLE paper (id int); INSERT INTO paper VALUES (1)");
    let config = server.config(&database);
    let lab = Lab::new().set("POSTGRES_HOST", &config.host).set("POSTGRES_PORT", config.port);
    let lab = lab.set("POSTGRES_DB", &database).set("POSTGRES_PASSWORD", PASSWORD).set("RUST_LOG", "");
    let sessions = |name: &str| {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'");
        server.psql("postgres", &sql).parse::<u32>().unwrap()
    };
    // Somebody has the table, so the dump waits.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let lock = b"SET application_name = 'migration'; BEGIN; LOCK TABLE paper; SELECT pg_sleep(600)";
            server.run("psql", &database, &["-X", "-q"], lock)
        });
        let runtime = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| {
            runtime.block_on(async {
                assert!(eventually(async || sessions("migration") == 1).await);
                let backup = under_way(&lab, "postgres").await;
                assert!(eventually(async || sessions("pg_dump") + sessions("rna-backup") > 0).await);
                let (code, err) = end(backup, Signal::TERM);
                assert_eq!(code, Some(1), "{err}");
                assert!(eventually(async || sessions("pg_dump") + sessions("rna-backup") == 0).await);
                server.psql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'migration'");
            });
        });
    });
    assert_eq!(left(&lab.backups()), Vec::<PathBuf>::new());
}

#[test]
fn a_folder_that_cannot_be_looked_at_is_not_called_a_missing_one() {
    let lab = Lab::new();
    std::fs::write(lab.path("file"), "").unwrap();
    let below_a_file = lab.path("file/backups");
    let (code, out, err) = lab.set("BACKUP_ROOT", below_a_file.display()).run(&["list"]);
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    assert!(err.contains("Not a directory") && !err.contains("does not exist"), "{err}");
}

/// Somebody at a terminal learns what a command waits for, long before it gives up: 15 s in the case of a bucket, which
/// gets three tries.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_says_which_server_gives_no_answer_and_how_often_it_will_be_asked() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("127.0.0.1:{}", silent.local_addr().unwrap().port());
    let bucket = Lab::new()
        .set("AWS_BACKUP_BUCKET", "lab-silent")
        .set("AWS_S3_ENDPOINT", format!("http://{server}"))
        .set("AWS_ACCESS_KEY_ID", "id")
        .set("AWS_SECRET_ACCESS_KEY", "key");
    let database = Lab::new().set("DATABASE_URL", format!("postgres://lab@{server}/lab?connect_timeout=2"));
    let broker = Lab::new().set("REDIS_URL", format!("redis://{server}/0"));
    let weaviate = Lab::new().set("WEAVIATE_URL", format!("http://{server}"));
    let cases: [(_, &[&str], _); 4] = [
        (&bucket, &["list"], "no answer: the server did nothing for 15s; asking again, 2 more times at most"),
        (&database, &["backup", "postgres"], "/lab: not available: no answer within 2s"),
        (
            &weaviate,
            &["backup", "weaviate"],
            "Weaviate does not do what it is asked: asking again, 2 more times at most",
        ),
        (&broker, &["check"], "ping redis: redis is not available: timed out"),
    ];
    std::thread::scope(|scope| {
        for (lab, args, word) in cases {
            scope.spawn(move || {
                let mut child =
                    lab.program(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
                let pid = Pid::from_child(&child);
                let (is_over, over) = std::sync::mpsc::channel::<()>();
                let patience = std::thread::spawn(move || {
                    let _ = over
                        .recv_timeout(std::time::Duration::from_mins(2))
                        .map_err(|_| kill_process(pid, Signal::KILL));
                });
                let said = child.stderr.take().unwrap().chain(child.stdout.take().unwrap());
                let mut heard = BufReader::new(said).lines().map(Result::unwrap);
                assert!(heard.any(|line| line.contains(word)), "{args:?} ended without a word of: {word}");
                is_over.send(()).unwrap();
                patience.join().unwrap();
                child.kill().unwrap();
                child.wait().unwrap();
            });
        }
    });
}
