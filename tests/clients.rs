//! Real Celery clients of both versions against the real worker: what the app's code gets to see.

use crate::{
    schemas::validates,
    support::{
        dense::dense,
        lab::{Lab, eventually},
        postgres::{PASSWORD, PostgresServer},
        python::{Client, Python},
    },
};
use jiff::{SignedDuration, Timestamp};
use redis::AsyncCommands;
use rna_backup::domain::command::task;
use serde_json::{Value, json};
use std::{collections::HashMap, fs::File, path::Path};

/// Seconds for anything that a client waits for.
const PATIENCE: u32 = 60;

/// A client of the lab's Redis, whose socket Python writes in another way.
fn client(lab: &Lab, python: &Python) -> Client {
    let socket = lab.redis.url().replace("unix://", "redis+socket://");
    python.client(&format!("{socket}?virtual_host=0"))
}

/// What `.get()` returns of a task that must succeed.
async fn value(client: &mut Client, id: &str) -> Value {
    let mut answer = client.get(id, PATIENCE).await;
    assert_eq!(answer["state"], "SUCCESS", "{answer}");
    answer["value"].take()
}

/// When a task ended.
async fn ended(client: &mut Client, id: &str) -> Timestamp {
    let answer = client.get(id, PATIENCE).await;
    let text = answer["date_done"].as_str().unwrap_or_else(|| panic!("{answer}"));
    format!("{}Z", text.trim_end_matches("+00:00")).parse().unwrap()
}

/// The lab with a database of its own on the shared server.
fn with_postgres(database: &str) -> Lab {
    let server = PostgresServer::shared();
    let config = server.config(&server.database(database, ""));
    let lab = Lab::new().set("POSTGRES_HOST", &config.host).set("POSTGRES_PORT", config.port);
    lab.set("POSTGRES_DB", database).set("POSTGRES_PASSWORD", PASSWORD)
}

#[tokio::test]
async fn delay_and_get_are_all_it_takes() {
    let lab = with_postgres("clients get");
    let _worker = lab.worker();
    for python in Python::both() {
        let mut client = client(&lab, &python);
        let media = client.delay(task::BACKUP_MEDIA, json!([])).await;
        let postgres = client.delay(task::BACKUP_POSTGRES, json!(["before upgrade", true])).await;
        let report = value(&mut client, &media).await;
        validates("result-backup", &report);
        assert_eq!(report["media_dir"], lab.media().display().to_string());
        let report = value(&mut client, &postgres).await;
        validates("result-backup", &report);
        assert_eq!(
            (&report["database"], &report["label"]),
            (&json!("clients get"), &json!("before upgrade"))
        );
        assert!(Path::new(report["path"].as_str().unwrap()).is_file());

        let id = client.delay(task::LIST, json!(["postgres"])).await;
        let listing = value(&mut client, &id).await;
        validates("list", &listing);
        assert_eq!(listing["backups"][0]["backup_id"], report["backup_id"]);
        let id = client.delay(task::CLEANUP, json!([])).await;
        validates("result-prune", &value(&mut client, &id).await);
        assert_eq!(client.ping("backups", 20).await["values"], json!(vec!["pong"; 20]));
    }
    lab.settled().await;
}

#[tokio::test]
async fn the_children_of_a_full_backup_are_there_to_be_waited_for() {
    let lab = with_postgres("clients full");
    let _worker = lab.worker();
    for python in Python::both() {
        let mut client = client(&lab, &python);
        let id = client.send(json!({"task": task::FULL_BACKUP, "kwargs": {"label": "weekly"}})).await;
        let answer = client.get(&id, PATIENCE).await;
        validates("result-full-backup", &answer["value"]);
        let mut components = HashMap::new();
        for child in answer["children"].as_array().unwrap() {
            let child = child.as_str().unwrap();
            let report = value(&mut client, child).await;
            assert_eq!((&report["set_id"], &report["label"]), (&json!(id), &json!("weekly")));
            components.insert(report["component"].as_str().unwrap().to_owned(), child.to_owned());
        }
        assert_eq!(json!(components), answer["value"]["task_ids"]);
        assert_eq!(components.len(), 2);
    }
    lab.settled().await;
}

