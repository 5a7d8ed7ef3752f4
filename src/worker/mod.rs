//! Floor 4: a Celery worker: takes messages, runs them through the engine, stores results, acknowledges.
//!
//! Its one rule: the result is stored before the message is acknowledged, so a crash at any instant
//! repeats and never loses; and what is repeated finds its own work done.

mod about;
mod finish;
mod fleet;
mod judge;
mod lost;
mod orders;
mod outcome;
mod progress;
mod returns;
mod run;
mod slots;
mod task;
mod watch;

pub use fleet::Brokered;
pub use lost::MOST_DEATHS;

use crate::base::backoff::Backoff;
use crate::base::chain;
use crate::celery::CeleryError;
use crate::celery::canvas::Canvas;
use crate::celery::client::{Client, ConnectOptions};
use crate::celery::consumer::{Consumer, Delivery, Notice};
use crate::celery::control::Mailbox;
use crate::celery::events::{Events, Publisher};
use crate::celery::keys::Keys;
use crate::celery::lease::{Instance, Leases};
use crate::celery::message::Envelope;
use crate::celery::node::Node;
use crate::celery::result::Backend;
use crate::celery::sweep::Keeper;
use crate::celery::tasks::Tasks;
use crate::domain::command::Command;
use crate::engine::Engine;
use crate::observe::http::Health;
use crate::observe::metrics::Metrics;

use jiff::Timestamp;
use judge::Judge;
use orders::Orders;
use returns::Returns;
use secrecy::SecretString;
use slots::Slots;
use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
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
    /// The folder in which it is noted which of them were obeyed.
    pub orders: PathBuf,
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
    /// Whether results tell of the call: `result_extended` of Celery.
    pub result_extended: bool,
    /// The broker's visibility timeout as the other workers on it know it.
    pub visibility_timeout: Duration,
    /// Hard time limit of one task, unless its message has another.
    pub time_limit: Option<Duration>,
    /// Whether the events of tasks are sent from the start, as with Celery's `-E`.
    pub task_events: bool,
}

/// How a worker is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Running tasks may finish, for the grace.
    Warm,
    /// They are stopped at once and go back to their queues.
    Cold,
}

/// A worker, connected to nothing before [`run`](Worker::run).
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    publisher: Publisher,
}

/// What every task of the worker uses.
#[derive(Debug)]
struct Shared {
    options: Options,
    engine: Arc<Engine>,
    metrics: Metrics,
    broker: Client,
    keys: Keys,
    leases: Leases,
    /// Another one when the queues change.
    consumer: RwLock<Arc<Consumer>>,
    backend: Backend,
    canvas: Canvas,
    node: Arc<Node>,
    slots: Slots,
    stop: Stop,
    /// Tasks in hand that do not run yet.
    waiting: TaskTracker,
    /// Those of them that wait for their time, which may be many.
    scheduled: TaskTracker,
    returns: Returns,
    orders: Orders,
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
        engine.locks.join(Arc::new(Brokered::new(leases.locks().clone())));
        let mut backend = Backend::new(results, &options.result_prefix, options.result_expires);
        if options.result_extended {
            backend = backend.with_extended(&options.node);
        }
        let (events, publisher) = Events::new(&options.node, broker.clone(), &keys, options.task_events);
        let tasks = Tasks::new(Command::registered(), options.time_limit);
        let about = about::about(&options);
        let node =
            Arc::new(Node::new(&options.node, about, events, tasks, &options.queues, options.concurrency));
        let shared = Shared {
            consumer: RwLock::new(consumer(&leases, &options.queues, &metrics)?),
            canvas: Canvas::new(broker.clone(), keys.clone(), backend.clone()).with_own(Command::is_ours),
            slots: Slots::new(options.concurrency, {
                let node = Arc::clone(&node);
                move || node.changed.notify_one()
            }),
            stop: Stop::default(),
            waiting: TaskTracker::new(),
            scheduled: TaskTracker::new(),
            returns: Returns::default(),
            orders: Orders::new(options.restore_key.clone(), options.orders.clone()),
            options,
            engine,
            metrics,
            broker,
            keys,
            leases,
            backend,
            node,
        };
        Ok(Self { shared: Arc::new(shared), publisher })
    }

    /// Works until `signal` resolves or somebody asks for it by remote control, then lets running tasks
    /// finish for the grace, then stops them and gives their messages back. A second signal, or a
    /// first one that is [`Ending::Cold`], skips the wait.
    ///
    /// `signal` is a parameter so that tests stop a worker without one.
    pub async fn run(self, health: Health, mut signal: impl AsyncFnMut() -> Ending) {
        let Self { shared, publisher } = self;
        let (tasks, keepers, stop_keepers) =
            (TaskTracker::new(), TaskTracker::new(), CancellationToken::new());
        let keeper = Keeper::new(shared.leases.clone(), shared.options.visibility_timeout);
        keepers.spawn(keeper.run(stop_keepers.clone()));
        keepers
            .spawn(stop_keepers.clone().run_until_cancelled_owned(watch::run(Arc::clone(&shared), health)));
        let silence = CancellationToken::new();
        let publishing = tokio::spawn(publisher.run(silence.clone()));
        let mailbox = Mailbox::new(Arc::clone(&shared.node), shared.broker.clone(), shared.keys.clone());
        mailbox.mingle().await;
        keepers.spawn(mailbox.run(stop_keepers.clone()));
        keepers.spawn(beat(Arc::clone(&shared.node), stop_keepers.clone()));
        tracing::info!(
            node = shared.node.name,
            queues = shared.options.queues.join(","),
            concurrency = shared.options.concurrency,
            "worker starts, taking tasks from here on"
        );

        let ending = {
            let taking = take(&shared, &tasks);
            tokio::pin!(taking);
            let ending = tokio::select! {
                () = &mut taking => Ending::Warm,
                ending = signal() => ending,
                () = shared.node.shutdown.cancelled() => {
                    tracing::info!("shutdown by remote control");
                    Ending::Warm
                }
            };
            shared.stop.drain.cancel();
            taking.await; // a claim under way is finished, not dropped
            ending
        };
        tasks.close();
        shared.waiting.close();
        shared.finish(&tasks, ending, &mut signal).await;
        stop_keepers.cancel();
        keepers.close();
        keepers.wait().await;
        silence.cancel(); // the last event is in its queue by now
        let _ = publishing.await;
        tracing::info!("stopped");
    }
}

