//! The order in a task message: parsed once, and never looked at as text again.

mod arguments;

use crate::component::ComponentName;
use arguments::Arguments;
use serde_json::{Map, Value};

/// The app's names of the tasks; everything else about them follows in [`Command::parse`].
pub mod task {
    /// Every task of the app that begins so is ours to answer, if only by `NotRegistered`.
    pub const OUR_PREFIX: &str = "api.backup.";
    /// Backs up PostgreSQL.
    pub const BACKUP_POSTGRES: &str = "api.backup.tasks.backup_postgres_database";
    /// Backs up Weaviate.
    pub const BACKUP_WEAVIATE: &str = "api.backup.tasks.backup_weaviate_database";
    /// Backs up the media folder.
    pub const BACKUP_MEDIA: &str = "api.backup.tasks.backup_media_files";
    /// Dispatches the three.
    pub const FULL_BACKUP: &str = "api.backup.tasks.run_full_backup";
    /// Verifies backups.
    pub const VERIFY: &str = "api.backup.tasks.verify_backup";
    /// Runs retention.
    pub const CLEANUP: &str = "api.backup.tasks.cleanup_old_backups";
    /// Pins or unpins a backup: retention leaves a pinned one alone.
    pub const PIN: &str = "api.backup.tasks.pin_backup";
    /// Accepts a backup that is much smaller than the one before: its size is right.
    pub const ACCEPT: &str = "api.backup.tasks.accept_backup";
    /// Answers with the catalogue.
    pub const LIST: &str = "api.backup.tasks.list_backups";
    /// Celery's own task, for a sign of life.
    pub const PING: &str = "celery.ping";
    /// Restores PostgreSQL.
    pub const RESTORE_POSTGRES: &str = "api.backup.restore.restore_postgres_from_backup";
    /// Restores the media folder.
    pub const RESTORE_MEDIA: &str = "api.backup.restore.restore_media_files";
    /// Takes a restore back.
    pub const UNDO: &str = "api.backup.tasks.undo_restore";
    /// Restores Weaviate.
    pub const RESTORE_WEAVIATE: &str = "api.backup.restore.restore_weaviate_from_backup";
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Back up one component.
    Backup(Backup),
    /// Dispatch a backup of every configured component as one set.
    FullBackup {
        /// Free text for the backups of the set.
        label: Option<String>,
        /// True if retention must leave the backups of the set alone.
        pin: bool,
    },
    /// Delete backups that retention no longer keeps.
    CleanUp {
        /// The component, or all.
        component: Option<ComponentName>,
        /// The number of days, in the place of the setting.
        retention_days: Option<u32>,
        /// True if the report only tells which backups would be deleted.
        dry_run: bool,
    },
    /// Read the archives in the destinations again, and compare.
    Verify {
        /// The component, or all.
        component: Option<ComponentName>,
        /// The backups: whatever names one, `latest` or `all`.
        backup: String,
        /// True if the backup is also restored for real, compared, and thrown away.
        drill: bool,
    },
    /// Change the manifest of a backup: pin it, or accept its size.
    Amend {
        /// The backup, by whatever names one.
        backup: String,
        /// The change.
        amendment: Amendment,
    },
    /// Answer with the catalogue.
    List {
        /// The component, or all.
        component: Option<ComponentName>,
    },
    /// Restore a backup.
    Restore(Restore),
    /// Take the last restore back.
    Undo {
        /// The component.
        component: ComponentName,
    },
    /// Answer `pong`.
    Ping,
}

/// A change to the manifest of a backup that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amendment {
    /// Retention must leave the backup alone, or need not any more.
    Pin(bool),
    /// The backup is rightly much smaller than the one before.
    Accept,
}

/// An order to restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// The component.
    pub component: ComponentName,
    /// The backup: an id, a file name, `latest`, a path inside a destination.
    pub backup: String,
    /// Into a database of this name instead of the live one.
    pub database: Option<String>,
    /// Names of PostgreSQL objects that may be missing afterwards, if they cannot be made.
    pub without: Vec<String>,
    /// The Weaviate classes that are restored; `None`: all.
    pub classes: Option<Vec<String>>,
    /// True if Weaviate's users, roles and aliases are restored as well.
    pub with_access: bool,
    /// True if PostgreSQL may lose owners and privileges.
    pub without_rights: bool,
}

