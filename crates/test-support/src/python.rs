//! Real Celery clients of two versions: `tests/support/client.py`, in the environments that
//! `make test` makes under `target/venv/`. What it can be asked stands at its head.

use crate::root;
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::watch,
};

/// Longer than a worker takes to start or to log anything, on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A Python with one version of Celery.
#[derive(Debug, Clone)]
pub struct Python {
    interpreter: PathBuf,
    settings: Vec<(String, String)>,
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

    /// Celery 5.5 with those who watch its workers, see `tools.rs`.
    pub fn tools() -> Self {
        Self::in_venv("celery-tools")
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
        Self { interpreter, settings: Vec::new() }
    }

    /// Sets an environment variable of its commands; `tests/webapp/rna_backend/settings.py` says which count.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A command of this Python, in the folder of the web app in miniature:
    /// `python.command().args(["-m", "celery", "-A", "rna_backend", "beat"])`.
    /// The child dies with its handle.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.interpreter);
        command
            .current_dir(root().join("tests/webapp"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
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

    /// A command that runs Beat with the app's schedule, whose entries are all due every second; it keeps its
    /// state in `folder`.
    pub fn beat(&self, url: &str, folder: &Path) -> Command {
        let mut command = self.command();
        command.arg(root().join("tests/support/beat.py")).arg(url).arg(folder);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Starts `celery worker` on the broker and result backend at `url` (as for
    /// [`client`](Self::client)) with these arguments more, such as `["-Q", "celery", "-n", "py@lab"]`, and
    /// waits until it is ready. One process and one task at a time, unless the arguments say otherwise.
    pub async fn worker(&self, url: &str, args: &[&str]) -> Worker {
        let mut child = self
            .command()
            .args(["-m", "celery", "-A", "rna_backend", "worker", "-P", "solo", "-c", "1", "-l", "INFO"])
            .args(args)
            .env("REDIS_URL", url)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the interpreter exists and can be run");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped above")).lines();
        let (log, kept) = watch::channel(String::new());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                log.send_modify(|log| log.extend([&line, "\n"]));
            }
        });
        let worker = Worker { _child: child, log: kept };
        worker.has_logged(" ready.").await;
        worker
    }
}

/// A running worker of Python's; killed with its handle.
#[derive(Debug)]
pub struct Worker {
    _child: Child,
    log: watch::Receiver<String>,
}

impl Worker {
    /// All that it has logged until now.
    pub fn log(&self) -> String {
        self.log.borrow().clone()
    }

    /// Waits until it has logged this text; fails the test if that does not come.
    pub async fn has_logged(&self, text: &str) {
        let mut log = self.log.clone();
        let found = tokio::time::timeout(PATIENCE, log.wait_for(|log| log.contains(text))).await;
        assert!(matches!(found, Ok(Ok(_))), "no {text:?} in the worker's log:\n{}", self.log());
    }

    /// The lines of its log that tell of an error, but for those with one of these texts in them.
    pub fn errors(&self, expected: &[&str]) -> Vec<String> {
        let log = self.log();
        let lines = log.lines().filter(|line| {
            ["ERROR", "CRITICAL", "Traceback"].iter().any(|word| line.contains(word))
                && !expected.iter().any(|text| line.contains(text))
        });
        lines.map(ToOwned::to_owned).collect()
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

    /// Sends the canvas that an expression of Python makes, such as `chain(ours("add", 1, 2), py.add.s(3))`:
    /// its id, and those of its members if it is a group. [`get`](Self::get) waits for either.
    pub async fn canvas(&mut self, expression: &str) -> (String, Vec<String>) {
        let answer = self.ask(&json!({"do": "canvas", "expression": expression})).await;
        (
            answer["id"].as_str().expect("client.py answers with an id").to_owned(),
            serde_json::from_value(answer["members"].clone()).expect("client.py answers with ids"),
        )
    }

    /// `AsyncResult(id).get(timeout)`: `{"state", "value" | "error", "traceback", "date_done", "children"}`.
    pub async fn get(&mut self, id: &str, timeout_seconds: u32) -> Value {
        self.ask(&json!({"do": "get", "id": id, "timeout": timeout_seconds})).await
    }

    /// The same, without regard to what failed before this task in its canvas.
    pub async fn get_alone(&mut self, id: &str, timeout_seconds: u32) -> Value {
        self.ask(&json!({"do": "get", "id": id, "timeout": timeout_seconds, "alone": true})).await
    }

    /// Every state of a task that is published from now on, to its last: `{"state", "meta"}` each.
    pub async fn watch(&mut self, id: &str, timeout_seconds: u32) -> Vec<Value> {
        self.ask_all(&json!({"do": "watch", "id": id, "timeout": timeout_seconds})).await
    }

    /// A remote control command to the one worker there is: its reply.
    pub async fn control(&mut self, method: &str, arguments: Value) -> Value {
        let answer = self.ask(&json!({"do": "control", "method": method, "arguments": arguments, "limit": 1, "timeout": 10})).await;
        let reply =
            answer["replies"][0].as_object().unwrap_or_else(|| panic!("no reply to {method}: {answer}"));
        reply.values().next().expect("a reply has its sender's name").clone()
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
        self.requests.write_all(format!("{request}\n").as_bytes()).await.expect("the Python client runs");
        let mut answers = Vec::new();
        loop {
            let line = self.answers.next_line().await.expect("the Python client writes text");
            let line = line.unwrap_or_else(|| panic!("the Python client died over {request}"));
            let answer: Value = serde_json::from_str(&line).expect("the Python client writes JSON");
            assert!(answer["failed"].is_null(), "the Python client fails {request}: {answer}");
            answers.push(answer);
            if answers.last().is_some_and(|answer| answer["done"] == true) {
                return answers;
            }
        }
    }
}
