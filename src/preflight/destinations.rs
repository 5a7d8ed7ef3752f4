//! The checks of the destinations: room, rights, and keys to open the archives.

use crate::app;
use crate::catalog::{Catalog, folders};
use crate::config::Config;
use crate::domain::listing::BackupState;
use crate::domain::manifest::Manifest;
use crate::preflight::{Check, PATIENCE, in_time};
use crate::store::{Destination, Diagnosis};
use crate::stream::crypt::Encryption;
use std::{collections::VecDeque, sync::Arc};

/// The checks of every destination, the nearest first.
pub(super) async fn all(config: &Config) -> Vec<Check> {
    let (mut checks, mut usable) = (VecDeque::new(), VecDeque::new());
    // The farthest first: those that answer tell a near one how long the next backups will be.
    for destination in config.destinations.iter().rev() {
        usable.push_front(destination);
        let next = Box::pin(next_bytes(config, &usable));
        let found = destination.diagnose(&folders(), next, PATIENCE).await;
        if found.is_err() {
            usable.pop_front(); // one that does not answer is not asked again
        }
        checks.push_front(check(destination, found));
    }
    checks.into()
}

/// The check of a destination.
pub(super) fn check(destination: &Arc<dyn Destination>, found: Result<String, Diagnosis>) -> Check {
    let (found, fix) = match found {
        Ok(found) => (Ok(found), String::new()),
        Err(Diagnosis { found, fix }) => (Err(found), fix),
    };
    Check::new(destination.kind().check, found, &fix)
}

/// Returns the bytes of the last whole backup of each component, summed: about as many as the next ones will take.
/// `None`: nobody can tell.
async fn next_bytes(config: &Config, destinations: &VecDeque<&Arc<dyn Destination>>) -> Option<u64> {
    let mut stores = Vec::new();
    for destination in destinations {
        stores.push(destination.open(None).await.ok()?);
    }
    let catalog = Catalog::new(stores);
    let entries = in_time(Box::pin(catalog.list(None))).await.ok()?.ok()?.entries;
    let last = |component: &crate::component::Component| {
        let name = component.name();
        let mut of_this = entries.iter().filter(|entry| entry.component() == name);
        of_this.find(|entry| entry.state() == BackupState::Ok)?.manifest().map(Manifest::size_bytes)
    };
    Some(app::components(config, None).iter().filter_map(last).sum())
}

/// Reports whether this machine can open the archives that it encrypts.
pub(super) fn encryption(encryption: &Encryption) -> Option<Check> {
    let found = match (&encryption.recipients, &encryption.identities) {
        (None, _) => return None,
        (Some(_), Some(_)) => "archives are encrypted; BACKUP_AGE_IDENTITY_FILE is there to open them",
        (Some(_), None) => {
            "archives are encrypted, and this machine has no key: it can back up and compare hashes, but neither \
             verify contents nor restore without BACKUP_AGE_IDENTITY_FILE"
        }
    };
    Some(Check::new("encryption", Ok(found.to_owned()), ""))
}
