//! Writing one object: parts go up while the next is gathered, and appear as one when they are completed.

use crate::s3::{
    S3Store,
    bucket::Bucket,
    config::Sse,
    fault::{Fault, FaultKind},
    folder,
    part::{Gathered, Part, PartPlan},
    read,
    upload_notes::UploadNote,
};
use crate::{Body, ObjectKey, StoreError, Upload};
use async_trait::async_trait;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, ServerSideEncryption, StorageClass};
use bytes::Bytes;
use std::mem;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use uuid::Uuid;

/// Metadata that tells our object from another one of the same key, when an answer was lost.
const MARK: &str = "rna-backup-upload";

/// Putting parts together takes longer than any other request, [minutes](https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html):
/// so many times the patience.
const COMPLETION: u32 = 5;

/// An object on its way to an [`S3Store`].
#[derive(Debug)]
pub(super) struct S3Upload {
    store: S3Store,
    key: ObjectKey,
    plan: PartPlan,
    gathered: Gathered,
    written: u64,
    /// The last number of a part.
    number: i32,
    sent: Vec<CompletedPart>,
    unfinished: UnfinishedUpload,
}

/// The parts of an upload on the server that must be removed unless the upload is committed.
#[derive(Debug, Default)]
struct UnfinishedUpload {
    /// The upload in parts that is open.
    multipart: Option<String>,
    /// The note on that upload on this machine.
    note: Option<UploadNote>,
    /// True if there may be another upload in parts, whose name was lost with an answer.
    strays: bool,
    object: ObjectPresence,
    in_flight: JoinSet<Result<CompletedPart, Fault>>,
    /// The value of [`MARK`].
    mark: String,
}

/// The state of the object on the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum ObjectPresence {
    #[default]
    Absent,
    /// The object was to be made; no answer came.
    Unknown,
    Whole,
}

impl S3Upload {
    pub(super) fn new(store: S3Store, key: ObjectKey, plan: PartPlan) -> Self {
        let gathered = Gathered::new(store.bucket().hashes());
        let unfinished =
            UnfinishedUpload { mark: Uuid::new_v4().simple().to_string(), ..UnfinishedUpload::default() };
        Self { store, key, plan, gathered, written: 0, number: 0, sent: Vec::new(), unfinished }
    }

    fn error(&self, op: &'static str, fault: Fault) -> StoreError {
        self.store.bucket().error(fault, op, &self.key)
    }

    /// Sends a part off as soon as there is room in flight.
    async fn send(&mut self, part: Part) -> Result<(), Fault> {
        while self.unfinished.in_flight.len() >= self.plan.in_flight {
            self.await_part().await?;
        }
        if u32::try_from(self.number).is_ok_and(|number| number >= self.plan.max_parts) {
            return Err(self.part_size_exceeded());
        }
        let id = match &self.unfinished.multipart {
            Some(id) => id.clone(),
            None => self.create().await?,
        };
        self.number += 1;
        let (store, key, number) = (self.store.clone(), self.key.clone(), self.number);
        self.unfinished.in_flight.spawn(async move { store.upload_part(&key, &id, number, &part).await });
        Ok(())
    }

    /// Waits for one part that is in flight.
    async fn await_part(&mut self) -> Result<(), Fault> {
        if let Some(part) = self.unfinished.in_flight.join_next().await {
            self.sent.push(part.map_err(|err| Fault::passing(err.to_string()))??);
        }
        Ok(())
    }

    /// The object is longer than its parts can hold: the next one of its folder gets longer parts.
    fn part_size_exceeded(&self) -> Fault {
        let PartPlan { part_bytes, max_parts, .. } = self.plan;
        let room = part_bytes.saturating_mul(u64::from(max_parts));
        self.store.outgrown().insert(folder(&self.key).to_owned(), room.saturating_mul(2));
        Fault::passing(format!(
            "the object is longer than the {room} bytes that {max_parts} parts of {part_bytes} hold; \
             the next attempt uses longer parts"
        ))
    }

