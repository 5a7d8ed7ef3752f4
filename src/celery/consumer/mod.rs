//! The take: peek, judge in Rust, claim by one atomic script.
//!
//! A queue may be shared with other workers, so nothing is popped before it is known to be ours, and
//! what is not ours stays in its place.

mod judge;
mod seen;
mod take;
mod wake;

use super::CeleryError;
use super::client::Backoff;
use super::lease::{Lease, Leases};
use super::message::{Envelope, Limits, Message, Refusal};
use judge::{Entry, Judged};
use seen::{Seen, Stays};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fmt, time::Duration};
use take::Peek;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use wake::Wake;

pub use judge::Verdict;

/// Without any news the queues are looked at this often all the same.
const SAFETY_POLL: Duration = Duration::from_secs(5);

/// And this often where the server announces nothing.
const POLL: Duration = Duration::from_millis(100);

/// Entries read at once: few at first, for on a queue of our own the first is taken; then more, to
/// get through others' messages.
const FIRST_WINDOW: usize = 4;
const LONGEST_WINDOW: usize = 256;

/// So many messages of ours that have to wait are looked past in one list. Behind them may lie one that
/// need not wait, but nobody wants to read a queue of a million from end to end.
const LOOKAHEAD: usize = 1000;

/// How many unreadable entries of a queue are kept.
const UNREADABLE_KEPT: u32 = 1000;

/// A message that was taken, and what it says.
#[derive(Debug)]
pub struct Delivery {
    /// Settle it when the work is done and the result is stored.
    pub lease: Lease,
    /// The queue it came from.
    pub queue: String,
    /// The message, or why its contents are refused: store that as FAILURE, then ack.
    pub content: Result<Message, Refusal>,
}

/// What a consumer has to say beside deliveries; for logs and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// An entry that nobody can read was moved to `<queue>.unreadable`.
    Unreadable {
        /// The queue it lay in.
        queue: String,
        /// What is wrong with it.
        why: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// The server does not announce changes of the queues (too old, behind a proxy, forbidden): they
    /// are looked at every 100 ms instead. Said once.
    Polling {
        /// What the server said.
        why: String,
    },
    /// Redis was lost; the consumer goes on trying. Said once per loss.
    Lost {
        /// What went wrong.
        why: String,
    },
    /// Redis is back after a loss.
    Back,
}

/// Takes messages of its queues, one at a time.
pub struct Consumer {
    leases: Leases,
    queues: Vec<String>,
    /// Index of the queue and key of each list, in the order of service.
    lists: Vec<(usize, String)>,
    limits: Limits,
    wake: Wake,
    safety_poll: Duration,
    hear: Box<dyn Fn(Notice) + Send + Sync>,
    looked: Box<dyn Fn() + Send + Sync>,
    again: AtomicBool,
    state: Mutex<State>,
    foreign: std::sync::Mutex<Vec<usize>>,
}

/// What one call of `next` leaves to the following one.
#[derive(Debug)]
struct State {
    /// Of each list.
    seen: Vec<Seen>,
    polling: bool,
    lost: bool,
}

impl Consumer {
    /// A consumer of `queues`, served in this order within each priority. Connects when first used.
    ///
    /// # Errors
    ///
    /// [`CeleryError::Config`] when a certificate file cannot be read.
    pub fn new(leases: Leases, queues: &[String]) -> Result<Self, CeleryError> {
        let lists = leases.keys().lists(queues);
        let keys = lists.iter().map(|(_, key)| key.clone()).collect();
        let prefixes: Vec<_> = queues.iter().map(|queue| leases.keys().list(queue, 0)).collect();
        let seen = lists.iter().map(|_| Seen::default()).collect();
        Ok(Self {
            wake: Wake::new(leases.client(), &prefixes, keys)?,
            leases,
            queues: queues.to_vec(),
            foreign: std::sync::Mutex::new(vec![0; queues.len()]),
            lists,
            limits: Limits::default(),
            safety_poll: SAFETY_POLL,
            hear: Box::new(|_| ()),
            looked: Box::new(|| ()),
            again: AtomicBool::new(false),
            state: Mutex::new(State { seen, polling: false, lost: false }),
        })
    }

