//! Classes of a replacement that failed or died, put right one by one.

use crate::base::{backoff::Backoff, chain};
use crate::component::ComponentError;
use crate::component::weaviate::Weaviate;
use crate::component::weaviate::claim::ReplacementClaim;
use crate::component::weaviate::client::Fault;
use crate::component::weaviate::contained::is_contained;
use crate::component::weaviate::copies::{described, place_of};
use crate::component::weaviate::count::Count;
use crate::component::weaviate::files::Files;
use crate::component::weaviate::index::BackupBackend;
use crate::component::weaviate::journal::Journal;
use crate::component::weaviate::notes::{ClassProgress, Notes, Snapshot, State};
use crate::component::weaviate::refusals::of_what_cannot_be_kept;
use crate::component::weaviate::replace::{names, remove_classes};
use crate::component::weaviate::server::{Access, Server, Status, Work};
use crate::component::weaviate::source::{Source, SourceLocation, prove, remove_if_full};
use crate::domain::progress::Meter;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::{collections::BTreeSet, error::Error as _, io, time::Instant};

impl Weaviate {
    /// Puts right what a run that died has left of a replacement, and tells how the classes are now. A class that
    /// cannot be put right now stays in the notes and stands in nobody's way: the next restore may bring it.
    ///
    /// # Errors
    ///
    /// When the notes cannot be written. `claim` is `None` where no class is due.
    pub(super) async fn finish_and_report(
        &self,
        server: &Server,
        journal: &mut Journal,
        claim: Option<&ReplacementClaim>,
    ) -> Result<String, ComponentError> {
        let put = match claim {
            Some(claim) => {
                self.make_room_of_dead_runs(server, journal).await;
                self.finish_due_classes(&server.while_classes_are_missing(), journal, claim).await.0
            }
            None => Ok(()),
        };
        let replacing = journal.notes.replacing.clone().unwrap_or_default();
        let proven = names(&replacing.in_state(|state| *state == State::Proven));
        let back = names(&replacing.returned());
        self.note_and_drop(server, journal, Notes::end_if_final).await?;
        let mut words = Vec::new();
        let is_undo = replacing.is_undo;
        let gone = names(&replacing.removed());
        if !gone.is_empty() {
            words.push(format!(
                "classes {gone}, which had come in part and were not there before, are REMOVED: restore again"
            ));
        }
        if !back.is_empty() {
            words.push(format!("classes {back} are as before it"));
        }
        match (proven.is_empty(), is_undo) {
            (true, _) => {}
            (false, true) => words.push(format!(
                "classes {proven} are as before the restore, and another `undo` goes on with the others"
            )),
            (false, false) => words.push(format!("classes {proven} are restored, which `undo` takes back")),
        }
        if let Err(err) = put {
            words.push(format!(
                "classes {} could not be put back: {}",
                names(&journal.notes.due()),
                chain(&err)
            ));
        }
        let what = if is_undo { "an undo" } else { "a restore" };
        Ok(format!("{what} in Weaviate that failed or died was put right: {}", words.join("; ")))
    }

    /// Finishes every class of the replacement that is due: a class that is whole is proven, any other is put back. A class
    /// that cannot be finished keeps no other from it. The result is the first error of a class, whose notes stay. Beside the
    /// error stand the classes that are whole as they came, though that could not be noted.
    pub(super) async fn finish_due_classes(
        &self,
        server: &Server,
        journal: &mut Journal,
        claim: &ReplacementClaim,
    ) -> (Result<(), ComponentError>, BTreeSet<String>) {
        let steps = journal.notes.replacing.clone().unwrap_or_default().classes;
        let (mut first, mut unnoted) = (Ok(()), BTreeSet::new());
        for (class, ClassProgress { state, before }) in steps {
            if !state.is_final()
                && let Err(err) = claim.confirm().await
            {
                return (Err(err), unnoted);
            }
            let put = match &state {
                State::Brought(promised) => match prove(server, &class, promised, &Meter::default()).await {
                    Ok(()) => {
                        let proven = |notes: &mut Notes| notes.reached(&class, State::Proven);
                        let noted = self.note_and_drop(server, journal, proven).await;
                        if noted.is_err() {
                            unnoted.insert(class.clone());
                        }
                        claim.tell_replaced(&class).await;
                        noted
                    }
                    Err(err) => {
                        tracing::warn!(class, error = %chain(&err), "a class that came is not whole");
                        self.put_class_back(server, journal, claim, &class, before.as_ref()).await
                    }
                },
                State::Deleted => self.put_class_back(server, journal, claim, &class, before.as_ref()).await,
                State::Untouched | State::Proven | State::PutBack => Ok(()),
            };
            if let Err(err) = &put {
                tracing::error!(class, error = %chain(err), "a class could not be put back");
            }
            first = first.and(put);
        }
        (first, unnoted)
    }

