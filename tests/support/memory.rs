//! A store in memory: the contract of every store, and nothing else.

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use rna_backup::store::{AccessCheck, Body, Capabilities, ObjectKey, ObjectMeta, Store, StoreError, Upload};
use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
};

type Objects = BTreeMap<ObjectKey, (Bytes, Timestamp)>;

/// Clones are the same store.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<Objects>>);

impl Memory {
    /// Keys of all objects.
    pub fn keys(&self) -> Vec<String> {
        self.objects().keys().map(ToString::to_string).collect()
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.0.lock().unwrap()
    }

    fn get(&self, op: &'static str, key: &ObjectKey) -> Result<(Bytes, Timestamp), StoreError> {
        let found = self.objects().get(key).cloned();
        found.ok_or_else(|| StoreError::NotFound { op, key: key.clone() })
    }
}

#[async_trait]
impl Store for Memory {
    fn destination(&self) -> &'static str {
        "local"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities { is_local: true, ..Capabilities::default() }
    }
    fn fetch_command(&self, _: &ObjectKey) -> Option<Vec<String>> {
        None
    }
    fn location(&self, key: &ObjectKey) -> String {
        format!("memory://{key}")
    }
    fn key_at(&self, location: &str) -> Option<ObjectKey> {
        location.strip_prefix("memory://")?.parse().ok()
    }
    async fn begin(&self, key: &ObjectKey, _: Option<u64>) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(MemoryUpload { store: self.clone(), key: key.clone(), bytes: Vec::new() }))
    }
    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StoreError> {
        self.objects().insert(key.clone(), (bytes, Timestamp::now()));
        Ok(())
    }
    async fn open(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Body, StoreError> {
        let (bytes, _) = self.get("open", key)?;
        let inside = |at: u64| usize::try_from(at).unwrap().min(bytes.len());
        let range = range.map_or(0..bytes.len(), |range| inside(range.start)..inside(range.end));
        Ok(Box::new(io::Cursor::new(bytes.slice(range))))
    }
    async fn open_beside(&self, key: &ObjectKey, _readers: usize) -> Result<Body, StoreError> {
        self.open(key, None).await
    }
    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        let (bytes, modified) = self.get("head", key)?;
        Ok(ObjectMeta { key: key.clone(), bytes: bytes.len() as u64, modified, version: None })
    }
    async fn list(&self, prefix: &ObjectKey) -> Result<Vec<ObjectMeta>, StoreError> {
        let folder = format!("{prefix}/");
        let objects = self.objects();
        let inside = objects.iter().filter(|(key, _)| key.as_str().starts_with(&folder));
        let meta = |(key, (bytes, modified)): (&ObjectKey, &(Bytes, Timestamp))| ObjectMeta {
            key: key.clone(),
            bytes: bytes.len() as u64,
            modified: *modified,
            version: None,
        };
        Ok(inside.map(meta).collect())
    }
    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.objects().remove(key);
        Ok(())
    }
    async fn sweep_dead_runs(&self, _: &[ObjectKey]) {
        self.objects().retain(|key, _| !key.as_str().ends_with(".partial"));
    }
    async fn check_access(&self, _: &[ObjectKey], _: AccessCheck) -> Result<(), StoreError> {
        Ok(())
    }
    async fn free_bytes(&self) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }
}

struct MemoryUpload {
    store: Memory,
    key: ObjectKey,
    bytes: Vec<u8>,
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        self.bytes.extend_from_slice(&chunk);
        Ok(())
    }
    async fn read_back(&mut self) -> Result<Body, StoreError> {
        Ok(Box::new(io::Cursor::new(self.bytes.clone())))
    }
    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        let mut objects = self.store.objects();
        if objects.contains_key(&self.key) {
            return Err(StoreError::Exists { op: "commit", key: self.key.clone() });
        }
        objects.insert(self.key.clone(), (self.bytes.into(), Timestamp::now()));
        Ok(())
    }
    async fn abort(self: Box<Self>) {}
}
