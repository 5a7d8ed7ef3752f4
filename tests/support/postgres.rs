//! A real PostgreSQL server for tests and the demo.
//!
//! ```ignore
//! let server = PostgresServer::shared();              // one for the whole test binary, or
//! let server = PostgresServer::start();               // one of your own, gone with the value
//! let server = PostgresServer::of(18);                // one of another version; `server.bin()`: its clients
//! let database = server.database("lab", "");          // CREATE DATABASE "lab", with more options
//! server.psql(&database, "CREATE TABLE …");           // runs SQL, returns what it prints
//! let config = server.config(&database);              // how the program gets in: TCP, a password
//! ```

use rna_backup::component::postgres::PostgresConfig;
use rustix::process::Pid;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{LazyLock, Mutex},
};

/// The superuser's password: asked for over TCP, and made of what goes wrong in shells and URLs.
pub const PASSWORD: &str = "s3cr3t p@ss'w\"örd=%41/\\";

/// One server with a data folder, a socket and a port of its own; it ends and its folder goes
/// when this value does, or the test process, however that one ends.
#[derive(Debug)]
pub struct PostgresServer {
    supervisor: Child,
    bin: PathBuf,
    folder: PathBuf,
    port: u16,
}

impl PostgresServer {
    /// The server that all tests of this process share: use a database each.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<PostgresServer> = LazyLock::new(PostgresServer::start);
        &SHARED
    }

    /// Starts a server, ready to be connected to.
    pub fn start() -> Self {
        Self::run_from(&Self::bin_dir())
    }

    /// Starts a server of PostgreSQL 16 or 18, as [`PostgresServer::start`] does.
    pub fn of(major: u32) -> Self {
        Self::run_from(&Self::bin_dir_of(major))
    }

    fn run_from(bin: &Path) -> Self {
        // Another process may take the port before the server does.
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let started = std::iter::repeat_with(port).take(5).find_map(|port| supervise(bin, port));
        started.expect("PostgreSQL starts; its log is above")
    }

    /// The folder of the programs of PostgreSQL 16 or 18, which `make test` installs.
    pub fn bin_dir_of(major: u32) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/venv/postgres-{major}/lib"));
        let folders = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
        let packages = folders(root).flat_map(|python| folders(python.join("site-packages")));
        let mut bins = packages.map(|package| package.join("pginstall/bin"));
        bins.find(|bin| bin.is_dir()).expect("run `make test` once, it installs other versions of PostgreSQL")
    }

    /// The folder of this server's programs, its clients among them.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The folder of the programs of the version that the system has.
    pub fn bin_dir() -> PathBuf {
        static BIN: LazyLock<PathBuf> = LazyLock::new(|| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
            let mut dirs: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
            dirs.sort();
            dirs.splice(0..0, std::env::split_paths(&path));
            let whole = |dir: &PathBuf| ["initdb", "psql"].iter().all(|program| dir.join(program).exists());
            dirs.into_iter().rfind(whole).expect("install postgresql")
        });
        BIN.clone()
    }

    /// Creates a database and returns its name. `options` go behind `CREATE DATABASE name`.
    pub fn database(&self, name: &str, options: &str) -> String {
        self.psql("postgres", &format!("CREATE DATABASE \"{}\" {options}", name.replace('"', "\"\"")));
        name.to_owned()
    }

    /// The way into a database over TCP, with the password.
    pub fn config(&self, database: &str) -> PostgresConfig {
        PostgresConfig {
            host: "127.0.0.1".into(),
            port: self.port,
            password: Some(PASSWORD.into()),
            database: database.into(),
            ..PostgresConfig::default()
        }
    }

    /// The folder of the Unix socket, where no password is asked for.
    pub fn socket_dir(&self) -> &Path {
        &self.folder
    }

    /// Runs SQL as superuser and returns what it prints: fields separated by `|`. Panics when it fails.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let args = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"];
        let out = self.run("psql", database, &args, sql.as_bytes());
        assert!(out.status.success(), "{}\n{sql}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
    }

    /// Runs a client program on a database, over the socket.
    pub fn run(&self, program: &str, database: &str, args: &[&str], stdin: &[u8]) -> Output {
        let mut child = Command::new(self.bin.join(program))
            .args(args)
            .env("PGHOST", self.socket_dir())
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", database)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || pipe.write_all(stdin)); // it may well end before it has read all
            child.wait_with_output().unwrap()
        })
    }

    /// The first process of the server, parent of all others.
    pub fn postmaster(&self) -> Pid {
        let file = fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap();
        Pid::from_raw(file.lines().next().unwrap().parse().unwrap()).unwrap()
    }

    /// Removes the locks of a server that was killed: to the next one its process is there until somebody has
    /// waited for it, and whoever inherited it may take their time.
    pub fn unlock(&self) {
        fs::remove_file(self.folder.join("data/postmaster.pid")).unwrap();
        fs::remove_file(self.folder.join(format!(".s.PGSQL.{}.lock", self.port))).unwrap();
    }

    /// Starts it again, with the options that it had.
    pub fn start_again(&self) {
        let command = fs::read_to_string(self.folder.join("data/postmaster.opts")).unwrap();
        let (_, options) = command.split_once("data\"").unwrap();
        self.control(&["start", "-w", "-o", options.trim()]);
    }

    /// Stops (`stop -m fast`) or starts the server: any words of `pg_ctl`.
    pub fn control(&self, args: &[&str]) {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock();
        let log = fs::File::options().append(true).open(self.folder.join("log")).unwrap();
        let status = as_postgres(&self.bin.join("pg_ctl"))
            .arg("-D")
            .arg(self.folder.join("data"))
            .arg("-s")
            .args(args)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .status()
            .unwrap();
        let log = || fs::read_to_string(self.folder.join("log")).unwrap();
        assert!(status.success(), "pg_ctl {args:?}\n{}", log());
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
    }
}

