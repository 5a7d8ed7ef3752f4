//! A real Weaviate server for tests: one of the versions that `make weaviate` builds.
//!
//! ```ignore
//! let server = Start::version(NEWEST).server().await; // nothing is in it
//! let component = Weaviate::new(server.config(), None);
//! ```
//!
//! A server takes seconds to start, so a server that a test has done with is emptied and given to the next test
//! that asks for the same settings.

use crate::support::lab::{eventually, free_port};
use reqwest::{Client, Method};
use rna_backup::component::weaviate::{Address, BackendSetting, Tls, WeaviateConfig};
use rustix::process::{Pid, test_kill_process};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{LazyLock, Mutex},
    time::Duration,
};

/// The version that the app runs.
pub const OLDEST: &str = "1.26.1";
/// A version between.
pub const MIDDLE: &str = "1.37.14";
/// The newest version.
pub const NEWEST: &str = "1.39.2";
/// The program of a version.
pub fn program(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/weaviate/{version}/weaviate-server"))
}

/// The beginning of the names of classes by which machines know of each other's restores.
pub const MARK: &str = "RnaBackupMark_";

/// The name of the only node.
pub const NODE: &str = "node1";

/// The settings of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    version: String,
    pub(super) settings: BTreeMap<String, String>,
    key: Option<String>,
}

impl Start {
    /// A server of this version with the module backup-filesystem, without keys and vectorizers.
    pub fn version(version: &str) -> Self {
        let settings = [
            ("AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED", "true"),
            ("AUTOSCHEMA_ENABLED", "false"),
            ("CLUSTER_HOSTNAME", NODE),
            ("DEFAULT_VECTORIZER_MODULE", "none"),
            ("DISABLE_TELEMETRY", "true"),
            ("ENABLE_MODULES", "backup-filesystem"),
            ("GO_PROFILING_DISABLE", "true"),
            ("LOG_LEVEL", "warning"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Self { version: version.to_owned(), settings, key: None }
    }

    /// With a setting in the environment of the server.
    #[allow(clippy::needless_pass_by_value)] // words, numbers and paths are all written down here
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.insert(name.to_owned(), value.to_string());
        self
    }

    /// With these modules and no others.
    pub fn modules(self, modules: &str) -> Self {
        self.set("ENABLE_MODULES", modules)
    }

    /// With the module backup-s3, into this bucket below `prefix`.
    pub fn bucket(self, config: &rna_backup::store::S3Config, prefix: &str) -> Self {
        let endpoint = config.endpoint.as_ref().unwrap().strip_prefix("http://").unwrap().to_owned();
        self.modules("backup-s3")
            .set("BACKUP_S3_BUCKET", &config.bucket)
            .set("BACKUP_S3_PATH", prefix)
            .set("BACKUP_S3_ENDPOINT", endpoint)
            .set("BACKUP_S3_USE_SSL", "false")
            .set("AWS_ACCESS_KEY_ID", crate::support::s3::KEY_ID)
            .set("AWS_SECRET_ACCESS_KEY", crate::support::s3::SECRET)
            .set("AWS_REGION", "us-east-1")
    }

    /// With a key that may do everything, and nobody let in without one. Roles are in use from 1.29 on.
    pub fn key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        let roles = self.version != OLDEST;
        self = self
            .set("AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED", "false")
            .set("AUTHENTICATION_APIKEY_ENABLED", "true")
            .set("AUTHENTICATION_APIKEY_ALLOWED_KEYS", key)
            .set("AUTHENTICATION_APIKEY_USERS", "admin");
        if !roles {
            return self
                .set("AUTHORIZATION_ADMINLIST_ENABLED", "true")
                .set("AUTHORIZATION_ADMINLIST_USERS", "admin");
        }
        self.set("AUTHORIZATION_RBAC_ENABLED", "true")
            .set("AUTHORIZATION_RBAC_ROOT_USERS", "admin")
            .set("AUTHENTICATION_DB_USERS_ENABLED", "true")
    }

    /// An empty server with these settings.
    pub async fn server(self) -> WeaviateServer {
        let idle = {
            let mut idle = IDLE.lock().unwrap();
            let found = idle.iter().position(|server| server.start == self);
            found.map(|at| idle.swap_remove(at))
        };
        let mut server = WeaviateServer { running: idle, http: client() };
        if server.running.is_none() {
            server.running = Some(Running::new(self));
        }
        server.is_ready().await;
        server.empty().await;
        server
    }
}

