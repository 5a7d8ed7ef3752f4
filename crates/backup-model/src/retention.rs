//! The backups that may go: a pure function of the backups, the rule, and the time.

use crate::{component::ComponentName, id::BackupId};
use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};
use serde::{Serialize, Serializer};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// The rule of retention. A backup stays when *any* part of the rule keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Backups younger than this many days stay (`BACKUP_RETENTION_DAYS`).
    pub days: u32,
    /// The newest so many verified backups stay, whatever their age (`BACKUP_KEEP_LAST`). 0 counts
    /// as 1: no rule ever takes the last good backup.
    pub last: u32,
    /// The newest verified backup of each of the last so many ISO weeks that have one stays.
    pub weekly: u32,
    /// The newest verified backup of each of the last so many calendar months that have one stays.
    pub monthly: u32,
}

impl Default for Policy {
    /// The defaults of the settings.
    fn default() -> Self {
        Self { days: 7, last: 1, weekly: 0, monthly: 0 }
    }
}

/// One backup in one destination, as the rule sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The id of the backup.
    pub id: BackupId,
    /// The time at which the backup was begun.
    pub created: Timestamp,
    /// The result of the last verification.
    pub verification: VerificationStatus,
    /// True if somebody has pinned the backup: it stays.
    pub pinned: bool,
}

/// The result of the last verification of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerificationStatus {
    /// The backup was read to its end and found whole.
    Verified,
    /// The backup is known to be no good.
    Failed,
    /// The archive is not where its manifest says. The reason may pass (a disk that is not mounted), so the manifest
    /// is kept.
    Missing,
    /// The backup is not verified yet, so it is neither counted on nor deleted.
    Unknown,
}

/// The verdict of the rule about each backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetentionPlan {
    /// The backups that may go, the oldest first.
    pub delete: Vec<BackupId>,
    /// The backups that stay and the reasons, the newest of each component first.
    pub keep: Vec<(BackupId, KeepReason)>,
}

impl RetentionPlan {
    /// Moves every backup that `needed` names from those that go to those that stay.
    pub fn spare(&mut self, needed: &BTreeSet<BackupId>) {
        let (spared, gone) = std::mem::take(&mut self.delete).into_iter().partition(|id| needed.contains(id));
        self.delete = gone;
        self.stay(spared, KeepReason::BuiltOn);
    }

    fn stay(&mut self, ids: Vec<BackupId>, reason: KeepReason) {
        self.keep.extend(ids.into_iter().map(|id| (id, reason)));
        self.keep.sort_by_key(|(id, _)| (id.component(), Reverse((id.created(), id.clone()))));
    }

    /// Moves every backup that would go to those that stay; returns `true` if there was one.
    pub fn hold_back(&mut self, reason: KeepReason) -> bool {
        let held = std::mem::take(&mut self.delete);
        let any = !held.is_empty();
        self.stay(held, reason);
        any
    }
}

/// The backups that those which stay build on, and that those build on in turn: whoever is listed can be
/// restored. `builds_on` tells what a backup itself builds on.
pub fn needed<'a>(
    staying: impl IntoIterator<Item = &'a BackupId>,
    builds_on: impl Fn(&BackupId) -> &'a [BackupId],
) -> BTreeSet<BackupId> {
    let mut needed = BTreeSet::new();
    let mut to_look_at: Vec<_> = staying.into_iter().collect();
    while let Some(id) = to_look_at.pop() {
        to_look_at.extend(builds_on(id).iter().filter(|base| needed.insert((*base).clone())));
    }
    needed
}

/// The reason that a backup stays. Of several reasons, the first of this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeepReason {
    /// Somebody pinned the backup.
    Pinned,
    /// The backup is not verified yet.
    NotVerified,
    /// The archive is not where its manifest says.
    ArchiveMissing,
    /// The backup's time is yet to come: some clock is wrong.
    FromTheFuture,
    /// The backup is one of the newest verified ones; so many are always kept.
    NewestVerified(u32),
    /// The backup is younger than so many days.
    Young(u32),
    /// The backup is the newest of its week.
    Weekly,
    /// The backup is the newest of its month.
    Monthly,
    /// A backup that stays leaves out data that this one holds.
    BuiltOn,
    /// The backup could go, but the newest one is much smaller, and nobody has accepted that.
    HeldBack,
    /// The backup could go, but only by a clock that may be wrong.
    ClockInDoubt,
}

