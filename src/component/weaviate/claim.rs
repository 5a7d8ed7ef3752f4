//! The right of this machine to replace classes, for as long as its mark is the last one (`mark`).

use crate::base::{chain, host_name};
use crate::component::ComponentError;
use crate::component::weaviate::Weaviate;
use crate::component::weaviate::index::BackupBackend;
use crate::component::weaviate::journal::Journal;
use crate::component::weaviate::mark::ReplacementMark;
use crate::component::weaviate::notes::{Notes, State};
use crate::component::weaviate::server::Server;
use crate::domain::progress::Meter;
use jiff::Timestamp;
use reqwest::Method;
use std::{collections::BTreeSet, future::pending, sync::OnceLock, time::Instant};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Seconds between two beats of a mark.
const BEAT: u32 = 10;
/// Seconds without a beat after which a machine counts as dead.
const LIFE: u32 = 45;

/// A mark of ours while this process replaces classes, or puts classes back.
#[derive(Debug)]
pub(super) struct ReplacementClaim {
    server: Server,
    /// Locked while the mark is being written: of two changes none undoes the other.
    mark: Mutex<ReplacementMark>,
    lost: CancellationToken,
    why: OnceLock<String>,
    /// Of the run, which somebody may stop.
    pub(super) meter: Meter,
}

impl Weaviate {
    /// Takes the right to replace `classes`, by a mark above all others. The result has the marks of other machines whose
    /// replacements have not ended as well: those machines are dead.
    ///
    /// # Errors
    ///
    /// When another machine is at it, or the marks cannot be read or written.
    pub(super) async fn claim(
        &self,
        server: &Server,
        journal: &mut Journal,
        classes: &BTreeSet<String>,
        meter: &Meter,
    ) -> Result<(ReplacementClaim, Vec<ReplacementMark>), ComponentError> {
        let journal_id = journal.id().await?;
        let marks = marks_of_the_dead(server, &journal_id).await?;
        // Before the mark is made: what a death leaves of it is found again.
        journal.note(|notes| notes.has_mark = true).await?;
        let (own, others): (Vec<_>, Vec<_>) = marks.into_iter().partition(|mark| mark.journal == journal_id);
        let last = own.iter().chain(&others).map(|mark| mark.number).max().unwrap_or_default();
        let mark = ReplacementMark {
            number: last + 1,
            run: Uuid::new_v4().simple().to_string(),
            journal: journal_id,
            host: host_name(),
            folder: self.config.state.display().to_string(),
            since: Timestamp::now(),
            replacing: classes.union(&journal.notes.due()).cloned().collect(),
            replaced: own
                .iter()
                .flat_map(|mark| mark.replaced.clone())
                .chain(proven(&journal.notes).into_iter().map(|class| (class, last + 1)))
                .collect(),
            copies: copies_on_server(&journal.notes),
            beat: 0,
            task_notes: own.iter().flat_map(ReplacementMark::needed_notes).collect(),
        };
        server.make_mark(&mark).await?;
        // The new mark says all that they said.
        for old in &own {
            server.remove_mark(old).await?;
        }
        let (server, mark) = (server.while_classes_are_missing(), Mutex::new(mark));
        let (lost, why, meter) = (CancellationToken::new(), OnceLock::new(), meter.clone());
        let claim = ReplacementClaim { server, mark, lost, why, meter };
        Ok((claim, others.into_iter().filter(ReplacementMark::is_open).collect()))
    }

