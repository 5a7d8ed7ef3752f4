//! A real Prometheus that scrapes a worker four times a second, with the rules of `monitoring/`.

use crate::support::lab::{Worker, eventually, free_port};
use serde_json::Value;
use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// A running server; it ends with its value.
pub struct Prometheus {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Prometheus {
    /// Starts a server on a worker, and waits until it has scraped it. Its rules are those of
    /// `monitoring/alerts.yml`, but that none waits before it fires.
    pub async fn of(worker: &Worker) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let rules = fs::read_to_string(monitoring().join("alerts.yml")).unwrap();
        let rules = rules.lines().filter(|line| !line.trim_start().starts_with("for: "));
        fs::write(dir.path().join("alerts.yml"), rules.collect::<Vec<_>>().join("\n")).unwrap();
        let config = fs::read_to_string(monitoring().join("prometheus.yml")).unwrap();
        // Containers are found by a DNS server; the worker of a test is found by its address.
        let (named, _) = config.split_once("    dns_sd_configs:").unwrap();
        let address = format!("    static_configs: [{{targets: [\"127.0.0.1:{}\"]}}]\n", worker.port());
        let config = named.replace(": 15s", ": 250ms") + &address;
        fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let port = free_port();
        let log = File::create(dir.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("these tests need `prometheus` on PATH");
        let prometheus = Self { child, port, dir };
        let scraped = eventually(async || !prometheus.query("rna_backup_build_info").await.is_empty());
        assert!(scraped.await, "Prometheus saw no worker:\n{}", prometheus.log());
        prometheus
    }

    /// What an expression gives now; nothing while the server is not up. One that it does not understand
    /// fails the test.
    pub async fn query(&self, expression: &str) -> Vec<Value> {
        let Some(answer) = self.get("query", &[("query", expression)]).await else { return Vec::new() };
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }

    /// The rules that it has loaded.
    pub async fn rules(&self) -> Vec<Value> {
        let rules = self.get("rules", &[]).await.expect("it answers");
        rules["data"]["groups"][0]["rules"].as_array().unwrap().clone()
    }

    /// The alerts of this name that fire now.
    pub async fn firing(&self, alert: &str) -> Vec<Value> {
        let alerts = self.get("alerts", &[]).await.expect("it answers");
        let alerts = alerts["data"]["alerts"].as_array().unwrap().clone();
        let is_it = |found: &Value| found["labels"]["alertname"] == alert && found["state"] == "firing";
        alerts.into_iter().filter(is_it).collect()
    }

    async fn get(&self, what: &str, parameters: &[(&str, &str)]) -> Option<Value> {
        // An error means that another test has set it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = format!("http://127.0.0.1:{}/api/v1/{what}", self.port);
        let url = url::Url::parse_with_params(&url, parameters).unwrap();
        let text = reqwest::get(url).await.ok()?.text().await.ok()?;
        serde_json::from_str(&text).ok()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The folder of the rules and the dashboard.
pub fn monitoring() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/monitoring"))
}
