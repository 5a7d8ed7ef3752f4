//! The engine's interface to whoever shows and counts its runs, and the state of the destinations.
//!
//! The engine knows nothing of metrics: the program brings an implementation.

use crate::domain::component::ComponentName;
use crate::domain::labels::{Operation, Reason, Refusal, RunResult};
use crate::domain::manifest::{Manifest, VerifyLevel};
use std::{fmt::Debug, time::Duration};

/// An observer of runs and destinations. All times are in Unix seconds.
pub trait RunObserver: Debug + Send + Sync {
    /// Records that a run begins.
    fn begin(&self, component: ComponentName, operation: Operation) -> Box<dyn RunInProgress>;

    /// Counts a run of retention that has ended after `took`.
    fn pruned(&self, component: ComponentName, result: RunResult, took: Duration);

    /// Counts a failed run by its reason.
    fn failed(&self, component: ComponentName, reason: Reason);

    /// Counts a run that several workers died over as failed. Its duration is unknown, so none is recorded.
    fn worker_lost(&self, component: ComponentName, operation: Operation);

    /// Records that a backup begins at `now`.
    fn backup_began(&self, component: ComponentName, now: i64);

    /// Records the last backup from a stored result. A backup that began later in this process is kept.
    fn remembered(&self, component: ComponentName, began: i64, ok: bool);

    /// Records a backup that has just been made.
    fn backed_up(&self, manifest: &Manifest);

    /// Records the newest proven backup of a component; `None` if no proven backup is left, because somebody has
    /// deleted them by hand. At start, that backup is read from the catalogue, so that a restart neither clears nor
    /// fires an alert.
    fn newest(&self, component: ComponentName, manifest: Option<&Manifest>);

    /// Records that a backup was verified to `level` at `at`. Earlier times of this level and the levels below are
    /// replaced; later times stay.
    fn proven(&self, component: ComponentName, level: VerifyLevel, at: i64);

    /// Records the number of mismatches in the last restore drill.
    fn drilled(&self, component: ComponentName, mismatches: u64);

    /// Records if the leftovers of a failed restore still have to be cleaned up.
    fn restore_due(&self, component: ComponentName, is_due: bool);

    /// Counts a backup that retention has deleted.
    fn deleted(&self, component: ComponentName, destination: &str);

    /// Counts a deletion that retention could not or would not make.
    fn refused(&self, refusal: Refusal);

    /// Records if the newest backup is suspiciously small.
    fn anomaly(&self, component: ComponentName, suspect: bool);

    /// Records if the times of the backups say that a clock is or was wrong.
    fn clock_in_doubt(&self, component: ComponentName, in_doubt: bool);

    /// Records the number of backups in the catalogue with a state.
    fn catalogue(&self, component: ComponentName, destination: &str, state: &str, count: usize);

    /// Records the check of a destination: usable, or the reason why not, which must hold no secret.
    fn destination(&self, destination: &str, found: Result<(), String>);

    /// Records the free bytes of a destination.
    fn destination_free(&self, destination: &str, free: u64);

    /// Records that an operation has failed in some destination: earlier successful checks no longer count.
    fn doubt_destinations(&self);

    /// Returns `true` if a destination was usable at its last check, and no operation on a destination has failed
    /// since.
    fn is_destination_well(&self, destination: &str) -> bool;
}

/// A run in progress. A value that is dropped without [`end`](Self::end) was ended by a panic, and counts as failed.
#[must_use = "the run has ended as soon as this is dropped"]
pub trait RunInProgress: Send {
    /// Records that the run has ended after `took`.
    fn end(self: Box<Self>, result: RunResult, took: Duration);
}
