//! A bad line to a server that speaks HTTP: a proxy that does to each request what a test says.

use rna_backup::store::S3Config;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::watch,
    task::AbortHandle,
};

/// What happens to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    Good,
    /// The server is busy.
    Busy,
    /// Another server says this, with this status.
    Say(u16, String),
    /// The server gets so many bytes of the body; then both sides lose each other.
    CutRequest(usize),
    /// One bit of a byte of the body is another one when it arrives.
    FlipRequest(usize),
    /// The server does what it is asked to, and nobody learns of it.
    LoseAnswer,
    /// The server does what it is asked to, and dies before anybody learns of it: this process is killed.
    KillServer(i32),
    /// The answer ends after so many bytes of its body.
    CutAnswer(usize),
    /// One bit of a byte of the body is another one when it comes back.
    FlipAnswer(usize),
    /// Nothing is ever answered.
    BlackHole,
    /// The answer comes in so many pieces with a pause before each.
    SlowAnswer(usize, Duration),
}

/// The head of a request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Such as `PUT`.
    pub method: String,
    /// With the query.
    pub target: String,
    /// The whole of it, in lower case.
    pub head: String,
    /// Bytes of the body.
    pub bytes: usize,
}

impl Asked {
    /// Whether it sends a part.
    pub fn is_part(&self) -> bool {
        self.method == "PUT" && self.target.contains("partNumber=")
    }
    /// Whether it begins an upload in parts.
    pub fn is_create(&self) -> bool {
        self.method == "POST" && self.target.contains("uploads")
    }
    /// Whether it completes one.
    pub fn is_complete(&self) -> bool {
        self.method == "POST" && self.target.contains("uploadId=")
    }
    /// Whether it writes an object at once.
    pub fn is_put(&self) -> bool {
        self.method == "PUT" && !self.is_part()
    }
    /// Whether it deletes objects.
    pub fn is_delete(&self) -> bool {
        self.method == "DELETE" || self.target.ends_with("?delete")
    }
    /// Whether it reads an object.
    pub fn is_get(&self) -> bool {
        self.method == "GET" && self.head.contains("\r\nrange: ")
    }
}

type Rule = dyn FnMut(&Asked) -> Line + Send;

/// The proxy; it ends with this value.
pub struct BadLine {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    open: watch::Sender<usize>,
    listener: AbortHandle,
}

impl fmt::Debug for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BadLine({})", self.address)
    }
}

impl BadLine {
    /// A line to the server of `config`, which leads through it from now on.
    pub async fn to(config: &mut S3Config, rule: impl FnMut(&Asked) -> Line + Send + 'static) -> Self {
        let server = config.endpoint.as_ref().unwrap().strip_prefix("http://").unwrap();
        let line = Self::before(server, rule).await;
        config.endpoint = Some(line.url());
        line
    }

    /// A line to the server at `server`, `host:port`. `rule` says what happens to each request.
    pub async fn before(server: &str, rule: impl FnMut(&Asked) -> Line + Send + 'static) -> Self {
        let server = server.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (rule, log): (Arc<Mutex<Rule>>, _) = (Arc::new(Mutex::new(rule)), asked.clone());
        let (open, _) = watch::channel(0);
        let at_work = open.clone();
        let listener = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (rule, log, server, open) = (rule.clone(), log.clone(), server.clone(), at_work.clone());
                open.send_modify(|open| *open += 1);
                // What it cannot pass on is a cut as well.
                tokio::spawn(async move {
                    let passed = pass_on(client, &server, &rule, &log).await;
                    open.send_modify(|open| *open -= 1);
                    passed
                });
            }
        });
        Self { address, asked, open, listener: listener.abort_handle() }
    }

    /// The address that leads to the server.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until the server has answered everything that it was asked.
    pub async fn is_idle(&self) {
        self.open.subscribe().wait_for(|open| *open == 0).await.unwrap();
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The number of requests of a kind.
    pub fn count(&self, kind: impl Fn(&Asked) -> bool) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| kind(asked)).count()
    }
}

impl Drop for BadLine {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Passes one request on; both connections end with it.
async fn pass_on(
    mut client: TcpStream,
    server: &str,
    rule: &Mutex<Rule>,
    log: &Mutex<Vec<Asked>>,
) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let text = String::from_utf8(head).unwrap();
    let mut words = text.split(' ');
    let [method, target] = [words.next().unwrap().to_owned(), words.next().unwrap().to_owned()];
    let lower = text.to_ascii_lowercase();
    let bytes = lower
        .split_once("\r\ncontent-length: ")
        .map_or(0, |(_, rest)| rest.split("\r\n").next().unwrap().parse().unwrap());
    let asked = Asked { method, target, head: lower, bytes };
    log.lock().unwrap().push(asked.clone());
    let line = (rule.lock().unwrap())(&asked);

    let mut body = vec![0; bytes];
    client.read_exact(&mut body).await?;
    match line.clone() {
        Line::Busy => return say(&mut client, 503, BUSY).await,
        Line::Say(status, text) => return say(&mut client, status, &text).await,
        // Until the client gives up, and closes the connection.
        Line::BlackHole => return client.read_u8().await.map(drop),
        Line::CutRequest(at) => body.truncate(at),
        Line::FlipRequest(at) => body[at] ^= 1,
        _ => {}
    }
    let mut server = TcpStream::connect(server).await?;
    let head = text.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    server.write_all(head.as_bytes()).await?;
    server.write_all(&body).await?;
    if matches!(line, Line::CutRequest(_)) {
        return Ok(());
    }
    answer(client, server, line).await
}

const BUSY: &str = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";

async fn say(client: &mut TcpStream, status: u16, body: &str) -> io::Result<()> {
    let head =
        format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    client.write_all(head.as_bytes()).await?;
    client.write_all(body.as_bytes()).await
}

async fn answer(mut client: TcpStream, mut server: TcpStream, line: Line) -> io::Result<()> {
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n").map_or(0, |at| at + 4);
    match line {
        Line::LoseAnswer => return Ok(()),
        Line::KillServer(pid) => {
            kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL)?;
            return Ok(());
        }
        Line::CutAnswer(at) => answer.truncate(body + at),
        Line::FlipAnswer(at) => answer[body + at] ^= 1,
        Line::SlowAnswer(pieces, pause) => {
            for piece in answer.chunks(answer.len().div_ceil(pieces)) {
                tokio::time::sleep(pause).await;
                client.write_all(piece).await?;
            }
            return Ok(());
        }
        _ => {}
    }
    client.write_all(&answer).await
}

/// Does something that a rule waits for, on threads of its own: those of the test may all wait for the same rule.
pub fn now<T>(work: impl Future<Output = T>) -> T {
    static BESIDE: LazyLock<Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    });
    tokio::task::block_in_place(|| BESIDE.block_on(work))
}
