//! A backup that is suspiciously small: perfectly whole, and of data that somebody has just lost.

use crate::{facts::Facts, id::BackupId, manifest::Manifest};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The figures by which a backup is far smaller than the one before. Such a backup is kept and counts; but as long as
/// it is the newest and nobody has accepted it, retention deletes no other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anomaly {
    /// The backup that this one was compared with.
    pub against: BackupId,
    /// The figures that fell, one sentence each.
    pub what: Vec<String>,
    /// The time at which somebody accepted the backup as it is.
    #[serde(default)]
    pub accepted: Option<Timestamp>,
}

impl Anomaly {
    /// Compares a new backup with an older one; `None` if nothing has fallen by more than half.
    pub fn between(before: &Manifest, now: &Facts) -> Option<Self> {
        let what = size_drops(&before.facts, now);
        (!what.is_empty()).then(|| Self { against: before.backup_id.clone(), what, accepted: None })
    }
}

impl Manifest {
    /// True if the backup is much smaller than the one before, and nobody has accepted it. A pin that was ordered with
    /// the backup does not accept it: nobody knew of the anomaly yet.
    pub fn is_suspect(&self) -> bool {
        self.anomaly.as_ref().is_some_and(|anomaly| anomaly.accepted.is_none())
    }

    /// The sentence about a backup that is suspect, with the command that accepts it; `None` for any other.
    pub fn flag(&self) -> Option<String> {
        let anomaly = self.anomaly.as_ref().filter(|_| self.is_suspect())?;
        let (id, against, what) = (&self.backup_id, &anomaly.against, anomaly.what.join("; "));
        Some(format!(
            "it is much smaller than {against}: {what}; if that is right, accept it: `rna-backup accept {id}`, or the \
             task accept_backup"
        ))
    }

    /// Accepts the backup's smaller size, if it is flagged for that.
    pub fn accept(&mut self, now: Timestamp) {
        if let Some(anomaly) = &mut self.anomaly {
            anomaly.accepted.get_or_insert(now);
        }
    }
}

/// Returns one sentence for each figure that has fallen by more than half.
pub fn size_drops(before: &Facts, now: &Facts) -> Vec<String> {
    let fell = |(_, before, now): &(&str, u128, u128)| 2 * now < *before;
    let told = |(name, before, now)| format!("{name} fell from {before} to {now}");
    // Another backend stores the same data in other bytes, and the bytes of Weaviate's own backups are of files that
    // the server compacts when it likes: in both cases the number of objects tells.
    let is_native = matches!(now.backend.as_deref(), Some("filesystem" | "s3"));
    let is_no_measure = is_native || before.backend != now.backend;
    let (before, now) = (sizes(before), sizes(now));
    let pairs = before.into_iter().zip(now).map(|((name, before), (_, now))| (name, before, now));
    pairs.filter(fell).filter(|(name, ..)| !is_no_measure || *name != SOURCE_BYTES).map(told).collect()
}

const SOURCE_BYTES: &str = "source bytes";

/// The figures that are compared.
fn sizes(facts: &Facts) -> [(&'static str, u128); 7] {
    let counts = &facts.counts;
    let files = counts.files.unwrap_or_default();
    [
        (SOURCE_BYTES, facts.source_bytes.into()),
        ("tables", counts.tables.len() as u128),
        ("rows", counts.tables.iter().map(|table| u128::from(table.rows)).sum()),
        ("files", files.files.into()),
        ("bytes in files", files.bytes.into()),
        ("classes", counts.classes.len() as u128),
        ("objects", counts.classes.values().map(|objects| u128::from(*objects)).sum()),
    ]
}
