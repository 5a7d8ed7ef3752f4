//! Replacements by other machines since one of this machine, which failed or died: whatever they have brought stays.

use crate::base::chain;
use crate::component::ComponentError;
use crate::component::weaviate::Weaviate;
use crate::component::weaviate::copies::place_of;
use crate::component::weaviate::journal::Journal;
use crate::component::weaviate::mark::ReplacementMark;
use crate::component::weaviate::notes::{Notes, PreviousClasses};
use crate::component::weaviate::replace::names;
use crate::component::weaviate::server::Server;
use crate::domain::progress::Meter;
use std::collections::BTreeSet;

impl Weaviate {
    /// Puts right what a run of this machine has left of a replacement, but for classes that another machine has
    /// replaced since: those stay as they are, and their copies are kept for people. While another machine is at it,
    /// nothing is done.
    ///
    /// # Errors
    ///
    /// When the marks cannot be read, which decides nothing, or the notes cannot be written.
    pub(super) async fn finish_unless_superseded(
        &self,
        server: &Server,
        journal: &mut Journal,
    ) -> Result<Vec<String>, ComponentError> {
        let mut done = Vec::new();
        let marks = server.marks().await?;
        let there = server.definitions().await.map_err(|fault| fault.of("read Weaviate's schema"))?;
        let superseded = superseded(&journal.notes, &marks, &there.into_keys().collect());
        if !superseded.is_empty() {
            done.push(told(journal, &superseded, &marks));
            journal.note(|notes| notes.supersede(&superseded)).await?;
        }
        let due = journal.notes.due();
        if !due.is_empty()
            && let Some(busy) = newer(&journal.notes, &marks).find(|mark| Some(*mark) == marks.last())
            && busy.is_open()
        {
            done.push(format!(
                "classes {} are still due after a restore into Weaviate that failed or died, and are left alone until {} \
                 has ended its own; if that machine is gone for good, restore them here",
                names(&due),
                busy.owner()
            ));
            return Ok(done);
        }
        if due.is_empty() {
            let is_empty =
                |notes: &Notes| notes.replacing.as_ref().is_some_and(|left| left.classes.is_empty());
            if is_empty(&journal.notes) {
                self.note_and_drop(server, journal, Notes::end_if_final).await?;
            } else {
                done.push(self.finish_and_report(server, journal, None).await?);
            }
        } else {
            let (claim, _) = self.claim(server, journal, &due, &Meter::default()).await?;
            let settled = Box::pin(self.finish_and_report(server, journal, Some(&claim)));
            done.push(claim.guarded(settled).await?);
        }
        Ok(done)
    }

    /// Names the classes that a machine which died, and over which this one takes, has deleted and that this replacement
    /// does not bring.
    pub(super) async fn name_what_stays_due(
        &self,
        server: &Server,
        dead: &[ReplacementMark],
        brought: &BTreeSet<String>,
        meter: &Meter,
    ) -> Result<(), ComponentError> {
        if dead.is_empty() {
            return Ok(());
        }
        let there = server.definitions().await.map_err(|fault| fault.of("read Weaviate's schema"))?;
        for mark in dead {
            let left: BTreeSet<_> = mark.replacing.difference(brought).cloned().collect();
            let (parts, gone): (BTreeSet<_>, BTreeSet<_>) =
                left.into_iter().partition(|class| there.contains_key(class));
            let words = [(gone, "are missing"), (parts, "may be a part of what they were")];
            let words: Vec<_> = words.into_iter().filter(|(classes, _)| !classes.is_empty()).collect();
            if !words.is_empty() {
                let words: Vec<_> =
                    words.iter().map(|(classes, how)| format!("classes {} {how}", names(classes))).collect();
                meter.warn(format!(
                    "A restore into Weaviate by {} died: {}. This restore does not bring them, and they are still due \
                     there: start rna-backup on that machine, or restore them here too.",
                    mark.owner(),
                    words.join("; ")
                ));
            }
        }
        Ok(())
    }

    /// Names the machines that have restored the same classes after the restore that is undone here.
    pub(super) async fn name_later_restores(
        &self,
        server: &Server,
        notes: &Notes,
        kept: &PreviousClasses,
        meter: &Meter,
    ) -> Result<(), ComponentError> {
        let is_later = |mark: &&ReplacementMark| is_of_another(notes, mark) && mark.since > kept.at();
        for mark in server.marks().await?.iter().filter(is_later) {
            let both = mark.replaced.keys().filter(|class| kept.before.contains_key(*class)).cloned();
            let both: BTreeSet<_> = both.collect();
            if !both.is_empty() {
                meter.warn(format!(
                    "Classes {} were restored by {} after the restore that is undone here.",
                    names(&both),
                    mark.owner()
                ));
            }
        }
        Ok(())
    }

