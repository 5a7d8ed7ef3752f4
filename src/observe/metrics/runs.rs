//! What is told of runs: those under way, and how they ended.

use super::{Metrics, as_gauge};
use crate::domain::component::ComponentName;
use crate::observe::labels::{Operation, Reason, RunResult};
use std::time::Duration;

/// A run from its begin to its end. One that is dropped before was ended by a panic, and counts as failed.
#[derive(Debug)]
#[must_use = "the run has ended as soon as this is dropped"]
pub struct Underway {
    metrics: Metrics,
    component: ComponentName,
    operation: Operation,
    ended: bool,
}

impl Underway {
    /// The run has ended after `took`.
    pub fn end(mut self, result: RunResult, took: Duration) {
        self.ended = true;
        self.metrics.run_ended(self.component, self.operation, result, took);
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let (metrics, name) = (&self.metrics, &[self.component.as_str()]);
        if !self.ended {
            metrics.failed(self.component, Reason::Internal);
            metrics.count_end(self.component, self.operation, RunResult::Failure);
        }
        let left = metrics.in_progress.with_label_values(name);
        left.dec();
        if left.get() == 0 {
            metrics.progress_ratio.with_label_values(name).set(0.0);
        }
    }
}

impl Metrics {
    /// A run begins.
    pub fn begin(&self, component: ComponentName, operation: Operation) -> Underway {
        self.in_progress.with_label_values(&[component.as_str()]).inc();
        Underway { metrics: self.clone(), component, operation, ended: false }
    }

    /// A backup begins at `now`, Unix seconds.
    pub fn backup_began(&self, component: ComponentName, now: i64) {
        self.last_attempt.with_label_values(&[component.as_str()]).set(now);
    }

    /// Something that a restore has left is still to be put right, or nothing is.
    pub fn restore_due(&self, component: ComponentName, is_due: bool) {
        self.restore_due.with_label_values(&[component.as_str()]).set(i64::from(is_due));
    }

    /// How far the present phase has come.
    pub fn progress(&self, component: ComponentName, ratio: f64) {
        self.progress_ratio.with_label_values(&[component.as_str()]).set(ratio);
    }

    /// A run has ended after `took`.
    pub fn run_ended(
        &self,
        component: ComponentName,
        operation: Operation,
        result: RunResult,
        took: Duration,
    ) {
        let names = &[component.as_str(), operation.label()];
        self.duration.with_label_values(names).observe(took.as_secs_f64());
        self.count_end(component, operation, result);
    }

    fn count_end(&self, component: ComponentName, operation: Operation, result: RunResult) {
        let name = component.as_str();
        self.runs.with_label_values(&[name, operation.label(), result.label()]).inc();
        if operation == Operation::Backup && result != RunResult::Cancelled {
            self.last_status.with_label_values(&[name]).set(i64::from(result == RunResult::Success));
        }
    }

    /// The last backup as somebody remembers it who has seen it end: begun at `began`, Unix seconds. What
    /// began here since then stays.
    pub fn remembered(&self, component: ComponentName, began: i64, ok: bool) {
        let name = &[component.as_str()];
        let last = self.last_attempt.with_label_values(name);
        if began >= last.get() {
            last.set(began);
            self.last_status.with_label_values(name).set(i64::from(ok));
        }
    }

    /// A run has failed for `reason`.
    pub fn failed(&self, component: ComponentName, reason: Reason) {
        self.failures.with_label_values(&[component.as_str(), reason.label()]).inc();
    }

    /// A run that its workers died over is not tried again; how long it took nobody knows.
    pub fn worker_lost(&self, component: ComponentName, operation: Operation) {
        self.failed(component, Reason::WorkerLost);
        self.count_end(component, operation, RunResult::Failure);
    }

    /// So many things were not restored as they were.
    pub fn drilled(&self, component: ComponentName, mismatches: u64) {
        self.drill_mismatches.with_label_values(&[component.as_str()]).set(as_gauge(mismatches));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKUP: (ComponentName, Operation) = (ComponentName::Media, Operation::Backup);

    fn holds(metrics: &Metrics, line: &str) {
        let text = metrics.render().unwrap();
        assert!(text.contains(line), "{line} is not in {text}");
    }

    #[test]
    fn a_run_that_panics_is_a_failure_and_no_longer_under_way() {
        let metrics = Metrics::new("test").unwrap();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _underway = metrics.begin(BACKUP.0, BACKUP.1);
            holds(&metrics, r#"rna_backup_in_progress{component="media"} 1"#);
            panic!("a bug");
        }));
        assert!(panicked.is_err());
        for line in [
            r#"rna_backup_in_progress{component="media"} 0"#,
            r#"rna_backup_last_status{component="media"} 0"#,
            r#"rna_backup_failures_total{component="media",reason="internal"} 1"#,
            r#"rna_backup_runs_total{component="media",operation="backup",result="failure"} 1"#,
        ] {
            holds(&metrics, line);
        }
    }

    #[test]
    fn a_run_that_waits_for_another_does_not_hide_that_one() {
        let metrics = Metrics::new("test").unwrap();
        let first = metrics.begin(BACKUP.0, BACKUP.1);
        let second = metrics.begin(BACKUP.0, BACKUP.1);
        first.end(RunResult::Success, Duration::from_secs(1));
        holds(&metrics, r#"rna_backup_in_progress{component="media"} 1"#);
        second.end(RunResult::Cancelled, Duration::from_secs(1));
        holds(&metrics, r#"rna_backup_in_progress{component="media"} 0"#);
        holds(&metrics, r#"rna_backup_last_status{component="media"} 1"#);
    }

    #[test]
    fn what_is_remembered_never_outranks_what_began_since() {
        let metrics = Metrics::new("test").unwrap();
        metrics.remembered(BACKUP.0, 1_000, false);
        holds(&metrics, r#"rna_backup_last_status{component="media"} 0"#);
        metrics.backup_began(BACKUP.0, 2_000);
        metrics.remembered(BACKUP.0, 1_500, true);
        holds(&metrics, r#"rna_backup_last_attempt_timestamp_seconds{component="media"} 2000"#);
        holds(&metrics, r#"rna_backup_last_status{component="media"} 0"#);
    }
}