/// A shell that runs the server, which speaks German where a session has `lc_messages` of C.UTF-8 and the system has the
/// German messages, and holds a pipe to us: when that closes, because we dropped it or
/// because we died, it stops the server and removes the folder. In a process group of its own, so
/// that Ctrl-C on a terminal reaches us alone.
fn supervise(bin: &Path, port: u16) -> Option<PostgresServer> {
    const SCRIPT: &str = r#"
        dir=$(mktemp -d --suffix=-rna-pg) && cd "$dir" || exit
        printf %s "$PASSWORD" > password
        initdb -D data -U postgres --pwfile=password --no-sync --no-instructions -E UTF8 --locale=C.UTF-8 \
            --auth-local=trust --auth-host=scram-sha-256 > log 2>&1 &&
        LANGUAGE=de pg_ctl -D data -w -s -l log start > /dev/null 2>&1 -o "-c listen_addresses=127.0.0.1 -c port=$PORT \
            -c unix_socket_directories=$dir -c fsync=off -c full_page_writes=off -c lc_messages=C \
            -c max_connections=50 -c max_prepared_transactions=4 -c shared_buffers=64MB" || { cat log >&2; cd /; rm -rf "$dir"; exit 1; }
        echo "$dir"
        exec > /dev/null 2>&1
        cat
        pg_ctl -D data -w -m immediate stop
        cd / && rm -rf "$dir"
    "#;
    let mut supervisor = as_postgres(Path::new("/bin/sh"))
        .args(["-c", SCRIPT])
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .env("PORT", port.to_string())
        .env("PASSWORD", PASSWORD)
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
    Some(PostgresServer { supervisor, bin: bin.into(), folder: folder.trim_end().into(), port })
}

/// PostgreSQL refuses to run as root; anybody else runs it as themselves. It keeps root's right to walk
/// through every folder: our own may be closed to others, and some of its programs are in there.
fn as_postgres(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
    command.args(["--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--"]).arg(program);
    command
}
