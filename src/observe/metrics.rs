//! All metrics of the process: created once and passed down, never global.
//!
//! Names and labels are part of the program's interface, with the prefix `rna_backup_`. Counters exist at 0 from the
//! start, so that an alert on `increase()` sees the first failure. Gauges of last times do not exist
//! before a value is known: absent means never.

mod destinations;
mod runs;
mod tasks;

use crate::domain::command::Command;
use crate::domain::component::ComponentName;
use crate::domain::labels::{Operation, Reason, Refusal, RunResult};
use crate::observe::declared::{combinations, metrics, register};
use destinations::LastLooks;
use prometheus::{
    GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder,
};
use tasks::OTHER_TASK;

/// Histogram buckets of runs in seconds: a small media folder takes one second, a large database hours.
const RUN_BUCKETS: [f64; 9] = [1., 5., 30., 60., 300., 900., 3_600., 10_800., 21_600.];
/// Histogram buckets of tasks in seconds: a ping takes one thousandth of a second.
const TASK_BUCKETS: [f64; 10] = [0.005, 0.05, 0.5, 5., 30., 60., 300., 900., 3_600., 21_600.];

metrics! {
    /// 1, labelled with the version of the program
    build_info: IntGaugeVec = "build_info" ["version"];
    /// Unix time of the newest proven backup
    last_success: IntGaugeVec = "last_success_timestamp_seconds" ["component"];
    /// Unix time at which the last backup began
    last_attempt: IntGaugeVec = "last_attempt_timestamp_seconds" ["component"];
    /// 1 if the last backup succeeded, else 0; absent before the first
    last_status: IntGaugeVec = "last_status" ["component"];
    /// Duration of the newest backup, proof included
    last_duration: GaugeVec = "last_duration_seconds" ["component"];
    /// Bytes the newest backup read from its source
    last_source_bytes: IntGaugeVec = "last_source_bytes" ["component"];
    /// Bytes of the newest backup's archive
    last_stored_bytes: IntGaugeVec = "last_stored_bytes" ["component"];
    /// Unix time of the last proof, by level
    verify_last_success: IntGaugeVec = "verify_last_success_timestamp_seconds" ["component", "level"];
    /// Things that were not restored as they were, in the last drill
    drill_mismatches: IntGaugeVec = "drill_mismatches" ["component"];
    /// Duration of runs
    duration: HistogramVec = "duration_seconds" ["component", "operation"] buckets RUN_BUCKETS;
    /// Runs that ended
    runs: IntCounterVec = "runs_total" ["component", "operation", "result"]
        zero [components(), Operation::ALL.map(Operation::label).to_vec(),
            RunResult::ALL.map(RunResult::label).to_vec()];
    /// Runs that failed, by reason
    failures: IntCounterVec = "failures_total" ["component", "reason"]
        zero [components(), Reason::ALL.map(Reason::label).to_vec()];
    /// Bytes moved: read from the source, stored in the destination
    bytes: IntCounterVec = "bytes_total" ["component", "stage"]
        zero [components(), vec!["read", "stored"]];
    /// Runs that work on the component or wait for it
    in_progress: IntGaugeVec = "in_progress" ["component"]
        zero [components()];
    /// Progress of the present phase, 0 to 1
    progress_ratio: GaugeVec = "progress_ratio" ["component"];
    /// Backups deleted by retention
    retention_deleted: IntCounterVec = "retention_deleted_total" ["component", "destination"];
    /// Backups that retention could not or would not delete
    retention_refused: IntCounterVec = "retention_refused_total" ["reason"]
        zero [Refusal::ALL.map(Refusal::label).to_vec()];
    /// 1 while the newest backup is suspiciously small
    anomaly: IntGaugeVec = "anomaly" ["component"];
    /// 1 while the clock stands far after the backups, or before one of them
    clock_in_doubt: IntGaugeVec = "clock_in_doubt" ["component"];
    /// Backups in the catalogue: verified, unverified, failed or missing
    catalog_backups: IntGaugeVec = "catalog_backups" ["component", "destination", "state"];
    /// 1 while what a restore that failed or died has left is still to be put right
    restore_due: IntGaugeVec = "restore_due" ["component"];
    /// 1 if the destination could be read and written at the last look
    destination_up: IntGaugeVec = "destination_up" ["destination"];
    /// Bytes that can still be written there
    destination_free: IntGaugeVec = "destination_free_bytes" ["destination"];
    /// Requests to a destination that is far away
    requests: IntCounterVec = "storage_requests_total" ["destination", "op", "result"];
    /// Requests that were sent again
    request_retries: IntCounterVec = "storage_retries_total" ["destination"];
    /// Tasks by the state that was stored
    tasks: IntCounterVec = "tasks_total" ["task", "state"]
        zero [tasks(), vec!["STARTED", "SUCCESS", "FAILURE", "RETRY", "REVOKED"]];
    /// From start to result
    task_runtime: HistogramVec = "task_runtime_seconds" ["task"] buckets TASK_BUCKETS;
    /// From being taken off the queue to start
    task_wait: HistogramVec = "task_queue_wait_seconds" ["task"] buckets TASK_BUCKETS;
    /// Messages that were delivered again
    redeliveries: IntCounter = "task_redeliveries_total" [];
    /// Queue entries that were no task messages and were set aside
    unreadable: IntCounter = "unreadable_messages_total" [];
    /// 1 while the broker answers
    broker_connected: IntGauge = "broker_connected" [];
    /// Connections made to the broker after the first
    broker_reconnects: IntCounter = "broker_reconnects_total" [];
    /// Unix time at which the queues were last looked at
    broker_last_poll: IntGauge = "broker_last_poll_timestamp_seconds" [];
    /// Messages waiting in the queue
    queue_length: IntGaugeVec = "queue_length" ["queue"];
    /// Messages in the queue that belong to other workers
    foreign_messages: IntGaugeVec = "foreign_messages" ["queue"];
    /// Messages in lists beside the queue's that hold backup tasks and that this worker does not read
    stray_messages: IntGaugeVec = "stray_messages" ["queue"];
}

fn components() -> Vec<&'static str> {
    ComponentName::all().map(ComponentName::as_str).collect()
}

fn tasks() -> Vec<&'static str> {
    Command::registered().into_iter().chain([OTHER_TASK]).collect()
}

impl Metrics {
    /// Creates and registers all metrics. `version` is the version of the program.
    ///
    /// # Errors
    ///
    /// Only if a name or a label of a declaration is invalid.
    pub fn new(version: &str) -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let metrics = Self::registered(registry)?;
        metrics.build_info.with_label_values(&[version]).set(1);
        Ok(metrics)
    }

    /// Returns the metrics in Prometheus' text format.
    ///
    /// # Errors
    ///
    /// An error if a metric cannot be encoded.
    pub fn render(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Counts a request to a destination that has ended.
    pub fn request(&self, destination: &str, op: &str, result: &str, retry: bool) {
        self.requests.with_label_values(&[destination, op, result]).inc();
        if retry {
            self.request_retries.with_label_values(&[destination]).inc();
        }
    }
}

fn as_gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[test]
fn counters_are_there_before_the_first_run_and_last_times_are_not() {
    let text = Metrics::new("1.2.3").unwrap().render().unwrap();
    for line in [
        r#"rna_backup_build_info{version="1.2.3"} 1"#,
        r#"rna_backup_runs_total{component="media",operation="backup",result="failure"} 0"#,
        r#"rna_backup_failures_total{component="postgres",reason="space"} 0"#,
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(!text.contains("last_success_timestamp_seconds{"), "{text}");
    assert!(text.contains("process_resident_memory_bytes"), "{text}");
}
