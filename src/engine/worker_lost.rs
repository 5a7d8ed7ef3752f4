//! The end of a run that worker after worker died over.

use crate::base::chain;
use crate::domain::component::ComponentName;
use crate::domain::labels::Operation;
use crate::engine::last::Attempt;
use crate::engine::{Engine, Run};

impl Engine {
    /// Counts a run that its workers died over as failed, in the metrics, for the alerts after a restart and in the
    /// app's database; and removes what the dead runs left in the destinations. Data that a restore left half
    /// done is not touched: the next start of a worker, or the next restore, puts that right.
    pub async fn worker_lost(&self, operation: Operation, component: ComponentName, run: &Run, why: &str) {
        let now = self.clock.now();
        if let Some(recording) = self.record(operation, component, run) {
            recording.fail(why);
        }
        if operation == Operation::Backup {
            self.observer.backup_began(component, now.as_second());
            self.remember(component, |last| {
                last.attempt = Some(Attempt { began: now, ended: now, ok: false });
            })
            .await;
        }
        self.observer.worker_lost(component, operation);
        // Whoever takes the component removes what dead runs have left in the destinations.
        if let Err(err) = self.locked(component, &Run::default(), async |_| Ok(())).await {
            tracing::debug!(%component, error = %chain(&err), "the next run removes what the dead ones left");
        }
        self.changes.note();
    }
}
