//! All metrics of the process: created once and passed down, never global.
//!
//! Names and labels are part of the program's interface, with the prefix `rna_backup_`. Counters exist at 0 from the
//! start, so that an alert on `increase()` sees the first failure. Gauges of last times do not exist
//! before a value is known: absent means never.

mod destinations;
mod runs;
mod tasks;

pub use runs::Underway;

use crate::domain::command::Command;
use crate::domain::component::ComponentName;
use crate::domain::manifest::{Manifest, VerifyLevel};
use crate::observe::labels::{Operation, Reason, Refusal, RunResult};
use crate::observe::metric_factory::MetricFactory;
use destinations::LastLooks;
use prometheus::{
    GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder,
};
use tasks::OTHER_TASK;

/// The metrics of the process. Clones share the same metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    last_success: IntGaugeVec,
    last_attempt: IntGaugeVec,
    last_status: IntGaugeVec,
    last_duration: GaugeVec,
    last_source_bytes: IntGaugeVec,
    last_stored_bytes: IntGaugeVec,
    verify_last_success: IntGaugeVec,
    drill_mismatches: IntGaugeVec,
    duration: HistogramVec,
    runs: IntCounterVec,
    failures: IntCounterVec,
    bytes: IntCounterVec,
    in_progress: IntGaugeVec,
    progress_ratio: GaugeVec,
    retention_deleted: IntCounterVec,
    retention_refused: IntCounterVec,
    anomaly: IntGaugeVec,
    clock_in_doubt: IntGaugeVec,
    catalog_backups: IntGaugeVec,
    restore_due: IntGaugeVec,
    destination_up: IntGaugeVec,
    destination_free: IntGaugeVec,
    last_looks: LastLooks,
    requests: IntCounterVec,
    request_retries: IntCounterVec,
    tasks: IntCounterVec,
    task_runtime: HistogramVec,
    task_wait: HistogramVec,
    redeliveries: IntCounter,
    unreadable: IntCounter,
    broker_connected: IntGauge,
    broker_reconnects: IntCounter,
    broker_last_poll: IntGauge,
    queue_length: IntGaugeVec,
    foreign_messages: IntGaugeVec,
    stray_messages: IntGaugeVec,
}

/// Histogram buckets of runs in seconds: a small media folder takes one second, a large database hours.
const RUN_BUCKETS: [f64; 9] = [1., 5., 30., 60., 300., 900., 3_600., 10_800., 21_600.];
/// Histogram buckets of tasks in seconds: a ping takes one thousandth of a second.
const TASK_BUCKETS: [f64; 10] = [0.005, 0.05, 0.5, 5., 30., 60., 300., 900., 3_600., 21_600.];

