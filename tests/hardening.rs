//! What keeps secrets in, and a worker alive: files and folders, memory, children, connections, bugs.

use crate::support::{
    lab::{Lab, eventually, free_port},
    postgres::PostgresServer,
    source::{FaultySource, SourceFault},
};
use jiff::Timestamp;
use redis::AsyncCommands;
use rna_backup::{
    app::App,
    base::env::Env,
    celery::publish::Outgoing,
    component::{
        Component,
        media::{Media, MediaConfig},
        process::Program,
    },
    config::Config,
    domain::{
        command::task,
        signature::{self, Order},
    },
    observe::http::Health,
    store::KINDS,
    worker::Ending,
};
use rustix::process::Signal;
use serde_json::{Map, Value, json};
use std::{fs, net::TcpStream, os::unix::fs::PermissionsExt, path::Path, process::Command, sync::Arc};
use tokio_util::sync::CancellationToken;

/// The permissions of all that lies below a folder.
fn modes(folder: &Path, found: &mut Vec<(String, u32)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let (path, meta) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
        found.push((path.display().to_string(), meta.permissions().mode() & 0o7777));
        if meta.is_dir() {
            modes(&path, found);
        }
    }
}

#[test]
fn nobody_else_can_read_what_is_written_even_where_the_umask_lets_them() {
    let server = PostgresServer::shared();
    let database = server.database("private", "");
    let lab = Lab::new().database(server, &database);
    for args in [&["backup", "all"][..], &["verify", "all", "--drill"], &["restore", "media", "--yes"]] {
        let program = lab.program(args);
        let mut careless = Command::new("sh");
        careless
            .args(["-c", "umask 0; exec \"$@\"", "sh"])
            .arg(program.get_program())
            .args(program.get_args());
        careless.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let done = careless.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let mut found = Vec::new();
    modes(&lab.backups(), &mut found);
    assert!(found.iter().any(|(path, _)| path.ends_with(".dump.zst")), "{found:?}");
    let open: Vec<_> = found.iter().filter(|(_, mode)| mode & 0o077 != 0).collect();
    assert!(open.is_empty(), "{open:?}");
}

/// A signed order of a task, with these keyword arguments. Each call makes another message of it, as whoever sends
/// again what he has seen.
struct Signed {
    task: &'static str,
    kwargs: Map<String, Value>,
    id: String,
    header: String,
}

impl Signed {
    fn new(task: &'static str, kwargs: &Value) -> Self {
        let kwargs = kwargs.as_object().unwrap().clone();
        let body = format!(
            r#"[[], {}, {{"callbacks": null, "errbacks": null, "chain": null, "chord": null}}]"#,
            json!(kwargs)
        );
        let id = uuid::Uuid::new_v4().to_string();
        let order = Order { task_id: &id, task, body: body.as_bytes() };
        let header = signature::sign(KEY, &order, Timestamp::now());
        Self { task, kwargs, id, header }
    }

    fn message(&self) -> Outgoing {
        let message = Outgoing::new(self.task, "backups").with_id(&self.id).kwargs(self.kwargs.clone());
        message.header(signature::HEADER, self.header.clone())
    }
}

const KEY: &str = "between app and worker";

#[tokio::test]
async fn a_signed_order_is_obeyed_once_whatever_is_said_of_it_when_it_is_sent_again() {
    let lab = Lab::new().set("BACKUP_RESTORE_KEY", KEY);
    let mut worker = lab.worker();
    lab.ended(&lab.order(task::BACKUP_MEDIA, json!({})).await).await;
    let order = Signed::new(task::RESTORE_MEDIA, &json!({"backup_path": "latest"}));
    fs::write(lab.media().join("later"), "made after the backup").unwrap();
    assert_eq!(lab.ended(&lab.send(&order.message()).await).await["status"], "SUCCESS", "{}", worker.log());
    fs::write(lab.media().join("later"), "made after the restore").unwrap();
    lab.settled().await;

    // Whoever may write to the broker can say that it is a retry, and delete the result that would answer.
    for restarted in [false, true] {
        if restarted {
            worker.kill();
            worker = lab.worker();
        }
        for again in [order.message(), order.message().header("retries", 1)] {
            let () = lab.connection().await.del(format!("celery-task-meta-{}", order.id)).await.unwrap();
            let answer = lab.ended(&lab.send(&again).await).await;
            let why = answer["result"]["exc_message"][0].as_str().unwrap_or_default();
            assert!(why.contains("carried out before"), "{answer}");
            lab.settled().await;
        }
    }
    // Nor does the signature fit another order.
    let kwargs = json!({"backup_path": "media_backup_20200101_000000"}).as_object().unwrap().clone();
    let changed = Signed { kwargs, id: "another".to_owned(), ..order }.message();
    assert_eq!(lab.ended(&lab.send(&changed).await).await["result"]["exc_type"], "PermissionError");
    assert_eq!(fs::read_to_string(lab.media().join("later")).unwrap(), "made after the restore");
}

#[tokio::test]
async fn a_signed_order_that_is_tried_again_by_the_worker_needs_no_other_signature() {
    let lab = Lab::new()
        .set("BACKUP_RESTORE_KEY", KEY)
        .set("BACKUP_RETRY_DELAY", "100ms")
        .set("BACKUP_MAX_RETRIES", 2)
        .set("POSTGRES_DB", "rna_db")
        .set("POSTGRES_HOST", "127.0.0.1")
        .set("POSTGRES_PORT", free_port());
    let worker = lab.worker();
    let order = Signed::new(task::UNDO, &json!({"component": "postgres"}));
    let ended = lab.ended(&lab.send(&order.message()).await).await;
    assert_eq!(ended["status"], "FAILURE", "{ended}");
    assert_ne!(ended["result"]["exc_type"], "PermissionError", "{ended}");
    assert_eq!(worker.log().matches("will be tried again").count(), 2, "{}", worker.log());
}

/// A child's words about itself: its environment, its process group, its limit for core dumps.
const ABOUT: &str = "cut -d' ' -f1,5 /proc/self/stat; tr '\\0' '\\n' </proc/self/environ";

#[tokio::test]
async fn a_child_gets_nothing_of_our_environment_and_a_group_of_its_own() {
    let about =
        Program::new("sh", Path::new("/bin/sh")).args(["-c", ABOUT]).env("PGPORT", "1").text().await.unwrap();
    let (numbers, environment) = about.split_once('\n').unwrap();
    let group: i32 = numbers.split_once(' ').unwrap().1.parse().unwrap();
    assert_ne!(group, rustix::process::getpgrp().as_raw_nonzero().get());
    let names: Vec<_> = environment.lines().map(|line| line.split_once('=').unwrap().0).collect();
    let named = ["PATH", "LD_LIBRARY_PATH", "PGPORT", "PWD", "SHLVL", "OLDPWD", "_"];
    let others: Vec<_> = names.iter().filter(|name| !named.contains(name)).collect();
    assert!(names.contains(&"PGPORT") && others.is_empty(), "{others:?}");
}

#[tokio::test]
async fn neither_a_worker_nor_its_children_leave_a_core_dump() {
    let lab = Lab::new();
    let worker = lab.worker();
    worker.ready().await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", worker.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let core: Vec<_> = core.split_whitespace().skip(4).take(2).collect();
    assert!(core.iter().all(|limit| ["0", "1"].contains(limit)), "{core:?}");
    worker.signal(Signal::ABORT);
    assert_eq!(worker.ended(), None, "it died of the signal");
    let dumped = fs::read_dir(lab.path("."))
        .unwrap()
        .any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with("core"));
    assert!(!dumped);
}

