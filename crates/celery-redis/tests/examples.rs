//! The examples of the crate `celery-redis`: a worker in Rust that a client in Rust and a client in Python call.

use serde_json::json;
use std::path::PathBuf;
use std::process::Stdio;
use test_support::python::Python;
use test_support::redis::Redis;
use tokio::process::Command;

/// The path of an example, which `cargo test` compiles beside this binary.
fn example(name: &str) -> PathBuf {
    let path = std::env::current_exe().unwrap().with_file_name("../examples").join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --examples`", path.display());
    path
}

#[tokio::test]
async fn the_examples_work_for_clients_in_rust_and_in_python() {
    let redis = Redis::start();
    let _worker = Command::new(example("worker")).arg(redis.url()).kill_on_drop(true).spawn().unwrap();

    let sent =
        Command::new(example("send")).arg(redis.url()).stderr(Stdio::inherit()).output().await.unwrap();
    assert_eq!((sent.status.code(), sent.stdout.as_slice()), (Some(0), &b"5\n"[..]));

    for python in Python::both() {
        let mut client = python.client(&redis.url().replace("unix://", "redis+socket://"));
        let add = |args: &str| format!("signature('tasks.add', {args}).set(queue='celery')");
        let chord = format!("chord([{}, {}], {})", add("[1, 2]"), add("[3, 4]"), add("[]"));
        let (id, _) = client.canvas(&chord).await;
        let answer = client.get(&id, 30).await;
        assert_eq!(answer["value"], json!(10), "{answer}");

        let id =
            client.send(json!({"task": "tasks.add", "args": ["a"], "options": {"queue": "celery"}})).await;
        let answer = client.get(&id, 30).await;
        assert_eq!(answer["error"]["class"], "TypeError", "{answer}");
    }
}