impl Metrics {
    /// Creates and registers all metrics. `version` is the version of the program.
    ///
    /// # Errors
    ///
    /// Only if a name or a label in this function is invalid.
    #[expect(clippy::too_many_lines, reason = "one row a metric")]
    pub fn new(version: &str) -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let m = MetricFactory(&registry);
        let component = &["component"];
        m.gauges("build_info", "1, labelled with the version of the program", &["version"])?
            .with_label_values(&[version])
            .set(1);
        let metrics = Self {
            last_success: m.gauges(
                "last_success_timestamp_seconds",
                "Unix time of the newest proven backup",
                component,
            )?,
            last_attempt: m.gauges(
                "last_attempt_timestamp_seconds",
                "Unix time at which the last backup began",
                component,
            )?,
            last_status: m.gauges(
                "last_status",
                "1 if the last backup succeeded, else 0; absent before the first",
                component,
            )?,
            last_duration: m.ratios(
                "last_duration_seconds",
                "How long the newest backup took, proof included",
                component,
            )?,
            last_source_bytes: m.gauges(
                "last_source_bytes",
                "Bytes the newest backup read from its source",
                component,
            )?,
            last_stored_bytes: m.gauges(
                "last_stored_bytes",
                "Bytes of the newest backup's archive",
                component,
            )?,
            verify_last_success: m.gauges(
                "verify_last_success_timestamp_seconds",
                "Unix time of the last proof, by level",
                &["component", "level"],
            )?,
            drill_mismatches: m.gauges(
                "drill_mismatches",
                "Things that were not restored as they were, in the last drill",
                component,
            )?,
            duration: m.times(
                "duration_seconds",
                "How long runs took",
                &["component", "operation"],
                &RUN_BUCKETS,
            )?,
            runs: m.counters("runs_total", "Runs that ended", &["component", "operation", "result"])?,
            failures: m.counters(
                "failures_total",
                "Runs that failed, by reason",
                &["component", "reason"],
            )?,
            bytes: m.counters(
                "bytes_total",
                "Bytes moved: read from the source, stored in the destination",
                &["component", "stage"],
            )?,
            in_progress: m.gauges(
                "in_progress",
                "Runs that work on the component or wait for it",
                component,
            )?,
            progress_ratio: m.ratios(
                "progress_ratio",
                "How far the present phase has come, 0 to 1",
                component,
            )?,
            retention_deleted: m.counters(
                "retention_deleted_total",
                "Backups deleted by retention",
                &["component", "destination"],
            )?,
            retention_refused: m.counters(
                "retention_refused_total",
                "What retention could not or would not delete",
                &["reason"],
            )?,
            anomaly: m.gauges("anomaly", "1 while the newest backup is suspiciously small", component)?,
            clock_in_doubt: m.gauges(
                "clock_in_doubt",
                "1 while the clock stands far after the backups, or before one of them",
                component,
            )?,
            catalog_backups: m.gauges(
                "catalog_backups",
                "Backups in the catalogue: verified, unverified, failed or missing",
                &["component", "destination", "state"],
            )?,
            restore_due: m.gauges(
                "restore_due",
                "1 while what a restore that failed or died has left is still to be put right",
                component,
            )?,
            destination_up: m.gauges(
                "destination_up",
                "1 if the destination could be read and written at the last look",
                &["destination"],
            )?,
            destination_free: m.gauges(
                "destination_free_bytes",
                "Bytes that can still be written there",
                &["destination"],
            )?,
            last_looks: LastLooks::default(),
            requests: m.counters(
                "storage_requests_total",
                "Requests to a destination that is far away",
                &["destination", "op", "result"],
            )?,
            request_retries: m.counters(
                "storage_retries_total",
                "Requests that were sent again",
                &["destination"],
            )?,
            tasks: m.counters("tasks_total", "Tasks by the state that was stored", &["task", "state"])?,
            task_runtime: m.times(
                "task_runtime_seconds",
                "From start to result",
                &["task"],
                &TASK_BUCKETS,
            )?,
            task_wait: m.times(
                "task_queue_wait_seconds",
                "From being taken off the queue to start",
                &["task"],
                &TASK_BUCKETS,
            )?,
            redeliveries: m.register(IntCounter::with_opts(MetricFactory::opts(
                "task_redeliveries_total",
                "Messages that were delivered again",
            )))?,
            unreadable: m.register(IntCounter::with_opts(MetricFactory::opts(
                "unreadable_messages_total",
                "Queue entries that were no task messages and were set aside",
            )))?,
            broker_connected: m
                .register(IntGauge::with_opts(MetricFactory::opts("broker_connected", "1 while the broker answers")))?,
            broker_reconnects: m.register(IntCounter::with_opts(MetricFactory::opts(
                "broker_reconnects_total",
                "Connections made to the broker after the first",
            )))?,
            broker_last_poll: m.register(IntGauge::with_opts(MetricFactory::opts(
                "broker_last_poll_timestamp_seconds",
                "Unix time at which the queues were last looked at",
            )))?,
            queue_length: m.gauges("queue_length", "Messages waiting in the queue", &["queue"])?,
            foreign_messages: m.gauges(
                "foreign_messages",
                "Messages in the queue that belong to other workers",
                &["queue"],
            )?,
            stray_messages: m.gauges(
                "stray_messages",
                "Messages in lists beside the queue's that hold backup tasks and that this worker does not read",
                &["queue"],
            )?,
            registry,
        };
        metrics.start_at_zero();
        Ok(metrics)
    }

    fn start_at_zero(&self) {
        for refusal in Refusal::ALL {
            self.retention_refused.with_label_values(&[refusal.label()]);
        }
        for component in ComponentName::all().map(ComponentName::as_str) {
            self.in_progress.with_label_values(&[component]).set(0);
            for reason in Reason::ALL {
                self.failures.with_label_values(&[component, reason.label()]);
            }
            for operation in Operation::ALL {
                for result in RunResult::ALL {
                    self.runs.with_label_values(&[component, operation.label(), result.label()]);
                }
            }
            for stage in ["read", "stored"] {
                self.bytes.with_label_values(&[component, stage]);
            }
            for destination in ["local", "s3"] {
                self.retention_deleted.with_label_values(&[component, destination]);
            }
        }
        self.request_retries.with_label_values(&["s3"]);
        for task in Command::registered().into_iter().chain([OTHER_TASK]) {
            for state in ["STARTED", "SUCCESS", "FAILURE", "RETRY", "REVOKED"] {
                self.tasks.with_label_values(&[task, state]);
            }
        }
    }

    /// Returns the metrics in Prometheus' text format.
    ///
    /// # Errors
    ///
    /// An error if a metric cannot be encoded.
    pub fn render(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Records a backup that has just been made.
    pub fn backed_up(&self, manifest: &Manifest) {
        let name = manifest.component.as_str();
        self.bytes.with_label_values(&[name, "read"]).inc_by(manifest.facts.source_bytes);
        self.bytes.with_label_values(&[name, "stored"]).inc_by(manifest.size_bytes());
        self.newest(manifest);
    }

    /// Records the newest proven backup of its component. At start, that backup is read from the catalogue, so
    /// that a restart neither clears nor fires an alert.
    pub fn newest(&self, manifest: &Manifest) {
        let name = manifest.component.as_str();
        let took = manifest.finished_at.duration_since(manifest.created_at);
        self.last_success.with_label_values(&[name]).set(manifest.finished_at.as_second());
        self.last_duration.with_label_values(&[name]).set(took.as_secs_f64());
        self.last_source_bytes.with_label_values(&[name]).set(as_gauge(manifest.facts.source_bytes));
        self.last_stored_bytes.with_label_values(&[name]).set(as_gauge(manifest.size_bytes()));
        self.verified(manifest);
    }

    /// Removes the gauges of the newest backup of a component: no proven backup is left, because somebody has deleted
    /// them by hand.
    pub fn none_left(&self, component: ComponentName) {
        let name = &[component.as_str()];
        // An error means that the gauge did not exist.
        let _ = self.last_success.remove_label_values(name);
        let _ = self.last_duration.remove_label_values(name);
        let _ = self.last_source_bytes.remove_label_values(name);
        let _ = self.last_stored_bytes.remove_label_values(name);
    }

    /// Records the last verification of a backup, from its manifest.
    pub fn verified(&self, manifest: &Manifest) {
        if let Some(at) = manifest.verified.at {
            self.proven(manifest.component, manifest.verified.level, at.as_second());
        }
    }

    /// Records that a backup was verified to `level` at `at`, in Unix seconds. Earlier times of this level and the
    /// levels below are replaced; later times stay.
    pub fn proven(&self, component: ComponentName, level: VerifyLevel, at: i64) {
        for included in [VerifyLevel::Checksum, VerifyLevel::Decode, VerifyLevel::Drill] {
            if included <= level {
                let gauge =
                    self.verify_last_success.with_label_values(&[component.as_str(), included.as_str()]);
                gauge.set(gauge.get().max(at));
            }
        }
    }

    /// Counts a backup that retention has deleted.
    pub fn deleted(&self, component: ComponentName, destination: &str) {
        self.retention_deleted.with_label_values(&[component.as_str(), destination]).inc();
    }

    /// Counts a deletion that retention could not or would not make.
    pub fn refused(&self, refusal: Refusal) {
        self.retention_refused.with_label_values(&[refusal.label()]).inc();
    }

    /// Records if the newest backup is suspiciously small.
    pub fn anomaly(&self, component: ComponentName, suspect: bool) {
        self.anomaly.with_label_values(&[component.as_str()]).set(i64::from(suspect));
    }

    /// Records if the times of the backups say that a clock is or was wrong.
    pub fn clock_in_doubt(&self, component: ComponentName, in_doubt: bool) {
        self.clock_in_doubt.with_label_values(&[component.as_str()]).set(i64::from(in_doubt));
    }

    /// Records the number of backups in the catalogue with a state.
    pub fn catalogue(&self, component: ComponentName, destination: &str, state: &str, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.catalog_backups.with_label_values(&[component.as_str(), destination, state]).set(count);
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