impl fmt::Display for KeepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Pinned => "pinned",
            Self::NotVerified => "not verified yet",
            Self::ArchiveMissing => "archive is missing",
            Self::FromTheFuture => "from the future",
            Self::NewestVerified(1) => "newest verified",
            Self::NewestVerified(n) => return f.pad(&format!("among the newest {n} verified")),
            Self::Young(1) => "younger than 1 day",
            Self::Young(days) => return f.pad(&format!("younger than {days} days")),
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::BuiltOn => "a later backup builds on it",
            Self::ClockInDoubt => {
                "held back: the clock stands far after the backups; by hand, `prune --trust-clock` goes by it"
            }
            Self::HeldBack => "held back: the newest backup is much smaller than before, pin or accept it",
        };
        f.pad(text)
    }
}

impl Serialize for KeepReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Policy {
    /// Returns the rule with another number of days, or unchanged without one.
    #[must_use]
    pub fn with_days(self, days: Option<u32>) -> Self {
        Self { days: days.unwrap_or(self.days), ..self }
    }

    /// Sorts backups of one destination into those that may go and those that stay.
    ///
    /// Backups of several components are planned apart from each other. A backup from the future
    /// stays and counts as no other's successor, so that one wrong clock does not empty a store.
    /// The plan depends on the order of `candidates` in nothing, and planning again after it was
    /// carried out deletes nothing more.
    pub fn plan(&self, candidates: &[Candidate], now: Timestamp) -> RetentionPlan {
        let mut by_component: BTreeMap<ComponentName, Vec<&Candidate>> = BTreeMap::new();
        for candidate in candidates {
            by_component.entry(candidate.id.component()).or_default().push(candidate);
        }
        let (mut keep, mut delete) = (Vec::new(), Vec::new());
        for mut of_one in by_component.into_values() {
            of_one.sort_unstable_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
            let mut slots = Slots::default();
            for candidate in of_one {
                match self.reason(candidate, now, &mut slots) {
                    Some(reason) => keep.push((candidate.id.clone(), reason)),
                    None => delete.push((candidate.created, candidate.id.clone())),
                }
            }
        }
        delete.sort_unstable();
        RetentionPlan { delete: delete.into_iter().map(|(_, id)| id).collect(), keep }
    }

    /// Returns the reason that the next backup, from the newest to the oldest, stays; `None`: it may go.
    fn reason(&self, candidate: &Candidate, now: Timestamp, slots: &mut Slots) -> Option<KeepReason> {
        let last = self.last.max(1);
        let past = candidate.created <= now;
        // A backup that is kept for another reason still takes its place: it is there to be restored.
        let taken = if past && candidate.verification == VerificationStatus::Verified {
            slots.take(candidate.created, last, self.weekly, self.monthly)
        } else {
            Taken::default()
        };
        let oldest = now.checked_sub(SignedDuration::from_hours(24 * i64::from(self.days)));
        let young = oldest.map_or(true, |oldest| candidate.created > oldest);
        [
            (candidate.pinned, KeepReason::Pinned),
            (candidate.verification == VerificationStatus::Unknown, KeepReason::NotVerified),
            (candidate.verification == VerificationStatus::Missing, KeepReason::ArchiveMissing),
            (!past, KeepReason::FromTheFuture),
            (taken.last, KeepReason::NewestVerified(last)),
            (young, KeepReason::Young(self.days)),
            (taken.week, KeepReason::Weekly),
            (taken.month, KeepReason::Monthly),
        ]
        .into_iter()
        .find_map(|(holds, reason)| holds.then_some(reason))
    }
}

/// The places that the verified backups so far, from the newest on, have taken.
#[derive(Debug, Default)]
struct Slots {
    last: u32,
    weeks: BTreeSet<(i16, i8)>,
    months: BTreeSet<(i16, i8)>,
}

#[derive(Debug, Default)]
struct Taken {
    last: bool,
    week: bool,
    month: bool,
}

impl Slots {
    fn take(&mut self, created: Timestamp, last: u32, weekly: u32, monthly: u32) -> Taken {
        fn first(seen: &mut BTreeSet<(i16, i8)>, of: (i16, i8), limit: u32) -> bool {
            seen.len() < limit as usize && seen.insert(of)
        }
        let day: Date = created.to_zoned(TimeZone::UTC).date();
        let week = day.iso_week_date();
        let newest = self.last < last;
        self.last += u32::from(newest);
        Taken {
            last: newest,
            week: first(&mut self.weeks, (week.year(), week.week()), weekly),
            month: first(&mut self.months, (day.year(), day.month()), monthly),
        }
    }
}
