//! Renews this worker's leases, and requeues the messages of dead workers.

use super::CeleryError;
use super::client::{Backoff, Client};
use super::lease::{Claim, Leases, RESTORED, Record};
use super::lock::ForeignLock;
use super::message;
use super::restore::{LONGEST_MARKED, Restorer};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error as _;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{field::display, info, warn};

/// The lifetime of a worker's record in ms, without a renewal: four times the renewal interval, so that a few
/// renewals may fail before other workers take the worker for dead.
pub(super) const RECORD_LIFE_MS: u64 = 20_000;

/// The interval of renewing the record and of checking the leases of other workers.
const EVERY: Duration = Duration::from_secs(5);

/// The time after a connection during which a missing record does not mean death: all records expire while Redis is
/// down.
const PATIENCE: Duration = Duration::from_secs(10);

/// The maximum interval of renewing the scores of leases, in case another worker's visibility timeout
/// is shorter than ours.
const LONGEST_RENEWAL: Duration = Duration::from_mins(1);

/// Renews this process's record and leases, and requeues the messages of dead workers.
///
/// A worker of this program is dead when its process is seen to have ended on the same machine, or else when its
/// record has expired, 20 s after the last renewal: then its messages are requeued and its
/// [locks](super::lock) are freed. Messages that this process holds but that are not in hand (the answer to a claim
/// was lost, or a lease was dropped) are requeued too. Messages of other consumers are requeued after the
/// visibility timeout.
#[derive(Debug)]
pub struct LeaseKeeper {
    leases: Leases,
    renewal: Duration,
    patience: Duration,
    connection: (u64, Instant),
    renewed: Option<Instant>,
    restorer: Restorer,
}

impl LeaseKeeper {
    /// Creates a keeper of `leases` on a broker whose other workers use this visibility timeout.
    pub fn new(leases: Leases, visibility_timeout: Duration) -> Self {
        let renewal = (visibility_timeout / 3).min(LONGEST_RENEWAL);
        Self {
            restorer: Restorer::new(leases.clone(), visibility_timeout),
            leases,
            renewal,
            patience: PATIENCE,
            connection: (0, Instant::now()),
            renewed: None,
        }
    }

