//! The undo points of media: areas with the trees that restores have set aside.

use crate::component::media::{
    errors::unusable,
    label::Role,
    restore::{exchange, has_tree, kept_in},
    staging_area::StagingArea,
};
use crate::component::{
    ComponentError,
    stage::{CompletedSwap, UndoPoint},
};
use crate::domain::task_note::TaskNote;
use std::path::Path;

/// The tree that the last restore set aside, blocking.
pub(super) fn undo_point(root: &Path) -> Result<Option<UndoPoint>, ComponentError> {
    Ok(last(StagingArea::seen(root)?).as_ref().map(kept_in))
}

fn last(areas: Vec<StagingArea>) -> Option<StagingArea> {
    areas.into_iter().rfind(|area| area.label.role == Role::Before && has_tree(area))
}

/// Exchanges the live data with the last undo point, blocking.
pub(super) fn undo(root: &Path, note: Option<TaskNote>) -> Result<UndoPoint, ComponentError> {
    let none = || unusable(format!("undo the restore of {}: nothing is kept of before", root.display()));
    let area = last(StagingArea::all(root)?).ok_or_else(none)?;
    let kept_at = area.label.at;
    // Another machine may have done the same task since it was asked what is kept.
    if note.as_ref().is_some_and(|note| !note.leads_to(&kept_in(&area).place)) {
        let what =
            format!("undo the restore of {}: another run has changed meanwhile what is kept", root.display());
        return Err(ComponentError::Taken { what });
    }
    let exchanged = exchange(area, false, note)?;
    // Nothing was live, so nothing is kept now.
    Ok(exchanged.unwrap_or_else(|| UndoPoint { place: "nothing".to_owned(), at: kept_at, task_notes: None }))
}

/// Removes the areas of undo, but for those that prove the swap of a task which may be delivered again, and those that were
/// set aside after it: an undo leads to the newest that is there. Blocking.
pub(super) fn delete_undo_data(root: &Path) -> Result<(), ComponentError> {
    for area in StagingArea::all(root)?.into_iter().filter(|area| area.label.role == Role::Before) {
        if area.is_needed() {
            let path = area.path();
            tracing::info!(
                "{} stays for now: the result of the task that set it aside is not stored",
                path.display()
            );
            return Ok(());
        }
        area.remove()?;
    }
    Ok(())
}

/// The swap of a task, if it has done one, blocking.
pub(super) fn completed_by(root: &Path, task: &str) -> Result<Option<CompletedSwap>, ComponentError> {
    let find = |area: StagingArea| {
        let note = area.task_notes()?.into_iter().rfind(|note| note.is_of(task))?;
        Some(CompletedSwap { note, kept: has_tree(&area).then(|| kept_in(&area).place) })
    };
    Ok(StagingArea::seen(root)?.into_iter().rev().find_map(find))
}

/// Notes that the result of a task is stored, blocking.
pub(super) fn result_stored(root: &Path, task: &str) -> Result<(), ComponentError> {
    StagingArea::all(root)?.iter().try_for_each(|area| area.result_stored(task))
}