    /// Sets who hears the notices; must not block.
    #[must_use]
    pub fn on_notice(mut self, hear: impl Fn(Notice) + Send + Sync + 'static) -> Self {
        self.hear = Box::new(hear);
        self
    }

    /// Sets who is told after each look at the queues that Redis has let us finish; must not block. While the
    /// consumer waits for messages, that is every [5 s](Self::with_safety_poll) at least.
    #[must_use]
    pub fn on_look(mut self, looked: impl Fn() + Send + Sync + 'static) -> Self {
        self.looked = Box::new(looked);
        self
    }

    /// Sets other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets how often the queues are looked at without any news, 5 s by default.
    #[must_use]
    pub fn with_safety_poll(mut self, every: Duration) -> Self {
        self.safety_poll = every;
        self
    }

    /// Waits for a message that `judge` takes. `None` once `stop` fires.
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

    /// Waits for messages that `judge` takes, and takes those that it finds together, `most` at once.
    /// None once `stop` fires. `judge` is shown each message, and those that are about to be taken with it.
    ///
    /// Survives any loss of Redis. Only the waiting ends by `stop`, never a claim under way, so use
    /// the token rather than dropping the future: a claim that is dropped comes back by the
    /// [`Keeper`](super::sweep::Keeper). One call at a time: others wait their turn.
    ///
    /// # Errors
    ///
    /// Only what waiting does not mend: Redis refuses the credentials, the rights, or the type of a key.
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

    /// Looks again at what was judged `Later`: call it when a component becomes free.
    pub fn reconsider(&self) {
        self.again.store(true, Ordering::Release);
        self.wake.shout();
    }

    /// How many messages of tasks that are not ours lie in each queue, as far as they were seen.
    pub fn foreign(&self) -> Vec<(String, usize)> {
        let counts = self.foreign.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.queues.iter().cloned().zip(counts.iter().copied()).collect()
    }

    /// How many messages wait in each queue, of all priorities.
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

    /// One look through all lists, up to the first messages that are taken.
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
                // What had to wait is judged again before what came after it.
                _ if self.again.load(Ordering::Acquire) => {}
                Peek::Moved { list, oldest } => {
                    let full = seen[list].is_full();
                    seen[list].shift(&oldest);
                    // Another worker has taken what waited for room: what waited behind it need not any more.
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

    /// Does with entries what they deserve. They are the next ones to the left of what was `seen`; `full`
    /// says that one before them waits for room.
    async fn settle(
        &self,
        list: usize,
        (seen, mut full): (&mut Seen, bool),
        entries: &[Entry],
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
                Judged::Take(look) if !full => chosen.push(Chosen { place, entry, look }),
                Judged::Ahead(look) => chosen.push(Chosen { place, entry, look }),
                Judged::Take(_) | Judged::Full => {
                    full = true;
                    seen.push(&entry.digest, Stays::Full);
                }
                Judged::Foreign => seen.push(&entry.digest, Stays::Foreign),
                Judged::Later => seen.push(&entry.digest, Stays::Later),
                Judged::Unreadable(why) => {
                    if !self.set_aside(list, place, entry).await? {
                        break; // the list has changed meanwhile
                    }
                    (self.hear)(Notice::Unreadable { queue: queue.clone(), why, bytes: entry.bytes });
                }
            }
            if chosen.len() == most {
                break;
            }
        }
        let leases = self.claim(list, &chosen).await?;
        if leases.iter().any(Option::is_none) {
            // Another worker was quicker; what had to wait for those need not wait now.
            self.again.store(true, Ordering::Release);
            self.wake.shout();
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
            (self.hear)(Notice::Back);
        }
        let refusal = self.wake.link.refusal();
        let polled = std::mem::replace(&mut state.polling, refusal.is_some());
        if let Some(why) = refusal.filter(|_| !polled) {
            (self.hear)(Notice::Polling { why });
        }
    }

    fn note_loss(&self, state: &mut State, error: &CeleryError) {
        if !std::mem::replace(&mut state.lost, true) {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            (self.hear)(Notice::Lost { why: cause.unwrap_or_else(|| error.to_string()) });
        }
    }
}

/// An entry to take.
struct Chosen<'a> {
    /// From the right end of its list.
    place: usize,
    entry: &'a Entry,
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