    /// Brings the mark of this machine up to date; an error is only a warning.
    pub(super) async fn refresh_mark_or_warn(&self, server: &Server, journal: &mut Journal) {
        if let Err(err) = self.refresh_mark(server, journal).await {
            tracing::warn!(error = %chain(&err), "the mark of a replacement is brought up to date by the next run");
        }
    }
}

impl Notes {
    /// Notes the number of the mark of the replacement.
    pub(super) fn numbered(&mut self, number: u64) {
        if let Some(replacing) = &mut self.replacing {
            replacing.number = Some(number);
        }
    }

    /// Gives up classes that another machine has replaced since: their copies are kept for people.
    pub(super) fn supersede(&mut self, classes: &BTreeSet<String>) {
        let Some(replacing) = &mut self.replacing else { return };
        for class in classes {
            self.found.extend(replacing.classes.remove(class).and_then(|step| step.before));
        }
        self.is_spared = true;
    }

    /// Returns whether the id of a backup names this journal as its origin.
    pub(super) fn is_origin(&self, origin: &str) -> bool {
        !origin.is_empty() && self.id.as_ref().is_some_and(|id| id.starts_with(origin))
    }
}

/// The sentence about classes that are no more put back.
fn told(journal: &Journal, superseded: &BTreeSet<String>, marks: &[ReplacementMark]) -> String {
    let replacing = journal.notes.replacing.clone().unwrap_or_default();
    let copies = replacing.classes.iter().filter(|(class, _)| superseded.contains(*class));
    let copies: BTreeSet<_> = copies.filter_map(|(_, step)| step.before.as_ref()).collect();
    let copies: Vec<_> = copies.into_iter().map(|copy| place_of(journal, copy)).collect();
    let by: Vec<_> = newer(&journal.notes, marks).map(ReplacementMark::owner).collect();
    let why = if by.is_empty() {
        "its mark on the server is gone, so nobody can tell what came since".to_owned()
    } else {
        format!("they were replaced since by {}", by.join(", "))
    };
    let kept = if copies.is_empty() {
        "nothing is kept, since none of them was there".to_owned()
    } else {
        format!(
            "as they were before that restore they are kept as {}, until the second backup from now is proven; \
             docs/restore.md says how to bring such a copy back by hand",
            copies.join(", ")
        )
    };
    format!(
        "a restore into Weaviate that failed or died is superseded: classes {} stay as they are: {why}; {kept}",
        names(superseded)
    )
}

/// The marks of other machines that came after the replacement of some class that is due. An earlier version has noted no
/// number, and the time alone tells. Where the mark of this machine is gone, every mark counts as later.
fn newer<'a>(notes: &'a Notes, marks: &'a [ReplacementMark]) -> impl Iterator<Item = &'a ReplacementMark> {
    let numbers = notes.due().into_iter().map(|class| number_of(notes, marks, &class));
    let number = numbers.min().unwrap_or(MarkNumber::NeverNoted);
    later_than(notes, marks, number)
}

fn later_than<'a>(
    notes: &'a Notes,
    marks: &'a [ReplacementMark],
    number: MarkNumber,
) -> impl Iterator<Item = &'a ReplacementMark> {
    let began = notes.replacing.as_ref().and_then(|replacing| replacing.began);
    marks.iter().filter(move |mark| {
        is_of_another(notes, mark)
            && match number {
                MarkNumber::Known(number) => mark.number > number,
                MarkNumber::Lost => true,
                MarkNumber::NeverNoted => began.is_none_or(|began| mark.since > began),
            }
    })
}

/// The number of the mark under which the replacement of a class began; in the order in which more marks are later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum MarkNumber {
    /// The mark is gone.
    Lost,
    Known(u64),
    /// The version before marks began the replacement.
    NeverNoted,
}

fn number_of(notes: &Notes, marks: &[ReplacementMark], class: &str) -> MarkNumber {
    let number = notes.replacing.as_ref().and_then(|replacing| replacing.number_of(class));
    let has_mark = marks.iter().any(|mark| !is_of_another(notes, mark));
    match number {
        None => MarkNumber::NeverNoted,
        Some(number) if has_mark => MarkNumber::Known(number),
        Some(_) => MarkNumber::Lost,
    }
}

fn is_of_another(notes: &Notes, mark: &ReplacementMark) -> bool {
    notes.id.as_deref() != Some(&*mark.journal)
}

