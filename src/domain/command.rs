//! What a task message asks for: parsed once, and never looked at as text again.

use crate::domain::component::ComponentName;
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
    /// Runs retention.
    pub const CLEANUP: &str = "api.backup.tasks.cleanup_old_backups";
    /// Answers with the catalogue.
    pub const LIST: &str = "api.backup.tasks.list_backups";
    /// Celery's own.
    pub const PING: &str = "celery.ping";
    /// Promised names whose work this version does not do yet: they fail with a clear word.
    pub const NOT_YET: [&str; 5] = [
        "api.backup.restore.restore_postgres_from_backup",
        "api.backup.restore.restore_weaviate_from_backup",
        "api.backup.restore.restore_media_files",
        "api.backup.tasks.undo_restore",
        "api.backup.tasks.verify_backup",
    ];
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
        /// Whether retention must leave them alone.
        pin: bool,
    },
    /// Delete what retention no longer keeps.
    CleanUp {
        /// Of one component, or of all.
        component: Option<ComponentName>,
        /// Instead of the setting.
        retention_days: Option<u32>,
        /// Only say what would be deleted.
        dry_run: bool,
    },
    /// Answer with the catalogue.
    List {
        /// Of one component, or of all.
        component: Option<ComponentName>,
    },
    /// Answer `pong`.
    Ping,
}

/// An order to back up one component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Which.
    pub component: ComponentName,
    /// Free text, at most [`Backup::LABEL_CHARS`] characters.
    pub label: Option<String>,
    /// Whether retention must leave it alone.
    pub pin: bool,
    /// The full backup that it belongs to.
    pub set_id: Option<String>,
}

impl Backup {
    /// The longest label.
    pub const LABEL_CHARS: usize = 64;

    /// The Celery task that orders it.
    pub const fn task(component: ComponentName) -> &'static str {
        match component {
            ComponentName::Postgres => task::BACKUP_POSTGRES,
            ComponentName::Weaviate => task::BACKUP_WEAVIATE,
            ComponentName::Media => task::BACKUP_MEDIA,
        }
    }
}

/// Why a task message is no command. No retry can help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCommand {
    /// The name is in our part of the app, but there is no such task.
    #[error("{0}")]
    NotRegistered(String),
    /// The task is promised, but not by this version.
    #[error("{0} is not in this version of rna-backup yet; nothing was touched")]
    NotYet(String),
    /// The arguments do not fit the signature: `TypeError` in Python's words.
    #[error("{0}")]
    Signature(String),
    /// An argument's value is not acceptable: `ValueError`.
    #[error("{0}")]
    Value(String),
}

impl Command {
    /// Whether a task of this name is ours to take from a queue.
    pub fn is_ours(task_name: &str) -> bool {
        task_name == task::PING || task_name.starts_with(task::OUR_PREFIX)
    }

    /// Whether a task of this name is done in an instant, so that it needs no place: a sign of life is
    /// given also while long tasks take up all places.
    pub fn is_light(task_name: &str) -> bool {
        task_name == task::PING
    }

    /// Whether it deletes or overwrites data, so that it must be signed where a key is set.
    pub fn is_destructive(&self) -> bool {
        matches!(self, Self::CleanUp { dry_run: false, .. })
    }

    /// The component that this task would occupy, by its name alone.
    pub fn occupies(task_name: &str) -> Option<ComponentName> {
        ComponentName::ALL.into_iter().find(|component| Backup::task(*component) == task_name)
    }

