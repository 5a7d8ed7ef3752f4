//! Backups that are noted before the server is asked for them: should this process die, the next run removes them.

use crate::component::ComponentError;
use crate::component::weaviate::files::Files;
use crate::component::weaviate::index::BackupBackend;
use crate::component::weaviate::journal::Journal;
use crate::component::weaviate::notes::OrphanBackup;

/// The backups of one order.
pub(super) struct AnnouncedBackups<'a> {
    pub(super) journal: &'a mut Journal,
    pub(super) backend: BackupBackend,
    pub(super) files: &'a Files,
    /// The names of the server's nodes, where this process makes the folders of a backup.
    pub(super) nodes: &'a [String],
    pub(super) classes: &'a [&'a String],
    pub(super) ids: Vec<String>,
}

impl AnnouncedBackups<'_> {
    /// Notes a backup, and makes the folders for it.
    ///
    /// # Errors
    ///
    /// When one of the two cannot be written: then the backup must not be ordered.
    pub(super) async fn add(&mut self, id: &str) -> Result<(), ComponentError> {
        self.ids.push(id.to_owned());
        self.journal.note(|notes| notes.orphans.push(OrphanBackup::new(self.backend, id))).await?;
        match self.files {
            Files::Bucket(_) => Ok(()),
            Files::Folder(folder) => folder.prepare(id, self.nodes, self.classes).await,
        }
    }
}
