//! Looks at the destinations: the gauges that come from the catalogue, and which destination cannot be used.

use crate::base::{access::AccessProblem, chain};
use crate::catalog::{self, CatalogError, Entry, Listing};
use crate::domain::clock_doubt::ClockDoubt;
use crate::domain::component::ComponentName;
use crate::domain::listing::BackupState;
use crate::domain::manifest::Manifest;
use crate::engine::Engine;
use crate::store::{AccessCheck, Store, StoreError};
use jiff::Timestamp;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Mutex, Notify};

/// No light look at one destination takes longer. A bucket that lets connections hang would hold up the others.
const PATIENCE: Duration = Duration::from_secs(20);

/// A destination that cannot be used. The cause says why.
#[derive(Debug, Clone, thiserror::Error)]
#[error("use destination {destination}")]
pub struct Unusable {
    /// The name of the destination.
    pub destination: &'static str,
    /// The error; several destinations may share one.
    pub source: Arc<CatalogError>,
}

/// The changes that runs make in the destinations. No result waits until metrics and tables show them: a task of the
/// worker sees to that, and the end of the program.
#[derive(Debug, Default)]
pub struct Changes {
    made: AtomicU64,
    shown: Mutex<u64>,
    arrived: Notify,
}

impl Changes {
    /// Notes that a run has ended, which may have changed something.
    pub(super) fn note(&self) {
        self.made.fetch_add(1, Ordering::Relaxed);
        self.arrived.notify_one();
    }
}

impl Unusable {
    fn new(store: &Arc<dyn Store>, source: StoreError) -> Self {
        let source = CatalogError::Store { op: "look at the destination", source };
        Self { destination: store.destination(), source: Arc::new(source) }
    }

    /// The reason in one line, without any secret.
    fn reason(&self) -> String {
        AccessProblem::within(self).map_or_else(|| chain(&self.source), ToString::to_string)
    }
}

impl Engine {
    /// Looks at every destination at little cost: every minute. One that can be used again is read and written for
    /// real before it counts as well. Metrics and `/readyz` say what is found.
    pub async fn look_at_destinations(&self) -> Vec<Unusable> {
        let mut unusable = Vec::new();
        for store in self.catalog.stores() {
            match self.check_access(store, AccessCheck::Answer).await {
                Err(source) => unusable.push(Unusable::new(store, source)),
                Ok(()) if self.observer.is_destination_well(store.destination()) => {}
                Ok(()) => {
                    self.catalog.answers(store.destination());
                    return self.read_destinations(true).await;
                }
            }
        }
        self.note_all(&unusable, true);
        unusable
    }

    /// Reads the whole catalogue, and brings the gauges and the tables in the app's database up to date: at start,
    /// after each run, and now and then. With `writing` a destination that was not well is written to, and may be well
    /// again; without, it stays what it was.
    pub async fn read_destinations(&self, writing: bool) -> Vec<Unusable> {
        let mut listing = match self.catalog.list(None).await {
            Ok(listing) => listing,
            Err(err) => {
                let unusable = self.each_reason(err).await;
                self.note_all(&unusable, writing);
                return unusable;
            }
        };
        let mut unusable = Vec::new();
        for store in self.catalog.stores() {
            let destination = store.destination();
            if let Ok(Some(free)) = store.free_bytes().await {
                self.observer.destination_free(destination, free);
            }
            if !listing.has_read(destination) {
                continue;
            }
            self.count_copies(destination, &listing.entries);
            let is_well = self.observer.is_destination_well(destination);
            let depth = if writing && !is_well { AccessCheck::Write } else { AccessCheck::Rights };
            if let Err(source) = self.check_access(store, depth).await {
                unusable.push(Unusable::new(store, source));
            }
        }
        self.show(&listing).await;
        let unreachable = std::mem::take(&mut listing.unreachable).into_iter();
        unusable.extend(unreachable.map(|unreachable| Unusable {
            destination: unreachable.destination,
            source: unreachable.into_error().into(),
        }));
        self.note_all(&unusable, writing);
        if let Some(mirror) = &self.mirror {
            mirror.show(listing);
        }
        unusable
    }

    /// Brings metrics and tables up to date after each change, until the future is dropped.
    pub async fn keep_fresh(&self) {
        loop {
            self.changes.arrived.notified().await;
            self.refresh().await;
        }
    }

    /// As [`read_destinations`](Self::read_destinations), if something has changed since the last time; for callers that
    /// do not report the faults: they are logged.
    pub async fn refresh(&self) {
        let mut shown = self.changes.shown.lock().await;
        let made = self.changes.made.load(Ordering::Relaxed);
        if *shown == made {
            return;
        }
        for unusable in self.read_destinations(false).await {
            tracing::warn!(error = %chain(&unusable), "a destination cannot be used");
        }
        *shown = made;
    }

