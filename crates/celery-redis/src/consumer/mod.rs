//! Takes messages: looks at the queues, judges each message in Rust, and claims by one atomic script.
//!
//! A queue may be shared with other workers, so no message is removed before it is known to be this worker's, and
//! the messages of other programs keep their places.

mod judge;
mod seen;
mod take;
mod wake;

use super::CeleryError;
use super::client::Backoff;
use super::lease::{Lease, Leases};
use super::message::{Envelope, Limits, Message, Refusal};
use judge::{JudgedEntry, QueueEntry};
use seen::{Seen, SkipReason};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fmt, time::Duration};
use take::Peek;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use wake::Wake;

pub use judge::Verdict;

/// The polling interval while Redis announces changes of the queues, in case an announcement was lost.
const SAFETY_POLL: Duration = Duration::from_secs(5);

/// The polling interval where the server announces no changes.
const POLL: Duration = Duration::from_millis(100);

/// Number of entries read at once. At first few, because on a queue of our own the first entry is taken; then the
/// number doubles, to get past messages of other programs.
const FIRST_WINDOW: usize = 4;
const LONGEST_WINDOW: usize = 256;

/// Maximum number of deferred messages to skip in one list before giving up. A later message might be ready to run,
/// but reading a queue of a million messages to its end costs too much.
const LOOKAHEAD: usize = 1000;

/// Maximum number of unreadable entries kept for a queue.
const UNREADABLE_KEPT: u32 = 1000;

/// A message that was taken, with its contents.
#[derive(Debug)]
pub struct Delivery {
    /// The lease on the message. Acknowledge it when the work is done and the result is stored.
    pub lease: Lease,
    /// The name of the queue that the message came from.
    pub queue: String,
    /// The parsed message, or the refusal of its contents. Store a refusal as FAILURE, then acknowledge.
    pub content: Result<Message, Refusal>,
}

/// An event of a consumer other than a delivery; for logs and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// An entry that cannot be parsed was moved to `<queue>.unreadable`.
    Unreadable {
        /// The name of the queue that the entry was in.
        queue: String,
        /// The reason why the entry cannot be parsed.
        why: &'static str,
        /// The entry's length.
        bytes: usize,
    },
    /// The server does not announce changes of the queues (too old, behind a proxy, forbidden), so the queues are
    /// polled every 100 ms. Reported once.
    Polling {
        /// The server's error.
        why: String,
    },
    /// The connection to Redis was lost; the consumer keeps trying. Reported once per loss.
    Lost {
        /// The cause of the loss.
        why: String,
    },
    /// Redis answers again after a loss.
    Back,
}

/// Takes messages from its queues. One call at a time looks at the queues.
pub struct Consumer {
    leases: Leases,
    queues: Vec<String>,
    /// The index of the queue and the key of each list, in the order of service.
    lists: Vec<(usize, String)>,
    limits: Limits,
    wake: Wake,
    safety_poll: Duration,
    notify: Box<dyn Fn(Notice) + Send + Sync>,
    looked: Box<dyn Fn() + Send + Sync>,
    again: AtomicBool,
    state: Mutex<State>,
    foreign: std::sync::Mutex<Vec<usize>>,
}

/// The state that one call of `next` leaves to the following one.
#[derive(Debug)]
struct State {
    /// The entries already judged, for each list.
    seen: Vec<Seen>,
    polling: bool,
    lost: bool,
}

impl Consumer {
    /// Creates a consumer of `queues`, served in this order within each priority. Connects at its first command.
    ///
    /// # Errors
    ///
    /// [`CeleryError::Config`] when a certificate file cannot be read.
    pub fn new(leases: Leases, queues: &[String]) -> Result<Self, CeleryError> {
        let lists = leases.keys().lists(queues);
        let keys = lists.iter().map(|(_, key)| key.clone()).collect();
        let prefixes: Vec<_> = queues.iter().map(|queue| leases.keys().queue(queue)).collect();
        let seen = lists.iter().map(|_| Seen::default()).collect();
        Ok(Self {
            wake: Wake::new(leases.client(), &prefixes, keys)?,
            leases,
            queues: queues.to_vec(),
            foreign: std::sync::Mutex::new(vec![0; queues.len()]),
            lists,
            limits: Limits::default(),
            safety_poll: SAFETY_POLL,
            notify: Box::new(|_| ()),
            looked: Box::new(|| ()),
            again: AtomicBool::new(false),
            state: Mutex::new(State { seen, polling: false, lost: false }),
        })
    }

