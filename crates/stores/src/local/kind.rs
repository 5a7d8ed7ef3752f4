//! The folder `BACKUP_ROOT` as a destination: its settings, and what is wrong with it.

use crate::local::{LocalStore, RootError};
use crate::{
    AccessCheck, Destination, Diagnosis, ObjectKey, Observer, OpenError, Store, StoreError, StoreKind, Usage,
};
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use rna_backup_base::access::AccessProblem;
use rna_backup_base::chain;
use rna_backup_base::env::{self, Env};
use rna_backup_base::units::ByteSize;
use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// The kind of stores that are folders.
pub static KIND: StoreKind = StoreKind {
    name: "local",
    check: "local destination",
    counts_requests: false,
    settings: &[env::open("BACKUP_LOCAL"), env::open("BACKUP_CLEANUP_LOCAL"), env::open("BACKUP_MIN_FREE")],
    read,
};

const GIB: u64 = 1 << 30;
const FULL: &str = "make room, choose another BACKUP_ROOT, or lower BACKUP_MIN_FREE";
const DENIED: &str = "let the user of this process write to BACKUP_ROOT, or choose another one";

/// The settings of the folder.
#[derive(Debug)]
struct LocalConfig {
    root: PathBuf,
    min_free: u64,
    usage: Usage,
}

fn read(
    env: &mut Env,
    root: Option<&Path>,
    farther: &[Arc<dyn Destination>],
) -> Option<Arc<dyn Destination>> {
    let (is_used, cleans_up) = (env.flag("BACKUP_LOCAL", true), env.flag("BACKUP_CLEANUP_LOCAL", false));
    let min_free = env.bytes("BACKUP_MIN_FREE", GIB);
    if farther.is_empty() && !is_used {
        env.note("BACKUP_LOCAL", "is off and AWS_BACKUP_BUCKET is not set: backups would go nowhere");
    }
    if farther.is_empty() && cleans_up {
        env.warn("BACKUP_CLEANUP_LOCAL", "does nothing as long as AWS_BACKUP_BUCKET is not set");
    }
    let usage = match () {
        () if !is_used => Usage::Reads,
        () if cleans_up && !farther.is_empty() => Usage::Stages,
        () => Usage::Keeps,
    };
    Some(Arc::new(LocalConfig { root: root?.to_owned(), min_free, usage }))
}

impl From<RootError> for OpenError {
    fn from(err: RootError) -> Self {
        Self { setting: "BACKUP_ROOT", source: err.into() }
    }
}

#[async_trait]
impl Destination for LocalConfig {
    fn kind(&self) -> &'static StoreKind {
        &KIND
    }

    fn place(&self) -> String {
        format!("{} (BACKUP_ROOT)", self.root.display())
    }

    fn usage(&self) -> Usage {
        self.usage
    }

    async fn open(&self, _: Option<Observer>) -> Result<Arc<dyn Store>, OpenError> {
        Ok(Arc::new(LocalStore::later(&self.root, self.min_free)?))
    }

    /// Finds out whether the folder can be written, and has room for the next backup of everything.
    async fn diagnose(
        &self,
        folders: &[ObjectKey],
        next: BoxFuture<'_, Option<u64>>,
        _: Duration,
    ) -> Result<String, Diagnosis> {
        let store = LocalStore::open(&self.root, self.min_free).map_err(|err| self.explain(&err))?;
        let room = async {
            store.check_access(folders, AccessCheck::Write).await?;
            store.free_bytes().await
        };
        let room = room.await.map_err(|err| self.explain(&err))?.unwrap_or(u64::MAX);
        let (root, keep) = (self.root.display(), ByteSize(self.min_free));
        if self.usage == Usage::Reads {
            return Ok(format!("{root} holds locks only, since BACKUP_LOCAL is off; no backups go there"));
        }
        let has_room = format!("{root} has room for {}", ByteSize(room));
        let found = match next.await.map(ByteSize) {
            _ if room == 0 => format!("{root} has no room beside the {keep} to be kept free"),
            Some(next) if next.0 > room => {
                format!("{has_room}, and the last backups took {next}; {keep} are to be kept free")
            }
            Some(next) if next.0 > 0 => return Ok(format!("{has_room}; the last backups took {next}")),
            _ => return Ok(has_room),
        };
        Err(Diagnosis::new(found, FULL))
    }

    fn explain(&self, err: &(dyn Error + 'static)) -> Diagnosis {
        if let Some(problem) = AccessProblem::within(err) {
            return Diagnosis::new(format!("BACKUP_ROOT: {}", problem.found), &problem.fix);
        }
        let fix =
            if matches!(StoreError::within(err), Some(StoreError::NoSpace { .. })) { FULL } else { DENIED };
        Diagnosis::new(format!("{}: {}", self.root.display(), chain(err)), fix)
    }
}
