//! Backups on the server that a dead run had ordered and nobody needs.

use crate::base::chain;
use crate::component::ComponentError;
use crate::component::weaviate::client::Fault;
use crate::component::weaviate::index::BackupBackend;
use crate::component::weaviate::journal::Journal;
use crate::component::weaviate::server::{Server, Status, Work};
use crate::component::weaviate::{Weaviate, job};
use jiff::Timestamp;

impl Weaviate {
    /// Removes backups of the server that a dead run had ordered, once they have ended.
    pub(super) async fn remove_orphans(
        &self,
        server: &Server,
        journal: &mut Journal,
    ) -> Result<Vec<String>, ComponentError> {
        let mut done = Vec::new();
        for orphan in journal.notes.orphans.clone() {
            let (backend, id) = (orphan.backend.as_str(), &orphan.id);
            match server.status_again(backend, id, Work::Backup).await {
                // A restart of the server ends a backup, whose status says STARTED for ever.
                Ok(Status::Running) if !orphan.has_ended => {
                    if server.version.can_cancel() {
                        let _ = server.cancel_backup(backend, id).await;
                    }
                    if !is_older(id, self.config.timeout) {
                        tracing::info!(
                            id,
                            "a backup that a dead run has ordered of Weaviate is still under way"
                        );
                        continue;
                    }
                }
                // In the bucket it may be the data of a backup whose manifest is written: retention sees that.
                Ok(Status::Done) if orphan.backend == BackupBackend::S3 => {
                    journal.note(|notes| notes.orphans.retain(|other| *other != orphan)).await?;
                    continue;
                }
                Ok(_) | Err(Fault::Refused { .. }) => {}
                Err(fault) => return Err(fault.of("look for what a dead run has left in Weaviate")),
            }
            // A leftover that cannot be removed stops nothing, and `check` names it.
            let removed = async { self.files(server, orphan.backend)?.remove(id).await };
            match removed.await {
                Ok(()) => journal.note(|notes| notes.orphans.retain(|other| *other != orphan)).await?,
                Err(err) if err.is_transient() => return Err(err),
                Err(err) => {
                    tracing::warn!(error = %chain(&err), "a backup is left in Weaviate's {backend}");
                    continue;
                }
            }
            done.push(format!("removed backup {id}, which a dead run had left in Weaviate's {backend}"));
        }
        Ok(done)
    }
}

/// Returns whether the time in the name of a backup of ours is longer ago than that.
pub(super) fn is_older(id: &str, than: std::time::Duration) -> bool {
    let time = id.strip_prefix(job::PREFIX).and_then(|rest| rest.get(..16));
    let begun = time.and_then(|time| {
        let civil = jiff::civil::DateTime::strptime("%Y%m%dt%H%M%Sz", time).ok()?;
        Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    });
    begun.is_none_or(|begun| Timestamp::now().duration_since(begun).unsigned_abs() > than)
}
