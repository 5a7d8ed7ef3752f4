//! Databases that restores leave behind: undo points, and the copies of runs that died.

use crate::component::postgres::{
    admin::{Admin, fault},
    advisory_lock::AdvisoryLock,
    config::PostgresConfig,
    mark::{Mark, Role, comment_on},
    swap::{self, DatabaseSwap},
};
use crate::component::{CompletedSwap, ComponentError, UndoPoint};
use crate::domain::task_note::{self, TaskNote};
use jiff::Timestamp;

async fn newest(admin: &Admin, by: &str) -> Result<Option<Mark>, ComponentError> {
    Ok(admin.marked(by).await?.into_iter().rfind(|mark| mark.role == Role::Kept))
}

/// The databases that may bear notes on tasks.
fn is_noted(mark: &Mark) -> bool {
    matches!(mark.role, Role::Kept | Role::Restored)
}

/// As [`crate::component::Undo::undo_point`].
pub async fn undo_point(config: &PostgresConfig) -> Result<Option<UndoPoint>, ComponentError> {
    let admin = Admin::beside(config, &config.database).await?;
    let newest = newest(&admin, &config.database).await?;
    Ok(newest.map(|mark| UndoPoint { place: mark.name, at: mark.at, task_notes: mark.task_notes }))
}

/// As [`crate::component::Undo::completed_by`].
pub async fn completed_by(
    config: &PostgresConfig,
    task: &str,
) -> Result<Option<CompletedSwap>, ComponentError> {
    let admin = Admin::beside(config, &config.database).await?;
    let marks = admin.marked(&config.database).await?;
    Ok(marks.into_iter().rev().filter(is_noted).find_map(|mark| {
        let note = mark.task_notes.iter().flatten().rfind(|note| note.is_of(task))?.clone();
        Some(CompletedSwap { note, kept: (mark.role == Role::Kept).then_some(mark.name) })
    }))
}

/// As [`crate::component::Undo::result_stored`].
pub async fn result_stored(config: &PostgresConfig, task: &str) -> Result<(), ComponentError> {
    let lock = AdvisoryLock::take(config, &config.database).await?;
    let admin = Admin::beside(config, &config.database).await?;
    for mut mark in admin.marked(&config.database).await?.into_iter().filter(is_noted) {
        if mark.task_notes.as_mut().is_some_and(|task_notes| task_note::mark_stored(task_notes, task)) {
            note(&admin, &mark, &lock).await?;
        }
    }
    lock.free().await;
    Ok(())
}

/// Writes a mark again. A live database gets its own comment back once its mark is needed no more.
async fn note(admin: &Admin, mark: &Mark, lock: &AdvisoryLock) -> Result<(), ComponentError> {
    let is_over = mark.role == Role::Restored && !mark.is_needed();
    let text = if is_over { mark.comment.clone() } else { Some(mark.text()) };
    let noted = admin.at_once(&[lock.guard(), comment_on(&mark.name, text.as_deref())]).await;
    noted.map_err(|err| fault(format!("comment on database {}", mark.name), err))
}

/// As [`crate::component::Undo::undo`]. Where nothing was live any more, what it tells is the name
/// that the old one has again.
pub async fn undo(config: &PostgresConfig, note: Option<TaskNote>) -> Result<UndoPoint, ComponentError> {
    let lock = AdvisoryLock::take(config, &config.database).await?;
    let admin = Admin::beside(config, &config.database).await?;
    let Some(mark) = newest(&admin, &config.database).await? else {
        lock.free().await;
        let what = format!("there is nothing to undo: no database is kept for {}", config.database);
        return Err(ComponentError::Unusable { what, source: None });
    };
    // Another machine may have done the same task since it was asked what is kept.
    if note.as_ref().is_some_and(|note| !note.leads_to(&mark.name)) {
        lock.free().await;
        let what = format!(
            "undo the restore of {}: another run has changed meanwhile what is kept",
            config.database
        );
        return Err(ComponentError::Taken { what });
    }
    drop(admin);
    put_back(config, mark, note, lock).await
}

async fn put_back(
    config: &PostgresConfig,
    mark: Mark,
    note: Option<TaskNote>,
    lock: AdvisoryLock,
) -> Result<UndoPoint, ComponentError> {
    let (target, incoming) = (mark.of.clone(), mark.name.clone());
    let (config, kept) = (config.clone(), Some(mark));
    let swap = DatabaseSwap { config, target: target.clone(), incoming, kept, note };
    let kept = swap.carry_out(lock).await?;
    Ok(kept.unwrap_or_else(|| UndoPoint { place: target, at: Timestamp::now(), task_notes: None }))
}

/// As [`crate::component::Undo::delete_undo_data`]. What was set aside after a database that stays does so too: an undo leads to
/// the newest.
pub async fn delete_undo_data(config: &PostgresConfig) -> Result<(), ComponentError> {
    let lock = AdvisoryLock::take(config, &config.database).await?;
    let admin = Admin::beside(config, &config.database).await?;
    let mut stays = false;
    for mark in admin.marked(&config.database).await?.into_iter().filter(is_noted) {
        lock.confirm().await?;
        let is_kept = mark.role == Role::Kept;
        if is_kept && (stays || mark.is_needed()) {
            stays = true;
            let database = mark.name;
            tracing::info!(
                database,
                "it stays for now: the result of a task that set it aside is not stored"
            );
        } else if is_kept {
            admin.drop_database(&mark.name).await?;
            tracing::info!(database = mark.name, "the database that a restore had set aside is dropped");
        } else if !mark.is_needed() {
            note(&admin, &mark, &lock).await?;
        }
    }
    lock.free().await;
    Ok(())
}

/// As [`crate::component::Restorable::recover`].
pub async fn recover(config: &PostgresConfig) -> Result<Vec<String>, ComponentError> {
    // The holder of the lock is the only run at work: copies and closed databases that are there are of dead runs.
    let lock = AdvisoryLock::take(config, &config.database).await?;
    let admin = Admin::beside(config, &config.database).await?;
    admin.end_announced(&config.database).await?;
    let mut done = Vec::new();
    let marks = admin.marked(&config.database).await?;
    for mark in marks.iter().filter(|mark| mark.role == Role::Closed) {
        lock.confirm().await?;
        swap::open(&admin, mark).await?;
        done.push(format!("database {} takes connections again: a swap had died", mark.name));
    }
    let dead = marks.iter().filter(|mark| mark.role == Role::Copy).map(|mark| mark.name.clone());
    for name in dead.chain(admin.unmarked(&config.database).await?) {
        lock.confirm().await?;
        admin.drop_database(&name).await?;
        done.push(format!("database {name} is dropped: the restore that made it had died"));
    }
    // A swap cannot leave it so, it is one transaction: somebody dropped the live one.
    if !admin.exists(&config.database).await?
        && let Some(mark) =
            marks.into_iter().rfind(|mark| mark.role == Role::Kept && mark.of == config.database)
    {
        drop(admin);
        done.push(format!("database {} was missing: {} has its name again", mark.of, mark.name));
        put_back(config, mark, None, lock).await?;
    } else {
        lock.free().await;
    }
    Ok(done)
}
