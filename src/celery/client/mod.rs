//! A connection to Redis that comes back by itself.

mod dialer;
mod node;
mod options;

use super::CeleryError;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, FromRedisValue, PushInfo, RedisError, RedisResult, ScriptInvocation};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{
    fmt,
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use dialer::Dialer;

pub(super) use options::CONNECT_TIMEOUT;
pub use options::{ConnectOptions, Endpoint};

/// Waits between attempts: 100 ms, doubling up to 1 s, for ever.
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

/// A connection to Redis, shared by its clones, that is made when first needed and made anew after
/// a loss.
///
/// Every command that failed for the connection's sake drops it; the next one connects again.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    options: ConnectOptions,
    dialer: Dialer,
    setup: Option<PreparedSetup>,
    current: Mutex<Option<Connection>>,
    connected: watch::Sender<bool>,
    connects: AtomicU64,
}

#[derive(Clone)]
struct Connection {
    number: u64,
    link: MultiplexedConnection,
}

/// What a connection is to announce, and to whom.
pub(super) struct Setup {
    /// Hears what the server pushes, and the end of the connection. Must not block.
    pub(super) on_push: Arc<dyn Fn(PushInfo) + Send + Sync>,
    /// Sent first on every new connection.
    pub(super) command: Cmd,
}

/// A setup with the RESP3 client that it needs.
struct PreparedSetup {
    dialer: Dialer,
    command: Cmd,
    refusal: std::sync::Mutex<Option<String>>,
}

impl PreparedSetup {
    /// A connection that announces, or else a plain one and the note that it does not.
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
    /// Prepares a client; connects when first used.
    ///
    /// # Errors
    ///
    /// [`CeleryError::Config`] when a certificate file cannot be read.
    pub fn new(options: ConnectOptions) -> Result<Self, CeleryError> {
        Self::build(options, None)
    }

    /// A second connection with the same options, which announces what `setup` asks for.
    pub(super) fn with_pushes(&self, setup: Setup) -> Result<Self, CeleryError> {
        Self::build(self.0.options.clone(), Some(setup))
    }

    fn build(options: ConnectOptions, setup: Option<Setup>) -> Result<Self, CeleryError> {
        let prepare = |Setup { on_push, command }: Setup| {
            let push = move |push| {
                on_push(push);
                Ok::<_, redis::aio::SendError>(())
            };
            let dialer = Dialer::new(&options, true)?.with_pushes(push);
            Ok(PreparedSetup { dialer, command, refusal: std::sync::Mutex::default() })
        };
        let setup = setup.map(prepare).transpose()?;
        let (connected, _) = watch::channel(false);
        Ok(Self(Arc::new(Shared {
            dialer: Dialer::new(&options, false)?,
            options,
            setup,
            current: Mutex::default(),
            connected,
            connects: AtomicU64::new(0),
        })))
    }

    /// Where it connects to.
    pub fn options(&self) -> &ConnectOptions {
        &self.0.options
    }

    /// Why the server does not announce what was asked for, on the current connection.
    pub(super) fn refusal(&self) -> Option<String> {
        let setup = self.0.setup.as_ref()?;
        setup.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the last command, or attempt to connect, reached Redis; changes when that does.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.0.connected.subscribe()
    }

    /// How many times the connection was made anew after the first time.
    pub fn reconnects(&self) -> u64 {
        self.connects().saturating_sub(1)
    }

    /// How many connections were made; a change means that the connection is another one.
    pub(super) fn connects(&self) -> u64 {
        self.0.connects.load(Ordering::Relaxed)
    }

    /// Asks Redis whether it is there, once.
    ///
    /// # Errors
    ///
    /// As [`once`](Self::once).
    pub async fn ping(&self) -> Result<(), CeleryError> {
        self.command("ping redis", &redis::cmd("PING")).await
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
    /// [`CeleryError::is_transient`] tells whether another attempt makes sense; after a transient
    /// error it is unknown whether the call took effect.
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

    /// The current connection, or a new one. Those who come while one is being made wait for it.
    async fn connection(&self) -> RedisResult<Connection> {
        let mut current = self.0.current.lock().await;
        if let Some(connection) = &*current {
            return Ok(connection.clone());
        }
        let made = match &self.0.setup {
            Some(setup) => setup.connect(&self.0).await,
            None => self.0.dialer.connect().await,
        };
        self.reached(made.is_ok());
        let connection = Connection {
            number: self.0.connects.fetch_add(u64::from(made.is_ok()), Ordering::Relaxed),
            link: made?,
        };
        Ok(current.insert(connection).clone())
    }

    /// Forgets the connection if `source` says that it, not the command, is the fault.
    async fn note_failure(&self, number: u64, source: &RedisError) {
        let only_the_command = match source.kind() {
            // After a failover the name of the master leads elsewhere.
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

    /// Tells news alone: who hears of a loss asks again, and would do so without end if each answer were news.
    fn reached(&self, yes: bool) {
        self.0.connected.send_if_modified(|was| std::mem::replace(was, yes) != yes);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.0.options).finish()
    }
}
