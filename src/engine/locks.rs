//! One run at a time on each component: a lock file that the kernel frees when its holder dies, and
//! that tells the next one what a dead holder was about to leave behind; and above it the lock of the
//! fleet, if there is one.

mod file;

use crate::base::access::explained;
use crate::base::clock::Clock;
use crate::base::durable::blocking;
use crate::domain::component::ComponentName;
use crate::domain::progress::Meter;
use crate::engine::error::EngineError;
use crate::engine::fleet::{Fleet, FleetError, FleetHold, FleetTake, LockState};
use file::{LockFile, holder_in, release, shares, write};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

/// The interval at which a waiting run looks whether the lock is free. A run takes seconds at least.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The interval at which a waiting run asks the fleet.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The longest wait, of a run that does not wait for others, for a worker that has just started and looks for the
/// remains of dead runs: mostly there are none, and the look takes less than a second.
const RECOVERY: Duration = Duration::from_mins(1);

/// The locks of all components below one `BACKUP_ROOT`, and of the fleet.
///
/// The folder's locks hold between all processes that see the folder on one machine; `flock` is freed by the kernel
/// when a process ends in whatever way, so there are no stale ones. The fleet's locks hold between its workers on all
/// machines, each with a folder of its own or all with one.
#[derive(Debug, Clone)]
pub struct Locks {
    dir: PathBuf,
    fleet: Arc<OnceLock<Arc<dyn Fleet>>>,
}

/// The holder of a lock: written into the lock's file, for runs that wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockOwner {
    /// Process id.
    pub pid: u32,
    /// Host name.
    pub host: String,
    /// The Celery task's id, if the holder is a task.
    pub task_id: Option<String>,
    /// True if the holder only puts right the remains of dead runs.
    #[serde(default)]
    pub recovers: bool,
    /// Keys of archives that have no manifest at this moment, one a line: either not yet, or no longer.
    #[serde(default)]
    pub loose: Option<String>,
}

/// A lock in hand; dropping it frees the component.
#[derive(Debug)]
#[must_use = "the component is free again as soon as this is dropped"]
pub struct ComponentLock {
    file: Arc<LockFile>,
    pub(super) component: ComponentName,
    owner: LockOwner,
    /// Archives without a manifest that are for a later holder, one a line.
    left: Option<String>,
    /// `None`: there is no fleet.
    fleet: Option<Box<dyn FleetHold>>,
}

impl ComponentLock {
    /// Fires when the component has passed to another worker of the fleet; never without one.
    pub fn lost(&self) -> CancellationToken {
        self.fleet.as_ref().map_or_else(CancellationToken::new, |hold| hold.lost())
    }

    /// Returns whether the component is still this run's.
    pub async fn lock_state(&self) -> LockState {
        match &self.fleet {
            Some(hold) => hold.lock_state().await,
            None => LockState::Ours,
        }
    }

    /// Frees the component, here and in the fleet, at once. One that is dropped instead is freed here at
    /// once and in the fleet soon.
    pub async fn free(mut self) {
        if let Some(hold) = self.fleet.take() {
            hold.free().await;
        }
        let (file, settled) = (Arc::clone(&self.file), self.owner.loose.is_none());
        let unlock = move || {
            file.unlock(settled);
            Ok(())
        };
        // Should that fail, the drop of this value tries it again.
        let _ = blocking(unlock).await;
    }

    /// The archives that earlier holders left without a manifest: they died, or a destination was away.
    pub fn left_behind(&self) -> Option<&str> {
        self.left.as_deref()
    }

    /// Notes archives for the next holder to look for, beside whatever is [noted](Self::note) meanwhile.
    ///
    /// # Errors
    ///
    /// As [`note`](Self::note).
    pub async fn leave(&mut self, archives: &[String]) -> Result<(), EngineError> {
        self.left = (!archives.is_empty()).then(|| archives.join("\n"));
        self.note(None).await
    }

    /// Writes down, durably, that `archive` has no manifest from here on, or that all is settled.
    /// Should this process die in between, the next holder removes it.
    ///
    /// # Errors
    ///
    /// When the lock file cannot be written: then the archive must not be touched.
    pub async fn note(&mut self, archive: Option<&str>) -> Result<(), EngineError> {
        let noted: Vec<_> = self.left.as_deref().into_iter().chain(archive).collect();
        self.owner.loose = (!noted.is_empty()).then(|| noted.join("\n"));
        let (file, owner) = (Arc::clone(&self.file), self.owner.clone());
        let written = blocking(move || file.write_owner(&owner)).await;
        written.map_err(|source| EngineError::Lock { component: self.component, source })
    }
}

