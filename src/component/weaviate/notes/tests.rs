use super::*;
use serde_json::json;

pub(in crate::component::weaviate) fn snapshot(id: &str) -> Snapshot {
    Snapshot { backend: BackupBackend::Export, id: id.to_owned(), at: Timestamp::UNIX_EPOCH, unnamed: [] }
}

fn kept(copy: &str, classes: &[&str]) -> PreviousClasses {
    PreviousClasses {
        before: classes.iter().map(|class| ((*class).to_owned(), Some(snapshot(copy)))).collect(),
    }
}

#[test]
fn undo_takes_back_what_was_proven_and_the_restore_before_it_is_forgotten_with_the_first() {
    let step = |before| ClassProgress { state: State::Untouched, before };
    let old = kept("old", &["A"]);
    let safety = snapshot("new");
    let classes = [
        ("A".to_owned(), step(Some(safety.clone()))),
        ("B".to_owned(), step(Some(safety.clone()))),
        ("C".to_owned(), step(None)),
    ];
    let replacing = Some(Replacing { classes: classes.into(), ..Replacing::default() });
    let mut notes = Notes { replacing, kept: Some(old.clone()), ..Notes::default() };
    notes.reached("A", State::Deleted);
    assert_eq!((notes.kept.as_ref(), notes.due().len()), (Some(&old), 1));
    notes.reached("A", State::PutBack);
    notes.reached("C", State::Proven);
    notes.reached("B", State::Proven);
    let before = BTreeMap::from([("B".to_owned(), Some(safety)), ("C".to_owned(), None)]);
    assert_eq!(notes.kept, Some(PreviousClasses { before }));
    assert_eq!(notes.replacing.as_ref().unwrap().earlier, Some(old));
    notes.end_if_final();
    // One class was not replaced, so this may have been an undo that is still wanted.
    let copies: Vec<_> = notes.snapshots().into_iter().map(|copy| copy.id.as_str()).collect();
    assert_eq!((notes.replacing.as_ref(), copies), (None, vec!["new", "old"]));
}

#[test]
fn an_undo_that_ends_in_the_middle_is_gone_on_with_and_its_end_can_be_undone_as_one() {
    let untouched = |id: &str, classes: &[&str]| {
        let copy = snapshot(id);
        let step = |class: &&str| {
            ((*class).to_owned(), ClassProgress { state: State::Untouched, before: Some(copy.clone()) })
        };
        classes.iter().map(step).collect::<BTreeMap<_, _>>()
    };
    let mut notes = Notes { kept: Some(kept("before", &["A", "B", "C"])), ..Notes::default() };
    notes.begin(untouched("restored", &["A", "B", "C"]), true);
    notes.reached("A", State::Proven);
    notes.reached("B", State::Deleted);
    notes.end_if_final();
    assert!(notes.replacing.is_some(), "B is due");
    notes.reached("B", State::PutBack);
    // As where B was put back hours later, and what stood there is kept.
    notes.keep("B", Some(snapshot("late")));
    notes.end_if_final();
    let names = |kept: &Option<PreviousClasses>| {
        kept.as_ref().map(|kept| kept.before.keys().cloned().collect::<String>())
    };
    assert_eq!((names(&notes.kept), names(&notes.undone)), (Some("BC".into()), Some("A".into())));
    assert!(notes.kept.as_ref().unwrap().copies().all(|copy| copy.id == "before"));
    assert_eq!(notes.snapshots().len(), 3);
    notes.begin(untouched("again", &["B", "C"]), true);
    notes.reached("B", State::Proven);
    notes.reached("C", State::Proven);
    notes.end_if_final();
    let copies: Vec<_> = notes.kept.as_ref().unwrap().copies().map(|copy| copy.id.as_str()).collect();
    assert_eq!((copies, notes.undone.clone()), (vec!["restored", "again", "again"], None));
}

#[test]
fn a_class_that_is_due_comes_from_the_copy_that_was_made_before_it_was_deleted() {
    let step = |state, before| ClassProgress { state, before: Some(snapshot(before)) };
    let untouched = |class: &str| (class.to_owned(), step(State::Untouched, "second"));
    let due = ("A".to_owned(), step(State::Deleted, "first"));
    let replacing = Some(Replacing { classes: [due.clone()].into(), ..Replacing::default() });
    let mut notes = Notes { replacing, ..Notes::default() };
    notes.begin([untouched("A"), untouched("B")].into(), false);
    let replacing = notes.replacing.unwrap();
    assert_eq!(replacing.classes, [due, untouched("B")].into());
}

#[test]
fn notes_of_versions_that_replaced_all_classes_at_once_are_read() {
    let safety = json!({"made": "s3", "id": "rna-1", "at": "2026-01-01T00:00:00Z", "classes": ["A"]});
    let written = json!({
        "loose": [], "drill": [],
        "replacing": {"classes": ["A", "B"], "safety": safety, "began": "2026-01-01T00:00:00Z"},
        "kept": {"snapshot": safety, "classes": ["A", "B"]},
    });
    let notes: Notes = serde_json::from_value(written).unwrap();
    let steps = &notes.replacing.as_ref().unwrap().classes;
    assert!(steps.values().all(|step| step.state == State::Deleted));
    assert_eq!(steps["A"].before, notes.kept.as_ref().unwrap().before["A"]);
    assert_eq!((steps["B"].before.as_ref(), notes.snapshots().len()), (None, 1));
    let again = serde_json::from_value::<Notes>(serde_json::to_value(&notes).unwrap()).unwrap();
    assert_eq!(again, notes);
}

#[test]
fn twice_as_many_classes_take_twice_the_room() {
    let length = |classes: usize| {
        let step = |class| {
            let step = ClassProgress { state: State::Untouched, before: Some(snapshot("rna-safe")) };
            (format!("Class{class:03}"), step)
        };
        let replacing = Replacing { classes: (0..classes).map(step).collect(), ..Replacing::default() };
        let notes = Notes { replacing: Some(replacing), ..Notes::default() };
        serde_json::to_vec(&notes).unwrap().len()
    };
    assert!(length(400) < 2 * length(200));
}
