//! Faults put in front of any store.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use rna_backup::store::{
    AccessCheck, Body, Capabilities, ObjectKey, ObjectMeta, OpenError, ServerSide, Store, StoreError, Upload,
};
use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::StreamReader;

/// What is asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Begin,
    Write,
    ReadBack,
    Commit,
    /// Reading an archive.
    Open,
    /// Deleting an archive.
    Delete,
    /// Writing a manifest.
    Put,
    /// Deleting a manifest.
    Unlist,
    List,
}

/// What goes wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The store does not answer.
    Away,
    /// The store does what it is asked to, and nobody learns of it.
    LoseReply,
    /// There is no room.
    Full,
    /// It is not allowed.
    Denied,
    /// A lock on the object forbids it.
    Locked,
    /// The bytes end after so many: as if that were all when they are read, with an error when they are written.
    CutAfter(usize),
    /// One bit of that byte is another one.
    Flip(usize),
    /// Bytes come in small pieces.
    Short,
    /// Each answer and each piece takes its time.
    Slow,
    /// The answer never comes.
    Silent,
}

/// Everything that goes wrong with a store, the rest is as it should be.
pub type Faults = &'static [(Op, Fault)];

pub const GOOD: Faults = &[];
pub const AWAY: Faults = &[
    (Op::Begin, Fault::Away),
    (Op::Put, Fault::Away),
    (Op::Open, Fault::Away),
    (Op::List, Fault::Away),
    (Op::Delete, Fault::Away),
    (Op::Unlist, Fault::Away),
];
pub const DISK_FULL: Faults = &[(Op::Write, Fault::Full)];
pub const BIT_FLIP: Faults = &[(Op::ReadBack, Fault::Flip(20))];
pub const CUT_SHORT: Faults = &[(Op::ReadBack, Fault::CutAfter(20))];
pub const SHORT: Faults = &[(Op::Open, Fault::Short), (Op::ReadBack, Fault::Short)];
pub const SLOW: Faults = &[
    (Op::Write, Fault::Slow),
    (Op::ReadBack, Fault::Slow),
    (Op::Commit, Fault::Slow),
    (Op::Open, Fault::Slow),
    (Op::Put, Fault::Slow),
    (Op::List, Fault::Slow),
    (Op::Delete, Fault::Slow),
];
pub const NO_COMMIT: Faults = &[(Op::Commit, Fault::Away)];
pub const NO_MANIFEST: Faults = &[(Op::Put, Fault::Away)];
pub const SILENT_MANIFEST: Faults = &[(Op::Put, Fault::Silent)];

/// A store with faults in front of it, perhaps under another name. Counts what is opened, and uploads that are
/// told that nothing more comes.
#[derive(Debug)]
pub struct Faulty {
    real: Arc<dyn Store>,
    destination: &'static str,
    faults: Faults,
    pub opened: AtomicUsize,
    pub ended: Arc<AtomicUsize>,
}

impl Faulty {
    pub fn new(real: Arc<dyn Store>, faults: Faults) -> Self {
        let destination = real.destination();
        Self { real, destination, faults, opened: <_>::default(), ended: <_>::default() }
    }

    /// The same under the name of any destination.
    pub fn named(self, destination: &'static str) -> Self {
        Self { destination, ..self }
    }
}

fn fault_of(faults: Faults, op: Op) -> Option<Fault> {
    faults.iter().find(|(of, _)| *of == op).map(|(_, fault)| *fault)
}

/// Does what is asked, unless it fails before or after.
async fn ask<T>(
    faults: Faults,
    op: Op,
    key: &ObjectKey,
    work: impl Future<Output = Result<T, StoreError>> + Send,
) -> Result<T, StoreError> {
    let (op, key, fault) = ("reach", key.clone(), fault_of(faults, op));
    match fault {
        Some(Fault::Away) => {
            Err(StoreError::Unavailable { op, key, source: io::Error::other("device on fire").into() })
        }
        Some(Fault::LoseReply) => {
            work.await?;
            Err(StoreError::Unavailable { op, key, source: io::Error::other("no reply").into() })
        }
        Some(Fault::Full) => Err(StoreError::NoSpace { op, key, free: 0, keep_free: 1 }),
        Some(Fault::Denied) => Err(StoreError::Denied { op, key, source: "not for you".into() }),
        Some(Fault::Locked) => Err(StoreError::Locked { op, key, source: "until next year".into() }),
        Some(Fault::Slow) => {
            tokio::time::sleep(PAUSE).await;
            work.await
        }
        Some(Fault::Silent) => std::future::pending().await,
        Some(Fault::CutAfter(_) | Fault::Flip(_) | Fault::Short) | None => work.await,
    }
}

const PAUSE: Duration = Duration::from_millis(1);

