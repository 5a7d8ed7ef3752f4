//! The catalogue in the app's database, for Django Admin: two tables that follow the manifests and the runs.
//!
//! No run waits for the tables. The newest state is left in an inbox, and a background task carries that to the
//! database: in one transaction, with a connection that it does not keep, again and again with longer and longer
//! pauses while the database is down.

mod rows;
mod tables;
mod write;

use crate::base::backoff::Backoff;
use crate::base::chain;
use crate::catalog::Listing;
use deadpool_postgres::{Pool, PoolError, tokio_postgres};
use std::{
    collections::{BTreeMap, VecDeque},
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use write::PreservedRows;

pub use rows::RunRow;
pub use tables::{MARK, TABLES};

/// Runs that wait for the database at most: the oldest go.
const WAITING_RUNS: usize = 1000;

/// One attempt may take so long.
const ATTEMPT: Duration = Duration::from_mins(1);

/// Between two signs of life of a run.
const HEARTBEAT: Duration = Duration::from_mins(1);

/// The first pause between attempts, which doubles, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_mins(5));

/// A fault that is over within this time is not logged: the database was just replaced, or a command ended and the
/// next one will show the command's backup.
const PASSING: Duration = Duration::from_secs(1);

/// The longest wait for the last change at the end of the program.
const FAREWELL: Duration = Duration::from_secs(5);

/// The tables in one database.
pub struct Mirror {
    shared: Arc<MirrorState>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

struct MirrorState {
    pool: Pool,
    inbox: Mutex<Inbox>,
    arrived: Notify,
    closing: CancellationToken,
    /// True if missing tables are made.
    makes: AtomicBool,
}

/// The changes that wait to be written.
#[derive(Default)]
struct Inbox {
    shown: Option<Arc<Listing>>,
    runs: VecDeque<RunRow>,
    /// Runs of this process that have not ended; true for those that may replace the database.
    live: BTreeMap<String, bool>,
}

/// The changes that are being written.
struct Todo {
    shown: Option<Arc<Listing>>,
    runs: Vec<RunRow>,
    live: Vec<String>,
    overwriting: bool,
}

/// The reason that the tables cannot be brought up to date.
#[derive(Debug, thiserror::Error)]
enum MirrorError {
    /// No connection.
    #[error("connect to the app's database")]
    Connect(#[source] PoolError),
    /// The server refuses something, or went away.
    #[error("write the tables of the catalogue")]
    Database(#[from] tokio_postgres::Error),
    /// The server does not answer.
    #[error("the app's database does not answer in time")]
    Late,
    /// Somebody else's table is in the way.
    #[error(
        "public.{table} is not a table of rna-backup, and is left alone: rename it (one of ours bears a comment \
         that begins with `{MARK}`, see schemas/catalog.sql)"
    )]
    Foreign { table: &'static str },
    /// The role may not make the tables.
    #[error(
        "the tables of the catalogue cannot be made: GRANT CREATE ON SCHEMA public TO \"{role}\", or let the owner \
         run schemas/catalog.sql, which says what else to grant"
    )]
    Rights { role: String, source: tokio_postgres::Error },
}

impl From<PoolError> for MirrorError {
    fn from(err: PoolError) -> Self {
        if matches!(err, PoolError::Timeout(_)) { Self::Late } else { Self::Connect(err) }
    }
}

impl MirrorError {
    /// True if time alone will not help.
    fn is_permanent(&self) -> bool {
        matches!(self, Self::Foreign { .. } | Self::Rights { .. })
    }
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").finish_non_exhaustive()
    }
}

impl Mirror {
    /// The tables in the database of `pool`, where it has them. Connects when there is something to show.
    pub fn new(pool: Pool) -> Self {
        let (inbox, arrived, closing, makes) = <_>::default();
        Self {
            shared: Arc::new(MirrorState { pool, inbox, arrived, closing, makes }),
            keeper: Mutex::default(),
        }
    }

    /// Makes missing tables from now on: for a worker, which lives beside the app. A command by hand leaves a database
    /// as it is.
    pub fn make_tables(&self) {
        self.shared.makes.store(true, Ordering::Relaxed);
    }

    /// Queues this catalogue to be written into the tables. Returns at once.
    pub fn show(&self, listing: Listing) {
        self.shared.inbox().shown = Some(Arc::new(listing));
        self.wake();
    }

