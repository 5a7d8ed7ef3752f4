//! The order in a task message: parsed once, and never looked at as text again.

mod arguments;

use crate::component::ComponentName;
use crate::component::kinds::RestoreParameter;
use arguments::Arguments;
use serde_json::{Map, Value};
use std::ffi::OsString;

/// The app's names of the tasks; everything else about them follows in [`Command::parse`].
pub mod task {
    use crate::component::kinds;

    /// Every task of the app that begins so is ours to answer, if only by `NotRegistered`.
    pub const OUR_PREFIX: &str = "api.backup.";
    /// Backs up PostgreSQL.
    pub const BACKUP_POSTGRES: &str = kinds::POSTGRES.backup_task;
    /// Backs up Weaviate.
    pub const BACKUP_WEAVIATE: &str = kinds::WEAVIATE.backup_task;
    /// Backs up the media folder.
    pub const BACKUP_MEDIA: &str = kinds::MEDIA.backup_task;
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
    pub const RESTORE_POSTGRES: &str = kinds::POSTGRES.restore_task;
    /// Restores the media folder.
    pub const RESTORE_MEDIA: &str = kinds::MEDIA.restore_task;
    /// Takes a restore back.
    pub const UNDO: &str = "api.backup.tasks.undo_restore";
    /// Restores Weaviate.
    pub const RESTORE_WEAVIATE: &str = kinds::WEAVIATE.restore_task;
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
    /// The option that names another target than all of the live data.
    pub option: Option<TargetOption>,
    /// Names of objects that may be missing afterwards, if they cannot be made.
    pub without: Vec<String>,
    /// True if owners and privileges may be lost.
    pub without_rights: bool,
}

impl Restore {
    /// The order to restore all that is in the backup, in the place of the live data.
    pub const fn new(component: ComponentName, backup: String) -> Self {
        Self { component, backup, option: None, without: Vec::new(), without_rights: false }
    }
}

/// An option of a restore that its component alone understands, such as one that names another database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetOption {
    /// The name, as on the command line.
    pub name: &'static str,
    /// The values; none where the option has none.
    pub values: Vec<OsString>,
}

impl TargetOption {
    /// The option of this name.
    pub fn new(name: &'static str, values: impl IntoIterator<Item: Into<OsString>>) -> Self {
        Self { name, values: values.into_iter().map(Into::into).collect() }
    }

    /// The values as texts.
    pub fn texts(&self) -> impl Iterator<Item = String> {
        self.values.iter().map(|value| value.to_string_lossy().into_owned())
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
    pub fn task(component: ComponentName) -> &'static str {
        component.kind().backup_task
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
                ComponentName::all().find(|component| name.starts_with(component.kind().file_prefix))
            }
            Self::FullBackup { .. } | Self::CleanUp { .. } | Self::List { .. } | Self::Ping => None,
        }
    }

    /// The component that this task would occupy, by its name alone.
    pub fn occupies(task_name: &str) -> Option<ComponentName> {
        Self::backs_up(task_name).or_else(|| Self::restores(task_name))
    }

    fn backs_up(task_name: &str) -> Option<ComponentName> {
        ComponentName::all().find(|component| component.kind().backup_task == task_name)
    }

    fn restores(task_name: &str) -> Option<ComponentName> {
        ComponentName::all().find(|component| component.kind().restore_task == task_name)
    }

    /// The names of all tasks that do something here, sorted.
    pub fn registered() -> Vec<&'static str> {
        use task::{ACCEPT, CLEANUP, FULL_BACKUP, LIST, PIN, PING, UNDO, VERIFY};
        let of_one = ComponentName::all().map(ComponentName::kind);
        let of_one = of_one.flat_map(|kind| [kind.backup_task, kind.restore_task]);
        let mut names: Vec<_> =
            of_one.chain([FULL_BACKUP, VERIFY, UNDO, ACCEPT, CLEANUP, LIST, PIN, PING]).collect();
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
        if let Some(component) = Self::restores(name) {
            return Self::parse_restore(component, bind);
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

    /// Parses a task that overwrites live data.
    fn parse_restore(
        component: ComponentName,
        bind: impl Fn(&[&str]) -> Result<Arguments, InvalidCommand>,
    ) -> Result<Self, InvalidCommand> {
        let parameters = component.kind().restore_parameters;
        let names: Vec<_> = parameters.iter().map(|(name, _)| *name).collect();
        let mut given = bind(&names)?;
        let (mut order, mut options) = (Restore::new(component, String::new()), Vec::new());
        for (name, parameter) in parameters {
            let option = match parameter {
                RestoreParameter::Backup => {
                    order.backup = given.required(name)?;
                    None
                }
                RestoreParameter::BackupPath => {
                    order.backup = given.text(name)?.unwrap_or(order.backup);
                    None
                }
                RestoreParameter::Without => {
                    order.without = given.names(name)?.unwrap_or_default();
                    None
                }
                RestoreParameter::WithoutRights => {
                    order.without_rights = given.flag(name, false)?;
                    None
                }
                RestoreParameter::Text(option) => {
                    given.text(name)?.map(|text| TargetOption::new(option, [text]))
                }
                RestoreParameter::Names(option) => {
                    given.names(name)?.map(|names| TargetOption::new(option, names))
                }
                RestoreParameter::Flag(option) => {
                    given.flag(name, false)?.then(|| TargetOption::new(option, [""; 0]))
                }
            };
            options.extend(option.map(|option| (name, option)));
        }
        if let [(one, _), (other, _), ..] = &*options {
            let why = format!("{}() takes '{one}' or '{other}', not both", given.function);
            return Err(InvalidCommand::Value(why));
        }
        Ok(Self::Restore(Restore { option: options.pop().map(|(_, option)| option), ..order }))
    }
}

#[cfg(test)]
mod tests;
