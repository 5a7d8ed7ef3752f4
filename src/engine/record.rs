//! The records of runs: the metrics, and the rows that Django Admin shows, sent to the app's database.

use crate::base::chain;
use crate::base::clock::Clock;
use crate::catalog::mirror::{Mirror, RunRow};
use crate::domain::component::ComponentName;
use crate::domain::labels::{Operation, Reason, RunResult};
use crate::engine::{Engine, EngineError, Run};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

/// A run, from its begin to its end. One that is dropped before was stopped.
pub(super) struct Recording<'a> {
    mirror: &'a Mirror,
    clock: &'a dyn Clock,
    row: RunRow,
}

impl Engine {
    /// Does the work of a run, counts the run in the metrics, and records it in the app's database, which may be another
    /// one afterwards. A report in which `damage` finds faults is that of a failed run.
    pub(super) async fn recorded<T: Serialize>(
        &self,
        operation: Operation,
        component: ComponentName,
        run: &Run,
        damage: fn(&T) -> Vec<String>,
        work: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        let began = self.clock.now();
        let underway = self.observer.begin(component, operation);
        let recording = self.record(operation, component, run);
        let outcome = work.await;
        let damage = outcome.as_ref().map(damage).unwrap_or_default();
        let (result, reason) = match &outcome {
            Ok(_) if damage.is_empty() => (RunResult::Success, None),
            Ok(_) => (RunResult::Failure, Some(Reason::Verify)),
            Err(EngineError::Cancelled) => (RunResult::Cancelled, None),
            Err(err) => (RunResult::Failure, Some(err.reason())),
        };
        if let Some(reason) = reason {
            self.observer.failed(component, reason);
        }
        underway.end(result, self.clock.now().duration_since(began).unsigned_abs());
        if let Some(recording) = recording {
            recording.end(outcome.as_ref().map(|report| (json!(report), damage)));
        }
        self.changes.note();
        outcome
    }

    /// Records that a run begins; `None` without a database for the record.
    pub(super) fn record(
        &self,
        operation: Operation,
        component: ComponentName,
        run: &Run,
    ) -> Option<Recording<'_>> {
        let mirror = self.mirror.as_ref()?;
        let id = run.task_id.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        let row = RunRow {
            run_id: format!("{id}/{component}"),
            task_id: run.task_id.clone(),
            operation: operation.label(),
            component,
            state: RunRow::RUNNING,
            started_at: self.clock.now(),
            finished_at: None,
            backup_id: None,
            error: None,
            result: None,
            worker: self.host.clone(),
        };
        mirror.record(row.clone());
        Some(Recording { mirror, clock: &*self.clock, row })
    }
}

impl Recording<'_> {
    /// Records that the run failed, and the reason.
    pub(super) fn fail(mut self, why: &str) {
        (self.row.state, self.row.error) = (RunResult::Failure.label(), Some(why.to_owned()));
    }

    /// Records the end of the run: with a result, and perhaps problems in it.
    pub(super) fn end(mut self, outcome: Result<(Value, Vec<String>), &EngineError>) {
        let row = &mut self.row;
        let (state, error) = match &outcome {
            Ok((_, problems)) if problems.is_empty() => (RunResult::Success, None),
            Ok((_, problems)) => (RunResult::Failure, Some(problems.join("\n"))),
            Err(EngineError::Cancelled) => (RunResult::Cancelled, None),
            Err(err) => (RunResult::Failure, Some(chain(*err))),
        };
        (row.state, row.error) = (state.label(), error);
        match outcome {
            Ok((result, _)) => {
                row.backup_id = the_one(&result).map(str::to_owned);
                row.result = Some(result);
            }
            Err(EngineError::Copy { id, .. }) => row.backup_id = Some(id.to_string()),
            Err(_) => {}
        }
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if self.row.state == RunRow::RUNNING {
            self.row.state = RunResult::Cancelled.label();
        }
        self.row.finished_at = Some(self.clock.now());
        self.mirror.record(self.row.clone());
    }
}

/// The backup that a result names, if it names exactly one.
fn the_one(result: &Value) -> Option<&str> {
    let of_one = match result["results"].as_array() {
        Some(results) if results.len() == 1 => &results[0],
        _ => result,
    };
    of_one["backup_id"].as_str()
}
