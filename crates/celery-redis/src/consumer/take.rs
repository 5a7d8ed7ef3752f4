//! The scripts that look at lists and claim entries.

use super::super::CeleryError;
use super::super::json::quoted;
use super::super::lease::{Claim, Lease};
use super::super::sweep::RECORD_LIFE_MS;
use super::judge::QueueEntry;
use super::seen::Seen;
use super::{Chosen, Consumer, LOOKAHEAD, UNREADABLE_KEPT};
use bytes::Bytes;
use redis::{RedisResult, Script, Value, from_redis_value};
use std::sync::LazyLock;
use uuid::Uuid;

/// Number of bytes read of an entry that is too long; kombu's headers and properties fit well.
const TAIL: usize = 64 << 10;

macro_rules! script {
    ($file:literal) => {
        LazyLock::new(|| Script::new(concat!(include_str!("../lua/digest.lua"), include_str!($file))))
    };
}

static PEEK: LazyLock<Script> = script!("../lua/peek.lua");
static CLAIM: LazyLock<Script> = script!("../lua/claim.lua");
static SET_ASIDE: LazyLock<Script> = script!("../lua/set_aside.lua");

/// The result of a look at all lists.
pub(super) enum Peek {
    /// No entry that was not judged before.
    Nothing,
    /// The judged entries of a list are no longer in their places; the digest of the list's oldest entry is `oldest`.
    Moved { list: usize, oldest: String },
    /// The first list with new entries, and these entries, oldest first.
    Entries { list: usize, entries: Vec<QueueEntry> },
}

impl Consumer {
    pub(super) async fn peek(&self, seen: &[Seen], window: usize) -> Result<Peek, CeleryError> {
        let mut call = PEEK.arg(window);
        call.arg(self.limits.message_bytes).arg(TAIL.min(self.limits.message_bytes));
        for ((_, key), seen) in self.lists.iter().zip(seen) {
            call.key(key).arg(seen.len()).arg(&seen.ends()).arg(LOOKAHEAD.saturating_sub(seen.waiting()));
        }
        let call = &call;
        let peek = |mut link| async move { Peek::read(call.invoke_async(&mut link).await?) };
        self.wake.link.once("look at queues", peek).await
    }

    /// Claims entries, in one atomic step; `None` for an entry that is no longer in the list.
    pub(super) async fn claim(
        &self,
        list: usize,
        chosen: &[Chosen<'_>],
    ) -> Result<Vec<Option<Lease>>, CeleryError> {
        if chosen.is_empty() {
            return Ok(Vec::new());
        }
        let (leases, keys) = (&self.leases, self.leases.keys());
        let (queue, key) = &self.lists[list];
        let worker = leases.instance().id();
        let mut call = CLAIM.key(key);
        call.key(keys.unacked()).key(keys.unacked_index()).key(keys.leases()).key(keys.worker(worker));
        call.arg(leases.record()).arg(RECORD_LIFE_MS).arg(Uuid::new_v4().to_string());
        let mut claims = Vec::with_capacity(chosen.len());
        for Chosen { place, entry, look } in chosen {
            let exchange = quoted(look.exchange.as_deref().unwrap_or_default());
            let routing_key = quoted(look.routing_key.as_ref().unwrap_or(&self.queues[*queue]));
            let behind = format!(", {exchange}, {routing_key}]");
            let claim = Claim {
                worker: worker.to_owned(),
                list: key.clone(),
                behind: behind.len(),
                size: 1 + entry.bytes + behind.len(),
            };
            call.arg(place)
                .arg(&entry.digest)
                .arg(look.delivery_tag.as_deref().unwrap_or_default())
                .arg(Uuid::new_v4().to_string())
                .arg(behind)
                .arg(claim.text());
            claims.push((claim, entry.is_whole().then(|| entry.shown.clone())));
        }

        let _under_way = leases.claims().read().await;
        let tags: Vec<Option<String>> =
            self.wake.link.script("take messages", &call).await.inspect_err(|_| {
                // The claim may have succeeded although its answer was lost: then this process holds messages without
                // a lease in hand.
                leases.outcome_unknown().notify_one();
            })?;
        let lease = |(tag, (claim, raw)): (Option<_>, _)| tag.map(|tag| leases.take_in_hand(tag, claim, raw));
        Ok(tags.into_iter().zip(claims).map(lease).collect())
    }

    /// Moves an unreadable entry to `<queue>.unreadable`. Returns `false` if the entry is no longer in the list.
    pub(super) async fn set_aside(
        &self,
        list: usize,
        place: usize,
        entry: &QueueEntry,
    ) -> Result<bool, CeleryError> {
        let (queue, key) = &self.lists[list];
        let mut call = SET_ASIDE.key(key);
        call.key(self.leases.keys().unreadable(&self.queues[*queue]))
            .arg(place)
            .arg(&entry.digest)
            .arg(Uuid::new_v4().to_string())
            .arg(UNREADABLE_KEPT);
        self.wake.link.script("set unreadable entry aside", &call).await
    }
}

impl Peek {
    fn read(reply: Option<(usize, String, Option<Vec<Value>>)>) -> RedisResult<Self> {
        let entry = |value| {
            let (digest, bytes, shown): (_, _, Vec<u8>) = from_redis_value(value)?;
            Ok(QueueEntry { digest, bytes, shown: Bytes::from(shown) })
        };
        Ok(match reply {
            None => Self::Nothing,
            Some((list, oldest, None)) => Self::Moved { list: list - 1, oldest },
            Some((list, _, Some(entries))) => Self::Entries {
                list: list - 1,
                entries: entries.into_iter().map(entry).collect::<RedisResult<_>>()?,
            },
        })
    }
}
