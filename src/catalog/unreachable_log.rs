//! Destinations that did not answer a moment ago: to ask one again costs seconds each time, and a run asks often.

use crate::catalog::CatalogError;
use crate::store::StoreError;
use std::{
    collections::HashMap,
    io,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The time for which a destination that has not answered is not asked again: long enough for the questions of one run,
/// too short for anybody to wait for its end.
const RETRY_AFTER: Duration = Duration::from_secs(15);

/// The destinations that do not answer, each with the time of its last silence.
#[derive(Debug, Default)]
pub(super) struct UnreachableLog(Mutex<HashMap<&'static str, Instant>>);

impl UnreachableLog {
    /// Notes the answer of a destination: `None` for success.
    pub(super) fn note(&self, destination: &'static str, err: Option<&CatalogError>) {
        let mut silent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match err {
            Some(CatalogError::Store { source: StoreError::Unavailable { .. }, .. }) => {
                silent.insert(destination, Instant::now());
            }
            _ => drop(silent.remove(destination)),
        }
    }

    /// The error of a destination that was silent a moment ago.
    pub(super) fn of(&self, destination: &'static str) -> Option<CatalogError> {
        let silent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = silent.get(destination).filter(|since| since.elapsed() < RETRY_AFTER)?;
        let ago = since.elapsed().as_secs();
        let source = io::Error::other(format!("it did not answer {ago} s ago, and was not asked again"));
        let key = destination.parse().ok()?;
        Some(CatalogError::Store {
            op: "list backups",
            source: StoreError::Unavailable { op: "list", key, source: source.into() },
        })
    }
}
