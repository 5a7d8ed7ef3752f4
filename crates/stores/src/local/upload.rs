//! Writing one object: bytes are gathered, and written by another thread while more come in.

use crate::local::{LocalStore, partial::Partial, read};
use crate::{Body, ObjectKey, StoreError, Upload};
use async_trait::async_trait;
use bytes::Bytes;
use std::{
    fs::File,
    io::{self, IoSlice, Write as _},
    mem,
};
use tokio::task::JoinHandle;

/// Written at once. With as much again being gathered, memory stays near 2 MiB.
const BATCH: usize = 1 << 20;

/// After every so many bytes free space is looked at, and the disk begins to write: or it would only begin at the end.
const LOOK_EVERY: u64 = 64 << 20;

/// An object on its way to a [`LocalStore`].
#[derive(Debug)]
pub(super) struct LocalUpload {
    store: LocalStore,
    key: ObjectKey,
    partial: Partial,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
    /// The batch that is being written.
    writing: Option<JoinHandle<io::Result<()>>>,
    /// The sync of earlier batches to the disk. The kernel reports an error once, so this handle must be looked at.
    syncing: Option<JoinHandle<io::Result<()>>>,
    written: u64,
    look_at: u64,
}

impl LocalUpload {
    pub(super) fn new(store: LocalStore, key: ObjectKey, partial: Partial) -> Self {
        let (gathered, writing, syncing) = (Vec::new(), None, None);
        let (gathered_bytes, written, look_at) = (0, 0, LOOK_EVERY);
        Self { store, key, partial, gathered, gathered_bytes, writing, syncing, written, look_at }
    }

    /// Waits until the batch under way is written.
    async fn wait_written(&mut self) -> Result<(), StoreError> {
        let done = ended(&mut self.writing).await;
        self.sorted(done)
    }

    fn sorted(&self, done: io::Result<()>) -> Result<(), StoreError> {
        done.map_err(|err| self.store.sort("write", &self.key, err))
    }

    /// Begins to sync the written bytes to the disk, while more come in.
    async fn sync_behind(&mut self) -> Result<(), StoreError> {
        let done = ended(&mut self.syncing).await;
        self.sorted(done)?;
        let file = self.partial.file().clone();
        self.syncing = Some(tokio::task::spawn_blocking(move || file.sync_data()));
        Ok(())
    }

    /// Hands over the gathered batch, once the batch before it is written.
    async fn hand_over(&mut self) -> Result<(), StoreError> {
        self.wait_written().await?;
        let batch = mem::take(&mut self.gathered);
        self.written += mem::take(&mut self.gathered_bytes) as u64;
        let look = self.written >= self.look_at;
        if look {
            self.look_at = self.written + LOOK_EVERY;
            self.sync_behind().await?;
        }
        let (store, file) = (self.store.clone(), self.partial.file().clone());
        self.writing = Some(tokio::task::spawn_blocking(move || {
            if look {
                store.check_space()?;
            }
            write_all(&file, &batch)
        }));
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), StoreError> {
        if !self.gathered.is_empty() {
            self.hand_over().await?;
        }
        self.wait_written().await?;
        let done = ended(&mut self.syncing).await;
        self.sorted(done)
    }
}

/// Waits for work on another thread, if there is any.
async fn ended(work: &mut Option<JoinHandle<io::Result<()>>>) -> io::Result<()> {
    let Some(running) = work else { return Ok(()) };
    let done = running.await.unwrap_or_else(|err| Err(io::Error::other(err)));
    *work = None;
    done
}

#[async_trait]
impl Upload for LocalUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        if chunk.is_empty() {
            return Ok(());
        }
        self.gathered_bytes += chunk.len();
        self.gathered.push(chunk);
        if self.gathered_bytes >= BATCH { self.hand_over().await } else { Ok(()) }
    }

    async fn read_back(&mut self) -> Result<Body, StoreError> {
        self.finish().await?;
        let file = self.partial.file().clone();
        let sync = move |_: &LocalStore| file.sync_all();
        self.store.blocking("read back", &self.key, sync).await?;
        Ok(read::stream(self.partial.file().clone(), 0..self.written, 1))
    }

    async fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        self.finish().await?;
        let Self { store, key, partial, written, .. } = *self;
        let target = key.clone();
        let place = move |store: &LocalStore| {
            // A wrong length comes of a caller that went on after an error, or of a careless tool in the same folder.
            if partial.file().metadata()?.len() != written {
                return Err(io::Error::other("file is not as long as what was written to it"));
            }
            let folder = store.folder()?.make_parent(&target)?;
            partial.place(&folder, target.file_name())
        };
        store.blocking("commit", &key, place).await
    }

    async fn abort(mut self: Box<Self>) {
        // The outcome does not matter any more, but the space is to be free when we return.
        let _ = self.wait_written().await;
        let _ = ended(&mut self.syncing).await;
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

fn write_all(mut file: &File, batch: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<_> = batch.iter().map(|chunk| IoSlice::new(chunk)).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut rest, n),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(())
}