    /// The names of all tasks that do something here, sorted.
    pub fn registered() -> Vec<&'static str> {
        use task::{BACKUP_MEDIA, BACKUP_POSTGRES, BACKUP_WEAVIATE, CLEANUP, FULL_BACKUP, LIST, PING};
        let mut names =
            vec![BACKUP_MEDIA, BACKUP_POSTGRES, BACKUP_WEAVIATE, CLEANUP, FULL_BACKUP, LIST, PING];
        names.sort_unstable();
        names
    }

    /// Parses a call as Python would bind it: positional arguments first, then by name.
    ///
    /// # Errors
    ///
    /// [`InvalidCommand`], whose text is written for whoever sent the task.
    pub fn parse(name: &str, args: &[Value], kwargs: &Map<String, Value>) -> Result<Self, InvalidCommand> {
        if task::NOT_YET.contains(&name) {
            return Err(InvalidCommand::NotYet(name.to_owned()));
        }
        let bind = |parameters| Arguments::bind(name, parameters, args, kwargs);
        if let Some(component) = Self::occupies(name) {
            let mut given = bind(&["label", "pin", "set_id"])?;
            return Ok(Self::Backup(Backup {
                component,
                label: given.label()?,
                pin: given.flag("pin")?,
                set_id: given.text("set_id")?,
            }));
        }
        match name {
            task::FULL_BACKUP => {
                let mut given = bind(&["label", "pin"])?;
                Ok(Self::FullBackup { label: given.label()?, pin: given.flag("pin")? })
            }
            task::CLEANUP => {
                let mut given = bind(&["backup_type", "retention_days", "dry_run"])?;
                Ok(Self::CleanUp {
                    component: given.component("backup_type")?,
                    retention_days: given.days("retention_days")?,
                    dry_run: given.flag("dry_run")?,
                })
            }
            task::LIST => Ok(Self::List { component: bind(&["component"])?.component("component")? }),
            task::PING => bind(&[]).map(|_| Self::Ping),
            _ => Err(InvalidCommand::NotRegistered(name.to_owned())),
        }
    }
}

/// The values of one call by parameter name; nulls are as good as absent, as the defaults are None.
struct Arguments {
    function: String,
    values: Map<String, Value>,
}

impl Arguments {
    fn bind(
        task_name: &str,
        parameters: &[&str],
        args: &[Value],
        kwargs: &Map<String, Value>,
    ) -> Result<Self, InvalidCommand> {
        let function = task_name.rsplit('.').next().unwrap_or(task_name).to_owned();
        let wrong = |why: String| Err(InvalidCommand::Signature(format!("{function}() {why}")));
        if args.len() > parameters.len() {
            let (most, given) = (parameters.len(), args.len());
            return wrong(format!("takes at most {most} positional arguments but {given} were given"));
        }
        let mut values: Map<String, Value> =
            parameters.iter().zip(args).map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        for (name, value) in kwargs {
            // The name is the sender's text: short enough for an error, whatever was sent.
            let shown: String = name.chars().take(40).collect();
            if !parameters.contains(&name.as_str()) {
                return wrong(format!("got an unexpected keyword argument '{shown}'"));
            }
            if values.insert(name.clone(), value.clone()).is_some() {
                return wrong(format!("got multiple values for argument '{shown}'"));
            }
        }
        values.retain(|_, value| !value.is_null());
        Ok(Self { function, values })
    }