    /// Sets the function that is called with each notice; the function must not block.
    #[must_use]
    pub fn on_notice(mut self, notify: impl Fn(Notice) + Send + Sync + 'static) -> Self {
        self.notify = Box::new(notify);
        self
    }

    /// Sets the function that is called after each completed look at the queues; the function must not block. While
    /// the consumer waits for messages, a look happens at least every [5 s](Self::with_safety_poll).
    #[must_use]
    pub fn on_look(mut self, looked: impl Fn() + Send + Sync + 'static) -> Self {
        self.looked = Box::new(looked);
        self
    }

    /// Sets the size limits of messages.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the polling interval without announcements, 5 s by default.
    #[must_use]
    pub fn with_safety_poll(mut self, every: Duration) -> Self {
        self.safety_poll = every;
        self
    }

    /// Waits for a message that `judge` takes. Returns `None` once `stop` fires.
    ///
    /// # Errors
    ///
    /// As [`next_of`](Self::next_of).
    pub async fn next(
        &self,
        judge: &(impl Fn(&Envelope) -> Verdict + Sync),
        stop: &CancellationToken,
    ) -> Result<Option<Delivery>, CeleryError> {
        Ok(self.next_of(1, &|look: &Envelope, _: &[&Envelope]| judge(look), stop).await?.pop())
    }

