//! What Weaviate does in the background, followed to its end.
//!
//! Neither order takes an idempotency key, a status answers 404 for a while and whenever the store behind it
//! is away, and up to 1.27.3 an operation that a restart has ended says `STARTED` for ever. So nothing is
//! believed but the terminal words, everything has a deadline, and what comes after it is a failure.

use crate::component::ComponentError;
use crate::component::weaviate::client::Fault;
use crate::component::weaviate::server::{Server, Status, Work};
use jiff::{Timestamp, tz::TimeZone};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How often the status is asked for, in seconds: the server itself looks after 2 s and then every 10.
const POLL: u32 = 2;
/// How long a status may not be readable before that is a failure, in seconds.
const BLIND: u32 = 180;
/// All nodes agree within 8 s, and a node keeps a slot for 20: after that a lost order has not been taken.
const AGREED: u32 = 25;

/// The id of a new backup: never used before, since an id is spent for ever.
pub(super) fn new_id() -> String {
    let time = Timestamp::now().to_zoned(TimeZone::UTC).strftime("%Y%m%dt%H%M%Sz");
    format!("{PREFIX}{time}-{}", &Uuid::new_v4().simple().to_string()[..8])
}

/// What the ids of all our backups begin with.
pub(super) const PREFIX: &str = "rna-";

/// One kind of work on one place.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) server: &'a Server,
    pub(super) backend: &'a str,
    pub(super) classes: Vec<&'a String>,
    pub(super) timeout: Duration,
}

impl Job<'_> {
    /// Backs up to the end. `begun` is told each id before it is ordered.
    ///
    /// # Errors
    ///
    /// What the server says. After a timeout it is unknown what becomes of the backup.
    pub(super) async fn back_up(
        &self,
        mut begun: impl FnMut(&str) -> Result<(), ComponentError>,
    ) -> Result<String, ComponentError> {
        let deadline = Instant::now() + self.timeout;
        let mut id = self.order(&mut begun).await?;
        let mut watch = Watch::new(self, Work::Backup, deadline);
        loop {
            match watch.next(&id).await? {
                Seen::Running => {}
                Seen::Done => return Ok(id),
                // The server was away and says STARTED again: is it still at it? Another order tells.
                Seen::Doubtful => match self.order(&mut begun).await {
                    Ok(another) => {
                        tracing::warn!(lost = id, id = another, "Weaviate was restarted and has begun anew");
                        id = another;
                    }
                    Err(ComponentError::Unavailable { source: Some(source), .. })
                        if source.downcast_ref::<Fault>().is_some_and(|fault| is_busy_with(fault, &id)) => {}
                    Err(err) => return Err(err),
                },
            }
        }
    }

    /// Orders a backup, under a fresh id each time the order was lost.
    async fn order(
        &self,
        begun: &mut impl FnMut(&str) -> Result<(), ComponentError>,
    ) -> Result<String, ComponentError> {
        const TIMES: u32 = 3;
        let what = "begin a backup by Weaviate";
        for turn in 1.. {
            let id = new_id();
            begun(&id)?;
            match self.server.begin_backup(self.backend, &id, &self.classes).await {
                Ok(taken) => return self.all_of(&taken).map(|()| id),
                Err(fault) if is_busy_with(&fault, &id) || fault.says("already exists") => return Ok(id),
                Err(fault) if fault.says("already in progress") || fault.says("not yet released") => {
                    // Another one is at it; it may be the one that we ask about.
                    let source = Some(fault.into());
                    return Err(ComponentError::Unavailable { what: what.to_owned(), source });
                }
                Err(fault @ Fault::Away(_)) => {
                    if self.was_taken(&id).await? {
                        return Ok(id);
                    }
                    if turn == TIMES {
                        return Err(fault.of(what));
                    }
                }
                Err(fault) => return Err(explained(fault, what, self.backend)),
            }
        }
        unreachable!("the last turn returns")
    }

    /// Whether an order whose answer was lost has begun.
    async fn was_taken(&self, id: &str) -> Result<bool, ComponentError> {
        for wait in [0, AGREED] {
            self.server.client.wait(wait).await;
            match self.server.status_again(self.backend, id, Work::Backup).await {
                Ok(_) => return Ok(true),
                Err(fault) if fault.is(404) => {}
                Err(fault) => return Err(fault.of("ask whether Weaviate has begun a backup")),
            }
        }
        Ok(false)
    }

    /// Later versions leave out, in silence, what we have no right to.
    fn all_of(&self, taken: &BTreeSet<String>) -> Result<(), ComponentError> {
        let missing: Vec<_> = self
            .classes
            .iter()
            .filter(|class| !taken.contains(**class))
            .map(|class| class.as_str())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let what = format!(
            "back up all classes: Weaviate leaves out {}: give WEAVIATE_API_KEY the right manage_backups on them",
            missing.join(", ")
        );
        Err(ComponentError::Denied { what, source: None })
    }

    /// Restores to the end. The classes must not be there.
    ///
    /// # Errors
    ///
    /// What the server says; then any of the classes may be there or not. After a timeout it may go on.
    pub(super) async fn restore(&self, id: &str) -> Result<(), ComponentError> {
        let deadline = Instant::now() + self.timeout;
        self.order_restore(id, deadline).await?;
        let mut watch = Watch::new(self, Work::Restore, deadline);
        loop {
            match watch.next(id).await? {
                Seen::Running => {}
                Seen::Done => return Ok(()),
                // A restart ends a restore for good, and its status stays: an order that is taken is a new one.
                Seen::Doubtful => match self.server.begin_restore(self.backend, id, &self.classes).await {
                    Ok(()) | Err(Fault::Away(_)) => {}
                    Err(fault) if fault.says("already in progress") => {}
                    Err(fault) => return Err(explained(fault, "restore by Weaviate", self.backend)),
                },
            }
        }
    }

    async fn order_restore(&self, id: &str, deadline: Instant) -> Result<(), ComponentError> {
        let what = "begin a restore by Weaviate";
        loop {
            match self.server.begin_restore(self.backend, id, &self.classes).await {
                Ok(()) => return Ok(()),
                // Ours, whose answer was lost, or one that a dead run has left: its end is waited for.
                Err(fault) if is_busy_with(&fault, id) => return Ok(()),
                Err(fault) if fault.says("already in progress") => {
                    if Instant::now() > deadline {
                        return Err(fault.of(what));
                    }
                    self.server.client.wait(POLL).await;
                }
                // Nothing but its status tells whether it was taken.
                Err(fault @ Fault::Away(_)) => {
                    self.server.client.wait(AGREED).await;
                    match self.server.status_again(self.backend, id, Work::Restore).await {
                        Ok(_) => return Ok(()),
                        Err(status) if status.is(404) && Instant::now() < deadline => {
                            tracing::warn!(error = %fault, "Weaviate has not taken the restore, ordering it again");
                        }
                        Err(status) => return Err(status.of(what)),
                    }
                }
                Err(fault) => return Err(explained(fault, what, self.backend)),
            }
        }
    }
}

