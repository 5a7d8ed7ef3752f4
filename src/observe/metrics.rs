//! Every metric of the process: made once, handed down, never global.
//!
//! Names and labels are those of the contract, prefix `rna_backup_`. Counters exist at 0 from the
//! start, so that an alert on `increase()` sees the first failure. Gauges of last times do not exist
//! before they are known: absent means never.

use crate::domain::component::ComponentName;
use crate::domain::manifest::{Manifest, VerifyLevel};
use crate::observe::labels::{Operation, Reason, RunResult};
use crate::observe::maker::Maker;
use prometheus::{
    Gauge, GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder,
};
use std::time::Duration;

/// The metrics. Clones are the same.
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
    duration: HistogramVec,
    runs: IntCounterVec,
    failures: IntCounterVec,
    bytes: IntCounterVec,
    in_progress: IntGaugeVec,
    progress_ratio: GaugeVec,
    retention_deleted: IntCounterVec,
    catalog_backups: IntGaugeVec,
    destination_up: IntGaugeVec,
    destination_free: IntGaugeVec,
    tasks: IntCounterVec,
    task_runtime: HistogramVec,
    task_wait: HistogramVec,
    redeliveries: IntCounter,
    unreadable: IntCounter,
    broker_connected: IntGauge,
    broker_reconnects: IntGauge,
    broker_last_poll: Gauge,
    queue_length: IntGaugeVec,
    foreign_messages: IntGaugeVec,
}

/// Seconds: a small media folder takes one, a large database hours.
const RUN_BUCKETS: [f64; 9] = [1., 5., 30., 60., 300., 900., 3_600., 10_800., 21_600.];
/// Seconds: a ping takes one thousandth.
const TASK_BUCKETS: [f64; 10] = [0.005, 0.05, 0.5, 5., 30., 60., 300., 900., 3_600., 21_600.];
/// Label of tasks that we do not know, so that a sender cannot make series.
const OTHER_TASK: &str = "other";

