//! Uploads in parts that nobody will end: they cost like objects and no listing shows them.

use crate::s3::{
    S3Store,
    fault::{Fault, FaultKind},
};
use crate::{ObjectKey, StoreError};
use jiff::Timestamp;
use std::time::Duration;

/// An upload in parts that is open.
#[derive(Debug)]
pub(super) struct OpenUpload {
    pub(super) full: String,
    id: String,
    initiated: Timestamp,
}

impl S3Store {
    /// Gives up uploads in parts that dead processes of this machine have noted, and those below `folders` that began
    /// longer than `older_than` ago, and returns their number. Uploads of this process stay; those of others are told by
    /// their age alone, so that age must be longer than any upload takes. Other programs may have uploads in the same bucket: theirs lie
    /// elsewhere.
    ///
    /// MinIO lists uploads by whole keys only, so nothing is found there; it removes them by itself after a day.
    ///
    /// # Errors
    ///
    /// The error of the store; some uploads may be gone by then.
    pub async fn sweep_uploads(
        &self,
        folders: &[ObjectKey],
        older_than: Duration,
    ) -> Result<u64, StoreError> {
        let at = folders.first().cloned();
        let noted = self.abort_noted().await;
        let mut swept = match (noted, at) {
            (Ok(swept), _) => swept,
            (Err(fault), Some(folder)) => return Err(self.bucket().error(fault, "sweep", &folder)),
            (Err(_), None) => 0,
        };
        for folder in folders {
            let done = self.sweep_folder(folder, older_than, &mut swept).await;
            done.map_err(|fault| self.bucket().error(fault, "sweep", folder))?;
        }
        Ok(swept)
    }

    async fn sweep_folder(
        &self,
        folder: &ObjectKey,
        older_than: Duration,
        swept: &mut u64,
    ) -> Result<(), Fault> {
        let before = Timestamp::now() - older_than;
        for open in self.open_uploads(&format!("{}/", self.bucket().full(folder))).await? {
            let living = self.living().contains(&open.id);
            if !living && open.initiated <= before && self.abort_multipart(&open.full, &open.id).await? {
                *swept += 1;
            }
        }
        Ok(())
    }

    /// Gives up uploads of one object that are not known by name: their answers were lost. Nobody else uploads
    /// that key.
    pub(super) async fn abort_strays(&self, key: &ObjectKey) -> Result<(), Fault> {
        let full = self.bucket().full(key);
        for open in self.open_uploads(&full).await? {
            let living = self.living().contains(&open.id);
            if open.full == full && !living {
                self.abort_multipart(&full, &open.id).await?;
            }
        }
        Ok(())
    }

    /// Gives an upload up. `false`: it was not there.
    pub(super) async fn abort_multipart(&self, full: &str, id: &str) -> Result<bool, Fault> {
        let bucket = self.bucket();
        let abort = bucket.client.abort_multipart_upload().bucket(&bucket.config.bucket);
        let abort = abort.key(full).upload_id(id);
        match bucket.ask("abort_multipart", || abort.clone().send()).await {
            Err(fault) if fault.kind == FaultKind::Missing => Ok(false),
            done => done.map(|_| true),
        }
    }

    pub(super) async fn open_uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>, Fault> {
        let bucket = self.bucket();
        let list = bucket.client.list_multipart_uploads().bucket(&bucket.config.bucket).prefix(prefix);
        let mut found = Vec::new();
        let mut from = (None, None);
        loop {
            let list = list.clone().set_key_marker(from.0.clone()).set_upload_id_marker(from.1.clone());
            let page = bucket.ask("list_multipart", || list.clone().send()).await?;
            found.extend(page.uploads().iter().filter_map(|upload| {
                let initiated = Timestamp::from_second(upload.initiated()?.secs()).ok()?;
                Some(OpenUpload {
                    full: upload.key()?.to_owned(),
                    id: upload.upload_id()?.to_owned(),
                    initiated,
                })
            }));
            let next = (page.next_key_marker, page.next_upload_id_marker);
            if page.is_truncated != Some(true) {
                return Ok(found);
            }
            // A server that does not move on would have us ask for ever.
            if next == from || next.0.is_none() {
                return Err(Fault::unable(
                    "the store cuts a list of uploads short and does not say where it goes on",
                ));
            }
            from = next;
        }
    }
}
