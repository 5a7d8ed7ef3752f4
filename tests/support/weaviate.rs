//! The double of a Weaviate server (`tests/support/weaviate/`), started for a test and directed by it.

use reqwest::{Client, Method};
use rna_backup::component::weaviate::{Tls, Way, WeaviateConfig};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// How long a second of the server's life lasts in a test.
pub const SECOND: Duration = Duration::from_millis(10);

/// One server; it ends with this value.
#[derive(Debug)]
pub struct Weaviate {
    child: Child,
    port: u16,
    http: Client,
    dir: TempDir,
    key: Option<String>,
    tls: bool,
}

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct Start {
    version: String,
    args: Vec<String>,
    modules: String,
    folder: Option<PathBuf>,
    second: Duration,
    key: Option<String>,
    tls: bool,
}

impl Start {
    /// A server of this version that can back itself up into a folder.
    pub fn version(version: &str) -> Self {
        Self {
            version: version.to_owned(),
            args: Vec::new(),
            modules: "backup-filesystem,text2vec-openai".to_owned(),
            folder: None,
            second: SECOND,
            key: None,
            tls: false,
        }
    }

    /// With these modules and no others.
    pub fn modules(mut self, modules: &str) -> Self {
        modules.clone_into(&mut self.modules);
        self
    }

    /// With the folder of another server, as two that share a volume.
    pub fn folder_of(mut self, other: &Weaviate) -> Self {
        self.folder = Some(other.folder());
        self
    }

    /// With seconds of that length.
    pub const fn second(mut self, second: Duration) -> Self {
        self.second = second;
        self
    }

    /// That wants this key.
    pub fn key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self.arg("--api-key", key)
    }

    /// With a further option.
    pub fn arg(mut self, name: &str, value: &str) -> Self {
        self.args.extend([name.to_owned(), value.to_owned()]);
        self.tls |= name == "--tls-cert";
        self
    }

    /// Starts it.
    pub fn start(self) -> Weaviate {
        // As `main` does.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let folder = self.folder.clone().unwrap_or_else(|| dir.path().join("backups"));
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/weaviate");
        // With boto3, for those that write into a bucket.
        let python =
            if self.modules.contains("s3") { "target/venv/boto3/bin/python" } else { "/usr/bin/python3" };
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(python));
        command.arg(program).args(["--with-parent", "--version", &self.version, "--modules", &self.modules]);
        command.args(["--time-scale", &self.second.as_secs_f64().to_string()]).args(&self.args);
        if self.modules.contains("backup-filesystem") {
            command.arg("--backup-path").arg(&folder);
        }
        command.env("AWS_ACCESS_KEY_ID", crate::support::s3::KEY_ID);
        command.env("AWS_SECRET_ACCESS_KEY", crate::support::s3::SECRET).env("PYTHONDONTWRITEBYTECODE", "1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("it did not start: {line}"));
        let port = said["port"].as_u64().unwrap().try_into().unwrap();
        // To direct it; whoever wants a certificate checks that of the program.
        // A restart of it ends what is open, and no request is to begin on that.
        let http = Client::builder().no_proxy().pool_max_idle_per_host(0);
        let http = http.tls_danger_accept_invalid_certs(true).build().unwrap();
        let weaviate = Weaviate { child, port, http, dir, key: self.key, tls: self.tls };
        std::fs::create_dir_all(weaviate.folder()).unwrap();
        weaviate
    }
}

