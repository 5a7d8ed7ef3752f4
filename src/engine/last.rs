//! The outcome of the last backup and the last drill of each component, for the next process: manifests record
//! successes alone, and a restart must not clear the alert about a failure.

use crate::base::chain;
use crate::base::durable::{self, blocking};
use crate::domain::component::ComponentName;
use crate::domain::manifest::{Manifest, VerifyLevel};
use crate::engine::Engine;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{fs, path::PathBuf};

/// The remembered outcomes of one component, in a file beside its lock.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Last {
    pub(super) attempt: Option<Attempt>,
    pub(super) drill: Option<Drill>,
}

/// The last backup that ended, well or not.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Attempt {
    pub(super) began: Timestamp,
    pub(super) ended: Timestamp,
    pub(super) ok: bool,
}

/// The last drill.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Drill {
    pub(super) at: Timestamp,
    pub(super) mismatches: u64,
    /// The time at which a backup last passed a drill, this one or an earlier.
    #[serde(default)]
    pub(super) proven: Option<Timestamp>,
}

impl Engine {
    fn last_file(&self, component: ComponentName) -> PathBuf {
        self.locks.dir().join(format!("{component}.last"))
    }

    /// Reads the remembered outcomes of a component; they are empty where the file cannot be read.
    async fn last(&self, component: ComponentName) -> Last {
        let path = self.last_file(component);
        let words = blocking(move || fs::read(path)).await.unwrap_or_default();
        serde_json::from_slice(&words).unwrap_or_default()
    }

    /// Remembers an outcome of a component. A failure to write it is only logged: it is for alerts alone.
    pub(super) async fn remember(&self, component: ComponentName, what: impl FnOnce(&mut Last)) {
        let mut last = self.last(component).await;
        what(&mut last);
        let (locks, path) = (self.locks.clone(), self.last_file(component));
        let write = move || {
            locks.make_dir()?;
            durable::write(&path, &serde_json::to_vec(&last)?)
        };
        if let Err(err) = blocking(write).await {
            tracing::debug!(%component, error = %chain(&err), "cannot remember how the run ended");
        }
    }

    /// Sets the metrics of a component to its remembered outcomes, or to those that its newest proven backup tells
    /// where that is later: the backup may have been made on another machine.
    pub(super) async fn recall(&self, component: ComponentName, newest: Option<&Manifest>) {
        let last = self.last(component).await;
        let made = newest.map(|made| Attempt { began: made.created_at, ended: made.finished_at, ok: true });
        // One that a clock ahead has noted would hide all to come.
        let now = self.clock.now();
        let attempts = [made, last.attempt].into_iter().flatten().filter(|attempt| attempt.began <= now);
        let attempt = attempts.max_by_key(|attempt| attempt.ended);
        if let Some(Attempt { began, ok, .. }) = attempt {
            self.observer.remembered(component, began.as_second(), ok);
        }
        if let Some(drill) = last.drill {
            self.observer.drilled(component, drill.mismatches);
            if let Some(at) = drill.proven.filter(|at| *at <= now) {
                // The drilled backup may be gone by now, and its manifest with it.
                self.observer.proven(component, VerifyLevel::Drill, at.as_second());
            }
        }
    }
}