    /// Lets the mark of this machine say what the journal says, and removes it when nothing needs it any more: it
    /// stays while classes are due or copies are kept, while a task may be delivered again whose work it proves, and
    /// while a mark below it does, whose machine has to see what was replaced since.
    ///
    /// # Errors
    ///
    /// Then the next run does it.
    pub(super) async fn refresh_mark(
        &self,
        server: &Server,
        journal: &mut Journal,
    ) -> Result<(), ComponentError> {
        if !journal.notes.has_mark {
            return Ok(());
        }
        let id = journal.id().await?;
        let (mut own, others): (Vec<_>, Vec<_>) =
            server.marks().await?.into_iter().partition(|mark| mark.journal == id);
        if let Some(mark) = own.pop() {
            for old in &own {
                server.remove_mark(old).await?;
            }
            let (replacing, copies) = (journal.notes.due(), copies_on_server(&journal.notes));
            // A death, or a server that was away, may have kept the mark from saying so.
            let mut replaced = mark.replaced.clone();
            for class in proven(&journal.notes) {
                replaced.entry(class).or_insert(mark.number);
            }
            let is_seen = !replaced.is_empty() && others.iter().any(|other| other.number < mark.number);
            let is_proof = !mark.needed_notes().is_empty();
            if is_seen || is_proof || !replacing.is_empty() || !journal.notes.snapshots().is_empty() {
                let beat = mark.beat + 1;
                if replacing != mark.replacing || copies != mark.copies || replaced != mark.replaced {
                    server
                        .change_mark(&ReplacementMark { replacing, replaced, copies, beat, ..mark })
                        .await?;
                }
                return Ok(());
            }
            server.remove_mark(&mark).await?;
        }
        journal.note(|notes| notes.has_mark = false).await
    }
}

impl ReplacementClaim {
    /// The number of the mark.
    pub(super) async fn number(&self) -> u64 {
        self.mark.lock().await.number
    }

    /// Names a copy that the replacement needs, before a class is deleted: no machine's retention removes it.
    pub(super) async fn needs_copy(&self, copy: &str) -> Result<(), ComponentError> {
        self.change(|mark| mark.copies.extend([copy.to_owned()])).await
    }

    /// Writes into the mark that a class is proven, so that the journals of earlier replacements leave the class alone. A
    /// mark that cannot be written is a warning, since the class is whole: a later run writes the mark.
    pub(super) async fn tell_replaced(&self, class: &str) {
        let told = self.change(|mark| mark.replaced.extend([(class.to_owned(), mark.number)])).await;
        if let Err(err) = told {
            tracing::warn!(class, error = %chain(&err), "other machines are not told that a class was replaced");
        }
    }

    /// Changes what the mark says.
    pub(super) async fn change(
        &self,
        change: impl FnOnce(&mut ReplacementMark),
    ) -> Result<(), ComponentError> {
        let mut mark = self.mark.lock().await;
        let mut changed = mark.clone();
        change(&mut changed);
        changed.beat += 1;
        self.server.change_mark(&changed).await?;
        *mark = changed;
        Ok(())
    }

    /// Makes sure that the mark still is the last one. Where it is not, this never returns, and
    /// [`guarded`](Self::guarded) ends the work.
    ///
    /// # Errors
    ///
    /// When the marks cannot be read, which decides nothing: the caller must not go on.
    pub(super) async fn confirm(&self) -> Result<(), ComponentError> {
        let (number, run) = {
            let mark = self.mark.lock().await;
            (mark.number, mark.run.clone())
        };
        let marks = self.server.marks().await?;
        let why = match marks.iter().find(|mark| mark.number > number) {
            Some(newer) => format!("{} has taken over", newer.owner()),
            None if marks.iter().any(|mark| mark.run == run) => return Ok(()),
            None => format!("somebody has deleted its mark, which had the number {number}"),
        };
        let _ = self.why.set(why);
        self.lost.cancel();
        pending().await
    }

    /// Deletes a class, and waits until it is gone. The marks are looked at before each attempt: after an outage the class
    /// may be the one that another machine has brought.
    ///
    /// # Errors
    ///
    /// Then the class may be there or not; after [`ComponentError::Denied`] it is.
    pub(super) async fn delete(&self, class: &str) -> Result<(), ComponentError> {
        let mut retries = self.server.client.retries();
        loop {
            self.confirm().await?;
            match self.server.client.ask(Method::DELETE, &format!("/v1/schema/{class}"), None).await {
                Ok(_) => break,
                Err(fault) if fault.passes() && retries.wait(&fault).await => {}
                Err(fault) => return Err(fault.of(format!("delete class {class}"))),
            }
        }
        are_gone(&self.server, &[class.to_owned()]).await
    }

