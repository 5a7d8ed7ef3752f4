//! Nobody who watches can tell that this worker is not written in Python: Flower, a Prometheus exporter
//! and Celery's own receiver of events see all that they look for.

use crate::support::{
    lab::{Lab, eventually},
    python::Python,
    tools::Watcher,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use rna_backup::{celery::publish::Outgoing, domain::command::task};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};
use test_support::celery_lab::capture;

/// Tasks with every end that a worker can bring about, by the event that tells of it; all have ended.
async fn lives(lab: &Lab) -> BTreeMap<&'static str, String> {
    let succeeded = lab.order(task::BACKUP_MEDIA, json!({"label": "watched"})).await;
    // No database is configured.
    let failed = lab.order(task::BACKUP_POSTGRES, json!({})).await;
    let expired = Timestamp::now() - SignedDuration::from_secs(5);
    let expired = lab.send(&Outgoing::new(task::LIST, "backups").expires(expired)).await;
    let ids =
        BTreeMap::from([("task-succeeded", succeeded), ("task-failed", failed), ("task-revoked", expired)]);
    for id in ids.values() {
        lab.ended(id).await;
    }
    ids
}

/// A lab in which each media backup finds the disk too full once, and is tried again.
fn full_disk() -> Lab {
    Lab::new().set("BACKUP_MIN_FREE", "1EiB").set("BACKUP_RETRY_DELAY", "10ms").set("BACKUP_MAX_RETRIES", 1)
}

#[tokio::test]
async fn flower_shows_the_worker_and_its_tasks_with_state_runtime_and_result() {
    let lab = Lab::new().set("RUST_LOG", "warn");
    let worker = lab.worker();
    worker.ready().await;
    let flower = Watcher::flower(&lab).await;
    // It turns the events of tasks on by itself, some seconds after its start.
    let mut shown = Value::Null;
    let sees = eventually(async || {
        lab.ended(&lab.order(task::PING, json!({})).await).await;
        shown = flower.json("/api/tasks").await;
        shown.as_object().is_some_and(|tasks| !tasks.is_empty())
    });
    assert!(sees.await, "Flower sees no task:\n{}", flower.log());
    let ids = lives(&lab).await;

    let ended = ["task-succeeded", "task-failed", "task-revoked"];
    let [succeeded, failed, revoked] = ended.map(|end| format!("/api/task/info/{}", ids[end]));
    for (path, state) in [(&succeeded, "SUCCESS"), (&failed, "FAILURE"), (&revoked, "REVOKED")] {
        let mut last = None;
        let shown = eventually(async || {
            last = flower.get(path).await;
            let text = last.as_ref().map_or("", |(_, text)| text);
            serde_json::from_str::<Value>(text).is_ok_and(|task| task["state"] == state)
        });
        assert!(shown.await, "{state}: {last:?}\n{}", flower.log());
    }
    let done = flower.json(&succeeded).await;
    assert_eq!((&done["name"], &done["worker"]), (&json!(task::BACKUP_MEDIA), &json!("backup@lab")));
    assert_eq!((&done["kwargs"], &done["args"]), (&json!("{'label': 'watched'}"), &json!("()")));
    assert!(done["runtime"].as_f64().unwrap() > 0.0 && done["received"].is_f64() && done["started"].is_f64());
    assert!(done["result"].as_str().unwrap().starts_with("{'status': 'success'"), "{done}");
    let not_done = flower.json(&failed).await;
    assert!(not_done["exception"].as_str().unwrap().starts_with("ValueError('"), "{not_done}");

    let workers = flower.json("/api/workers?refresh=1&workername=backup@lab").await;
    let shown = workers["backup@lab"].as_object().unwrap();
    for part in ["stats", "active_queues", "registered", "scheduled", "active", "reserved", "revoked", "conf"]
    {
        assert!(shown.contains_key(part), "{part} of {:?}", shown.keys());
    }
    assert_eq!(shown["active_queues"][0]["name"], "backups");
    let pages = ["/workers", "/worker/backup@lab", "/tasks", &format!("/task/{}", ids["task-succeeded"])];
    for page in pages {
        let (status, html) = flower.get(page).await.unwrap();
        assert_eq!(status, 200, "{page}: {html:.300}\n{}", flower.log());
        assert!(html.contains("backup@lab") || page == "/tasks", "{page}");
    }
    assert!(!flower.log().contains("Traceback"), "{}", flower.log());
    drop(worker);
}