#[tokio::test]
async fn those_who_connect_and_say_nothing_keep_nobody_from_the_probes_for_long() {
    let lab = Lab::new();
    let worker = lab.worker();
    worker.ready().await;
    let sockets = || {
        let open = fs::read_dir(format!("/proc/{}/fd", worker.pid())).unwrap().flatten();
        open.filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:")))
            .count()
    };
    let before = sockets();
    let silent: Vec<_> = (0..50).map(|_| TcpStream::connect(("127.0.0.1", worker.port())).unwrap()).collect();
    assert!(eventually(async || sockets() >= before + 30).await, "it takes connections");
    assert!(sockets() <= before + 33, "{} connections are taken at once", sockets() - before);
    assert!(matches!(worker.http("/livez").await, Some((200, _))), "it answers whoever has something to say");
    drop(silent);
}

#[tokio::test]
async fn a_bug_in_a_backup_fails_its_task_and_the_worker_goes_on() {
    let lab = Lab::new();
    let settings = lab.program(&[]);
    let settings = settings.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
    let (config, _) = Config::from_env(Env::from_os(settings), KINDS, true).unwrap();
    let mut app = App::build(config).await.unwrap();
    let real = Arc::new(Media::new(MediaConfig::full(lab.media())));
    let engine = Arc::get_mut(&mut app.engine).expect("nobody has it yet");
    engine.components =
        vec![Component::of(Arc::new(FaultySource::new(real.clone(), Some(SourceFault::Panics))))];
    let metrics = app.metrics.clone();
    let health = Health::new(metrics.clone(), 0);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let worker = app.worker().unwrap();
    let working = tokio::spawn(worker.run(health, async move || {
        stopped.cancelled().await;
        Ending::Warm
    }));

    let failed = lab.ended(&lab.order(task::BACKUP_MEDIA, json!({})).await).await;
    assert_eq!(
        (&failed["status"], &failed["result"]["exc_type"]),
        (&json!("FAILURE"), &json!("RuntimeError"))
    );
    lab.settled().await;
    let scrape = metrics.render().unwrap();
    for line in [
        r#"rna_backup_failures_total{component="media",reason="internal"} 1"#,
        r#"rna_backup_last_status{component="media"} 0"#,
        r#"rna_backup_in_progress{component="media"} 0"#,
    ] {
        assert!(scrape.contains(line), "{line} is not in\n{scrape}");
    }
    // The component is free, and nothing of the backup is left.
    let again = lab.ended(&lab.order(task::VERIFY, json!({"component": "media"})).await).await;
    assert_eq!(again["result"]["exc_type"], "FileNotFoundError", "{again}");
    assert_eq!(lab.ended(&lab.order(task::PING, json!({})).await).await["result"], "pong");
    stop.cancel();
    working.await.unwrap();
}
