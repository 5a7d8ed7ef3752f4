//! The metrics of runs: those in progress, and the results of those that ended.

use super::{Metrics, as_gauge};
use crate::domain::component::ComponentName;
use crate::observe::labels::{Operation, Reason, RunResult};
use std::time::Duration;

/// A run in progress. A value that is dropped without [`end`](Self::end) was ended by a panic, and counts as failed.
#[derive(Debug)]
#[must_use = "the run has ended as soon as this is dropped"]
pub struct Underway {
    metrics: Metrics,
    component: ComponentName,
    operation: Operation,
    ended: bool,
}

impl Underway {
    /// Records that the run has ended after `took`.
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
    /// Records that a run begins.
    pub fn begin(&self, component: ComponentName, operation: Operation) -> Underway {
        self.in_progress.with_label_values(&[component.as_str()]).inc();
        Underway { metrics: self.clone(), component, operation, ended: false }
    }

    /// Records that a backup begins at `now`, in Unix seconds.
    pub fn backup_began(&self, component: ComponentName, now: i64) {
        self.last_attempt.with_label_values(&[component.as_str()]).set(now);
    }

    /// Records if the leftovers of a failed restore still have to be cleaned up.
    pub fn restore_due(&self, component: ComponentName, is_due: bool) {
        self.restore_due.with_label_values(&[component.as_str()]).set(i64::from(is_due));
    }

    /// Records the progress of the current phase, from 0 to 1.
    pub fn progress(&self, component: ComponentName, ratio: f64) {
        self.progress_ratio.with_label_values(&[component.as_str()]).set(ratio);
    }

    /// Records that a run has ended after `took`.
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

    /// Records the last backup from a stored result, `began` in Unix seconds. A backup that began later in this
    /// process is kept.
    pub fn remembered(&self, component: ComponentName, began: i64, ok: bool) {
        let name = &[component.as_str()];
        let last = self.last_attempt.with_label_values(name);
        if began >= last.get() {
            last.set(began);
            self.last_status.with_label_values(name).set(i64::from(ok));
        }
    }

    /// Counts a failed run by its reason.
    pub fn failed(&self, component: ComponentName, reason: Reason) {
        self.failures.with_label_values(&[component.as_str(), reason.label()]).inc();
    }

    /// Counts a run that several workers died over as failed. Its duration is unknown, so none is recorded.
    pub fn worker_lost(&self, component: ComponentName, operation: Operation) {
        self.failed(component, Reason::WorkerLost);
        self.count_end(component, operation, RunResult::Failure);
    }

    /// Records the number of mismatches in the last restore drill.
    pub fn drilled(&self, component: ComponentName, mismatches: u64) {
        self.drill_mismatches.with_label_values(&[component.as_str()]).set(as_gauge(mismatches));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKUP: (ComponentName, Operation) = (ComponentName::MEDIA, Operation::Backup);

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
