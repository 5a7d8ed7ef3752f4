//! The jobs that Weaviate runs in the background, followed to their ends.
//!
//! Neither order takes an idempotency key, a status answers 404 for a while and whenever the store behind it
//! is away, and a job that a restart has ended says `STARTED` for ever. So nothing is believed but the terminal
//! words and a refusal because of a job under way, everything has a deadline, and what comes after it is a failure.

use crate::base::chain;
use crate::component::ComponentError;
use crate::component::weaviate::announced_backups::AnnouncedBackups;
use crate::component::weaviate::client::Fault;
use crate::component::weaviate::server::{Access, Server, Work};
use crate::component::weaviate::watch::{Seen, Watch};
use jiff::{Timestamp, tz::TimeZone};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// The time between two questions for the status, in seconds: the server itself looks after 2 s and then every 10.
pub(super) const POLL: u32 = 2;
/// The time for which a status may not be readable before that is a failure, in seconds.
pub(super) const BLIND: u32 = 180;
/// All nodes agree within 8 s, and a node keeps a slot for 20: after that a lost order has not been taken.
const AGREED: u32 = 25;

/// The id of a new backup: never used before, since an id is spent for ever. `origin` is the id of the journal whose
/// machine makes the backup: retention on other machines leaves the backup alone.
pub(super) fn new_id(origin: &str) -> String {
    let time = Timestamp::now().to_zoned(TimeZone::UTC).strftime("%Y%m%dt%H%M%Sz");
    let (origin, random) = (&origin[..LETTERS.min(origin.len())], Uuid::new_v4().simple().to_string());
    format!("{PREFIX}{time}-{origin}-{}", &random[..LETTERS])
}

/// The letters of an id that name the machine, and those that are random.
const LETTERS: usize = 8;

/// The beginning of the id of the journal whose machine has made a backup; `None` for those of earlier versions.
pub(super) fn origin_of(id: &str) -> Option<&str> {
    let mut parts = id.strip_prefix(PREFIX)?.split('-').skip(1);
    let origin = parts.next()?;
    (parts.count() == 1).then_some(origin)
}

/// The beginning of the ids of all our backups.
pub(super) const PREFIX: &str = "rna-";

/// One kind of work on one place.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) server: &'a Server,
    pub(super) backend: &'a str,
    pub(super) classes: Vec<&'a String>,
    /// True if the server is to leave the compression of a backup to the archive.
    pub(super) is_plain: bool,
    /// Users, roles and aliases: those that a restore brings beside classes.
    pub(super) access: Access,
    pub(super) timeout: Duration,
    /// The id of this machine's journal.
    pub(super) origin: &'a str,
}

/// A backup that the server may be at work on.
struct OrderedBackup {
    id: String,
    /// True if the answer to the order was lost, so that nothing proves that the server is at work on the order.
    is_lost: bool,
}

/// The ids of this program's backups that the server may be at work on.
#[derive(Debug)]
pub(super) struct OwnBackupIds {
    /// The ids that a run which has ended may have left under way.
    dead: Vec<String>,
    ordered: Vec<String>,
}

impl OwnBackupIds {
    /// The ids before the first order.
    pub(super) const fn after(dead: Vec<String>) -> Self {
        Self { dead, ordered: Vec::new() }
    }
}

