//! Locks of the whole fleet: each has at most one holder among all workers on one broker.
//!
//! All locks are in one hash, from the lock's name to its [`Holder`] as JSON. A holder is alive for as long
//! as its worker's record is. The [`Keeper`](super::sweep::Keeper) of any other worker frees the locks
//! of dead workers, after the same times as their messages, and a worker's own Keeper frees locks that are no longer
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
/// whose Keeper checks and frees them.
#[derive(Debug, Clone)]
pub struct Locks(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Client,
    keys: Keys,
    instance: Instance,
    in_hand: Mutex<HashMap<Seat, CancellationToken>>,
    /// Held for reading while a lock is being taken, and for writing while this process's lost locks are swept.
    takes: RwLock<()>,
    doubt: Arc<Notify>,
}

/// A lock's name and the JSON of its holder, as stored in Redis.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Seat {
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
    pub(super) fn new(client: Client, keys: Keys, instance: Instance, doubt: Arc<Notify>) -> Self {
        let (in_hand, takes) = (Mutex::default(), RwLock::default());
        Self(Arc::new(Shared { client, keys, instance, in_hand, takes, doubt }))
    }

    /// Takes a lock for a task, or returns the current holder.
    ///
    /// # Errors
    ///
    /// As [`Client::once`]. After a transient error it is unknown whether the lock was taken; if it was,
    /// the Keeper frees it.
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
        let (token, holder) = reply.inspect_err(|_| self.0.doubt.notify_one())?;
        if token == 0 {
            return Ok(Err(Holder::parse(&holder)));
        }
        let seat = Seat { name: name.to_owned(), holder: String::from_utf8_lossy(&holder).into_owned() };
        let lost = CancellationToken::new();
        self.hand().insert(seat.clone(), lost.clone());
        Ok(Ok(HeldLock { locks: self.clone(), seat, token, lost }))
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
    pub(super) async fn look_after(&self) -> Result<Vec<Foreign>, CeleryError> {
        let mut get = redis::cmd("HGETALL");
        get.arg(self.0.keys.locks());
        let all: Vec<(Vec<u8>, Vec<u8>)> = self.0.client.command("read locks", &get).await?;
        let is_text = |(name, holder)| Some((String::from_utf8(name).ok()?, String::from_utf8(holder).ok()?));
        let all: Vec<_> =
            all.into_iter().filter_map(is_text).map(|(name, holder)| Seat { name, holder }).collect();
        let in_hand: Vec<_> = self.hand().iter().map(|(seat, lost)| (seat.clone(), lost.clone())).collect();
        for (seat, lost) in in_hand {
            if all.contains(&seat) || lost.is_cancelled() {
                continue;
            }
            let ours = self.keep(&seat).await?;
            if !self.hand().contains_key(&seat) {
                self.0.doubt.notify_one(); // freed meanwhile, and `keep` may have written it again
            } else if !ours {
                warn!(name = seat.name, "a lock was lost to another worker");
                lost.cancel();
            }
        }
        let (own, others): (Vec<_>, Vec<_>) = all
            .into_iter()
            .map(|seat| (Holder::parse(seat.holder.as_bytes()).instance, seat))
            .partition(|(worker, _)| worker == self.0.instance.id());
        self.free_own(own.into_iter().map(|(_, seat)| seat).collect()).await?;
        // Without the id of a worker, no holder can be found dead.
        let named = others.into_iter().filter(|(worker, _)| !worker.is_empty());
        Ok(named.map(|(worker, seat)| Foreign { worker, seat }).collect())
    }

    /// Frees the locks that this process holds in Redis but not in hand. No lock is taken meanwhile, so that none is
    /// freed whose take is under way.
    async fn free_own(&self, mut held: Vec<Seat>) -> Result<(), CeleryError> {
        held.retain(|seat| !self.hand().contains_key(seat));
        if held.is_empty() {
            return Ok(()); // so that no take has to wait
        }
        let _nobody_takes = self.0.takes.write().await;
        for seat in held {
            if !self.hand().contains_key(&seat) {
                self.free(self.0.instance.id(), &seat, "*").await?;
            }
        }
        Ok(())
    }

    /// Frees the lock of a dead worker. `record` is the worker's record; empty if the record has expired.
    pub(super) async fn free_foreign(&self, lock: &Foreign, record: &str) -> Result<(), CeleryError> {
        if self.free(&lock.worker, &lock.seat, record).await? {
            let holder = Holder::parse(lock.seat.holder.as_bytes());
            info!(name = ?lock.seat.name, %holder, "freed the lock of a worker that is gone");
        }
        Ok(())
    }

    async fn free(&self, worker: &str, seat: &Seat, record: &str) -> Result<bool, CeleryError> {
        let mut call = UNLOCK.key(self.0.keys.locks());
        call.key(self.0.keys.worker(worker)).arg(&seat.name).arg(&seat.holder).arg(record);
        self.0.client.script("free lock", &call).await
    }

    /// Returns `true` if the lock is still this holder's. A lock that Redis has lost (a restart without its data, a
    /// failover) is written again, unless any lock was taken since.
    async fn keep(&self, seat: &Seat) -> Result<bool, CeleryError> {
        let token = Holder::parse(seat.holder.as_bytes()).token;
        let mut call = KEEP.key(self.0.keys.locks());
        call.key(self.0.keys.fence()).arg(&seat.name).arg(&seat.holder).arg(token);
        self.0.client.script("look at lock", &call).await
    }

    fn hand(&self) -> MutexGuard<'_, HashMap<Seat, CancellationToken>> {
        self.0.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lock of another worker.
#[derive(Debug)]
pub(super) struct Foreign {
    /// The id of the worker's run.
    pub(super) worker: String,
    seat: Seat,
}

/// A lock that this process holds until the lock is freed, or lost.
///
/// A lock that is dropped instead, say by a panic, is freed by the Keeper at once.
#[derive(Debug)]
#[must_use = "a lock that is dropped is freed"]
pub struct HeldLock {
    locks: Locks,
    seat: Seat,
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
    /// Keeper notices a loss in its next round after Redis can be reached again.
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Asks Redis, and returns `true` if this process still holds the lock. A lost lock stays lost.
    ///
    /// # Errors
    ///
    /// As [`Client::once`]; then it is unknown who holds the lock.
    pub async fn check(&self) -> Result<bool, CeleryError> {
        let ours = !self.lost.is_cancelled() && self.locks.keep(&self.seat).await?;
        if !ours {
            self.lost.cancel();
        }
        Ok(ours)
    }

    /// Frees the lock. A lost lock is left to its new holder.
    ///
    /// # Errors
    ///
    /// As [`Client::once`]; then the Keeper frees the lock, if Redis still has it.
    pub async fn free(self) -> Result<(), CeleryError> {
        let locks = &self.locks;
        // Removed from hand first: a Keeper that looks now may free the lock as well, but does not report it as lost.
        locks.hand().remove(&self.seat);
        locks.free(locks.0.instance.id(), &self.seat, "*").await.map(drop)
    }
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        if self.locks.hand().remove(&self.seat).is_some() {
            self.locks.0.doubt.notify_one();
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