/// A client of this test's own: its connections end with the test's runtime.
fn client() -> Client {
    // As `main` does.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap()
}

/// Servers that no test uses.
static IDLE: LazyLock<Mutex<Vec<Running>>> = LazyLock::new(Mutex::default);

/// A server process and its folder. Both go when this value goes, or the test process, however that ends.
#[derive(Debug)]
struct Running {
    start: Start,
    supervisor: Child,
    pid: i32,
    port: u16,
    ports: [u16; 4],
    dir: PathBuf,
}

impl Running {
    fn new(start: Start) -> Self {
        let dir = tempfile::Builder::new().prefix("rna-weaviate-").tempdir().unwrap().keep();
        for folder in ["data", "backups"] {
            fs::create_dir(dir.join(folder)).unwrap();
        }
        let (port, ports) = (free_port(), [free_port(), free_pair(), free_port(), free_port()]);
        let (supervisor, pid) = supervise(&start, port, ports, &dir);
        Self { start, supervisor, pid, port, ports, dir }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
    }
}

/// A port whose next one is free as well: Weaviate wants two ports in a row for its cluster.
fn free_pair() -> u16 {
    let pairs = std::iter::repeat_with(|| (free_port(), free_port()));
    pairs.filter(|(port, next)| *next == port + 1).map(|(port, _)| port).next().unwrap()
}

