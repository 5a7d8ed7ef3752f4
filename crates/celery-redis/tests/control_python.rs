//! Remote control by the real tools of both versions, and beside a real worker.

use crate::control_lab::{Asker, Office, captured, node, sealed};
use celery_redis::control::Mailbox;
use celery_redis::keys::Keys;
use celery_redis::requests::{Phase, Revocation};
use serde_json::{Value, json};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use test_support::celery_lab::{client, until, within};
use test_support::python::{Client, Python};
use test_support::redis::Redis;
use tokio::io::{AsyncBufReadExt, BufReader};

const NODE: &str = "backup@lab";

/// The broker's URL as Python writes it.
fn url(redis: &Redis) -> String {
    format!("{}?virtual_host=0", redis.url().replace("unix://", "redis+socket://"))
}

/// `celery -A rna_backend` with `--json`: what it prints. With a destination it waits no longer than needed.
async fn cli(python: &mut Client, args: &[&str]) -> Value {
    let (kind, rest) = args.split_first().unwrap();
    let args = [&[*kind, "--destination", NODE, "--timeout", "30", "--json"], rest].concat();
    let answer = python.ask(&json!({"do": "cli", "args": args})).await;
    assert_eq!((&answer["code"], &answer["err"]), (&json!(0), &json!("")), "{args:?}: {answer}");
    let mut out: Value =
        serde_json::from_str(answer["out"].as_str().unwrap().lines().next().unwrap()).unwrap();
    // `inspect` joins the replies, `control` lists them.
    if out.is_array() { out[0][NODE].take() } else { out[NODE].take() }
}

async fn inspects(python: &mut Client, office: &Office) {
    let all = &office.node.requests;
    let active = all.admit(captured("delay-args-kwargs.536"));
    assert!(active.starts());
    let reserved = all.admit(captured("delay-noargs.536"));
    let scheduled = all.admit(captured("apply_async-countdown-expires-priority.536"));
    scheduled.waits(Phase::Scheduled);
    office.node.revoked.add("gone");
    let id = active.held().message.id.clone();

    assert_eq!(cli(python, &["inspect", "ping"]).await, json!({"ok": "pong"}));
    assert_eq!(cli(python, &["inspect", "active"]).await[0]["kwargs"], json!({"y": 2}));
    assert_eq!(cli(python, &["inspect", "reserved"]).await[0]["id"], json!(reserved.held().message.id));
    assert_eq!(cli(python, &["inspect", "scheduled"]).await[0]["request"]["name"], "t.add");
    assert_eq!(cli(python, &["inspect", "query_task", &id, "unknown"]).await[&id][0], "active");
    assert_eq!(cli(python, &["inspect", "revoked"]).await, json!(["gone"]));
    assert_eq!(cli(python, &["inspect", "registered"]).await, json!(["t.add", "t.sleep"]));
    let registered = cli(python, &["inspect", "registered", "acks_late", "name"]).await;
    assert_eq!(registered[0], "t.add [acks_late=True name=t.add]");
    let queues = cli(python, &["inspect", "active_queues"]).await;
    assert_eq!((&queues[0]["name"], &queues[1]["exchange"]["name"]), (&json!("backups"), &json!("celery")));
    assert_eq!(cli(python, &["inspect", "conf", "true"]).await["timezone"], "UTC");
    let report = cli(python, &["inspect", "report"]).await;
    assert!(report["ok"].as_str().unwrap().starts_with("\nsoftware -> rna-backup:9.8.7\n"), "{report}");
    let stats = cli(python, &["inspect", "stats"]).await;
    assert_eq!((&stats["pool"]["max-concurrency"], &stats["total"]["t.add"]), (&json!(2), &json!(1)));
    assert!(cli(python, &["inspect", "clock"]).await["clock"].as_u64() > Some(10));
    assert!(cli(python, &["inspect", "memsample"]).await.as_str().unwrap().ends_with("MB"));
    assert!(cli(python, &["inspect", "memdump"]).await.as_str().unwrap().starts_with("- rss (end): "));
    assert_eq!(
        cli(python, &["inspect", "objgraph"]).await["error"],
        "ImportError('Requires the objgraph library')"
    );
}

async fn controls(python: &mut Client, office: &Office) {
    let node = &office.node;
    let waiting = node.requests.admit(captured("delay-noargs.536"));
    let running = node.requests.admit(captured("delay-args-kwargs.536"));
    let stamped = node.requests.admit(captured("stamped.536"));
    assert!(running.starts());
    let (first, second) = (waiting.held().message.id.clone(), running.held().message.id.clone());

    let reply = cli(python, &["control", "revoke", &first]).await;
    assert_eq!(reply["ok"], format!("tasks {{'{first}'}} flagged as revoked"));
    assert_eq!(waiting.revocation(), Some(Revocation::Waiting));
    let reply = cli(python, &["control", "terminate", "SIGINT", &second]).await;
    assert_eq!(reply["ok"], format!("terminate: {second}"));
    assert_eq!(running.revocation(), Some(Revocation::Terminated(2)));
    let reply = cli(python, &["control", "revoke_by_stamped_headers", "tenant=acme"]).await;
    assert_eq!(reply["ok"], "headers {'tenant': 'acme'} flagged as revoked, but not terminated");
    assert_eq!(stamped.revocation(), Some(Revocation::Waiting));

    let text = |reply: Value| reply["ok"].as_str().or(reply["error"].as_str()).unwrap().to_owned();
    for (args, expected) in [
        (&["rate_limit", "t.add", "5/m"][..], "new rate limit set successfully"),
        (&["rate_limit", "nope", "5/m"], "unknown task"),
        (&["time_limit", "t.add", "60", "120"], "time limits set successfully"),
        (&["enable_events"], "task events enabled"),
        (&["disable_events"], "task events disabled"),
        (&["add_consumer", "extra", "ex", "topic", "a.#"], "add consumer extra"),
        (&["cancel_consumer", "celery"], "no longer consuming from celery"),
        (&["pool_grow", "3"], "pool will grow"),
        (&["pool_shrink", "1"], "pool will shrink"),
        (&["autoscale", "5", "2"], "ValueError('Autoscale not enabled')"),
        (&["pool_restart"], "ValueError('Pool restarts not enabled')"),
    ] {
        assert_eq!(text(cli(python, &[&["control"], args].concat()).await), expected);
    }
    assert_eq!(cli(python, &["control", "heartbeat"]).await, Value::Null);
    assert_eq!(*node.queues.borrow(), ["backups", "extra"]);
    assert_eq!(*node.concurrency.borrow(), 4);
    assert_eq!(node.tasks.wait("t.add", false), None);
    node.tasks.started("t.add");
    assert!(node.tasks.wait("t.add", false).is_some());
}

