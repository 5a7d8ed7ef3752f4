//! Leases: the messages that this process has taken and not yet acknowledged or given back.

use super::CeleryError;
use super::client::Client;
use super::keys::Keys;
use super::lock::Locks;
use super::message::{self, Envelope, Limits, Message, Peeked, Refusal};
use super::publish::Outgoing;
use super::restore::LONGEST_MARKED;
use super::result::{Backend, TaskResult};
use bytes::Bytes;
use redis::{Script, ScriptInvocation};
use serde_json::json;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, RwLock};
use tokio_util::sync::CancellationToken;

pub use super::instance::{Instance, Record};

static ACK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("lua/ack.lua"),
        "return ack(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1], ARGV[2], ARGV[3])"
    ))
});
static STORE_AND_ACK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("lua/store.lua"),
        include_str!("lua/ack.lua"),
        "local ours = ack(KEYS[2], KEYS[3], KEYS[4], KEYS[5], ARGV[4], ARGV[5], ARGV[6])\n",
        // Another worker runs the task now and may succeed, so a FAILURE is not stored.
        "if ours == 1 or cjson.decode(ARGV[1]).status == 'SUCCESS' then\n",
        "  store(KEYS[1], ARGV[1], ARGV[2], ARGV[3])\n",
        "end\n",
        "return ours"
    ))
});
static REPLACE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/replace.lua")));
static RESTORE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/restore.lua")));

/// All leases of this process. Cheap to clone; create one per process.
#[derive(Debug, Clone)]
pub struct Leases(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Client,
    keys: Keys,
    instance: Instance,
    in_hand: Mutex<HashSet<String>>,
    taken: AtomicU64,
    /// Held for reading while a claim is under way, and for writing while this process's lost claims are swept.
    claims: RwLock<()>,
    outcome_unknown: Arc<Notify>,
    locks: Locks,
}

impl Leases {
    /// Creates an empty set of leases.
    pub fn new(client: Client, keys: Keys, instance: Instance) -> Self {
        let outcome_unknown = Arc::new(Notify::new());
        Self(Arc::new(Shared {
            locks: Locks::new(client.clone(), keys.clone(), instance.clone(), Arc::clone(&outcome_unknown)),
            client,
            keys,
            instance,
            in_hand: Mutex::default(),
            taken: AtomicU64::new(0),
            claims: RwLock::default(),
            outcome_unknown,
        }))
    }

    /// The locks of this process, which are freed when the process dies, as leases are.
    pub fn locks(&self) -> &Locks {
        &self.0.locks
    }

    /// The delivery tags of the messages in hand.
    pub fn in_hand(&self) -> Vec<String> {
        self.hand().iter().cloned().collect()
    }

    /// The connection over which leases are settled.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// The names of the keys.
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// The identity of this process, which holds the leases.
    pub fn instance(&self) -> &Instance {
        &self.0.instance
    }

    /// The JSON of this process's record in Redis.
    pub(super) fn record(&self) -> String {
        serde_json::json!(self.0.instance.record()).to_string()
    }

    pub(super) fn holds(&self, tag: &str) -> bool {
        self.hand().contains(tag)
    }

    /// The lock that is held for reading while a claim is under way, until its lease is in hand.
    pub(super) fn claims(&self) -> &RwLock<()> {
        &self.0.claims
    }

    /// Notified when the answer to a claim was lost, so that this process may hold a message or a lock that is not in
    /// hand.
    pub(super) fn outcome_unknown(&self) -> &Notify {
        &self.0.outcome_unknown
    }

    pub(super) fn take_in_hand(&self, tag: String, claim: Claim, raw: Option<Bytes>) -> Lease {
        self.hand().insert(tag.clone());
        let number = self.0.taken.fetch_add(1, Ordering::Relaxed);
        Lease { leases: self.clone(), tag, claim, raw, number }
    }

