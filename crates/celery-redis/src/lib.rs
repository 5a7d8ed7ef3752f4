//! The Celery protocol over Redis, for workers that are written in Rust.
//!
//! [`client`] keeps a connection, [`consumer`] takes messages without ever losing one, [`message`] parses messages,
//! [`lease`] acknowledges or requeues taken messages, [`sweep`] requeues the messages of dead workers, [`result`]
//! stores the results that `AsyncResult` reads, [`publish`] sends new tasks and retries, and [`canvas`] sends the
//! callbacks and chain steps that follow a task. A [`node`] is the worker as other programs on the broker see the
//! worker: [`control`] answers their requests, [`events`] publishes to them, and [`lock`] keeps the workers of a
//! fleet from doing the same work at once.
//!
//! Keys that neither kombu nor Celery knows begin with a namespace of the program, see [`keys::Keys`].
//!
//! A worker in its smallest form:
//!
//! ```no_run
//! use celery_redis::client::{Client, ConnectOptions};
//! use celery_redis::consumer::{Consumer, Verdict};
//! use celery_redis::keys::Keys;
//! use celery_redis::lease::{Instance, Leases};
//! use celery_redis::result::{Backend, State, TaskResult};
//! use celery_redis::sweep::LeaseKeeper;
//! use std::time::Duration;
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn run() -> Result<(), celery_redis::CeleryError> {
//! let client = Client::new(ConnectOptions::parse("redis://localhost:6379/0")?)?;
//! let leases = Leases::new(client.clone(), Keys::default(), Instance::here("worker@lab"));
//! let results = Backend::new(client.clone(), "", Duration::from_secs(86_400));
//! let stop = CancellationToken::new();
//! tokio::spawn(LeaseKeeper::new(leases.clone(), Duration::from_secs(3600)).run(stop.clone()));
//!
//! let consumer = Consumer::new(leases, &["reports".to_owned()])?;
//! let ours = |look: &_| Verdict::take_if(look, |task| task == "celery.ping");
//! while let Some(delivery) = consumer.next(&ours, &stop).await? {
//!     let result = match &delivery.content {
//!         Ok(message) => TaskResult::new(&message.id, State::Success, "pong".into()),
//!         Err(refusal) => TaskResult::failure(&refusal.id, &refusal.exception, None),
//!     };
//!     results.store(&result, &stop).await?;
//!     delivery.lease.ack(&stop).await?;
//! }
//! # Ok(())
//! # }
//! ```

pub mod canvas;
pub mod client;
mod clock;
pub mod consumer;
pub mod control;
mod delivery_deaths;
pub mod error;
pub mod events;
mod instance;
mod json;
pub mod keys;
pub mod lease;
pub mod lock;
pub mod message;
pub mod node;
pub mod publish;
pub mod repr;
pub mod requests;
mod restore;
pub mod result;
pub mod revoked;
mod route;
pub mod strays;
pub mod sweep;
pub mod tasks;

pub use clock::Clock;
pub use error::CeleryError;