/// Every command that `celery inspect` and `celery control` know, but `election`, which is no tool.
async fn everything(python: &Python) {
    let redis = Redis::start();
    let office = Office::open(&redis, NODE).await;
    let mut tool = python.client(&url(&redis));
    inspects(&mut tool, &office).await;
    controls(&mut tool, &office).await;

    // Like Flower: one connection, one request after the other.
    let ping = json!({"do": "control", "method": "ping", "destination": [NODE], "timeout": 30});
    for _ in 0..3 {
        assert_eq!(tool.ask(&ping).await["replies"], json!([{NODE: {"ok": "pong"}}]));
    }
    for (pattern, replies) in [("*@lab", json!([{NODE: {"ok": "pong"}}])), ("*@x", json!([]))] {
        let ping = json!({"do": "control", "method": "ping", "pattern": pattern, "timeout": 0.3});
        assert_eq!(tool.ask(&ping).await["replies"], replies);
    }

    // The commands as processes of their own, for people.
    let run = async |args: &[&str]| {
        let mut command = python.command();
        command.env("REDIS_URL", url(&redis)).args(["-m", "celery", "-A", "rna_backend"]).args(args);
        within(command.output()).await.unwrap()
    };
    let status = run(&["status", "--timeout", "0.5"]).await;
    let shown = String::from_utf8(status.stdout).unwrap();
    assert!(status.status.success() && shown.contains(&format!("{NODE}: OK")), "{shown}");
    assert!(shown.contains("1 node online."), "{shown}");
    assert!(!office.node.shutdown.is_cancelled());
    run(&["control", "shutdown", "--timeout", "0.1"]).await;
    within(office.node.shutdown.cancelled()).await;
}

#[tokio::test]
async fn every_command_works_with_celery_5_3() {
    everything(&Python::celery_5_3()).await;
}

#[tokio::test]
async fn every_command_works_with_the_newest_celery() {
    everything(&Python::newest()).await;
}

/// Starts a Python worker beside ours, then a young one of ours beside it.
async fn mingles(python: &Python) {
    let redis = Redis::start();
    let office = Office::open(&redis, NODE).await;
    office.node.revoked.add("known-to-ours");
    office.node.clock.observe(7000);
    let mut worker = python
        .command()
        .env("REDIS_URL", url(&redis))
        .args("-m celery -A rna_backend worker -P solo -Q other -n py@lab -l info".split(' '))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = Arc::new(Mutex::new(String::new()));
    let mut lines = BufReader::new(worker.stderr.take().unwrap()).lines();
    let written = Arc::clone(&log);
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            written.lock().unwrap().extend([&*line, "\n"]);
        }
    });
    until(async || log.lock().unwrap().contains("py@lab ready")).await;

    let mut asker = Asker::new(&redis).await;
    // It says that it is ready before it listens.
    let to_nobody = sealed(&json!({"method": "ping", "arguments": {}, "destination": ["nobody@lab"]}));
    until(async || asker.cast(to_nobody.as_bytes()).await == 2).await;
    assert_eq!(asker.ask("py@lab", "revoked", json!({})).await, json!(["known-to-ours"]));
    assert!(asker.ask("py@lab", "clock", json!({})).await["clock"].as_u64() > Some(7000));
    asker.ask("py@lab", "revoke", json!({"task_id": "known-to-python"})).await;

    let (young, _events) = node(&redis, "young@lab");
    young.revoked.add("known-to-young");
    let mailbox = Mailbox::new(Arc::clone(&young), client(&redis), Keys::default());
    within(mailbox.mingle()).await;
    assert!(["known-to-ours", "known-to-python"].iter().all(|id| young.revoked.contains(id)));
    assert!(young.clock.now() > 7000);
    let theirs = asker.ask("py@lab", "revoked", json!({})).await;
    assert!(theirs.as_array().unwrap().contains(&json!("known-to-young")), "{theirs}");

    let log = log.lock().unwrap().clone();
    assert!(log.contains("mingle: sync with 1 nodes") && log.contains("mingle: sync complete"), "{log}");
    assert!(!["ERROR", "CRITICAL", "Traceback"].iter().any(|word| log.contains(word)), "{log}");
}

#[tokio::test]
async fn a_worker_of_celery_5_3_and_ours_learn_from_each_other() {
    mingles(&Python::celery_5_3()).await;
}

#[tokio::test]
async fn a_worker_of_the_newest_celery_and_ours_learn_from_each_other() {
    mingles(&Python::newest()).await;
}
