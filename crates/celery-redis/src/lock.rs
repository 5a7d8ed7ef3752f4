//! Locks of the whole fleet: each has at most one holder among all workers on one broker.
//!
//! All locks are in one hash, from the lock's name to its [`Holder`] as JSON. A holder is alive for as long
//! as its worker's record is. The [`LeaseKeeper`](super::sweep::LeaseKeeper) of any other worker frees the locks
//! of dead workers, after the same times as their messages, and a worker's own `LeaseKeeper` frees locks that are no longer
//! in hand.

use super::CeleryError;
use super::client::Client;
use super::instance::Instance;
use super::json::quoted;
use super::keys::Keys;
use super::sweep::RECORD_LIFE_MS;
use redis::Script;
use serde::Deserialize;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, RwLock};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

static LOCK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/lock.lua")));
static KEEP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/keep_lock.lua")));
static UNLOCK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/unlock.lua")));

/// All locks of this process; cheap to clone. Returned by [`Leases::locks`](super::lease::Leases::locks),
/// whose `LeaseKeeper` checks and frees them.
#[derive(Debug, Clone)]
pub struct Locks(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Client,
    keys: Keys,
    instance: Instance,
    in_hand: Mutex<HashMap<LockEntry, CancellationToken>>,
    /// Held for reading while a lock is being taken, and for writing while this process's lost locks are swept.
    takes: RwLock<()>,
    outcome_unknown: Arc<Notify>,
}

/// A lock's name and the JSON of its holder, as stored in Redis.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct LockEntry {
    name: String,
    holder: String,
}

/// The holder of a lock. `Display` is for people: `worker@host2 (task …)`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Holder {
    /// The id of the worker's run.
    pub instance: String,
    /// The Celery node name of the worker.
    pub node: String,
    /// The id of the task that the lock is held for.
    pub task: Option<String>,
    /// The fencing token: the number of this holder among all holders of all locks.
    pub token: u64,
}

impl Locks {
    pub(super) fn new(client: Client, keys: Keys, instance: Instance, outcome_unknown: Arc<Notify>) -> Self {
        let (in_hand, takes) = (Mutex::default(), RwLock::default());
        Self(Arc::new(Shared { client, keys, instance, in_hand, takes, outcome_unknown }))
    }

