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
    full: usize,
}

/// Why an entry stays where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stays {
    /// It is of a task that is not ours.
    Foreign,
    /// It is ours and waits for something of its own.
    Later,
    /// It is ours and waits for room: what came after it must not be taken before it.
    Full,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    digest: u128,
    why: Stays,
}

impl Seen {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many are of tasks that are not ours.
    pub(super) fn foreign(&self) -> usize {
        self.entries.len() - self.waiting()
    }

    /// How many are ours and wait.
    pub(super) fn waiting(&self) -> usize {
        self.later + self.full
    }

    /// Whether one of them waits for room.
    pub(super) fn is_full(&self) -> bool {
        self.full > 0
    }

    /// Adds the next one to the left.
    pub(super) fn push(&mut self, digest: &str, why: Stays) {
        let digest = u128::from_str_radix(digest, 16).unwrap_or_default();
        self.entries.push_back(Entry { digest, why });
        self.count(why, 1);
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn count(&mut self, why: Stays, change: isize) {
        let count = match why {
            Stays::Foreign => return,
            Stays::Later => &mut self.later,
            Stays::Full => &mut self.full,
        };
        *count = count.saturating_add_signed(change);
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
        let why = [Stays::Foreign, Stays::Full, Stays::Foreign, Stays::Later];
        (1..=4).zip(why).for_each(|(n, why)| seen.push(&digest(n), why));
        assert_eq!((seen.len(), seen.foreign(), seen.waiting(), seen.is_full()), (4, 2, 2, true));
        assert_eq!(seen.ends(), [digest(1), digest(4)]);
        seen.shift(&digest(3));
        assert_eq!((seen.len(), seen.foreign(), seen.waiting(), seen.is_full()), (2, 1, 1, false));
        seen.shift(&digest(3));
        assert_eq!(seen.len(), 0, "the right end is in place, so it is the left end that moved");
        seen.push(&digest(1), Stays::Later);
        seen.shift(&digest(9));
        assert_eq!((seen.len(), seen.waiting()), (0, 0));
    }
}
