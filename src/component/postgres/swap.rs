//! One database takes the place of another, by rename, in one transaction.
//!
//! Connections are refused before, so that the sessions can be ended for good; a mark in the comment on
//! the live database tells `recover` what to put right, should we die in between. Each transaction of it fails where the
//! lock of the restore is lost: then somebody else may be at work, and nothing more is changed.

use crate::base::chain;
use crate::component::postgres::{
    admin::{Admin, LOOK, PATIENCE, fault},
    advisory_lock::{self, AdvisoryLock},
    config::PostgresConfig,
    database::Database,
    mark::{Mark, Role, comment_on, ident},
};
use crate::component::{ComponentError, UndoPoint};
use crate::domain::task_note::{self, TaskNote};
use deadpool_postgres::tokio_postgres::{Error, error::SqlState};
use jiff::Timestamp;
use std::time::{Duration, Instant};

/// A database and the one whose place it takes.
#[derive(Debug, Clone)]
pub struct DatabaseSwap {
    /// The configuration: the address of the server, and the name of the database.
    pub config: PostgresConfig,
    /// The name of the live database.
    pub target: String,
    /// The database that takes that name.
    pub incoming: String,
    /// The mark of the incoming database; `None`: it is a copy, and gets the comment of the live one.
    pub kept: Option<Mark>,
    /// The task that orders the swap; `None`: ordered by hand.
    pub note: Option<TaskNote>,
}

impl DatabaseSwap {
    /// Swaps the databases. Once begun, the swap goes on to its end, even when nobody waits for it any more.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unavailable`] when sessions do not end in time, [`ComponentError::Unusable`] when a
    /// right is missing: then everything is as it was. When the server or the network failed in the middle, the live
    /// database is the old or the new one, and may refuse connections until `recover`.
    pub async fn carry_out(self, mut lock: AdvisoryLock) -> Result<Option<UndoPoint>, ComponentError> {
        let panicked = |err: tokio::task::JoinError| ComponentError::Unavailable {
            what: "swap databases".into(),
            source: Some(err.into()),
        };
        let work = async move {
            let done = self.run(&mut lock).await;
            lock.free().await;
            done
        };
        tokio::spawn(work).await.map_err(panicked)?
    }

    async fn run(&self, lock: &mut AdvisoryLock) -> Result<Option<UndoPoint>, ComponentError> {
        lock.confirm().await?;
        let admin = Admin::beside(&self.config, &self.target).await?;
        admin.announce(&self.config.database).await?;
        let live = Database::find(&admin, &self.target).await?;
        // What is busy in the incoming one (our own sessions that are just ending, autovacuum) goes first:
        // nobody has to wait for it then.
        self.empty(&admin, &self.incoming).await?;
        let Some(live) = live else { return self.rename_incoming(&admin, lock).await };
        admin.nothing_is_prepared_in(&self.target).await?;
        admin.refuse_active_subscriber(&self.target).await?;
        let at = Timestamp::now();
        let name = admin.free_name(&self.target, Role::Kept, at).await?;
        let mark = Mark {
            role: Role::Kept,
            name: name.clone(),
            by: self.config.database.clone(),
            of: self.target.clone(),
            at,
            comment: live.comment.clone(),
            allow: live.allows,
            task_notes: Some(self.task_notes(&live.task_notes)),
        };
        let begun = Instant::now();
        let swapped = self.close_and_rename(&admin, &live, &mark, lock).await;
        if let Err(err) = swapped {
            drop(admin);
            // The connection may have broken at the commit: then it can have gone either way.
            if !self.resolve_outcome(&mark, lock).await {
                return Err(err);
            }
        }
        let downtime_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(database = self.target, kept = name, downtime_ms, "databases are swapped");
        Ok(Some(UndoPoint { place: name, at, task_notes: mark.task_notes }))
    }

    /// The tasks that have made the data what they are, the last of which is that of this swap.
    fn task_notes(&self, live: &[TaskNote]) -> Vec<TaskNote> {
        let kept = self.kept.as_ref().and_then(|mark| mark.task_notes.as_deref()).unwrap_or_default();
        task_note::append([live, kept].concat(), self.note.clone())
    }

    async fn rename_incoming(
        &self,
        admin: &Admin,
        lock: &AdvisoryLock,
    ) -> Result<Option<UndoPoint>, ComponentError> {
        let comment = self.kept.as_ref().and_then(|mark| mark.comment.clone());
        let mark = restored(&self.config, &self.target, comment, self.task_notes(&[]));
        let (incoming, target) = (ident(&self.incoming), ident(&self.target));
        let rename = [
            lock.guard(),
            format!("ALTER DATABASE {incoming} RENAME TO {target}"),
            comment_on(&self.target, mark.as_deref()),
        ];
        admin.at_once(&rename).await.map_err(|err| self.failed(err))?;
        tracing::info!(database = self.target, "database is there again");
        Ok(None)
    }

