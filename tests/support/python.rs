//! Real Celery clients of two versions: `client.py` beside this file, in the environments that
//! `make test` makes under `target/venv/`. What it can be asked stands at its head.

use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// A Python with one version of Celery.
#[derive(Debug, Clone)]
pub struct Python {
    interpreter: PathBuf,
}

impl Python {
    /// The versions that the web app pins: celery 5.3.6, kombu 5.3.4, redis 5.0.1.
    pub fn celery_5_3() -> Self {
        Self::in_venv("celery-5.3")
    }

    /// The newest celery there was when the environment was made.
    pub fn newest() -> Self {
        Self::in_venv("celery-newest")
    }

    /// Both, for tests that hold under every version.
    pub fn both() -> [Self; 2] {
        [Self::celery_5_3(), Self::newest()]
    }

    fn in_venv(name: &str) -> Self {
        let interpreter = root().join("target/venv").join(name).join("bin/python");
        assert!(
            interpreter.exists(),
            "{} is missing: run `make test` once, it creates target/venv/{name}",
            interpreter.display()
        );
        Self { interpreter }
    }

    /// A command of this Python, in the folder of the web app in miniature:
    /// `python.command().args(["-m", "celery", "-A", "rna_backend", "beat"])`.
    /// The child dies with its handle.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.interpreter);
        command
            .current_dir(root().join("tests/webapp"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Starts a client of the broker and result backend at `url`: `redis://…` or, for a socket,
    /// `redis+socket:///path?virtual_host=0`.
    pub fn client(&self, url: &str) -> Client {
        let mut child = self
            .command()
            .arg(root().join("tests/support/client.py"))
            .arg(url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the interpreter exists and can be run");
        let requests = child.stdin.take().expect("stdin is piped above");
        let answers = BufReader::new(child.stdout.take().expect("stdout is piped above")).lines();
        Client { _child: child, requests, answers }
    }
}

/// A running client; asks one thing after the other.
#[derive(Debug)]
pub struct Client {
    _child: Child,
    requests: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Client {
    /// `task.delay(*args)`: the new task's id.
    pub async fn delay(&mut self, task: &str, args: Value) -> String {
        self.send(json!({"task": task, "args": args})).await
    }

    /// Sends a task as `{"task", "args", "kwargs", "options"}` describe it: its id.
    pub async fn send(&mut self, mut request: Value) -> String {
        request["do"] = "send".into();
        let answer = self.ask(&request).await;
        answer["id"].as_str().unwrap_or_else(|| panic!("no id in {answer}")).to_owned()
    }

    /// `AsyncResult(id).get(timeout)`: `{"state", "value" | "error", "traceback", "date_done", "children"}`.
    pub async fn get(&mut self, id: &str, timeout_seconds: u32) -> Value {
        self.ask(&json!({"do": "get", "id": id, "timeout": timeout_seconds})).await
    }

    /// Every state of a task that is published from now on, to its last: `{"state", "meta"}` each.
    pub async fn watch(&mut self, id: &str, timeout_seconds: u32) -> Vec<Value> {
        self.ask_all(&json!({"do": "watch", "id": id, "timeout": timeout_seconds})).await
    }

    /// `celery.ping` so often on `queue`: `{"values", "milliseconds"}`.
    pub async fn ping(&mut self, queue: &str, count: u32) -> Value {
        self.ask(&json!({"do": "ping", "queue": queue, "count": count})).await
    }

    /// The last line of the answer to any request.
    pub async fn ask(&mut self, request: &Value) -> Value {
        self.ask_all(request).await.pop().expect("an answer has a line at least")
    }

    /// All lines of the answer to any request.
    pub async fn ask_all(&mut self, request: &Value) -> Vec<Value> {
        self.requests.write_all(format!("{request}\n").as_bytes()).await.unwrap();
        let mut answers = Vec::new();
        loop {
            let line = self.answers.next_line().await.unwrap();
            let line = line.unwrap_or_else(|| panic!("the Python client died over {request}"));
            let answer: Value = serde_json::from_str(&line).unwrap();
            assert!(answer["failed"].is_null(), "the Python client fails {request}: {answer}");
            answers.push(answer);
            if answers.last().is_some_and(|answer| answer["done"] == true) {
                return answers;
            }
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
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
