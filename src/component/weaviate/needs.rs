//! The needs of a backup: version, nodes, modules and rights that a server must have to restore it. Dry run, restore and
//! drill ask for the same, before anything is touched.

use crate::component::ComponentError;
use crate::component::stage::Target;
use crate::component::weaviate::Weaviate;
use crate::component::weaviate::class;
use crate::component::weaviate::files::Files;
use crate::component::weaviate::index::{Index, Made, corrupt};
use crate::component::weaviate::server::Server;
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
    nodes: BTreeSet<String>,
    /// Modules, each with what needs it.
    modules: BTreeMap<String, String>,
    /// True if users and roles are wanted.
    access: bool,
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
            access: *target == Target::LiveWithAccess,
        })
    }

    /// The needs of the classes that `target` names.
    pub(super) fn of_archive(index: &Index, target: &Target) -> Result<Self, ComponentError> {
        let is_meant = |name: &String| match target {
            Target::Classes(wanted) => wanted.contains(name),
            _ => true,
        };
        let meant = index.classes.iter().filter(|(name, _)| is_meant(name));
        let modules = meant.flat_map(|(name, class)| {
            class::modules(&class.definition).into_iter().map(move |module| (module, format!("class {name}")))
        });
        Ok(Self {
            way: Some(index.way),
            made_by: Some(index.server_version.parse().map_err(corrupt)?),
            nodes: index.nodes.clone(),
            modules: modules.collect(),
            access: *target == Target::LiveWithAccess,
        })
    }
}

/// Returns whether a module of Weaviate makes backups. Such a module is no need of a class.
pub(super) fn is_for_backups(module: &str) -> bool {
    module.starts_with("backup-")
}

impl Weaviate {
    /// Makes sure that a server is and has what a backup needs to bring these classes.
    ///
    /// # Errors
    ///
    /// The first thing that is missing, and what to do about it.
    pub(super) async fn meets(
        &self,
        server: &Server,
        needs: &Needs,
        bring: &BTreeSet<String>,
    ) -> Result<(), ComponentError> {
        let unusable = |why: String| {
            Err(ComponentError::Unusable { what: format!("restore weaviate: {why}"), source: None })
        };
        if let Some(made_by) = needs.made_by
            && let Err(why) = server.version.restores(made_by)
        {
            return unusable(why);
        }
        if needs.access {
            holds_access(server, needs)?;
        }
        if let Some(way) = needs.way.filter(|way| *way != Made::Export) {
            if let Files::Folder(folder) = self.files(server, way)? {
                folder.probe().await?;
            }
            let nodes = server.nodes().await.map_err(|fault| fault.of("ask for the names of the nodes"))?;
            let is_mapped = needs.nodes.len() == 1 && nodes.len() == 1 && server.version.maps_nodes();
            let mut strange = needs.nodes.iter().filter(|node| !nodes.contains(node) && !is_mapped);
            if let (Some(node), false) = (strange.next(), nodes.is_empty()) {
                return unusable(format!(
                    "the backup is of node {node}, and the server's is {}: set CLUSTER_HOSTNAME of Weaviate to {node}",
                    nodes.join(", ")
                ));
            }
        }
        server.no_alias_bears(bring.iter()).await?;
        match needs.modules.iter().find(|(module, _)| !server.modules.contains_key(*module)) {
            None => Ok(()),
            Some((module, of)) => {
                unusable(format!("{of} needs the module {module}: add that to ENABLE_MODULES of Weaviate"))
            }
        }
    }
}

/// Makes sure that a backup of this way and version holds users and roles, and that the server can restore them.
fn holds_access(server: &Server, needs: &Needs) -> Result<(), ComponentError> {
    let unusable = |why: String| {
        let what = format!("restore users and roles of Weaviate: {why}: restore without --with-access");
        Err(ComponentError::Unusable { what, source: None })
    };
    if needs.way == Some(Made::Export) {
        return unusable("the backup is an export, which holds none".to_owned());
    }
    let versions = needs.made_by.into_iter().chain([server.version]);
    match versions.into_iter().find(|version| !version.restores_access()) {
        None => Ok(()),
        Some(version) => unusable(format!(
            "backups of Weaviate {version} hold none (those of 1.30.9, 1.31.2, 1.32.0 and later do)"
        )),
    }
}
