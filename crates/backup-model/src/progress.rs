//! Progress and warnings of a run: written by whoever does the work, read by whoever shows them.

use crate::component::ComponentName;
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio_util::sync::CancellationToken;

/// A shared meter of one run. Clones are the same meter; adding is cheap from any thread.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    inner: Arc<Inner>,
    is_muted: bool,
}

#[derive(Debug, Default)]
struct Inner {
    done: AtomicU64,
    total: AtomicU64,
    phase: Mutex<Cow<'static, str>>,
    waits: Mutex<String>,
    warnings: Mutex<Vec<String>>,
    stop: CancellationToken,
}

impl Meter {
    /// Begins a phase (`dump`, `pack`, `verify`, `waiting: …`) of about `total` bytes; 0 when unknown.
    pub fn begin(&self, phase: impl Into<Cow<'static, str>>, total: u64) {
        self.inner.done.store(0, Ordering::Relaxed);
        self.inner.total.store(total, Ordering::Relaxed);
        if let Ok(mut now) = self.inner.phase.lock() {
            *now = phase.into();
        }
    }

    /// Shows, in the place of the phase, the thing that the work waits for; empty: the wait is over.
    pub fn waits_for(&self, what: String) {
        if let Ok(mut waits) = self.inner.waits.lock()
            && *waits != what
        {
            if !what.is_empty() {
                tracing::info!("waits for {what}");
            }
            *waits = what;
        }
    }

    /// Counts bytes that are through.
    pub fn add(&self, bytes: u64) {
        self.inner.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Corrects the expected total, once a better estimate is there.
    pub fn expect(&self, total: u64) {
        self.inner.total.store(total, Ordering::Relaxed);
    }

    /// Returns a meter of the same progress whose warnings are no part of the result: the files that the work unpacks are
    /// not what the result is about.
    #[must_use]
    pub fn muted(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), is_muted: true }
    }

    /// Adds a warning, a whole sentence, to the result of the run; the same one only once.
    pub fn warn(&self, warning: String) {
        if self.is_muted {
            tracing::debug!("{warning}");
            return;
        }
        if let Ok(mut warnings) = self.inner.warnings.lock()
            && !warnings.contains(&warning)
        {
            tracing::warn!("{warning}");
            warnings.push(warning);
        }
    }

    /// The warnings since the last call.
    pub fn take_warnings(&self) -> Vec<String> {
        self.inner.warnings.lock().map(|mut warnings| std::mem::take(&mut *warnings)).unwrap_or_default()
    }

    /// Asks the work to stop at its next safe point, and to roll nothing back: the run was cancelled, or its lock has
    /// passed to another. Work of moments ends as it would have.
    pub fn stop(&self) {
        self.inner.stop.cancel();
    }

    /// Waits until somebody has [asked](Self::stop) the work to stop.
    pub async fn stopped(&self) {
        self.inner.stop.cancelled().await;
    }

    /// Bytes done, bytes expected (0: unknown) and the name of the phase.
    pub fn read(&self) -> (u64, u64, Cow<'static, str>) {
        let waits = self.inner.waits.lock().map(|waits| waits.clone()).unwrap_or_default();
        let phase = if waits.is_empty() {
            self.inner.phase.lock().map(|phase| phase.clone()).unwrap_or_default()
        } else {
            format!("waiting: {waits}").into()
        };
        (self.inner.done.load(Ordering::Relaxed), self.inner.total.load(Ordering::Relaxed), phase)
    }

    /// The state as the result backend shows it.
    pub fn snapshot(&self, component: ComponentName) -> Progress {
        let (done, total, phase) = self.read();
        // Estimates may be low: 100 % is for the result alone to claim.
        let percent = if total == 0 { 0.0 } else { (done as f64 / total as f64 * 100.0).min(99.0) };
        Progress {
            pending: false,
            current: done,
            total: total.max(done),
            percent: (percent * 10.0).round() / 10.0,
            description: if phase.is_empty() {
                format!("{component}: starting")
            } else {
                format!("{component}: {phase}")
            },
            component,
            phase: phase.into_owned(),
            bytes: done,
        }
    }
}

/// The `meta` of a Celery state `PROGRESS`: the keys of celery-progress and our own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Always false: a task that reports is running.
    pub pending: bool,
    /// Bytes done in this phase.
    pub current: u64,
    /// Bytes expected in this phase; never below `current`.
    pub total: u64,
    /// 0 to 99; the result alone says 100.
    pub percent: f64,
    /// One line for people.
    pub description: String,
    /// The component.
    pub component: ComponentName,
    /// Name of the phase.
    pub phase: String,
    /// Bytes so far: the same number as `current`.
    pub bytes: u64,
}
