//! The manifest: a backup exists when this does.

use crate::{
    anomaly::Anomaly, component::ComponentName, facts::Facts, id::BackupId, listing::BackupState,
    report::CheckedCopy,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The manifest of one backup: all that is known about the backup. Written last, deleted first.
///
/// Unknown fields are ignored when reading, so that an older program can list what a newer one
/// wrote; a newer [`format`](Self::format) is refused by whoever restores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format: see [`Manifest::format_of`].
    pub format: u32,
    /// The id of the backup.
    pub backup_id: BackupId,
    /// The component.
    pub component: ComponentName,
    /// The source that was read: name of the database, path of the media folder. Never a URL with credentials.
    pub source: String,
    /// The time at which reading began; the data is of this instant.
    pub created_at: Timestamp,
    /// The time at which the archive was proven and the manifest written.
    pub finished_at: Timestamp,
    /// The set of a full backup, or null.
    pub set_id: Option<String>,
    /// Free text of the person who ordered the backup.
    pub label: Option<String>,
    /// True if retention never deletes the backup.
    pub pinned: bool,
    /// The Celery task that made the backup: a repeated delivery answers from here. Null from the command line.
    pub task_id: Option<String>,
    /// Host name of the worker.
    pub host: String,
    /// Version of this program.
    pub program: String,
    /// The compression of the archive: `zstd:3`, `gzip:6`, `none`.
    pub compression: String,
    /// The encryption of the archive; null: it is not encrypted.
    pub encryption: Option<String>,
    /// The archive in each destination.
    pub objects: Vec<StoredObject>,
    /// The level to which the archive was proven, and the time.
    pub verified: Verified,
    /// The figures by which the data is far smaller than in the backup before; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anomaly: Option<Anomaly>,
    /// The facts that the component reported about its data.
    pub facts: Facts,
}

/// One copy of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredObject {
    /// `local` or `s3`.
    pub destination: String,
    /// Key within the destination.
    pub key: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of those bytes, lower-case hex.
    pub sha256: String,
    /// The faults that the last verification found in this copy: a faulty copy is counted on no more. Empty: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// The level that found those faults, and the time: a verification to a lower level takes nothing back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Verified>,
}

/// A level, and when somebody looked so far: what was proven, or what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The level.
    pub level: VerifyLevel,
    /// The time; null with `none`.
    pub at: Option<Timestamp>,
}

/// The level to which a backup was proven; each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifyLevel {
    /// Not at all.
    None,
    /// Bytes and hash hold.
    Checksum,
    /// Read to its end, counts compared.
    Decode,
    /// Really restored into scratch and compared.
    Drill,
}

impl VerifyLevel {
    /// The word in manifests, listings and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Checksum => "checksum",
            Self::Decode => "decode",
            Self::Drill => "drill",
        }
    }
}

impl Manifest {
    /// The newest format that this program reads, and the one of incremental backups: programs that know of no such
    /// backups would restore the half of one, and those of format 2 refuse a root that comes again at the end.
    pub const FORMAT: u32 = 3;
    /// The one of full backups, which also programs read that know no others.
    const FORMAT_FULL: u32 = 1;

    /// The format of a backup of which `facts` are known.
    pub const fn format_of(facts: &Facts) -> u32 {
        if facts.builds_on.is_empty() { Self::FORMAT_FULL } else { Self::FORMAT }
    }

    /// Bytes of the archive as stored: of the first copy, since all are equal.
    pub fn size_bytes(&self) -> u64 {
        self.objects.first().map_or(0, |object| object.bytes)
    }

    /// Hash of the archive as stored.
    pub fn sha256(&self) -> &str {
        self.objects.first().map_or("", |object| &object.sha256)
    }

    /// Notes what a verification to `level` found at the time `at`. Proving less than before lowers
    /// nothing, and takes back no problem that was found by looking farther; only when no copy is whole any more
    /// the level falls to none. A copy that is not there is not marked: it may come back as it was. Of a copy that
    /// was not looked at nothing is said.
    pub fn note(&mut self, level: VerifyLevel, at: Timestamp, copies: &[CheckedCopy]) {
        let (mut is_proven, mut may_be_whole) = (false, false);
        for object in &mut self.objects {
            let Some(copy) = copies.iter().find(|copy| copy.destination == object.destination) else {
                may_be_whole |= object.problems.is_empty();
                continue;
            };
            match copy.state {
                BackupState::Missing => continue,
                BackupState::Failed => {
                    object.problems.clone_from(&copy.problems);
                    let before = object.found.map_or(VerifyLevel::None, |found| found.level);
                    let level = before.max(copy.found_by.unwrap_or(level));
                    object.found = Some(Verified { level, at: Some(at) });
                }
                BackupState::Ok if object.found.is_some_and(|found| found.level > level) => {}
                BackupState::Ok => {
                    object.problems.clear();
                    object.found = None;
                }
            }
            is_proven |= object.problems.is_empty();
        }
        if is_proven && level >= self.verified.level {
            self.verified = Verified { level, at: Some(at) };
        } else if !is_proven && !may_be_whole {
            self.verified = Verified { level: VerifyLevel::None, at: None };
        }
    }

    /// The time of the last finding about the backup, and the number of copies that were known then: of two manifests
    /// of one backup, the greater one knows more.
    pub fn last_word(&self) -> (Timestamp, usize) {
        let accepted = self.anomaly.as_ref().and_then(|anomaly| anomaly.accepted);
        let marked = self.objects.iter().filter_map(|object| object.found?.at).max();
        let later = [self.verified.at, accepted, marked].into_iter().flatten().max();
        (later.unwrap_or(self.finished_at).max(self.finished_at), self.objects.len())
    }

    /// True if the archive was read to its end and found whole.
    pub fn is_verified(&self) -> bool {
        self.verified.level >= VerifyLevel::Decode
    }
}
