//! Reading an object range by range, each fetched whole before it is handed on: however slowly the
//! reader goes, no server waits for it (Ceph ends answers after 65 s), and what is cut is resumed where it was.

use crate::s3::{
    S3Store,
    fault::{Fault, FaultKind},
};
use crate::{Body, ObjectKey, StoreError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use bytes::Bytes;
use rna_backup_base::chain;
use std::{io, ops::Range, time::Duration};
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

/// Bytes of one range for one reader alone. One is being read while the next is fetched: memory stays near twice this.
const RANGE: u64 = 8 << 20;

/// The least that is worth a request.
const LEAST: u64 = 1 << 20;

/// Opens `range` of an object; the part of it that is beyond the end is not there. One of `readers` at the same time.
pub(super) async fn open(
    store: S3Store,
    key: ObjectKey,
    range: Range<u64>,
    readers: usize,
) -> Result<Body, StoreError> {
    let most = (RANGE / readers.max(1) as u64).max(LEAST);
    let opened = start(&store, &key, range, most).await;
    opened.map_err(|fault| store.bucket().error(fault, "open", &key))
}

async fn start(store: &S3Store, key: &ObjectKey, range: Range<u64>, most: u64) -> Result<Body, Fault> {
    if range.is_empty() {
        store.describe(key).await?;
        return Ok(Box::new(io::Cursor::new([])));
    }
    let mut attempts = store.bucket().attempts("get");
    loop {
        let (store, key, Range { start: at, end }) = (store.clone(), key.clone(), range.clone());
        let mut reading = RangeReader { store, key, at, end, most, etag: None };
        match reading.fetch().await {
            Ok(first) => return Ok(Box::new(StreamReader::new(reading.stream(first)))),
            // The object was replaced between two attempts, before a byte of it was used: the next attempt reads the
            // new one. Some servers compare the range with the length before they compare the `ETag`.
            Err(fault) if fault.kind == FaultKind::Condition || fault.kind == FaultKind::Range => {
                attempts.again(Fault::passing(fault.to_string())).await?;
            }
            Err(fault) => return Err(fault),
        }
    }
}

/// The progress of one reader.
struct RangeReader {
    store: S3Store,
    key: ObjectKey,
    at: u64,
    end: u64,
    /// Bytes of one range.
    most: u64,
    /// The object that was opened: no other may take its place meanwhile.
    etag: Option<String>,
}

impl RangeReader {
    /// The chunks of `first` and of all ranges after it.
    fn stream(self, first: Vec<Bytes>) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Unpin {
        let (send, mut receive) = mpsc::channel(1);
        let tasks = self.store.inner.tasks.clone();
        tasks.spawn(self.run(send));
        let mut ready = first.into_iter();
        futures_util::stream::poll_fn(move |context| {
            loop {
                if let Some(chunk) = ready.next() {
                    return std::task::Poll::Ready(Some(Ok(chunk)));
                }
                match std::task::ready!(receive.poll_recv(context)) {
                    Some(Ok(chunks)) => ready = Vec::into_iter(chunks),
                    Some(Err(err)) => return std::task::Poll::Ready(Some(Err(err))),
                    None => return std::task::Poll::Ready(None),
                }
            }
        })
    }

    /// Fetches one range after another, as long as somebody reads.
    async fn run(mut self, send: mpsc::Sender<io::Result<Vec<Bytes>>>) {
        while self.at < self.end {
            // Room first: a range that waits for room would be a third one in memory.
            let Ok(room) = send.reserve().await else { return };
            let fetched = tokio::select! {
                fetched = self.fetch() => fetched,
                () = send.closed() => return,
            };
            let failed = fetched.is_err();
            room.send(fetched.map_err(|fault| self.interrupted(fault)));
            if failed {
                return;
            }
        }
    }

    fn interrupted(&self, fault: Fault) -> io::Error {
        match fault.kind {
            FaultKind::Range => io::Error::new(io::ErrorKind::UnexpectedEof, fault.to_string()),
            FaultKind::Missing => io::Error::new(io::ErrorKind::NotFound, "the object was deleted meanwhile"),
            FaultKind::Condition => io::Error::other("the object was replaced meanwhile"),
            _ => {
                let err = self.store.bucket().error(fault, "read", &self.key);
                io::Error::other(chain(&err))
            }
        }
    }

    /// The next range, whole. The first answer says where the object ends.
    async fn fetch(&mut self) -> Result<Vec<Bytes>, Fault> {
        let mut end = self.end.min(self.at.saturating_add(self.most));
        let store = self.store.clone();
        let (mut chunks, mut attempts) = (Vec::new(), store.bucket().attempts("get"));
        loop {
            let before = self.at;
            let got = self.fetch_some(end, attempts.patience(), &mut chunks).await;
            self.store.bucket().count("get", &got, attempts.is_retry());
            match got {
                Ok(()) if self.at >= end.min(self.end) => return Ok(chunks),
                // Less than was asked for, which a server may do.
                Ok(()) if self.at > before => attempts.reset(),
                Ok(()) => return Err(short(self.at, self.end)),
                Err(fault) if fault.kind == FaultKind::Denied && self.is_beyond(end).await => end = self.end,
                Err(fault) => {
                    if self.at > before {
                        attempts.reset();
                    }
                    attempts.again(fault).await?;
                }
            }
        }
    }

    /// Tests whether the object ends before `end`, where nothing is known of it yet. Some stores refuse a range that goes
    /// beyond the end, which HTTP cuts there.
    async fn is_beyond(&mut self, end: u64) -> bool {
        if self.etag.is_some() {
            return false;
        }
        let Ok(head) = self.store.describe(&self.key).await else { return false };
        let length = head.content_length().and_then(|bytes| u64::try_from(bytes).ok());
        let Some(length) = length.filter(|length| self.at < *length && *length < end) else { return false };
        (self.end, self.etag) = (length, head.e_tag);
        true
    }

    /// One request: appends what comes up to `end`, and moves on by as much, also when it fails.
    async fn fetch_some(
        &mut self,
        end: u64,
        patience: Duration,
        chunks: &mut Vec<Bytes>,
    ) -> Result<(), Fault> {
        let bucket = self.store.bucket();
        let get = bucket.client.get_object().bucket(&bucket.config.bucket).key(bucket.full(&self.key));
        let get = get.range(format!("bytes={}-{}", self.at, end - 1)).set_if_match(self.etag.clone());
        let answer = tokio::time::timeout(patience, Box::pin(get.send())).await;
        let mut answer = match answer.map_err(|_| Fault::stalled(patience))?.map_err(|err| Fault::of(&err)) {
            // Nothing lies there: the object is empty, or ends before.
            Err(fault) if fault.kind == FaultKind::Range && self.etag.is_none() => {
                self.end = self.at;
                return Ok(());
            }
            answer => answer?,
        };
        self.end = self.end.min(length(&answer, self.at)?);
        self.etag = self.etag.take().or(answer.e_tag.take());
        let stop = end.min(self.end);
        while self.at < stop {
            let frame = tokio::time::timeout(bucket.config.patience, answer.body.next()).await;
            let Some(frame) = frame.map_err(|_| Fault::passing("the answer stopped in the middle"))? else {
                break;
            };
            let mut frame = frame.map_err(|err| Fault::passing(chain(&err)))?;
            frame.truncate(usize::try_from(stop - self.at).unwrap_or(usize::MAX));
            self.at += frame.len() as u64;
            chunks.push(frame);
        }
        Ok(())
    }
}

/// Returns the length of the whole object, as an answer to a request for the bytes from `at` on tells it.
fn length(answer: &GetObjectOutput, at: u64) -> Result<u64, Fault> {
    let Some(range) = answer.content_range() else {
        // The whole object: the server does not know ranges, or a proxy took the wish away.
        let whole = answer.content_length().and_then(|bytes| u64::try_from(bytes).ok()).filter(|_| at == 0);
        return whole.ok_or_else(|| Fault::passing("the server sent the whole object in place of a range"));
    };
    let parsed = range.strip_prefix("bytes ").and_then(|range| range.split_once('/'));
    let parsed = parsed.and_then(|(part, whole)| Some((part.split_once('-')?.0, whole.parse().ok()?)));
    match parsed {
        Some((from, whole)) if from.parse() == Ok(at) => Ok(whole),
        _ => Err(Fault::passing("the server sent another range than it was asked for")),
    }
}

fn short(at: u64, end: u64) -> Fault {
    Fault::too_short(format!("the object ends at byte {at} and should have {end}"))
}
