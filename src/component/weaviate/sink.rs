//! An export into a file of ours.

use crate::component::ComponentError;
use crate::component::weaviate::journal::{Journal, unwritten};
use crate::stream::{Content, Output};
use async_trait::async_trait;
use bytes::Bytes;
use std::{fs::File, io, path::Path};
use tokio::io::AsyncWriteExt;

/// Takes the bytes of an archive; nobody sees them before they are [finished](Self::finish).
#[derive(Debug)]
pub(super) struct FileSink {
    name: String,
    file: tokio::fs::File,
}

impl FileSink {
    /// Begins a file.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unavailable`] when there is no room for it.
    pub(super) async fn begin(journal: &Journal, name: &str) -> Result<Self, ComponentError> {
        let file = journal.begin(name).await.map_err(|err| unwritten(&journal.path(""), err))?;
        Ok(Self { name: name.to_owned(), file: tokio::fs::File::from_std(file) })
    }

    /// Makes it durable, under its name.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    pub(super) async fn finish(mut self, journal: &Journal) -> Result<(), ComponentError> {
        let failed = |err: io::Error| unwritten(Path::new(&journal.path("")), err);
        self.file.flush().await.map_err(failed)?;
        let file: File = self.file.into_std().await;
        journal.finish(&self.name, file).await.map_err(failed)
    }
}

#[async_trait]
impl Output for FileSink {
    async fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        self.file.write_all(&chunk).await
    }

    fn content(&mut self, _: Content) {}
}