    /// Does work that replaces classes, for as long as the mark is the last one and nobody has
    /// [stopped](Meter::stop) the run. Else the work ends where it is, as if this process died: nothing is rolled back
    /// over the work of others, and the journal keeps what is due.
    ///
    /// # Errors
    ///
    /// The error of the work, or the reason why the work was ended.
    pub(super) async fn guarded<T>(
        &self,
        work: impl Future<Output = Result<T, ComponentError>>,
    ) -> Result<T, ComponentError> {
        let why = tokio::select! {
            biased;
            () = self.lost.cancelled() => self.why.get().cloned().unwrap_or_default(),
            () = self.meter.stopped() => "the run was cancelled, or its lock has passed to another".to_owned(),
            () = self.keep_beating() => "its mark is beaten no more".to_owned(),
            ended = work => return ended,
        };
        Err(ComponentError::Failed {
            program: "a replacement of classes in Weaviate",
            status: "stop".to_owned(),
            stderr: format!("{why}: nothing was rolled back, and the journal keeps what is still due"),
            transient: false,
        })
    }

    /// Raises the beat of the mark again and again, so that other machines see this one at work.
    async fn keep_beating(&self) {
        loop {
            self.server.client.wait(BEAT).await;
            let beaten = async {
                self.confirm().await?;
                self.change(|_| {}).await
            };
            if let Err(err) = beaten.await {
                tracing::debug!(error = %chain(&err), "cannot beat the mark of a replacement");
            }
        }
    }
}

/// All marks, once it is certain that no other machine replaces classes: the last mark is ended, or of this journal, or
/// has not changed for a while.
///
/// # Errors
///
/// When another machine is at it, or the marks cannot be read.
pub(super) async fn marks_of_the_dead(
    server: &Server,
    journal: &str,
) -> Result<Vec<ReplacementMark>, ComponentError> {
    /// Seconds between two looks.
    const LOOK: u32 = 5;
    let mut marks = server.marks().await?;
    let begun = Instant::now();
    loop {
        // Whoever has an earlier mark sees the last one, and stops.
        let Some(last) = marks.last().filter(|last| last.is_open() && last.journal != journal) else {
            return Ok(marks);
        };
        if begun.elapsed() > server.client.seconds(LIFE) {
            tracing::warn!(
                "a restore into Weaviate by {} shows no sign of life and is taken over",
                last.owner()
            );
            return Ok(marks);
        }
        server.client.wait(LOOK).await;
        let now = server.marks().await?;
        if let Some(alive) = now.last().filter(|now| now.is_open() && *now != last && now.journal != journal)
        {
            return Err(alive.busy());
        }
        marks = now;
    }
}

/// Waits until deleted classes are gone.
pub(super) async fn are_gone(server: &Server, classes: &[String]) -> Result<(), ComponentError> {
    /// Seconds.
    const PATIENCE: u32 = 120;
    let begun = Instant::now();
    loop {
        let there = server.definitions().await.map_err(|fault| fault.of("read Weaviate's schema"))?;
        let Some(left) = classes.iter().find(|class| there.contains_key(*class)) else { return Ok(()) };
        if begun.elapsed() > server.client.seconds(PATIENCE) {
            let what = format!("delete class {left}: it is still there");
            return Err(ComponentError::Unavailable { what, source: None });
        }
        server.client.wait(1).await;
    }
}

/// The classes that the replacement in the notes has brought and proven.
fn proven(notes: &Notes) -> BTreeSet<String> {
    let replacing = notes.replacing.as_ref();
    replacing.map(|replacing| replacing.in_state(|state| *state == State::Proven)).unwrap_or_default()
}

/// The ids of the copies that lie where the server's backups lie.
fn copies_on_server(notes: &Notes) -> BTreeSet<String> {
    let copies = notes.snapshots().into_iter().filter(|copy| copy.backend != BackupBackend::Export);
    copies.map(|copy| copy.id.clone()).collect()
}
