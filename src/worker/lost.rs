//! Tasks that several workers have died over.

use crate::base::chain;
use crate::celery::lease::Lease;
use crate::domain::command::Command;
use crate::domain::component::ComponentName;
use crate::domain::labels::Operation;
use crate::engine::Run;
use crate::worker::outcome::Outcome;
use crate::worker::task::Task;

/// The number of worker deaths over a task after which the task is not run again. Otherwise a task that needs more
/// memory than there is would be redelivered for ever, and kill the worker of every other task.
pub const MOST_DEATHS: usize = 5;

impl Task<'_> {
    /// The failure of a task that too many workers died over; `None` if the task may run. Waits for Redis.
    pub(super) async fn worker_lost(&self, lease: &Lease) -> Option<Outcome> {
        if !self.message.redelivered || Command::is_light(&self.message.task) {
            return None;
        }
        let deaths = match lease.deaths(&self.shared.stop.silence).await {
            Ok(deaths) => deaths,
            Err(err) => {
                tracing::warn!(error = %chain(&err), "cannot tell how many workers died over this task");
                return None;
            }
        };
        if deaths < MOST_DEATHS {
            return None;
        }
        let run = Command::parse(&self.message.task, &self.message.args, &self.message.kwargs);
        let run = run.ok().as_ref().and_then(run_of);
        let words = words(deaths, run);
        if let Some((operation, component)) = run {
            let run = Run { task_id: Some(self.message.id.clone()), ..Run::default() };
            self.shared.engine.worker_lost(operation, component, &run, &words).await;
        }
        Some(Outcome::worker_lost(&self.message.task, words))
    }

    /// Records that the task begins, so that a death of this worker over the task is counted.
    pub(super) async fn note_begin(&self, lease: &Lease) {
        if Command::is_light(&self.message.task) {
            return;
        }
        if let Err(err) = lease.begin().await {
            tracing::debug!(error = %chain(&err), "a death over this task would not be counted");
        }
    }
}

/// The run on one component that a command asks for.
fn run_of(command: &Command) -> Option<(Operation, ComponentName)> {
    match command {
        Command::Backup(order) => Some((Operation::Backup, order.component)),
        Command::Restore(order) => Some((Operation::Restore, order.component)),
        Command::Undo { component } => Some((Operation::Undo, *component)),
        Command::Verify { component, drill, .. } => {
            Some((if *drill { Operation::Drill } else { Operation::Verify }, (*component)?))
        }
        Command::CleanUp { component, .. } => Some((Operation::Prune, (*component)?)),
        Command::FullBackup { .. } | Command::Amend { .. } | Command::List { .. } | Command::Ping => None,
    }
}

/// Returns the explanation for people, in the result and in the log.
fn words(deaths: usize, run: Option<(Operation, ComponentName)>) -> String {
    let mut words = format!(
        "{deaths} workers died over this task, so it is not run again; most often the system has killed them for \
         want of memory: look for OOMKilled in `docker inspect`, raise mem_limit, and order it again as a new task"
    );
    if let Some((Operation::Restore | Operation::Undo, component)) = run {
        words += &format!(
            "; {component} is as it was or as it was to be, or is put right at the next start of a worker or by \
             the next restore"
        );
    }
    words
}
