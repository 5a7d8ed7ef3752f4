//! Classes, copied whole: by the server itself or object by object, for a backup as for safety.

use crate::component::ComponentError;
use crate::component::weaviate::Weaviate;
use crate::component::weaviate::class::Classes;
use crate::component::weaviate::export::export;
use crate::component::weaviate::files::Files;
use crate::component::weaviate::index::{Index, Made, corrupt};
use crate::component::weaviate::job::Job;
use crate::component::weaviate::journal::{Journal, Loose};
use crate::component::weaviate::server::Server;
use crate::component::weaviate::tree::{Described, Tree};
use crate::domain::{facts::Facts, progress::Meter};
use crate::stream::Output;
use std::collections::{BTreeMap, BTreeSet};

impl Weaviate {
    /// Has the server back up `classes`, as they were counted before, and looks that it is whole. The backup
    /// stands in the journal as nobody's until somebody makes it his.
    ///
    /// # Errors
    ///
    /// When it failed, or is not whole. What is left of it is removed by the next [recovery](crate::component::Component::recover).
    pub(super) async fn native(
        &self,
        server: &Server,
        made: Made,
        mut classes: Classes,
        journal: &mut Journal,
        meter: &Meter,
    ) -> Result<(Index, Tree), ComponentError> {
        let files = self.files(server, made)?;
        meter.begin("backup by Weaviate", 0);
        let names = classes.keys().collect();
        let job = Job { server, backend: made.as_str(), classes: names, timeout: self.config.timeout };
        let begun = |id: &str| journal.note(|notes| notes.loose.push(Loose { made, id: id.to_owned() }));
        let id = job.back_up(begun).await?;
        let (tree, described) = whole(server, &files, &id).await?;
        let wanted: BTreeSet<_> = classes.keys().cloned().collect();
        if described.classes != wanted {
            return Err(corrupt(format!("Weaviate's backup holds {:?}, not {wanted:?}", described.classes)));
        }
        meter.begin("read back", 0);
        let in_bucket = match &files {
            Files::Folder(_) => Vec::new(),
            Files::Bucket(_) => files.prove(&id, &tree, &described).await?,
        };
        count_again(server, &mut classes).await?;
        let index = Index {
            format: Index::FORMAT,
            way: made,
            id,
            server_version: server.version.to_string(),
            nodes: described.nodes,
            classes,
            files: in_bucket,
        };
        Ok((index, tree))
    }

    /// Reads `classes` object by object into `out`, behind their index.
    ///
    /// # Errors
    ///
    /// When one of them cannot be read, or objects are missing that nobody has deleted.
    pub(super) async fn exported(
        &self,
        server: &Server,
        classes: Classes,
        out: &mut dyn Output,
        meter: &Meter,
    ) -> Result<(Index, BTreeMap<String, u64>), ComponentError> {
        let mut index = Index {
            format: Index::FORMAT,
            way: Made::Export,
            id: String::new(),
            server_version: server.version.to_string(),
            nodes: BTreeSet::new(),
            classes,
            files: Vec::new(),
        };
        meter.begin("export", 0);
        out.write(index.entry().into()).await.map_err(ComponentError::Output)?;
        let counts = export(server, &index.classes, out, meter).await?;
        out.write(super::index::END.to_vec().into()).await.map_err(ComponentError::Output)?;
        count_again(server, &mut index.classes).await?;
        for (name, class) in &index.classes {
            if !class.objects.holds(counts[name]) {
                let what = format!(
                    "export class {name}: {} objects were read, and there were {} before and {} after it",
                    counts[name], class.objects.before, class.objects.after
                );
                return Err(ComponentError::Unavailable { what, source: None });
            }
        }
        Ok((index, counts))
    }
}

/// What the server has written, once it is whole: later versions say SUCCESS a moment before the last
/// descriptor is there, and none writes it in one step.
async fn whole(server: &Server, files: &Files, id: &str) -> Result<(Tree, Described), ComponentError> {
    const TIMES: u32 = 10;
    let mut turn = 1;
    loop {
        let tree = files.tree(id).await?;
        match tree.describe(id) {
            Ok(described) => return Ok((tree, described)),
            Err(_) if tree.files.is_empty() && turn == TIMES => {
                let what = format!(
                    "find backup {id}, which Weaviate says it has written: BACKUP_WEAVIATE_DIR must be the volume \
                     that Weaviate has at its BACKUP_FILESYSTEM_PATH"
                );
                return Err(ComponentError::Unusable { what, source: None });
            }
            Err(wrong) if turn == TIMES => return Err(corrupt(wrong.join("; "))),
            Err(_) => server.client.wait(1).await,
        }
        turn += 1;
    }
}

/// Notes how many objects there are now.
async fn count_again(server: &Server, classes: &mut Classes) -> Result<(), ComponentError> {
    for (name, class) in classes {
        let counted = server.count(name, class).await;
        let (count, exact) =
            counted.map_err(|fault| fault.of(format!("count the objects of class {name}")))?;
        class.objects.after = count;
        class.objects.exact &= exact;
    }
    Ok(())
}

/// Notes what is otherwise than one would wish.
pub(super) fn warn(facts: &mut Facts, server: &Server, index: &Index) {
    if index.classes.is_empty() {
        facts.warn("Weaviate has no classes: there was nothing to back up".to_owned());
    }
    for (name, class) in &index.classes {
        let objects = class.objects;
        if objects.before != objects.after {
            facts.warn(format!(
                "class {name} had {} objects before and {} after its backup: somebody wrote meanwhile",
                objects.before, objects.after
            ));
        }
        let inactive: Vec<_> = class.inactive().collect();
        if !inactive.is_empty() && (index.way == Made::Export || !server.version.keeps_inactive_tenants()) {
            let (count, first) = (inactive.len(), inactive[0]);
            facts.warn(format!(
                "the data of {count} inactive tenants of class {name} is not in the backup, {first} among them: \
                 activate them before"
            ));
        }
    }
}