/// The bytes of an object as they come.
fn meddle(body: Body, fault: Option<Fault>) -> Body {
    let Some(fault) = fault else { return body };
    let piece = if fault == Fault::Short { 1021 } else { 64 << 10 };
    let pieces = stream::try_unfold((body, 0), move |(mut body, at)| async move {
        if fault == Fault::Slow {
            tokio::time::sleep(PAUSE).await;
        }
        let mut bytes = vec![0; piece];
        let read = body.read(&mut bytes).await?;
        bytes.truncate(read);
        match fault {
            Fault::CutAfter(end) => bytes.truncate(end.saturating_sub(at)),
            Fault::Flip(byte) if (at..at + read).contains(&byte) => bytes[byte - at] ^= 1,
            _ => {}
        }
        Ok::<_, io::Error>((!bytes.is_empty()).then(|| (Bytes::from(bytes), (body, at + read))))
    });
    Box::new(StreamReader::new(Box::pin(pieces)))
}

fn is_manifest(key: &ObjectKey) -> bool {
    key.as_str().starts_with("manifests/")
}

#[async_trait]
impl Store for Faulty {
    fn destination(&self) -> &'static str {
        self.destination
    }
    /// Under another name, those of a bucket.
    fn capabilities(&self) -> Capabilities {
        if self.destination == self.real.destination() {
            return self.real.capabilities();
        }
        Capabilities { proves_parts: true, ..Capabilities::default() }
    }
    fn fetch_command(&self, key: &ObjectKey) -> Option<Vec<String>> {
        self.real.fetch_command(key)
    }
    fn server_side(&self) -> Option<ServerSide> {
        self.real.server_side()
    }
    fn ready(&self) -> Result<(), OpenError> {
        self.real.ready()
    }
    fn location(&self, key: &ObjectKey) -> String {
        self.real.location(key)
    }
    fn key_at(&self, location: &str) -> Option<ObjectKey> {
        self.real.key_at(location)
    }
    async fn begin(&self, key: &ObjectKey, expected: Option<u64>) -> Result<Box<dyn Upload>, StoreError> {
        let real = ask(self.faults, Op::Begin, key, self.real.begin(key, expected)).await?;
        let (faults, key, ended) = (self.faults, key.clone(), self.ended.clone());
        Ok(Box::new(FaultyUpload { real, faults, key, written: 0, ended }))
    }
    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StoreError> {
        ask(self.faults, Op::Put, key, self.real.put(key, bytes)).await
    }
    async fn open(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Body, StoreError> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        if is_manifest(key) {
            return self.real.open(key, range).await;
        }
        let body = ask(self.faults, Op::Open, key, self.real.open(key, range)).await?;
        Ok(meddle(body, fault_of(self.faults, Op::Open)))
    }
    async fn open_beside(&self, key: &ObjectKey, _readers: usize) -> Result<Body, StoreError> {
        self.open(key, None).await
    }
    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.real.head(key).await
    }
    async fn list(&self, prefix: &ObjectKey) -> Result<Vec<ObjectMeta>, StoreError> {
        ask(self.faults, Op::List, prefix, self.real.list(prefix)).await
    }
    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let op = if is_manifest(key) { Op::Unlist } else { Op::Delete };
        ask(self.faults, op, key, self.real.delete(key)).await
    }
    async fn check_access(&self, folders: &[ObjectKey], depth: AccessCheck) -> Result<(), StoreError> {
        let op = if depth == AccessCheck::Write { Op::Begin } else { Op::List };
        let key = "manifests".parse().unwrap();
        ask(self.faults, op, &key, self.real.check_access(folders, depth)).await
    }
    async fn free_bytes(&self) -> Result<Option<u64>, StoreError> {
        self.real.free_bytes().await
    }
    async fn sweep_dead_runs(&self, folders: &[ObjectKey]) {
        self.real.sweep_dead_runs(folders).await;
    }
    async fn wait_for_cleanup(&self) {
        self.real.wait_for_cleanup().await;
    }
}

struct FaultyUpload {
    real: Box<dyn Upload>,
    faults: Faults,
    key: ObjectKey,
    written: usize,
    ended: Arc<AtomicUsize>,
}

#[async_trait]
impl Upload for FaultyUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        self.written += chunk.len();
        let cut =
            matches!(fault_of(self.faults, Op::Write), Some(Fault::CutAfter(end)) if self.written > end);
        let faults = if cut { &[(Op::Write, Fault::Away)] } else { self.faults };
        ask(faults, Op::Write, &self.key, self.real.write(chunk)).await
    }
    async fn end(&mut self) -> Result<(), StoreError> {
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.real.end().await
    }
    async fn read_back(&mut self) -> Result<Body, StoreError> {
        let body = ask(self.faults, Op::ReadBack, &self.key, self.real.read_back()).await?;
        Ok(meddle(body, fault_of(self.faults, Op::ReadBack)))
    }
    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        ask(self.faults, Op::Commit, &self.key, self.real.commit()).await
    }
    async fn abort(self: Box<Self>) {
        self.real.abort().await;
    }
}
