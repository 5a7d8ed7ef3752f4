//! Requeues messages that consumers of any language took and never acknowledged, as kombu's own sweep does.
//!
//! If no Python worker is left, no other program would requeue these messages. Source: `QoS.restore_visible`,
//! `Channel._do_restore_message` in `kombu/transport/redis.py`, `Channel._lookup` in
//! `kombu/transport/virtual/base.py`.

use super::CeleryError;
use super::json::{self, Object};
use super::lease::Leases;
use super::message::{self, Envelope, Peeked};
use super::route::Routes;
use redis::{FromRedisValue, ParsingError, Script, Value, from_redis_value};
use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;

macro_rules! script {
    ($file:literal) => {
        LazyLock::new(|| Script::new(concat!(include_str!("lua/digest.lua"), include_str!($file))))
    };
}

static OVERDUE: LazyLock<Script> = script!("lua/overdue.lua");
static REQUEUE: LazyLock<Script> = script!("lua/requeue.lua");
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/release.lua")));

/// The interval of looks for overdue messages, the same as kombu's (`unacked_restore_interval` times
/// `unacked_restore_throttle`). A third of the visibility timeout is used if that is less.
const EVERY: Duration = Duration::from_secs(100);

/// The lifetime of the mutex in ms, should its holder die (`Channel.unacked_mutex_expire`).
const MUTEX_LIFE_MS: u64 = 300_000;

/// Number of delivery tags looked at in one step.
const WINDOW: usize = 100;

/// Maximum length, in bytes, of an entry of `unacked` that is read whole and marked as redelivered when it is
/// requeued. One step reads no further entry after this many bytes.
pub(super) const LONGEST_MARKED: usize = 2 << 20;

/// Number of bytes read from the end of a longer entry: exchange and routing key, and the message's properties.
const TAIL: usize = 64 << 10;

/// Maximum number of messages without a queue that are logged, each once; further ones stay unlogged.
const MOST_TOLD: usize = 100;

/// The reply of the script if the message was put back into its queue.
const REQUEUED: u8 = 1;

/// The sweep of `unacked` by visibility timeout.
#[derive(Debug)]
pub(super) struct Restorer {
    leases: Leases,
    timeout: Duration,
    last: Option<Instant>,
    told: HashSet<Vec<u8>>,
}

impl Restorer {
    pub(super) fn new(leases: Leases, visibility_timeout: Duration) -> Self {
        Self { leases, timeout: visibility_timeout, last: None, told: HashSet::new() }
    }

    /// Requeues overdue messages, if it is time to look for them. Returns the number of requeued messages.
    ///
    /// Only the consumer that holds `unacked_mutex` does so, whatever its language.
    pub(super) async fn round(&mut self) -> Result<usize, CeleryError> {
        if self.last.is_some_and(|at| at.elapsed() < EVERY.min(self.timeout / 3)) {
            return Ok(0);
        }
        let first = self.overdue(0).await?;
        let mut given_back = 0;
        if !first.entries.is_empty()
            && let Some(token) = self.lock().await?
        {
            let done = self.restore(first).await;
            // A mutex that is not released expires in five minutes.
            let _ = self.unlock(&token).await;
            given_back = done?;
        }
        self.last = Some(Instant::now());
        Ok(given_back)
    }

    async fn lock(&self) -> Result<Option<String>, CeleryError> {
        let token = Uuid::new_v4().simple().to_string();
        let mut set = redis::cmd("SET");
        set.arg(self.leases.keys().unacked_mutex()).arg(&token).arg("NX").arg("PX").arg(MUTEX_LIFE_MS);
        let done: Option<String> = self.leases.client().command("take unacked mutex", &set).await?;
        Ok(done.map(|_| token))
    }

    async fn unlock(&self, token: &str) -> Result<(), CeleryError> {
        let mut call = RELEASE.key(self.leases.keys().unacked_mutex());
        call.arg(token);
        self.leases.client().script("release unacked mutex", &call).await
    }

    /// Requeues overdue messages step by step, the latest first, so that the oldest is served first.
    async fn restore(&mut self, mut step: Overdue) -> Result<usize, CeleryError> {
        let mut routes = Routes::new(self.leases.clone());
        let (mut given_back, mut skip) = (0, 0);
        while step.seen > 0 {
            skip += step.left;
            for entry in &step.entries {
                if self.requeue(entry, &mut routes).await? {
                    given_back += 1;
                } else {
                    skip += 1;
                }
            }
            step = self.overdue(skip).await?;
        }
        Ok(given_back)
    }

    async fn overdue(&self, skip: usize) -> Result<Overdue, CeleryError> {
        let keys = self.leases.keys();
        let mut call = OVERDUE.key(keys.unacked());
        call.key(keys.unacked_index()).key(keys.leases());
        call.arg(self.timeout.as_secs_f64()).arg(skip).arg(WINDOW).arg(LONGEST_MARKED).arg(TAIL);
        self.leases.client().script("look for overdue messages", &call).await
    }