impl Drop for ComponentLock {
    fn drop(&mut self) {
        // The noted archives stay for the next holder: this run failed before it could settle them.
        self.file.unlock(self.owner.loose.is_none());
    }
}

impl Locks {
    /// Locks in the folder `dir`, which is made when the first one is taken; without a fleet.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, fleet: Arc::default() }
    }

    /// Joins the fleet: from now on each lock counts only together with the fleet's. The command line never joins one:
    /// it works on one machine. A second fleet is not joined.
    pub fn join(&self, fleet: Arc<dyn Fleet>) {
        let _ = self.fleet.set(fleet);
    }

    /// Takes the component, waiting for it if there is a `wait` to show why; any other run waits for nothing but
    /// a worker that puts right what dead runs left, a minute at most.
    ///
    /// A waiting run holds no lock: it blocks no folder or component that it does not work on, and no two runs wait
    /// for each other.
    ///
    /// # Errors
    ///
    /// [`EngineError::Busy`] when it is taken and the run does not wait, [`EngineError::Lock`] when the file
    /// cannot be used, [`EngineError::Fleet`] when the fleet's locks cannot.
    pub async fn take(
        &self,
        component: ComponentName,
        owner: &LockOwner,
        wait: Option<&Meter>,
        clock: &dyn Clock,
    ) -> Result<ComponentLock, EngineError> {
        let (mut shown, mut by_fleet) = (String::new(), false);
        let mut recovery = RECOVERY;
        loop {
            let blocked = match self.try_both(component, owner, by_fleet).await? {
                Ok(held) => return Ok(held),
                Err(blocked) => blocked,
            };
            if wait.is_none() {
                if !blocked.recovers() || recovery.is_zero() {
                    return Err(blocked.into_error(component));
                }
                recovery = recovery.saturating_sub(LOOK_AGAIN);
            }
            let why = blocked.why(component);
            if why != shown {
                tracing::info!(%component, why, "waiting for another run to end");
                if let Some(meter) = wait {
                    meter.begin(format!("waiting: {why}"), 0);
                }
                shown = why;
            }
            by_fleet = !matches!(blocked, Blocked::Here(_));
            clock.sleep(if by_fleet { ASK_AGAIN } else { LOOK_AGAIN }).await;
        }
    }

    /// Returns the reason that a run of the component would have to wait at this moment, for people; `None` if it need
    /// not. For callers that would rather wait elsewhere than in [`take`](Self::take).
    pub async fn in_the_way(&self, component: ComponentName) -> Option<String> {
        let locks = self.clone();
        let here = spawn_blocking(move || locks.holder_here(component)).await.ok().flatten();
        let blocked = match here {
            Some(owner) => Blocked::Here(owner),
            None => Blocked::InFleet(self.fleet.get()?.holder(component).await?),
        };
        Some(blocked.why(component))
    }

    /// Returns the holder of the folder's lock; `None` if nobody has it. Waits for the disk. An error here comes again in
    /// `take`.
    #[expect(clippy::option_option, reason = "that somebody has it and who are not the same")]
    fn holder_here(&self, component: ComponentName) -> Option<Option<LockOwner>> {
        let mut file = File::open(self.path(component)).ok()?;
        if shares(&file) { None } else { holder_in(&mut file).ok() }
    }

    /// The folder of the locks.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes that folder where there is none.
    pub(super) fn make_dir(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)
    }

    fn path(&self, component: ComponentName) -> PathBuf {
        self.dir.join(format!("{component}.lock"))
    }

    /// Takes both locks or none; first the fleet's if it was that which was taken the last time, so that
    /// the other one is left alone.
    async fn try_both(
        &self,
        component: ComponentName,
        owner: &LockOwner,
        fleet_first: bool,
    ) -> Result<Result<ComponentLock, Blocked>, EngineError> {
        let task = owner.task_id.as_deref();
        let early = if fleet_first { self.try_fleet(component, task).await? } else { Ok(None) };
        let early = match early {
            Ok(hold) => hold,
            Err(blocked) => return Ok(Err(blocked)),
        };
        let (locks, holder) = (self.clone(), owner.clone());
        let here = blocking(move || locks.try_take(component, &holder)).await;
        let here = here.map_err(|err| explained(&self.path(component), err));
        let here = here.map_err(|source| EngineError::Lock { component, source })?;
        let mut held = match here {
            Ok(held) => held,
            Err(holder) => return Ok(Err(Blocked::Here(holder))),
        };
        let late = if fleet_first { Ok(early) } else { self.try_fleet(component, task).await? };
        Ok(late.map(|hold| {
            held.fleet = hold;
            held
        }))
    }

    async fn try_fleet(
        &self,
        component: ComponentName,
        task_id: Option<&str>,
    ) -> Result<Result<Option<Box<dyn FleetHold>>, Blocked>, EngineError> {
        let Some(fleet) = self.fleet.get() else { return Ok(Ok(None)) };
        let taken = fleet.try_take(component, task_id).await;
        Ok(match taken.map_err(|source| EngineError::Fleet { component, source })? {
            FleetTake::Taken(hold) => Ok(Some(hold)),
            FleetTake::Busy(who) => Err(Blocked::InFleet(who)),
            FleetTake::Unreachable => Err(Blocked::Unreachable),
        })
    }

    /// Gives a lock that nobody has taken yet its block on the disk.
    fn make_room(&self, component: ComponentName) {
        let made = OpenOptions::new().create_new(true).write(true).mode(0o600).open(self.path(component));
        let Ok(file) = made else { return };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = write(&file, None);
            release(&file);
        }
    }

    fn try_take(
        &self,
        component: ComponentName,
        owner: &LockOwner,
    ) -> io::Result<Result<ComponentLock, Option<LockOwner>>> {
        self.make_dir()?;
        for name in ComponentName::all() {
            self.make_room(name);
        }
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false) // the present holder's words
            .read(true)
            .write(true)
            .mode(0o600)
            .open(self.path(component))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let write_owner = |file: &mut File| {
                    let left = holder_in(file)?.and_then(|owner| owner.loose);
                    let owner = LockOwner { loose: left.clone(), ..owner.clone() };
                    write(file, Some(&owner)).map(|()| (owner, left))
                };
                let (owner, left) = write_owner(&mut file).inspect_err(|_| release(&file))?;
                let file = Arc::new(LockFile::new(file));
                Ok(Ok(ComponentLock { file, component, owner, left, fleet: None }))
            }
            // A look at who holds the lock shares it for an instant: then nobody holds it, whatever the file says.
            Err(rustix::io::Errno::WOULDBLOCK) if shares(&file) => Ok(Err(None)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(Err(holder_in(&mut file)?)),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// The reason that a component cannot be taken now.
enum Blocked {
    /// A process that sees the same folder has it; unknown in the instant before that process has written its name.
    Here(Option<LockOwner>),
    /// Another worker has it.
    InFleet(String),
    /// The fleet's locks do not answer: it is not known whether the component is free.
    Unreachable,
}

impl Blocked {
    /// True if a process of this machine puts right the remains of dead runs, or has not written yet what it does.
    fn recovers(&self) -> bool {
        matches!(self, Self::Here(owner) if owner.as_ref().is_none_or(|owner| owner.recovers))
    }

    fn who(&self) -> Option<String> {
        match self {
            Self::Here(owner) => Some(owner.as_ref().map_or("another run".to_owned(), LockOwner::to_string)),
            Self::InFleet(who) => Some(who.clone()),
            Self::Unreachable => None,
        }
    }

    fn into_error(self, component: ComponentName) -> EngineError {
        match self.who() {
            Some(owner) => EngineError::Busy { component, owner },
            None => EngineError::Fleet { component, source: FleetError::Unreachable },
        }
    }

    /// The reason in words, for the caller that waits.
    fn why(&self, component: ComponentName) -> String {
        match self.who() {
            Some(owner) => EngineError::Busy { component, owner }.to_string(),
            None => format!("the broker does not tell whether {component} is free"),
        }
    }
}

impl std::fmt::Display for LockOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)?;
        self.task_id.as_ref().map_or(Ok(()), |id| write!(f, " (task {id})"))?;
        if self.recovers { f.write_str(", putting right what a dead run left,") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
