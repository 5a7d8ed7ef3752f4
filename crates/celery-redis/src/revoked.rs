//! The revoked tasks, which must not run: by their ids, and by their stamps.

use super::message::Message;
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Maximum number of revoked ids, and of stamps, the same as Celery's: `REVOKES_MAX` in `celery/worker/state.py`.
const MOST: usize = 50_000;

/// The lifetime of a revocation. Longer than Celery's (`REVOKE_EXPIRES`, 3 h), because a task may wait for another
/// one for hours.
const LIFE: Duration = Duration::from_hours(24);

/// Maximum length of a remembered id or stamp, in bytes, so that no sender fills the memory.
const LONGEST: usize = 512;

/// The ids and the stamps of revoked tasks: at most 50,000 of each, of the last day, of at most 512 bytes each.
/// Beyond these limits the oldest are dropped.
#[derive(Debug, Default)]
pub struct Revoked {
    ids: Mutex<Recent>,
    stamps: Mutex<Recent>,
}

/// Texts, with the time at which each was last added.
#[derive(Debug, Default)]
struct Recent {
    since: HashMap<String, Instant>,
    /// All additions in order; a text that was added again is here once more.
    order: VecDeque<(Instant, String)>,
}

impl Revoked {
    /// Adds an id, or renews its lifetime.
    pub fn add(&self, id: &str) {
        locked(&self.ids).add(id, Instant::now());
    }

    /// Adds a [`stamp`], or renews its lifetime.
    pub(super) fn add_stamp(&self, stamp: &str) {
        locked(&self.stamps).add(stamp, Instant::now());
    }

    /// Returns `true` if this id was revoked.
    pub fn contains(&self, id: &str) -> bool {
        locked(&self.ids).since.contains_key(id)
    }

    /// Returns `true` if this task was revoked, by its id or by one of its stamps.
    pub fn covers(&self, message: &Message) -> bool {
        if self.contains(&message.id) {
            return true;
        }
        let stamps = locked(&self.stamps);
        !stamps.since.is_empty() && stamps_of(message).any(|stamp| stamps.since.contains_key(&stamp))
    }

    /// Returns all revoked ids, the oldest first.
    pub fn list(&self) -> Vec<String> {
        let ids = locked(&self.ids);
        let current = |(at, id): &&(Instant, String)| ids.since.get(id) == Some(at);
        ids.order.iter().filter(current).map(|(_, id)| id.clone()).collect()
    }
}

/// Returns the [`stamp`]s of a message, one for each value of a list.
///
/// Only stamps named by the header `stamped_headers` count: `Request.stamps` in
/// `celery/worker/request.py`.
pub(super) fn stamps_of(message: &Message) -> impl Iterator<Item = String> {
    let named: Vec<String> = message
        .header("stamped_headers")
        .and_then(|names| serde_json::from_value(names).ok())
        .unwrap_or_default();
    let named = message.stamps.iter().filter(move |(header, _)| named.contains(header));
    named.flat_map(|(header, value)| {
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        values.iter().map(move |value| stamp(header, value))
    })
}

/// Returns one value of a stamped header as a text.
pub(super) fn stamp(header: &str, value: &Value) -> String {
    json!([header, value]).to_string()
}

fn locked(texts: &Mutex<Recent>) -> MutexGuard<'_, Recent> {
    texts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recent {
    fn add(&mut self, text: &str, now: Instant) {
        if text.len() > LONGEST {
            tracing::debug!(bytes = text.len(), "too long to be remembered as revoked");
            return;
        }
        self.since.insert(text.to_owned(), now);
        self.order.push_back((now, text.to_owned()));
        self.forget_old(now);
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((at, id)) = self.order.front() {
            let superseded = self.since.get(id) != Some(at);
            let old =
                now.duration_since(*at) > LIFE || self.since.len() > MOST || self.order.len() > 2 * MOST;
            if !superseded && !old {
                return;
            }
            if !superseded {
                self.since.remove(id);
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_when_there_are_too_many_or_their_day_is_over() {
        let revoked = Revoked::default();
        let start = Instant::now();
        let add = |id: &str, at| locked(&revoked.ids).add(id, at);
        (0..=MOST).for_each(|n| add(&n.to_string(), start));
        assert!(!revoked.contains("0") && revoked.contains("1") && revoked.contains("50000"));
        add("1", start + Duration::from_secs(1));
        add("new", start + LIFE + Duration::from_secs(1));
        assert_eq!(revoked.list(), ["1", "new"]);
        revoked.add(&"x".repeat(LONGEST + 1));
        assert_eq!(revoked.list().len(), 2);
    }
}
