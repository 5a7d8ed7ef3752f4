//! The manifest: a backup exists when this does.

use crate::domain::{
    anomaly::Anomaly, component::ComponentName, facts::Facts, id::BackupId, listing::BackupState,
    report::CheckedCopy,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Everything that is known about one backup. Written last, deleted first.
///
/// Unknown fields are ignored when reading, so that an older program can list what a newer one
/// wrote; a newer [`format`](Self::format) is refused by whoever restores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format: see [`Manifest::format_of`].
    pub format: u32,
    /// Which backup.
    pub backup_id: BackupId,
    /// Of what.
    pub component: ComponentName,
    /// What was read: name of the database, path of the media folder. Never a URL with credentials.
    pub source: String,
    /// When reading began; the data is of this instant.
    pub created_at: Timestamp,
    /// When the archive was proven and the manifest written.
    pub finished_at: Timestamp,
    /// The set of a full backup, or null.
    pub set_id: Option<String>,
    /// Free text of whoever ordered it.
    pub label: Option<String>,
    /// Never deleted by retention while true.
    pub pinned: bool,
    /// The Celery task that made it: a repeated delivery answers from here. Null from the command line.
    pub task_id: Option<String>,
    /// Host name of the worker.
    pub host: String,
    /// Version of this program.
    pub program: String,
    /// How the archive is compressed: `zstd:3`, `gzip:6`, `none`.
    pub compression: String,
    /// Whether the archive is encrypted, and how; null: not.
    pub encryption: Option<String>,
    /// The archive in each destination.
    pub objects: Vec<StoredObject>,
    /// How far it was proven, and when.
    pub verified: Verified,
    /// What it has far less of than the backup before; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anomaly: Option<Anomaly>,
    /// What the component said about its data.
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
    /// What the last verification found wrong with it: then it is counted on no more. Empty: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// How far somebody had to look to find those, and when: who looks less far takes nothing back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Verified>,
}

/// A level, and when somebody looked so far: what was proven, or what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// How.
    pub level: VerifyLevel,
    /// When; null with `none`.
    pub at: Option<Timestamp>,
}

/// How far a backup was proven; each level includes those before it.
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

    /// When somebody last found something out about it, and how many copies were known then: of two manifests of one
    /// backup, the greater one knows more.
    pub fn last_word(&self) -> (Timestamp, usize) {
        let accepted = self.anomaly.as_ref().and_then(|anomaly| anomaly.accepted);
        let marked = self.objects.iter().filter_map(|object| object.found?.at).max();
        let later = [self.verified.at, accepted, marked].into_iter().flatten().max();
        (later.unwrap_or(self.finished_at).max(self.finished_at), self.objects.len())
    }

    /// Whether the archive was read to its end and found whole.
    pub fn is_verified(&self) -> bool {
        self.verified.level >= VerifyLevel::Decode
    }
}