impl Restore {
    /// The order to restore all that is in the backup, in the place of the live data.
    pub const fn new(component: ComponentName, backup: String) -> Self {
        Self {
            component,
            backup,
            database: None,
            without: Vec::new(),
            without_rights: false,
            classes: None,
            with_access: false,
        }
    }
}

/// An order to back up one component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// The component.
    pub component: ComponentName,
    /// Free text, at most [`Backup::LABEL_CHARS`] characters.
    pub label: Option<String>,
    /// True if retention must leave the backup alone.
    pub pin: bool,
    /// The id of the full backup that this one belongs to.
    pub set_id: Option<String>,
}

impl Backup {
    /// The longest label.
    pub const LABEL_CHARS: usize = 64;

    /// The Celery task that orders the backup.
    pub const fn task(component: ComponentName) -> &'static str {
        match component {
            ComponentName::Postgres => task::BACKUP_POSTGRES,
            ComponentName::Weaviate => task::BACKUP_WEAVIATE,
            ComponentName::Media => task::BACKUP_MEDIA,
        }
    }
}

/// The reason that a task message is no command. No retry can help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCommand {
    /// The name is in our part of the app, but there is no such task.
    #[error("{0}")]
    NotRegistered(String),
    /// The arguments do not fit the signature: `TypeError` in Python's words.
    #[error("{0}")]
    Signature(String),
    /// An argument's value is not acceptable: `ValueError`.
    #[error("{0}")]
    Value(String),
}

impl Command {
    /// True if this program takes a task of this name from a queue.
    pub fn is_ours(task_name: &str) -> bool {
        task_name == task::PING || task_name.starts_with(task::OUR_PREFIX)
    }

    /// True if a task of this name is done in an instant, so that it needs no concurrency slot: a sign of life is
    /// given also while long tasks take up all slots.
    pub fn is_light(task_name: &str) -> bool {
        task_name == task::PING
    }

    /// True if the command must be signed where a key is set: it deletes or overwrites data, or says which backups
    /// retention may delete. A pin does so too: the pin of a backup that is much smaller than the one before accepts
    /// it.
    pub fn must_be_signed(&self) -> bool {
        match self {
            Self::CleanUp { dry_run, .. } => !dry_run,
            Self::Restore(_) | Self::Undo { .. } | Self::Amend { .. } => true,
            Self::Backup(_)
            | Self::FullBackup { .. }
            | Self::Verify { .. }
            | Self::List { .. }
            | Self::Ping => false,
        }
    }

    /// The component that the command works on, as far as the arguments tell.
    pub fn component(&self) -> Option<ComponentName> {
        match self {
            Self::Backup(order) => Some(order.component),
            Self::Restore(order) => Some(order.component),
            Self::Undo { component } | Self::Verify { component: Some(component), .. } => Some(*component),
            Self::Verify { component: None, backup, .. } | Self::Amend { backup, .. } => {
                let name = backup.rsplit('/').next().unwrap_or(backup);
                ComponentName::ALL.into_iter().find(|component| name.starts_with(component.file_prefix()))
            }
            Self::FullBackup { .. } | Self::CleanUp { .. } | Self::List { .. } | Self::Ping => None,
        }
    }

    /// The component that this task would occupy, by its name alone.
    pub fn occupies(task_name: &str) -> Option<ComponentName> {
        match task_name {
            task::RESTORE_POSTGRES => Some(ComponentName::Postgres),
            task::RESTORE_WEAVIATE => Some(ComponentName::Weaviate),
            task::RESTORE_MEDIA => Some(ComponentName::Media),
            name => Self::backs_up(name),
        }
    }

    fn backs_up(task_name: &str) -> Option<ComponentName> {
        ComponentName::ALL.into_iter().find(|component| Backup::task(*component) == task_name)
    }