/// A shell that runs the server and holds a pipe to this process: when the pipe closes, the shell stops the server
/// and removes its folder; when it says `kill`, the server dies and the folder stays.
fn supervise(start: &Start, port: u16, ports: [u16; 4], dir: &Path) -> (Child, i32) {
    const SCRIPT: &str = r#"
        umask "${UMASK:-022}"
        if [ -n "${OWNER:-}" ]; then
            cp "$SERVER" "$DIR/server"
            chmod 755 "$DIR" && chown -R "$OWNER" "$DIR"/*
            set -- setpriv --reuid="${OWNER%:*}" --regid="${OWNER#*:}" --clear-groups "$DIR/server"
        else
            set -- "$SERVER"
        fi
        "$@" --host 127.0.0.1 --port "$PORT" --scheme http >> "$DIR/log" 2>&1 < /dev/null &
        echo $!
        exec > /dev/null 2>&1
        if read -r word; then kill -9 $!; wait $!; exit; fi
        kill -9 $!
        wait $!
        rm -rf "$DIR"
    "#;
    let server = program(&start.version);
    assert!(server.exists(), "`make weaviate` builds {}", server.display());
    let [grpc, gossip, raft, rpc] = ports;
    let mut supervisor = Command::new("bash")
        .args(["-c", SCRIPT])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("SERVER", server)
        .env("DIR", dir)
        .env("PORT", port.to_string())
        .env("PERSISTENCE_DATA_PATH", dir.join("data"))
        .env("BACKUP_FILESYSTEM_PATH", dir.join("backups"))
        .env("GRPC_PORT", grpc.to_string())
        .env("CLUSTER_GOSSIP_BIND_PORT", gossip.to_string())
        .env("CLUSTER_ADVERTISE_PORT", gossip.to_string())
        .env("CLUSTER_DATA_BIND_PORT", (gossip + 1).to_string())
        .env("CLUSTER_ADVERTISE_ADDR", "127.0.0.1")
        .env("RAFT_PORT", raft.to_string())
        .env("RAFT_INTERNAL_RPC_PORT", rpc.to_string())
        .env("RAFT_BOOTSTRAP_EXPECT", "1")
        .env("RAFT_JOIN", format!("{}:{raft}", start.settings["CLUSTER_HOSTNAME"]))
        .envs(&start.settings)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut pid = String::new();
    BufReader::new(supervisor.stdout.take().unwrap()).read_line(&mut pid).unwrap();
    (supervisor, pid.trim().parse().unwrap())
}

/// A server that one test has to itself; with this value the server goes to the next test.
#[derive(Debug)]
pub struct WeaviateServer {
    running: Option<Running>,
    http: Client,
}

impl Drop for WeaviateServer {
    fn drop(&mut self) {
        // After a failure nobody knows what state it is in, and a folder of this test's own is nobody else's.
        let can_serve = |running: &Running| !std::thread::panicking() && !running.start.has_own_folder();
        if let Some(running) = self.running.take().filter(can_serve) {
            IDLE.lock().unwrap().push(running);
        }
    }
}

impl WeaviateServer {
    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.running().port)
    }

    pub fn version(&self) -> &str {
        &self.running().start.version
    }

    /// The folder that the server writes its backups to.
    pub fn folder(&self) -> PathBuf {
        self.running().dir.join("backups")
    }

    /// A folder for what the program notes of this server.
    pub fn state(&self) -> PathBuf {
        self.running().dir.join("state")
    }

    /// The last lines of the server's log.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.running().dir.join("log")).unwrap_or_default();
        log.lines().rev().take(20).collect::<Vec<_>>().join("\n")
    }

    /// The way in, for the component alone.
    pub fn config(&self) -> WeaviateConfig {
        WeaviateConfig {
            server: self.url().parse::<Address>().unwrap(),
            api_key: self.running().start.key.clone().map(Into::into),
            tls: Tls::default(),
            backend: BackendSetting::Auto,
            dir: Some(self.folder()),
            timeout: Duration::from_mins(2),
            drill: None,
            state: self.state(),
            second: Duration::from_secs(1),
        }
    }

    /// Kills the server as a machine that loses power would.
    pub fn kill(&mut self) {
        let running = self.running.as_mut().unwrap();
        let mut stdin = running.supervisor.stdin.take().unwrap();
        writeln!(stdin, "kill").unwrap();
        running.supervisor.wait().unwrap();
    }

    /// The process id of the server, for a rule of a proxy that kills it.
    pub fn pid(&self) -> i32 {
        self.running().pid
    }

    /// Starts the server again, with the data and the ports that it had. Does not wait until it is ready.
    pub fn start_again(&mut self) {
        let running = self.running.as_mut().unwrap();
        // A server that a proxy has killed leaves its shell.
        if let Some(mut stdin) = running.supervisor.stdin.take() {
            let _ = writeln!(stdin, "kill");
            let _ = running.supervisor.wait();
        }
        (running.supervisor, running.pid) =
            supervise(&running.start, running.port, running.ports, &running.dir);
    }

    /// Kills the server and starts it again with one more setting. Does not wait until it is ready.
    pub fn start_with(&mut self, name: &str, value: &str) {
        self.kill();
        let start = &mut self.running.as_mut().unwrap().start;
        start.settings.insert(name.to_owned(), value.to_owned());
        self.start_again();
    }

    /// Waits until the server is ready.
    pub async fn is_ready(&self) {
        let path = format!("{}/v1/.well-known/ready", self.url());
        let process = Pid::from_raw(self.pid()).unwrap();
        let (mut is_ready, mut runs) = (false, true);
        eventually(async || {
            is_ready = self.http.get(&path).send().await.is_ok_and(|answer| answer.status().is_success());
            runs = test_kill_process(process).is_ok();
            is_ready || !runs
        })
        .await;
        assert!(is_ready, "Weaviate does not start:\n{}", self.log());
    }

    /// Removes every class, and what is in the folders.
    async fn empty(&self) {
        self.wipe().await;
        let _ = fs::remove_dir_all(self.state());
        fs::remove_dir_all(self.folder()).unwrap();
        fs::create_dir(self.folder()).unwrap();
    }

    /// Asks the server, as any client would: status and answer.
    pub async fn answer(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.url()));
        if let Some(key) = &self.running().start.key {
            request = request.bearer_auth(key);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Asks the server; the answer must be a good one.
    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.answer(method, path, body).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    /// Makes a class.
    pub async fn make(&self, definition: Value) {
        self.ask(Method::POST, "/v1/schema", Some(definition)).await;
    }

    /// Stores objects, all of which must be taken.
    pub async fn put(&self, objects: Vec<Value>) {
        let answer = self.ask(Method::POST, "/v1/batch/objects", Some(json!({"objects": objects}))).await;
        for object in answer.as_array().unwrap() {
            assert_ne!(object["result"]["status"], "FAILED", "{object}");
        }
    }

    /// Adds references, all of which must be taken.
    pub async fn link(&self, references: Vec<Value>) {
        let answer = self.ask(Method::POST, "/v1/batch/references", Some(json!(references))).await;
        for reference in answer.as_array().unwrap() {
            assert_eq!(reference["result"]["status"], "SUCCESS", "{reference}");
        }
    }
}
