//! Remote control: answers `celery inspect`, `celery control` and `celery status`.
//!
//! Source of the protocol: `kombu/pidbox.py`; of the commands: `celery/worker/control.py`.

mod arguments;
mod inspect;
mod mingle;
mod operate;
mod panel;
mod pattern;
mod reply;
mod request;
mod stamps;
mod stats;
mod usage;

use super::CeleryError;
use super::client::{Client, PushSubscription};
use super::keys::Keys;
use super::node::Node;
use futures_util::future;
use redis::{PushInfo, PushKind, Value};
use reply::Replies;
use request::LONGEST;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

pub use panel::Panel;
pub use request::Request;

/// Maximum number of requests that wait for an answer; further requests are dropped.
const WAITING: usize = 256;

/// Maximum bytes of all waiting requests together, with `OVERHEAD` bytes for each beside its text.
const WAITING_BYTES: usize = 2 * LONGEST;
const OVERHEAD: usize = 256;

/// The interval of `PING` on the connection of the subscription, so that a dead connection is noticed.
const PING_EVERY: Duration = Duration::from_secs(5);

/// The mailbox of a worker: receives control requests and answers them.
#[derive(Debug)]
pub struct Mailbox {
    node: Arc<Node>,
    client: Client,
    keys: Keys,
    subscription: Option<ControlSubscription>,
    inbox: mpsc::Receiver<Waiting>,
}

/// A connection that is subscribed to the channels of control requests.
#[derive(Debug)]
struct ControlSubscription {
    link: Client,
    lost: Arc<Notify>,
    /// True if there are several channels: kombu sends each request on all of them.
    many: bool,
}

/// A request that waits for an answer, with its share of the bytes for all waiting requests.
#[derive(Debug)]
struct Waiting {
    raw: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl Mailbox {
    /// Creates the mailbox of `node` on the broker of `client`.
    ///
    /// No request is received before [`mingle`](Self::mingle) or [`run`](Self::run). Redis does not store requests:
    /// one that is published while no worker is subscribed is lost, as with Python's workers.
    pub fn new(node: Arc<Node>, client: Client, keys: Keys) -> Self {
        let (queue, inbox) = mpsc::channel(WAITING);
        let subscription = match ControlSubscription::new(&client, &keys.control_channels(&client), queue) {
            Ok(subscription) => Some(subscription),
            Err(error) => {
                tracing::warn!(%error, "remote control is off");
                None
            }
        };
        Self { node, client, keys, subscription, inbox }
    }

    /// Answers requests until `stop` fires, whether Redis is available now or only later.
    ///
    /// Up to 256 requests wait in order, of 12 MiB together. Further requests are dropped, and so are requests that
    /// cannot be parsed and replies to clients that have stopped waiting.
    pub async fn run(self, stop: CancellationToken) {
        let Self { node, client, keys, subscription, mut inbox } = self;
        let panel = Panel::new(Arc::clone(&node), &client);
        let replies = Replies::new(client, keys);
        let listening = async {
            match &subscription {
                Some(subscription) => subscription.listen(&stop).await,
                None => stop.cancelled().await,
            }
        };
        let mut recent = Recent::default();
        let answering = async {
            while let Some(waiting) = inbox.recv().await {
                if subscription.as_ref().is_some_and(|subscription| subscription.many)
                    && !recent.is_new(&waiting.raw)
                {
                    continue;
                }
                answer(&waiting.raw, &node, &panel, &replies).await;
            }
        };
        stop.run_until_cancelled(future::join(listening, answering)).await;
    }
}

/// Answers a request, if the bytes are a valid request for this worker.
async fn answer(raw: &[u8], node: &Node, panel: &Panel, replies: &Replies) {
    let Some(request) = Request::parse(raw) else {
        tracing::debug!(bytes = raw.len(), "a control request cannot be read");
        return;
    };
    node.clock.observe(request.clock());
    if !request.is_for(&node.name) {
        return;
    }
    tracing::debug!(method = request.method(), "control request");
    if let (Some(value), Some(address)) = (panel.answer(&request), request.reply_to()) {
        replies.send(address, node, value).await;
    }
}

impl ControlSubscription {
    fn new(client: &Client, channels: &[String], queue: mpsc::Sender<Waiting>) -> Result<Self, CeleryError> {
        let lost = Arc::new(Notify::new());
        // `SUBSCRIBE`, not Python's `PSUBSCRIBE`: as a pattern, a key prefix that contains `[` would be misread.
        let mut command = redis::cmd("SUBSCRIBE");
        command.arg(channels);
        let room = Arc::new(Semaphore::new(WAITING_BYTES));
        let notify = Arc::clone(&lost);
        let on_push = move |push: PushInfo| match push.kind {
            PushKind::Disconnection => notify.notify_one(),
            PushKind::Message => enqueue(push, &room, &queue),
            _ => {}
        };
        let link = client.with_pushes(PushSubscription { on_push: Arc::new(on_push), command })?;
        Ok(Self { link, lost, many: channels.len() > 1 })
    }