impl Metrics {
    /// Makes and registers every metric; `version` is that of the program.
    ///
    /// # Errors
    ///
    /// Only if a name or a label here is wrong.
    #[expect(clippy::too_many_lines, reason = "one row a metric")]
    pub fn new(version: &str) -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let m = Maker(&registry);
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
            in_progress: m.gauges("in_progress", "1 while a run works on the component", component)?,
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
            catalog_backups: m.gauges(
                "catalog_backups",
                "Backups in the catalogue: verified, unverified or missing",
                &["component", "destination", "state"],
            )?,
            destination_up: m.gauges(
                "destination_up",
                "1 if the destination could be read at the last look",
                &["destination"],
            )?,
            destination_free: m.gauges(
                "destination_free_bytes",
                "Bytes that can still be written there",
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
            redeliveries: m.keep(IntCounter::with_opts(Maker::opts(
                "task_redeliveries_total",
                "Messages that were delivered again",
            )))?,
            unreadable: m.keep(IntCounter::with_opts(Maker::opts(
                "unreadable_messages_total",
                "Queue entries that were no task messages and were set aside",
            )))?,
            broker_connected: m
                .keep(IntGauge::with_opts(Maker::opts("broker_connected", "1 while the broker answers")))?,
            broker_reconnects: m.keep(IntGauge::with_opts(Maker::opts(
                "broker_reconnects_total",
                "Connections made to the broker after the first",
            )))?,
            broker_last_poll: m.keep(Gauge::with_opts(Maker::opts(
                "broker_last_poll_timestamp_seconds",
                "Unix time at which the queues were last looked at",
            )))?,
            queue_length: m.gauges("queue_length", "Messages waiting in the queue", &["queue"])?,
            foreign_messages: m.gauges(
                "foreign_messages",
                "Messages in the queue that belong to other workers",
                &["queue"],
            )?,
            registry,
        };
        metrics.start_at_zero();
        Ok(metrics)
    }

    fn start_at_zero(&self) {
        for component in ComponentName::ALL.map(ComponentName::as_str) {
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
            self.retention_deleted.with_label_values(&[component, "local"]);
        }
    }

    /// The text that Prometheus reads.
    ///
    /// # Errors
    ///
    /// When a metric cannot be encoded.
    pub fn render(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// A backup begins at `now`, Unix seconds.
    pub fn backup_began(&self, component: ComponentName, now: i64) {
        self.last_attempt.with_label_values(&[component.as_str()]).set(now);
        self.in_progress.with_label_values(&[component.as_str()]).set(1);
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
        let name = component.as_str();
        self.runs.with_label_values(&[name, operation.label(), result.label()]).inc();
        self.duration.with_label_values(&[name, operation.label()]).observe(took.as_secs_f64());
        if operation == Operation::Backup {
            self.in_progress.with_label_values(&[name]).set(0);
            self.progress_ratio.with_label_values(&[name]).set(0.0);
            if result != RunResult::Cancelled {
                self.last_status.with_label_values(&[name]).set(i64::from(result == RunResult::Success));
            }
        }
    }

    /// A run has failed for `reason`.
    pub fn failed(&self, component: ComponentName, reason: Reason) {
        self.failures.with_label_values(&[component.as_str(), reason.label()]).inc();
    }

    /// A backup was made just now.
    pub fn backed_up(&self, manifest: &Manifest) {
        let name = manifest.component.as_str();
        self.bytes.with_label_values(&[name, "read"]).inc_by(manifest.facts.source_bytes);
        self.bytes.with_label_values(&[name, "stored"]).inc_by(manifest.size_bytes());
        self.newest(manifest);
    }

    /// The newest proven backup of its component, also as read back from the catalogue at start, so
    /// that a restart neither clears nor fires an alert.
    pub fn newest(&self, manifest: &Manifest) {
        let name = manifest.component.as_str();
        let took = manifest.finished_at.duration_since(manifest.created_at);
        self.last_success.with_label_values(&[name]).set(manifest.finished_at.as_second());
        self.last_duration.with_label_values(&[name]).set(took.as_secs_f64());
        self.last_source_bytes.with_label_values(&[name]).set(as_gauge(manifest.facts.source_bytes));
        self.last_stored_bytes.with_label_values(&[name]).set(as_gauge(manifest.size_bytes()));
        if let Some(at) = manifest.verified.at {
            for level in [VerifyLevel::Checksum, VerifyLevel::Decode, VerifyLevel::Drill] {
                if level <= manifest.verified.level {
                    let labels = [name, level.as_str()];
                    self.verify_last_success.with_label_values(&labels).set(at.as_second());
                }
            }
        }
    }

    /// Retention has deleted a backup.
    pub fn deleted(&self, component: ComponentName, destination: &str) {
        self.retention_deleted.with_label_values(&[component.as_str(), destination]).inc();
    }

    /// How many backups of a state the catalogue holds.
    pub fn catalogue(&self, component: ComponentName, destination: &str, state: &str, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.catalog_backups.with_label_values(&[component.as_str(), destination, state]).set(count);
    }

    /// Whether a destination can be read, and the room left in it.
    pub fn destination(&self, destination: &str, up: bool, free: Option<u64>) {
        self.destination_up.with_label_values(&[destination]).set(i64::from(up));
        if let Some(free) = free {
            self.destination_free.with_label_values(&[destination]).set(as_gauge(free));
        }
    }

    /// A task got the state `state`. `known` is its name if it is one of ours.
    pub fn task(&self, known: Option<&str>, state: &str) {
        self.tasks.with_label_values(&[known.unwrap_or(OTHER_TASK), state]).inc();
    }

    /// How long a task waited here before it started.
    pub fn task_started(&self, known: Option<&str>, waited: Duration) {
        self.task_wait.with_label_values(&[known.unwrap_or(OTHER_TASK)]).observe(waited.as_secs_f64());
    }

    /// How long a task ran.
    pub fn task_ended(&self, known: Option<&str>, ran: Duration) {
        self.task_runtime.with_label_values(&[known.unwrap_or(OTHER_TASK)]).observe(ran.as_secs_f64());
    }

    /// A message came a second time.
    pub fn redelivered(&self) {
        self.redeliveries.inc();
    }

    /// An entry was set aside.
    pub fn unreadable(&self, count: u64) {
        self.unreadable.inc_by(count);
    }

    /// The state of the connection to the broker.
    pub fn broker(&self, connected: bool, reconnects: u64) {
        self.broker_connected.set(i64::from(connected));
        self.broker_reconnects.set(as_gauge(reconnects));
    }

    /// Whether the broker answered last.
    pub fn is_broker_connected(&self) -> bool {
        self.broker_connected.get() == 1
    }

    /// The queues were looked at; `now` in Unix seconds.
    pub fn polled(&self, now: f64) {
        self.broker_last_poll.set(now);
    }

    /// What waits in a queue, and how much of it is not ours.
    pub fn queue(&self, queue: &str, length: usize, foreign: usize) {
        self.queue_length.with_label_values(&[queue]).set(as_gauge(length as u64));
        self.foreign_messages.with_label_values(&[queue]).set(as_gauge(foreign as u64));
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