    /// Begins an upload in parts.
    async fn create(&mut self) -> Result<String, Fault> {
        let bucket = self.store.bucket();
        let (sse, kms_key) = encryption(bucket);
        let create = bucket.client.create_multipart_upload().bucket(&bucket.config.bucket);
        let create = create.key(bucket.full(&self.key)).metadata(MARK, &self.unfinished.mark);
        let create = create.set_server_side_encryption(sse).set_ssekms_key_id(kms_key);
        let create = create.set_storage_class(storage_class(bucket));
        // Until the answer with the upload's id is here, nothing else tells that the upload exists.
        self.unfinished.strays = true;
        let mut times = 0;
        let send = || {
            times += 1;
            create.clone().send()
        };
        let answer = bucket.ask("create_multipart", send).await?;
        let id = answer.upload_id.ok_or_else(|| Fault::passing("the server gave the upload no name"))?;
        self.store.living().insert(id.clone());
        self.unfinished.multipart = Some(id.clone());
        self.unfinished.strays = times > 1;
        self.unfinished.note = self.store.note_upload(&self.store.bucket().full(&self.key), &id).await;
        Ok(id)
    }

    /// Uploads in parts, however short the object is.
    pub(super) async fn use_parts(&mut self) -> Result<(), StoreError> {
        self.create().await.map(drop).map_err(|fault| self.error("begin", fault))
    }

    /// Completes the object, once, and proves that the server holds it as it was sent.
    async fn finish(&mut self, op: &'static str) -> Result<(), StoreError> {
        if self.unfinished.object == ObjectPresence::Whole {
            return Ok(());
        }
        if self.unfinished.multipart.is_some() {
            self.land_all().await.map_err(|fault| self.error(op, fault))?;
        }
        let last = self.gathered.take();
        let store = self.store.clone();
        let _turn = store.inner.turn.lock().await;
        match store.describe(&self.key).await {
            Ok(_) => return Err(StoreError::Exists { op, key: self.key.clone() }),
            Err(fault) if fault.kind == FaultKind::Missing => {}
            Err(fault) => return Err(self.error(op, fault)),
        }
        self.unfinished.object = ObjectPresence::Unknown;
        let mut answer = self.make_whole(&last).await;
        if answer.as_ref().is_err_and(|fault| store.is_unconditional(fault)) {
            answer = self.make_whole(&last).await;
        }
        self.prove(op, answer).await
    }

    /// Sends what is left of an upload in parts, where anything is: there must be one part at least.
    async fn send_last(&mut self) -> Result<(), Fault> {
        if self.number == 0 || self.gathered.bytes() > 0 {
            let last = self.gathered.take();
            self.send(last).await?;
        }
        Ok(())
    }

    async fn land_all(&mut self) -> Result<(), Fault> {
        self.send_last().await?;
        while !self.unfinished.in_flight.is_empty() {
            self.await_part().await?;
        }
        self.sent.sort_unstable_by_key(CompletedPart::part_number);
        Ok(())
    }

    async fn make_whole(&self, last: &Part) -> Result<(), Fault> {
        let Some(id) = &self.unfinished.multipart else {
            return self.store.put_object(&self.key, last, Some(&self.unfinished.mark)).await;
        };
        let bucket = self.store.bucket();
        let parts = CompletedMultipartUpload::builder().set_parts(Some(self.sent.clone())).build();
        let complete = bucket.client.complete_multipart_upload().bucket(&bucket.config.bucket);
        let complete = complete.key(bucket.full(&self.key)).upload_id(id).multipart_upload(parts);
        let complete = complete.set_if_none_match(self.store.if_none_match());
        let patience = bucket.config.patience * COMPLETION;
        bucket.send("complete_multipart", patience, |_| complete.clone().send()).await.map(drop)
    }