    /// Keeps the connection open: reconnects after a loss at once, and sends `PING` while no requests come.
    async fn listen(&self, stop: &CancellationToken) {
        let mut refusal = None;
        loop {
            let ping = |mut link| async move { redis::cmd("PING").exec_async(&mut link).await };
            if let Err(error) = self.link.retrying("listen for control requests", stop, ping).await {
                tracing::debug!(%error, "control requests are not heard");
            }
            let now = self.link.refusal();
            if let Some(why) = now.as_ref().filter(|_| refusal != now) {
                tracing::warn!(why, "redis does not let this worker listen for control requests");
            }
            refusal = now;
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.lost.notified() => {}
                () = tokio::time::sleep(PING_EVERY) => {}
            }
        }
    }
}

/// The digests of the last requests, to drop repeated ones. The texts of two requests differ at least in their
/// delivery tags.
#[derive(Debug, Default)]
struct Recent(VecDeque<u64>);

impl Recent {
    const MOST: usize = 64;

    fn is_new(&mut self, raw: &[u8]) -> bool {
        let mut hasher = DefaultHasher::new();
        raw.hash(&mut hasher);
        let digest = hasher.finish();
        if self.0.contains(&digest) {
            return false;
        }
        self.0.push_back(digest);
        if self.0.len() > Self::MOST {
            self.0.pop_front();
        }
        true
    }
}

/// Puts a request into the queue, or drops the request if the queue is full. Never waits.
fn enqueue(mut push: PushInfo, room: &Arc<Semaphore>, queue: &mpsc::Sender<Waiting>) {
    let Some(Value::BulkString(raw)) = push.data.pop() else { return };
    let share = u32::try_from(raw.len().saturating_add(OVERHEAD)).unwrap_or(u32::MAX);
    let waits = raw.len() <= LONGEST
        && Arc::clone(room)
            .try_acquire_many_owned(share)
            .is_ok_and(|permit| queue.try_send(Waiting { raw, _room: permit }).is_ok());
    if !waits {
        tracing::debug!("a control request is too long, or too many wait");
    }
}

#[test]
fn a_request_that_comes_on_two_channels_is_one() {
    let mut recent = Recent::default();
    assert_eq!(["a", "b", "a", "b"].map(|raw| recent.is_new(raw.as_bytes())), [true, true, false, false]);
    (0..Recent::MOST).for_each(|n| assert!(recent.is_new(n.to_string().as_bytes())));
    assert!(recent.is_new(b"a"), "only the last ones are remembered");
}

#[test]
fn what_waits_is_bounded_in_bytes_and_its_end_makes_room() {
    let (queue, mut inbox) = mpsc::channel(WAITING);
    let room = Arc::new(Semaphore::new(WAITING_BYTES));
    let hear = |bytes| {
        let data = vec![Value::BulkString(b"channel".to_vec()), Value::BulkString(vec![0; bytes])];
        enqueue(PushInfo { kind: PushKind::Message, data }, &room, &queue);
    };
    for bytes in [LONGEST + 1, LONGEST, LONGEST, 10] {
        hear(bytes);
    }
    let waiting: Vec<_> = std::iter::from_fn(|| inbox.try_recv().ok()).collect();
    assert_eq!(waiting.iter().map(|waiting| waiting.raw.len()).collect::<Vec<_>>(), [LONGEST, 10]);
    drop(waiting);
    hear(LONGEST);
    assert_eq!(inbox.try_recv().expect("there is room again").raw.len(), LONGEST);
}
