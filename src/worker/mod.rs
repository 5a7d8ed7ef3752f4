//! Floor 4: a Celery worker: takes messages, runs them through the engine, stores results, acknowledges.
//!
//! Its one rule: the result is stored before the message is acknowledged, so a crash at any instant
//! repeats and never loses; and what is repeated finds its own work done.

mod outcome;
mod progress;
mod slots;
mod task;
mod watch;

use crate::base::backoff::Backoff;
use crate::base::chain;
use crate::celery::CeleryError;
use crate::celery::client::{Client, ConnectOptions};
use crate::celery::consumer::{Consumer, Notice, Verdict};
use crate::celery::keys::Keys;
use crate::celery::lease::{Instance, Leases};
use crate::celery::message::Envelope;
use crate::celery::result::Backend;
use crate::celery::sweep::Keeper;
use crate::domain::command::Command;
use crate::engine::Engine;
use crate::observe::http::Health;
use crate::observe::metrics::Metrics;
use secrecy::SecretString;
use slots::Slots;
use std::{future::Future, sync::Arc, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// After tasks were told to stop, for so long results may still be stored; then the process ends
/// also without Redis. What was not acknowledged by then is delivered again.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Settings of a worker.
#[derive(Debug, Clone)]
pub struct Options {
    /// Celery node name, `backup@host`.
    pub node: String,
    /// Queues to consume, in this order within each priority.
    pub queues: Vec<String>,
    /// Tasks at once.
    pub concurrency: usize,
    /// Tries after the first one.
    pub max_retries: u32,
    /// Wait before each of them.
    pub retry_delay: Duration,
    /// Secret that orders which delete or overwrite must be signed with, if there is one.
    pub restore_key: Option<SecretString>,
    /// How long running tasks may go on after the first signal.
    pub grace: Duration,
    /// Where messages come from.
    pub broker: ConnectOptions,
    /// Where results go.
    pub backend: ConnectOptions,
    /// `global_keyprefix` of the broker's transport options.
    pub broker_prefix: String,
    /// `global_keyprefix` of the result backend's transport options.
    pub result_prefix: String,
    /// Life of a result; zero: for ever.
    pub result_expires: Duration,
    /// The broker's visibility timeout as the other workers on it know it.
    pub visibility_timeout: Duration,
}

/// A worker, connected to nothing before [`run`](Worker::run).
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    consumer: Arc<Consumer>,
    leases: Leases,
}

/// What every task of the worker uses.
#[derive(Debug)]
struct Shared {
    options: Options,
    engine: Arc<Engine>,
    metrics: Metrics,
    broker: Client,
    keys: Keys,
    backend: Backend,
    slots: Slots,
    stop: Stop,
}

/// The steps of stopping.
#[derive(Debug, Clone, Default)]
struct Stop {
    /// Take no new work.
    drain: CancellationToken,
    /// Give up work in hand: children are killed, partial files removed, messages go back.
    abandon: CancellationToken,
    /// Wait for Redis no longer.
    silence: CancellationToken,
}

impl Worker {
    /// Puts a worker together.
    ///
    /// # Errors
    ///
    /// When a certificate file of a `rediss://` URL cannot be read.
    pub fn new(options: Options, engine: Arc<Engine>, metrics: Metrics) -> Result<Self, CeleryError> {
        let broker = Client::new(options.broker.clone())?;
        let results = Client::new(options.backend.clone())?;
        let keys = Keys::new(&options.broker_prefix);
        let leases = Leases::new(broker.clone(), keys.clone(), Instance::here(&options.node));
        let consumer = Consumer::new(leases.clone(), &options.queues)?.on_notice(hear(metrics.clone()));
        let consumer = Arc::new(consumer);
        let shared = Shared {
            backend: Backend::new(results, &options.result_prefix, options.result_expires),
            slots: Slots::new(options.concurrency, {
                let consumer = Arc::clone(&consumer);
                move || consumer.reconsider()
            }),
            stop: Stop::default(),
            options,
            engine,
            metrics,
            broker,
            keys,
        };
        Ok(Self { shared: Arc::new(shared), consumer, leases })
    }

