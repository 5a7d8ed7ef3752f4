//! What restores leave behind: old databases to go back to, and the ruins of runs that died.

use crate::component::postgres::{
    admin::Admin,
    config::PostgresConfig,
    mark::{Mark, Role},
    swap::{self, Exchange},
};
use crate::component::{ComponentError, Kept};
use jiff::Timestamp;

async fn newest(admin: &Admin, by: &str) -> Result<Option<Mark>, ComponentError> {
    Ok(admin.marked(by).await?.into_iter().rfind(|mark| mark.role == Role::Kept))
}

/// As [`crate::component::Component::kept`].
pub async fn kept(config: &PostgresConfig) -> Result<Option<Kept>, ComponentError> {
    let admin = Admin::beside(config, &config.database).await?;
    let newest = newest(&admin, &config.database).await?;
    Ok(newest.map(|mark| Kept { place: mark.name, at: mark.at }))
}

/// As [`crate::component::Component::undo`]. Where nothing was live any more, what it tells is the name
/// that the old one has again.
pub async fn undo(config: &PostgresConfig) -> Result<Kept, ComponentError> {
    let admin = Admin::beside(config, &config.database).await?;
    let Some(mark) = newest(&admin, &config.database).await? else {
        let what = format!("there is nothing to undo: no database is kept for {}", config.database);
        return Err(ComponentError::Unusable { what, source: None });
    };
    drop(admin);
    put_back(config, mark).await
}

async fn put_back(config: &PostgresConfig, mark: Mark) -> Result<Kept, ComponentError> {
    let (target, incoming) = (mark.of.clone(), mark.name.clone());
    let exchange = Exchange { config: config.clone(), target: target.clone(), incoming, kept: Some(mark) };
    let kept = exchange.carry_out().await?;
    Ok(kept.unwrap_or_else(|| Kept { place: target, at: Timestamp::now() }))
}

/// As [`crate::component::Component::forget`].
pub async fn forget(config: &PostgresConfig) -> Result<(), ComponentError> {
    let admin = Admin::beside(config, &config.database).await?;
    for mark in admin.marked(&config.database).await? {
        if mark.role == Role::Kept {
            admin.drop_database(&mark.name).await?;
            tracing::info!(database = mark.name, "the database that a restore had set aside is dropped");
        }
    }
    Ok(())
}

/// As [`crate::component::Component::recover`].
pub async fn recover(config: &PostgresConfig) -> Result<Vec<String>, ComponentError> {
    let admin = Admin::beside(config, &config.database).await?;
    let mut done = Vec::new();
    let marks = admin.marked(&config.database).await?;
    for mark in marks.iter().filter(|mark| mark.role == Role::Closed) {
        swap::open(&admin, mark).await?;
        done.push(format!("database {} takes connections again: a swap had died", mark.name));
    }
    let dead = marks.iter().filter(|mark| mark.role == Role::Copy).map(|mark| mark.name.clone());
    for name in dead.chain(admin.unmarked(&config.database).await?) {
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
        put_back(config, mark).await?;
    }
    Ok(done)
}
