//! A bucket as a store: S3 itself, and what speaks like it.
//!
//! An archive goes up in equal parts while it is made and appears when they are completed, as one;
//! a short one goes up at once. On a custom endpoint every part carries its own SHA-256 in its
//! signature, so that the server refuses what was damaged on the way, and none of the checksum
//! trailers that other stores refuse or keep as part of the object.
//!
//! Nothing is replaced: the server is told so (`If-None-Match`), and is asked before for the sake of
//! those that don't listen. On those, two *processes* that upload the same key in the same moment
//! could still replace one another's object: keys hold the id of their run.

mod bucket;
mod config;
mod connect;
mod fault;
mod kind;
mod list;
mod part;
mod probe;
mod read;
mod sweep;
mod upload;
mod upload_notes;

use crate::{
    AccessCheck, Body, Capabilities, ObjectKey, ObjectMeta, Observer, ServerSide, Store, StoreError, Upload,
};
use async_trait::async_trait;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use bucket::Bucket;
use bytes::Bytes;
use fault::{Fault, FaultKind};
use part::{Part, PartPlan};
use rna_backup_base::chain;
use std::{
    collections::{HashMap, HashSet},
    fmt,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_util::task::TaskTracker;
use upload::S3Upload;

pub use config::{InvalidSse, Keys, MAX_PARTS, S3Config, Sse};
pub use kind::KIND;
pub use probe::Probe;

/// A destination in a bucket. Clones are the same store.
#[derive(Clone)]
pub struct S3Store {
    inner: Arc<Inner>,
}

struct Inner {
    bucket: Bucket,
    /// Multipart uploads of this process, which no sweep may take away.
    living: Mutex<HashSet<String>>,
    /// The length to plan for, in bytes, by folder, after an object of the folder outgrew its parts.
    outgrown: Mutex<HashMap<String, u64>>,
    /// True if the server knows `If-None-Match`, or has not said no yet.
    conditional: AtomicBool,
    /// Looking and completing are one step within this process, where the server cannot make them one.
    turn: tokio::sync::Mutex<()>,
    /// The tasks that callers do not wait for: reading ahead and cleaning up.
    tasks: TaskTracker,
}

/// The file of trusted authorities cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("read certificates from {}", path.display())]
pub struct S3OpenError {
    path: PathBuf,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl S3Store {
    /// Makes the store; nothing is asked of the server yet: [`probe`](Self::probe) does. `observer` is told
    /// about every request.
    ///
    /// # Errors
    ///
    /// [`S3OpenError`] when `AWS_CA_BUNDLE` is no file of certificates.
    pub async fn open(config: S3Config, observer: Option<Observer>) -> Result<Self, S3OpenError> {
        let inner = Inner {
            bucket: Bucket::open(config, observer).await?,
            living: Mutex::default(),
            outgrown: Mutex::default(),
            conditional: AtomicBool::new(true),
            turn: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn bucket(&self) -> &Bucket {
        &self.inner.bucket
    }

    fn living(&self) -> MutexGuard<'_, HashSet<String>> {
        self.inner.living.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outgrown(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.inner.outgrown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The division of an object of about `expected` bytes: no finer than needed for one of its folder that outgrew
    /// its parts.
    fn plan(&self, key: &ObjectKey, expected: Option<u64>) -> PartPlan {
        let outgrown = self.outgrown().get(folder(key)).copied();
        PartPlan::new(expected.max(outgrown), self.bucket().config.max_parts)
    }

    /// `If-None-Match` of a request that must not replace anything.
    fn if_none_match(&self) -> Option<String> {
        self.inner.conditional.load(Ordering::Relaxed).then(|| "*".to_owned())
    }

    /// True if the fault is that of a server that does not know `If-None-Match`; the header is not sent again.
    fn is_unconditional(&self, fault: &Fault) -> bool {
        fault.kind == FaultKind::Unknown && self.inner.conditional.swap(false, Ordering::Relaxed)
    }

    async fn describe(&self, key: &ObjectKey) -> Result<HeadObjectOutput, Fault> {
        let bucket = self.bucket();
        let head = bucket.client.head_object().bucket(&bucket.config.bucket).key(bucket.full(key));
        bucket.ask("head", || head.clone().send()).await
    }

    async fn remove(&self, key: &ObjectKey) -> Result<(), Fault> {
        let bucket = self.bucket();
        let delete = bucket.client.delete_object().bucket(&bucket.config.bucket).key(bucket.full(key));
        match bucket.ask("delete", || delete.clone().send()).await {
            Err(fault) if fault.kind != FaultKind::Missing => Err(fault),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("S3Store").field(&self.bucket().config).finish()
    }
}

/// The folder of an object: its first segment.
fn folder(key: &ObjectKey) -> &str {
    key.as_str().split('/').next().unwrap_or_default()
}

fn is_hidden(key: &ObjectKey) -> bool {
    key.as_str().split('/').any(|segment| segment.starts_with('.'))
}

/// Refuses to write where no reader would look.
fn writable(op: &'static str, key: &ObjectKey) -> Result<(), StoreError> {
    if is_hidden(key) {
        let source = "names that begin with a dot are reserved";
        return Err(StoreError::Denied { op, key: key.clone(), source: source.into() });
    }
    Ok(())
}

fn visible(op: &'static str, key: &ObjectKey) -> Result<(), StoreError> {
    if is_hidden(key) { Err(StoreError::NotFound { op, key: key.clone() }) } else { Ok(()) }
}

#[async_trait]
impl Store for S3Store {
    fn destination(&self) -> &'static str {
        KIND.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { proves_parts: true, ..Capabilities::default() }
    }

    fn fetch_command(&self, key: &ObjectKey) -> Option<Vec<String>> {
        Some(["aws", "s3", "cp", &self.location(key), "-"].map(str::to_owned).into())
    }

    fn server_side(&self) -> Option<ServerSide> {
        let config = &self.bucket().config;
        Some(ServerSide { bucket: config.bucket.clone(), prefix: config.prefix.clone() })
    }

    fn location(&self, key: &ObjectKey) -> String {
        format!("s3://{}/{}", self.bucket().config.bucket, self.bucket().full(key))
    }

    /// `s3://bucket/prefix/key` alone: a bare key could as well be a path.
    fn key_at(&self, location: &str) -> Option<ObjectKey> {
        let (bucket, full) = location.strip_prefix("s3://")?.split_once('/')?;
        if bucket == self.bucket().config.bucket { self.bucket().key_of(full) } else { None }
    }

    async fn begin(&self, key: &ObjectKey, expected: Option<u64>) -> Result<Box<dyn Upload>, StoreError> {
        writable("begin", key)?;
        Ok(Box::new(S3Upload::new(self.clone(), key.clone(), self.plan(key, expected))))
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StoreError> {
        writable("put", key)?;
        let put = self.put_object(key, &Part::of(bytes, self.bucket().hashes()), None).await;
        put.map_err(|fault| self.bucket().error(fault, "put", key))
    }

    async fn open(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Body, StoreError> {
        visible("open", key)?;
        read::open(self.clone(), key.clone(), range.unwrap_or(0..u64::MAX), 1).await
    }

    async fn open_beside(&self, key: &ObjectKey, readers: usize) -> Result<Body, StoreError> {
        visible("open", key)?;
        read::open(self.clone(), key.clone(), 0..u64::MAX, readers).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        visible("head", key)?;
        let found = self.describe(key).await.map_err(|fault| self.bucket().error(fault, "head", key))?;
        list::meta(key.clone(), found.content_length(), found.last_modified(), found.e_tag()).ok_or_else(
            || {
                let source = "the answer names neither length nor time";
                StoreError::Unavailable { op: "head", key: key.clone(), source: source.into() }
            },
        )
    }

    async fn list(&self, prefix: &ObjectKey) -> Result<Vec<ObjectMeta>, StoreError> {
        self.list_folder(prefix).await
    }

    async fn abort_uploads(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let given_up = match self.abort_noted().await {
            Err(fault) => Err(fault),
            // A store that does not list uploads has those alone that are noted here.
            Ok(_) => match self.abort_strays(key).await {
                Err(fault) if fault.kind == FaultKind::Unknown => Ok(()),
                given_up => given_up,
            },
        };
        given_up.map_err(|fault| self.bucket().error(fault, "give up uploads of", key))
    }

    async fn sweep_dead_runs(&self, folders: &[ObjectKey]) {
        /// Longer than any upload takes: nobody can tell in a bucket whether a process lives.
        const STALE: Duration = Duration::from_hours(24);
        match self.sweep_uploads(folders, STALE).await {
            Ok(0) => {}
            Ok(uploads) => tracing::info!(uploads, "removed the uploads of dead runs from the bucket"),
            Err(err) => {
                tracing::warn!(error = %chain(&err), "cannot look for uploads of dead runs in the bucket");
            }
        }
    }

    /// Waits for as long as a server may do nothing at most.
    async fn wait_for_cleanup(&self) {
        self.inner.tasks.close();
        let _ = tokio::time::timeout(self.bucket().config.patience, self.inner.tasks.wait()).await;
        self.inner.tasks.reopen();
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        writable("delete", key)?;
        self.remove(key).await.map_err(|fault| self.bucket().error(fault, "delete", key))
    }

    async fn delete_all(&self, keys: &[ObjectKey]) -> Vec<(ObjectKey, StoreError)> {
        // Hidden keys, which no reader sees, are not deleted but refused.
        let (hidden, visible): (Vec<_>, Vec<_>) = keys.iter().cloned().partition(is_hidden);
        let mut left = self.delete_batches(&visible).await;
        left.extend(
            hidden.into_iter().filter_map(|key| Some((key.clone(), writable("delete", &key).err()?))),
        );
        left
    }

    async fn check_access(&self, _folders: &[ObjectKey], depth: AccessCheck) -> Result<(), StoreError> {
        match depth {
            AccessCheck::Answer => self.check_reading().await,
            AccessCheck::Rights => Ok(()), // a bucket has no folders
            AccessCheck::Write => self.check_writing().await,
        }
    }

    async fn free_bytes(&self) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }
}
