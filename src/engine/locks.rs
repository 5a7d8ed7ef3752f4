//! One run at a time on each component: a lock file that the kernel frees when its holder dies, and
//! that tells the next one what a dead holder was about to leave behind.

use crate::base::clock::Clock;
use crate::domain::component::ComponentName;
use crate::engine::error::EngineError;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    time::Duration,
};

/// How often a waiting run looks whether the lock is free. A run takes seconds at least.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The locks of all components below one `BACKUP_ROOT`.
///
/// They hold between all processes that see this folder on one machine; `flock` is freed by the
/// kernel when a process ends in whatever way, so there are no stale ones.
#[derive(Debug, Clone)]
pub struct Locks {
    dir: PathBuf,
}

/// Who holds a lock: written into its file, for whoever waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Process id.
    pub pid: u32,
    /// Host name.
    pub host: String,
    /// The Celery task, if it is one.
    pub task_id: Option<String>,
    /// Key of an archive that has no manifest at this moment: either not yet, or no longer.
    #[serde(default)]
    pub loose: Option<String>,
}

/// A lock in hand; dropping it frees the component.
#[derive(Debug)]
#[must_use = "the component is free again as soon as this is dropped"]
pub struct Held {
    file: File,
    component: ComponentName,
    owner: Owner,
    left: Option<String>,
}

impl Held {
    /// The archive that the last holder left without a manifest when it died.
    pub fn left_behind(&mut self) -> Option<String> {
        self.left.take()
    }

    /// Writes down, durably, that `archive` has no manifest from here on, or that all is settled.
    /// Should this process die in between, the next holder removes it.
    ///
    /// # Errors
    ///
    /// When the lock file cannot be written: then the archive must not be touched.
    pub fn note(&mut self, archive: Option<&str>) -> Result<(), EngineError> {
        self.owner.loose = archive.map(str::to_owned);
        write(&mut self.file, Some(&self.owner))
            .and_then(|()| self.file.sync_data())
            .map_err(|source| EngineError::Lock { component: self.component, source })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // What is noted stays for the next holder: this one failed before it could settle it.
        if self.owner.loose.is_none() {
            let _ = write(&mut self.file, None);
        }
    }
}

fn write(file: &mut File, owner: Option<&Owner>) -> io::Result<()> {
    file.rewind()?;
    let words = owner.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    file.write_all(&words)?;
    file.set_len(words.len() as u64)
}

impl Locks {
    /// Locks in the folder `dir`, which is made when the first one is taken.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Takes the component, waiting for it if `wait`.
    ///
    /// # Errors
    ///
    /// [`EngineError::Busy`] when it is taken and `wait` is false, [`EngineError::Lock`] when the file
    /// cannot be used.
    pub async fn take(
        &self,
        component: ComponentName,
        owner: &Owner,
        wait: bool,
        clock: &dyn Clock,
    ) -> Result<Held, EngineError> {
        let lock_error = |source| EngineError::Lock { component, source };
        let mut told = false;
        loop {
            match self.try_take(component, owner).map_err(lock_error)? {
                Ok(held) => return Ok(held),
                Err(holder) if !wait => {
                    let owner = holder.map_or("another run".to_owned(), |holder| holder.to_string());
                    return Err(EngineError::Busy { component, owner });
                }
                Err(holder) => {
                    if !told {
                        told = true;
                        let holder = holder.map(|holder| holder.to_string());
                        tracing::info!(%component, holder, "waiting for another run to end");
                    }
                    clock.sleep(LOOK_AGAIN).await;
                }
            }
        }
    }

    fn try_take(&self, component: ComponentName, owner: &Owner) -> io::Result<Result<Held, Option<Owner>>> {
        std::fs::create_dir_all(&self.dir)?;
        let path = self.dir.join(format!("{component}.lock"));
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false) // the present holder's words
            .read(true)
            .write(true)
            .mode(0o600)
            .open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let mut words = String::new();
                file.read_to_string(&mut words)?;
                let last: Option<Owner> = serde_json::from_str(&words).ok();
                let left = last.and_then(|owner| owner.loose);
                let owner = Owner { loose: left.clone(), ..owner.clone() };
                write(&mut file, Some(&owner))?;
                Ok(Ok(Held { file, component, owner, left }))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut words = String::new();
                file.read_to_string(&mut words)?;
                // Unreadable only in the instant between the lock and its holder's words.
                Ok(Err(serde_json::from_str(&words).ok()))
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)?;
        self.task_id.as_ref().map_or(Ok(()), |id| write!(f, " (task {id})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::SystemClock;

    fn owner(task_id: &str) -> Owner {
        Owner { pid: 1, host: "lab".into(), task_id: Some(task_id.into()), loose: None }
    }

    async fn take(locks: &Locks, task_id: &str, wait: bool) -> Result<Held, EngineError> {
        locks.take(ComponentName::Media, &owner(task_id), wait, &SystemClock).await
    }

    #[tokio::test]
    async fn a_component_is_held_by_one_run_and_free_when_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let locks = Locks::new(dir.path().join(".locks"));
        let held = take(&locks, "a", false).await.unwrap();
        let busy = take(&locks, "b", false).await.unwrap_err();
        assert_eq!(busy.to_string(), "media is busy: process 1 on lab (task a) works on it");

        let waiting = tokio::spawn({
            let locks = locks.clone();
            async move { take(&locks, "b", true).await.is_ok() }
        });
        drop(held);
        assert!(waiting.await.unwrap());
        assert!(take(&locks, "c", false).await.is_ok(), "the waiting run has ended too");
    }

    #[tokio::test]
    async fn what_a_dead_holder_left_is_told_until_it_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let locks = Locks::new(dir.path().join(".locks"));
        let mut held = take(&locks, "a", false).await.unwrap();
        held.note(Some("media/x.tar.zst")).unwrap();
        drop(held); // as far as the file goes, a SIGKILL
        for _ in 0..2 {
            let mut held = take(&locks, "b", false).await.unwrap();
            assert_eq!(held.left_behind().as_deref(), Some("media/x.tar.zst"));
        }
        let mut held = take(&locks, "c", false).await.unwrap();
        held.note(None).unwrap();
        drop(held);
        assert_eq!(take(&locks, "d", false).await.unwrap().left_behind(), None);
    }
}