    /// The reason of each destination when none can be read: the catalogue tells of the last alone.
    async fn each_reason(&self, err: CatalogError) -> Vec<Unusable> {
        let (stores, common) = (self.catalog.stores(), Arc::new(err));
        let mut unusable = Vec::new();
        for store in stores {
            let own = if stores.len() > 1 {
                self.check_access(store, AccessCheck::Answer).await.err()
            } else {
                None
            };
            let shared = || Unusable { destination: store.destination(), source: Arc::clone(&common) };
            unusable.push(own.map_or_else(shared, |source| Unusable::new(store, source)));
        }
        unusable
    }

    async fn check_access(&self, store: &Arc<dyn Store>, depth: AccessCheck) -> Result<(), StoreError> {
        let folders = catalog::folders();
        let tried = tokio::time::timeout(PATIENCE, store.check_access(&folders, depth)).await;
        tried.unwrap_or_else(|_| {
            let why = io::Error::other(format!("no answer within {} s", PATIENCE.as_secs()));
            let key = folders.into_iter().next().expect("there are folders");
            Err(StoreError::Unavailable { op: "reach", key, source: why.into() })
        })
    }

    /// Notes the findings of a look; a look that has only read makes no destination well.
    fn note_all(&self, unusable: &[Unusable], written: bool) {
        for store in self.catalog.stores() {
            let destination = store.destination();
            let found = unusable.iter().find(|unusable| unusable.destination == destination);
            match found {
                Some(found) => self.observer.destination(destination, Err(found.reason())),
                None if written || self.observer.is_destination_well(destination) => {
                    self.observer.destination(destination, Ok(()));
                }
                None => {}
            }
        }
    }

    /// Sets the metrics of the newest backups, and of the remembered outcomes of the last runs.
    async fn show(&self, listing: &Listing) {
        let (entries, now) = (&listing.entries, self.clock.now());
        for name in ComponentName::ALL {
            let all = || entries.iter().filter(move |entry| entry.component() == name);
            // A time that a clock ahead has noted would hide all to come.
            for verified in all().filter_map(Entry::manifest).map(|manifest| &manifest.verified) {
                if let Some(at) = verified.at.filter(|at| *at <= now) {
                    self.observer.proven(name, verified.level, at.as_second());
                }
            }
            let of_this = || all().filter(|entry| !entry.is_ahead(now));
            let is_doubted = clock_doubt(of_this(), now).is_some() || all().any(|entry| entry.is_ahead(now));
            self.observer.clock_in_doubt(name, is_doubted);
            self.observer.anomaly(name, newest_is_suspect(of_this()));
            let newest = of_this().filter_map(Entry::manifest).find(|manifest| manifest.is_verified());
            if newest.is_some() || listing.unreachable.is_empty() {
                self.observer.newest(name, newest);
            }
            self.recall(name, newest).await;
        }
    }

    fn count_copies(&self, destination: &str, entries: &[Entry]) {
        for name in ComponentName::ALL {
            let states: Vec<_> = entries
                .iter()
                .filter(|entry| entry.component() == name)
                .filter_map(|entry| catalogue_state(entry, destination))
                .collect();
            for state in CATALOGUE_STATES {
                let count = states.iter().filter(|of_one| **of_one == state).count();
                self.observer.catalogue(name, destination, state, count);
            }
        }
    }
}

/// Doubt about the clock, from the times of the backups of one component, which come the newest first. Pinned backups tell
/// nothing: retention has deleted those that were made around them.
pub(super) fn clock_doubt<'a>(
    entries: impl IntoIterator<Item = &'a Entry>,
    now: Timestamp,
) -> Option<ClockDoubt> {
    let is_pinned = |entry: &Entry| entry.manifest().is_some_and(|manifest| manifest.pinned);
    let past = entries.into_iter().filter(|entry| !entry.is_ahead(now) && !is_pinned(entry));
    ClockDoubt::find(past.map(|entry| entry.created_at), now)
}

/// Tests whether the newest backup that counts is much smaller than before, and nobody has accepted that. `entries`
/// come the newest first.
pub(super) fn newest_is_suspect<'a>(mut entries: impl Iterator<Item = &'a Entry>) -> bool {
    let newest = entries.find(|entry| entry.is_verified() && entry.state() == BackupState::Ok);
    newest.and_then(Entry::manifest).is_some_and(Manifest::is_suspect)
}

/// The states by which the metrics count the catalogue's backups.
const CATALOGUE_STATES: [&str; 4] = ["verified", "unverified", "failed", "missing"];

fn catalogue_state(entry: &Entry, destination: &str) -> Option<&'static str> {
    let copy = entry.copies.iter().find(|copy| copy.destination == destination)?;
    Some(match copy.state {
        BackupState::Ok if entry.is_verified() => "verified",
        BackupState::Ok => "unverified",
        BackupState::Failed => "failed",
        BackupState::Missing => "missing",
    })
}