#[tokio::test]
async fn an_exporter_counts_the_tasks_by_their_ends_and_sees_the_worker_come_and_go() {
    let lab = full_disk().set("BACKUP_TASK_EVENTS", "True");
    let exporter = Watcher::exporter(&lab).await;
    let worker = lab.worker();
    lab.ended(&lab.order(task::PING, json!({})).await).await;
    lives(&lab).await;
    let media = |what: &str| {
        format!(
            "celery_task_{what}_total{{hostname=\"lab\",name=\"{}\",queue_name=\"celery\"}}",
            task::BACKUP_MEDIA
        )
    };
    let expected = [
        (media("received"), 2),
        (media("started"), 2),
        (media("retried"), 1),
        (media("succeeded"), 0),
        ("celery_task_failed_total{exception=\"OSError\"".to_owned(), 1),
        ("celery_task_failed_total{exception=\"ValueError\"".to_owned(), 1),
        ("celery_task_succeeded_total{hostname=\"lab\",name=\"celery.ping\"".to_owned(), 1),
        ("celery_task_runtime_count{hostname=\"lab\",name=\"celery.ping\"".to_owned(), 1),
        (format!("celery_task_revoked_total{{hostname=\"lab\",name=\"{}\"", task::LIST), 1),
        ("celery_worker_up{hostname=\"lab\"}".to_owned(), 1),
        ("celery_active_worker_count{queue_name=\"backups\"}".to_owned(), 1),
    ];
    shows(&exporter, &expected).await;
    assert_eq!(worker.stop(), Some(0));
    shows(&exporter, &[("celery_worker_up{hostname=\"lab\"}".to_owned(), 0)]).await;
    assert!(!exporter.log().contains("Traceback"), "{}", exporter.log());
}

