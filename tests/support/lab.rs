//! A lab in miniature: a broker, a media folder, a folder for backups, and the program itself.

use crate::support::{
    dense::endless,
    postgres::{PASSWORD, PostgresServer},
    redis::Redis,
};
use redis::{AsyncCommands, aio::MultiplexedConnection};
use rna_backup::celery::{
    client::{Client, ConnectOptions},
    keys::Keys,
    publish::{Outgoing, publish},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fmt::Display,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
pub use test_support::ports::free_port;
use tokio_util::sync::CancellationToken;

/// Set by `make coverage`: the file that the program says in which lines it ran.
const PROFILE: &str = "RNA_BACKUP_TEST_PROFILE";

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// The surroundings of a worker.
pub struct Lab {
    dir: TempDir,
    pub redis: Redis,
    settings: BTreeMap<String, String>,
}

impl Lab {
    /// A Redis that keeps what it has over a restart, and a small media folder.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let media = dir.path().join("media/figures");
        fs::create_dir_all(&media).unwrap();
        fs::write(media.join("gel.txt"), "lane 1: RNA\n".repeat(500)).unwrap();
        fs::write(media.join("été.bin"), [7; 3000]).unwrap();
        let redis = Redis::start();
        let settings = BTreeMap::from([
            ("REDIS_URL".to_owned(), redis.url()),
            ("MEDIA_ROOT".to_owned(), dir.path().join("media").display().to_string()),
            ("BACKUP_ROOT".to_owned(), dir.path().join("backups").display().to_string()),
            ("BACKUP_MEDIA_FULL_EVERY".to_owned(), "0".to_owned()), // each backup stands for itself
            ("BACKUP_MIN_FREE".to_owned(), "1MiB".to_owned()),
            ("BACKUP_WORKER_NAME".to_owned(), "backup@lab".to_owned()),
            ("RUST_LOG".to_owned(), "info".to_owned()),
        ]);
        Self { dir, redis, settings }
    }

    /// A lab whose media take longer to read than any test: they are a file of 1 TiB.
    pub fn endless() -> Self {
        let lab = Self::new();
        endless(&lab.media().join("endless"));
        lab
    }

    /// URL of the broker as Celery's clients want it.
    pub fn celery_url(&self) -> String {
        self.redis.url().replacen("unix://", "redis+socket://", 1)
    }

    /// Waits until a backup writes its archive.
    pub async fn under_way(&self) {
        assert!(
            eventually(async || unfinished(&self.backups()).len() == 1).await,
            "the backup did not begin"
        );
    }

    /// Sets one of the program's settings.
    pub fn set(mut self, name: &str, value: impl Display) -> Self {
        self.settings.insert(name.to_owned(), value.to_string());
        self
    }

    /// Gives it a database of a server.
    pub fn database(self, server: &PostgresServer, name: &str) -> Self {
        let config = server.config(name);
        self.set("POSTGRES_HOST", &config.host)
            .set("POSTGRES_PORT", config.port)
            .set("POSTGRES_DB", name)
            .set("POSTGRES_PASSWORD", PASSWORD)
    }

    /// The folder of the backups.
    pub fn backups(&self) -> PathBuf {
        self.dir.path().join("backups")
    }

    /// The media folder.
    pub fn media(&self) -> PathBuf {
        self.dir.path().join("media")
    }

    /// Any path of this lab's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program with this lab's settings and nothing else of the environment.
    pub fn program(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rna-backup"));
        command.args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap()).envs(&self.settings);
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        if let Some(profile) = std::env::var_os(PROFILE) {
            command.env("LLVM_PROFILE_FILE", profile);
        }
        command
    }

    /// The same for another user, who has no more rights than the folders give; root alone can start it.
    pub fn program_as(&self, user: u32, args: &[&str]) -> Command {
        let program = self.program(args);
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
        command.arg("--").arg(program.get_program()).args(program.get_args());
        command.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end: exit code, standard output, standard error.
    pub fn run(&self, args: &[&str]) -> (i32, String, String) {
        let out = self.program(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (out.status.code().unwrap_or(-1), text(out.stdout), text(out.stderr))
    }

    /// Runs a command with `--json`, which must succeed.
    pub fn json(&self, args: &[&str]) -> Value {
        let (code, out, err) = self.run(&[args, &["--json"]].concat());
        assert_eq!(code, 0, "{args:?}: {err}");
        serde_json::from_str(&out).unwrap()
    }

    /// Starts a worker. It runs until its value is dropped, killed or stopped.
    pub fn worker(&self) -> Worker {
        self.worker_named(&self.settings["BACKUP_WORKER_NAME"])
    }

    /// Starts a worker of this node name.
    pub fn worker_named(&self, name: &str) -> Worker {
        self.start(self.program(&["worker"]), name)
    }

    /// Starts a worker that runs as another user.
    pub fn worker_as(&self, user: u32) -> Worker {
        self.start(self.program_as(user, &["worker"]), &self.settings["BACKUP_WORKER_NAME"])
    }

    fn start(&self, mut worker: Command, name: &str) -> Worker {
        let port = free_port();
        let log = self.dir.path().join(format!("worker-{port}.log"));
        let child = worker
            .env("BACKUP_METRICS_ADDR", format!("127.0.0.1:{port}"))
            .env("BACKUP_WORKER_NAME", name)
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Worker { child, port, log }
    }

    /// A connection to the broker.
    pub async fn connection(&self) -> MultiplexedConnection {
        self.redis.connect().await
    }

    /// Orders a task with keyword arguments on the queue `backups`; its id.
    pub async fn order(&self, task: &str, kwargs: Value) -> String {
        let Value::Object(kwargs) = kwargs else { panic!("kwargs are an object") };
        self.send(&Outgoing::new(task, "backups").kwargs(kwargs)).await
    }

    /// Sends a message; its id.
    pub async fn send(&self, message: &Outgoing) -> String {
        let client = Client::new(ConnectOptions::parse(&self.redis.url()).unwrap()).unwrap();
        let stop = CancellationToken::new();
        publish(&client, &Keys::default(), std::slice::from_ref(message), &stop).await.unwrap();
        message.id().to_owned()
    }

    /// Forgets how many workers died over each task, so that a test may kill as many as it likes.
    pub async fn forget_deaths(&self) {
        let mut redis = self.connection().await;
        let begun: Vec<String> = redis.keys("rna-backup:begun:*").await.unwrap();
        if !begun.is_empty() {
            let () = redis.del(begun).await.unwrap();
        }
    }

    /// What is stored for a task.
    pub async fn result(&self, id: &str) -> Option<Value> {
        let stored: Option<String> =
            self.connection().await.get(format!("celery-task-meta-{id}")).await.unwrap();
        stored.map(|text| serde_json::from_str(&text).unwrap())
    }

    /// Waits for a task to end, and returns what is stored then.
    pub async fn ended(&self, id: &str) -> Value {
        let mut last = None;
        let ended = eventually(async || {
            last = self.result(id).await;
            let status = last.as_ref().map_or("", |result| result["status"].as_str().unwrap());
            ["SUCCESS", "FAILURE", "REVOKED"].contains(&status)
        });
        assert!(ended.await, "task {id} did not end: {last:?}");
        last.unwrap()
    }

    /// Waits until nothing is taken and not yet acknowledged.
    pub async fn settled(&self) {
        let mut redis = self.connection().await;
        let settled = eventually(async || {
            let left: (u64, u64) =
                redis::pipe().hlen("unacked").zcard("unacked_index").query_async(&mut redis).await.unwrap();
            left == (0, 0)
        });
        assert!(settled.await, "messages stay unacknowledged");
    }

    /// The manifests of a component, oldest first.
    pub fn manifests(&self, component: &str) -> Vec<Value> {
        let mut paths = files(&self.backups().join("manifests").join(component));
        paths.sort();
        paths.iter().map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect()
    }
}

/// The files of a folder; none if there is no such folder.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
}

