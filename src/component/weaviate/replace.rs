//! Classes replaced by others of the same names, one after the other.
//!
//! Weaviate neither overwrites nor renames a class, so between its deletion and the end of its restore a class is
//! missing. Before the first deletion all that will be deleted is copied and proven. Then each class goes through
//! its steps by itself, noted in the journal: what was proven is never taken back, what was not touched stays, and
//! the one class that fails is put back, by the next run if not by this one (`put_back`).

use crate::base::chain;
use crate::component::ComponentError;
use crate::component::weaviate::Weaviate;
use crate::component::weaviate::claim::{ReplacementClaim, are_gone};
use crate::component::weaviate::class::Classes;
use crate::component::weaviate::copies::place_of;
use crate::component::weaviate::count::Verdict;
use crate::component::weaviate::files::Files;
use crate::component::weaviate::index::BackupBackend;
use crate::component::weaviate::journal::Journal;
use crate::component::weaviate::notes::{ClassProgress, Notes, PreviousClasses, State};
use crate::component::weaviate::refusals::{can_be_put_back, of_what_cannot_be_kept};
use crate::component::weaviate::server::{Access, Server};
use crate::component::weaviate::source::{
    Bring, SourceLocation, backend_of, make_room, prove, prove_by_reading, sources,
};
use crate::domain::{progress::Meter, task_note::TaskNote};
use std::collections::BTreeSet;

/// The order behind a replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Restore,
    /// A restore that brings users, roles and aliases of the backup as well.
    RestoreWithAccess,
    Undo,
}

/// A replacement under way.
struct Replacement<'a> {
    weaviate: &'a Weaviate,
    server: &'a Server,
    journal: &'a mut Journal,
    bring: &'a Bring<'a>,
    /// The classes that are there, as they were when they were copied.
    live: Classes,
    purpose: Purpose,
    meter: &'a Meter,
    claim: &'a ReplacementClaim,
    /// The outages of the server before the replacement.
    outages: u32,
}

impl Weaviate {
    /// Replaces what is there of the classes of `bring`, and keeps what was there for an undo.
    ///
    /// # Errors
    ///
    /// Then each class is what it was, or what it was to be, as the text says; the next run puts right what is not.
    pub(super) async fn replace(
        &self,
        server: &Server,
        journal: &mut Journal,
        bring: &Bring<'_>,
        purpose: Purpose,
        note: Option<TaskNote>,
        meter: &Meter,
    ) -> Result<Option<PreviousClasses>, ComponentError> {
        let names = bring.keys().cloned().collect();
        meter.begin("look for restores of other machines", 0);
        let (claim, dead) = self.claim(server, journal, &names, meter).await?;
        let replaced = async {
            self.name_what_stays_due(server, &dead, &names, meter).await?;
            self.replace_claimed(server, journal, bring, purpose, &claim).await
        };
        let replaced = claim.guarded(Box::pin(claim.signed(note, replaced))).await;
        self.refresh_mark_or_warn(server, journal).await;
        replaced
    }

    /// Replaces classes while the claim holds.
    async fn replace_claimed(
        &self,
        server: &Server,
        journal: &mut Journal,
        bring: &Bring<'_>,
        purpose: Purpose,
        claim: &ReplacementClaim,
    ) -> Result<Option<PreviousClasses>, ComponentError> {
        let names = bring.keys().cloned().collect();
        let live = server.classes(Some(&names)).await?;
        of_what_cannot_be_kept(server, &live, backend_of(bring))?;
        self.begin(server, journal, bring, &live, purpose, claim).await?;
        let meter = &claim.meter;
        meter.begin("replace classes", 0);
        let before = journal.notes.clone();
        let server = &server.while_classes_are_missing();
        let outages = server.client.outages();
        let mut replacement =
            Replacement { weaviate: self, server, journal, bring, live, purpose, meter, claim, outages };
        let replaced = match replacement.run().await {
            Ok(()) => Ok(()),
            Err((class, err)) => {
                if purpose != Purpose::Undo {
                    make_room(bring).await;
                }
                Err(self.failed(server, journal, claim, &class, err).await)
            }
        };
        // The state of each class has been noted: that there is nothing left to do can be noted by the next run.
        let ended = async {
            journal.note(Notes::end_if_final).await?;
            self.drop_copies(server, journal, &before).await
        };
        if let Err(left) = ended.await {
            tracing::warn!(error = %chain(&left), "the next run notes how the classes are");
        }
        replaced.map(|()| journal.notes.kept.clone())
    }