/// Waits until the exporter shows all of these series, which begin so, with these values.
async fn shows(exporter: &Watcher, expected: &[(String, u32)]) {
    let mut text = String::new();
    let value = |text: &str, series: &str| {
        let line = text.lines().find(|line| line.starts_with(series))?;
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    let all = eventually(async || {
        let Some((200, now)) = exporter.get("/metrics").await else { return false };
        text = now;
        expected.iter().all(|(series, count)| value(&text, series) == Some(f64::from(*count)))
    });
    let all = all.await;
    let wrong: Vec<_> = expected
        .iter()
        .map(|(series, count)| (series, count, value(&text, series)))
        .filter(|(_, count, found)| *found != Some(f64::from(**count)))
        .collect();
    assert!(all, "series, wanted, found: {wrong:?}\n{}", exporter.log());
}

#[tokio::test]
async fn celery_hears_every_event_of_a_life_with_all_of_its_fields() {
    for python in Python::both() {
        let lab = Lab::new().set("BACKUP_TASK_EVENTS", "True");
        let receiver = Watcher::receiver(&lab, &python).await;
        let worker = lab.worker();
        let ids = lives(&lab).await;
        receiver.first("task-revoked").await;
        receiver.first("worker-heartbeat").await;
        assert_eq!(worker.stop(), Some(0));
        receiver.first("worker-offline").await;

        let events = receiver.events();
        fields_are_those_of_python(&events);
        every_event_is_of_this_worker(&events);
        assert_eq!(events.first().unwrap()["type"], "worker-online");
        assert_eq!(events.last().unwrap()["type"], "worker-offline");
        for (end, id) in &ids {
            let life: Vec<_> = events.iter().filter(|event| event.get("uuid") == Some(&json!(id))).collect();
            let kinds: Vec<_> = life.iter().map(|event| event["type"].as_str().unwrap()).collect();
            match *end {
                "task-revoked" => assert_eq!(kinds, ["task-received", end]),
                _ => assert_eq!(kinds, ["task-received", "task-started", end]),
            }
            let (first, last) = (life[0], life[life.len() - 1]);
            assert_eq!(first["root_id"], json!(id));
            match *end {
                "task-succeeded" => {
                    assert!(last["runtime"].as_f64().unwrap() > 0.0 && last["result"].is_string());
                }
                "task-failed" => assert!(last["exception"].as_str().unwrap().starts_with("ValueError(")),
                _ => assert_eq!((&last["expired"], &last["terminated"]), (&json!(true), &json!(false))),
            }
        }
    }
}

#[tokio::test]
async fn celery_hears_of_a_retry_and_of_the_failure_after_it() {
    let lab = full_disk().set("BACKUP_TASK_EVENTS", "True");
    let receiver = Watcher::receiver(&lab, &Python::newest()).await;
    let _worker = lab.worker();
    let id = lab.order(task::BACKUP_MEDIA, json!({})).await;
    lab.ended(&id).await;
    receiver.first("task-failed").await;
    let events = receiver.events();
    fields_are_those_of_python(&events);
    let kinds: Vec<_> = events
        .iter()
        .filter(|e| e.get("uuid") == Some(&json!(id)))
        .map(|e| e["type"].as_str().unwrap())
        .collect();
    let mut sorted = kinds.clone();
    sorted.sort_unstable();
    let [received, started] = ["task-received", "task-started"];
    assert_eq!(sorted, ["task-failed", received, received, "task-retried", started, started], "{kinds:?}");
    assert_eq!(kinds.last(), Some(&"task-failed"));
    let retried = receiver.first("task-retried").await;
    assert!(retried["exception"].as_str().unwrap().starts_with("OSError("), "{retried:?}");
}

#[tokio::test]
async fn celery_hears_of_a_task_that_was_terminated() {
    let lab = Lab::endless().set("BACKUP_TASK_EVENTS", "True");
    let receiver = Watcher::receiver(&lab, &Python::newest()).await;
    let _worker = lab.worker();
    let id = lab.order(task::BACKUP_MEDIA, json!({})).await;
    lab.under_way().await;
    let mut python = Python::celery_5_3().client(&lab.celery_url());
    python.control("revoke", json!({"task_id": id, "terminate": true, "signal": "SIGTERM"})).await;
    let revoked = receiver.first("task-revoked").await;
    fields_are_those_of_python(std::slice::from_ref(&revoked));
    let how = ["uuid", "terminated", "signum", "expired"].map(|field| revoked[field].clone());
    assert_eq!(how, [json!(id), json!(true), json!(15), json!(false)]);
}

/// The fields of each type of event in the captures of Python's workers.
fn captured_fields() -> BTreeMap<String, BTreeSet<String>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/celery/events");
    let mut fields = BTreeMap::new();
    for file in fs::read_dir(folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        for publish in
            capture(&format!("events/{}", name.trim_end_matches(".json")))["ops"].as_array().unwrap()
        {
            let message: Value = serde_json::from_str(publish["raw"].as_str().unwrap()).unwrap();
            let body = STANDARD.decode(message["body"].as_str().unwrap()).unwrap();
            let events = match serde_json::from_slice(&body).unwrap() {
                Value::Array(events) => events,
                event => vec![event],
            };
            for event in events {
                let keys = event.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
                let kind = event["type"].as_str().unwrap().to_owned();
                // A task that nobody knows fails without a traceback: the other captures have all of it.
                let known: &mut BTreeSet<_> = fields.entry(kind).or_default();
                known.extend(keys);
            }
        }
    }
    fields
}

fn fields_are_those_of_python(events: &[Map<String, Value>]) {
    let captured = captured_fields();
    for event in events {
        let fields: BTreeSet<_> = event.keys().cloned().collect();
        assert_eq!(fields, captured[event["type"].as_str().unwrap()], "{event:?}");
    }
}

fn every_event_is_of_this_worker(events: &[Map<String, Value>]) {
    let now = Timestamp::now().as_second() as f64;
    let mut clock = 0;
    for event in events {
        assert_eq!((&event["hostname"], event["utcoffset"].as_f64()), (&json!("backup@lab"), Some(0.0)));
        assert_eq!(event["pid"], events[0]["pid"]);
        assert!((event["timestamp"].as_f64().unwrap() - now).abs() < 60.0, "{event:?}");
        if event["type"].as_str().unwrap().starts_with("worker-") {
            assert_eq!(event["freq"].as_f64(), Some(2.0));
            assert_eq!(event["loadavg"].as_array().unwrap().len(), 3);
        }
        let at = event["clock"].as_u64().unwrap();
        assert!(at > clock, "the clock goes on: {event:?} after {clock}");
        clock = at;
    }
}
