//! Backups in the bucket that no manifest names, removed when they are nobody's.

use crate::component::weaviate::config::BackendSetting;
use crate::component::weaviate::copies::described;
use crate::component::weaviate::files::{Files, is_ours};
use crate::component::weaviate::job::origin_of;
use crate::component::weaviate::journal::Journal;
use crate::component::weaviate::leftovers::is_older;
use crate::component::weaviate::replace::names;
use crate::component::{BucketFolder, ComponentError, ServerSide, weaviate::Weaviate};
use crate::domain::facts::Facts;
use async_trait::async_trait;
use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

/// The time for which a backup of an earlier version, whose id names no machine, is left though no manifest here names
/// it: another machine may have the manifest in a folder of its own, or need the backup as a copy of classes.
const STRANGE: Duration = Duration::from_hours(30 * 24);

#[async_trait]
impl ServerSide for Weaviate {
    /// Removes the backups of ours in the bucket that neither a manifest, nor a journal of this machine, nor a mark of
    /// any machine names: those of this machine once they cannot be under way any more, those of earlier versions after
    /// 30 days and only if the server has every class of theirs, so that none is the only copy of a deleted class.
    /// The backups of other machines are left to these machines.
    ///
    /// # Errors
    ///
    /// When the bucket or the marks cannot be read; then nothing more is removed.
    async fn sweep(&self, living: &[&Facts]) -> Result<Vec<String>, ComponentError> {
        let Some(bucket_folder) = &self.bucket_folder else { return Ok(Vec::new()) };
        let mut journals = vec![Journal::open(&self.config.state).await?];
        journals.extend(Journal::others(&self.config.state).await?.into_iter().map(|(_, journal)| journal));
        let mut needed: BTreeSet<String> =
            living.iter().filter_map(|facts| facts.server_backup.clone()).collect();
        needed.extend(
            journals.iter().flat_map(|journal| journal.notes.snapshots()).map(|copy| copy.id.clone()),
        );
        let found = bucket_folder.files("").await?;
        let ids = found.iter().filter_map(|(path, _)| path.split_once('/')).map(|(id, _)| id);
        // A backup that began a moment ago may be one whose manifest is still to come.
        let is_free = |id: &&str| is_ours(id) && !needed.contains(*id) && is_older(id, self.config.timeout);
        let ids: BTreeSet<_> = ids.filter(is_free).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let server = self.connect().await?;
        let marked: BTreeSet<_> = server.marks().await?.into_iter().flat_map(|mark| mark.copies).collect();
        let there = server.definitions().await.map_err(|fault| fault.of("read Weaviate's schema"))?;
        let there: BTreeSet<_> = there.into_keys().collect();
        let is_of_this_machine = |id: &str| {
            origin_of(id).is_some_and(|origin| journals.iter().any(|journal| journal.notes.is_origin(origin)))
        };
        let mut done = Vec::new();
        for id in ids {
            if marked.contains(id) {
                continue;
            }
            if !is_of_this_machine(id) {
                if !is_older(id, STRANGE) {
                    tracing::debug!(id, "a backup in the bucket may be of another machine and is left");
                    continue;
                }
                if let Some(why) = reason_to_leave(bucket_folder, id, &there).await? {
                    tracing::warn!(
                        id,
                        "a backup of Weaviate in the bucket that no manifest names here is left: {why}; remove it by hand if \
                         nobody needs it"
                    );
                    continue;
                }
            }
            Files::Bucket(Arc::clone(bucket_folder)).remove(id).await?;
            done.push(format!("removed backup {id} of Weaviate from the bucket: no manifest names it"));
        }
        Ok(done)
    }

    fn folder(&self) -> Option<(&'static str, &Path)> {
        let folder =
            self.config.dir.as_deref().filter(|_| self.config.backend == BackendSetting::Filesystem)?;
        Some(("BACKUP_WEAVIATE_DIR", folder))
    }
}

/// The reason for which an old backup that this machine has not made stays; `None` where it may go.
async fn reason_to_leave(
    bucket_folder: &Arc<dyn BucketFolder>,
    id: &str,
    there: &BTreeSet<String>,
) -> Result<Option<String>, ComponentError> {
    if origin_of(id).is_some() {
        return Ok(Some("another machine has made it, and removes it itself".to_owned()));
    }
    let tree = Files::Bucket(Arc::clone(bucket_folder)).tree(id).await?;
    let Ok(described) = described(&tree, id) else {
        return Ok(Some("its descriptor cannot be read, so nobody knows its classes".to_owned()));
    };
    let gone: BTreeSet<_> = described.classes.difference(there).cloned().collect();
    let only_copy =
        || format!("it may be the only copy of classes {}, which the server does not have", names(&gone));
    Ok((!gone.is_empty()).then(only_copy))
}
