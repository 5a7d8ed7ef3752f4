//! A folder of a store that a component's own server fills.

use crate::base::chain;
use crate::component::{BucketFolder, ComponentError};
use crate::domain::component::ComponentName;
use crate::store::{ObjectKey, ServerSide, Store, StoreError};
use async_trait::async_trait;
use std::sync::Arc;
use tokio::io::AsyncRead;

/// The folder of a component in the bucket.
#[derive(Debug)]
pub struct StoreFolder {
    store: Arc<dyn Store>,
    folder: ComponentName,
    place: ServerSide,
}

impl StoreFolder {
    /// The folder `folder` in `store`; `None` where no server can write to it.
    pub fn new(store: Arc<dyn Store>, folder: ComponentName) -> Option<Self> {
        let place = store.server_side()?;
        Some(Self { store, folder, place })
    }

    fn key(&self, path: &str) -> Result<ObjectKey, ComponentError> {
        let whole = if path.is_empty() { self.folder.to_string() } else { format!("{}/{path}", self.folder) };
        whole.parse().map_err(|_| ComponentError::Corrupt {
            what: format!("{path:?} is no name in a bucket"),
            source: None,
        })
    }
}

fn failed(what: String, err: StoreError) -> ComponentError {
    match err {
        StoreError::NotFound { .. } => ComponentError::Corrupt { what, source: Some(err.into()) },
        err if err.is_transient() => ComponentError::Unavailable { what, source: Some(err.into()) },
        err => ComponentError::Unusable { what: format!("{what}: {}", chain(&err)), source: None },
    }
}

#[async_trait]
impl BucketFolder for StoreFolder {
    fn bucket(&self) -> &str {
        &self.place.bucket
    }

    fn prefix(&self) -> String {
        match &self.place.prefix {
            Some(prefix) => format!("{prefix}/{}", self.folder),
            None => self.folder.to_string(),
        }
    }

    async fn files(&self, folder: &str) -> Result<Vec<(String, u64)>, ComponentError> {
        let key = self.key(folder)?;
        let found = self.store.list(&key).await;
        let found = found.map_err(|err| failed(format!("list {}", self.store.location(&key)), err))?;
        let below = format!("{key}/");
        let path = |key: &ObjectKey| key.as_str().strip_prefix(&below).map(str::to_owned);
        Ok(found.iter().filter_map(|meta| Some((path(&meta.key)?, meta.bytes))).collect())
    }

    async fn open(&self, path: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>, ComponentError> {
        let key = self.key(path)?;
        let opened = self.store.open(&key, None).await;
        let body = opened.map_err(|err| failed(format!("read {}", self.store.location(&key)), err))?;
        Ok(Box::new(body))
    }

    async fn remove(&self, path: &str) -> Result<(), ComponentError> {
        let key = self.key(path)?;
        let removed = self.store.delete(&key).await;
        removed.map_err(|err| failed(format!("remove {}", self.store.location(&key)), err))
    }
}
