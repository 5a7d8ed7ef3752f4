//! A connection to Redis that reconnects by itself.

mod dialer;
mod node;
mod options;

use super::CeleryError;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, FromRedisValue, PushInfo, RedisError, RedisResult, Script, ScriptInvocation};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{
    fmt,
    sync::{Arc, LazyLock, PoisonError},
    time::Duration,
};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use dialer::Dialer;

pub(super) use options::CONNECT_TIMEOUT;
pub use options::{ConnectOptions, Endpoint};

/// The waits between attempts: 100 ms, doubling up to 1 s, without a limit on attempts.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) const START: Self = Self(Duration::from_millis(100));

    /// The wait before the next attempt.
    pub(super) fn step(&mut self) -> Duration {
        let next = (self.0 * 2).min(Duration::from_secs(1));
        std::mem::replace(&mut self.0, next)
    }
}

/// A connection to Redis, shared by the clones of the client. The connection is made at the first command, and made
/// again after a loss.
///
/// A command that failed because of the connection drops the connection; the next command connects again.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    options: ConnectOptions,
    dialer: Dialer,
    subscription: Option<PreparedSubscription>,
    current: Mutex<Option<Connection>>,
    connected: watch::Sender<bool>,
    connects: AtomicU64,
}

#[derive(Clone)]
struct Connection {
    number: u64,
    link: MultiplexedConnection,
}

/// A subscription of a connection: the command that starts the push messages, and the function that gets them.
pub(super) struct PushSubscription {
    /// Called with each push message of the server, and at the end of the connection. Must not block.
    pub(super) on_push: Arc<dyn Fn(PushInfo) + Send + Sync>,
    /// The command that is sent first on every new connection.
    pub(super) command: Cmd,
}

/// A [`PushSubscription`] with the RESP3 dialer that push messages need.
struct PreparedSubscription {
    dialer: Dialer,
    command: Cmd,
    refusal: std::sync::Mutex<Option<String>>,
}

impl PreparedSubscription {
    /// Connects with push messages. If the server refuses those, keeps a connection without them and the server's
    /// refusal.
    async fn connect(&self, plain: &Shared) -> RedisResult<MultiplexedConnection> {
        let (link, refusal) = match self.dialer.connect().await {
            Ok(mut link) => match self.command.exec_async(&mut link).await {
                Err(source) if matches!(source.kind(), ErrorKind::Server(_) | ErrorKind::Extension) => {
                    (link, Some(source.to_string()))
                }
                sent => sent.map(|()| (link, None))?,
            },
            Err(source) if source.kind() == ErrorKind::RESP3NotSupported => {
                (plain.dialer.connect().await?, Some(source.to_string()))
            }
            Err(source) => return Err(source),
        };
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
        Ok(link)
    }
}

impl Client {
    /// Creates a client, which connects at its first command.
    ///
    /// # Errors
    ///
    /// [`CeleryError::Config`] when a certificate file cannot be read.
    pub fn new(options: ConnectOptions) -> Result<Self, CeleryError> {
        Self::build(options, None)
    }

    /// Creates a second client with the same options, which receives the push messages of `subscription`.
    pub(super) fn with_pushes(&self, subscription: PushSubscription) -> Result<Self, CeleryError> {
        Self::build(self.0.options.clone(), Some(subscription))
    }

    fn build(options: ConnectOptions, subscription: Option<PushSubscription>) -> Result<Self, CeleryError> {
        let prepare = |PushSubscription { on_push, command }: PushSubscription| {
            let push = move |push| {
                on_push(push);
                Ok::<_, redis::aio::SendError>(())
            };
            let dialer = Dialer::new(&options, true)?.with_pushes(push);
            Ok(PreparedSubscription { dialer, command, refusal: std::sync::Mutex::default() })
        };
        let subscription = subscription.map(prepare).transpose()?;
        let (connected, _) = watch::channel(false);
        Ok(Self(Arc::new(Shared {
            dialer: Dialer::new(&options, false)?,
            options,
            subscription,
            current: Mutex::default(),
            connected,
            connects: AtomicU64::new(0),
        })))
    }

    /// The options that the client connects with.
    pub fn options(&self) -> &ConnectOptions {
        &self.0.options
    }

    /// The server's refusal to send push messages on the current connection, if the server refused.
    pub(super) fn refusal(&self) -> Option<String> {
        let subscription = self.0.subscription.as_ref()?;
        subscription.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A channel that is `true` while the last command or attempt to connect reached Redis. Receivers are notified of
    /// changes only.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.0.connected.subscribe()
    }

    /// The number of connections made after the first one.
    pub fn reconnects(&self) -> u64 {
        self.connects().saturating_sub(1)
    }

    /// The number of connections made. A changed number means that the current connection is a new one.
    pub(super) fn connects(&self) -> u64 {
        self.0.connects.load(Ordering::Relaxed)
    }

    /// Sends `PING` to Redis, once.
    ///
    /// # Errors
    ///
    /// As [`once`](Self::once).
    pub async fn ping(&self) -> Result<(), CeleryError> {
        self.command("ping redis", &redis::cmd("PING")).await
    }