    /// Queues the present state of a run to be written into the tables. Returns at once.
    pub fn record(&self, run: RunRow) {
        let mut inbox = self.shared.inbox();
        if run.is_running() {
            inbox.live.insert(run.run_id.clone(), run.is_overwriting());
        } else {
            inbox.live.remove(&run.run_id);
        }
        inbox.runs.retain(|older| older.run_id != run.run_id);
        inbox.runs.push_back(run);
        if inbox.runs.len() > WAITING_RUNS {
            inbox.runs.pop_front();
        }
        drop(inbox);
        self.wake();
    }

    /// Waits until the queued changes are written, for a few seconds. For the end of the program.
    pub async fn close(&self) {
        self.shared.closing.cancel();
        let keeper = lock(&self.keeper).take();
        let Some(mut keeper) = keeper else { return };
        if tokio::time::timeout(FAREWELL, &mut keeper).await.is_err() {
            keeper.abort();
            tracing::warn!(
                "the app's database does not answer, its tables of the catalogue are not up to date"
            );
        }
    }

    fn wake(&self) {
        let mut keeper = lock(&self.keeper);
        if keeper.is_none() && !self.shared.closing.is_cancelled() {
            *keeper = Some(tokio::spawn(keep(Arc::clone(&self.shared))));
        }
        self.shared.arrived.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The values are right even after a panic elsewhere: each change is one call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MirrorState {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        lock(&self.inbox)
    }

    fn take(&self) -> Todo {
        let mut inbox = self.inbox();
        Todo {
            shown: inbox.shown.take(),
            runs: mem::take(&mut inbox.runs).into(),
            live: inbox.live.keys().cloned().collect(),
            overwriting: inbox.live.values().any(|overwriting| *overwriting),
        }
    }

    /// Puts changes that could not be written back into the inbox, unless there is a newer one.
    fn put_back(&self, todo: Todo) {
        let mut inbox = self.inbox();
        inbox.shown = inbox.shown.take().or(todo.shown);
        for run in todo.runs.into_iter().rev() {
            let is_old = inbox.runs.iter().any(|newer| newer.run_id == run.run_id);
            if !is_old && inbox.runs.len() < WAITING_RUNS {
                inbox.runs.push_front(run);
            }
        }
    }
}

/// Writes the changes that arrive, until the end of the program.
async fn keep(shared: Arc<MirrorState>) {
    let mut preserved = PreservedRows::default();
    let mut fault = CurrentFault::default();
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
    loop {
        let closing = shared.closing.is_cancelled();
        let todo = shared.take();
        let mut pause = (!todo.live.is_empty()).then_some(HEARTBEAT);
        if todo.is_due() {
            let attempt = tokio::time::timeout(ATTEMPT, shared.write(&todo, &mut preserved)).await;
            match attempt.unwrap_or(Err(MirrorError::Late)) {
                Ok(()) => {
                    fault.clear();
                    backoff.reset();
                }
                Err(err) => {
                    fault.add(&err);
                    shared.put_back(todo);
                    pause = Some(backoff.step());
                }
            }
            // A connection that is idle for hours would block the renaming or dropping of the database.
            shared.pool.retain(|_, _| false);
        }
        if closing {
            return;
        }
        tokio::select! {
            () = shared.arrived.notified() => {}
            () = shared.closing.cancelled() => {}
            () = tokio::time::sleep(pause.unwrap_or(Duration::MAX)) => {}
        }
    }
}

impl Todo {
    fn is_due(&self) -> bool {
        self.shown.is_some() || !self.runs.is_empty() || !self.live.is_empty()
    }
}

/// The present fault, logged once.
#[derive(Default)]
struct CurrentFault {
    since: Option<Instant>,
    told: Option<String>,
}

impl CurrentFault {
    fn add(&mut self, err: &MirrorError) {
        let words = chain(err);
        let since = self.since.get_or_insert_with(Instant::now);
        let is_news = if err.is_permanent() {
            self.told.as_ref() != Some(&words)
        } else {
            self.told.is_none() && since.elapsed() > PASSING
        };
        if !is_news {
            tracing::debug!(error = words, "the tables of the catalogue are not up to date");
            return;
        }
        tracing::warn!(
            error = words,
            "the tables for Django Admin are not up to date; backups are not affected, and go on"
        );
        self.told = Some(words);
    }

    fn clear(&mut self) {
        if self.told.is_some() {
            tracing::info!("the tables for Django Admin are up to date again");
        }
        *self = Self::default();
    }
}
