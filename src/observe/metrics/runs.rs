//! The metrics of the engine: runs in progress and ended, the newest backups, and the destinations.

use super::{Metrics, as_gauge};
use crate::domain::component::ComponentName;
use crate::domain::labels::{Operation, Reason, Refusal, RunResult};
use crate::domain::manifest::{Manifest, VerifyLevel};
use crate::engine::{RunInProgress, RunObserver};
use std::time::Duration;

/// A run in progress.
struct Underway {
    metrics: Metrics,
    component: ComponentName,
    operation: Operation,
    ended: bool,
}

impl RunInProgress for Underway {
    fn end(mut self: Box<Self>, result: RunResult, took: Duration) {
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
    /// Records the progress of the current phase, from 0 to 1.
    pub fn progress(&self, component: ComponentName, ratio: f64) {
        self.progress_ratio.with_label_values(&[component.as_str()]).set(ratio);
    }

    fn run_ended(&self, component: ComponentName, operation: Operation, result: RunResult, took: Duration) {
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
}

impl RunObserver for Metrics {
    fn begin(&self, component: ComponentName, operation: Operation) -> Box<dyn RunInProgress> {
        self.in_progress.with_label_values(&[component.as_str()]).inc();
        Box::new(Underway { metrics: self.clone(), component, operation, ended: false })
    }

    fn pruned(&self, component: ComponentName, result: RunResult, took: Duration) {
        self.run_ended(component, Operation::Prune, result, took);
    }

    fn failed(&self, component: ComponentName, reason: Reason) {
        self.failures.with_label_values(&[component.as_str(), reason.label()]).inc();
    }

    fn worker_lost(&self, component: ComponentName, operation: Operation) {
        self.failed(component, Reason::WorkerLost);
        self.count_end(component, operation, RunResult::Failure);
    }

    fn backup_began(&self, component: ComponentName, now: i64) {
        self.last_attempt.with_label_values(&[component.as_str()]).set(now);
    }

    fn remembered(&self, component: ComponentName, began: i64, ok: bool) {
        let name = &[component.as_str()];
        let last = self.last_attempt.with_label_values(name);
        if began >= last.get() {
            last.set(began);
            self.last_status.with_label_values(name).set(i64::from(ok));
        }
    }

    fn backed_up(&self, manifest: &Manifest) {
        let name = manifest.component.as_str();
        self.bytes.with_label_values(&[name, "read"]).inc_by(manifest.facts.source_bytes);
        self.bytes.with_label_values(&[name, "stored"]).inc_by(manifest.size_bytes());
        self.newest(manifest.component, Some(manifest));
    }

    fn newest(&self, component: ComponentName, manifest: Option<&Manifest>) {
        let name = &[component.as_str()];
        let Some(manifest) = manifest else {
            // An error means that the gauge did not exist.
            let _ = self.last_success.remove_label_values(name);
            let _ = self.last_duration.remove_label_values(name);
            let _ = self.last_source_bytes.remove_label_values(name);
            let _ = self.last_stored_bytes.remove_label_values(name);
            return;
        };
        let took = manifest.finished_at.duration_since(manifest.created_at);
        self.last_success.with_label_values(name).set(manifest.finished_at.as_second());
        self.last_duration.with_label_values(name).set(took.as_secs_f64());
        self.last_source_bytes.with_label_values(name).set(as_gauge(manifest.facts.source_bytes));
        self.last_stored_bytes.with_label_values(name).set(as_gauge(manifest.size_bytes()));
        if let Some(at) = manifest.verified.at {
            self.proven(component, manifest.verified.level, at.as_second());
        }
    }

    fn proven(&self, component: ComponentName, level: VerifyLevel, at: i64) {
        for included in [VerifyLevel::Checksum, VerifyLevel::Decode, VerifyLevel::Drill] {
            if included <= level {
                let gauge =
                    self.verify_last_success.with_label_values(&[component.as_str(), included.as_str()]);
                gauge.set(gauge.get().max(at));
            }
        }
    }

    fn drilled(&self, component: ComponentName, mismatches: u64) {
        self.drill_mismatches.with_label_values(&[component.as_str()]).set(as_gauge(mismatches));
    }

    fn restore_due(&self, component: ComponentName, is_due: bool) {
        self.restore_due.with_label_values(&[component.as_str()]).set(i64::from(is_due));
    }

    fn deleted(&self, component: ComponentName, destination: &str) {
        self.retention_deleted.with_label_values(&[component.as_str(), destination]).inc();
    }

    fn refused(&self, refusal: Refusal) {
        self.retention_refused.with_label_values(&[refusal.label()]).inc();
    }

    fn anomaly(&self, component: ComponentName, suspect: bool) {
        self.anomaly.with_label_values(&[component.as_str()]).set(i64::from(suspect));
    }

    fn clock_in_doubt(&self, component: ComponentName, in_doubt: bool) {
        self.clock_in_doubt.with_label_values(&[component.as_str()]).set(i64::from(in_doubt));
    }

    fn catalogue(&self, component: ComponentName, destination: &str, state: &str, count: usize) {
        let gauge = self.catalog_backups.with_label_values(&[component.as_str(), destination, state]);
        gauge.set(as_gauge(count as u64));
    }

    fn destination(&self, destination: &str, found: Result<(), String>) {
        self.destination_up.with_label_values(&[destination]).set(i64::from(found.is_ok()));
        self.last_looks.lock().insert(destination.to_owned(), found);
    }

    fn destination_free(&self, destination: &str, free: u64) {
        self.destination_free.with_label_values(&[destination]).set(as_gauge(free));
    }

    fn doubt_destinations(&self) {
        self.last_looks.lock().retain(|_, found| found.is_err());
    }

    fn is_destination_well(&self, destination: &str) -> bool {
        matches!(self.last_looks.lock().get(destination), Some(Ok(())))
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