#[tokio::test]
async fn whoever_watches_sees_the_progress_rise() {
    let lab = Lab::new();
    // Much to read, little to store.
    dense(&lab.media().join("zeros"), 2 << 30);
    let _worker = lab.worker();
    let (mut sender, mut watcher) = (client(&lab, &Python::celery_5_3()), client(&lab, &Python::newest()));
    sender.ping("backups", 1).await;
    let id = "0c5e2b6e-3f0f-4a53-9d52-8f7c7a3f6b11";
    let watched = tokio::spawn(async move { watcher.watch(id, PATIENCE).await });
    let mut redis = lab.connection().await;
    let listening = eventually(async || {
        let mut ask = redis::cmd("PUBSUB");
        ask.arg("NUMSUB").arg(format!("celery-task-meta-{id}"));
        let answer: (String, u64) = ask.query_async(&mut redis).await.unwrap();
        answer.1 == 1
    });
    assert!(listening.await, "the watcher did not subscribe");
    sender.send(json!({"task": task::BACKUP_MEDIA, "options": {"task_id": id}})).await;

    let states = watched.await.unwrap();
    let names: Vec<&str> = states.iter().map(|state| state["state"].as_str().unwrap()).collect();
    assert_eq!((names[0], names.last()), ("STARTED", Some(&"SUCCESS")), "{names:?}");
    let progress: Vec<&Value> =
        states.iter().filter(|state| state["state"] == "PROGRESS").map(|state| &state["meta"]).collect();
    assert_eq!(progress.len(), names.len() - 2, "{names:?}");
    assert!(progress.len() >= 2, "two phases of a second at least: {names:?}");
    for meta in &progress {
        validates("progress", meta);
    }
    for pair in progress.windows(2).filter(|pair| pair[0]["phase"] == pair[1]["phase"]) {
        assert!(pair[0]["percent"].as_f64() <= pair[1]["percent"].as_f64(), "{pair:?}");
        assert!(pair[0]["current"].as_u64() < pair[1]["current"].as_u64(), "{pair:?}");
    }
    let report = value(&mut sender, id).await;
    assert_eq!(&report, &states.last().unwrap()["meta"]);
}

#[tokio::test]
async fn a_failure_is_raised_as_the_exception_that_python_people_expect() {
    // Nobody listens on port 1, and there is one try.
    let lab = Lab::new().set("POSTGRES_HOST", "127.0.0.1").set("POSTGRES_PORT", 1);
    let lab = lab.set("BACKUP_MAX_RETRIES", 0).set("BACKUP_RESTORE_KEY", "between app and worker");
    let _worker = lab.worker();
    let send = |task: &str, args: Value, kwargs: Value| json!({"task": task, "args": args, "kwargs": kwargs, "options": {"queue": "backups"}});
    let unknown = "api.backup.tasks.backup_redis";
    let (label, none) = (json!({"label": "x".repeat(65)}), json!({}));
    let cases = [
        (send(task::BACKUP_MEDIA, json!([]), label), "ValueError", "label is longer than 64 characters"),
        (
            send(task::BACKUP_MEDIA, json!([7]), none.clone()),
            "TypeError",
            "argument 'label' must be a string or None",
        ),
        (send(task::PING, json!([]), json!({"a": 1})), "TypeError", "unexpected keyword argument 'a'"),
        (send(task::BACKUP_WEAVIATE, json!([]), none.clone()), "ValueError", "set WEAVIATE_URL"),
        (
            send(task::BACKUP_POSTGRES, json!([]), none.clone()),
            "ConnectionError",
            "connect to PostgreSQL 127.0.0.1:1/",
        ),
        (send(task::CLEANUP, json!([]), none.clone()), "PermissionError", "sign"),
        (send(task::RESTORE_WEAVIATE, json!(["latest"]), none.clone()), "PermissionError", "sign"),
        (send(unknown, json!([]), none), "NotRegistered", unknown),
    ];
    for python in Python::both() {
        let mut client = client(&lab, &python);
        for (request, class, text) in &cases {
            let id = client.send(request.clone()).await;
            let answer = client.get(&id, PATIENCE).await;
            let error = &answer["error"];
            assert_eq!((&answer["state"], &error["class"]), (&json!("FAILURE"), &json!(class)), "{answer}");
            assert!(error["text"].as_str().unwrap().contains(text), "{answer}");
            let module = if *class == "NotRegistered" { "celery.exceptions" } else { "builtins" };
            assert_eq!(error["module"], module);
            if *class != "NotRegistered" {
                let traceback = answer["traceback"].as_str().unwrap_or_else(|| panic!("{answer}"));
                assert!(traceback.starts_with("Traceback (most recent call last):\n"), "{traceback}");
                assert!(traceback.contains(text) && traceback.contains(&format!("{class}: ")), "{traceback}");
            }
        }
    }
    lab.settled().await;
}

