//! The steps of a restore of PostgreSQL, as one list: `check`, dry run, drill and restore ask their questions by it, and dry
//! run and drill name the steps that they do not take. The steps that do something stand in `copy`, `in_place` and `swap`.

use crate::base::chain;
use crate::component::ComponentError;
use crate::component::postgres::{
    admin::{self, Admin},
    config::PostgresConfig,
    restore_target::RestoreTarget,
    sessions,
};
use crate::component::stage::{RestoreMode, Steps};

/// A step of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Session,
    Creation,
    Prepared,
    Subscriptions,
    Roles,
    Client,
    InTheWay,
    Properties,
    Load,
    Comparison,
    Swap,
}

use RestoreMode::{Check, Drill, DryRun, Restore};

/// The steps of a restore of PostgreSQL.
pub const STEPS: Steps<Step> = Steps(&[
    (Step::Session, "begin a session with the settings of pg_restore", &[Check, DryRun, Drill, Restore]),
    (
        Step::Creation,
        "look whether the role may make a database and give that database its name",
        &[Check, DryRun, Drill, Restore],
    ),
    (Step::Prepared, "look for prepared transactions in the live database", &[Check, DryRun, Restore]),
    (Step::Subscriptions, "look for subscriptions of the live database", &[Check, DryRun, Restore]),
    (Step::Client, "look for a pg_restore that can read the archive", &[Check, DryRun, Drill, Restore]),
    (Step::Roles, "look for the roles that the backup needs", &[DryRun, Drill, Restore]),
    (
        Step::InTheWay,
        "look for objects that the archive does not know, where contents are replaced in place",
        &[DryRun, Restore],
    ),
    (
        Step::Properties,
        "try to give settings, privileges and limits of the database",
        &[DryRun, Drill, Restore],
    ),
    (Step::Load, "load the archive, into a new database where the role may make one", &[Drill, Restore]),
    (
        Step::Comparison,
        "compare rows, owners and privileges, and the definitions of a new database",
        &[Drill, Restore],
    ),
    (Step::Swap, "end all sessions of the live database, and rename or replace it", &[Restore]),
]);

impl RestoreTarget {
    /// Asks what a step asks before anything is touched. Steps that do something ask nothing, and a step whose answer is
    /// needed by others has asked when the target was found.
    async fn ask(&self, config: &PostgresConfig, step: Step) -> Result<(), ComponentError> {
        let replaces = self.swaps && self.live.is_some();
        match step {
            Step::Session => {
                sessions::suffice(&self.admin.client, None, ("a restore", sessions::OF_RESTORE)).await?;
                takes_options(config, &self.admin, &self.options).await
            }
            Step::Creation => self.may_be_made().await,
            Step::Prepared if replaces => self.admin.nothing_is_prepared_in(&self.name).await,
            Step::Subscriptions if replaces => self.admin.refuse_active_subscriber(&self.name).await,
            _ => Ok(()),
        }
    }

    /// Asks all that a mode asks, in the order of the steps.
    ///
    /// # Errors
    ///
    /// The reason why a restore would fail, and what to do about it.
    pub async fn ask_all(&self, config: &PostgresConfig, mode: RestoreMode) -> Result<(), ComponentError> {
        for step in STEPS.of(mode) {
            self.ask(config, step).await?;
        }
        Ok(())
    }
}

/// Begins a session as `pg_restore` will, whose settings a connection pooler may not pass on.
async fn takes_options(config: &PostgresConfig, admin: &Admin, options: &str) -> Result<(), ComponentError> {
    match admin::alone_with(config, &admin.session_database, Some(options)).await {
        Err(err) if chain(&err).contains("unsupported startup parameter") => Err(ComponentError::Unusable {
            what: format!(
                "{config} is a connection pooler (PgBouncer), which pg_restore cannot work through ({}): name the \
             PostgreSQL server itself in DATABASE_URL or POSTGRES_HOST and POSTGRES_PORT",
                chain(&err)
            ),
            source: None,
        }),
        begun => begun.map(drop),
    }
}

#[test]
fn whoever_takes_fewer_steps_than_a_restore_names_the_rest() {
    assert_eq!(STEPS.of(Restore).count(), STEPS.0.len());
    for mode in [Check, DryRun, Drill, Restore] {
        assert_eq!(STEPS.of(mode).count() + STEPS.skipped_steps(mode).len(), STEPS.0.len(), "{mode:?}");
    }
    let changes = [Step::Load, Step::Swap];
    assert!(STEPS.of(Check).chain(STEPS.of(DryRun)).all(|step| !changes.contains(&step)));
    assert!(!STEPS.of(Drill).any(|step| step == Step::Swap));
}