/// The files that runs have not finished, below a root of backups. A trial, with which the program finds out whether
/// it can write, comes and goes at any time and belongs to no run.
pub fn unfinished(root: &Path) -> Vec<PathBuf> {
    let is_trial = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().contains("-trial-");
    files(&root.join(".partial")).into_iter().filter(|path| !is_trial(path)).collect()
}

/// Waits for a condition; false when it did not come true within a minute.
pub async fn eventually(mut holds: impl AsyncFnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if holds().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

/// A running worker; dies with its value.
pub struct Worker {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Worker {
    /// SIGKILL, and wait for the end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and wait for the end: the exit code.
    pub fn stop(mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().unwrap().code()
    }

    /// Waits until it ends by itself: the exit code.
    pub fn ended(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Where its metrics and probes are.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The answer to an HTTP request: status and text; `None` while it does not listen yet.
    pub async fn http(&self, path: &str) -> Option<(u16, String)> {
        // An error means that another test has set it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let answer = reqwest::get(format!("http://127.0.0.1:{}{path}", self.port)).await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    /// Waits until its metrics have this line.
    pub async fn shows(&self, line: &str) {
        let shown =
            eventually(async || self.http("/metrics").await.is_some_and(|(_, text)| text.contains(line)));
        assert!(shown.await, "{line} is not in the metrics:\n{}", self.log());
    }

    /// Waits until it is connected to its broker and looks for tasks, whatever its destinations are like.
    pub async fn ready(&self) {
        let ready = eventually(async || {
            let answer = self.http("/readyz").await;
            answer.is_some_and(|(status, why)| status == 200 || why.starts_with("the destination "))
        });
        assert!(ready.await, "the worker did not get ready:\n{}", self.log());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of the worker ---\n{}", self.log());
        }
    }
}