/// The classes that are due and no business of this machine any more: another one has replaced them since. Where the mark
/// of this machine is gone, all that are there. A class that is missing and of which there is a copy stays due: to put it
/// back overwrites nothing.
fn superseded(notes: &Notes, marks: &[ReplacementMark], there: &BTreeSet<String>) -> BTreeSet<String> {
    let mut due = notes.due();
    let has_copy = |class: &String| {
        let step = notes.replacing.as_ref().and_then(|replacing| replacing.classes.get(class));
        step.is_some_and(|step| step.before.is_some())
    };
    due.retain(|class| there.contains(class) || !has_copy(class));
    due.retain(|class| {
        let number = number_of(notes, marks, class);
        let is_later = |mark: &ReplacementMark| {
            let at = mark.replaced.get(class);
            at.is_some_and(|at| !matches!(number, MarkNumber::Known(number) if *at <= number))
        };
        later_than(notes, marks, number).any(is_later) || number == MarkNumber::Lost && there.contains(class)
    });
    due
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::weaviate::mark::example;
    use crate::component::weaviate::notes::{ClassProgress, Replacing, State};
    use jiff::Timestamp;

    /// The notes of journal `a`, whose replacement of two classes has died.
    fn died(number: Option<u64>) -> Notes {
        let step = || ClassProgress { state: State::Deleted, before: None };
        let classes = ["P", "Q"].map(|class| (class.to_owned(), step())).into();
        let began = Some(Timestamp::UNIX_EPOCH);
        let replacing = Replacing { classes, began, number, ..Replacing::default() };
        Notes { id: Some("a".to_owned()), replacing: Some(replacing), ..Notes::default() }
    }

    fn found(notes: &Notes, marks: &[ReplacementMark]) -> String {
        names(&superseded(notes, marks, &["Q".to_owned()].into()))
    }

    #[test]
    fn a_class_that_another_machine_has_brought_later_is_no_more_put_back() {
        let [own, other] = [example(2, "a"), example(3, "b")];
        let brought = |at: u64, number| ReplacementMark {
            number,
            replaced: [("P".to_owned(), at)].into(),
            ..other.clone()
        };
        let notes = died(Some(2));
        assert_eq!(found(&notes, &[own.clone(), brought(3, 3)]), "P");
        assert_eq!(
            found(&notes, &[own.clone(), brought(1, 3)]),
            "",
            "brought before, by a machine that began anew"
        );
        assert_eq!(found(&notes, &[brought(1, 1), own.clone()]), "");
        assert_eq!(found(&notes, std::slice::from_ref(&own)), "");
        assert_eq!(
            found(&notes, &[ReplacementMark { journal: "a".to_owned(), ..brought(3, 3) }]),
            "",
            "its own"
        );
    }

    #[test]
    fn a_class_that_is_replaced_anew_has_the_number_of_that_and_one_left_due_its_own() {
        let [own, other] = [example(4, "a"), example(3, "b")];
        let mut notes = died(Some(2));
        let step = ClassProgress { state: State::Untouched, before: None };
        notes.begin([("P".to_owned(), step)].into(), false);
        notes.numbered(4);
        let replaced = ["P", "Q"].map(|class| (class.to_owned(), 3)).into();
        assert_eq!(found(&notes, &[ReplacementMark { replaced, ..other }, own]), "Q");
    }

    #[test]
    fn a_missing_class_with_a_copy_stays_due() {
        let mut notes = died(Some(2));
        let copy = crate::component::weaviate::notes::tests::snapshot("rna-safe");
        notes.replacing.as_mut().unwrap().classes.get_mut("P").unwrap().before = Some(copy);
        let replaced = [("P".to_owned(), 3)].into();
        let marks = [example(2, "a"), ReplacementMark { replaced, ..example(3, "b") }];
        assert_eq!(found(&notes, &marks), "");
        assert_eq!(names(&superseded(&notes, &marks, &["P".to_owned()].into())), "P");
    }

    #[test]
    fn a_replacement_whose_mark_is_gone_leaves_alone_what_is_there() {
        assert_eq!(found(&died(Some(2)), &[]), "Q");
        let other = ReplacementMark { replaced: [("P".to_owned(), 1)].into(), ..example(1, "b") };
        assert_eq!(found(&died(Some(2)), &[other]), "P, Q");
    }

    #[test]
    fn a_journal_of_an_earlier_version_acts_where_no_mark_is_newer() {
        let later = Timestamp::from_second(9).unwrap();
        let other =
            ReplacementMark { since: later, replaced: [("P".to_owned(), 1)].into(), ..example(1, "b") };
        assert_eq!(found(&died(None), &[]), "");
        assert_eq!(found(&died(None), std::slice::from_ref(&other)), "P");
        assert_eq!(found(&died(None), &[ReplacementMark { since: Timestamp::UNIX_EPOCH, ..other }]), "");
    }
}