impl Shared {
    /// Lets running tasks end, or stops them, and gives back what was not done.
    async fn finish(&self, tasks: &TaskTracker, ending: Ending, signal: &mut impl AsyncFnMut() -> Ending) {
        tracing::info!(running = tasks.len(), "taking no more tasks");
        let end = async {
            // What has not begun need not wait for what runs.
            self.waiting.wait().await;
            self.returns.give_all_back(&self.stop.silence).await;
            tasks.wait().await;
        };
        if ending == Ending::Warm {
            tokio::select! {
                () = end => {}
                () = tokio::time::sleep(self.options.grace) => tracing::warn!(running = tasks.len(), "the grace is over, stopping tasks"),
                _ = signal() => tracing::warn!(running = tasks.len(), "second signal, stopping tasks"),
            }
        }
        self.stop.abandon.cancel();
        let end = async {
            tasks.wait().await;
            self.returns.give_all_back(&self.stop.silence).await;
        };
        tokio::pin!(end);
        tokio::select! {
            () = &mut end => {}
            () = tokio::time::sleep(LAST_WORDS) => {
                tracing::error!(running = tasks.len(), "redis does not answer, ending without it");
                self.stop.silence.cancel();
                end.await;
            }
        }
    }

    fn consumer(&self) -> Arc<Consumer> {
        Arc::clone(&self.consumer.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes from other queues from now on.
    fn consume(&self, queues: &[String]) {
        if queues.is_empty() {
            return;
        }
        match consumer(&self.leases, queues, &self.metrics) {
            Ok(made) => {
                tracing::info!(queues = queues.join(","), "takes from other queues from here on");
                *self.consumer.write().unwrap_or_else(PoisonError::into_inner) = made;
            }
            Err(err) => tracing::error!(error = %chain(&err), "cannot take from other queues"),
        }
    }
}

fn consumer(leases: &Leases, queues: &[String], metrics: &Metrics) -> Result<Arc<Consumer>, CeleryError> {
    let consumer = Consumer::new(leases.clone(), queues)?.on_notice(hear(metrics.clone()));
    let metrics = metrics.clone();
    Ok(Arc::new(consumer.on_look(move || metrics.polled(Timestamp::now().as_second()))))
}

async fn beat(node: Arc<Node>, stop: CancellationToken) {
    node.beat(&stop).await;
}

/// Takes messages and starts their tasks, until the worker ends.
async fn take(shared: &Arc<Shared>, tasks: &TaskTracker) {
    let drain = &shared.stop.drain;
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    let judge = Judge::new(shared, tasks);
    let judge = |look: &Envelope, together: &[&Envelope]| judge.verdict(look, together);
    let (mut queues, mut concurrency) = (shared.node.queues.subscribe(), shared.node.concurrency.subscribe());
    while !drain.is_cancelled() {
        if queues.borrow().is_empty() {
            tracing::warn!("no queue is left to take from, until one is added");
            let _ = drain.run_until_cancelled(queues.wait_for(|queues| !queues.is_empty())).await;
            shared.consume(&queues.borrow_and_update());
            continue;
        }
        let consumer = shared.consumer();
        let looking = drain.child_token();
        let next = consumer.next_of(judge::MOST, &judge, &looking);
        tokio::pin!(next);
        let taken = loop {
            tokio::select! {
                taken = &mut next => break taken,
                () = shared.node.changed.notified() => consumer.reconsider(),
                Ok(()) = queues.changed() => {
                    shared.consume(&queues.borrow_and_update());
                    looking.cancel();
                }
                Ok(()) = concurrency.changed() => shared.slots.resize(*concurrency.borrow_and_update()),
            }
        };
        match taken {
            Ok(deliveries) => {
                backoff.reset();
                for delivery in deliveries {
                    let slot = if is_light(&delivery) { None } else { shared.slots.try_take() };
                    let (shared, all) = (Arc::clone(shared), tasks.clone());
                    tasks.spawn(async move {
                        Box::pin(task::handle(Arc::clone(&shared), delivery, slot)).await;
                        if judge::in_hand(&shared, &all) >= judge::LIGHT {
                            shared.node.changed.notify_one(); // more of them may be taken now
                        }
                    });
                }
            }
            Err(err) => {
                // Rights or credentials: somebody has to act, and may do so while we wait.
                tracing::error!(error = %chain(&err), "cannot take tasks");
                drain.run_until_cancelled(tokio::time::sleep(backoff.step())).await;
            }
        }
    }
}

fn is_light(delivery: &Delivery) -> bool {
    delivery.content.as_ref().is_ok_and(|message| Command::is_light(&message.task))
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