#[tokio::test]
async fn every_option_of_apply_async_is_honoured() {
    let lab = Lab::new().set("BACKUP_CONCURRENCY", 1);
    let call = |options: Value| json!({"task": task::LIST, "options": options});
    for python in Python::both() {
        let mut client = client(&lab, &python);
        // Nobody works yet, so these wait for their worker.
        let later = client.send(call(json!({"priority": 9}))).await;
        let first = client.send(call(json!({"priority": 0}))).await;
        let expired = client.send(call(json!({"expires": 0.01}))).await;
        let unseen = json!({"task": task::BACKUP_MEDIA, "options": {"ignore_result": true}});
        let unseen = client.send(unseen).await;
        let mut packed = Vec::new();
        for compression in ["gzip", "bzip2", "lzma", "application/x-gzip"] {
            packed.push(client.send(call(json!({"compression": compression}))).await);
        }
        let sent = Timestamp::now();
        let waited = client.send(call(json!({"countdown": 1}))).await;

        let worker = lab.worker();
        for id in &packed {
            validates("list", &value(&mut client, id).await);
        }
        assert!(ended(&mut client, &waited).await >= sent + SignedDuration::from_secs(1));
        let answer = client.get(&expired, PATIENCE).await;
        assert_eq!(
            (&answer["state"], &answer["error"]["class"]),
            (&json!("REVOKED"), &json!("TaskRevokedError"))
        );
        assert!(ended(&mut client, &first).await < ended(&mut client, &later).await, "priority 0 goes first");
        lab.settled().await;
        assert_eq!(lab.result(&unseen).await, None);
        let manifests = lab.manifests("media");
        assert_eq!(manifests.last().unwrap()["task_id"], json!(unseen), "it was done all the same");
        assert_eq!(worker.stop(), Some(0));
    }
}

/// A message as a real client sent it, renamed to a task of ours: its id, and the message.
fn captured(case: &str) -> (String, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/celery/messages");
    let text = std::fs::read_to_string(path.join(case).with_extension("536.json")).unwrap();
    let capture: Value = serde_json::from_str(&text).unwrap();
    let message = capture["seen"][0]["raw"][0].as_str().unwrap();
    let headers: Value = serde_json::from_str(message).unwrap();
    let id = headers["headers"]["id"].as_str().unwrap().to_owned();
    (id, message.replace("\"t.add\"", &format!("\"{}\"", task::LIST)))
}

#[tokio::test]
async fn contents_that_nobody_should_read_are_refused_under_their_id() {
    let lab = Lab::new();
    let worker = lab.worker();
    let mut redis = lab.connection().await;
    for python in Python::both() {
        let mut client = client(&lab, &python);
        let pickled = json!({"task": task::LIST, "options": {"serializer": "pickle"}});
        let mut refused = vec![client.send(pickled).await];
        for case in ["serializer-pickle", "serializer-yaml", "serializer-msgpack"] {
            let (id, message) = captured(case);
            let () = redis.del(format!("celery-task-meta-{id}")).await.unwrap();
            let () = redis.lpush("backups", message).await.unwrap();
            refused.push(id);
        }
        for id in refused {
            let answer = client.get(&id, PATIENCE).await;
            let error = &answer["error"];
            assert_eq!(
                (&error["class"], &error["module"]),
                (&json!("ContentDisallowed"), &json!("kombu.exceptions"))
            );
            assert_eq!(answer["state"], "FAILURE");
        }
        // These clients have no zstd; one that has sends what we read: here a 1 for `component`.
        let (id, message) = captured("compression-zstd");
        let () = redis.del(format!("celery-task-meta-{id}")).await.unwrap();
        let () = redis.lpush("backups", message).await.unwrap();
        let answer = client.get(&id, PATIENCE).await;
        assert_eq!(answer["error"]["text"], "list_backups() argument 'component' must be a string or None");
    }
    lab.settled().await;
    assert_eq!(worker.stop(), Some(0));
}