    /// The policy by which Redis may evict keys, when its memory is limited and the policy is another than `noeviction`;
    /// `None` also where the user may not ask.
    ///
    /// # Errors
    ///
    /// As [`once`](Self::once), except for a refusal.
    pub async fn evicts(&self) -> Result<Option<String>, CeleryError> {
        let info: String = match self.command("ask redis", redis::cmd("INFO").arg("memory")).await {
            Err(CeleryError::Refused { .. }) => return Ok(None),
            answer => answer?,
        };
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let is_limited = field("maxmemory").is_some_and(|bytes| bytes != "0");
        let policy = field("maxmemory_policy").filter(|policy| is_limited && *policy != "noeviction");
        Ok(policy.map(str::to_owned))
    }

    /// Runs a script that does nothing, to find out whether the user may run scripts.
    ///
    /// # Errors
    ///
    /// As [`once`](Self::once).
    pub async fn try_script(&self) -> Result<(), CeleryError> {
        static NOTHING: LazyLock<Script> = LazyLock::new(|| Script::new("return redis.status_reply('OK')"));
        self.script("run a script on redis", &NOTHING.prepare_invoke()).await
    }

    /// Sends one command, once.
    ///
    /// # Errors
    ///
    /// As [`once`](Self::once).
    pub async fn command<T: FromRedisValue>(
        &self,
        op: &'static str,
        command: &Cmd,
    ) -> Result<T, CeleryError> {
        self.once(op, |mut link| async move { command.query_async(&mut link).await }).await
    }

    /// Runs a script, once.
    ///
    /// # Errors
    ///
    /// As [`once`](Self::once).
    pub async fn script<T: FromRedisValue>(
        &self,
        op: &'static str,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, CeleryError> {
        self.once(op, |mut link| async move { script.invoke_async(&mut link).await }).await
    }

    /// Runs a script, which must be safe to repeat, until Redis has answered or `stop` fires.
    ///
    /// # Errors
    ///
    /// As [`retrying`](Self::retrying).
    pub async fn script_retrying<T: FromRedisValue>(
        &self,
        op: &'static str,
        stop: &CancellationToken,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, CeleryError> {
        self.retrying(op, stop, |mut link| async move { script.invoke_async(&mut link).await }).await
    }

    /// Runs `call` once, connecting first if need be.
    ///
    /// # Errors
    ///
    /// An error; [`CeleryError::is_transient`] is true if another attempt may succeed. After a transient error it is
    /// unknown whether the call took effect.
    pub async fn once<T, F: Future<Output = RedisResult<T>>>(
        &self,
        op: &'static str,
        call: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, CeleryError> {
        let connection = self.connection().await.map_err(|source| CeleryError::from_redis(op, source))?;
        match call(connection.link).await {
            Ok(value) => Ok(value),
            Err(source) => {
                self.note_failure(connection.number, &source).await;
                Err(CeleryError::from_redis(op, source))
            }
        }
    }

    /// Runs `call`, which must be safe to repeat, until Redis has answered or `stop` fires.
    ///
    /// # Errors
    ///
    /// [`CeleryError::Stopped`], or a permanent error of Redis.
    pub async fn retrying<T, F: Future<Output = RedisResult<T>>>(
        &self,
        op: &'static str,
        stop: &CancellationToken,
        mut call: impl FnMut(MultiplexedConnection) -> F,
    ) -> Result<T, CeleryError> {
        let mut backoff = Backoff::START;
        loop {
            match self.once(op, &mut call).await {
                Err(error) if error.is_transient() => {}
                settled => return settled,
            }
            tokio::select! {
                () = stop.cancelled() => return Err(CeleryError::Stopped { op }),
                () = tokio::time::sleep(backoff.step()) => {}
            }
        }
    }

    /// Returns the current connection, or makes a new one. Other callers wait while a connection is being made.
    async fn connection(&self) -> RedisResult<Connection> {
        let mut current = self.0.current.lock().await;
        if let Some(connection) = &*current {
            return Ok(connection.clone());
        }
        let made = match &self.0.subscription {
            Some(subscription) => subscription.connect(&self.0).await,
            None => self.0.dialer.connect().await,
        };
        self.reached(made.is_ok());
        let connection = Connection {
            number: self.0.connects.fetch_add(u64::from(made.is_ok()), Ordering::Relaxed),
            link: made?,
        };
        Ok(current.insert(connection).clone())
    }

    /// Drops the connection if `source` is a fault of the connection and not of the command.
    async fn note_failure(&self, number: u64, source: &RedisError) {
        let only_the_command = match source.kind() {
            // After a failover the old master answers so; a new connection reaches the new master.
            ErrorKind::Server(_) => !matches!(CeleryError::code(source), Some("READONLY" | "MASTERDOWN")),
            ErrorKind::Extension | ErrorKind::UnexpectedReturnType | ErrorKind::Client => true,
            _ => false,
        };
        if !only_the_command {
            self.forget(number).await;
        }
    }

    async fn forget(&self, number: u64) {
        let mut current = self.0.current.lock().await;
        if current.as_ref().is_some_and(|connection| connection.number == number) {
            *current = None;
            self.reached(false);
        }
    }

    /// Notifies receivers of changes only: a receiver that learns of a loss sends a command, and would do so for ever
    /// if each failure notified it again.
    fn reached(&self, yes: bool) {
        self.0.connected.send_if_modified(|was| std::mem::replace(was, yes) != yes);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.0.options).finish()
    }
}
