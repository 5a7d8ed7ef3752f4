//! Those who watch Celery workers, as people run them: Flower, a Prometheus exporter, and Celery's own
//! `EventReceiver` (`events.py` beside this file).

use crate::support::lab::{Lab, eventually, free_port};
use crate::support::python::Python;
use serde_json::{Map, Value};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};
use tokio::process::{Child, Command};

/// A running watcher; dies with its value.
#[derive(Debug)]
pub struct Watcher {
    _child: Child,
    port: u16,
    log: PathBuf,
}

impl Watcher {
    /// Flower, once it answers and hears events. Its API is open.
    pub async fn flower(lab: &Lab) -> Self {
        let mut command = Python::tools().command();
        command.args(["-m", "celery", "-A", "rna_backend", "flower", "--address=127.0.0.1"]);
        command.env("REDIS_URL", lab.celery_url()).env("FLOWER_UNAUTHENTICATED_API", "true");
        let flower =
            Self::start(lab, "flower", command, |command, port| command.arg(format!("--port={port}")));
        flower.ready(lab, "/healthcheck").await;
        flower
    }

    /// The exporter, once it answers and hears events. It asks nobody for them.
    pub async fn exporter(lab: &Lab) -> Self {
        let mut command = Python::tools().command();
        command.args(["-c", "from src.cli import cli; cli()", "--host=127.0.0.1", "--log-level=DEBUG"]);
        command.arg(format!("--broker-url={}", lab.celery_url()));
        let exporter =
            Self::start(lab, "exporter", command, |command, port| command.arg(format!("--port={port}")));
        exporter.ready(lab, "/health").await;
        exporter
    }

    /// What Celery itself makes of events, once it hears them.
    pub async fn receiver(lab: &Lab, python: &Python) -> Self {
        let mut command = python.command();
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/events.py"));
        command.arg(lab.celery_url());
        let receiver = Self::start(lab, "receiver", command, |command, _| command);
        receiver.hears(lab).await;
        receiver
    }

    fn start(
        lab: &Lab,
        name: &str,
        mut command: Command,
        on: impl FnOnce(&mut Command, u16) -> &mut Command,
    ) -> Self {
        let port = free_port();
        let log = lab.path(&format!("{name}-{port}.log"));
        let out = File::create(&log).unwrap();
        let command = on(&mut command, port).stdout(out.try_clone().unwrap()).stderr(out);
        Self { _child: command.spawn().unwrap(), port, log }
    }

    async fn ready(&self, lab: &Lab, path: &str) {
        let ready = eventually(async || matches!(self.get(path).await, Some((200, _)))).await;
        assert!(ready, "nobody answers:\n{}", self.log());
        self.hears(lab).await;
    }

    /// Waits until somebody has subscribed to events; our own workers subscribe to no patterns.
    async fn hears(&self, lab: &Lab) {
        let mut redis = lab.connection().await;
        let hears = eventually(async || {
            let patterns: u64 = redis::cmd("PUBSUB").arg("NUMPAT").query_async(&mut redis).await.unwrap();
            patterns > 0
        });
        assert!(hears.await, "nobody hears events:\n{}", self.log());
    }

    /// The answer to an HTTP request: status and text; `None` while it does not listen yet.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        // An error means that another test has set it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let answer = reqwest::get(format!("http://127.0.0.1:{}{path}", self.port)).await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    /// The JSON at a path that must be there.
    pub async fn json(&self, path: &str) -> Value {
        let (status, text) = self.get(path).await.expect("it listens");
        assert_eq!(status, 200, "{path}: {text:.300}\n{}", self.log());
        serde_json::from_str(&text).unwrap()
    }

    /// The events that the receiver has printed until now.
    pub fn events(&self) -> Vec<Map<String, Value>> {
        let log = self.log();
        // The last line may be under way.
        let lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{log}"))).collect()
    }

    /// Waits for an event of this type: the first.
    pub async fn first(&self, kind: &str) -> Map<String, Value> {
        let mut found = None;
        let heard = eventually(async || {
            found = self.events().into_iter().find(|event| event["type"] == kind);
            found.is_some()
        });
        assert!(heard.await, "no {kind}:\n{}", self.log());
        found.expect("it was found")
    }

    /// All that it has printed until now.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}
