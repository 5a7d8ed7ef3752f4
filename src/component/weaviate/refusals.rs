//! The reasons for which a restore does not begin, each found while nothing has been touched, and what to do about it.

use crate::component::ComponentError;
use crate::component::weaviate::class::{self, Classes, Tenant};
use crate::component::weaviate::index::{BackupBackend, Index, corrupt};
use crate::component::weaviate::requirements::Requirements;
use crate::component::weaviate::server::Server;
use crate::component::weaviate::source::Bring;
use crate::component::weaviate::version::Version;
use std::collections::BTreeSet;

/// Makes sure that a server of this version can read the backup.
pub(super) fn of_version(server: &Server, requirements: &Requirements) -> Result<(), ComponentError> {
    requirements
        .made_by
        .map_or(Ok(()), |made_by| server.version.restores(made_by))
        .or_else(|why| unusable(&why))
}

/// Makes sure that the nodes of the server bear the names of those of the backup, or that the server can map them.
pub(super) async fn of_nodes(server: &Server, requirements: &Requirements) -> Result<(), ComponentError> {
    if requirements.backend.is_none_or(|backend| backend == BackupBackend::Export) {
        return Ok(());
    }
    let nodes = server.nodes().await.map_err(|fault| fault.of("ask for the names of the nodes"))?;
    let is_mapped = requirements.nodes.len() == 1 && nodes.len() == 1 && server.version.maps_nodes();
    let mut strange = requirements.nodes.iter().filter(|node| !nodes.contains(node) && !is_mapped);
    match strange.next() {
        Some(node) if !nodes.is_empty() => unusable(&format!(
            "the backup is of node {node}, and the server's is {}: set CLUSTER_HOSTNAME of Weaviate to {node}",
            nodes.join(", ")
        )),
        _ => Ok(()),
    }
}

/// Makes sure that the server has the modules that the classes need.
pub(super) fn of_modules(server: &Server, requirements: &Requirements) -> Result<(), ComponentError> {
    match requirements.modules.iter().find(|(module, _)| !server.modules.contains_key(*module)) {
        None => Ok(()),
        Some((module, of)) => {
            unusable(&format!("{of} needs the module {module}: add that to ENABLE_MODULES of Weaviate"))
        }
    }
}

/// Makes sure that a drill meets nothing on the second server.
pub(super) fn of_a_server_in_use(server: &Server, live: &Classes) -> Result<(), ComponentError> {
    let Some(name) = live.keys().next() else { return Ok(()) };
    let what = format!(
        "drill on {}: it has a class {name} already: BACKUP_WEAVIATE_DRILL_URL must be a server with nothing on it that \
         anybody needs",
        server.client.address()
    );
    Err(ComponentError::Unusable { what, source: None })
}

/// Makes sure that a backup of this backend and version holds users and roles, and that the server can restore them.
pub(super) fn of_access(server: &Server, requirements: &Requirements) -> Result<(), ComponentError> {
    let unusable = |why: &str| {
        let what = format!("restore users and roles of Weaviate: {why}: restore without --with-access");
        Err(ComponentError::Unusable { what, source: None })
    };
    if requirements.backend == Some(BackupBackend::Export) {
        return unusable("the backup is an export, which holds none");
    }
    let versions = requirements.made_by.into_iter().chain([server.version]);
    match versions.into_iter().find(|version| !version.restores_access()) {
        None => Ok(()),
        Some(version) => unusable(&format!(
            "backups of Weaviate {version} hold none (those of 1.30.9, 1.31.2, 1.32.0 and later do)"
        )),
    }
}

/// Makes sure that a restore is not called one that brings nothing.
pub(super) fn of_an_empty_backup(bring: &BTreeSet<String>) -> Result<(), ComponentError> {
    if !bring.is_empty() {
        return Ok(());
    }
    let what = "restore weaviate: the backup holds no classes, so nothing would come back: name another one, `rna-backup \
                list weaviate` shows them"
        .to_owned();
    Err(ComponentError::Unusable { what, source: None })
}