    async fn close_and_rename(
        &self,
        admin: &Admin,
        live: &Database,
        kept: &Mark,
        lock: &AdvisoryLock,
    ) -> Result<(), ComponentError> {
        let (name, task_notes) = (self.target.clone(), Some(live.task_notes.clone()));
        let closed = Mark { role: Role::Closed, name, task_notes, ..kept.clone() };
        let (target, incoming) = (ident(&self.target), ident(&self.incoming));
        let close = [
            lock.guard(),
            comment_on(&self.target, Some(&closed.text())),
            format!("ALTER DATABASE {target} ALLOW_CONNECTIONS false"),
        ];
        admin.at_once(&close).await.map_err(|err| self.failed(err))?;
        let name = ident(&kept.name);
        let comment = self.kept.as_ref().map_or(live.comment.as_deref(), |mark| mark.comment.as_deref());
        let rename = [
            lock.guard(),
            format!("ALTER DATABASE {target} RENAME TO {name}"),
            format!("ALTER DATABASE {incoming} RENAME TO {target}"),
            comment_on(&kept.name, Some(&kept.text())),
            comment_on(&self.target, comment),
            format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {}", live.allows),
            format!("ALTER DATABASE {target} ALLOW_CONNECTIONS {}", live.allows),
            // The server waits for sessions in the middle of it.
            lock.guard(),
        ];
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.empty(admin, &self.target).await?;
            // Once more, as exporters come back: the server would wait five seconds for one.
            self.empty(admin, &self.incoming).await?;
            match admin.at_once(&rename).await {
                Ok(()) => return Ok(()),
                // Somebody was on his way in before the door was closed, or looked in between.
                Err(err) if err.code() == Some(&SqlState::OBJECT_IN_USE) && Instant::now() < deadline => {}
                Err(err) => return Err(self.failed(err)),
            }
        }
    }

    /// Ends all sessions of a database.
    async fn empty(&self, admin: &Admin, name: &str) -> Result<(), ComponentError> {
        let deadline = Instant::now() + PATIENCE;
        while admin.close_sessions(name).await? > 0 {
            if Instant::now() > deadline {
                let what = format!("end the sessions in {name}");
                return Err(ComponentError::Unavailable { what, source: None });
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Finds out, after a failure, whether the databases are swapped all the same. If not, connections are allowed
    /// again, if need be as soon as the server takes sessions again: until then the app is shut out.
    async fn resolve_outcome(&self, mark: &Mark, lock: &mut AdvisoryLock) -> bool {
        /// The longest time for which a server that restarts is away.
        const RESTART: Duration = Duration::from_mins(2);
        const AGAIN: Duration = Duration::from_millis(200);
        let deadline = Instant::now() + RESTART;
        loop {
            match self.try_resolve_outcome(mark, lock).await {
                Ok(swapped) => return swapped,
                Err(err @ ComponentError::Unavailable { .. }) if Instant::now() < deadline => {
                    tracing::debug!(error = %chain(&err), "the server is asked again how the swap ended");
                    tokio::time::sleep(AGAIN).await;
                }
                // The server has not noticed yet that the session of this run's own lock is gone.
                Err(ComponentError::Taken { .. }) if Instant::now() < deadline && self.is_own(lock).await => {
                    tokio::time::sleep(AGAIN).await;
                }
                Err(err) => {
                    let (database, error) = (&self.target, chain(&err));
                    tracing::error!(database, error, "a swap failed, and the next run tells how it ended");
                    return false;
                }
            }
        }
    }

    /// Tests whether the lock is still that of this run, as another session sees it.
    async fn is_own(&self, lock: &AdvisoryLock) -> bool {
        let Ok(admin) = Admin::beside(&self.config, &self.target).await else { return false };
        admin.client.batch_execute(&lock.guard()).await.is_ok()
    }

    async fn try_resolve_outcome(
        &self,
        mark: &Mark,
        lock: &mut AdvisoryLock,
    ) -> Result<bool, ComponentError> {
        // Without the lock somebody else may have begun already to put right what is left, or to swap.
        if lock.confirm().await.is_err() {
            *lock = AdvisoryLock::take(&self.config, &self.target).await?;
        }
        let admin = Admin::beside(&self.config, &self.target).await?;
        for found in admin.marked(&self.config.database).await? {
            match found.role {
                Role::Kept if found.name == mark.name => return Ok(true),
                Role::Closed if found.of == self.target && found.at == mark.at => {
                    open(&admin, &found).await?;
                }
                _ => {}
            }
        }
        Ok(false)
    }

    fn failed(&self, err: Error) -> ComponentError {
        if AdvisoryLock::is_lost(&err) {
            return advisory_lock::lost(&self.target, Some(err));
        }
        fault(format!("swap database {} for {}", ident(&self.target), ident(&self.incoming)), err)
    }
}

/// The comment on a database that was put where there was none: its own, or for as long as tasks may be delivered again
/// that have made it what it is, a mark that says so.
fn restored(
    config: &PostgresConfig,
    name: &str,
    comment: Option<String>,
    task_notes: Vec<TaskNote>,
) -> Option<String> {
    let (by, of, name) = (config.database.clone(), name.to_owned(), name.to_owned());
    let (role, at, task_notes) = (Role::Restored, Timestamp::now(), Some(task_notes));
    let mark = Mark { role, name, by, of, at, comment, allow: true, task_notes };
    if mark.is_needed() { Some(mark.text()) } else { mark.comment }
}

/// Opens a database that a swap had closed.
///
/// # Errors
///
/// The error of the server, sorted by the remedy.
pub async fn open(admin: &Admin, closed: &Mark) -> Result<(), ComponentError> {
    let name = ident(&closed.name);
    let task_notes = closed.task_notes.clone().unwrap_or_default();
    let mark = Mark { role: Role::Restored, ..closed.clone() };
    let comment = if task_notes.is_empty() { closed.comment.clone() } else { Some(mark.text()) };
    let statements = [
        comment_on(&closed.name, comment.as_deref()),
        format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {}", closed.allow),
    ];
    admin.at_once(&statements).await.map_err(|err| fault(format!("allow connections to {name} again"), err))
}