    /// The names of all tasks that do something here, sorted.
    pub fn registered() -> Vec<&'static str> {
        use task::{
            ACCEPT, BACKUP_MEDIA, BACKUP_POSTGRES, BACKUP_WEAVIATE, CLEANUP, FULL_BACKUP, LIST, PIN, PING,
        };
        use task::{RESTORE_MEDIA, RESTORE_POSTGRES, RESTORE_WEAVIATE, UNDO, VERIFY};
        let backups = [BACKUP_MEDIA, BACKUP_POSTGRES, BACKUP_WEAVIATE, FULL_BACKUP, VERIFY];
        let restores = [RESTORE_MEDIA, RESTORE_POSTGRES, RESTORE_WEAVIATE, UNDO];
        let others = [ACCEPT, CLEANUP, LIST, PIN, PING];
        let mut names = [&backups[..], &restores, &others].concat();
        names.sort_unstable();
        names
    }

    /// Parses a call as Python would bind it: positional arguments first, then by name.
    ///
    /// # Errors
    ///
    /// [`InvalidCommand`], whose text is written for whoever sent the task.
    pub fn parse(name: &str, args: &[Value], kwargs: &Map<String, Value>) -> Result<Self, InvalidCommand> {
        let bind = |parameters: &[&str]| Arguments::bind(name, parameters, args, kwargs);
        if let Some(component) = Self::backs_up(name) {
            let mut given = bind(&["label", "pin", "set_id"])?;
            return Ok(Self::Backup(Backup {
                component,
                label: given.label()?,
                pin: given.flag("pin", false)?,
                set_id: given.text("set_id")?,
            }));
        }
        match name {
            task::FULL_BACKUP => {
                let mut given = bind(&["label", "pin"])?;
                Ok(Self::FullBackup { label: given.label()?, pin: given.flag("pin", false)? })
            }
            task::CLEANUP => {
                let mut given = bind(&["backup_type", "retention_days", "dry_run"])?;
                Ok(Self::CleanUp {
                    component: given.component("backup_type")?,
                    retention_days: given.days("retention_days")?,
                    dry_run: given.flag("dry_run", false)?,
                })
            }
            task::VERIFY => {
                let mut given = bind(&["component", "backup", "drill"])?;
                let component = given.component("component")?;
                let backup = given.text("backup")?.unwrap_or_else(|| "latest".to_owned());
                Ok(Self::Verify { component, backup, drill: given.flag("drill", false)? })
            }
            task::PIN => {
                let mut given = bind(&["backup", "pinned"])?;
                let (backup, pinned) = (given.required("backup")?, given.flag("pinned", true)?);
                Ok(Self::Amend { backup, amendment: Amendment::Pin(pinned) })
            }
            task::ACCEPT => {
                let backup = bind(&["backup"])?.required("backup")?;
                Ok(Self::Amend { backup, amendment: Amendment::Accept })
            }
            task::LIST => Ok(Self::List { component: bind(&["component"])?.component("component")? }),
            task::PING => bind(&[]).map(|_| Self::Ping),
            _ => Self::parse_restore(name, bind),
        }
    }

    /// Parses the tasks that overwrite live data.
    fn parse_restore(
        name: &str,
        bind: impl Fn(&[&str]) -> Result<Arguments, InvalidCommand>,
    ) -> Result<Self, InvalidCommand> {
        match name {
            task::RESTORE_POSTGRES => {
                let mut given = bind(&["backup_path", "database_name", "without", "without_rights"])?;
                let (backup, database) = (given.required("backup_path")?, given.text("database_name")?);
                let without = given.names("without")?.unwrap_or_default();
                let without_rights = given.flag("without_rights", false)?;
                let restore = Restore::new(ComponentName::Postgres, backup);
                Ok(Self::Restore(Restore { database, without, without_rights, ..restore }))
            }
            task::RESTORE_WEAVIATE => {
                let mut given = bind(&["backup_name", "backup_path", "include", "with_access"])?;
                let (named, path) = (given.required("backup_name")?, given.text("backup_path")?);
                let (classes, with_access) = (given.names("include")?, given.flag("with_access", false)?);
                if classes.is_some() && with_access {
                    let function = &given.function;
                    let why = format!("{function}() takes 'include' or 'with_access', not both");
                    return Err(InvalidCommand::Value(why));
                }
                let restore = Restore::new(ComponentName::Weaviate, path.unwrap_or(named));
                Ok(Self::Restore(Restore { classes, with_access, ..restore }))
            }
            task::RESTORE_MEDIA => {
                let backup = bind(&["backup_path"])?.required("backup_path")?;
                Ok(Self::Restore(Restore::new(ComponentName::Media, backup)))
            }
            task::UNDO => {
                let mut given = bind(&["component"])?;
                let named = given.required("component")?;
                let component = named.parse().map_err(|err| {
                    InvalidCommand::Value(format!("{}() argument 'component' {err}", given.function))
                })?;
                Ok(Self::Undo { component })
            }
            _ => Err(InvalidCommand::NotRegistered(name.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests;