    fn hand(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prepares the script that puts a message back at the end of its list that is served next.
    ///
    /// `record` is the required record of the holder: empty for no record, `*` for any. `text` is the new text of the
    /// message, or `None` to keep the text.
    pub(super) fn restore(
        &self,
        tag: &str,
        claim: &Claim,
        record: &str,
        text: Option<&str>,
    ) -> ScriptInvocation<'static> {
        let keys = self.keys();
        let mut call = RESTORE.prepare_invoke();
        call.key(&claim.list)
            .key(keys.unacked())
            .key(keys.unacked_index())
            .key(keys.leases())
            .key(keys.worker(&claim.worker))
            .key(keys.begun(tag))
            .arg(tag)
            .arg(claim.text())
            .arg(record)
            .arg(claim.size)
            .arg(text.unwrap_or_default())
            .arg(claim.behind);
        call
    }
}

/// The replies of the restore script: the message belongs to another worker by now, and the message was put back.
pub(super) const NOT_OURS: u8 = 0;
pub(super) const RESTORED: u8 = 1;

/// The worker that took a message, and the list it came from: the value in the hash of leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) worker: String,
    /// The key of the list that the message came from.
    pub(super) list: String,
    /// The number of bytes after the message in its entry of `unacked`.
    pub(super) behind: usize,
    /// The length of the message's entry of `unacked`. A message that others put back and took again has another
    /// length.
    pub(super) size: usize,
}

impl Claim {
    pub(super) fn text(&self) -> String {
        json!([self.worker, self.list, self.behind, self.size]).to_string()
    }

    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let (worker, list, behind, size) = serde_json::from_slice(text).ok()?;
        Some(Self { worker, list, behind, size })
    }

    /// Returns the message in an entry of `unacked`, between the `[` and the last `behind` bytes.
    pub(super) fn message_in<'a>(&self, entry: &'a [u8]) -> Option<&'a [u8]> {
        entry.get(1..entry.len().checked_sub(self.behind)?)
    }
}

/// A message that this process holds until it is settled by [`ack`](Self::ack) or [`give_back`](Self::give_back).
///
/// A lease that is dropped instead, say by a panic, is given back by the
/// [`LeaseKeeper`](super::sweep::LeaseKeeper) within seconds.
#[derive(Debug)]
#[must_use = "a lease that is dropped is delivered again"]
pub struct Lease {
    leases: Leases,
    tag: String,
    claim: Claim,
    /// The message; `None` if the message is too long to be held.
    raw: Option<Bytes>,
    number: u64,
}

impl Lease {
    /// The number of the message in the order in which this process took its messages.
    pub fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn leases(&self) -> &Leases {
        &self.leases
    }

    /// The delivery tag, which is the key of the message in `unacked`.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Forgets the text of the message, which stays in Redis.
    pub fn drop_text(&mut self) {
        self.raw = None;
    }

    /// Reads the message again, of which the text was [dropped](Self::drop_text); `None` if another worker has it by now.
    ///
    /// # Errors
    ///
    /// Any error of Redis.
    pub async fn read_again(&mut self, queue: &str) -> Result<Option<Result<Message, Refusal>>, CeleryError> {
        let Some(raw) = self.stored().await? else { return Ok(None) };
        let limits = Limits::default();
        let Peeked::Task(look) = Envelope::peek(&raw, &limits) else { return Ok(None) };
        let message = Message::parse(&raw, &look, queue, &limits);
        self.raw = Some(raw);
        Ok(Some(message))
    }

    /// The text of the message in Redis; `None` if another worker has the message by now.
    async fn stored(&self) -> Result<Option<Bytes>, CeleryError> {
        let keys = self.leases.keys();
        let mut read = redis::pipe();
        read.atomic();
        read.hget(keys.leases(), &self.tag).hget(keys.unacked(), &self.tag);
        let read = |mut link| async move { read.query_async(&mut link).await };
        let (lease, entry): (Option<Vec<u8>>, Option<Vec<u8>>) =
            self.leases.client().once("read leased message", read).await?;
        let is_ours = lease.is_some_and(|lease| lease == self.claim.text().as_bytes());
        let entry = entry.filter(|entry| is_ours && entry.len() == self.claim.size).map(Bytes::from);
        let end = self.claim.size.saturating_sub(self.claim.behind);
        Ok(entry.filter(|_| end > 0).map(|entry| entry.slice(1..end)))
    }

