//! The needs of a backup: version, nodes and modules that a server must have to restore it.

use crate::component::ComponentError;
use crate::component::stage::Target;
use crate::component::weaviate::class::{self, Class, Classes};
use crate::component::weaviate::index::{Index, Made, corrupt};
use crate::component::weaviate::version::Version;
use crate::domain::facts::Facts;
use std::collections::{BTreeMap, BTreeSet};

/// The name in manifests of the nodes that a backup by the server is of.
pub(super) const NODES: &str = "weaviate nodes";
/// The begin of the names in manifests of the modules that matter.
pub(super) const MODULE: &str = "weaviate module ";

/// Everything that a server must be or have.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// The way of the backup; `None` where nobody has noted it.
    pub(super) way: Option<Made>,
    /// The version that made the backup; `None` where nobody has noted it.
    pub(super) made_by: Option<Version>,
    /// The nodes that the backup is of.
    pub(super) nodes: BTreeSet<String>,
    /// Modules, each with what needs it.
    pub(super) modules: BTreeMap<String, String>,
}

impl Needs {
    /// The needs as far as a manifest tells them. It names the modules of all classes together, so those alone are
    /// needs of a restore of them all.
    pub(super) fn of_manifest(facts: &Facts, target: &Target) -> Result<Self, ComponentError> {
        let way = [Made::Filesystem, Made::S3, Made::Export];
        let of_classes = facts
            .versions
            .keys()
            .filter_map(|name| name.strip_prefix(MODULE))
            .filter(|name| !is_for_backups(name));
        let modules = match target {
            Target::Classes(_) => BTreeMap::new(),
            _ => of_classes.map(|name| (name.to_owned(), "one of the classes".to_owned())).collect(),
        };
        Ok(Self {
            way: way.into_iter().find(|way| facts.backend.as_deref() == Some(way.as_str())),
            made_by: facts.versions.get("weaviate").map(|text| text.parse()).transpose().map_err(corrupt)?,
            nodes: facts
                .versions
                .get(NODES)
                .map(|nodes| nodes.split(", ").map(str::to_owned).collect())
                .unwrap_or_default(),
            modules,
        })
    }

    /// The needs of the classes that `target` names.
    pub(super) fn of_archive(index: &Index, target: &Target) -> Result<Self, ComponentError> {
        let is_meant = |name: &String| match target {
            Target::Classes(wanted) => wanted.contains(name),
            _ => true,
        };
        Ok(Self {
            way: Some(index.way),
            made_by: Some(index.server_version.parse().map_err(corrupt)?),
            nodes: index.nodes.clone(),
            modules: modules_of(index.classes.iter().filter(|(name, _)| is_meant(name))),
        })
    }

    /// The needs of a backup that the server itself would make of its classes now, or that is made of it.
    pub(super) fn of_live(way: Made, live: &Classes) -> Self {
        Self { way: Some(way), modules: modules_of(live.iter()), ..Self::default() }
    }
}

/// The modules that classes cannot be made without, each with a class that needs it.
fn modules_of<'a>(classes: impl Iterator<Item = (&'a String, &'a Class)>) -> BTreeMap<String, String> {
    let modules = classes.flat_map(|(name, class)| {
        class::modules(&class.definition).into_iter().map(move |module| (module, format!("class {name}")))
    });
    modules.collect()
}

/// Returns whether a module of Weaviate makes backups. Such a module is no need of a class.
pub(super) fn is_for_backups(module: &str) -> bool {
    module.starts_with("backup-")
}
