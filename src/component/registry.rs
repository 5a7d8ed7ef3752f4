//! The registration of a component: what can be done with it by its name and its settings alone.

use crate::base::env::Env;
use crate::component::{BucketFolder, Component, REGISTRY, postgres::Excluded};
use crate::domain::{component::ComponentName, facts::Facts};
use std::{
    any::Any,
    fmt,
    path::Path,
    sync::{Arc, OnceLock},
};

/// The functions of a component whose source need not be there.
#[derive(Debug)]
pub struct Registration {
    /// The component.
    pub name: ComponentName,
    /// Reads the component's settings; `None`: it is not configured, or wrong, which is noted.
    pub read: fn(&mut Env, &SettingsContext<'_>) -> Option<Arc<dyn Settings>>,
    /// The shell commands that open and restore an archive with plain tools, from the pipeline that writes its content
    /// to standard output; `None`: those that unpack a tar archive.
    pub by_hand: fn(read: &str, facts: Option<&Facts>) -> Option<Vec<String>>,
    /// The environment variables that these commands need, in a sentence.
    pub variables: fn(facts: Option<&Facts>) -> Option<String>,
}

/// The component that another program has added.
static ADDED: OnceLock<Registration> = OnceLock::new();

impl Registration {
    /// The registration of every component.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        REGISTRY.iter().chain(ADDED.get())
    }

    /// The registration of a component.
    pub fn of(name: ComponentName) -> &'static Self {
        Self::all().find(|registration| registration.name == name).expect("every component is registered")
    }

    /// Adds a component that another program brings, after its [kind](crate::domain::component::kinds::add).
    pub fn add(self) {
        assert!(ADDED.set(self).is_ok(), "a program brings one component");
    }
}

/// The settings of a configured component.
pub trait Settings: Any + Send + Sync + fmt::Debug {
    /// The component's name.
    fn name(&self) -> ComponentName;

    /// Makes the component. Nothing is asked of its source yet.
    fn build(&self, parts: &Parts) -> Component;
}

/// The settings of the program that those of a component depend on.
#[derive(Debug)]
pub struct SettingsContext<'a> {
    /// `BACKUP_ROOT`, absolute.
    pub root: &'a Path,
    /// True if `BACKUP_COMPONENTS` names the component.
    pub named: bool,
}

impl SettingsContext<'_> {
    /// Notes that the setting of a component that `BACKUP_COMPONENTS` names is not set.
    pub fn require(&self, env: &mut Env, name: ComponentName) {
        let setting = name.kind().setting;
        if self.named && !env.is_set(setting) {
            env.note(setting, format_args!("is required, because BACKUP_COMPONENTS names {name}"));
        }
    }
}

/// The parts of the program that components work with.
#[derive(Debug, Default)]
pub struct Parts {
    /// The folder in the bucket that a component's server may write to by itself.
    pub bucket_folder: Option<Arc<dyn BucketFolder>>,
    /// The tables whose rows come from the catalogue and not from backups.
    pub catalog_tables: Vec<Excluded>,
}
