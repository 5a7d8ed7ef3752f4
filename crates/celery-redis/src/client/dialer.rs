//! Connects to the Redis server that accepts writes.

use super::super::CeleryError;
use super::node::Node;
use super::options::{ConnectOptions, Servers};
use redis::aio::{AsyncPushSender, MultiplexedConnection};
use redis::{AsyncConnectionConfig, ErrorKind, RedisError, RedisResult, Value};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Makes new connections, each to the server that is the master at that time.
pub(super) struct Dialer {
    target: DialTarget,
    resp3: bool,
    config: AsyncConnectionConfig,
    /// The settings of connections to sentinels, without push messages.
    plain: AsyncConnectionConfig,
}

enum DialTarget {
    Listed(Vec<redis::Client>),
    Watched {
        sentinels: Vec<Node>,
        master: String,
        /// The index of the sentinel that named the right master last time.
        first: AtomicUsize,
    },
}

impl Dialer {
    /// Reads the certificate files, if there are any.
    pub(super) fn new(options: &ConnectOptions, resp3: bool) -> Result<Self, CeleryError> {
        let target = match &options.servers {
            Servers::Listed(nodes) => {
                DialTarget::Listed(nodes.iter().map(|node| node.open(resp3)).collect::<Result<_, _>>()?)
            }
            Servers::Watched { sentinels, master } => {
                sentinels[0].open(resp3)?; // so that a missing certificate file is reported at once
                let (sentinels, master) = (sentinels.clone(), master.clone());
                DialTarget::Watched { sentinels, master, first: AtomicUsize::new(0) }
            }
        };
        Ok(Self { target, resp3, config: options.config(), plain: options.config() })
    }

    /// Sends the push messages of the server, and the end of each connection, to `sender`.
    pub(super) fn with_pushes(mut self, sender: impl AsyncPushSender) -> Self {
        self.config = self.config.set_push_sender(sender);
        self
    }

    pub(super) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        match &self.target {
            DialTarget::Listed(clients) if clients.len() == 1 => self.to(&clients[0]).await,
            DialTarget::Listed(clients) => {
                let mut failures = Failures::default();
                for client in clients {
                    match self.to_master(client).await {
                        Ok(link) => return Ok(link),
                        Err(source) => failures.add(source),
                    }
                }
                Err(failures.worst())
            }
            DialTarget::Watched { sentinels, master, first } => {
                self.ask_around(sentinels, master, first).await
            }
        }
    }

    async fn to(&self, client: &redis::Client) -> RedisResult<MultiplexedConnection> {
        client.get_multiplexed_async_connection_with_config(&self.config).await
    }

    /// Connects to a server, and fails unless the server's `ROLE` is master or the user has no right to ask.
    async fn to_master(&self, client: &redis::Client) -> RedisResult<MultiplexedConnection> {
        let mut link = self.to(client).await?;
        match redis::cmd("ROLE").query_async::<Vec<Value>>(&mut link).await {
            Ok(role) if role.first() == Some(&Value::BulkString(b"master".to_vec())) => Ok(link),
            Ok(_) => Err(RedisError::from((ErrorKind::Io, "this server is not the master at the moment"))),
            Err(source) if source.code() == Some("NOPERM") => Ok(link),
            Err(source) => Err(source),
        }
    }

    /// Asks one sentinel after the other until one names a server that is a master.
    async fn ask_around(
        &self,
        sentinels: &[Node],
        master: &str,
        first: &AtomicUsize,
    ) -> RedisResult<MultiplexedConnection> {
        let (mut failures, mut tried) = (Failures::default(), Vec::new());
        for n in 0..sentinels.len() {
            let at = (first.load(Ordering::Relaxed) + n) % sentinels.len();
            let place = match self.ask(&sentinels[at], master).await {
                Ok(place) if tried.contains(&place) => continue,
                Ok(place) => place,
                Err(source) => {
                    failures.add(source);
                    continue;
                }
            };
            let node = sentinels[0].moved(&place.0, place.1);
            let opened = node.open(self.resp3).map_err(|source| {
                RedisError::from((ErrorKind::InvalidClientConfig, "open master", source.to_string()))
            });
            let connected = match opened {
                Ok(client) => self.to_master(&client).await,
                Err(source) => Err(source),
            };
            match connected {
                Ok(link) => {
                    first.store(at, Ordering::Relaxed);
                    return Ok(link);
                }
                Err(source) => failures.add(source),
            }
            tried.push(place);
        }
        Err(failures.worst())
    }

    /// Returns the address of the master, as the sentinel knows it.
    async fn ask(&self, sentinel: &Node, master: &str) -> RedisResult<(String, u16)> {
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        let ask = async |with_login| {
            let client = sentinel.sentinel(with_login).open(false).map_err(|source| {
                RedisError::from((ErrorKind::InvalidClientConfig, "open sentinel", source.to_string()))
            })?;
            let mut link = client.get_multiplexed_async_connection_with_config(&self.plain).await?;
            command.query_async::<Option<(String, u16)>>(&mut link).await
        };
        let answer = match ask(false).await {
            Err(source) if source.code() == Some("NOAUTH") => ask(true).await,
            answer => answer,
        };
        answer?.ok_or_else(|| {
            let unknown = "the sentinels know no master of this name";
            RedisError::from((ErrorKind::InvalidClientConfig, unknown, master.to_owned()))
        })
    }
}

/// Collects the failures of several servers, and keeps the one to report: preferably a transient one, so that the
/// caller tries again.
#[derive(Default)]
struct Failures(Option<RedisError>);

impl Failures {
    fn add(&mut self, source: RedisError) {
        if self.0.is_none() || CeleryError::passes(&source) {
            self.0 = Some(source);
        }
    }

    fn worst(self) -> RedisError {
        self.0.unwrap_or_else(|| RedisError::from((ErrorKind::Io, "no server can be reached")))
    }
}
