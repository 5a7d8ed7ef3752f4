//! Canvases of both Celery versions, whose tasks are done by a Python worker and by ours.

use crate::canvas_lab::Mixed;
use celery_redis::result::{Backend, State, TaskResult};
use redis::AsyncCommands;
use serde_json::json;
use std::time::Duration;
use test_support::celery_lab::client;
use test_support::python::Python;
use tokio_util::sync::CancellationToken;

/// Each version's worker, with a client of its own version and of the other's in turn.
fn pairs() -> [(Python, Python); 2] {
    [(Python::celery_5_3(), Python::newest()), (Python::newest(), Python::celery_5_3())]
}

#[tokio::test]
async fn a_chain_goes_to_and_fro_between_the_languages() {
    for (worker, client) in pairs() {
        let mut lab = Mixed::start(worker, client).await;
        let cases = [
            ("chain(ours('add', 1, 2), py.add.s(3), ours('add', 4))", json!(10)),
            ("chain(py.add.s(1, 2), ours('add', 3), py.add.s(4))", json!(10)),
            ("chain(ours('add', 1, 2), ours('add', 3), ours('same'))", json!(6)),
            ("chain(ours('add', 1, 2), py.same.si('immutable'), ours('same'))", json!("immutable")),
            (
                "chain(ours('same', [1.50, {'a': None}]), py.same.s(), ours('same'))",
                json!([1.5, {"a": null}]),
            ),
        ];
        for (canvas, value) in cases {
            assert_eq!(lab.value(canvas).await, value, "{canvas}");
        }
        lab.settle(&[]).await;
    }
}

#[tokio::test]
async fn callbacks_and_errbacks_are_sent_in_either_language() {
    for (worker, client) in pairs() {
        let mut lab = Mixed::start(worker, client).await;
        let linked = "ours('add', 1, 2, link=[ours('same'), py.add.s(10), group(py.same.s(), ours('same'))])";
        let (id, _) = lab.client.canvas(linked).await;
        let answer = lab.client.get(&id, 30).await;
        // The group among them, and one of the others.
        let groups = answer["children"].as_array().unwrap().clone();
        assert_eq!((&answer["value"], groups.len()), (&json!(3), 2), "{answer}");
        let single = "ours('add', 1, 2, link=py.add.s(10))";
        let (id, _) = lab.client.canvas(single).await;
        let child = lab.client.get(&id, 30).await["children"][0].as_str().unwrap().to_owned();
        assert_eq!(lab.client.get(&child, 30).await["value"], 13);

        // Of the errbacks, those without arguments of their own get the id of what failed.
        let calls = "link_error=[py.errback.s().set(task_id=ID + '-py'), ours('errback', task_id=ID + '-ours'), \
                     py.same.si('called').set(task_id=ID + '-immutable')], task_id=ID)";
        for (failing, call) in [("ours", "ours('fail', "), ("py", "py.fail.s().set(")] {
            let canvas = format!("{call}{}", calls.replace("ID", &format!("'{failing}'")));
            assert_eq!(lab.error(&canvas).await, ("ValueError".to_owned(), "('boom', 42)".to_owned()));
            for (errback, value) in [("py", failing), ("ours", failing), ("immutable", "called")] {
                let answer = lab.client.get(&format!("{failing}-{errback}"), 30).await;
                assert_eq!(answer["value"], value, "{answer}");
            }
        }
        lab.settle(&["ValueError", "Traceback", "boom"]).await;
    }
}

