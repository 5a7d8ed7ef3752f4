//! Progress in the result backend while a task runs.

use crate::celery::result::{Backend, State, TaskResult};
use crate::domain::component::ComponentName;
use crate::domain::progress::Meter;
use crate::observe::metrics::Metrics;
use serde_json::json;
use std::{future::Future, time::Duration};

/// The minimum interval of progress reports.
const EVERY: Duration = Duration::from_millis(500);

/// The reporter of one task's progress, to the result backend and the metrics.
#[derive(Debug)]
pub(super) struct Reporter<'a> {
    /// The result backend; `None` if the sender wants no result.
    pub(super) backend: Option<&'a Backend>,
    pub(super) metrics: &'a Metrics,
    pub(super) task_id: &'a str,
    /// The number of attempts before this one.
    pub(super) retries: u32,
    pub(super) component: ComponentName,
}

impl Reporter<'_> {
    /// Runs `work`, and reports the progress of `meter` until `work` ends.
    ///
    /// Nothing is stored after `work` has ended, and a report that cannot be stored is dropped: the next report is
    /// half a second away.
    pub(super) async fn during<T>(&self, meter: &Meter, work: impl Future<Output = T>) -> T {
        let report = async {
            let mut shown = None;
            let mut tick = tokio::time::interval(EVERY);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let progress = meter.snapshot(self.component);
                if progress.phase.is_empty() || shown.as_ref() == Some(&progress) {
                    continue;
                }
                self.metrics.progress(self.component, progress.percent / 100.0);
                if let Some(backend) = self.backend {
                    let state = TaskResult::new(self.task_id, State::Progress, json!(progress));
                    let _ = backend.offer(&TaskResult { retries: self.retries, ..state }).await;
                }
                shown = Some(progress);
            }
        };
        tokio::select! {
            done = work => done,
            () = report => unreachable!("the report never ends by itself"),
        }
    }
}
