//! What of a list was judged already, so that a long queue of others' messages is not read again and again.

use std::collections::VecDeque;

/// The oldest entries of a list, from its right end on, that stay where they are.
///
/// They are known by their digests. Entries are only ever added at the ends, and taken from the right
/// end or out of the middle; so while the oldest and the newest of them are in their places, nothing
/// has come in between.
#[derive(Debug, Default)]
pub(super) struct Seen {
    entries: VecDeque<Entry>,
    later: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    digest: u128,
    later: bool,
}

impl Seen {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many are of tasks that are not ours.
    pub(super) fn foreign(&self) -> usize {
        self.entries.len() - self.later
    }

    /// How many are ours and wait.
    pub(super) fn later(&self) -> usize {
        self.later
    }

    /// Adds the next one to the left.
    pub(super) fn push(&mut self, digest: &str, later: bool) {
        let digest = u128::from_str_radix(digest, 16).unwrap_or_default();
        self.entries.push_back(Entry { digest, later });
        self.later += usize::from(later);
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.later = 0;
    }

    /// The digests of the oldest and of the newest.
    pub(super) fn ends(&self) -> [String; 2] {
        [self.entries.front(), self.entries.back()]
            .map(|end| end.map(|entry| format!("{:032x}", entry.digest)).unwrap_or_default())
    }

    /// The list's right end is now `oldest`: drops what was taken from there, or all if it is unknown.
    pub(super) fn shift(&mut self, oldest: &str) {
        let oldest = u128::from_str_radix(oldest, 16).ok();
        match self.entries.iter().position(|entry| Some(entry.digest) == oldest) {
            None | Some(0) => self.clear(),
            Some(taken) => self.later -= self.entries.drain(..taken).filter(|entry| entry.later).count(),
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
        (1..=4).for_each(|n| seen.push(&digest(n), n % 2 == 0));
        assert_eq!((seen.len(), seen.foreign(), seen.later()), (4, 2, 2));
        assert_eq!(seen.ends(), [digest(1), digest(4)]);
        seen.shift(&digest(3));
        assert_eq!((seen.len(), seen.foreign(), seen.later()), (2, 1, 1));
        seen.shift(&digest(3));
        assert_eq!(seen.len(), 0, "the right end is in place, so it is the left end that moved");
        seen.push(&digest(1), true);
        seen.shift(&digest(9));
        assert_eq!((seen.len(), seen.later()), (0, 0));
    }
}