    /// Works until `trigger` resolves, then lets running tasks finish for the grace, then stops them
    /// and gives their messages back. A second trigger skips the wait.
    ///
    /// `trigger` is a parameter so that tests stop a worker without a signal.
    pub async fn run<F: Future>(self, health: Health, mut trigger: impl FnMut() -> F) {
        let stop = self.shared.stop.clone();
        let (tasks, keepers) = (TaskTracker::new(), TaskTracker::new());
        let keeper_stop = CancellationToken::new();
        let keeper = Keeper::new(self.leases.clone(), self.shared.options.visibility_timeout);
        keepers.spawn(keeper.run(keeper_stop.clone()));
        let watch = watch::run(Arc::clone(&self.shared), Arc::clone(&self.consumer), health);
        keepers.spawn(keeper_stop.clone().run_until_cancelled_owned(watch));
        tracing::info!(
            node = self.shared.options.node,
            queues = self.shared.options.queues.join(","),
            concurrency = self.shared.options.concurrency,
            "worker starts, taking tasks from here on"
        );

        let taking = self.take(&tasks);
        tokio::pin!(taking);
        tokio::select! {
            () = &mut taking => {}
            _ = trigger() => {
                stop.drain.cancel();
                taking.await; // a claim under way is finished, not dropped
            }
        }
        tasks.close();
        tracing::info!(running = tasks.len(), "taking no more tasks");
        tokio::select! {
            () = tasks.wait() => {}
            () = tokio::time::sleep(self.shared.options.grace) => tracing::warn!(running = tasks.len(), "the grace is over, stopping tasks"),
            _ = trigger() => tracing::warn!(running = tasks.len(), "second signal, stopping tasks"),
        }
        stop.abandon.cancel();
        tokio::select! {
            () = tasks.wait() => {}
            () = tokio::time::sleep(LAST_WORDS) => {
                tracing::error!(running = tasks.len(), "redis does not answer, ending without it");
                stop.silence.cancel();
                tasks.wait().await;
            }
        }
        keeper_stop.cancel();
        keepers.close();
        keepers.wait().await;
        tracing::info!("stopped");
    }

    /// Takes one message after the other for as long as there is a free slot.
    async fn take(&self, tasks: &TaskTracker) {
        let drain = &self.shared.stop.drain;
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let judge = |look: &Envelope| judge(&self.shared.slots, look);
        while let Some(slot) = self.shared.slots.free(drain).await {
            let looking = drain.child_token();
            let next = self.consumer.next(&judge, &looking);
            tokio::pin!(next);
            let taken = tokio::select! {
                taken = &mut next => taken,
                () = self.shared.slots.wanted() => {
                    looking.cancel();
                    next.await // a claim under way is finished, not dropped
                }
            };
            match taken {
                Ok(Some(delivery)) => {
                    backoff.reset();
                    tasks.spawn(task::handle(Arc::clone(&self.shared), delivery, slot));
                }
                Ok(None) if drain.is_cancelled() => return,
                // A task in hand whose time has come goes first: it is next in line for the place.
                Ok(None) => drop(slot),
                Err(err) => {
                    // Rights or credentials: somebody has to act, and may do so while we wait.
                    tracing::error!(error = %chain(&err), "cannot take tasks");
                    let wait = drain.run_until_cancelled(tokio::time::sleep(backoff.step()));
                    if wait.await.is_none() {
                        return;
                    }
                }
            }
        }
    }
}

/// Whether a queue entry is ours to take, by the name of its task alone.
fn judge(slots: &Slots, look: &Envelope) -> Verdict {
    if !Command::is_ours(&look.task) {
        return Verdict::Foreign;
    }
    match Command::occupies(&look.task) {
        Some(component) if slots.is_busy(component) => Verdict::Later,
        _ => Verdict::Take,
    }
}

/// What the consumer says goes to logs and metrics.
fn hear(metrics: Metrics) -> impl Fn(Notice) + Send + Sync + 'static {
    move |notice| match notice {
        Notice::Unreadable { queue, why, bytes } => {
            metrics.unreadable(1);
            tracing::warn!(
                queue,
                why,
                bytes,
                "a queue entry is no task message, moved it to the list {queue}.unreadable"
            );
        }
        Notice::Polling { why } => {
            tracing::warn!(why, "redis does not announce new messages, looking every 100 ms instead");
        }
        Notice::Lost { why } => tracing::warn!(why, "the broker is gone, trying again until it is back"),
        Notice::Back => tracing::info!("the broker is back"),
    }
}