#[tokio::test]
async fn groups_and_chords_of_both_languages_keep_their_order() {
    for (worker, client) in pairs() {
        let mut lab = Mixed::start(worker, client).await;
        let mixed = "[py.add.s(0, 1), ours('add', 0, 2), py.add.s(0, 3), ours('add', 0, 4)]";
        let cases = [
            (format!("group({mixed})"), json!([1, 2, 3, 4])),
            (format!("chord({mixed}, py.same.s())"), json!([1, 2, 3, 4])),
            (format!("chord({mixed}, ours('same'))"), json!([1, 2, 3, 4])),
            ("chord([ours('add', 1), ours('add', 2)], py.xsum.s())".to_owned(), json!(3)),
            ("chord([py.add.s(1), py.add.s(2)], ours('xsum'))".to_owned(), json!(3)),
            ("chord([ours('add', 1), ours('add', 2)], ours('xsum'))".to_owned(), json!(3)),
            (format!("chain(ours('add', 1), group({mixed}), py.same.s())"), json!([2, 3, 4, 5])),
            (format!("chain(py.add.s(1), group({mixed}), ours('same'), py.xsum.s(), ours('add', 1))"), json!(15)),
            (format!("chain(ours('add', 1), group({mixed}))"), json!([2, 3, 4, 5])),
            (format!("chain(ours('add', 1), chord({mixed}, ours('xsum')), py.add.s(1))"), json!(15)),
            (format!("chain(ours('add', 1), group({mixed}), group(ours('xsum'), py.xsum.s()), ours('same'))"), json!([14, 14])),
            ("chord([chain(ours('add', 1), py.add.s(1)), chain(py.add.s(3), ours('add', 1))], ours('same'))".to_owned(), json!([2, 4])),
            ("chord([ours('add', 1), chord([ours('add', 2), py.add.s(3)], ours('xsum'))], py.same.s())".to_owned(), json!([1, 5])),
            ("chain(ours('add', 1), group(chain(ours('add', 1), py.add.s(1)), chord([py.add.s(1), ours('add', 2)], py.xsum.s())), ours('same'))".to_owned(), json!([3, 5])),
            ("chord([ours('add', 1), chain(ours('add', 2), group(py.add.s(1), ours('add', 2)))], ours('same'))".to_owned(), json!([1, [3, 4]])),
            ("chain(ours('add', 1), group(ours('add', 1), chain(py.add.s(1), group(ours('add', 1), py.add.s(2)))), py.same.s())".to_owned(), json!([2, [3, 4]])),
            ("chain(ours('add', 1), py.add.starmap([(1, 2), (3, 4)]), ours('xsum'))".to_owned(), json!(10)),
        ];
        for (canvas, value) in cases {
            assert_eq!(lab.value(&canvas).await, value, "{canvas}");
        }
        lab.settle(&[]).await;
    }
}

#[tokio::test]
async fn a_failure_anywhere_wakes_those_who_wait_at_the_end() {
    for (worker, client) in pairs() {
        let mut lab = Mixed::start(worker, client).await;
        let cases = [
            ("chain(ours('fail'), py.add.s(1), ours('add', 1))", "ValueError"),
            ("chain(py.add.s(1), ours('fail'), py.add.s(1))", "ValueError"),
            ("chain(ours('add', 1), py.fail.s(), ours('add', 1))", "ValueError"),
            ("chord([ours('fail'), py.add.s(1)], py.xsum.s())", "ChordError"),
            ("chord([py.fail.s(), ours('add', 1)], ours('xsum'))", "ChordError"),
            ("chord([ours('add', 1), ours('add', 2)], ours('fail'))", "ValueError"),
            ("chord([chain(ours('fail'), py.add.s(1)), ours('add', 1)], ours('xsum'))", "ChordError"),
            ("chain(ours('fail'), group(py.add.s(1), ours('add', 1)), py.xsum.s())", "ValueError"),
            ("chain(ours('add', 1), group(ours('fail'), py.add.s(1)), py.xsum.s())", "ChordError"),
            // With a header of ours alone: 5.3 does not tell those behind a chord that a client of 5.7 made.
            (
                "chain(ours('add', 1), group(ours('fail'), ours('add', 1)), py.xsum.s(), ours('same'))",
                "ChordError",
            ),
            (
                "chord([ours('add', 1), chord([ours('fail'), ours('add', 1)], py.xsum.s())], ours('xsum'))",
                "ChordError",
            ),
        ];
        for (canvas, class) in cases {
            assert_eq!(lab.error(canvas).await.0, class, "{canvas}");
        }
        let (_, text) = lab.error("chord([ours('fail', task_id='failing'), py.add.s(1)], py.xsum.s())").await;
        assert_eq!(text, "Dependency failing raised ValueError('boom', 42)");
        lab.settle(&["ValueError", "ChordError", "Traceback", "boom"]).await;
    }
}

