//! Backups in chains, groups and chords with a Python worker's tasks, through the worker as a process.

use crate::support::{lab::Lab, python::Python};
use rna_backup::domain::command::task;
use serde_json::json;

/// A signature of one of our tasks, which takes nothing of the result before it.
fn ours(name: &str, rest: &str) -> String {
    format!("signature('{name}', immutable=True{rest})")
}

#[tokio::test]
async fn backups_stand_in_chains_and_chords_with_python_tasks() {
    for python in Python::both() {
        let lab = Lab::new().set("BACKUP_RESULT_EXTENDED", "True");
        let _worker = lab.worker();
        let theirs = python.worker(&lab.celery_url(), &["-Q", "celery", "-n", "py@lab"]).await;
        let mut client = python.client(&lab.celery_url());
        let backup = ours(task::BACKUP_MEDIA, ", kwargs={'label': 'in a canvas'}");
        let list = ours(task::LIST, "");

        let (id, _) = client.canvas(&format!("chain(py.add.s(1), {backup}, py.same.s(), {list})")).await;
        let listed = client.get(&id, 60).await;
        assert_eq!(listed["value"]["backups"][0]["label"], "in a canvas", "{listed}");

        let (id, _) =
            client.canvas(&format!("chord([{backup}, py.add.s(20, 22), {list}], py.same.s())")).await;
        let results = client.get(&id, 60).await["value"].take();
        assert_eq!((&results[0]["status"], &results[1]), (&json!("success"), &json!(42)), "{results}");
        assert!(results[2]["backups"].is_array(), "{results}");
        let backup_id = results[0]["backup_id"].as_str().unwrap();
        let manifests = lab.manifests("media");
        assert_eq!(manifests.len(), 2);
        assert_eq!(manifests[1]["backup_id"], backup_id);
        let meta = lab.result(manifests[1]["task_id"].as_str().unwrap()).await.unwrap();
        assert_eq!(
            (&meta["name"], &meta["kwargs"], &meta["worker"], &meta["queue"]),
            (
                &json!(task::BACKUP_MEDIA),
                &json!({"label": "in a canvas"}),
                &json!("backup@lab"),
                &json!("backups")
            )
        );
        assert_eq!(theirs.errors(&[]), [""; 0]);
        lab.settled().await;
    }
}

#[tokio::test]
async fn who_waits_behind_a_backup_that_fails_is_told_and_its_errback_called() {
    let lab = Lab::new();
    let _worker = lab.worker();
    let python = Python::newest();
    let theirs = python.worker(&lab.celery_url(), &["-Q", "celery", "-n", "py@lab"]).await;
    let mut client = python.client(&lab.celery_url());
    let failing = ours(
        task::BACKUP_MEDIA,
        ", kwargs={'label': 7}, task_id='failing', \
        link_error=py.errback.s().set(task_id='errback')",
    );
    let (id, _) = client.canvas(&format!("chain({failing}, py.add.s(1))")).await;
    let told = client.get_alone(&id, 60).await;
    assert_eq!(told["error"]["class"], "TypeError", "{told}");
    assert_eq!(client.get("errback", 60).await["value"], "failing");

    let (id, _) = client
        .canvas(&format!("chord([{}, py.add.s(1)], py.same.s())", failing.replace("'failing'", "'part'")))
        .await;
    let told = client.get_alone(&id, 60).await;
    let error = &told["error"];
    assert_eq!(error["class"], "ChordError", "{told}");
    assert!(error["text"].as_str().unwrap().contains("Dependency part raised TypeError("), "{told}");

    // A header that is revoked while it waits is the end of its chord, too.
    let late = ours(task::LIST, ", task_id='late', countdown=3600");
    let (id, _) = client.canvas(&format!("chord([{late}, py.add.s(1)], py.same.s())")).await;
    client.control("revoke", json!({"task_id": "late"})).await;
    let told = client.get_alone(&id, 60).await;
    assert_eq!(told["error"]["class"], "ChordError", "{told}");
    // Python logs the failures of chords that it is the last to count for; nothing else.
    assert_eq!(theirs.errors(&["Traceback (most recent call last):", "ChordError"]), [""; 0]);
    lab.settled().await;
}
