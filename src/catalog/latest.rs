//! The meaning of `latest`: the one place that chooses among all backups of a component.

use crate::catalog::{
    entry::{Entry, Origin},
    error::CatalogError,
    listing::Damaged,
};
use crate::domain::{listing::BackupState, manifest::Manifest, report::SkippedBackup};
use jiff::Timestamp;
use std::cmp::Reverse;

/// The most passed-over backups for which a choice names the reason: `list` shows the others.
const MOST_TOLD: usize = 10;

/// The purpose of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Restoring: a backup that is flagged as suspiciously small is taken by its name only.
    Restore,
    /// Showing or amending: a flagged backup is the one that people ask about.
    Show,
}

/// A backup that was chosen, and the newer ones that were not.
#[derive(Debug)]
pub struct Choice {
    /// The backup.
    pub entry: Entry,
    /// Newer backups of `latest`, the newest first; none where the reference names one backup.
    pub passed_over: Vec<SkippedBackup>,
}

impl Choice {
    /// A backup that a reference names.
    pub(super) fn named(entry: Entry) -> Self {
        Self { entry, passed_over: Vec::new() }
    }
}

/// Chooses the latest of `entries`, which come the newest first: the newest that is there and verified; failing
/// that, the newest that is there, the app's old files last. `None`: no archive is there.
///
/// # Errors
///
/// [`CatalogError::NotFound`] when only flagged backups could be restored.
pub(super) fn choose(
    reference: &str,
    purpose: Purpose,
    entries: &[Entry],
    damaged: &[Damaged],
) -> Result<Option<Choice>, CatalogError> {
    let now = Timestamp::now();
    let is_fit = |entry: &&Entry| purpose == Purpose::Show || !entry.is_suspect();
    let there = || entries.iter().rev().filter(|entry| entry.state() == BackupState::Ok);
    // The greatest of equals is the last one, which is the newest.
    let rank = |entry: &&Entry| (!entry.is_ahead(now), entry.is_verified(), entry.manifest().is_some());
    let chosen = there().filter(is_fit).max_by_key(rank);
    // Nothing tells how large the data of an old file is, so none takes the place of a flagged backup.
    if chosen.is_none_or(|chosen| chosen.manifest().is_none())
        && let Some(flagged) = there().filter(|entry| !is_fit(entry)).max_by_key(rank)
    {
        let why = format!("{}: {}", flagged.backup_id, flagged.why_not(purpose, now));
        return Err(CatalogError::only_flagged(reference, &why));
    }
    let Some(entry) = chosen.cloned() else { return Ok(None) };
    let newer = entries.iter().take_while(|newer| newer.backup_id != entry.backup_id);
    let newer = newer.map(|newer| (newer.created_at, newer.passed_over(purpose, now)));
    let unread = damaged.iter().filter(|damaged| damaged.backup_id.created() > entry.created_at);
    let unread = unread.map(|damaged| {
        let why = "its manifest cannot be read".to_owned();
        (damaged.backup_id.created(), SkippedBackup { backup_id: damaged.backup_id.clone(), why })
    });
    let mut passed_over: Vec<_> = newer.chain(unread).collect();
    passed_over.sort_by_key(|(created_at, _)| Reverse(*created_at));
    passed_over.truncate(MOST_TOLD);
    let passed_over = passed_over.into_iter().map(|(_, passed_over)| passed_over).collect();
    Ok(Some(Choice { entry, passed_over }))
}

/// Keeps of `entries`, which come the newest first, the newest alone, in whatever state: what a verification of
/// `latest` looks at. One that was made with a clock ahead is no newest, and a file of the app's old tasks only
/// where there is nothing else. Returns those of a clock ahead.
pub fn newest(entries: &mut Vec<Entry>, now: Timestamp) -> Vec<SkippedBackup> {
    entries.sort_by_key(|entry| (entry.is_ahead(now), matches!(entry.origin, Origin::Legacy)));
    let others = entries.split_off(entries.len().min(1));
    let ahead = others.iter().filter(|entry| entry.is_ahead(now)).take(MOST_TOLD);
    ahead.map(|entry| entry.passed_over(Purpose::Show, now)).collect()
}

impl Entry {
    /// Tests whether the backup is flagged as suspiciously small, and nobody has accepted that.
    pub fn is_suspect(&self) -> bool {
        self.manifest().is_some_and(Manifest::is_suspect)
    }

    /// The backup, with the reason why `latest` means another one.
    pub(super) fn passed_over(&self, purpose: Purpose, now: Timestamp) -> SkippedBackup {
        SkippedBackup { backup_id: self.backup_id.clone(), why: self.why_not(purpose, now) }
    }

    /// The reason why `latest` means an older backup than this one.
    fn why_not(&self, purpose: Purpose, now: Timestamp) -> String {
        let flag = self.manifest().filter(|_| purpose == Purpose::Restore).and_then(Manifest::flag);
        match (self.state(), &self.origin) {
            (BackupState::Missing, _) => "its archive is not there".to_owned(),
            (BackupState::Failed, _) => "it is damaged".to_owned(),
            _ if self.is_ahead(now) => format!(
                "it was made with a clock ahead: it is dated {}, and it is {} now",
                self.created_at.strftime("%Y-%m-%d %H:%M:%S UTC"),
                now.strftime("%H:%M:%S")
            ),
            (_, Origin::Newer(_)) => "a newer rna-backup made it".to_owned(),
            (_, Origin::Legacy) => "it has no manifest to compare it with".to_owned(),
            _ if flag.is_some() => flag.unwrap_or_default(),
            _ => "nobody has verified it".to_owned(),
        }
    }
}