/// The ids of the messages that wait in a queue, the next one first.
async fn waiting(lab: &Lab, queue: &str) -> Vec<String> {
    let raw: Vec<String> = lab.connection().await.lrange(queue, 0, -1).await.unwrap();
    let id = |text: &String| {
        let message: Value = serde_json::from_str(text).unwrap();
        message["headers"]["id"].as_str().unwrap().to_owned()
    };
    raw.iter().rev().map(id).collect()
}

#[tokio::test]
async fn on_a_shared_queue_each_worker_does_its_own_tasks() {
    const PYTHONS: &str = "api.search.tasks.monitor_system_performance";
    let lab = Lab::new().set("BACKUP_QUEUES", "celery");
    let worker = lab.worker();
    for python in Python::both() {
        let mut client = client(&lab, &python);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..12 {
            theirs.push(client.delay(PYTHONS, json!([])).await);
            let task = [task::LIST, task::PING, task::BACKUP_MEDIA][round % 3];
            ours.push(client.send(json!({"task": task, "options": {"queue": "celery"}})).await);
        }
        for id in &ours {
            value(&mut client, id).await;
        }
        lab.settled().await;
        assert_eq!(waiting(&lab, "celery").await, theirs, "what is not ours stays, in order");

        let socket = lab.redis.url().replace("unix://", "redis+socket://");
        let args =
            ["-m", "celery", "-A", "rna_backend", "worker", "-Q", "celery", "-c", "2", "--pool", "threads"];
        let mut celery = python.command();
        celery.args(args).env("REDIS_URL", format!("{socket}?virtual_host=0"));
        let log = File::create(lab.path("celery.log")).unwrap();
        celery.stdout(log.try_clone().unwrap()).stderr(log);
        let mut celery = celery.spawn().unwrap();
        for id in &theirs {
            assert_eq!(value(&mut client, id).await, "measured");
        }
        // Beside a Python worker ours go to the queue that is ours alone: it would reject them.
        for _ in 0..5 {
            let id = client.delay(PYTHONS, json!([])).await;
            assert_eq!(value(&mut client, &id).await, "measured");
        }
        lab.settled().await;
        assert_eq!(waiting(&lab, "celery").await, Vec::<String>::new());
        celery.kill().await.unwrap();
    }
    assert_eq!(worker.stop(), Some(0));
}

#[tokio::test]
async fn what_beat_sends_by_the_apps_schedule_is_done() {
    for python in Python::both() {
        let lab = Lab::new();
        let worker = lab.worker();
        let mut beat = python.beat(&lab.celery_url(), &lab.path("")).spawn().unwrap();
        // Two by the entry of its own, and one as part of a full backup: its set is the task that ordered it.
        let all_sorts = eventually(async || {
            let manifests = lab.manifests("media");
            let in_sets = manifests.iter().filter(|manifest| manifest["set_id"].is_string()).count();
            in_sets >= 1 && manifests.len() - in_sets >= 2
        });
        assert!(all_sorts.await, "{}", worker.log());
        beat.kill().await.unwrap();
        let mut client = client(&lab, &python);
        for manifest in lab.manifests("media") {
            let id = manifest["task_id"].as_str().unwrap();
            assert_eq!(value(&mut client, id).await["backup_id"], manifest["backup_id"]);
        }
        let other = waiting(&lab, "celery").await;
        assert!(!other.is_empty(), "the app's other task waits for the app's own workers");
    }
}