    /// Sets the time after a connection during which a missing record does not mean death; 10 s by default.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Runs until `stop` fires, which should be after the last lease is settled; then removes the record.
    pub async fn run(mut self, stop: CancellationToken) {
        let (mut backoff, mut failing) = (Backoff::START, false);
        loop {
            let pause = match self.round().await {
                Ok(given_back) => {
                    if given_back > 0 {
                        info!(messages = given_back, "gave back what nobody had in hand any more");
                    }
                    (backoff, failing) = (Backoff::START, false);
                    EVERY.min(self.renewal)
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        let why = error.source().map(display);
                        warn!(why, "leases are not renewed until redis is back");
                    }
                    backoff.step()
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.leases.outcome_unknown().notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        // Frees the locks that were dropped since the last round. Without Redis, other workers free them once the
        // record has expired.
        let _ = self.leases.locks().look_after().await;
        let mut del = redis::cmd("DEL");
        del.arg(self.leases.keys().worker(self.leases.instance().id()));
        // Without Redis, the record expires by itself.
        let _ = self.client().command::<()>("remove worker record", &del).await;
    }

    fn client(&self) -> &Client {
        self.leases.client()
    }

    /// Runs one round: renews the record and the leases, and requeues the messages of dead workers. Returns the
    /// number of requeued messages.
    ///
    /// # Errors
    ///
    /// Any error of Redis; the next round tries again.
    pub async fn round(&mut self) -> Result<usize, CeleryError> {
        let leases = self.leases.clone();
        if let Err(error) = renew_record(&leases).await {
            // Redis refuses the writes of other workers too, so their records expire meanwhile although they are
            // alive.
            self.connection.1 = Instant::now();
            return Err(error);
        }
        self.renew_scores().await?;
        if self.connection.0 != self.client().connects() {
            self.connection = (self.client().connects(), Instant::now());
        }
        // Requeuing thousands of messages may take longer than the record's lifetime.
        let renewing = async {
            loop {
                tokio::time::sleep(EVERY).await;
                let _ = renew_record(&leases).await;
            }
        };
        let giving_back = async { Ok(self.sweep().await? + self.restorer.round().await?) };
        tokio::select! {
            done = giving_back => done,
            () = renewing => unreachable!("it goes on for ever"),
        }
    }

    /// Sets the scores of the tags in hand to the current time, so that no sweep by visibility timeout requeues them.
    async fn renew_scores(&mut self) -> Result<(), CeleryError> {
        let tags = self.leases.in_hand();
        if tags.is_empty() || self.renewed.is_some_and(|at| at.elapsed() < self.renewal) {
            return Ok(());
        }
        let (seconds, micros): (u64, u64) = self.client().command("read time", &redis::cmd("TIME")).await?;
        let now = format!("{seconds}.{micros:06}");
        let mut zadd = redis::cmd("ZADD");
        zadd.arg(self.leases.keys().unacked_index()).arg("XX");
        for tag in &tags {
            zadd.arg(&now).arg(tag);
        }
        let _: usize = self.client().command("renew leases", &zadd).await?;
        self.renewed = Some(Instant::now());
        Ok(())
    }

    async fn sweep(&self) -> Result<usize, CeleryError> {
        let mut get = redis::cmd("HGETALL");
        get.arg(self.leases.keys().leases());
        let held: HashMap<String, Vec<u8>> = self.client().command("read leases", &get).await?;
        let mut of_worker: BTreeMap<String, Vec<(String, Claim)>> = BTreeMap::new();
        for (tag, text) in held {
            if let Some(claim) = Claim::parse(&text) {
                of_worker.entry(claim.worker.clone()).or_default().push((tag, claim));
            }
        }
        let mut given_back = 0;
        if let Some(own) = of_worker.remove(self.leases.instance().id()) {
            given_back += self.give_back_own(own).await?;
        }
        let mut locked: BTreeMap<String, Vec<ForeignLock>> = BTreeMap::new();
        for lock in self.leases.locks().look_after().await? {
            locked.entry(lock.worker.clone()).or_default().push(lock);
        }
        let others: BTreeSet<String> = of_worker.keys().chain(locked.keys()).cloned().collect();
        for worker in others {
            if let Some(record) = self.record_of_the_dead(&worker).await? {
                given_back += self.give_back(of_worker.remove(&worker).unwrap_or_default(), &record).await?;
                for lock in locked.remove(&worker).unwrap_or_default() {
                    self.leases.locks().free_foreign(&lock, &record).await?;
                }
            }
        }
        Ok(given_back)
    }

    /// Requeues the messages that this process holds in Redis but not in hand. Claims wait meanwhile, so that no
    /// message is requeued whose claim is under way.
    async fn give_back_own(&self, mut held: Vec<(String, Claim)>) -> Result<usize, CeleryError> {
        held.retain(|(tag, _)| !self.leases.holds(tag));
        if held.is_empty() {
            return Ok(0); // so claims need not wait
        }
        let _no_claim = self.leases.claims().write().await;
        held.retain(|(tag, _)| !self.leases.holds(tag));
        self.give_back(held, "*").await
    }

    /// Returns the record of a dead worker, empty if the record has expired; `None` if the worker may be alive.
    async fn record_of_the_dead(&self, worker: &str) -> Result<Option<String>, CeleryError> {
        let mut get = redis::cmd("GET");
        get.arg(self.leases.keys().worker(worker));
        let text: Option<String> = self.client().command("read worker record", &get).await?;
        let Some(text) = text else {
            return Ok((self.connection.1.elapsed() >= self.patience).then(String::new));
        };
        let record = serde_json::from_str::<Record>(&text).ok();
        Ok(record.is_some_and(|record| self.leases.instance().sees_the_end_of(&record)).then_some(text))
    }

    /// Requeues messages, the latest first, so that the oldest is served first.
    async fn give_back(&self, held: Vec<(String, Claim)>, record: &str) -> Result<usize, CeleryError> {
        if held.is_empty() {
            return Ok(0);
        }
        let index = self.leases.keys().unacked_index();
        let mut scores = redis::pipe();
        for (tag, _) in &held {
            scores.cmd("ZSCORE").arg(&index).arg(tag);
        }
        let read = |mut link| async move { scores.query_async(&mut link).await };
        let scores: Vec<Option<f64>> = self.client().once("read times of leases", read).await?;
        let mut dated: Vec<_> = held.iter().zip(scores).collect();
        dated.sort_by(|(_, a), (_, b)| b.unwrap_or(0.0).total_cmp(&a.unwrap_or(0.0)));
        let mut given_back = 0;
        for ((tag, claim), _) in dated {
            given_back += usize::from(self.give_back_one(tag, claim, record).await? == RESTORED);
        }
        Ok(given_back)
    }

    async fn give_back_one(&self, tag: &str, claim: &Claim, record: &str) -> Result<u8, CeleryError> {
        let mut text = None;
        // A longer message is requeued by the script unchanged, without being read here.
        if claim.size <= LONGEST_MARKED {
            let mut get = redis::cmd("HGET");
            get.arg(self.leases.keys().unacked()).arg(tag);
            let stored: Option<Vec<u8>> = self.client().command("read leased message", &get).await?;
            text = stored.as_deref().and_then(|stored| message::redelivered(claim.message_in(stored)?));
        }
        let call = self.leases.restore(tag, claim, record, text.as_deref());
        self.client().script("give message back", &call).await
    }
}
/// Renews this process's record in Redis.
async fn renew_record(leases: &Leases) -> Result<(), CeleryError> {
    let mut set = redis::cmd("SET");
    set.arg(leases.keys().worker(leases.instance().id())).arg(leases.record()).arg("PX").arg(RECORD_LIFE_MS);
    leases.client().command("renew worker record", &set).await
}
