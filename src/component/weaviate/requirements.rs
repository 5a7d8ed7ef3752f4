//! The requirements of a backup: version, nodes and modules that a server must have to restore it.

use crate::component::ComponentError;
use crate::component::weaviate::class::{self, Class, Classes};
use crate::component::weaviate::index::{BackupBackend, Index, corrupt};
use crate::component::weaviate::target::ClassTarget;
use crate::component::weaviate::version::Version;
use crate::domain::facts::Facts;
use std::collections::{BTreeMap, BTreeSet};

/// The name in manifests of the nodes that a backup by the server is of.
pub(super) const NODES: &str = "weaviate nodes";
/// The begin of the names in manifests of the modules that matter.
pub(super) const MODULE: &str = "weaviate module ";

/// The properties that a server must have.
#[derive(Debug, Default)]
pub(super) struct Requirements {
    /// The backend of the backup; `None` where the manifest does not tell.
    pub(super) backend: Option<BackupBackend>,
    /// The version that made the backup; `None` where the manifest does not tell.
    pub(super) made_by: Option<Version>,
    /// The nodes that the backup is of.
    pub(super) nodes: BTreeSet<String>,
    /// Modules, each with what needs it.
    pub(super) modules: BTreeMap<String, String>,
}

impl Requirements {
    /// The requirements as far as a manifest tells them. A manifest names the modules of all classes together, so only a
    /// restore of all classes requires them.
    pub(super) fn of_manifest(facts: &Facts, target: &ClassTarget) -> Result<Self, ComponentError> {
        let backend = [BackupBackend::Filesystem, BackupBackend::S3, BackupBackend::Export];
        let of_classes = facts
            .versions
            .keys()
            .filter_map(|name| name.strip_prefix(MODULE))
            .filter(|name| !is_for_backups(name));
        let modules = match target {
            ClassTarget::Classes(_) => BTreeMap::new(),
            _ => of_classes.map(|name| (name.to_owned(), "one of the classes".to_owned())).collect(),
        };
        Ok(Self {
            backend: backend.into_iter().find(|backend| facts.backend.as_deref() == Some(backend.as_str())),
            made_by: facts.versions.get("weaviate").map(|text| text.parse()).transpose().map_err(corrupt)?,
            nodes: facts
                .versions
                .get(NODES)
                .map(|nodes| nodes.split(", ").map(str::to_owned).collect())
                .unwrap_or_default(),
            modules,
        })
    }

    /// The requirements of the classes that `target` names.
    pub(super) fn of_archive(index: &Index, target: &ClassTarget) -> Result<Self, ComponentError> {
        let is_meant = |name: &String| match target {
            ClassTarget::Classes(wanted) => wanted.contains(name),
            _ => true,
        };
        Ok(Self {
            backend: Some(index.backend),
            made_by: Some(index.server_version.parse().map_err(corrupt)?),
            nodes: index.nodes.clone(),
            modules: modules_of(index.classes.iter().filter(|(name, _)| is_meant(name))),
        })
    }

    /// The requirements of a backup that is made of the server's classes now.
    pub(super) fn of_live(backend: BackupBackend, live: &Classes) -> Self {
        Self { backend: Some(backend), modules: modules_of(live.iter()), ..Self::default() }
    }
}

/// The modules that classes cannot be made without, each with a class that needs it.
fn modules_of<'a>(classes: impl Iterator<Item = (&'a String, &'a Class)>) -> BTreeMap<String, String> {
    let modules = classes.flat_map(|(name, class)| {
        class::modules(&class.definition).into_iter().map(move |module| (module, format!("class {name}")))
    });
    modules.collect()
}

/// Returns whether a module of Weaviate makes backups. No class requires such a module.
pub(super) fn is_for_backups(module: &str) -> bool {
    module.starts_with("backup-")
}
