//! The status of a job of Weaviate's, looked at until the job has ended.

use crate::component::ComponentError;
use crate::component::weaviate::client::Fault;
use crate::component::weaviate::job::{BLIND, Job, POLL};
use crate::component::weaviate::server::{Status, Work};
use std::time::Instant;

/// The time after which a backup that is said to be under way is proven to be, in seconds: a restart of the server may pass
/// between two looks.
const DOUBT: u32 = 300;

/// The result of a look at the status.
pub(super) enum Seen {
    Running,
    Done,
    /// Running, it says, and the server may have lost it.
    Doubtful,
}

/// The looks at the status of a job.
pub(super) struct Watch<'a> {
    job: &'a Job<'a>,
    work: Work,
    deadline: Instant,
    /// The time since which the server has not answered.
    silent_since: Option<Instant>,
    /// True if the server may have lost the job: the server was away meanwhile, and not just some status of it, or
    /// nothing proves that the order came before a restart.
    pub(super) is_doubtful: bool,
    /// The last time that something proved the job to be under way.
    proven: Instant,
}

impl<'a> Watch<'a> {
    pub(super) fn new(job: &'a Job<'a>, work: Work, deadline: Instant, is_doubtful: bool) -> Self {
        Self { job, work, deadline, silent_since: None, is_doubtful, proven: Instant::now() }
    }

    /// Returns whether the job must be proven to be under way. A restore cannot be: once it has ended, another order
    /// would fail because of the classes that it has made.
    fn doubts(&mut self) -> bool {
        let is_old = self.proven.elapsed() > self.job.server.client.seconds(DOUBT);
        std::mem::take(&mut self.is_doubtful) || self.work == Work::Backup && is_old
    }

    /// Waits, and looks once.
    ///
    /// # Errors
    ///
    /// The end of a job that has failed, and a status that cannot be asked for any longer.
    pub(super) async fn next(&mut self, id: &str) -> Result<Seen, ComponentError> {
        let Job { server, backend, .. } = self.job;
        if Instant::now() > self.deadline {
            return Err(self.overdue(id));
        }
        server.client.wait(POLL).await;
        match server.status(backend, id, self.work).await {
            Ok(Status::Done) => Ok(Seen::Done),
            Ok(Status::Failed { word, why }) => Err(ComponentError::Failed {
                program: self.name(),
                status: word,
                stderr: match self.work {
                    // Such as a class whose files the server itself cannot list.
                    Work::Backup => format!(
                        "{why}; if it fails so each time, BACKUP_WEAVIATE_BACKEND=export needs no backups of the server's own"
                    ),
                    Work::Restore => why,
                },
                // Some of these pass by themselves; a new attempt has a new id.
                transient: true,
            }),
            Ok(Status::Running) => {
                self.silent_since = None;
                Ok(if self.doubts() { Seen::Doubtful } else { Seen::Running })
            }
            Err(fault @ Fault::Denied { .. }) => {
                Err(fault.of(format!("ask for the status of a {}", self.name())))
            }
            Err(fault) => {
                self.is_doubtful |= matches!(fault, Fault::Unavailable(_));
                let since = *self.silent_since.get_or_insert_with(Instant::now);
                if since.elapsed() > server.client.seconds(BLIND) {
                    return Err(fault.of(format!("follow a {}", self.name())));
                }
                Ok(Seen::Running)
            }
        }
    }

    const fn name(&self) -> &'static str {
        match self.work {
            Work::Backup => "backup by Weaviate",
            Work::Restore => "restore by Weaviate",
        }
    }

    fn overdue(&self, id: &str) -> ComponentError {
        let what = format!(
            "wait for the {} {id}: it is not done within {} s, and whether it goes on is unknown: look at \
             Weaviate's log, restart Weaviate if it hangs, or raise BACKUP_WEAVIATE_TIMEOUT",
            self.name(),
            self.job.timeout.as_secs()
        );
        ComponentError::Unusable { what, source: None }
    }
}