    /// Asks for the object's state, which alone counts, whatever the answer to the completion was.
    async fn prove(&mut self, op: &'static str, answer: Result<(), Fault>) -> Result<(), StoreError> {
        let found = match (self.store.describe(&self.key).await, answer.as_ref()) {
            (Ok(found), _) => found,
            // The first fault says more. What it was that happened is not known.
            (Err(_), Err(fault)) => return Err(self.error(op, fault.clone())),
            (Err(fault), Ok(())) if fault.kind == FaultKind::Missing => {
                return Err(self.error(op, Fault::passing("the server took the object and does not have it")));
            }
            (Err(fault), Ok(())) => return Err(self.error(op, fault)),
        };
        // A store that keeps no metadata has at least confirmed the completion.
        if !is_marked(&found, &self.unfinished.mark).unwrap_or(answer.is_ok()) {
            self.unfinished.object = ObjectPresence::Absent;
            return Err(StoreError::Exists { op, key: self.key.clone() });
        }
        self.unfinished.object = ObjectPresence::Whole;
        if let Some(id) = self.unfinished.multipart.take() {
            self.store.living().remove(&id);
        }
        if let Some(note) = self.unfinished.note.take() {
            note.remove().await;
        }
        let bytes = found.content_length().unwrap_or_default();
        if u64::try_from(bytes) != Ok(self.written) {
            let why = format!("the server has {bytes} bytes of the {} that were sent", self.written);
            return Err(self.error(op, Fault::passing(why)));
        }
        Ok(())
    }

    /// Begins to remove the unfinished upload, in the background.
    fn clean(&mut self) -> Option<tokio::task::JoinHandle<()>> {
        let unfinished = mem::take(&mut self.unfinished);
        let handle = Handle::try_current().ok().filter(|_| !unfinished.is_nothing())?;
        let (store, key) = (self.store.clone(), self.key.clone());
        Some(self.store.inner.tasks.spawn_on(unfinished.remove(store, key), &handle))
    }

    /// Removes the unfinished upload. A dead server is waited for only so long: the removal goes on by itself.
    async fn clean_up(&mut self) {
        if let Some(cleaning) = self.clean() {
            let _ = tokio::time::timeout(self.store.bucket().config.patience, cleaning).await;
        }
    }
}

#[async_trait]
impl Upload for S3Upload {
    async fn write(&mut self, mut chunk: Bytes) -> Result<(), StoreError> {
        self.written += chunk.len() as u64;
        while !chunk.is_empty() {
            // A part is sent only when more bytes come: an object of one part goes up at once, without parts.
            if self.gathered.bytes() >= self.plan.part_bytes {
                let part = self.gathered.take();
                self.send(part).await.map_err(|fault| self.error("write", fault))?;
            }
            let room = self.plan.part_bytes - self.gathered.bytes();
            let len = usize::try_from(room).unwrap_or(usize::MAX).min(chunk.len());
            self.gathered.push(chunk.split_to(len));
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<(), StoreError> {
        match self.unfinished.multipart {
            Some(_) => self.send_last().await.map_err(|fault| self.error("write", fault)),
            // An object of one part exists as soon as it is sent, so `finish` sends it.
            None => Ok(()),
        }
    }

    async fn read_back(&mut self) -> Result<Body, StoreError> {
        self.finish("read back").await?;
        read::open(self.store.clone(), self.key.clone(), 0..u64::MAX, 1).await
    }

    async fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        let done = self.finish("commit").await;
        if done.is_ok() {
            // The object is there to stay: only uploads without a name can be left.
            self.unfinished.object = ObjectPresence::Absent;
            // Uploads of an earlier attempt are looked for as well, whose connection was down when it wanted to abort
            // them.
            self.unfinished.strays |= self.number > 0;
        }
        self.clean_up().await;
        done
    }

    async fn abort(mut self: Box<Self>) {
        self.clean_up().await;
    }
}

impl Drop for S3Upload {
    fn drop(&mut self) {
        drop(self.clean());
    }
}

impl UnfinishedUpload {
    fn is_nothing(&self) -> bool {
        self.multipart.is_none() && !self.strays && self.object == ObjectPresence::Absent
    }