    /// Removes the backups that dead runs have unpacked into Weaviate's folder or ordered there, and that nobody needs, if
    /// that folder is full: what is put back needs room in it. A backup from which the server is still restoring stays.
    async fn make_room_of_dead_runs(&self, server: &Server, journal: &Journal) {
        let Ok(files) = self.files(server, BackupBackend::Filesystem) else { return };
        let needed: BTreeSet<_> = journal.notes.snapshots().iter().map(|copy| copy.id.clone()).collect();
        for orphan in &journal.notes.orphans {
            if orphan.backend == BackupBackend::Filesystem
                && !needed.contains(&orphan.id)
                && !is_being_restored(server, &files, &orphan.id).await
            {
                remove_if_full(&files, &orphan.id).await;
            }
        }
    }

    /// Puts a class back as it was, trying for minutes: nobody else can.
    async fn put_class_back(
        &self,
        server: &Server,
        journal: &mut Journal,
        claim: &ReplacementClaim,
        class: &str,
        before: Option<&Snapshot>,
    ) -> Result<(), ComponentError> {
        /// Seconds for faults that may pass.
        const PATIENCE: u32 = 300;
        /// Seconds for which a server may still be loading its classes.
        const START: u32 = 60;
        /// Attempts where the fault does not look so: a restore that is still under way makes a class again.
        const TIMES: u32 = 3;
        let source = match before {
            None => None,
            Some(before) => Some(self.still_there(server, journal, before, class).await?),
        };
        let mut backoff = Backoff::new(server.client.seconds(1), server.client.seconds(16));
        let (begun, mut turn, mut is_unloaded) = (Instant::now(), 0, false);
        // Objects that others may have made are not removed unread; those that this loop brings are.
        let mut is_ours = !is_late(journal);
        loop {
            turn += 1;
            let put = async {
                // A server that was killed while it brought the class has half of its files and reads none of them.
                if is_unloaded {
                    claim.delete(class).await?;
                } else {
                    self.make_room_for(server, journal, claim, class, source.as_ref()).await?;
                }
                if is_unloaded || turn > 1 || source.is_none() {
                    clear_folder(server, class).await?;
                }
                is_ours = true;
                let Some(source) = &source else { return Ok(()) };
                source
                    .bring(self, server, &[class.to_owned()].into(), Access::Stays, &Meter::default())
                    .await?;
                prove(server, class, &source.promised(class), &Meter::default()).await
            };
            match put.await {
                Ok(()) => break,
                Err(err)
                    if !is_unloaded
                        && is_ours
                        && is_unloaded_class(&err)
                        && begun.elapsed() > server.client.seconds(START) =>
                {
                    tracing::warn!(class, error = %chain(&err), "a class that came in part cannot be read and is removed");
                    is_unloaded = true;
                }
                Err(err) if err.is_transient() && begun.elapsed() < server.client.seconds(PATIENCE) => {
                    tracing::warn!(class, error = %chain(&err), "putting a class back, once more");
                    tokio::time::sleep(backoff.step()).await;
                }
                Err(err) if turn >= TIMES => return Err(err),
                Err(err) => tracing::warn!(class, error = %chain(&err), "putting a class back, once more"),
            }
        }
        self.note_and_drop(server, journal, |notes| notes.reached(class, State::PutBack)).await
    }

    /// Deletes what is there of a class that is put back. What that holds may be the work of others since then, so
    /// it is copied first and kept until the second backup after that is proven: long after the restore began, for `undo`.
    /// Objects that an earlier attempt to put the class back has brought are in the copies that exist, and no further copy
    /// of them is kept.
    async fn make_room_for(
        &self,
        server: &Server,
        journal: &mut Journal,
        claim: &ReplacementClaim,
        class: &str,
        before: Option<&Source>,
    ) -> Result<(), ComponentError> {
        let live = server.classes(Some(&[class.to_owned()].into())).await?;
        let Some(found) = live.get(class) else { return Ok(()) };
        if found.objects.after != Count::Exact(0) {
            of_what_cannot_be_kept(server, &live, BackupBackend::Export)?;
            let copy = self.export_aside(server, live, journal, &Meter::default()).await?;
            if self.is_kept_already(server, journal, &copy, class, before).await? {
                self.remove_copy(server, journal, &copy).await?;
            } else {
                tracing::warn!(
                    class,
                    kept = place_of(journal, &copy),
                    "what stood in the place of a class that is put back is kept until the second backup from now is proven"
                );
                let is_late = is_late(journal);
                journal
                    .note(|notes| {
                        notes.is_spared = true;
                        if is_late {
                            notes.keep(class, Some(copy));
                        } else {
                            notes.found.insert(copy);
                        }
                    })
                    .await?;
            }
        }
        claim.delete(class).await
    }

