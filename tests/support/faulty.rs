//! Faults put in front of real parts: a store and a component that fail where a test says.

use async_trait::async_trait;
use bytes::Bytes;
use rna_backup::{
    component::{Component, ComponentError, Feed},
    domain::{
        component::ComponentName,
        facts::{Counts, Facts},
        progress::Meter,
    },
    store::{Body, ObjectKey, ObjectMeta, Store, StoreError, Upload},
    stream::Output,
};
use std::{io, ops::Range, sync::Arc};
use tokio::{io::AsyncReadExt, sync::Notify};

/// Where it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The disk fills up while the archive is written.
    DiskFull,
    /// One bit of what is read back is another one.
    BitFlip,
    /// The last bytes are not there when it is read back.
    CutShort,
    /// The archive cannot be given its name.
    Commit,
    /// The manifest cannot be written.
    Manifest,
    /// The source fails after its last byte.
    SourceAtItsEnd,
    /// The archive holds one file less than was read.
    LostFile,
    /// The source never ends.
    Endless,
}

/// A real store with a fault in front of it.
#[derive(Debug)]
pub struct FaultyStore {
    pub real: Arc<dyn Store>,
    pub fault: Fault,
}

struct FaultyUpload {
    real: Box<dyn Upload>,
    fault: Fault,
    key: ObjectKey,
}

fn unavailable(op: &'static str, key: &ObjectKey) -> StoreError {
    StoreError::Unavailable { op, key: key.clone(), source: io::Error::other("device on fire").into() }
}

#[async_trait]
impl Store for FaultyStore {
    fn destination(&self) -> &'static str {
        self.real.destination()
    }
    fn location(&self, key: &ObjectKey) -> String {
        self.real.location(key)
    }
    fn key_at(&self, location: &str) -> Option<ObjectKey> {
        self.real.key_at(location)
    }
    async fn begin(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, StoreError> {
        let real = self.real.begin(key).await?;
        Ok(Box::new(FaultyUpload { real, fault: self.fault, key: key.clone() }))
    }
    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StoreError> {
        if self.fault == Fault::Manifest {
            return Err(unavailable("put", key));
        }
        self.real.put(key, bytes).await
    }
    async fn open(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Body, StoreError> {
        self.real.open(key, range).await
    }
    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.real.head(key).await
    }
    async fn list(&self, prefix: &ObjectKey) -> Result<Vec<ObjectMeta>, StoreError> {
        self.real.list(prefix).await
    }
    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.real.delete(key).await
    }
    async fn free_bytes(&self) -> Result<Option<u64>, StoreError> {
        self.real.free_bytes().await
    }
}

#[async_trait]
impl Upload for FaultyUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        if self.fault == Fault::DiskFull {
            return Err(StoreError::NoSpace { op: "write", key: self.key.clone(), free: 0, keep_free: 1 });
        }
        self.real.write(chunk).await
    }
    async fn read_back(&mut self) -> Result<Body, StoreError> {
        let mut bytes = Vec::new();
        self.real.read_back().await?.read_to_end(&mut bytes).await.unwrap();
        let last = bytes.len() - 1;
        match self.fault {
            Fault::BitFlip => bytes[last / 2] ^= 1,
            Fault::CutShort => bytes.truncate(last),
            _ => {}
        }
        Ok(Box::new(io::Cursor::new(bytes)))
    }
    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        if self.fault == Fault::Commit {
            self.real.abort().await;
            return Err(unavailable("commit", &self.key));
        }
        self.real.commit().await
    }
    async fn abort(self: Box<Self>) {
        self.real.abort().await;
    }
}

/// A real component with a fault behind it.
#[derive(Debug)]
pub struct FaultyComponent {
    pub real: Arc<dyn Component>,
    pub fault: Fault,
    /// Told when everything was read from the source.
    pub has_read: Arc<Notify>,
}

#[async_trait]
impl Component for FaultyComponent {
    fn name(&self) -> ComponentName {
        self.real.name()
    }
    fn source(&self) -> String {
        self.real.source()
    }
    async fn check(&self) -> Result<String, ComponentError> {
        self.real.check().await
    }
    async fn backup(&self, out: &mut dyn Output, meter: &Meter) -> Result<Facts, ComponentError> {
        let facts = self.real.backup(out, meter).await?;
        self.has_read.notify_one();
        match self.fault {
            Fault::SourceAtItsEnd => Err(ComponentError::Unavailable { what: "dump".into(), source: None }),
            Fault::Endless => std::future::pending().await,
            _ => Ok(facts),
        }
    }
    async fn decode(&self, feed: Feed<'_>, meter: &Meter) -> Result<Counts, ComponentError> {
        let mut counts = self.real.decode(feed, meter).await?;
        if let (Fault::LostFile, Some(files)) = (self.fault, &mut counts.files) {
            files.files -= 1;
        }
        Ok(counts)
    }
}

/// A real component that gives its last word only when it is told to.
#[derive(Debug)]
pub struct Gated {
    pub real: Arc<dyn Component>,
    /// Told when everything was read from the source.
    pub has_read: Arc<Notify>,
    /// Waited for then.
    pub open: Arc<Notify>,
}

#[async_trait]
impl Component for Gated {
    fn name(&self) -> ComponentName {
        self.real.name()
    }
    fn source(&self) -> String {
        self.real.source()
    }
    async fn check(&self) -> Result<String, ComponentError> {
        self.real.check().await
    }
    async fn backup(&self, out: &mut dyn Output, meter: &Meter) -> Result<Facts, ComponentError> {
        let facts = self.real.backup(out, meter).await?;
        self.has_read.notify_one();
        self.open.notified().await;
        Ok(facts)
    }
    async fn decode(&self, feed: Feed<'_>, meter: &Meter) -> Result<Counts, ComponentError> {
        self.real.decode(feed, meter).await
    }
}
