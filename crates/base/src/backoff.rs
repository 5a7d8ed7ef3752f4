//! Retry arithmetic, apart from any waiting.

use std::time::Duration;

/// The waits between attempts: doubling from `first` up to `longest`.
///
/// Used for connections that must come back by themselves, so there is no last attempt.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first`; no wait is longer than `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The wait before the next attempt; each call doubles the following one.
    pub fn step(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        wait
    }

    /// Begins again at the first wait, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[test]
fn waits_double_up_to_the_longest_and_begin_again_after_a_reset() {
    let seconds = |backoff: &mut Backoff| backoff.step().as_secs();
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(3));
    assert_eq!([1, 2, 3, 3], std::array::from_fn(|_| seconds(&mut backoff)));
    backoff.reset();
    assert_eq!(seconds(&mut backoff), 1);
}