    /// Waits for messages that `judge` takes, and takes at most `most` of them at once. Returns none once `stop`
    /// fires. `judge` gets each message, and the messages that are about to be taken together with it.
    ///
    /// Survives any loss of Redis. `stop` ends only the waiting, never a claim under way, so fire the token rather
    /// than drop the future: the messages of a dropped claim are requeued by the [`LeaseKeeper`](super::sweep::LeaseKeeper).
    /// Calls run one at a time: others wait their turn.
    ///
    /// # Errors
    ///
    /// Only errors that waiting does not mend: Redis refuses the credentials, the rights, or the type of a key.
    pub async fn next_of(
        &self,
        most: usize,
        judge: &(impl Fn(&Envelope, &[&Envelope]) -> Verdict + Sync),
        stop: &CancellationToken,
    ) -> Result<Vec<Delivery>, CeleryError> {
        let mut state = self.state.lock().await;
        let mut backoff = Backoff::START;
        while !stop.is_cancelled() {
            let pause = match self.pass(&mut state.seen, most, judge).await {
                Ok(taken) => {
                    (self.looked)();
                    self.note_link(&mut state);
                    backoff = Backoff::START;
                    if !taken.is_empty() {
                        return Ok(taken);
                    }
                    if state.polling { POLL } else { self.safety_poll }
                }
                Err(error) if error.is_transient() => {
                    self.note_loss(&mut state, &error);
                    backoff.step()
                }
                Err(error) => return Err(error),
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.wake.heard(), if !state.lost => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(Vec::new())
    }

    /// Judges the deferred messages (`Later` and `Full`) again. Call this method when a component or a slot becomes
    /// free.
    pub fn reconsider(&self) {
        self.again.store(true, Ordering::Release);
        self.wake.wake_up();
    }

    /// The number of messages for other programs in each queue, as of the last look that took no message. Entries
    /// that the look did not reach are not counted.
    pub fn foreign(&self) -> Vec<(String, usize)> {
        let counts = self.foreign.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.queues.iter().cloned().zip(counts.iter().copied()).collect()
    }

    /// The number of messages in each queue, of all priorities.
    ///
    /// # Errors
    ///
    /// As [`Client::once`](super::client::Client::once).
    pub async fn lengths(&self) -> Result<Vec<(String, usize)>, CeleryError> {
        let mut pipe = redis::pipe();
        for (_, key) in &self.lists {
            pipe.llen(key);
        }
        let count = |mut link| async move { pipe.query_async(&mut link).await };
        let lengths: Vec<usize> = self.leases.client().once("count messages", count).await?;
        let mut sums = vec![0; self.queues.len()];
        for ((queue, _), length) in self.lists.iter().zip(lengths) {
            sums[*queue] += length;
        }
        Ok(self.queues.iter().cloned().zip(sums).collect())
    }

    /// Looks through all lists, until messages are taken.
    async fn pass(
        &self,
        seen: &mut [Seen],
        most: usize,
        judge: &(impl Fn(&Envelope, &[&Envelope]) -> Verdict + Sync),
    ) -> Result<Vec<Delivery>, CeleryError> {
        let mut window = FIRST_WINDOW.max(most);
        loop {
            if self.again.swap(false, Ordering::AcqRel) {
                seen.iter_mut().filter(|seen| seen.waiting() > 0).for_each(Seen::clear);
            }
            match self.peek(seen, window).await? {
                Peek::Nothing => break,
                // Deferred messages are judged again before later messages.
                _ if self.again.load(Ordering::Acquire) => {}
                Peek::Moved { list, oldest } => {
                    let full = seen[list].is_full();
                    seen[list].shift(&oldest);
                    // Another worker has taken the message that waited for a slot, so the messages behind it need not
                    // wait any more.
                    self.again.fetch_or(full && !seen[list].is_full(), Ordering::AcqRel);
                }
                Peek::Entries { list, entries } => {
                    let full = seen.iter().any(Seen::is_full);
                    let taken = self.settle(list, (&mut seen[list], full), &entries, most, judge).await?;
                    if !taken.is_empty() {
                        return Ok(taken);
                    }
                    window = (window * 2).min(LONGEST_WINDOW);
                }
            }
        }
        let mut counts = vec![0; self.queues.len()];
        for ((queue, _), seen) in self.lists.iter().zip(&*seen) {
            counts[*queue] += seen.foreign();
        }
        *self.foreign.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = counts;
        Ok(Vec::new())
    }

    /// Claims, defers or sets aside each entry by its verdict. The entries are the next ones to the left of those in
    /// `seen`; `full` is true if an older message waits for a slot.
    async fn settle(
        &self,
        list: usize,
        (seen, mut full): (&mut Seen, bool),
        entries: &[QueueEntry],
        most: usize,
        judge: &(impl Fn(&Envelope, &[&Envelope]) -> Verdict + Sync),
    ) -> Result<Vec<Delivery>, CeleryError> {
        let queue = &self.queues[self.lists[list].0];
        let mut chosen: Vec<Chosen> = Vec::new();
        for entry in entries {
            let place = seen.len() + chosen.len();
            let judged = {
                let together: Vec<_> = chosen.iter().map(|chosen| &chosen.look).collect();
                entry.judge(&self.limits, &|look: &Envelope| judge(look, &together))
            };
            match judged {
                JudgedEntry::Take(look) if !full => chosen.push(Chosen { place, entry, look }),
                JudgedEntry::Ahead(look) => chosen.push(Chosen { place, entry, look }),
                JudgedEntry::Take(_) | JudgedEntry::Full => {
                    full = true;
                    seen.push(&entry.digest, SkipReason::Full);
                }
                JudgedEntry::Foreign => seen.push(&entry.digest, SkipReason::Foreign),
                JudgedEntry::Later => seen.push(&entry.digest, SkipReason::Later),
                JudgedEntry::Unreadable(why) => {
                    if !self.set_aside(list, place, entry).await? {
                        break; // the list has changed meanwhile
                    }
                    (self.notify)(Notice::Unreadable { queue: queue.clone(), why, bytes: entry.bytes });
                }
            }
            if chosen.len() == most {
                break;
            }
        }
        let leases = self.claim(list, &chosen).await?;
        if leases.iter().any(Option::is_none) {
            // Another worker took the message first, so messages that were deferred because of it are judged again.
            self.again.store(true, Ordering::Release);
            self.wake.wake_up();
        }
        let taken = leases.into_iter().zip(chosen).filter_map(|(lease, chosen)| Some((lease?, chosen)));
        let deliver = |(lease, Chosen { entry, look, .. })| {
            let content = if entry.is_whole() {
                Message::parse(&entry.shown, &look, queue, &self.limits)
            } else {
                Err(Refusal::too_long(&look, entry.bytes, &self.limits))
            };
            Delivery { lease, queue: queue.clone(), content }
        };
        Ok(taken.map(deliver).collect())
    }

    fn note_link(&self, state: &mut State) {
        if std::mem::take(&mut state.lost) {
            (self.notify)(Notice::Back);
        }
        let refusal = self.wake.link.refusal();
        let polled = std::mem::replace(&mut state.polling, refusal.is_some());
        if let Some(why) = refusal.filter(|_| !polled) {
            (self.notify)(Notice::Polling { why });
        }
    }

    fn note_loss(&self, state: &mut State, error: &CeleryError) {
        if !std::mem::replace(&mut state.lost, true) {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            (self.notify)(Notice::Lost { why: cause.unwrap_or_else(|| error.to_string()) });
        }
    }
}

/// An entry that is to be taken.
struct Chosen<'a> {
    /// The index of the entry, counted from the right end of its list.
    place: usize,
    entry: &'a QueueEntry,
    look: Envelope,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("queues", &self.queues)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