    /// Tries what will be brought, copies what is there, tries the copy if that is ours, and notes that the
    /// replacement begins.
    async fn begin(
        &self,
        server: &Server,
        journal: &mut Journal,
        bring: &Bring<'_>,
        live: &Classes,
        purpose: Purpose,
        claim: &ReplacementClaim,
    ) -> Result<(), ComponentError> {
        let (backend, meter) = (backend_of(bring), &claim.meter);
        for (source, classes) in sources(bring) {
            source.run_trial(server, journal, &classes).await?;
        }
        let safety = if live.is_empty() {
            None
        } else {
            Some(self.set_aside(server, live.clone(), journal, backend, meter).await?)
        };
        for source in bring.values().flatten() {
            if let (Some(safety), SourceLocation::Server(Files::Folder(folder))) = (&safety, &source.location)
            {
                folder.is_open_to_server(&source.index.id, &safety.id)?;
            }
        }
        if let Some(safety) = &safety {
            if safety.backend == BackupBackend::Export {
                can_be_put_back(server, live, bring).await?;
            }
            let copy = self.source_of(server, journal, safety).await?;
            copy.run_trial(server, journal, &live.keys().cloned().collect()).await?;
            claim.needs_copy(&safety.id).await?;
        }
        let number = claim.number().await;
        let step = |class: &String| {
            let before = safety.clone().filter(|_| live.contains_key(class));
            (class.clone(), ClassProgress { state: State::Untouched, before })
        };
        let is_due = !journal.notes.due().is_disjoint(&live.keys().cloned().collect());
        self.note_and_drop(server, journal, |notes| {
            notes.orphans.retain(|orphan| safety.as_ref().is_none_or(|safety| safety.id != orphan.id));
            notes.begin(bring.keys().map(step).collect(), purpose == Purpose::Undo);
            notes.numbered(number);
            // The live objects of a class that is still to be put back are no copy to put back.
            notes.found.extend(safety.clone().filter(|_| is_due));
        })
        .await
    }
}

