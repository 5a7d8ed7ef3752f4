//! The logical clock that Celery's workers keep in step by their events and control messages.

use std::sync::atomic::{AtomicU64, Ordering};

/// A Lamport clock: incremented for each event and reply sent, and never behind the received values.
///
/// Source: `LamportClock` in `kombu/clocks.py`.
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

/// Maximum value accepted from others: JSON readers of all languages can represent it, and a lying sender
/// cannot make the clock overflow.
const HIGHEST: u64 = 1 << 53;

impl Clock {
    /// Increments the clock, and returns the value for a message to send.
    pub fn tick(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Advances the clock beyond the value of a received message, and returns the new value.
    pub fn observe(&self, theirs: u64) -> u64 {
        let theirs = theirs.min(HIGHEST);
        let last = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |own| Some(own.max(theirs) + 1));
        last.unwrap_or_default().max(theirs) + 1
    }

    /// The current value.
    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[test]
fn the_clock_is_never_behind_what_it_heard() {
    let clock = Clock::default();
    assert_eq!((clock.tick(), clock.observe(10), clock.observe(3), clock.tick()), (1, 11, 12, 13));
    assert_eq!(clock.observe(u64::MAX), HIGHEST + 1);
}