impl Weaviate {
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Where it writes its backups, and we see them.
    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("backups")
    }

    /// A folder of the program's own.
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The way in, for the component alone.
    pub fn config(&self) -> WeaviateConfig {
        WeaviateConfig {
            server: self.url().parse().unwrap(),
            api_key: self.key.clone().map(Into::into),
            tls: Tls::default(),
            way: Way::Auto,
            dir: Some(self.folder()),
            timeout: SECOND * 600,
            drill: None,
            state: self.state(),
            second: SECOND,
        }
    }

    /// Asks it, as any client would; the answer must be a good one.
    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let mut request = self.http.request(method, format!("{}{path}", self.url()));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
    }

    /// Directs it.
    pub async fn direct(&self, what: &str, how: Value) {
        self.ask(Method::POST, &format!("/_double/{what}"), Some(how)).await;
    }

    /// Answers some requests otherwise from now on.
    pub async fn fault(&self, rule: Value) {
        self.direct("faults", json!({"rules": [rule]})).await;
    }

    /// What was asked of it: method and path, in order.
    pub async fn asked(&self) -> Vec<(String, String)> {
        let requests = self.ask(Method::GET, "/_double/requests", None).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        requests.as_array().unwrap().iter().map(|one| (text(&one["method"]), text(&one["path"]))).collect()
    }

    /// Every class with a hash over all that must come back.
    pub async fn fingerprint(&self) -> BTreeMap<String, Value> {
        let found = self.ask(Method::GET, "/_double/fingerprint", None).await;
        serde_json::from_value(found["classes"].clone()).unwrap()
    }

    /// Waits until an operation stands at its gate.
    pub async fn held(&self, operation: &str) {
        let held = crate::support::lab::eventually(async || {
            self.ask(Method::GET, "/_double/state", None).await[operation]["held"] == true
        });
        assert!(held.await, "no {operation} came to the gate");
    }

    /// Fills it with the lab's classes: papers that refer to protocols, and samples of two tenants.
    pub async fn fill(&self) {
        let property = |name: &str, kind: &str| json!({"name": name, "dataType": [kind]});
        let samples = json!({"class": "Sample", "vectorizer": "none", "multiTenancyConfig": {"enabled": true},
            "properties": [property("name", "text")]});
        let protocols = json!({"class": "Protocol", "vectorizer": "none",
            "properties": [property("title", "text"), property("steps", "int")]});
        let documents = json!({"class": "Document", "vectorizer": "none",
            "properties": [property("title", "text"), property("page", "int"), property("follows", "Protocol")]});
        for class in [samples, protocols, documents] {
            self.ask(Method::POST, "/v1/schema", Some(class)).await;
        }
        self.ask(Method::POST, "/v1/schema/Sample/tenants", Some(json!([{"name": "wet"}, {"name": "dry"}])))
            .await;
        let vector = |seed: u32| (0..8).map(|at| f64::from(seed * 31 + at) / 1000.0).collect::<Vec<_>>();
        let mut objects = Vec::new();
        for number in 0..30 {
            let properties =
                json!({"title": format!("Protokoll {number}: \"RNA\"\n\u{1f9ec}"), "steps": number});
            objects.push(json!({"class": "Protocol", "id": id(1, number), "vector": vector(number), "properties": properties}));
            for tenant in ["wet", "dry"] {
                let id = id(if tenant == "wet" { 2 } else { 3 }, number);
                objects.push(
                    json!({"class": "Sample", "id": id, "tenant": tenant, "vector": vector(number + 7),
                    "properties": {"name": format!("{tenant} {number}")}}),
                );
            }
        }
        for number in 0..300 {
            objects.push(json!({"class": "Document", "id": id(4, number), "vector": vector(number + 99),
                "properties": {"title": format!("paper {number}"), "page": number}}));
        }
        self.put(objects).await;
        let links: Vec<_> = (0..300)
            .map(|number| {
                json!({"from": format!("weaviate://localhost/Document/{}/follows", id(4, number)),
                    "to": format!("weaviate://localhost/Protocol/{}", id(1, number % 30))})
            })
            .collect();
        self.ask(Method::POST, "/v1/batch/references", Some(json!(links))).await;
    }

    /// Stores objects, all of which must be taken.
    pub async fn put(&self, objects: Vec<Value>) {
        let answer = self.ask(Method::POST, "/v1/batch/objects", Some(json!({"objects": objects}))).await;
        for object in answer.as_array().unwrap() {
            assert_ne!(object["result"]["status"], "FAILED", "{object}");
        }
    }

    /// Changes what [`fill`](Self::fill) has made: an object less, one more, a class more.
    pub async fn spoil(&self) {
        self.ask(Method::DELETE, &format!("/v1/objects/Document/{}", id(4, 5)), None).await;
        self.put(vec![json!({"class": "Protocol", "id": id(1, 999), "properties": {"title": "later"}})])
            .await;
        let later = json!({"class": "Later", "vectorizer": "none", "properties": []});
        self.ask(Method::POST, "/v1/schema", Some(later)).await;
    }
}

/// The id of an object.
pub fn id(kind: u32, number: u32) -> String {
    format!("{kind:08x}-0000-4000-8000-{number:012x}")
}

impl Drop for Weaviate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
