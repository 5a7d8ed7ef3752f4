//! Names of backups: made from the time, parsed once at the door.

use crate::component::ComponentName;
use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use serde::{Deserialize, Serialize};
use std::{cmp::Ordering, fmt, str::FromStr};
use uuid::Uuid;

/// The name of one backup: `pg_backup_20261122_020000_1253141592`.
///
/// The id is also the stem of the backup's file: the component, the time in UTC, and a number of ten digits that tells
/// the milliseconds and is otherwise random. Two machines that share a bucket and begin in the same second have
/// different ids by it. Earlier versions counted within a second instead: `pg_backup_20261122_020000`, `…_2`; such
/// ids are read as before. A value of this type is safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId(String);

/// The smallest number that tells milliseconds; smaller ones count the backups of one second.
const FIRST: u32 = 1_000_000_000;

/// The numbers of one millisecond.
const NUMBERS: u32 = 3_000_000;

impl BackupId {
    /// An id of a new backup of `component` that begins at `at`, which no other machine makes.
    pub fn unique(component: ComponentName, at: Timestamp) -> Self {
        let random = u32::try_from(Uuid::new_v4().as_u128() % u128::from(NUMBERS)).expect("it is below u32");
        let millisecond = u32::try_from(at.as_millisecond().rem_euclid(1000)).expect("it is below 1000");
        Self::new(component, at, FIRST + millisecond * NUMBERS + random)
    }

    /// The id of a backup of `component` begun at `at`; `turn` is the number, which 1 leaves out.
    pub fn new(component: ComponentName, at: Timestamp, turn: u32) -> Self {
        let stamp = at.to_zoned(TimeZone::UTC).strftime("%Y%m%d_%H%M%S").to_string();
        let prefix = component.kind().file_prefix;
        Self(if turn > 1 { format!("{prefix}{stamp}_{turn}") } else { format!("{prefix}{stamp}") })
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The component of the backup.
    pub fn component(&self) -> ComponentName {
        parse(&self.0).expect("was parsed when it was made").0
    }

    /// The time at which the backup was begun, to the millisecond; to the second where an earlier version made the id.
    pub fn created(&self) -> Timestamp {
        let (_, second, turn) = parse(&self.0).expect("was parsed when it was made");
        let millisecond = turn.checked_sub(FIRST).map_or(0, |number| number / NUMBERS);
        second + SignedDuration::from_millis(millisecond.min(999).into())
    }
}

impl Ord for BackupId {
    /// By component, then by time, the oldest first.
    fn cmp(&self, other: &Self) -> Ordering {
        parse(&self.0).cmp(&parse(&other.0))
    }
}

impl PartialOrd for BackupId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn parse(text: &str) -> Option<(ComponentName, Timestamp, u32)> {
    let component = ComponentName::all().find(|c| text.starts_with(c.kind().file_prefix))?;
    let rest = &text[component.kind().file_prefix.len()..];
    let (stamp, turn) = (rest.get(..15)?, rest.get(15..)?);
    let turn = if turn.is_empty() {
        1
    } else {
        let number = turn.strip_prefix('_').filter(|number| !number.starts_with(['0', '+']))?;
        number.parse().ok().filter(|turn| *turn > 1)?
    };
    // strptime alone would take fewer digits.
    if !stamp.bytes().enumerate().all(|(i, b)| if i == 8 { b == b'_' } else { b.is_ascii_digit() }) {
        return None;
    }
    let civil = DateTime::strptime("%Y%m%d_%H%M%S", stamp).ok()?;
    Some((component, civil.to_zoned(TimeZone::UTC).ok()?.timestamp(), turn))
}

impl FromStr for BackupId {
    type Err = InvalidBackupId;

    fn from_str(text: &str) -> Result<Self, InvalidBackupId> {
        parse(text).map(|_| Self(text.to_owned())).ok_or(InvalidBackupId)
    }
}

impl TryFrom<String> for BackupId {
    type Error = InvalidBackupId;

    fn try_from(text: String) -> Result<Self, InvalidBackupId> {
        text.parse()
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> Self {
        id.0
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The text is not the name of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a backup id such as pg_backup_20261122_020000")]
pub struct InvalidBackupId;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_what_and_when() {
        let at: Timestamp = "2026-11-22T02:00:00.9Z".parse().unwrap();
        let id = BackupId::new(ComponentName::POSTGRES, at, 2);
        assert_eq!(id.as_str(), "pg_backup_20261122_020000_2");
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert_eq!(
            (id.component(), id.created()),
            (ComponentName::POSTGRES, "2026-11-22T02:00:00Z".parse().unwrap())
        );
    }

    #[test]
    fn ids_of_the_same_moment_differ_and_sort_by_time() {
        let at = |at: &str| at.parse::<Timestamp>().unwrap();
        let unique = |time| BackupId::unique(ComponentName::MEDIA, at(time));
        let (early, late) = (unique("2026-11-22T02:00:00.004Z"), unique("2026-11-22T02:00:00.999Z"));
        assert_ne!(early, unique("2026-11-22T02:00:00.004Z"));
        for id in [&early, &late] {
            assert_eq!(id.as_str().parse().as_ref(), Ok(id));
            assert_eq!(id.as_str().len(), "media_backup_20261122_020000_1003141592".len());
        }
        assert_eq!(early.created(), at("2026-11-22T02:00:00.004Z"));
        assert_eq!(late.created(), at("2026-11-22T02:00:00.999Z"));
        let counted = [1, 2, 10].map(|turn| BackupId::new(ComponentName::MEDIA, early.created(), turn));
        let mut sorted = [&late, &early, &counted[2], &counted[1], &counted[0]];
        sorted.sort();
        assert_eq!(sorted, [&counted[0], &counted[1], &counted[2], &early, &late]);
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in [
            "",
            "pg_backup_",
            "pg_backup_20261122_020000_1",
            "pg_backup_20261122_020000_02",
            "pg_backup_20261122_020000_+3",
            "pg_backup_20261122_020000_4294967296",
            "pg_backup_20261322_020000",
            "pg_backup_20261122_020000/../x",
            "redis_20261122_020000",
            "pg_backup_2026112 _020000",
            "pg_backup_20261122_020000é",
        ] {
            assert_eq!(text.parse::<BackupId>(), Err(InvalidBackupId), "{text}");
        }
    }
}