    fn mistyped(&self, name: &str, wanted: &str) -> InvalidCommand {
        InvalidCommand::Signature(format!("{}() argument '{name}' must be {wanted}", self.function))
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, InvalidCommand> {
        match self.values.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.mistyped(name, "a string or None")),
        }
    }

    fn label(&mut self) -> Result<Option<String>, InvalidCommand> {
        let label = self.text("label")?;
        match &label {
            Some(text) if text.chars().count() > Backup::LABEL_CHARS => {
                Err(InvalidCommand::Value(format!("label is longer than {} characters", Backup::LABEL_CHARS)))
            }
            Some(text) if text.chars().any(char::is_control) => {
                Err(InvalidCommand::Value("label holds control characters".to_owned()))
            }
            _ => Ok(label),
        }
    }

    fn flag(&mut self, name: &str) -> Result<bool, InvalidCommand> {
        match self.values.remove(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(self.mistyped(name, "True or False")),
        }
    }

    fn days(&mut self, name: &str) -> Result<Option<u32>, InvalidCommand> {
        let Some(value) = self.values.remove(name) else { return Ok(None) };
        let days = value.as_u64().and_then(|days| u32::try_from(days).ok());
        days.map(Some).ok_or_else(|| self.mistyped(name, "a whole number of days, 0 or more"))
    }

    fn component(&mut self, name: &str) -> Result<Option<ComponentName>, InvalidCommand> {
        match self.text(name)?.as_deref() {
            None | Some("all") => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|err| InvalidCommand::Value(format!("{}() argument '{name}' {err}", self.function))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(name: &str, args: &Value, kwargs: &Value) -> Result<Command, InvalidCommand> {
        Command::parse(name, args.as_array().unwrap(), kwargs.as_object().unwrap())
    }

    #[test]
    fn arguments_bind_by_place_and_by_name() {
        let wanted = Command::Backup(Backup {
            component: ComponentName::Media,
            label: Some("before upgrade".into()),
            pin: true,
            set_id: None,
        });
        for (args, kwargs) in [
            (json!(["before upgrade", true]), json!({})),
            (json!(["before upgrade"]), json!({"pin": true, "set_id": null})),
            (json!([]), json!({"pin": true, "label": "before upgrade"})),
        ] {
            assert_eq!(parse(task::BACKUP_MEDIA, &args, &kwargs), Ok(wanted.clone()));
        }
    }

    #[test]
    fn a_call_that_does_not_fit_fails_in_pythons_words() {
        let cases = [
            (
                json!([1, 2, 3, 4]),
                json!({}),
                "backup_media_files() takes at most 3 positional arguments but 4 were given",
            ),
            (
                json!([]),
                json!({"compress": 1}),
                "backup_media_files() got an unexpected keyword argument 'compress'",
            ),
            (
                json!(["a"]),
                json!({"label": "b"}),
                "backup_media_files() got multiple values for argument 'label'",
            ),
            (json!([7]), json!({}), "backup_media_files() argument 'label' must be a string or None"),
            (json!([]), json!({"pin": "yes"}), "backup_media_files() argument 'pin' must be True or False"),
        ];
        for (args, kwargs, words) in cases {
            assert_eq!(
                parse(task::BACKUP_MEDIA, &args, &kwargs),
                Err(InvalidCommand::Signature(words.to_owned()))
            );
        }
        let long = parse(task::FULL_BACKUP, &json!(["x".repeat(65)]), &json!({}));
        assert_eq!(long, Err(InvalidCommand::Value("label is longer than 64 characters".into())));
    }

    #[test]
    fn every_promised_task_is_known_and_others_of_our_part_are_not_registered() {
        for name in Command::registered() {
            assert!(parse(name, &json!([]), &json!({})).is_ok(), "{name}");
            assert!(Command::is_ours(name), "{name}");
        }
        for name in task::NOT_YET {
            assert!(matches!(parse(name, &json!([]), &json!({})), Err(InvalidCommand::NotYet(_))), "{name}");
        }
        let unknown = parse("api.backup.tasks.backup_redis", &json!([]), &json!({}));
        assert_eq!(unknown, Err(InvalidCommand::NotRegistered("api.backup.tasks.backup_redis".into())));
        assert!(!Command::is_ours("api.search.tasks.reindex"));
    }

    #[test]
    fn cleanup_takes_a_component_a_number_of_days_and_a_dry_run() {
        assert_eq!(
            parse(task::CLEANUP, &json!(["postgres", 0]), &json!({"dry_run": true})),
            Ok(Command::CleanUp {
                component: Some(ComponentName::Postgres),
                retention_days: Some(0),
                dry_run: true
            })
        );
        assert!(matches!(parse(task::CLEANUP, &json!(["redis"]), &json!({})), Err(InvalidCommand::Value(_))));
        assert!(matches!(
            parse(task::CLEANUP, &json!([null, -1]), &json!({})),
            Err(InvalidCommand::Signature(_))
        ));
    }
}
