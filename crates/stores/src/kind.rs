//! The description of a kind of store, and destinations as their settings describe them.

use crate::{ObjectKey, Store};
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use rna_backup_base::env::{Env, Setting};
use std::{error::Error, fmt, path::Path, sync::Arc, time::Duration};

/// A kind of store: the facts about it that no setting changes.
#[derive(Debug)]
pub struct StoreKind {
    /// The name of the store, as in [`Store::destination`].
    pub name: &'static str,
    /// The name of the store among the checks.
    pub check: &'static str,
    /// True if the requests to the store are counted.
    pub counts_requests: bool,
    /// The settings that nobody else reads.
    pub settings: &'static [Setting],
    /// Reads the settings of the kind.
    pub read: ReadSettings,
}

/// Reads the settings of a kind of store: `None` when they name no store, or when one of them is wrong, which is noted.
/// The path is that of `BACKUP_ROOT`, unless it cannot be read; the list has the destinations that are farther away.
pub type ReadSettings = fn(&mut Env, Option<&Path>, &[Arc<dyn Destination>]) -> Option<Arc<dyn Destination>>;

/// A destination as its settings describe it, open or not.
#[async_trait]
pub trait Destination: Send + Sync + fmt::Debug {
    /// The kind of the store.
    fn kind(&self) -> &'static StoreKind;

    /// The path or the name of the destination, for people.
    fn place(&self) -> String;

    /// The use of the destination.
    fn usage(&self) -> Usage {
        Usage::Keeps
    }

    /// Makes the store; neither server nor folder is asked yet. `observer` is told of every request.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when a file that a setting names cannot be used.
    async fn open(&self, observer: Option<Observer>) -> Result<Arc<dyn Store>, OpenError>;

    /// Tries out all that a backup asks of the destination and of these folders in it, and describes the destination. No
    /// server is waited for longer than `patience`. `next` has the bytes that the next backups will take, if anybody
    /// can tell.
    ///
    /// # Errors
    ///
    /// The fault and its remedy.
    async fn diagnose(
        &self,
        folders: &[ObjectKey],
        next: BoxFuture<'_, Option<u64>>,
        patience: Duration,
    ) -> Result<String, Diagnosis>;

    /// Explains an error of the store.
    fn explain(&self, err: &(dyn Error + 'static)) -> Diagnosis;
}

/// The use of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// New backups go there and stay.
    Keeps,
    /// New backups go there and stay until a copy elsewhere is proven.
    Stages,
    /// No new backups go there; those that are there can be read.
    Reads,
}

/// The reason why a destination cannot be used, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// The fault, in one line, without any secret.
    pub found: String,
    /// The change that mends the fault.
    pub fix: String,
}

impl Diagnosis {
    /// The fault and the remedy.
    pub fn new(found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { found: found.into(), fix: fix.into() }
    }
}

/// A store cannot be made from its settings.
#[derive(Debug, thiserror::Error)]
#[error("open {setting}")]
pub struct OpenError {
    /// The setting that names the destination.
    pub setting: &'static str,
    /// The cause.
    pub source: Box<dyn Error + Send + Sync>,
}

/// A request that was answered, or was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The operation: `put`, `get`, `head`, `list`, `delete`, `upload_part` and the like.
    pub op: &'static str,
    /// `ok`, `refused` (the server said no) or `failed` (the network, or a server in trouble).
    pub result: &'static str,
    /// True if the request was one more attempt.
    pub retry: bool,
}

/// The function that is called after every request.
pub type Observer = Arc<dyn Fn(Request) + Send + Sync>;
