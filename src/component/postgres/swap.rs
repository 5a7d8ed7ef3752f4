//! One database takes the place of another, by rename, in one transaction.
//!
//! Connections are refused before, so that the sessions can be ended for good; a mark in the comment on
//! the live database tells `recover` what to put right, should we die in between.

use crate::component::postgres::{
    admin::{Admin, LOOK, PATIENCE, fault},
    config::PostgresConfig,
    database::Database,
    mark::{Mark, Role, comment_on, ident},
};
use crate::component::{ComponentError, Kept};
use deadpool_postgres::tokio_postgres::{Error, error::SqlState};
use jiff::Timestamp;
use std::time::Instant;

/// What is to take the place of what.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The way in, and the database of the configuration.
    pub config: PostgresConfig,
    /// The name of the live database.
    pub target: String,
    /// The database that is to have that name.
    pub incoming: String,
    /// The comment that it had; `None`: it is a copy, and gets that of the live one.
    pub kept: Option<Mark>,
}

impl Exchange {
    /// Carries it out. Once begun it goes on to its end, even when nobody waits for it any more.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unavailable`] when sessions do not end in time, [`ComponentError::Unusable`] when a
    /// right is missing: then everything is as it was. When the server or the network failed in the middle, the live
    /// database is the old or the new one, and may refuse connections until `recover`.
    pub async fn carry_out(self) -> Result<Option<Kept>, ComponentError> {
        let crashed = |err: tokio::task::JoinError| ComponentError::Unavailable {
            what: "swap databases".into(),
            source: Some(err.into()),
        };
        tokio::spawn(async move { self.run().await }).await.map_err(crashed)?
    }

    async fn run(self) -> Result<Option<Kept>, ComponentError> {
        let admin = Admin::beside(&self.config, &self.target).await?;
        admin.announce(&self.config.database).await?;
        let live = Database::find(&admin, &self.target).await?;
        // What is busy in the incoming one (our own sessions that are just ending, autovacuum) goes first:
        // nobody has to wait for it then.
        self.empty(&admin, &self.incoming).await?;
        let Some(live) = live else { return self.just_rename(&admin).await };
        admin.nothing_is_prepared_in(&self.target).await?;
        admin.nothing_arrives_in(&self.target).await?;
        let at = Timestamp::now();
        let name = admin.free_name(&self.target, Role::Kept, at).await?;
        let mark = Mark {
            role: Role::Kept,
            name: name.clone(),
            by: self.config.database.clone(),
            of: self.target.clone(),
            at,
            comment: live.comment.clone(),
            allow: live.allows,
        };
        let begun = Instant::now();
        let swapped = self.close_and_rename(&admin, &live, &mark).await;
        if let Err(err) = swapped {
            drop(admin);
            // The connection may have broken at the commit: then it can have gone either way.
            if !self.reopen(&name).await.unwrap_or(false) {
                return Err(err);
            }
        }
        let downtime_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(database = self.target, kept = name, downtime_ms, "databases are swapped");
        Ok(Some(Kept { place: name, at }))
    }

    async fn just_rename(&self, admin: &Admin) -> Result<Option<Kept>, ComponentError> {
        let comment = self.kept.as_ref().and_then(|mark| mark.comment.as_deref());
        let (incoming, target) = (ident(&self.incoming), ident(&self.target));
        let rename =
            [format!("ALTER DATABASE {incoming} RENAME TO {target}"), comment_on(&self.target, comment)];
        admin.at_once(&rename).await.map_err(|err| self.failed(err))?;
        tracing::info!(database = self.target, "database is there again");
        Ok(None)
    }

    async fn close_and_rename(
        &self,
        admin: &Admin,
        live: &Database,
        kept: &Mark,
    ) -> Result<(), ComponentError> {
        let closed = Mark { role: Role::Closed, name: self.target.clone(), ..kept.clone() };
        let (target, incoming) = (ident(&self.target), ident(&self.incoming));
        let close = [
            comment_on(&self.target, Some(&closed.text())),
            format!("ALTER DATABASE {target} ALLOW_CONNECTIONS false"),
        ];
        admin.at_once(&close).await.map_err(|err| self.failed(err))?;
        let name = ident(&kept.name);
        let comment = self.kept.as_ref().map_or(live.comment.as_deref(), |mark| mark.comment.as_deref());
        let rename = [
            format!("ALTER DATABASE {target} RENAME TO {name}"),
            format!("ALTER DATABASE {incoming} RENAME TO {target}"),
            comment_on(&kept.name, Some(&kept.text())),
            comment_on(&self.target, comment),
            format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {}", live.allows),
            format!("ALTER DATABASE {target} ALLOW_CONNECTIONS {}", live.allows),
        ];
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.empty(admin, &self.target).await?;
            // Once more, as exporters come back: the server would wait five seconds for one.
            self.empty(admin, &self.incoming).await?;
            match admin.at_once(&rename).await {
                Ok(()) => return Ok(()),
                // Somebody was on his way in before the door was closed, or looked in between.
                Err(err) if err.code() == Some(&SqlState::OBJECT_IN_USE) && Instant::now() < deadline => {}
                Err(err) => return Err(self.failed(err)),
            }
        }
    }

    /// Ends all sessions of a database.
    async fn empty(&self, admin: &Admin, name: &str) -> Result<(), ComponentError> {
        let deadline = Instant::now() + PATIENCE;
        while admin.close_sessions(name).await? > 0 {
            if Instant::now() > deadline {
                let what = format!("end the sessions in {name}");
                return Err(ComponentError::Unavailable { what, source: None });
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// After a failure: whether the swap happened all the same. If not, connections are allowed again.
    async fn reopen(&self, kept: &str) -> Result<bool, ComponentError> {
        let admin = Admin::beside(&self.config, &self.target).await?;
        for mark in admin.marked(&self.config.database).await? {
            match mark.role {
                Role::Kept if mark.name == kept => return Ok(true),
                Role::Closed if mark.of == self.target => open(&admin, &mark).await?,
                _ => {}
            }
        }
        Ok(false)
    }

    fn failed(&self, err: Error) -> ComponentError {
        fault(format!("swap database {} for {}", ident(&self.target), ident(&self.incoming)), err)
    }
}

/// Opens a database that a swap had closed.
///
/// # Errors
///
/// As sorted.
pub async fn open(admin: &Admin, closed: &Mark) -> Result<(), ComponentError> {
    let name = ident(&closed.name);
    let statements = [
        comment_on(&closed.name, closed.comment.as_deref()),
        format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {}", closed.allow),
    ];
    admin.at_once(&statements).await.map_err(|err| fault(format!("allow connections to {name} again"), err))
}
