//! The destinations of archives and manifests. They know nothing of components.

pub mod error;
pub mod key;
pub mod kind;
pub mod local;
pub mod s3;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use std::{fmt, ops::Range};
use tokio::io::AsyncRead;

pub use error::StoreError;
pub use key::ObjectKey;
pub use kind::{Destination, Diagnosis, Observer, OpenError, ReadSettings, Request, StoreKind, Usage};
pub use local::LocalStore;
pub use s3::{S3Config, S3Store};

/// Every kind of store, the nearest first: a further kind is a file, and a line here.
pub static KINDS: &[&StoreKind] = &[&local::KIND, &s3::KIND];

/// A stream of the bytes of one object.
pub type Body = Box<dyn AsyncRead + Send + Unpin>;

/// One object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The key of the object.
    pub key: ObjectKey,
    /// The object's length in bytes.
    pub bytes: u64,
    /// The time at which the object was last written.
    pub modified: Timestamp,
    /// The store's own mark of this version of the object: the `ETag` of S3, inode and time of change of a file. `None`
    /// if the store gives none.
    pub version: Option<String>,
}

/// The lengths to which a store goes to find out whether it can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessCheck {
    /// One request that costs little, and the rights of folders: fit for every minute.
    Answer,
    /// The rights of folders alone, of a store that has just answered.
    Rights,
    /// Something written and removed again.
    Write,
}

/// The abilities of a store beyond keeping objects. The defaults suit a server of which nothing is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// True if the store itself has compared every byte that it takes with a hash, so that a copy need not be read back.
    pub proves_parts: bool,
    /// True if the store lies on this machine: old backups of the app may lie in it, and what it keeps may be removed
    /// once there is a copy elsewhere.
    pub is_local: bool,
}

/// A folder in a store to which servers can write by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSide {
    /// The name of the bucket.
    pub bucket: String,
    /// The prefix of all keys.
    pub prefix: Option<ObjectKey>,
}

/// A destination: a folder or a bucket.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// The name of the destination: the metric label and the word in listings.
    fn destination(&self) -> &'static str;

    /// The abilities of the store.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// The words of the shell command that writes an object to standard output; `None` where the
    /// [`location`](Self::location) is a path.
    fn fetch_command(&self, key: &ObjectKey) -> Option<Vec<String>>;

    /// The place of the store for servers that write to it by themselves; `None` where they cannot.
    fn server_side(&self) -> Option<ServerSide> {
        None
    }

    /// Opens now what the first call would open, and makes a folder that is missing.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when the destination cannot be opened.
    fn ready(&self) -> Result<(), OpenError> {
        Ok(())
    }

    /// The path or URL of an object, for people.
    fn location(&self, key: &ObjectKey) -> String;

    /// The key of the object at `location`: the inverse of [`location`](Self::location), lenient
    /// as to how people write it. `None` when it names nothing inside this store.
    fn key_at(&self, location: &str) -> Option<ObjectKey>;

    /// Begins an object that nobody takes for one before it is committed. `expected` is its approximate length in
    /// bytes, where somebody knows: a store may have to divide the object in time.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSpace`] when the destination is full, else the error of the store.
    async fn begin(&self, key: &ObjectKey, expected: Option<u64>) -> Result<Box<dyn Upload>, StoreError>;

    /// Writes a small object at once, durably, in place of one that may be there: a reader sees
    /// the old or the new, whole.
    ///
    /// # Errors
    ///
    /// The error of the store. After [`StoreError::Unavailable`] it is unknown which of the two objects is there.
    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StoreError>;

    /// Opens an object, or a part of it. A range that goes beyond the end is cut there.
    ///
    /// An object that ends too early is an [`UnexpectedEof`](std::io::ErrorKind) while reading.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] when there is none.
    async fn open(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Body, StoreError>;

    /// Opens a whole object that is read side by side with others, `readers` in all: the more there are, the less is
    /// read ahead of each, so that together they take little more memory than one alone.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    async fn open_beside(&self, key: &ObjectKey, readers: usize) -> Result<Body, StoreError>;

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
    /// The error of the store.
    async fn list(&self, prefix: &ObjectKey) -> Result<Vec<ObjectMeta>, StoreError>;

    /// Deletes an object; one that is not there is deleted already.
    ///
    /// # Errors
    ///
    /// The error of the store. After [`StoreError::Unavailable`] it is unknown whether the object is gone.
    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError>;

    /// Gives up uploads of an object that died and that nobody will end. Nobody may be uploading it.
    ///
    /// # Errors
    ///
    /// The error of the store; some uploads may be left.
    async fn abort_uploads(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let _ = key; // most stores know by themselves who lives
        Ok(())
    }

    /// Removes what uploads of dead runs to these folders have left, as far as that can be told, and logs it.
    async fn sweep_dead_runs(&self, folders: &[ObjectKey]) {
        let _ = folders; // most stores leave nothing
    }

    /// Waits until unfinished uploads are removed, for some seconds at most. For the end of the program, which would end
    /// the background work as well.
    async fn wait_for_cleanup(&self) {}

    /// Deletes many objects, as many at once as the store can, and returns those of which the store has not said that
    /// they are gone, each with the reason: after [`StoreError::Unavailable`] the object may be there or not, and may not
    /// have been asked for; after any other error it is there. One that is not there is deleted already.
    async fn delete_all(&self, keys: &[ObjectKey]) -> Vec<(ObjectKey, StoreError)> {
        let mut left = Vec::new();
        for key in keys {
            if let Err(err) = self.delete(key).await {
                left.push((key.clone(), err));
            }
        }
        left
    }

    /// Finds out whether the destination can be used at this moment: each of `folders`, where it is there.
    ///
    /// # Errors
    ///
    /// The error that a backup would fail with.
    async fn check_access(&self, folders: &[ObjectKey], depth: AccessCheck) -> Result<(), StoreError>;

    /// Bytes that can still be written, without those that the destination is to keep free.
    /// `None` where there is no such limit.
    ///
    /// # Errors
    ///
    /// The error of the store.
    async fn free_bytes(&self) -> Result<Option<u64>, StoreError>;
}

/// An object being written. Until [`commit`](Self::commit) no reader sees it, or, in stores that cannot
/// hide what is whole, it is nothing but a key without a manifest.
#[async_trait]
pub trait Upload: Send {
    /// Appends bytes.
    ///
    /// # Errors
    ///
    /// After any error only [`abort`](Self::abort) makes sense.
    async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError>;

    /// Ends the stream of bytes: bytes that were held back to fill a part may go on their way, still invisible to
    /// every reader.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    async fn end(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Ends the object: makes its bytes durable under a key that only this run knows, and opens them for
    /// reading back. What is proven is what will be committed; nothing can be written any more.
    ///
    /// # Errors
    ///
    /// The error of the store; the upload can still be aborted.
    async fn read_back(&mut self) -> Result<Body, StoreError>;

    /// Makes the whole object visible at once, durably. Never replaces an existing object.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exists`] if the key is taken. After [`StoreError::Unavailable`] it is
    /// unknown whether the object is there.
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;

    /// Removes every trace. Best effort: a trace that stays behind is removed at the next start.
    async fn abort(self: Box<Self>);
}
