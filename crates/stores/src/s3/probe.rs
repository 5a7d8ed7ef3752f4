//! Trying out a bucket with a marker object before it is needed.

use crate::s3::{
    S3Store,
    bucket::Bucket,
    fault::{Fault, FaultKind},
    list,
    part::{Part, PartPlan},
    read,
    upload::S3Upload,
};
use crate::{ObjectKey, StoreError, Upload as _};
use bytes::Bytes;
use std::sync::atomic::Ordering;
use tokio::io::AsyncReadExt as _;
use uuid::Uuid;

/// The folder of markers, which no listing shows.
const FOLDER: &str = ".rna-backup-check";

const CONTENT: &[u8] = b"rna-backup was here to check that it can write, read, list and delete\n";

/// The optional abilities of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// By how many seconds the server's clock is ahead of this machine's. Beyond 900 requests are refused.
    pub clock_skew: Option<i64>,
    /// True if the server itself refuses to replace an object. Where it does not, one of two machines that upload the
    /// same backup at once could replace the other's.
    pub never_replaces: bool,
    /// True if open uploads are listed, so that those of dead runs can be removed.
    pub lists_uploads: bool,
}

impl S3Store {
    /// Puts a marker, reads, lists, uploads another in parts, and deletes both.
    ///
    /// # Errors
    ///
    /// The error of the first step that fails; its cause tells the remedy.
    pub async fn probe(&self) -> Result<Probe, StoreError> {
        let name = Uuid::new_v4().simple();
        let key: ObjectKey = format!("{FOLDER}/{name}").parse().expect("it is a valid key");
        let parts: ObjectKey = format!("{FOLDER}/{name}-parts").parse().expect("it is a valid key");
        let bucket = self.bucket();
        let marker = Part::of(Bytes::from_static(CONTENT), bucket.hashes());
        // Until this is done there is nothing to remove.
        self.put_object(&key, &marker, None).await.map_err(|fault| bucket.error(fault, "put", &key))?;
        let found = self.probe_with(&key, &parts, &marker).await;
        let (one, other) = tokio::join!(self.remove(&key), self.remove(&parts));
        let found = found?;
        one.and(other).map_err(|fault| bucket.error(fault, "delete", &key))?;
        Ok(found)
    }

    /// Lists one key at most: the cheapest question whose answer names what is wrong with bucket or keys.
    pub(super) async fn check_reading(&self) -> Result<(), StoreError> {
        let bucket = self.bucket();
        let key = marker();
        let listed = list::list_one(bucket, &folder_of(bucket, &key)).await;
        listed.map(drop).map_err(|fault| bucket.error(fault, "list", &key))
    }

    /// Puts a marker and deletes it. A marker that may not be deleted stays, and the next one takes its place: keys
    /// without that right are no fault.
    pub(super) async fn check_writing(&self) -> Result<(), StoreError> {
        let bucket = self.bucket();
        let key = marker();
        let put = self.put_object(&key, &Part::of(Bytes::from_static(CONTENT), bucket.hashes()), None).await;
        put.map_err(|fault| bucket.error(fault, "put", &key))?;
        match self.remove(&key).await.map_err(|fault| bucket.error(fault, "delete", &key)) {
            Err(err) if !err.is_refusal() => Err(err),
            _ => Ok(()),
        }
    }

    async fn probe_with(
        &self,
        key: &ObjectKey,
        parts: &ObjectKey,
        marker: &Part,
    ) -> Result<Probe, StoreError> {
        let bucket = self.bucket();
        self.expect(key).await?;
        self.find(key).await.map_err(|fault| bucket.error(fault, "list", key))?;
        let never_replaces = self.refuses(key, marker).await;
        let never_replaces = never_replaces.map_err(|fault| bucket.error(fault, "put", key))?;
        let lists_uploads = self.probe_parts(parts).await?;
        self.expect(parts).await?;
        Ok(Probe { clock_skew: bucket.skew(), never_replaces, lists_uploads })
    }

    async fn expect(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let mut bytes = Vec::new();
        let mut body = read::open(self.clone(), key.clone(), 0..u64::MAX, 1).await?;
        let done = body.read_to_end(&mut bytes).await;
        if done.is_ok() && bytes == CONTENT {
            return Ok(());
        }
        let why = Fault::passing("what is read is not what was written");
        Err(self.bucket().error(why, "open", key))
    }

    async fn find(&self, key: &ObjectKey) -> Result<(), Fault> {
        let full = self.bucket().full(key);
        let page = list::list_page(self.bucket(), &full, None).await?;
        if page.contents().iter().any(|object| object.key() == Some(&full)) {
            return Ok(());
        }
        Err(Fault::passing("what was written is not listed"))
    }

    /// Tests whether the server refuses to write over an object.
    async fn refuses(&self, key: &ObjectKey, marker: &Part) -> Result<bool, Fault> {
        let answer = self.put_object(key, marker, Some("check")).await;
        match answer {
            Ok(()) => Ok(false),
            Err(fault) if fault.kind == FaultKind::Condition => {
                Ok(self.inner.conditional.load(Ordering::Relaxed))
            }
            Err(fault) if self.is_unconditional(&fault) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    async fn probe_parts(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        let plan = PartPlan::new(None, self.bucket().config.max_parts);
        let mut upload = Box::new(S3Upload::new(self.clone(), key.clone(), plan));
        upload.write(Bytes::from_static(CONTENT)).await?;
        upload.use_parts().await?;
        let listed = self.lists_upload(key).await.map_err(|fault| self.bucket().error(fault, "list", key))?;
        upload.commit().await?;
        Ok(listed)
    }

    async fn lists_upload(&self, key: &ObjectKey) -> Result<bool, Fault> {
        match self.open_uploads(&folder_of(self.bucket(), key)).await {
            Ok(open) => Ok(open.iter().any(|open| open.full == self.bucket().full(key))),
            Err(fault) if fault.kind == FaultKind::Unknown => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}

/// The marker of a worker that tests whether it can write.
fn marker() -> ObjectKey {
    format!("{FOLDER}/worker").parse().expect("it is a valid key")
}

fn folder_of(bucket: &Bucket, key: &ObjectKey) -> String {
    let full = bucket.full(key);
    full.strip_suffix(key.file_name()).unwrap_or(&full).to_owned()
}
