//! A Redis server of one's own, on a socket in its own folder.

use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A `redis-server` that writes everything down, so that it can be stopped and started again. Ends
/// with the value.
pub struct Redis {
    child: Option<Child>,
    dir: TempDir,
    extra: Vec<String>,
}

impl Redis {
    /// Starts a server and waits until it takes connections.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Like [`start`](Self::start), with further arguments for `redis-server`.
    pub fn start_with(extra: &[&str]) -> Self {
        let extra = extra.iter().map(|arg| (*arg).to_owned()).collect();
        let mut redis =
            Self { child: None, dir: tempfile::tempdir().expect("make a temporary folder"), extra };
        redis.start_again();
        redis
    }

    /// URL of database 0.
    pub fn url(&self) -> String {
        format!("unix://{}/redis.sock", self.dir.path().display())
    }

    /// Lets every user of the machine connect.
    pub fn open_to_all(&self) {
        for (path, mode) in [(self.dir.path().to_owned(), 0o755), (self.dir.path().join("redis.sock"), 0o666)]
        {
            fs::set_permissions(path, Permissions::from_mode(mode))
                .expect("the folder and the socket are there");
        }
    }

    /// Starts the server again on the same socket, with the data that it had.
    pub fn start_again(&mut self) {
        let mut child = Command::new("redis-server")
            .args(["--port", "0", "--unixsocket", "redis.sock", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "no"])
            .args(&self.extra)
            .current_dir(self.dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("these tests need `redis-server` on PATH");
        let mut log = BufReader::new(child.stdout.take().expect("stdout is piped above")).lines();
        self.child = Some(child);
        let ready =
            log.by_ref().map_while(Result::ok).any(|line| line.contains("ready to accept connections"));
        assert!(ready, "redis-server did not start in {}", self.dir.path().display());
        // What it says is read to its end, or its pipe would be broken.
        std::thread::spawn(move || log.for_each(drop));
    }

    /// Stops the server at once; what it had acknowledged is on disk.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the server is a child of this process");
            child.wait().expect("the server is a child of this process");
        }
    }

    /// Process id of the running server.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// A plain connection, to look and meddle with.
    pub async fn connect(&self) -> MultiplexedConnection {
        let client = redis::Client::open(format!("redis+{}", self.url())).expect("it is the URL of a socket");
        let patient = AsyncConnectionConfig::new().set_response_timeout(None);
        client
            .get_multiplexed_async_connection_with_config(&patient)
            .await
            .expect("the server takes connections")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}