/// Whether the server is at work on this very id.
fn is_busy_with(fault: &Fault, id: &str) -> bool {
    fault.says("already in progress") && fault.says(id)
}

/// A refusal, with what to do about it where that is known.
fn explained(fault: Fault, what: &str, backend: &str) -> ComponentError {
    if fault.says("did you enable the right module") {
        return fault.of(format!("{what}: add backup-{backend} to ENABLE_MODULES of Weaviate"));
    }
    fault.of(what)
}

/// What a look at the status says.
enum Seen {
    Running,
    Done,
    /// Running, it says, but the server was away since the last look.
    Doubtful,
}

/// Looks again and again.
struct Watch<'a> {
    job: &'a Job<'a>,
    work: Work,
    deadline: Instant,
    /// Since when nothing can be seen.
    blind: Option<Instant>,
    /// Whether the server was not to be reached meanwhile, and not just some status of it.
    was_away: bool,
}

impl<'a> Watch<'a> {
    const fn new(job: &'a Job<'a>, work: Work, deadline: Instant) -> Self {
        Self { job, work, deadline, blind: None, was_away: false }
    }

    async fn next(&mut self, id: &str) -> Result<Seen, ComponentError> {
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
                stderr: why,
                // Some of these pass by themselves; a new attempt has a new id.
                transient: true,
            }),
            Ok(Status::Running) => {
                self.blind = None;
                Ok(if std::mem::take(&mut self.was_away) { Seen::Doubtful } else { Seen::Running })
            }
            Err(fault @ Fault::Denied { .. }) => {
                Err(fault.of(format!("ask for the status of a {}", self.name())))
            }
            Err(fault) => {
                self.was_away |= matches!(fault, Fault::Away(_));
                let since = *self.blind.get_or_insert_with(Instant::now);
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

#[test]
fn ids_are_of_the_letters_that_weaviate_allows_and_never_the_same() {
    let (one, other) = (new_id(), new_id());
    assert_ne!(one, other);
    assert!(one.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')), "{one}");
    assert!(one.starts_with(PREFIX) && one.len() < 128);
}
