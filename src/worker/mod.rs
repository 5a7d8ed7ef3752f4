//! Floor 4: a Celery worker: takes messages, runs them through the engine, stores results, acknowledges.
//!
//! The one rule of the worker: a result is stored before its message is acknowledged, so a crash at any instant
//! repeats a task and never loses one; and a repeated task finds its work done.

mod eta;
mod finish;
mod fleet;
mod judge;
mod lease_returner;
mod lost;
mod node_info;
mod options;
mod orders;
mod outcome;
mod progress;
mod run;
mod slots;
mod task;
mod watch;

pub use fleet::RedisFleet;
pub use lost::MOST_DEATHS;
pub(crate) use node_info::{SOFTWARE, VERSION};
pub use options::Options;
pub use watch::option_setting;

use crate::base::backoff::Backoff;
use crate::base::chain;
use crate::celery::CeleryError;
use crate::celery::canvas::Canvas;
use crate::celery::client::Client;
use crate::celery::consumer::{Consumer, Delivery, Notice};
use crate::celery::control::Mailbox;
use crate::celery::events::{Events, Publisher};
use crate::celery::keys::Keys;
use crate::celery::lease::{Instance, Leases};
use crate::celery::message::Envelope;
use crate::celery::node::Node;
use crate::celery::result::Backend;
use crate::celery::sweep::LeaseKeeper;
use crate::celery::tasks::Tasks;
use crate::domain::command::Command;
use crate::engine::Engine;
use crate::observe::http::Health;
use crate::observe::metrics::Metrics;

use eta::EtaMemory;
use jiff::Timestamp;
use judge::Judge;
use lease_returner::LeaseReturner;
use orders::Orders;
use slots::Slots;
use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The time limit of storing results after tasks were told to stop; then the process ends even without Redis.
/// Messages that are not acknowledged by then are delivered again.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// The kind of shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Running tasks may finish within [`Options::grace`].
    Warm,
    /// Running tasks are stopped at once, and their messages go back to their queues.
    Cold,
}

/// A worker, which connects to Redis in [`run`](Worker::run).
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    publisher: Publisher,
}

/// The state that all tasks of the worker share.
#[derive(Debug)]
struct Shared {
    options: Options,
    engine: Arc<Engine>,
    metrics: Metrics,
    broker: Client,
    keys: Keys,
    leases: Leases,
    /// The current consumer, which is replaced when the queues change.
    consumer: RwLock<Arc<Consumer>>,
    backend: Backend,
    canvas: Canvas,
    node: Arc<Node>,
    slots: Slots,
    stop: Stop,
    /// The tasks in hand that do not run yet.
    waiting: TaskTracker,
    /// The waiting tasks that wait for their eta; there may be many of them.
    scheduled: TaskTracker,
    eta_memory: EtaMemory,
    returner: LeaseReturner,
    orders: Orders,
}

/// The three steps of a shutdown.
#[derive(Debug, Clone, Default)]
struct Stop {
    /// Take no more messages.
    drain: CancellationToken,
    /// Stop running tasks: child processes are killed, partial files removed, and messages put back.
    abandon: CancellationToken,
    /// Stop waiting for Redis.
    silence: CancellationToken,
}

impl Worker {
    /// Creates a worker.
    ///
    /// # Errors
    ///
    /// An error if a certificate file of a `rediss://` URL cannot be read.
    pub fn new(options: Options, engine: Arc<Engine>, metrics: Metrics) -> Result<Self, CeleryError> {
        let broker = Client::new(options.broker.clone())?;
        let results = Client::new(options.backend.clone())?;
        let keys = options.keys();
        let leases = Leases::new(broker.clone(), keys.clone(), Instance::here(&options.node));
        engine.locks.join(Arc::new(RedisFleet::new(leases.locks().clone())));
        let mut backend =
            Backend::new(results, &options.result_prefix, options.result_expires).with_namespace(SOFTWARE);
        if options.result_extended {
            backend = backend.with_extended(&options.node);
        }
        let (events, publisher) = Events::new(&options.node, broker.clone(), &keys, options.task_events);
        let tasks = Tasks::new(Command::registered(), options.time_limit);
        let about = node_info::node_info(&options);
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
            eta_memory: EtaMemory::default(),
            returner: LeaseReturner::default(),
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

    /// Runs until `signal` resolves or remote control asks for a shutdown. Then lets running tasks finish within the
    /// grace, then stops them and puts their messages back. A second signal, or a first one that is [`Ending::Cold`],
    /// skips the grace.
    ///
    /// `signal` is a parameter so that tests can stop a worker without a process signal.
    pub async fn run(self, health: Health, mut signal: impl AsyncFnMut() -> Ending) {
        let Self { shared, publisher } = self;
        let (tasks, keepers, stop_keepers) =
            (TaskTracker::new(), TaskTracker::new(), CancellationToken::new());
        let keeper = LeaseKeeper::new(shared.leases.clone(), shared.options.visibility_timeout);
        keepers.spawn(keeper.run(stop_keepers.clone()));
        keepers
            .spawn(stop_keepers.clone().run_until_cancelled_owned(watch::run(Arc::clone(&shared), health)));
        keepers.spawn(stop_keepers.clone().run_until_cancelled_owned(watch::strays(Arc::clone(&shared))));
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
    /// Lets running tasks end, or stops them, and puts back the messages of tasks that were not done.
    async fn finish(&self, tasks: &TaskTracker, ending: Ending, signal: &mut impl AsyncFnMut() -> Ending) {
        tracing::info!(running = tasks.len(), "taking no more tasks");
        let end = async {
            // Messages of tasks that have not begun are put back first, without waiting for the running tasks.
            self.waiting.wait().await;
            self.returner.give_all_back(&self.stop.silence).await;
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
            self.returner.give_all_back(&self.stop.silence).await;
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

    /// Consumes these queues from now on, instead of the previous ones.
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
    let verdict = |look: &Envelope, together: &[&Envelope]| judge.verdict(look, together);
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
        let next = consumer.next_of(judge::MOST, &verdict, &looking);
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
                    judge.taken(&delivery);
                    let slot = if is_light(&delivery) { None } else { shared.slots.try_take() };
                    let (shared, all) = (Arc::clone(shared), tasks.clone());
                    tasks.spawn(async move {
                        task::handle(Arc::clone(&shared), Box::new(delivery), slot).await;
                        if judge::in_hand(&shared, &all) >= judge::LIGHT {
                            shared.node.changed.notify_one(); // more light tasks may be taken now
                        }
                    });
                }
            }
            Err(err) => {
                // Missing rights or wrong credentials: an operator must act, and may do so while the worker waits.
                tracing::error!(error = %chain(&err), "cannot take tasks");
                drain.run_until_cancelled(tokio::time::sleep(backoff.step())).await;
            }
        }
    }
}

fn is_light(delivery: &Delivery) -> bool {
    delivery.content.as_ref().is_ok_and(|message| Command::is_light(&message.task))
}

/// Returns the function that writes a consumer's notices to logs and metrics.
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
