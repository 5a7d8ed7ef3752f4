//! The entries of a list that were judged already, so that a long queue of other programs' messages is not read
//! again and again.

use std::collections::VecDeque;

/// The oldest entries of a list, from its right end on, that were judged and keep their places.
///
/// Entries are identified by their digests. Entries are only ever added at the ends, and taken from the right
/// end or out of the middle. So while the oldest and the newest of the judged entries are in their places, no entry
/// was inserted between these two.
#[derive(Debug, Default)]
pub(super) struct Seen {
    entries: VecDeque<SkippedEntry>,
    later: usize,
    full: usize,
}

/// The reason why an entry keeps its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SkipReason {
    /// The task belongs to another program.
    Foreign,
    /// The task is this worker's and waits for a condition of its own.
    Later,
    /// The task is this worker's and waits for a slot: later messages must not be taken before it.
    Full,
}

#[derive(Debug, Clone, Copy)]
struct SkippedEntry {
    digest: u128,
    why: SkipReason,
}

impl Seen {
    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The number of entries whose tasks belong to other programs.
    pub(super) fn foreign(&self) -> usize {
        self.entries.len() - self.waiting()
    }

    /// The number of entries that are this worker's and wait.
    pub(super) fn waiting(&self) -> usize {
        self.later + self.full
    }

    /// True if an entry waits for a slot.
    pub(super) fn is_full(&self) -> bool {
        self.full > 0
    }

    /// Adds the next entry to the left.
    pub(super) fn push(&mut self, digest: &str, why: SkipReason) {
        let digest = u128::from_str_radix(digest, 16).unwrap_or_default();
        self.entries.push_back(SkippedEntry { digest, why });
        self.count(why, 1);
    }

    /// Removes all entries.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn count(&mut self, why: SkipReason, change: isize) {
        let count = match why {
            SkipReason::Foreign => return,
            SkipReason::Later => &mut self.later,
            SkipReason::Full => &mut self.full,
        };
        *count = count.saturating_add_signed(change);
    }

    /// The digests of the oldest and of the newest entry; empty if there are no entries.
    pub(super) fn ends(&self) -> [String; 2] {
        [self.entries.front(), self.entries.back()]
            .map(|end| end.map(|entry| format!("{:032x}", entry.digest)).unwrap_or_default())
    }

    /// Drops the entries that were taken from the right end of the list, where `oldest` is now. Drops all entries if
    /// `oldest` is unknown.
    pub(super) fn shift(&mut self, oldest: &str) {
        let oldest = u128::from_str_radix(oldest, 16).ok();
        match self.entries.iter().position(|entry| Some(entry.digest) == oldest) {
            None | Some(0) => self.clear(),
            Some(taken) => {
                for _ in 0..taken {
                    let entry = self.entries.pop_front().expect("it stands before another one");
                    self.count(entry.why, -1);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_from_the_right_end_is_dropped_and_a_stranger_there_drops_all() {
        let digest = |n: u8| format!("{n:032x}");
        let mut seen = Seen::default();
        let why = [SkipReason::Foreign, SkipReason::Full, SkipReason::Foreign, SkipReason::Later];
        (1..=4).zip(why).for_each(|(n, why)| seen.push(&digest(n), why));
        assert_eq!((seen.len(), seen.foreign(), seen.waiting(), seen.is_full()), (4, 2, 2, true));
        assert_eq!(seen.ends(), [digest(1), digest(4)]);
        seen.shift(&digest(3));
        assert_eq!((seen.len(), seen.foreign(), seen.waiting(), seen.is_full()), (2, 1, 1, false));
        seen.shift(&digest(3));
        assert_eq!(seen.len(), 0, "the right end is in place, so it is the left end that moved");
        seen.push(&digest(1), SkipReason::Later);
        seen.shift(&digest(9));
        assert_eq!((seen.len(), seen.waiting()), (0, 0));
    }
}