impl Job<'_> {
    /// Backs up to the end. Each id is `announced` before it is ordered.
    ///
    /// # Errors
    ///
    /// The server's own error. After a timeout it is unknown what becomes of the backup.
    pub(super) async fn back_up(
        &self,
        mut own: OwnBackupIds,
        announced: &mut AnnouncedBackups<'_>,
    ) -> Result<String, ComponentError> {
        let deadline = Instant::now() + self.timeout;
        let OrderedBackup { mut id, is_lost } = self.order(&mut own, announced, deadline).await?;
        let mut watch = Watch::new(self, Work::Backup, deadline, is_lost);
        loop {
            match watch.next(&id).await? {
                Seen::Running => {}
                Seen::Done => return Ok(id),
                // STARTED is also what a restart leaves behind. Another order tells: it is refused while there is work.
                Seen::Doubtful => {
                    let order = self.order(&mut own, announced, deadline).await?;
                    if order.id != id {
                        tracing::warn!(
                            lost = id,
                            id = order.id,
                            "Weaviate has lost a backup and has begun anew"
                        );
                    }
                    watch = Watch::new(self, Work::Backup, deadline, order.is_lost);
                    id = order.id;
                }
            }
        }
    }

    /// Orders a backup, under a fresh id each time the order was lost.
    async fn order(
        &self,
        own: &mut OwnBackupIds,
        announced: &mut AnnouncedBackups<'_>,
        deadline: Instant,
    ) -> Result<OrderedBackup, ComponentError> {
        const TIMES: usize = 3;
        const WHAT: &str = "begin a backup by Weaviate";
        let (since, mut lost) = (Instant::now(), 0);
        let mut id = new_id(self.origin);
        announced.add(&id).await?;
        own.ordered.push(id.clone());
        loop {
            let compression = self.server.version.compression(self.is_plain);
            match self.server.begin_backup(self.backend, &id, &self.classes, compression).await {
                Ok(taken) => return self.all_of(&taken).map(|()| OrderedBackup { id, is_lost: false }),
                Err(fault) if fault.says("already exists") => return Ok(OrderedBackup { id, is_lost: true }),
                Err(fault) if let Some(id) = busy_with(&fault, &own.ordered) => {
                    return Ok(OrderedBackup { id: id.clone(), is_lost: false });
                }
                Err(fault) if let Some(dead) = busy_with(&fault, &own.dead) => {
                    if Instant::now() > deadline {
                        return Err(fault.of(WHAT));
                    }
                    self.release(dead).await;
                }
                // The server holds on to a slot for seconds after a backup has ended or was refused.
                Err(fault) if fault.says("already in progress") || passes(&fault) => {
                    self.wait_out(fault, WHAT, since).await?;
                }
                Err(fault @ Fault::Unavailable(_)) => {
                    if self.was_taken(&id).await? {
                        return Ok(OrderedBackup { id, is_lost: true });
                    }
                    lost += 1;
                    if lost == TIMES {
                        return Err(fault.of(WHAT));
                    }
                    id = new_id(self.origin);
                    announced.add(&id).await?;
                    own.ordered.push(id.clone());
                }
                Err(fault) => return Err(explained(fault, WHAT, self.backend)),
            }
        }
    }

    /// Waits for the next attempt after a fault that passes by itself.
    ///
    /// # Errors
    ///
    /// The fault, when it has not passed for a long time.
    async fn wait_out(&self, fault: Fault, what: &str, since: Instant) -> Result<(), ComponentError> {
        if since.elapsed() > self.server.client.seconds(BLIND) {
            return Err(ComponentError::Unavailable { what: what.to_owned(), source: Some(fault.into()) });
        }
        tracing::debug!(error = %fault, "trying again to {what}");
        self.server.client.wait(POLL).await;
        Ok(())
    }

    /// Calls off a backup that a dead run has left under way, where the server can do that, and gives it time to end.
    async fn release(&self, dead: &str) {
        tracing::info!(id = dead, "waiting for the end of a backup that a dead run has ordered of Weaviate");
        if self.server.version.can_cancel() {
            let _ = self.server.cancel_backup(self.backend, dead).await;
        }
        self.server.client.wait(POLL).await;
    }

    /// Returns whether an order whose answer was lost has begun.
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

    /// Restores a backup of these nodes to the end. The classes must not be there.
    ///
    /// # Errors
    ///
    /// The server's own error; then any of the classes may be there or not. After a timeout the restore may go on.
    pub(super) async fn restore(&self, id: &str, nodes: &BTreeSet<String>) -> Result<(), ComponentError> {
        let deadline = Instant::now() + self.timeout;
        let nodes = self.mapped(nodes).await;
        let is_lost = self.order_restore(id, &nodes, deadline).await?;
        let mut watch = Watch::new(self, Work::Restore, deadline, is_lost);
        let mut is_again = false;
        loop {
            let seen = watch.next(id).await;
            // A server that was killed just after it had made the classes: whether they are whole is proven later.
            if is_again && seen.as_ref().is_err_and(|err| chain(err).contains("already exists")) {
                return Ok(());
            }
            match seen? {
                Seen::Running => {}
                Seen::Done => return Ok(()),
                // A restart ends a restore for good, and its status stays: an order that is taken is a new one.
                Seen::Doubtful => {
                    match self
                        .server
                        .begin_restore(self.backend, id, &self.classes, &nodes, self.access)
                        .await
                    {
                        Ok(()) => is_again = true,
                        Err(fault) if fault.says("already in progress") => {}
                        Err(fault) if matches!(fault, Fault::Unavailable(_)) || passes(&fault) => {
                            watch.is_doubtful = true;
                        }
                        Err(fault) => return Err(explained(fault, "restore by Weaviate", self.backend)),
                    }
                }
            }
        }
    }

    /// The name of the server's only node for the only node of a backup, where they differ.
    async fn mapped(&self, nodes: &BTreeSet<String>) -> BTreeMap<String, String> {
        let (Some(made_by), 1, true) = (nodes.first(), nodes.len(), self.server.version.maps_nodes()) else {
            return BTreeMap::new();
        };
        // A key that may not ask for names may still restore onto a node of the same name.
        match &self.server.nodes().await.unwrap_or_default()[..] {
            [only] if only != made_by => [(made_by.clone(), only.clone())].into(),
            _ => BTreeMap::new(),
        }
    }

    /// Orders a restore, and returns whether the answer to the order was lost.
    async fn order_restore(
        &self,
        id: &str,
        nodes: &BTreeMap<String, String>,
        deadline: Instant,
    ) -> Result<bool, ComponentError> {
        const WHAT: &str = "begin a restore by Weaviate";
        let since = Instant::now();
        loop {
            match self.server.begin_restore(self.backend, id, &self.classes, nodes, self.access).await {
                Ok(()) => return Ok(false),
                // Ours, whose answer was lost, or one that a dead run has left: its end is waited for.
                Err(fault) if is_busy_with(&fault, id) => return Ok(false),
                Err(fault) if fault.says("already in progress") => {
                    if Instant::now() > deadline {
                        return Err(fault.of(WHAT));
                    }
                    self.server.client.wait(POLL).await;
                }
                Err(fault) if passes(&fault) => self.wait_out(fault, WHAT, since).await?,
                // Nothing but its status tells whether it was taken.
                Err(fault @ Fault::Unavailable(_)) => {
                    self.server.client.wait(AGREED).await;
                    match self.server.status_again(self.backend, id, Work::Restore).await {
                        Ok(_) => return Ok(true),
                        Err(status) if status.is(404) && Instant::now() < deadline => {
                            tracing::warn!(error = %fault, "Weaviate has not taken the restore, ordering it again");
                        }
                        Err(status) => return Err(status.of(WHAT)),
                    }
                }
                Err(fault) => return Err(explained(fault, WHAT, self.backend)),
            }
        }
    }
}