    /// Returns whether all of a copy of one class is in an export that there is already: in that from which the class is
    /// put back, or in another copy of the class.
    async fn is_kept_already(
        &self,
        server: &Server,
        journal: &Journal,
        copy: &Snapshot,
        class: &str,
        before: Option<&Source>,
    ) -> Result<bool, ComponentError> {
        let part = self.source_of(server, journal, copy).await?;
        if let Some(before) = before.filter(|before| before.index.backend == BackupBackend::Export)
            && is_contained(&part, before, class).await?
        {
            return Ok(true);
        }
        let exports =
            journal.notes.snapshots().into_iter().filter(|other| other.backend == BackupBackend::Export);
        for other in exports {
            // A copy that cannot be read keeps nothing.
            if let Ok(whole) = self.source_of(server, journal, other).await
                && whole.index.classes.contains_key(class)
                && is_contained(&part, &whole, class).await.unwrap_or(false)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The place of a copy, once it is seen that the copy still is there: what is live goes before the copy comes.
    async fn still_there(
        &self,
        server: &Server,
        journal: &Journal,
        snapshot: &Snapshot,
        class: &str,
    ) -> Result<Source, ComponentError> {
        let looked = async {
            let source = self.source_of(server, journal, snapshot).await?;
            match &source.location {
                SourceLocation::Server(files) => {
                    drop(described(&files.tree(&snapshot.id).await?, &snapshot.id)?);
                }
                SourceLocation::Scratch(_) | SourceLocation::File(_) => drop(source.open().await?),
            }
            Ok::<_, ComponentError>(source)
        };
        let gone = |err: ComponentError| ComponentError::Unusable {
            what: format!(
                "put back what a restore that died had set aside ({}): nothing was changed; bring that back, or if \
                 class {class} is as you want it, remove {}, which says that it is to be put back",
                place_of(journal, snapshot),
                journal.path(Journal::FILE).display(),
            ),
            source: Some(err.into()),
        };
        looked.await.map_err(|err| match err {
            ComponentError::Read { ref source, .. } if source.kind() == io::ErrorKind::NotFound => gone(err),
            err if err.is_transient() => err,
            err => gone(err),
        })
    }
}

/// Returns whether the replacement began so long ago that others may have made what is there of its classes; before that,
/// it is most likely what the replacement itself has brought so far.
fn is_late(journal: &Journal) -> bool {
    const FRESH: SignedDuration = SignedDuration::from_hours(1);
    let began = journal.notes.replacing.as_ref().and_then(|replacing| replacing.began);
    began.is_some_and(|began| Timestamp::now().duration_since(began).abs() > FRESH)
}

/// Returns whether the server may still be restoring from a backup in its folder. The server notes the state of a restore
/// beside the backup, and that note stays as it is where the server was killed or the folder is full. So the note is removed
/// first: a server that is restoring tells so without it.
async fn is_being_restored(server: &Server, files: &Files, id: &str) -> bool {
    if let Err(err) = files.remove_restore_status(id).await {
        tracing::warn!(id, error = %chain(&err), "the state of an earlier restore stays beside a backup");
    }
    let status = server.status_again(BackupBackend::Filesystem.as_str(), id, Work::Restore).await;
    matches!(status, Ok(Status::Running) | Err(Fault::Unavailable(_) | Fault::Denied { .. }))
}

fn is_unloaded_class(err: &ComponentError) -> bool {
    err.source().and_then(|source| source.downcast_ref::<Fault>()).is_some_and(Fault::is_unloaded_class)
}

/// Removes the files that a server may still have of a class that its schema does not have: a class is made there and
/// deleted again. From such files a server would load the class when it restores a backup of it, in place of those of the
/// backup (1.37.14 and 1.39.2 do, and fail).
async fn clear_folder(server: &Server, class: &str) -> Result<(), ComponentError> {
    // Somebody else may have made the class meanwhile: only the class that was made here is deleted.
    match server.create_class(&json!({"class": class, "vectorizer": "none"})).await {
        Ok(()) => remove_classes(server, &[class.to_owned()]).await,
        Err(fault) if fault.passes() => Err(fault.of(format!("make class {class}"))),
        Err(_) => Ok(()),
    }
}
