//! The ids of tasks that must not run.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// As many as Celery remembers: `REVOKES_MAX` in `celery/worker/state.py`.
const MOST: usize = 50_000;

/// Longer than Celery (`REVOKE_EXPIRES`, 3 h): a backup may lie behind another one for hours.
const LIFE: Duration = Duration::from_hours(24);

/// The ids of tasks that must not run: at most 50,000 of the last day; beyond that the oldest go.
#[derive(Debug, Default)]
pub struct Revoked(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    since: HashMap<String, Instant>,
    /// In the order in which they came; those that came again are here again.
    order: VecDeque<(Instant, String)>,
}

impl Revoked {
    /// Adds an id, or makes it young again.
    pub fn add(&self, id: &str) {
        self.add_at(id, Instant::now());
    }

    fn add_at(&self, id: &str, now: Instant) {
        let mut state = self.state();
        state.since.insert(id.to_owned(), now);
        state.order.push_back((now, id.to_owned()));
        state.forget_old(now);
    }

    /// Whether this id was revoked.
    pub fn contains(&self, id: &str) -> bool {
        self.state().since.contains_key(id)
    }

    /// All of them, the oldest first.
    pub fn list(&self) -> Vec<String> {
        let state = self.state();
        let current = |(at, id): &&(Instant, String)| state.since.get(id) == Some(at);
        state.order.iter().filter(current).map(|(_, id)| id.clone()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
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
        (0..=MOST).for_each(|n| revoked.add_at(&n.to_string(), start));
        assert!(!revoked.contains("0") && revoked.contains("1") && revoked.contains("50000"));
        revoked.add_at("1", start + Duration::from_secs(1));
        revoked.add_at("new", start + LIFE + Duration::from_secs(1));
        assert_eq!(revoked.list(), ["1", "new"]);
    }
}
