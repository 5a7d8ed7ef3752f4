//! Parts of an object: how long, how many at once, and how one is gathered and sent.

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use sha2::{Digest as _, Sha256};
use std::{
    convert::Infallible,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};
use tokio::time::Instant;

const MIB: u64 = 1 << 20;

/// The shortest part but the last: [S3's own limit](https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
const SHORTEST: u64 = 5 * MIB;

/// The longest part, from there.
const LONGEST: u64 = 5 << 30;

/// The length of a part where nobody knows how long the object will be: 78 GiB in 10,000 parts.
const UNKNOWN: u64 = 8 * MIB;

/// Bytes of parts in memory, the one being gathered among them, as long as two parts fit.
const MEMORY: u64 = 16 * MIB;

/// Chunks shorter than this are gathered into one: each costs a few dozen bytes beside its own.
const SMALL: usize = 16 << 10;

/// Handed to the network at once, so that a slow one is seen to move.
const FRAME: usize = 128 << 10;

/// The division of an object into equal parts, because some stores (R2, Mega) take no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartPlan {
    /// Bytes of every part but the last.
    pub(super) part_bytes: u64,
    /// Parts that may be on their way while the next is gathered.
    pub(super) in_flight: usize,
    /// Parts that the store takes.
    pub(super) max_parts: u32,
}

impl PartPlan {
    /// Divides an object of about `expected` bytes into at most `max_parts`, with a quarter of them to spare.
    pub(super) fn new(expected: Option<u64>, max_parts: u32) -> Self {
        let least = expected.map_or(UNKNOWN, |bytes| {
            let spared = bytes.saturating_add(bytes / 4);
            spared.div_ceil(u64::from(max_parts.max(1))).min(LONGEST).next_multiple_of(MIB)
        });
        let part_bytes = least.clamp(SHORTEST, LONGEST);
        let in_flight = usize::try_from((MEMORY / part_bytes).saturating_sub(1).max(1)).unwrap_or(1);
        Self { part_bytes, in_flight, max_parts }
    }
}

/// One part, whole, to be sent as often as it takes. Clones share its bytes.
#[derive(Debug, Clone)]
pub(super) struct Part {
    chunks: Arc<[Bytes]>,
    pub(super) bytes: u64,
    /// True if the server is to compare the part's hash.
    hashed: bool,
}

/// A part being gathered: a list of what was written, not a copy of it.
#[derive(Debug)]
pub(super) struct Gathered {
    chunks: Vec<Bytes>,
    small: BytesMut,
    bytes: u64,
    hashed: bool,
}

impl Gathered {
    pub(super) fn new(hashed: bool) -> Self {
        Self { chunks: Vec::new(), small: BytesMut::new(), bytes: 0, hashed }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends a chunk.
    pub(super) fn push(&mut self, chunk: Bytes) {
        self.bytes += chunk.len() as u64;
        if chunk.len() < SMALL {
            self.small.extend_from_slice(&chunk);
        } else {
            self.end_small();
            self.chunks.push(chunk);
        }
    }

    fn end_small(&mut self) {
        if !self.small.is_empty() {
            self.chunks.push(mem::take(&mut self.small).freeze());
        }
    }

    /// Returns the gathered bytes as a part; the next part begins.
    pub(super) fn take(&mut self) -> Part {
        self.end_small();
        let (chunks, bytes) = (mem::take(&mut self.chunks).into(), mem::take(&mut self.bytes));
        Part { chunks, bytes, hashed: self.hashed }
    }
}

/// The time of the last progress of a request. Clones share the time.
#[derive(Debug, Clone)]
pub(super) struct ActivityTimer(Arc<Mutex<Instant>>);

impl ActivityTimer {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub(super) fn touch(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(super) fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part on its way.
#[derive(Debug)]
pub(super) struct PartBody {
    chunks: Arc<[Bytes]>,
    next: usize,
    /// The rest of the chunk before `next`.
    rest: Bytes,
    left: u64,
    activity: ActivityTimer,
}

impl Part {
    /// A short object, whole.
    pub(super) fn of(bytes: Bytes, hashed: bool) -> Self {
        let mut gathered = Gathered::new(hashed);
        gathered.push(bytes);
        gathered.take()
    }

    /// The part's hash in hexadecimal, where the server is to compare it. The hash is taken on a thread of its own, so
    /// that the tasks that read, pack and prove an archive need not wait for it.
    pub(super) async fn sha256(&self) -> Option<String> {
        let chunks = self.hashed.then(|| self.chunks.clone())?;
        let hash = move || {
            let hash = chunks.iter().fold(Sha256::new(), Sha256::chain_update);
            hex::encode(hash.finalize())
        };
        tokio::task::spawn_blocking(hash).await.ok()
    }

    pub(super) fn body(&self, activity: &ActivityTimer) -> PartBody {
        let chunks = self.chunks.clone();
        PartBody { chunks, next: 0, rest: Bytes::new(), left: self.bytes, activity: activity.clone() }
    }
}

impl Body for PartBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.activity.touch();
        while self.rest.is_empty() {
            let Some(chunk) = self.chunks.get(self.next).cloned() else { return Poll::Ready(None) };
            self.next += 1;
            self.rest = chunk;
        }
        let len = self.rest.len().min(FRAME);
        let frame = self.rest.split_to(len);
        self.left -= len as u64;
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_parts_are_few_enough_and_fit_into_memory() {
        let cases = [
            (None, 10_000, 8, 1),
            (Some(0), 10_000, 5, 2),
            (Some(1 << 30), 10_000, 5, 2),
            (Some(100 << 30), 10_000, 13, 1),
            (Some(1 << 30), 1_000, 5, 2),
            (Some(10 << 30), 1_000, 13, 1),
            (Some(1 << 40), 10_000, 132, 1),
        ];
        for (expected, max_parts, mib, in_flight) in cases {
            let plan = PartPlan::new(expected, max_parts);
            assert_eq!((plan.part_bytes / MIB, plan.in_flight), (mib, in_flight), "{expected:?} {max_parts}");
            let room = plan.part_bytes * u64::from(max_parts);
            assert!(room >= expected.unwrap_or(0) / 4 * 5, "{expected:?} {max_parts}");
            let held = plan.part_bytes * (plan.in_flight as u64 + 1);
            assert!(held <= MEMORY || plan.in_flight == 1, "{expected:?} {max_parts}");
        }
        assert_eq!(PartPlan::new(Some(u64::MAX), 0).part_bytes, LONGEST);
    }

    #[tokio::test]
    async fn a_part_is_sent_as_it_was_written_and_as_often_as_it_takes() {
        let mut gathered = Gathered::new(true);
        let mut whole = Vec::new();
        for len in [1, 0, 100, SMALL, 3, 3 * FRAME + 1, 7] {
            let chunk = Bytes::from(vec![u8::try_from(len % 251).unwrap(); len]);
            whole.extend_from_slice(&chunk);
            gathered.push(chunk);
        }
        let part = gathered.take();
        assert_eq!((part.bytes, gathered.bytes()), (whole.len() as u64, 0));
        assert_eq!(part.sha256().await, Some(hex::encode(Sha256::digest(&whole))));
        assert!(part.chunks.len() <= 5, "small chunks are gathered into one");
        for _ in 0..2 {
            let mut body = part.body(&ActivityTimer::new());
            let mut sent = Vec::new();
            let mut context = Context::from_waker(std::task::Waker::noop());
            while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut context) {
                sent.extend_from_slice(frame.data_ref().unwrap());
            }
            assert!(sent == whole && body.is_end_stream());
        }
    }
}
