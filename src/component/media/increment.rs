//! The files that a backup need not store again, since an earlier archive holds them.

use crate::base::chain;
use crate::component::IncrementalBase;
use crate::component::media::{
    Increments,
    file_stat::FileStat,
    snapshot::{Extras, Head, Snapshot, Writing},
};
use crate::domain::id::BackupId;
use jiff::SignedDuration;
use std::{io, path::Path};

/// The snapshot of the last backup, by which a walk goes, and the one that it writes itself.
#[derive(Default)]
pub(super) struct Increment {
    /// The snapshot of the last backup; `None`: everything is stored.
    last: Option<Snapshot>,
    /// True if something may be left out.
    is_partial: bool,
    /// `None` when it cannot be written: the next backup is a full one then.
    next: Option<Writing>,
    /// The archives of the last snapshot.
    archives: Vec<EarlierArchive>,
}

/// An archive that an earlier backup has made.
struct EarlierArchive {
    id: BackupId,
    /// The index of the archive in the next snapshot.
    place: u32,
    is_needed: bool,
}

impl Increment {
    /// Begins a walk. Whatever is not as it should be makes it a full backup.
    pub(super) fn begin(allowed: &Increments, root: &Path, base: &IncrementalBase) -> Self {
        let last = match Snapshot::open(&allowed.state) {
            Ok(last) => last,
            Err(err) => {
                tracing::warn!(error = %chain(&err), "what the last media backup saw cannot be read");
                None
            }
        };
        let (last, why) = match last.map(|last| usable(last, allowed, root, base)) {
            None => (None, "there is nothing to build on"),
            Some(Err(why)) => (None, why),
            Some(Ok(last)) => (Some(last), ""),
        };
        if last.is_none() {
            tracing::info!("full backup of media: {why}");
        }
        let full_at = last.as_ref().map_or(base.at, |last| last.head.full_at);
        let (mut archives, mut places) = (Vec::new(), Vec::new());
        for (id, used) in last.iter().flat_map(|last| last.head.archives.iter().zip(&last.used)) {
            let place = u32::try_from(places.len()).unwrap_or(u32::MAX);
            archives.push(EarlierArchive { id: id.clone(), place, is_needed: false });
            places.extend(used.then(|| id.clone()));
        }
        places.push(base.id.clone());
        let head = Head {
            format: Head::FORMAT,
            backup: base.id.clone(),
            root: root.to_owned(),
            recipients: base.recipients.clone(),
            full_at,
            archives: places,
        };
        let next = Writing::begin(&allowed.state, &head).map_err(|err| unwritten(&err)).ok();
        Self { is_partial: last.is_some(), last, next, archives }
    }

    /// True if the archive need not hold everything.
    pub(super) const fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// The archive that holds a file as it is now, and what else it holds of the file. Paths come in the order of the
    /// walk.
    pub(super) fn holder(&mut self, path: &[u8], file_stat: FileStat) -> Option<(BackupId, Extras)> {
        let (seen, extras, place) = match self.last.as_mut()?.find(path) {
            Ok(found) => found?,
            Err(err) => {
                tracing::warn!(error = %chain(&err), "what the last media backup saw cannot be read to its end");
                self.last = None;
                return None;
            }
        };
        if seen != file_stat {
            return None;
        }
        let archive = self.archives.get_mut(place as usize)?;
        archive.is_needed = true;
        let (id, place) = (archive.id.clone(), archive.place);
        self.write(path, file_stat, extras, Some(place));
        Some((id, extras))
    }

    /// Notes a file that the new archive holds.
    pub(super) fn stored(&mut self, path: &[u8], file_stat: FileStat, extras: Extras) {
        // A file that could change once more without showing it is stored again next time.
        if !file_stat.is_fresh() {
            self.write(path, file_stat, extras, None);
        }
    }

    fn write(&mut self, path: &[u8], file_stat: FileStat, extras: Extras, archive: Option<u32>) {
        let written = self.next.as_mut().map_or(Ok(()), |next| next.note(path, file_stat, extras, archive));
        if let Err(err) = written {
            unwritten(&err);
            self.next = None;
        }
    }

    /// Ends the walk; the backups whose archives are needed beside the new one, the oldest first.
    pub(super) fn finish(self) -> Vec<BackupId> {
        if let Some(Err(err)) = self.next.map(Writing::finish) {
            unwritten(&err);
        }
        let needed = self.archives.into_iter().filter(|archive| archive.is_needed);
        needed.map(|archive| archive.id).collect()
    }
}

fn unwritten(err: &io::Error) {
    tracing::warn!(error = %chain(err), "cannot write down what was seen of media: the next backup is a full one");
}

/// The snapshot of the last backup if the next one may go by it, or the reason why not.
fn usable(
    last: Snapshot,
    allowed: &Increments,
    root: &Path,
    base: &IncrementalBase,
) -> Result<Snapshot, &'static str> {
    /// Schedules are not exact.
    const EARLY: SignedDuration = SignedDuration::from_mins(30);
    let used = || last.head.archives.iter().zip(&last.used).filter(|(_, used)| **used);
    let age = base.at.duration_since(last.head.full_at);
    let due = SignedDuration::try_from(allowed.full_every).unwrap_or(SignedDuration::MAX);
    let early = EARLY.min(due / 10);
    if last.head.root != root {
        Err("the last one was of another folder")
    } else if last.head.recipients != base.recipients {
        Err("the last one was for other age recipients")
    } else if age + early >= due || age.is_negative() {
        Err("it is time for one (BACKUP_MEDIA_FULL_EVERY)")
    } else if used().count() >= base.max_chain {
        Err("the last one needs many archives already")
    } else if used().any(|(archive, _)| !base.complete_backups.contains(archive)) {
        Err("an archive that the last one needs is not in every destination, or not whole")
    } else {
        Ok(last)
    }
}
