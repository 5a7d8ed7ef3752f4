//! Doubt about the clock, from the times of the backups: retention goes by the clock, and by one that is ahead every backup
//! but the newest is old.

use jiff::{SignedDuration, Timestamp};
use std::{fmt, iter};

/// A gap between two backups that is never suspicious: a long weekend.
const USUAL: SignedDuration = SignedDuration::from_hours(4 * 24);

/// The time after a suspicious gap for which the clock is in doubt.
const DOUBTED: SignedDuration = SignedDuration::from_hours(48);

/// A gap before the newest backups that is more than twice as long as the gap before it, and longer than four days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockDoubt {
    /// The backup before the gap.
    before: Timestamp,
    /// The backup after the gap, or the time of the clock.
    after: Timestamp,
}

impl ClockDoubt {
    /// Looks for such a gap in the last two days of the clock. `created` are the times of the backups of one component, the
    /// newest first, without those that the clock has still before it.
    pub fn find(created: impl IntoIterator<Item = Timestamp>, now: Timestamp) -> Option<Self> {
        let times: Vec<_> = iter::once(now).chain(created).collect();
        let gap_before = |at: usize| times.get(at + 1).map(|earlier| times[at].duration_since(*earlier));
        let recent = times.iter().take_while(|time| now.duration_since(**time) <= DOUBTED).count();
        (0..recent).find_map(|at| {
            let (gap, before) = (gap_before(at)?, times[at + 1]);
            let usual = gap_before(at + 1).unwrap_or_default() * 2;
            (gap > usual.max(USUAL)).then_some(Self { before, after: times[at] })
        })
    }
}

impl fmt::Display for ClockDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = |time: Timestamp| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        write!(
            f,
            "the clock may be wrong: {} comes long after {}, and backups were made more often before",
            day(self.after),
            day(self.before)
        )
    }
}

#[test]
fn a_gap_that_is_longer_than_those_before_is_doubted_for_two_days() {
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let found = |hours: &[i64]| {
        let created = hours.iter().map(|hours| now - SignedDuration::from_hours(*hours));
        ClockDoubt::find(created, now).map(|doubt| now.duration_since(doubt.after).as_hours())
    };
    for (ages, doubted) in [
        (&[][..], None),
        (&[0], None),
        (&[24, 48, 72], None),
        // Nothing was made for a month, or the clock is a month ahead; a backup more does not tell which.
        (&[720, 744, 768], Some(0)),
        (&[0, 720, 744, 768], Some(0)),
        (&[0, 1, 720, 744, 768], Some(1)),
        (&[24, 47, 720, 744], Some(47)),
        (&[24, 48, 72, 720, 744], None),
        // Once a week, and once a month.
        (&[0, 168, 336], None),
        (&[1, 720, 1440], None),
        // A weekend without backups, and a week.
        (&[0, 72, 96], None),
        (&[0, 168, 192], Some(0)),
    ] {
        assert_eq!(found(ages), doubted, "{ages:?}");
    }
}