/// Makes sure that nothing is lost when these classes are replaced by a backup of this kind: some servers can copy
/// inactive tenants, in their own backups.
pub(super) fn of_what_cannot_be_kept(
    server: &Server,
    live: &Classes,
    backend: BackupBackend,
) -> Result<(), ComponentError> {
    let too_long = live.keys().find(|name| !server.version.replaces_name_of(name.len()));
    if let Some(name) = too_long.filter(|_| backend != BackupBackend::Export) {
        let what = format!(
            "replace class {name}: Weaviate {} cannot restore a class of so long a name where it has deleted one: back up \
             and restore by BACKUP_WEAVIATE_BACKEND=export",
            server.version
        );
        return Err(ComponentError::Unusable { what, source: None });
    }
    if backend != BackupBackend::Export && server.version.keeps_inactive_tenants() {
        return Ok(());
    }
    for (name, class) in live {
        let inactive: Vec<_> = class.inactive().collect();
        if !inactive.is_empty() {
            let what = format!(
                "replace class {name}: {} of its tenants are inactive, {} among them, so what they have could not \
                 be set aside and would be lost: activate them first",
                inactive.len(),
                inactive[0]
            );
            return Err(ComponentError::Unusable { what, source: None });
        }
    }
    Ok(())
}

/// Makes sure that the classes refer to classes that are there, or come too.
pub(super) async fn of_dangling_references(
    server: &Server,
    classes: &Classes,
    bring: &BTreeSet<String>,
) -> Result<(), ComponentError> {
    let mut brought = classes.clone();
    brought.retain(|name, _| bring.contains(name));
    let there = server.definitions().await.map_err(|fault| fault.of("read Weaviate's schema"))?;
    let Some(dangling) = class::dangling(&brought, &there.into_keys().collect()).into_iter().next() else {
        return Ok(());
    };
    let what = format!("restore weaviate: {dangling}: restore that class too, or make it");
    Err(ComponentError::Unusable { what, source: None })
}

/// Makes sure that a server would take the live classes back: none makes a class that refers to one that is not there.
pub(super) async fn can_be_put_back(
    server: &Server,
    live: &Classes,
    bring: &Bring<'_>,
) -> Result<(), ComponentError> {
    let definitions = server.definitions().await.map_err(|fault| fault.of("read Weaviate's schema"))?;
    let stays = |class: &String| bring.get(class).is_none_or(Option::is_some);
    let brought = bring.iter().filter(|(_, source)| source.is_some()).map(|(class, _)| class.clone());
    let there = definitions.into_keys().filter(stays).chain(brought).collect();
    let Some(dangling) = class::dangling(live, &there).into_iter().next() else { return Ok(()) };
    let what =
        format!("replace classes: {dangling}, so a copy of it could not be put back: make that class first");
    Err(ComponentError::Unusable { what, source: None })
}

/// Makes sure that no tenant loses what it has without a word: backups hold nothing of tenants that were inactive then, and
/// a restore makes those empty.
pub(super) async fn of_emptied_tenants(
    server: &Server,
    index: &Index,
    live: &Classes,
) -> Result<(), ComponentError> {
    let made_by: Version = index.server_version.parse().map_err(corrupt)?;
    if index.backend != BackupBackend::Export && made_by.keeps_inactive_tenants() {
        return Ok(());
    }
    for (name, class) in live {
        let inactive: BTreeSet<_> = index.classes[name].inactive().collect();
        let has_data = |tenant: &&Tenant| tenant.is_active() && inactive.contains(tenant.name.as_str());
        for tenant in class.tenants.iter().filter(has_data) {
            let only = class::Class { tenants: vec![tenant.clone()], ..class.clone() };
            let what = || format!("count the objects of tenant {} of class {name}", tenant.name);
            let count = server.count_exactly(name, &only).await.map_err(|fault| fault.of(what()))?;
            if count > 0 {
                let what = format!(
                    "restore class {name}: its tenant {0} was inactive when the backup was made, so the backup holds \
                     nothing of {0}, which has {count} objects now: they would be lost; delete that tenant first if \
                     that is meant, or restore other classes by --include",
                    tenant.name
                );
                return Err(ComponentError::Unusable { what, source: None });
            }
        }
    }
    Ok(())
}

fn unusable(why: &str) -> Result<(), ComponentError> {
    Err(ComponentError::Unusable { what: format!("restore weaviate: {why}"), source: None })
}