impl Replacement<'_> {
    /// Brings all classes, or names those that failed. Classes that are not there come first and together: nothing
    /// is missing meanwhile that was there, and classes that come later may refer to them.
    async fn run(&mut self) -> Result<(), (String, ComponentError)> {
        let missing: BTreeSet<_> =
            self.bring.keys().filter(|class| !self.live.contains_key(*class)).cloned().collect();
        if !missing.is_empty() {
            self.bring_missing(&missing).await.map_err(|err| (names(&missing), err))?;
        }
        for class in self.live.keys().cloned().collect::<Vec<_>>() {
            self.replace_class(&class).await.map_err(|err| (class, err))?;
        }
        self.read_again_after_an_outage().await
    }

    /// Reads every object that was brought, if the server was away meanwhile: a server that was killed may count the objects
    /// of a tenant and be unable to read them.
    async fn read_again_after_an_outage(&mut self) -> Result<(), (String, ComponentError)> {
        if self.server.client.outages() == self.outages {
            return Ok(());
        }
        tracing::warn!("Weaviate was away while classes were replaced, so every object is read");
        self.meter.begin("read every object", 0);
        for (class, source) in self.bring.iter().filter_map(|(class, source)| Some((class, (*source)?))) {
            let read = prove_by_reading(self.server, class, &source.promised(class)).await;
            // A server that is away again proves nothing against a class that was proven before.
            if let Err(err) = &read
                && err.is_transient()
                && self.server.definitions().await.is_err()
            {
                self.meter.warn(format!("Class {class} could not be read once more: {}.", chain(err)));
            } else if let Err(err) = read {
                let noted = self.journal.note(|notes| notes.mark_unproven(class)).await;
                return Err((class.clone(), noted.map_or_else(|worse| worse, |()| err)));
            }
        }
        Ok(())
    }

    async fn bring_missing(&mut self, classes: &BTreeSet<String>) -> Result<(), ComponentError> {
        self.claim.confirm().await?;
        self.journal
            .note(|notes| {
                for class in classes {
                    let by_server = self.bring[class]
                        .filter(|source| matches!(source.location, SourceLocation::Server(_)));
                    let promised = by_server.map(|source| State::Brought(Box::new(source.promised(class))));
                    notes.reached(class, promised.unwrap_or(State::Deleted));
                }
            })
            .await?;
        for (source, together) in sources(self.bring) {
            let together = together.intersection(classes).cloned().collect();
            let access = self.access_with(self.live.is_empty());
            source.bring(self.weaviate, self.server, &together, access, self.meter).await?;
        }
        self.journal
            .note(|notes| {
                for class in classes {
                    let promised = self.bring[class].map(|source| Box::new(source.promised(class)));
                    notes.reached(class, promised.map_or(State::Proven, State::Brought));
                }
            })
            .await?;
        for class in classes {
            self.prove(class).await?;
        }
        Ok(())
    }

    /// Users, roles and aliases that come beside classes with the next order of a restore; users and roles with the last: they may take the key
    /// of this program its rights.
    fn access_with(&self, is_last: bool) -> Access {
        match (self.purpose == Purpose::RestoreWithAccess, is_last) {
            (false, _) => Access::Stays,
            (true, false) => Access::Aliases,
            (true, true) => Access::All,
        }
    }

    async fn replace_class(&mut self, class: &str) -> Result<(), ComponentError> {
        self.copy_again_if_changed(class).await?;
        self.journal.note(|notes| notes.reached(class, State::Deleted)).await?;
        if let Err(err) = self.claim.delete(class).await {
            // A refusal for want of a right has changed nothing.
            if matches!(err, ComponentError::Denied { .. }) {
                self.journal.note(|notes| notes.reached(class, State::Untouched)).await?;
            }
            return Err(err);
        }
        if let Some(source) = self.bring[class] {
            let only = [class.to_owned()].into();
            let is_last = self.live.keys().next_back().is_some_and(|last| last == class);
            let access = self.access_with(is_last);
            source.bring(self.weaviate, self.server, &only, access, self.meter).await?;
            let promised = Box::new(source.promised(class));
            self.journal.note(|notes| notes.reached(class, State::Brought(promised))).await?;
        }
        self.prove(class).await
    }

    /// Proves a class that was brought, or notes that a class is gone that was only to go.
    async fn prove(&mut self, class: &str) -> Result<(), ComponentError> {
        if let Some(source) = self.bring[class] {
            prove(self.server, class, &source.promised(class), self.meter).await?;
            // The data are there, so nothing is put back because of an index.
            match source.not_found_by_vector(self.server, class, self.meter).await {
                Ok(words) => words.into_iter().for_each(|warning| self.meter.warn(warning)),
                Err(err) => self.meter.warn(format!("Class {class}: {}.", chain(&err))),
            }
        }
        self.journal.note(|notes| notes.reached(class, State::Proven)).await?;
        self.claim.tell_replaced(class).await;
        Ok(())
    }

    /// Copies a class once more if its objects are not as many as when it was copied with the others: somebody writes.
    async fn copy_again_if_changed(&mut self, class: &str) -> Result<(), ComponentError> {
        if self.journal.notes.due().contains(class) {
            return Ok(()); // what is there is not what would be put back
        }
        let copied = &self.live[class];
        let what = || format!("count the objects of class {class}");
        let now = self.server.count_exactly(class, copied).await.map_err(|fault| fault.of(what()))?;
        if !matches!(copied.objects.judge(now), Verdict::Fewer | Verdict::More) {
            return Ok(());
        }
        self.meter.warn(format!(
            "Somebody writes to Weaviate: class {class} had {} objects when it was copied and {now} when it was about to be \
             replaced, so it was copied again. What is written between that copy and its replacement is lost: stop what \
             writes to Weaviate before a restore.",
            copied.objects.after
        ));
        let backend = self.bring[class].map_or(BackupBackend::Export, |source| source.index.backend);
        let only = [class.to_owned()].into();
        let live = self.server.classes(Some(&only)).await?;
        of_what_cannot_be_kept(self.server, &live, backend)?;
        if live.is_empty() {
            return Ok(()); // deleted meanwhile: the first copy is the newest there is
        }
        let again = self.weaviate.set_aside(self.server, live, self.journal, backend, self.meter).await?;
        let copy = self.weaviate.source_of(self.server, self.journal, &again).await?;
        copy.run_trial(self.server, self.journal, &only).await?;
        self.claim.needs_copy(&again.id).await?;
        self.weaviate
            .note_and_drop(self.server, self.journal, |notes| {
                notes.orphans.retain(|orphan| orphan.id != again.id);
                let steps = notes.replacing.iter_mut().flat_map(|replacing| &mut replacing.classes);
                steps
                    .filter(|(name, _)| *name == class)
                    .for_each(|(_, step)| step.before = Some(again.clone()));
            })
            .await
    }
}

