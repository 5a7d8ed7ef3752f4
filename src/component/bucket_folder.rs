//! A folder in the bucket to which a component's own server writes backups by itself.

use crate::component::ComponentError;
use async_trait::async_trait;
use std::fmt;
use tokio::io::AsyncRead;

/// A place that a server writes and that we can read: components know no stores.
#[async_trait]
pub trait BucketFolder: Send + Sync + fmt::Debug {
    /// Name of the bucket.
    fn bucket(&self) -> &str;

    /// The prefix of all keys in the folder, without a slash at the end.
    fn prefix(&self) -> String;

    /// Every file in a folder below this one: its path below that folder, and its bytes.
    ///
    /// # Errors
    ///
    /// When the bucket cannot be listed.
    async fn files(&self, folder: &str) -> Result<Vec<(String, u64)>, ComponentError>;

    /// Opens a file, by its path below this folder.
    ///
    /// # Errors
    ///
    /// When the file is not there, or cannot be read.
    async fn open(&self, path: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>, ComponentError>;

    /// Removes a file; one that is not there is removed already.
    ///
    /// # Errors
    ///
    /// When the bucket refuses.
    async fn remove(&self, path: &str) -> Result<(), ComponentError>;
}