    /// Removes the message for good. Repeats until Redis answers or `stop` fires.
    ///
    /// # Errors
    ///
    /// [`CeleryError::LeaseLost`] when the message had passed to another worker; [`CeleryError::Stopped`]; or
    /// a permanent error of Redis.
    pub async fn ack(self, stop: &CancellationToken) -> Result<(), CeleryError> {
        self.settle("acknowledge message", ACK.prepare_invoke(), stop).await
    }

    /// Returns `false` if the message has passed to another worker, and `true` also while Redis does not answer.
    pub async fn is_ours(&self) -> bool {
        let mut get = redis::cmd("HGET");
        get.arg(self.leases.keys().leases()).arg(&self.tag);
        let held: Result<Option<Vec<u8>>, _> = self.leases.client().command("look at lease", &get).await;
        held.map_or(true, |held| held.is_some_and(|held| held == self.claim.text().as_bytes()))
    }

    /// Stores the result and removes the message for good, in one atomic step. If the message had passed to another
    /// worker, only a SUCCESS is stored. `backend` must be [on the broker's server](Backend::is_at). Repeats until
    /// Redis answers or `stop` fires.
    ///
    /// # Errors
    ///
    /// As [`ack`](Self::ack). After a permanent error this process still holds the message.
    pub async fn ack_with(
        &self,
        result: &TaskResult,
        backend: &Backend,
        stop: &CancellationToken,
    ) -> Result<(), CeleryError> {
        let mut call = STORE_AND_ACK.prepare_invoke();
        backend.write(result, u8::from(result.state.is_final()), &mut call);
        self.settle("store result and acknowledge", call, stop).await
    }

    /// Adds the keys and arguments of `ack.lua`, and runs the script.
    async fn settle(
        &self,
        op: &'static str,
        mut call: ScriptInvocation<'_>,
        stop: &CancellationToken,
    ) -> Result<(), CeleryError> {
        let keys = self.leases.keys();
        call.key(keys.unacked()).key(keys.unacked_index()).key(keys.leases()).key(keys.begun(&self.tag));
        call.arg(&self.tag).arg(self.claim.text()).arg(self.claim.size);
        let ours = self.leases.client().script_retrying(op, stop, &call).await?;
        if ours { Ok(()) } else { Err(CeleryError::LeaseLost { tag: self.tag.clone() }) }
    }

    /// Removes the message for good and sends `others` in its place, in one atomic step, so that a retry is neither
    /// lost nor doubled whenever this process ends. Repeats until Redis answers or `stop` fires.
    ///
    /// # Errors
    ///
    /// As [`ack`](Self::ack).
    pub async fn replace(self, others: &[Outgoing], stop: &CancellationToken) -> Result<(), CeleryError> {
        let mut call = REPLACE.prepare_invoke();
        let keys = self.leases.keys();
        call.key(keys.unacked()).key(keys.unacked_index()).key(keys.leases()).key(keys.begun(&self.tag));
        call.arg(&self.tag).arg(self.claim.text()).arg(self.claim.size);
        for other in others {
            call.key(other.list(keys)).arg(other.text());
        }
        let ours = self.leases.client().script_retrying("replace message", stop, &call).await?;
        if ours { Ok(()) } else { Err(CeleryError::LeaseLost { tag: self.tag.clone() }) }
    }

    /// Puts the message back into its list, to be served next, marked as redelivered. Repeats until Redis answers or
    /// `stop` fires.
    ///
    /// # Errors
    ///
    /// As [`ack`](Self::ack).
    pub async fn give_back(self, stop: &CancellationToken) -> Result<(), CeleryError> {
        // A message that is too long to be marked goes back unchanged, and so does a message that cannot be read now.
        let stored = match &self.raw {
            None if self.claim.size <= LONGEST_MARKED => self.stored().await.ok().flatten(),
            held => held.clone(),
        };
        let text = stored.as_deref().and_then(message::redelivered);
        let call = self.leases.restore(&self.tag, &self.claim, "*", text.as_deref());
        let reply: u8 = self.leases.client().script_retrying("give message back", stop, &call).await?;
        if reply == NOT_OURS { Err(CeleryError::LeaseLost { tag: self.tag.clone() }) } else { Ok(()) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.hand().remove(&self.tag);
    }
}
