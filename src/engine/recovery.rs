//! The recovery of what dead runs left half done: at the start of a worker, and while it lives.

use crate::base::chain;
use crate::component::{Component, ComponentError};
use crate::domain::component::ComponentName;
use crate::engine::restore::{recover, tell_unrecovered};
use crate::engine::{ComponentLock, Engine, Run};
use std::time::Duration;

/// The interval of the looks of a living worker: each reads one file.
const LOOK_EVERY: Duration = Duration::from_secs(15);

impl Engine {
    /// Puts right the remains of dead runs, on every component that nobody works on: at the start of a worker. Work
    /// that cannot be done now is done by the next run on that component.
    pub async fn recover(&self) {
        for component in &self.components {
            self.recover_one(component).await;
        }
    }

    /// Puts right, as soon as somebody can, the remains of failed or dead restores, until the future is dropped.
    pub async fn keep_recovering(&self) {
        loop {
            self.clock.sleep(LOOK_EVERY).await;
            for component in &self.components {
                if matches!(due_of(component).await, Ok(None)) {
                    self.observer.restore_due(component.name(), false);
                } else {
                    self.recover_one(component).await;
                }
            }
        }
    }

    /// Returns the work that restores have left for a recovery, for people: one sentence for each component.
    pub async fn due(&self, only: Option<ComponentName>) -> Vec<String> {
        let mut due = Vec::new();
        for component in &self.components {
            if only.is_some_and(|only| only != component.name()) {
                continue;
            }
            match due_of(component).await {
                Ok(found) => due.extend(found.map(|what| format!("{}: {what}", component.name()))),
                Err(err) => due.push(format!("{}: {}", component.name(), chain(&err))),
            }
        }
        due
    }

    async fn recover_one(&self, component: &Component) {
        let (name, looking) = (component.name(), Run { recovers: true, ..Run::default() });
        let recovering = async |_: &mut ComponentLock| {
            if let Err(err) = recover(component).await {
                tell_unrecovered(&err);
            }
            // While another run holds the component, classes may be missing because that run restores them.
            self.observer.restore_due(name, !matches!(due_of(component).await, Ok(None)));
            Ok(())
        };
        if let Err(err) = self.locked(name, &looking, recovering).await {
            tracing::debug!(error = %chain(&err), "not the time to look for what dead runs left");
        }
    }
}

/// The work that restores of a component have left for its recovery.
async fn due_of(component: &Component) -> Result<Option<String>, ComponentError> {
    match &component.restorable {
        Some(restorable) => restorable.due().await,
        None => Ok(None),
    }
}
