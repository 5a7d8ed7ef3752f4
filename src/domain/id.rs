//! Names of backups: made from the time, parsed once at the door.

use crate::domain::component::ComponentName;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The name of one backup: `pg_backup_20261122_020000`, `media_backup_20261122_040000_2`.
///
/// The id is also the stem of the backup's file. Times are UTC; a second backup in the same
/// second gets `_2`. A value of this type is safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId(String);

impl BackupId {
    /// The id of a backup of `component` begun at `at`; `turn` counts from 1 within one second.
    pub fn new(component: ComponentName, at: Timestamp, turn: u32) -> Self {
        let stamp = at.to_zoned(TimeZone::UTC).strftime("%Y%m%d_%H%M%S").to_string();
        let prefix = component.file_prefix();
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

    /// The time at which the backup was begun, to the second.
    pub fn created(&self) -> Timestamp {
        parse(&self.0).expect("was parsed when it was made").1
    }
}

fn parse(text: &str) -> Option<(ComponentName, Timestamp)> {
    let component = ComponentName::ALL.into_iter().find(|c| text.starts_with(c.file_prefix()))?;
    let rest = &text[component.file_prefix().len()..];
    let (stamp, turn) = (rest.get(..15)?, rest.get(15..)?);
    let turn_fits = turn.is_empty()
        || turn.strip_prefix('_').is_some_and(|n| {
            !n.starts_with('0') && n.parse::<u32>().is_ok_and(|n| n > 1) && !n.starts_with('+')
        });
    // strptime alone would take fewer digits.
    if !turn_fits
        || !stamp.bytes().enumerate().all(|(i, b)| if i == 8 { b == b'_' } else { b.is_ascii_digit() })
    {
        return None;
    }
    let civil = DateTime::strptime("%Y%m%d_%H%M%S", stamp).ok()?;
    Some((component, civil.to_zoned(TimeZone::UTC).ok()?.timestamp()))
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
        let id = BackupId::new(ComponentName::Postgres, at, 2);
        assert_eq!(id.as_str(), "pg_backup_20261122_020000_2");
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert_eq!(
            (id.component(), id.created()),
            (ComponentName::Postgres, "2026-11-22T02:00:00Z".parse().unwrap())
        );
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in [
            "",
            "pg_backup_",
            "pg_backup_20261122_020000_1",
            "pg_backup_20261122_020000_02",
            "pg_backup_20261122_020000_+3",
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
