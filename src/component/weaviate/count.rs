//! The number of objects of a class: what a server tells of it, and what that proves. Pure.

use serde::{Deserialize, Serialize};
use std::{fmt, ops::Add};

/// The number of objects at one moment. Only an exact one may decide about a backup or a restore. No kind is a lower bound:
/// a server that does not count exactly counts objects that are deleted already, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Count {
    /// Every object was counted.
    Exact(u64),
    /// The nodes' own number, without what was written or deleted in the last minute or so.
    Estimate(u64),
    /// The key may not ask for a number.
    #[default]
    Unknown,
}

impl Count {
    /// The number for people and manifests; 0 where nothing is known.
    pub(super) const fn number(self) -> u64 {
        match self {
            Self::Exact(count) | Self::Estimate(count) => count,
            Self::Unknown => 0,
        }
    }
}

impl Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let sum = self.number() + other.number();
        match (self, other) {
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::Exact(_), Self::Exact(_)) => Self::Exact(sum),
            _ => Self::Estimate(sum),
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(count) => write!(f, "{count}"),
            Self::Estimate(count) => write!(f, "about {count}"),
            Self::Unknown => f.write_str("an unknown number of"),
        }
    }
}

/// The counts of a class when its backup began and when the backup was done, since objects may be written meanwhile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub(super) struct CountRange {
    pub(super) before: Count,
    pub(super) after: Count,
}

/// A range as archives hold it.
#[derive(Serialize, Deserialize)]
struct Written {
    before: u64,
    after: u64,
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    exact: bool,
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_true(exact: &bool) -> bool {
    *exact
}

impl From<Written> for CountRange {
    fn from(Written { before, after, exact }: Written) -> Self {
        let count = if exact { Count::Exact } else { Count::Estimate };
        Self { before: count(before), after: count(after) }
    }
}

impl From<CountRange> for Written {
    fn from(range: CountRange) -> Self {
        let (before, after) = (range.before.number(), range.after.number());
        Self { before, after, exact: range.exact().is_some() }
    }
}

/// The meaning of a number of objects beside the counts of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The number lies between two exact counts.
    Whole,
    /// Fewer objects than were there both before and after.
    Fewer,
    /// More objects than were there before or after: somebody wrote meanwhile, and nothing is missing.
    More,
    /// The counts are not exact, so they tell nothing.
    Unproven,
}

impl CountRange {
    /// The range of a class whose objects were all counted as they were captured.
    pub(super) const fn captured(count: u64) -> Self {
        Self { before: Count::Exact(count), after: Count::Exact(count) }
    }

    /// The counts as estimates, for counts that are not of the moment at which the class was captured.
    pub(super) const fn estimated(self) -> Self {
        Self { before: Count::Estimate(self.before.number()), after: Count::Estimate(self.after.number()) }
    }

    /// The smaller and the larger count, when both are exact.
    pub(super) fn exact(self) -> Option<(u64, u64)> {
        match (self.before, self.after) {
            (Count::Exact(before), Count::Exact(after)) => Some((before.min(after), before.max(after))),
            _ => None,
        }
    }

    /// The number for people and manifests. A server writes everything to disk for its backup, so of estimates the
    /// later one is nearer.
    pub(super) fn number(self) -> u64 {
        self.exact().map_or(self.after.number(), |_| self.before.number())
    }

    /// The meaning of `found` objects that were captured between the two counts.
    pub(super) fn judge(self, found: u64) -> Verdict {
        match self.exact() {
            Some((least, _)) if found < least => Verdict::Fewer,
            Some((_, most)) if found > most => Verdict::More,
            Some(_) => Verdict::Whole,
            None => Verdict::Unproven,
        }
    }

    /// Returns whether an empty class contradicts the counts, exact or not: both have seen objects.
    pub(super) fn has_objects(self) -> bool {
        self.before.number().min(self.after.number()) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_exact_counts_decide() {
        use Count::{Estimate, Exact, Unknown};
        for (before, after, found, verdict) in [
            (Exact(5), Exact(5), 5, Verdict::Whole),
            (Exact(5), Exact(5), 4, Verdict::Fewer),
            (Exact(7), Exact(5), 6, Verdict::Whole),
            (Exact(5), Exact(7), 8, Verdict::More),
            (Estimate(5), Exact(5), 4, Verdict::Unproven),
            (Estimate(0), Estimate(0), 300, Verdict::Unproven),
            (Exact(5), Unknown, 0, Verdict::Unproven),
        ] {
            assert_eq!(CountRange { before, after }.judge(found), verdict, "{before} {after} {found}");
        }
        assert_eq!(Exact(1) + Exact(2), Exact(3));
        assert_eq!(Exact(1) + Estimate(2), Estimate(3));
        assert_eq!(Estimate(1) + Unknown, Unknown);
    }

    #[test]
    fn archives_hold_counts_as_they_always_did() {
        let estimates = CountRange { before: Count::Estimate(3), after: Count::Estimate(4) };
        for (range, written) in [
            (
                CountRange { after: Count::Exact(4), ..CountRange::captured(3) },
                json!({"before": 3, "after": 4}),
            ),
            (estimates, json!({"before": 3, "after": 4, "exact": false})),
        ] {
            assert_eq!(serde_json::to_value(range).unwrap(), written);
            assert_eq!(serde_json::from_value::<CountRange>(written).unwrap(), range);
        }
        let unknown = serde_json::to_value(CountRange::default()).unwrap();
        assert_eq!(unknown, json!({"before": 0, "after": 0, "exact": false}));
    }
}
