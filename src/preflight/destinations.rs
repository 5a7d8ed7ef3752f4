//! The checks of the destinations: room, rights, and keys to open the archives.

use crate::app;
use crate::base::access::AccessProblem;
use crate::base::chain;
use crate::base::units::ByteSize;
use crate::catalog::{Catalog, folders};
use crate::config::Config;
use crate::domain::listing::BackupState;
use crate::domain::manifest::Manifest;
use crate::preflight::{Check, advice, in_time};
use crate::store::local::LocalStore;
use crate::store::s3::{Probe, S3Config, S3Store};
use crate::store::{AccessCheck, Store, StoreError};
use crate::stream::crypt::Encryption;
use std::{error::Error, sync::Arc};

/// The names of the destinations among the checks.
const LOCAL: &str = "local destination";
const S3: &str = "s3";

const FULL: &str = "make room, choose another BACKUP_ROOT, or lower BACKUP_MIN_FREE";
const REACH: &str = "start the server, or correct AWS_S3_ENDPOINT, HTTPS_PROXY or what lies between";
const CORRECT: &str = "correct AWS_BACKUP_BUCKET, AWS_S3_ENDPOINT, AWS_REGION, the keys, or what they may do";

/// The folder: whether it can be written, and has room for the next backup of everything. With `bucket`
/// what lies there is also looked at, to tell how long that will be.
pub(super) async fn local(config: &Config, bucket: bool) -> Check {
    let name = LOCAL;
    let root = config.root.display();
    let store = match LocalStore::open(&config.root, config.min_free) {
        Ok(store) => store,
        Err(err) => return closed_folder(config, &err),
    };
    let found = async {
        store.check_access(&folders(), AccessCheck::Write).await?;
        store.free_bytes().await
    };
    let room = match found.await {
        Ok(room) => room.unwrap_or(u64::MAX),
        Err(err) => return closed_folder(config, &err),
    };
    if !config.destinations.local {
        let found = format!("{root} holds locks only, since BACKUP_LOCAL is off; no backups go there");
        return Check::new(name, Ok(found), "");
    }
    let (next, keep) = (next_bytes(config, store, bucket).await, ByteSize(config.min_free));
    let found = match next {
        _ if room == 0 => Err(format!("{root} has no room beside the {keep} to be kept free")),
        Some(next) if next > room => Err(format!(
            "{root} has room for {}, and the last backups took {}; {keep} are to be kept free",
            ByteSize(room),
            ByteSize(next)
        )),
        Some(next) if next > 0 => {
            Ok(format!("{root} has room for {}; the last backups took {}", ByteSize(room), ByteSize(next)))
        }
        _ => Ok(format!("{root} has room for {}", ByteSize(room))),
    };
    Check::new(name, found, FULL)
}

/// The check of a destination that `err` has closed, for any kind of look.
pub(super) fn closed(config: &Config, destination: &str, err: &(dyn Error + 'static)) -> Check {
    match &config.destinations.bucket {
        Some(bucket) if destination == "s3" => closed_bucket(bucket, err),
        _ => closed_folder(config, err),
    }
}

/// The name of a destination among the checks.
pub(super) fn name(destination: &str) -> &'static str {
    if destination == "s3" { S3 } else { LOCAL }
}

fn closed_folder(config: &Config, err: &(dyn Error + 'static)) -> Check {
    if let Some(problem) = AccessProblem::within(err) {
        return Check::new(LOCAL, Err(format!("BACKUP_ROOT: {}", problem.found)), &problem.fix);
    }
    let denied = "let the user of this process write to BACKUP_ROOT, or choose another one";
    let fix = if matches!(of_store(err), Some(StoreError::NoSpace { .. })) { FULL } else { denied };
    Check::new(LOCAL, Err(format!("{}: {}", config.root.display(), chain(err))), fix)
}

fn closed_bucket(bucket: &S3Config, err: &(dyn Error + 'static)) -> Check {
    let (name, why) = (&bucket.bucket, chain(err));
    let fix = match of_store(err) {
        Some(StoreError::Unavailable { .. }) => {
            let endpoint = bucket.endpoint.as_deref().unwrap_or("s3.amazonaws.com");
            advice::unknown_host(&why, endpoint, "AWS_S3_ENDPOINT").unwrap_or_else(|| REACH.to_owned())
        }
        _ if why.contains("AWS_SECRET_ACCESS_KEY") => advice::with_dollar(CORRECT, "AWS_SECRET_ACCESS_KEY"),
        _ => CORRECT.to_owned(),
    };
    Check::new(S3, Err(format!("bucket {name}: {why}")), &fix)
}

/// The error of a store that an error stands for.
fn of_store<'a>(err: &'a (dyn Error + 'static)) -> Option<&'a StoreError> {
    std::iter::successors(Some(err), |&err| err.source()).find_map(|err| err.downcast_ref())
}

/// Returns the bytes of the last whole backup of each component, summed: about as many as the next ones will take.
/// `None`: nobody can tell.
async fn next_bytes(config: &Config, local: LocalStore, bucket: bool) -> Option<u64> {
    let mut stores: Vec<Arc<dyn Store>> = vec![Arc::new(local)];
    if let Some(far) = config.destinations.bucket.clone().filter(|_| bucket) {
        stores.push(Arc::new(Box::pin(S3Store::open(far, None)).await.ok()?));
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

/// Tests whether the bucket does all that a backup asks of it.
pub(super) async fn s3(bucket: &S3Config) -> Check {
    let store = match Box::pin(S3Store::open(bucket.clone(), None)).await {
        Ok(store) => store,
        Err(err) => return Check::new(S3, Err(chain(&err)), "correct AWS_CA_BUNDLE"),
    };
    let check = Box::pin(store.probe()); // the SDK's futures are large
    match in_time(check).await {
        Ok(Ok(found)) => Check::new(S3, Ok(describe(bucket, found)), ""),
        Ok(Err(err)) => closed_bucket(bucket, &err),
        Err(late) => Check::new(S3, Err(format!("bucket {}: {late}", bucket.bucket)), REACH),
    }
}

fn describe(bucket: &S3Config, found: Probe) -> String {
    /// The difference between clocks, in seconds, that people should look into; requests are refused from 15 minutes
    /// on.
    const SKEW: i64 = 60;
    let mut words = format!("bucket {} can be written, read, listed and deleted from", bucket.bucket);
    if let Some(skew) = found.clock_skew.filter(|skew| skew.abs() >= SKEW) {
        words.push_str(&format!("; its clock is {skew} s ahead of this one"));
    }
    if !found.never_replaces {
        words.push_str("; it cannot refuse to replace an object, so let one machine alone back up at a time");
    }
    if !found.lists_uploads {
        words.push_str(
            "; it does not list unfinished uploads, so of runs that died those alone are removed that are noted in \
             BACKUP_ROOT: let a rule of the bucket remove the others (AbortIncompleteMultipartUpload)",
        );
    }
    words
}
