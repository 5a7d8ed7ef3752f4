//! An archive on its way to its destinations: written to all at once, proven and given its name in each.

use crate::base::chain;
use crate::domain::component::ComponentName;
use crate::domain::progress::Meter;
use crate::engine::EngineError;
use crate::engine::archive::CHUNK;
use crate::store::{ObjectKey, Store, StoreError, Upload};
use crate::stream::unpack::HashingReader;
use bytes::Bytes;
use futures_util::future::join_all;
use std::{sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::io::InspectReader;
use xxhash_rust::xxh3::Xxh3;

/// The length and hashes that every copy of an archive must have.
#[derive(Debug, Clone, Copy)]
pub(super) struct ArchiveHashes<'a> {
    pub(super) bytes: u64,
    pub(super) sha256: &'a str,
    /// XXH3 of what was written a moment ago: looked at instead of SHA-256, at a tenth of its time. Against somebody
    /// who forges an archive it proves nothing.
    pub(super) xxh3: Option<u128>,
}

/// An archive on its way to one destination.
pub(super) struct ArchiveUpload {
    pub(super) store: Arc<dyn Store>,
    key: ObjectKey,
    /// The upload, or the error that has ended it.
    state: Result<Box<dyn Upload>, StoreError>,
}

/// An archive on its way to all destinations, the nearest first.
#[derive(Default)]
pub(super) struct ArchiveUploads(pub(super) Vec<ArchiveUpload>);

impl ArchiveUploads {
    /// Begins an upload in every destination.
    ///
    /// # Errors
    ///
    /// The error of the nearest, when no destination can begin.
    pub(super) async fn begin(
        stores: &[Arc<dyn Store>],
        key: &ObjectKey,
        expected: Option<u64>,
    ) -> Result<Self, StoreError> {
        let begin = stores.iter().map(async |store| {
            let state = store.begin(key, expected).await;
            ArchiveUpload { store: Arc::clone(store), key: key.clone(), state }
        });
        Self(join_all(begin).await).unless_all_failed()
    }

    /// Appends bytes, everywhere at once. A destination that fails is left out from then on.
    ///
    /// # Errors
    ///
    /// The error of the nearest, when all have failed.
    pub(super) async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        join_all(self.0.iter_mut().map(|upload| upload.write(chunk.clone()))).await;
        self.any_left()
    }

    /// Ends the stream in every destination: a distant one gets the rest while a near one is proven.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub(super) async fn end(&mut self) -> Result<(), StoreError> {
        join_all(self.0.iter_mut().map(ArchiveUpload::end)).await;
        self.any_left()
    }

    fn any_left(&mut self) -> Result<(), StoreError> {
        if self.0.iter().any(|upload| upload.state.is_ok()) {
            return Ok(());
        }
        std::mem::take(self).unless_all_failed().map(drop)
    }

    fn unless_all_failed(mut self) -> Result<Self, StoreError> {
        if self.0.iter().any(|upload| upload.state.is_ok()) {
            return Ok(self);
        }
        Err(self.0.swap_remove(0).state.err().expect("all have failed"))
    }

    /// Removes every trace.
    pub(super) async fn abort(self) {
        for upload in self.0 {
            if let Ok(upload) = upload.state {
                upload.abort().await;
            }
        }
    }
}

impl ArchiveUpload {
    async fn write(&mut self, chunk: Bytes) {
        if let Ok(upload) = &mut self.state {
            let written = upload.write(chunk).await;
            self.note(written).await;
        }
    }

    async fn end(&mut self) {
        if let Ok(upload) = &mut self.state {
            let ended = upload.end().await;
            self.note(ended).await;
        }
    }

    /// Aborts the upload after an error.
    async fn note(&mut self, done: Result<(), StoreError>) {
        let Err(err) = done else { return };
        tracing::warn!(destination = self.store.destination(), error = chain(&err), "a copy has failed");
        if let Ok(upload) = std::mem::replace(&mut self.state, Err(err)) {
            upload.abort().await;
        }
    }

    /// Makes the archive durable under its final name. With `prove`, the stored bytes are read and compared first.
    ///
    /// # Errors
    ///
    /// The error of this destination, now or before. After [`StoreError::Unavailable`] the archive may be there, whole or
    /// not.
    pub(super) async fn commit(
        self,
        component: ComponentName,
        hashes: ArchiveHashes<'_>,
        prove: bool,
        meter: &Meter,
    ) -> Result<(), EngineError> {
        let mut upload = self.state?;
        if prove {
            meter.begin("verify", hashes.bytes);
            if let Err(err) = compare(upload.as_mut(), component, hashes, meter).await {
                upload.abort().await;
                return Err(err);
            }
        }
        let committed = upload.commit().await;
        // An unavailable store has not told whether the archive is there.
        let unknown = matches!(committed, Err(StoreError::Unavailable { .. }));
        if unknown && is_there(&self.store, &self.key, hashes, meter).await {
            return Ok(());
        }
        Ok(committed?)
    }
}

/// The longest wait for a store that has just not answered.
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);

/// Tests whether the archive is there, whole. Another object stays: a manifest may name it.
async fn is_there(store: &Arc<dyn Store>, key: &ObjectKey, hashes: ArchiveHashes<'_>, meter: &Meter) -> bool {
    let Ok(Ok(_)) = tokio::time::timeout(CHECK_TIMEOUT, store.head(key)).await else { return false };
    match store.open(key, None).await {
        Ok(body) => matches!(hashes.problem_of(body, meter).await, Ok(None)),
        Err(_) => false,
    }
}

async fn compare(
    upload: &mut dyn Upload,
    component: ComponentName,
    hashes: ArchiveHashes<'_>,
    meter: &Meter,
) -> Result<(), EngineError> {
    let problem = hashes.problem_of(upload.read_back().await?, meter).await?;
    problem.map_or(Ok(()), |problem| Err(EngineError::Verify { component, problems: vec![problem] }))
}

impl ArchiveHashes<'_> {
    /// Returns the fault of the bytes of `body`, which are read to their end.
    pub(super) async fn problem_of(
        self,
        body: impl AsyncRead + Send + Unpin,
        meter: &Meter,
    ) -> Result<Option<String>, EngineError> {
        let (bytes, is_same) = if let Some(xxh3) = self.xxh3 {
            let (mut bytes, mut hash) = (0, Xxh3::new());
            let hashing = |read: &[u8]| {
                bytes += read.len() as u64;
                hash.update(read);
            };
            read_all(&mut InspectReader::new(body, hashing), meter).await?;
            (bytes, hash.digest128() == xxh3)
        } else {
            let mut stored = HashingReader::new(body);
            read_all(&mut stored, meter).await?;
            let (bytes, sha256) = stored.finish();
            (bytes, sha256 == self.sha256)
        };
        Ok(if bytes != self.bytes {
            Some(format!("wrote {} bytes, found {bytes}", self.bytes))
        } else if !is_same {
            Some("the hash of the stored bytes is not that of the written ones".to_owned())
        } else {
            None
        })
    }
}

/// Reads to the end, counting on `meter`.
pub(super) async fn read_all(
    from: &mut (dyn AsyncRead + Send + Unpin),
    meter: &Meter,
) -> Result<(), EngineError> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = from.read(&mut buffer).await;
        match read.map_err(|source| EngineError::Stream { what: "read the archive", source })? {
            0 => return Ok(()),
            read => meter.add(read as u64),
        }
    }
}