    /// Requeues a message. Returns `false` if the message stays in `unacked`, as one without a queue does.
    async fn requeue(&mut self, entry: &Entry, routes: &mut Routes) -> Result<bool, CeleryError> {
        let Some(parts) = entry.parts() else {
            self.tell(entry, "it is not what kombu writes there");
            return Ok(false);
        };
        let queues = routes.queues(&parts.exchange, &parts.routing_key).await?;
        if queues.is_empty() {
            self.tell(entry, "no queue is bound to its exchange and routing key");
            return Ok(false);
        }
        let keys = self.leases.keys();
        let mut call = REQUEUE.key(keys.unacked());
        call.key(keys.unacked_index()).key(keys.leases());
        for queue in queues {
            call.key(keys.list(queue, parts.priority));
        }
        call.arg(&entry.tag).arg(self.timeout.as_secs_f64()).arg(&entry.digest);
        call.arg(parts.marked.unwrap_or_default()).arg(parts.behind);
        let reply: u8 = self.leases.client().script("give overdue message back", &call).await?;
        if reply > REQUEUED {
            self.tell(entry, "a key of another type has the name of its queue");
        }
        Ok(reply == REQUEUED)
    }

    fn tell(&mut self, entry: &Entry, why: &str) {
        if self.told.len() < MOST_TOLD && self.told.insert(entry.tag.clone()) {
            let tag = String::from_utf8_lossy(&entry.tag);
            warn!(?tag, why, "an overdue message cannot go back to a queue, it stays in unacked");
        }
    }
}

/// The result of one look at `unacked`.
struct Overdue {
    /// The number of tags looked at; 0 if there are no more.
    seen: usize,
    /// The number of these tags that workers of this program hold.
    left: usize,
    entries: Vec<Entry>,
}

/// An overdue entry of `unacked`.
struct Entry {
    tag: Vec<u8>,
    digest: String,
    /// The length of the whole entry.
    size: usize,
    /// The bytes of the entry; of a long entry only the end.
    text: Vec<u8>,
}

impl FromRedisValue for Overdue {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        type Raw = (Vec<u8>, String, usize, Vec<u8>);
        let (seen, left, entries): (usize, usize, Vec<Raw>) = from_redis_value(value)?;
        let entry = |(tag, digest, size, text)| Entry { tag, digest, size, text };
        Ok(Self { seen, left, entries: entries.into_iter().map(entry).collect() })
    }
}

/// The parts of an entry, which is `[message, exchange, routing_key]`.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    exchange: String,
    routing_key: String,
    priority: u8,
    /// The message marked as redelivered; `None` if the message is put back unchanged.
    marked: Option<String>,
    /// The number of bytes after the message.
    behind: usize,
}

impl Entry {
    fn parts(&self) -> Option<Parts> {
        let (exchange, routing_key, behind) = addressed(&self.text)?;
        let message = &self.text[..self.text.len() - behind];
        if self.size > self.text.len() {
            let priority = match Envelope::peek_at_tail(message) {
                Peeked::Task(look) => look.priority,
                Peeked::Foreign | Peeked::Unreadable(_) => 0,
            };
            return Some(Parts { exchange, routing_key, priority, marked: None, behind });
        }
        let message = message.strip_prefix(b"[")?;
        let strict = json::to_strict(message).ok()?;
        let outer = Object::parse(&strict.text)?;
        let priority = outer.object("properties").read("priority").unwrap_or(0_i64).clamp(0, 9);
        let priority = u8::try_from(priority).unwrap_or_default();
        Some(Parts { exchange, routing_key, priority, marked: message::redelivered(message), behind })
    }
}

/// Returns the exchange and routing key at the end of an entry, and the number of bytes after the message.
///
/// The entry is read from its end, so that the message need not be parsed.
fn addressed(entry: &[u8]) -> Option<(String, String, usize)> {
    /// Maximum number of commas tried, from the end of the entry.
    const MOST: usize = 64;
    let start = entry.len().saturating_sub(TAIL);
    let commas = (start..entry.len()).rev().filter(|at| entry[*at] == b',').take(MOST);
    for at in commas {
        let rest = [b"[", &entry[at + 1..]].concat();
        if let Ok((exchange, key)) = serde_json::from_slice::<(Option<String>, Option<String>)>(&rest) {
            return Some((exchange.unwrap_or_default(), key.unwrap_or_default(), entry.len() - at));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> Entry {
        Entry { tag: "t".into(), digest: String::new(), size: text.len(), text: text.into() }
    }

    #[test]
    fn an_entry_is_taken_apart_without_changing_the_message() {
        let message =
            r#"{"headers": {"task": "t"}, "properties": {"priority": 6, "delivery_info": {}}, "n": 1.50}"#;
        let parts = entry(&format!(r#"[{message}, "ex,\",\"", "a,b"]"#)).parts().unwrap();
        assert_eq!((parts.exchange.as_str(), parts.routing_key.as_str()), ("ex,\",\"", "a,b"));
        let marked = parts.marked.unwrap();
        assert!(marked.ends_with(r#""n": 1.50}"#) && marked.contains(r#""redelivered": true"#), "{marked}");
        assert_eq!((parts.priority, parts.behind), (6, r#", "ex,\",\"", "a,b"]"#.len()));
        let anonymous = entry(r#"[{"body":NaN},null,"q"]"#).parts().unwrap();
        assert_eq!((anonymous.exchange.as_str(), anonymous.priority, anonymous.marked), ("", 0, None));
    }

    #[test]
    fn what_is_no_entry_is_not_taken_apart() {
        for text in ["", "[", "x", "[1, 2, 3]", r#"[{}, "a"]"#, r#"["a", "b", "c"]"#, &",".repeat(1 << 17)] {
            assert_eq!(entry(text).parts(), None, "{text:.20}");
        }
    }
}
