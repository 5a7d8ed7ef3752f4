//! The HTTP endpoint: `/metrics` for Prometheus, `/livez` and `/readyz` for the supervisor that restarts the worker.

use crate::observe::limited_listener::LimitedListener;
use crate::observe::metrics::Metrics;
use axum::{
    Router,
    extract::State,
    http::{HeaderName, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};
use tokio::net::TcpListener;

/// The health of the worker, for the probes.
#[derive(Debug, Clone)]
pub struct Health {
    metrics: Metrics,
    last_turn: Arc<AtomicI64>,
}

/// The time in seconds without a turn of the worker's loop after which the process counts as hung.
///
/// The loop turns every few seconds, also while Redis is unavailable.
const HUNG_AFTER: i64 = 120;

/// The time in seconds without a look at the queues after which the worker is not ready, although the broker answers.
///
/// The worker looks at the queues every few seconds.
const LATE_AFTER: i64 = 60;

impl Health {
    /// Creates a health that is alive as of `now`, in Unix seconds.
    pub fn new(metrics: Metrics, now: i64) -> Self {
        Self { metrics, last_turn: Arc::new(AtomicI64::new(now)) }
    }

    /// Records a turn of the worker's loop at `now`, in Unix seconds.
    pub fn turned(&self, now: i64) {
        self.last_turn.store(now, Ordering::Relaxed);
    }

    /// Returns the reasons, one per line, why the worker takes no tasks or cannot store a backup; `None` if there are
    /// none.
    fn not_ready(&self, now: i64) -> Option<String> {
        let mut why = String::new();
        if !self.metrics.is_broker_connected() {
            why.push_str("not connected to the broker\n");
        } else if now - self.metrics.last_poll() >= LATE_AFTER {
            why.push_str("the broker answers, but no tasks are taken: the log says why\n");
        }
        for (destination, reason) in self.metrics.closed_destinations() {
            why.push_str(&format!("the destination {destination} cannot be used: {reason}\n"));
        }
        (!why.is_empty()).then_some(why)
    }

    fn is_alive(&self, now: i64) -> bool {
        now - self.last_turn.load(Ordering::Relaxed) < HUNG_AFTER
    }
}

/// Serves HTTP until the process ends, with a limited number of connections. The caller binds the listener, and so
/// knows the port.
///
/// # Errors
///
/// An error if the listener fails.
pub async fn serve(listener: TcpListener, health: Health) -> io::Result<()> {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(health);
    axum::serve(LimitedListener::new(listener), routes).await
}

/// The content type of the text format, without which Prometheus 3 rejects a scrape.
const TEXT_FORMAT: [(HeaderName, &str); 1] = [(CONTENT_TYPE, prometheus::TEXT_FORMAT)];

async fn metrics(State(health): State<Health>) -> Response {
    match health.metrics.render() {
        Ok(text) => (TEXT_FORMAT, text).into_response(),
        Err(err) => (StatusCode::INTERNAL_SERVER_ERROR, err.to_string()).into_response(),
    }
}

async fn livez(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.is_alive(jiff::Timestamp::now().as_second()) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the worker's loop has stopped turning\n")
    }
}

async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    match health.not_ready(jiff::Timestamp::now().as_second()) {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

#[test]
fn a_loop_that_stands_still_is_no_longer_alive() {
    let health = Health::new(Metrics::new("test").unwrap(), 1_000);
    assert!(health.is_alive(1_000 + HUNG_AFTER - 1) && !health.is_alive(1_000 + HUNG_AFTER));
    health.turned(2_000);
    assert!(health.is_alive(2_000));
}

#[test]
fn who_looks_at_no_queue_is_not_ready_though_the_broker_answers() {
    use crate::engine::RunObserver as _;
    let metrics = Metrics::new("test").unwrap();
    let health = Health::new(metrics.clone(), 1_000);
    assert!(health.not_ready(1_000).is_some_and(|why| why.starts_with("not connected")));
    metrics.broker(true, 0);
    assert!(health.not_ready(1_000).is_some_and(|why| why.contains("no tasks are taken")));
    metrics.polled(1_000);
    assert_eq!(health.not_ready(1_000 + LATE_AFTER - 1), None);
    assert!(health.not_ready(1_000 + LATE_AFTER).is_some());
    metrics.destination("s3", Err("no such bucket".to_owned()));
    let why = health.not_ready(1_000).expect("a destination is closed");
    assert_eq!(why, "the destination s3 cannot be used: no such bucket\n");
    assert!(health.is_alive(1_000), "a restart would not help");
}