/// The one of these ids that the server is at work on, by its refusal.
fn busy_with<'a>(fault: &Fault, ids: &'a [String]) -> Option<&'a String> {
    ids.iter().find(|id| is_busy_with(fault, id))
}

/// Returns whether the server is at work on this very id.
fn is_busy_with(fault: &Fault, id: &str) -> bool {
    fault.says("already in progress") && fault.says(id)
}

/// Returns whether an order had no effect because of something that passes by itself: the store of the backups is
/// away, or the server has not ended the job before.
fn passes(fault: &Fault) -> bool {
    const WORDS: [&str; 3] = ["check if backup", "find backup", "not yet released"];
    // A descriptor that was cut short stays so.
    let is_refused = fault.is(422) && WORDS.iter().any(|words| fault.says(words));
    fault.is_backend_unavailable() || is_refused && !fault.says("end of JSON input")
}

/// A refusal, with what to do about it where that is known.
fn explained(fault: Fault, what: &str, backend: &str) -> ComponentError {
    if fault.says("did you enable the right module") {
        return fault.of(format!("{what}: add backup-{backend} to ENABLE_MODULES of Weaviate"));
    }
    fault.of(what)
}

#[test]
fn ids_are_of_the_letters_that_weaviate_allows_and_never_the_same() {
    let journal = Uuid::new_v4().simple().to_string();
    let (one, other) = (new_id(&journal), new_id(&journal));
    assert_ne!(one, other);
    assert!(one.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')), "{one}");
    assert!(one.starts_with(PREFIX) && one.len() < 128);
    assert_eq!(origin_of(&one), Some(&journal[..8]));
    assert_eq!(origin_of("rna-20261129t225446z-0123abcd"), None);
}