impl Weaviate {
    /// Puts back the classes over which a replacement failed, and tells how each class is now.
    async fn failed(
        &self,
        server: &Server,
        journal: &mut Journal,
        claim: &ReplacementClaim,
        class: &str,
        err: ComponentError,
    ) -> ComponentError {
        let why = chain(&err);
        tracing::warn!(class, error = why, "a restore into Weaviate has failed, putting back what was there");
        let (put_back, unnoted) = self.finish_due_classes(server, journal, claim).await;
        let replacing = journal.notes.replacing.clone().unwrap_or_default();
        let restored = names(&replacing.in_state(|state| *state == State::Proven));
        let mut words = vec![format!("class {class}: {why}")];
        match &put_back {
            Ok(()) if restored.is_empty() => {
                words.push("the classes are again as they were before".to_owned());
            }
            Ok(()) => words.push(format!(
                "{}: {restored}{}; as before: {}{}",
                if replacing.is_undo { "taken back" } else { "restored" },
                if replacing.is_undo { "" } else { ", which `undo` takes back" },
                names(&replacing.in_state(|state| *state != State::Proven)),
                if replacing.is_undo { ", with which another `undo` goes on" } else { "" },
            )),
            Err(_) if journal.notes.due().is_subset(&unnoted) => words.push(format!(
                "classes {} are {} and whole{}, though that could not be noted: nothing is put back, and the next run on \
                 Weaviate or start of the worker looks at them once more and notes it",
                names(&unnoted),
                if replacing.is_undo { "taken back" } else { "restored" },
                if restored.is_empty() { String::new() } else { format!(", and so are {restored}") },
            )),
            Err(worse) => {
                let due = replacing.classes.values().filter(|step| !step.state.is_final());
                let kept = due.into_iter().find_map(|step| step.before.as_ref());
                let kept = kept.map(|snapshot| place_of(journal, snapshot));
                words.push(format!(
                    "and what was there before could not be put back: {}; classes {} are missing or not proven, as they \
                     were they are kept as {}, and the next run on Weaviate or start of the worker tries again",
                    chain(worse),
                    names(&journal.notes.due()),
                    kept.unwrap_or_else(|| "nothing, since none of them was there".to_owned())
                ));
            }
        }
        ComponentError::Failed {
            program: "restore into Weaviate",
            status: "failure".to_owned(),
            stderr: words.join("; "),
            transient: put_back.is_ok() && err.is_transient(),
        }
    }
}

/// Deletes classes, and waits until they are gone.
pub(super) async fn remove_classes(server: &Server, classes: &[String]) -> Result<(), ComponentError> {
    for class in classes {
        let deleted = server.delete_class(class).await;
        deleted.map_err(|fault| fault.of(format!("delete class {class}")))?;
    }
    are_gone(server, classes).await
}

/// Classes for people.
pub(super) fn names(classes: &BTreeSet<String>) -> String {
    classes.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