    /// Takes a lock for a task, or returns the current holder.
    ///
    /// # Errors
    ///
    /// As [`Client::once`]. After a transient error it is unknown whether the lock was taken; if it was,
    /// the `LeaseKeeper` frees it.
    pub async fn try_take(
        &self,
        name: &str,
        task_id: Option<&str>,
    ) -> Result<Result<HeldLock, Holder>, CeleryError> {
        let _taking = self.0.takes.read().await;
        let Shared { keys, instance, .. } = &*self.0;
        let task = task_id.map_or("null".to_owned(), quoted);
        let (id, node) = (quoted(instance.id()), quoted(&instance.record().node));
        let mut call = LOCK.key(keys.locks());
        call.key(keys.fence()).key(keys.worker(instance.id())).arg(name);
        call.arg(format!(r#"{{"instance": {id}, "node": {node}, "task": {task}"#));
        call.arg(serde_json::json!(instance.record()).to_string()).arg(RECORD_LIFE_MS);
        let reply: Result<(u64, Vec<u8>), _> = self.0.client.script("take lock", &call).await;
        let (token, holder) = reply.inspect_err(|_| self.0.outcome_unknown.notify_one())?;
        if token == 0 {
            return Ok(Err(Holder::parse(&holder)));
        }
        let entry =
            LockEntry { name: name.to_owned(), holder: String::from_utf8_lossy(&holder).into_owned() };
        let lost = CancellationToken::new();
        self.hand().insert(entry.clone(), lost.clone());
        Ok(Ok(HeldLock { locks: self.clone(), entry, token, lost }))
    }

    /// Returns the current holder of a lock.
    ///
    /// # Errors
    ///
    /// As [`Client::once`].
    pub async fn holder(&self, name: &str) -> Result<Option<Holder>, CeleryError> {
        let mut get = redis::cmd("HGET");
        get.arg(self.0.keys.locks()).arg(name);
        let holder: Option<Vec<u8>> = self.0.client.command("read lock", &get).await?;
        Ok(holder.as_deref().map(Holder::parse))
    }

    /// Checks the locks of this process, and returns the locks of other workers.
    ///
    /// A lock in hand that another worker has taken over is reported by [`HeldLock::lost`]; a lock of this process
    /// that is not in hand is freed.
    pub(super) async fn look_after(&self) -> Result<Vec<ForeignLock>, CeleryError> {
        let mut get = redis::cmd("HGETALL");
        get.arg(self.0.keys.locks());
        let all: Vec<(Vec<u8>, Vec<u8>)> = self.0.client.command("read locks", &get).await?;
        let is_text = |(name, holder)| Some((String::from_utf8(name).ok()?, String::from_utf8(holder).ok()?));
        let all: Vec<_> =
            all.into_iter().filter_map(is_text).map(|(name, holder)| LockEntry { name, holder }).collect();
        let in_hand: Vec<_> = self.hand().iter().map(|(entry, lost)| (entry.clone(), lost.clone())).collect();
        for (entry, lost) in in_hand {
            if all.contains(&entry) || lost.is_cancelled() {
                continue;
            }
            let ours = self.keep(&entry).await?;
            if !self.hand().contains_key(&entry) {
                self.0.outcome_unknown.notify_one(); // freed meanwhile, and `keep` may have written it again
            } else if !ours {
                warn!(name = entry.name, "a lock was lost to another worker");
                lost.cancel();
            }
        }
        let (own, others): (Vec<_>, Vec<_>) = all
            .into_iter()
            .map(|entry| (Holder::parse(entry.holder.as_bytes()).instance, entry))
            .partition(|(worker, _)| worker == self.0.instance.id());
        self.free_own(own.into_iter().map(|(_, entry)| entry).collect()).await?;
        // Without the id of a worker, no holder can be found dead.
        let named = others.into_iter().filter(|(worker, _)| !worker.is_empty());
        Ok(named.map(|(worker, entry)| ForeignLock { worker, entry }).collect())
    }

    /// Frees the locks that this process holds in Redis but not in hand. No lock is taken meanwhile, so that none is
    /// freed whose take is under way.
    async fn free_own(&self, mut held: Vec<LockEntry>) -> Result<(), CeleryError> {
        held.retain(|entry| !self.hand().contains_key(entry));
        if held.is_empty() {
            return Ok(()); // so that no take has to wait
        }
        let _nobody_takes = self.0.takes.write().await;
        for entry in held {
            if !self.hand().contains_key(&entry) {
                self.free(self.0.instance.id(), &entry, "*").await?;
            }
        }
        Ok(())
    }

    /// Frees the lock of a dead worker. `record` is the worker's record; empty if the record has expired.
    pub(super) async fn free_foreign(&self, lock: &ForeignLock, record: &str) -> Result<(), CeleryError> {
        if self.free(&lock.worker, &lock.entry, record).await? {
            let holder = Holder::parse(lock.entry.holder.as_bytes());
            info!(name = ?lock.entry.name, %holder, "freed the lock of a worker that is gone");
        }
        Ok(())
    }

    async fn free(&self, worker: &str, entry: &LockEntry, record: &str) -> Result<bool, CeleryError> {
        let mut call = UNLOCK.key(self.0.keys.locks());
        call.key(self.0.keys.worker(worker)).arg(&entry.name).arg(&entry.holder).arg(record);
        self.0.client.script("free lock", &call).await
    }

    /// Returns `true` if the lock is still this holder's. A lock that Redis has lost (a restart without its data, a
    /// failover) is written again, unless any lock was taken since.
    async fn keep(&self, entry: &LockEntry) -> Result<bool, CeleryError> {
        let token = Holder::parse(entry.holder.as_bytes()).token;
        let mut call = KEEP.key(self.0.keys.locks());
        call.key(self.0.keys.fence()).arg(&entry.name).arg(&entry.holder).arg(token);
        self.0.client.script("look at lock", &call).await
    }

    fn hand(&self) -> MutexGuard<'_, HashMap<LockEntry, CancellationToken>> {
        self.0.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lock of another worker.
#[derive(Debug)]
pub(super) struct ForeignLock {
    /// The id of the worker's run.
    pub(super) worker: String,
    entry: LockEntry,
}

/// A lock that this process holds until the lock is freed, or lost.
///
/// A lock that is dropped instead, say by a panic, is freed by the `LeaseKeeper` at once.
#[derive(Debug)]
#[must_use = "a lock that is dropped is freed"]
pub struct HeldLock {
    locks: Locks,
    entry: LockEntry,
    token: u64,
    lost: CancellationToken,
}

impl HeldLock {
    /// The fencing token: greater than the token of every earlier holder, of this lock and all others, for as
    /// long as Redis keeps the writes that it acknowledged.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Fires when another worker has taken the lock over because this worker was cut off from Redis for too long. The
    /// `LeaseKeeper` notices a loss in its next round after Redis can be reached again.
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Asks Redis, and returns `true` if this process still holds the lock. A lost lock stays lost.
    ///
    /// # Errors
    ///
    /// As [`Client::once`]; then it is unknown who holds the lock.
    pub async fn check(&self) -> Result<bool, CeleryError> {
        let ours = !self.lost.is_cancelled() && self.locks.keep(&self.entry).await?;
        if !ours {
            self.lost.cancel();
        }
        Ok(ours)
    }

    /// Frees the lock. A lost lock is left to its new holder.
    ///
    /// # Errors
    ///
    /// As [`Client::once`]; then the `LeaseKeeper` frees the lock, if Redis still has it.
    pub async fn free(self) -> Result<(), CeleryError> {
        let locks = &self.locks;
        // Removed from hand first: a `LeaseKeeper` that looks now may free the lock as well, but does not report it as lost.
        locks.hand().remove(&self.entry);
        locks.free(locks.0.instance.id(), &self.entry, "*").await.map(drop)
    }
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        if self.locks.hand().remove(&self.entry).is_some() {
            self.locks.0.outcome_unknown.notify_one();
        }
    }
}

impl Holder {
    /// Parses a holder; a text that this program did not write becomes a holder without a name.
    fn parse(text: &[u8]) -> Self {
        let nobody = || Self { instance: String::new(), node: String::new(), task: None, token: 0 };
        serde_json::from_slice(text).unwrap_or_else(|_| nobody())
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Maximum characters shown of a name; longer names are cut.
        const LONGEST: usize = 200;
        let plain = |text: &str| text.chars().filter(|c| !c.is_control()).take(LONGEST).collect::<String>();
        match self.node.as_str() {
            "" => f.write_str("an unknown holder")?,
            node => f.write_str(&plain(node))?,
        }
        self.task.as_ref().map_or(Ok(()), |task| write!(f, " (task {})", plain(task)))
    }
}