    /// Best effort: what stays is removed by the next sweep, or is an object without a manifest.
    async fn remove(mut self, store: S3Store, key: ObjectKey) {
        // A part that arrives after the end of its upload might stay.
        self.in_flight.shutdown().await;
        let ours = match self.object {
            ObjectPresence::Absent => false,
            ObjectPresence::Unknown => {
                store.describe(&key).await.is_ok_and(|found| is_marked(&found, &self.mark) == Some(true))
            }
            ObjectPresence::Whole => true,
        };
        if ours {
            let _ = store.remove(&key).await;
        }
        if let Some(id) = &self.multipart {
            let aborted = store.abort_multipart(&store.bucket().full(&key), id).await;
            store.living().remove(id);
            if let (Ok(_), Some(note)) = (aborted, self.note.take()) {
                note.remove().await;
            }
        }
        if self.strays {
            let _ = store.abort_strays(&key).await;
        }
    }
}

impl S3Store {
    /// Writes an object at once: over what is there, or, with a mark, only where nothing is.
    pub(super) async fn put_object(
        &self,
        key: &ObjectKey,
        part: &Part,
        mark: Option<&str>,
    ) -> Result<(), Fault> {
        let (bucket, signed) = (self.bucket(), part.signed().await);
        let send = |activity: &_| {
            let (sse, kms_key) = encryption(bucket);
            let put = bucket.client.put_object().bucket(&bucket.config.bucket).key(bucket.full(key));
            let put = put.set_server_side_encryption(sse).set_ssekms_key_id(kms_key);
            let put = put.set_content_length(i64::try_from(part.bytes).ok()).body(part.stream(activity));
            let put = match mark {
                None => put,
                Some(mark) => put
                    .metadata(MARK, mark)
                    .set_if_none_match(self.if_none_match())
                    .set_storage_class(storage_class(bucket)),
            };
            put.customize().interceptor(signed.clone()).send()
        };
        bucket.send("put", bucket.config.patience, send).await.map(drop)
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        id: &str,
        number: i32,
        part: &Part,
    ) -> Result<CompletedPart, Fault> {
        let (bucket, signed) = (self.bucket(), part.signed().await);
        let send = |activity: &_| {
            let upload = bucket.client.upload_part().bucket(&bucket.config.bucket).key(bucket.full(key));
            let upload = upload.upload_id(id).part_number(number);
            let upload =
                upload.set_content_length(i64::try_from(part.bytes).ok()).body(part.stream(activity));
            upload.customize().interceptor(signed.clone()).send()
        };
        let taken = bucket.send("upload_part", bucket.config.patience, send).await?;
        let taken_part = CompletedPart::builder().part_number(number).set_e_tag(taken.e_tag);
        // The checksums that the SDK gives AWS must come again with the completion.
        let taken_part = taken_part.set_checksum_crc32(taken.checksum_crc32);
        Ok(taken_part.set_checksum_crc64_nvme(taken.checksum_crc64_nvme).build())
    }
}

/// Returns whether an object bears the mark; `None` when it bears none at all.
fn is_marked(found: &HeadObjectOutput, mark: &str) -> Option<bool> {
    Some(found.metadata()?.get(MARK)? == mark)
}

fn encryption(bucket: &Bucket) -> (Option<ServerSideEncryption>, Option<String>) {
    match &bucket.config.sse {
        None => (None, None),
        Some(Sse::Aes256) => (Some(ServerSideEncryption::Aes256), None),
        Some(Sse::Kms(key)) => (Some(ServerSideEncryption::AwsKms), key.clone()),
    }
}

fn storage_class(bucket: &Bucket) -> Option<StorageClass> {
    bucket.config.storage_class.as_deref().map(StorageClass::from)
}
