//! Real S3 servers for tests: the front of MinIO over a folder, with signatures, parts and path style, and Versity's
//! gateway, which shares no code with the front of MinIO.
//!
//! ```ignore
//! let config = S3Server::shared().bucket().await;     // a bucket of your own: how the program gets in
//! let left = Bucket::of(&config).uploads().await;   // what no listing of a store shows
//! ```

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_smithy_http_client::{Builder, tls};
use rna_backup::store::S3Config;
use rna_backup::store::s3::Keys;
use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::LazyLock,
    time::Duration,
};

/// The account.
pub const KEY_ID: &str = "lab-key-id";

/// Its secret: to be seen nowhere.
pub const SECRET: &str = "s3cr3t-of-the-lab/+=";

/// One server in a folder of its own; it ends and its folder goes when this value does, or the test
/// process, however that one ends.
#[derive(Debug)]
pub struct S3Server {
    supervisor: Child,
    port: u16,
}

impl S3Server {
    /// The server that all tests of this process share: use a bucket each.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<S3Server> = LazyLock::new(|| S3Server::start(&JUICEFS));
        &SHARED
    }

    /// The shared server of another make, for what servers may do differently.
    pub fn versity() -> &'static Self {
        static SHARED: LazyLock<S3Server> = LazyLock::new(|| S3Server::start(&VERSITY));
        &SHARED
    }

    /// Starts a server, ready to be asked.
    fn start(make: &Make) -> Self {
        // Another process may take a port before the server does.
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let started =
            std::iter::repeat_with(|| [port(), port()]).take(5).find_map(|ports| supervise(make, ports));
        started.expect("the S3 server starts; its log is above")
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The way into a bucket that is not there.
    pub fn no_bucket(&self) -> S3Config {
        let mut config = S3Config::new(format!("lab-{}", uuid::Uuid::new_v4().simple()));
        config.endpoint = Some(format!("http://{}", self.address()));
        config.keys = Some(Keys { id: KEY_ID.into(), secret: SECRET.into(), token: None });
        // The server is near.
        config.wait = Duration::from_millis(10);
        config
    }

    /// Makes a bucket; the way into it.
    pub async fn bucket(&self) -> S3Config {
        let config = self.no_bucket();
        let bucket = Bucket::of(&config);
        bucket.client.create_bucket().bucket(&bucket.name).send().await.unwrap();
        config
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
    }
}

/// A bucket as another program sees it.
#[derive(Debug)]
pub struct Bucket {
    pub client: Client,
    pub name: String,
}

impl Bucket {
    pub fn of(config: &S3Config) -> Self {
        let http = Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .build_https();
        let settings = aws_sdk_s3::config::Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new(KEY_ID, SECRET, None, None, "test"))
            .endpoint_url(config.endpoint.as_ref().unwrap())
            .force_path_style(true);
        Self { client: Client::from_conf(settings.build()), name: config.bucket.clone() }
    }

    /// Keys of all objects.
    pub async fn objects(&self) -> Vec<String> {
        let found = self.client.list_objects_v2().bucket(&self.name).send().await.unwrap();
        found.contents().iter().map(|object| object.key().unwrap().to_owned()).collect()
    }

    /// Keys of all open uploads in parts.
    pub async fn uploads(&self) -> Vec<String> {
        let found = self.client.list_multipart_uploads().bucket(&self.name).send().await.unwrap();
        found.uploads().iter().map(|upload| upload.key().unwrap().to_owned()).collect()
    }

    /// Begins an upload in parts and leaves it; its name.
    pub async fn begin_upload(&self, key: &str) -> String {
        let begun = self.client.create_multipart_upload().bucket(&self.name).key(key).send().await.unwrap();
        begun.upload_id.unwrap()
    }

    pub async fn put(&self, key: &str, bytes: bytes::Bytes) {
        self.client.put_object().bucket(&self.name).key(key).body(bytes.into()).send().await.unwrap();
    }
}

/// A make of S3 servers.
struct Make {
    program: &'static str,
    /// The shell command that runs the server in the current folder, on `$PORT`.
    run: &'static str,
}

const JUICEFS: Make = Make {
    program: "target/venv/juicefs/bin/juicefs",
    run: r#"
        "$PROGRAM" format sqlite3://meta.db lab --storage file --bucket "$PWD/data/" --trash-days 0 &&
            exec "$PROGRAM" gateway --multi-buckets --keep-etag --object-meta --no-banner \
                --no-bgjob --backup-meta 0 --cache-dir "$PWD/cache" --cache-size 0 --attr-cache 0 --dir-entry-cache 0 \
                --metrics "127.0.0.1:$METRICS" sqlite3://meta.db "127.0.0.1:$PORT"
    "#,
};

const VERSITY: Make = Make {
    program: "target/tools/versitygw",
    // Not every file system of a temporary folder has extended attributes, so metadata lie beside the objects.
    run: r#"
        mkdir buckets metadata &&
            exec "$PROGRAM" --quiet --port "127.0.0.1:$PORT" posix --sidecar "$PWD/metadata" "$PWD/buckets"
    "#,
};

/// A shell that runs the server and holds a pipe to us: when that closes, because we dropped it or
/// because we died, it stops the server and removes the folder. In a process group of its own, so
/// that Ctrl-C on a terminal reaches us alone.
fn supervise(make: &Make, [port, metrics]: [u16; 2]) -> Option<S3Server> {
    const SCRIPT: &str = r#"
        dir=$(mktemp -d --suffix=-rna-s3) && cd "$dir" || exit
        bash -c "$RUN" > log 2>&1 < /dev/null &
        until 2> /dev/null : < "/dev/tcp/127.0.0.1/$PORT"; do # it says nowhere when it listens
            kill -0 $! 2> /dev/null || { cat log >&2; cd /; rm -rf "$dir"; exit 1; }
            sleep 0.02
        done
        echo "$dir"
        exec > /dev/null 2>&1
        cat
        kill $!
        wait $!
        cd / && rm -rf "$dir"
    "#;
    let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(make.program);
    assert!(program.exists(), "make tools-test installs {}", program.display());
    let mut supervisor = Command::new("bash")
        .args(["-c", SCRIPT])
        .env("RUN", make.run)
        .env("PROGRAM", program)
        .env("PORT", port.to_string())
        .env("METRICS", metrics.to_string())
        .envs([("MINIO_ROOT_USER", KEY_ID), ("ROOT_ACCESS_KEY", KEY_ID)])
        .envs([("MINIO_ROOT_PASSWORD", SECRET), ("ROOT_SECRET_KEY", SECRET)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut folder = String::new();
    BufReader::new(supervisor.stdout.take().unwrap()).read_line(&mut folder).unwrap();
    if folder.is_empty() {
        supervisor.wait().unwrap();
        return None;
    }
    Some(S3Server { supervisor, port })
}
