//! Floor 2: destinations of archives and manifests. They know nothing of components.

pub mod error;
pub mod key;
pub mod local;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use std::{fmt, ops::Range};
use tokio::io::AsyncRead;

pub use error::StoreError;
pub use key::ObjectKey;
pub use local::LocalStore;

/// A stream of the bytes of one object.
pub type Body = Box<dyn AsyncRead + Send + Unpin>;

/// One object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Where it lives.
    pub key: ObjectKey,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was last written.
    pub modified: Timestamp,
}

/// A destination: a folder or a bucket.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// `local` or `s3`: the metric label and the word in listings.
    fn destination(&self) -> &'static str;

    /// Where people find an object: a path or a URL.
    fn location(&self, key: &ObjectKey) -> String;

    /// The key of the object at `location`: the inverse of [`location`](Self::location), lenient
    /// as to how people write it. `None` when it names nothing inside this store.
    fn key_at(&self, location: &str) -> Option<ObjectKey>;

    /// Begins an object that nobody can see before it is committed.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSpace`] when the destination is full, else what the store says.
    async fn begin(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, StoreError>;

    /// Writes a small object at once, durably, in place of one that may be there: a reader sees
    /// the old or the new, whole.
    ///
    /// # Errors
    ///
    /// What the store says. After [`StoreError::Unavailable`] it is unknown which of the two is
    /// there.
    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StoreError>;

    /// Opens an object, or a part of it. A range that goes beyond the end is cut there.
    ///
    /// An object that ends too early is an [`UnexpectedEof`](std::io::ErrorKind) while reading.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] when there is none.
    async fn open(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Body, StoreError>;

    /// Describes an object.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] when there is none.
    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError>;

    /// Every committed object whose key begins with the folder `prefix`, sorted by key.
    ///
    /// A folder that is not there is an empty one.
    ///
    /// # Errors
    ///
    /// What the store says.
    async fn list(&self, prefix: &ObjectKey) -> Result<Vec<ObjectMeta>, StoreError>;

    /// Deletes an object; one that is not there is deleted already.
    ///
    /// # Errors
    ///
    /// What the store says. After [`StoreError::Unavailable`] it is unknown whether it is gone.
    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError>;

    /// Bytes that can still be written: what the destination is to keep free is not among them.
    /// `None` where there is no such limit.
    ///
    /// # Errors
    ///
    /// What the store says.
    async fn free_bytes(&self) -> Result<Option<u64>, StoreError>;
}

/// An object being written, invisible to every reader until [`commit`](Self::commit).
#[async_trait]
pub trait Upload: Send {
    /// Appends bytes.
    ///
    /// # Errors
    ///
    /// After any error only [`abort`](Self::abort) makes sense.
    async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError>;

    /// Makes the bytes so far durable under a key that only this run knows, and opens them for
    /// reading back: what is proven is what will be committed.
    ///
    /// # Errors
    ///
    /// What the store says; the upload can still be aborted.
    async fn read_back(&mut self) -> Result<Body, StoreError>;

    /// Makes the whole object visible at once, durably. Never replaces an existing object.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exists`] if the key is taken. After [`StoreError::Unavailable`] it is
    /// unknown whether the object is there.
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;

    /// Removes every trace. Best effort: what stays behind is removed at the next start.
    async fn abort(self: Box<Self>);
}