#[tokio::test]
async fn stamps_prefixes_and_ignored_results_do_not_break_a_canvas() {
    for (worker, client) in pairs() {
        let mut lab = Mixed::with_prefixes(worker, client, "app:", "results").await;
        let cases = [
            (
                "chord([ours('quiet', 1), py.quiet.s(2), ours('add', 3, ignore_result=True)], ours('same'))",
                json!([1, 2, 3]),
            ),
            ("chain(ours('quiet', 1), py.quiet.s(), ours('same'))", json!(1)),
            (
                "chain(ours('add', 1), group(ours('add', 1), py.add.s(2)), ours('xsum'), py.add.s(1))",
                json!(6),
            ),
        ];
        for (canvas, value) in cases {
            assert_eq!(lab.value(canvas).await, value, "{canvas}");
        }
        for last in ["ours('stamps')", "py.stamps.s()"] {
            let stamped = format!("stamped(chain(ours('add', 1), py.add.s(1), ours('add', 1), {last}))");
            assert_eq!(lab.value(&stamped).await, json!({"tenant": "acme"}), "{stamped}");
        }
        let group = "stamped(chain(ours('add', 1), group(ours('stamps'), py.stamps.s()), ours('same')))";
        assert_eq!(lab.value(group).await, json!([{"tenant": "acme"}, {"tenant": "acme"}]), "{group}");
        let mut link = lab.link().await;
        let keys: Vec<String> = link.keys("*").await.unwrap();
        assert!(keys.iter().all(|key| key.starts_with("app:") || key.starts_with("results_")), "{keys:?}");
        lab.settle(&[]).await;
    }
}

#[tokio::test]
async fn results_that_python_stores_compressed_are_read_by_chords_and_never_replaced() {
    for compression in ["gzip", "bzip2", "lzma"] {
        let packing = || Python::newest().set("CELERY_RESULT_COMPRESSION", compression);
        let mut lab = Mixed::start(packing(), packing()).await;
        // The last to end is ours, so that ours joins the results.
        let cases = [
            ("chord([py.add.s(1, 2), chain(py.add.s(0), ours('add', 4))], ours('same'))", json!([3, 4])),
            ("chord([py.add.s(1), chain(py.add.s(0), ours('add', 2))], py.xsum.s())", json!(3)),
            (
                "chord([py.add.s(1), chain(py.add.s(2), group(py.add.s(1), ours('add', 2)))], ours('same'))",
                json!([1, [3, 4]]),
            ),
            ("chain(py.add.s(1), py.same.s(), ours('same'))", json!(1)),
        ];
        for (canvas, value) in cases {
            assert_eq!(lab.value(canvas).await, value, "{compression}: {canvas}");
        }
        let failing = "chord([py.fail.s(), chain(py.add.s(0), ours('add', 4))], ours('xsum'))";
        assert_eq!(lab.error(failing).await.0, "ChordError", "{compression}");

        lab.value("py.add.s(1, 2).set(task_id='packed')").await;
        let mut link = lab.link().await;
        let text: Vec<u8> = link.get("celery-task-meta-packed").await.unwrap();
        assert!(text.starts_with(b"\0celery-compressed\0"), "{compression}");
        let backend = Backend::new(client(&lab.redis), "", Duration::from_hours(1));
        let read = backend.state("packed").await.unwrap().unwrap();
        assert_eq!((read.status.as_str(), read.result), ("SUCCESS", json!(3)), "{compression}");
        for state in [State::Failure, State::Progress] {
            let other = TaskResult::new("packed", state, json!({}));
            backend.store(&other, &CancellationToken::new()).await.unwrap();
        }
        assert_eq!(link.get::<_, Vec<u8>>("celery-task-meta-packed").await.unwrap(), text, "{compression}");
        lab.settle(&["ValueError", "ChordError", "Traceback", "boom"]).await;
    }
}

#[tokio::test]
async fn both_pythons_speak_and_have_the_celery_they_claim() {
    let nowhere = "redis://localhost:1/0"; // nothing is sent, so nothing is connected
    let version = json!({"do": "version"});
    let pinned = Python::celery_5_3().client(nowhere).ask(&version).await;
    assert_eq!(
        (&pinned["celery"], &pinned["kombu"], &pinned["redis"]),
        (&json!("5.3.6"), &json!("5.3.4"), &json!("5.0.1"))
    );
    let newest = Python::newest().client(nowhere).ask(&version).await;
    let newest: Vec<u32> =
        newest["celery"].as_str().unwrap().split('.').map_while(|n| n.parse().ok()).collect();
    assert!(newest > vec![5, 3, 6], "the newest is {newest:?}");
}
