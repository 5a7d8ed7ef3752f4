//! The errors of runs, sorted by the remedy that a caller has.

use crate::catalog::CatalogError;
use crate::component::ComponentError;
use crate::domain::component::ComponentName;
use crate::domain::id::BackupId;
use crate::domain::labels::Reason;
use crate::engine::fleet::FleetError;
use crate::store::StoreError;
use std::io;

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The component has no settings.
    #[error("{component} is not configured: set {}", .component.kind().setting)]
    NotConfigured {
        /// The component.
        component: ComponentName,
    },

    /// The component has settings, but `BACKUP_COMPONENTS` does not name it.
    #[error("{component} is left out: add it to BACKUP_COMPONENTS")]
    LeftOut {
        /// The component.
        component: ComponentName,
    },

    /// Another run has the component and the caller did not want to wait.
    #[error("{component} is busy: {owner} works on it")]
    Busy {
        /// The component.
        component: ComponentName,
        /// The holder of the component, for people.
        owner: String,
    },

    /// The run was told to stop. Nothing of it is left.
    #[error("the run was stopped")]
    Cancelled,

    /// The component could not be read or restored.
    #[error("component {component}")]
    Component {
        /// The component.
        component: ComponentName,
        /// The component's error.
        source: ComponentError,
    },

    /// The bytes could not be compressed or read back.
    #[error("{what}")]
    Stream {
        /// The action that was tried.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },

    /// The order cannot be carried out with the data and settings that there are: nothing was touched. The text says
    /// why.
    #[error("{what}")]
    Unfit {
        /// The reason, and the way to mend it.
        what: String,
    },

    /// The backup is encrypted, and there is no key to open it.
    #[error("{id} is encrypted: {fix}")]
    Locked {
        /// The backup.
        id: BackupId,
        /// The remedy.
        fix: &'static str,
    },

    /// A destination failed.
    #[error(transparent)]
    Store(#[from] StoreError),

    /// The catalogue failed, or a reference to a backup leads nowhere.
    #[error(transparent)]
    Catalog(#[from] CatalogError),

    /// The backup exists, but not in every destination. Another attempt copies what is there.
    #[error("backup {id} is whole in {have}, but could not be stored in {destination}")]
    Copy {
        /// The backup.
        id: BackupId,
        /// The place where the backup is.
        have: String,
        /// The destination where the backup should be too.
        destination: String,
        /// The error of that destination.
        source: Box<EngineError>,
    },

    /// The archive does not hold the data that was read. The archive was discarded.
    #[error("verify {component}: {}", .problems.join("; "))]
    Verify {
        /// The component.
        component: ComponentName,
        /// The differences between the data and the archive.
        problems: Vec<String>,
    },

    /// Backups that lie in the destinations are not whole. They are marked, and counted on no more.
    #[error("not whole: {}", .problems.join("; "))]
    Damaged {
        /// The faults, each with its backup.
        problems: Vec<String>,
    },

    /// The backup has no manifest that this version can write.
    #[error("{id} {why}")]
    NotOurs {
        /// The backup.
        id: BackupId,
        /// The owner of the backup.
        why: &'static str,
    },

    /// The lock file cannot be used.
    #[error("lock {component} in BACKUP_ROOT")]
    Lock {
        /// The component.
        component: ComponentName,
        /// The cause.
        source: io::Error,
    },

    /// The fleet's lock cannot be taken, or nobody knows whose it is.
    #[error("lock {component} in the fleet")]
    Fleet {
        /// The component.
        component: ComponentName,
        /// The cause.
        source: FleetError,
    },

    /// The worker was away for so long that others took the component for free. What the run had made
    /// so far was discarded.
    #[error("{component} was taken over by another worker, because this one was away for too long")]
    LockLost {
        /// The component.
        component: ComponentName,
    },
}

impl EngineError {
    /// True if another attempt may succeed: the retry of a task and its Celery state both depend on this function.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Component { source, .. } => source.is_transient(),
            Self::Store(source) => source.is_transient(),
            Self::Catalog(source) => source.is_transient(),
            Self::Copy { source, .. } => source.is_transient(),
            Self::Stream { .. }
            | Self::Busy { .. }
            | Self::Verify { .. }
            | Self::Lock { .. }
            | Self::Fleet { .. }
            | Self::LockLost { .. } => true,
            Self::NotConfigured { .. }
            | Self::LeftOut { .. }
            | Self::Unfit { .. }
            | Self::Damaged { .. }
            | Self::NotOurs { .. }
            | Self::Locked { .. }
            | Self::Cancelled => false,
        }
    }

    /// True if the server refused the work of a restore program such as `pg_restore`, and would refuse it again.
    pub(super) const fn is_refusal(&self) -> bool {
        let Self::Component { source, .. } = self else { return false };
        matches!(source, ComponentError::Failed { transient: false, .. } | ComponentError::Refused { .. })
    }

    /// True if the bytes of an object in a destination could not be read, which does not mean that others there
    /// cannot.
    pub(super) const fn is_unread(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Stream { .. })
    }

    /// The label under which the failure is counted.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotConfigured { .. }
            | Self::LeftOut { .. }
            | Self::NotOurs { .. }
            | Self::Locked { .. }
            | Self::Unfit { .. } => Reason::Config,
            Self::Busy { .. } | Self::LockLost { .. } => Reason::Busy,
            Self::Fleet { .. } => Reason::Connect,
            Self::Component { source, .. } => match source {
                ComponentError::Unusable { .. }
                | ComponentError::Denied { .. }
                | ComponentError::Refused { .. } => Reason::Config,
                ComponentError::Unavailable { .. } => Reason::Connect,
                ComponentError::Taken { .. } => Reason::Busy,
                ComponentError::Corrupt { .. } => Reason::Verify,
                _ => Reason::Read,
            },
            Self::Copy { source, .. } => source.reason(),
            Self::Store(StoreError::NoSpace { .. } | StoreError::OverQuota { .. }) => Reason::Space,
            Self::Store(_) | Self::Catalog(_) => Reason::Store,
            Self::Verify { .. } | Self::Damaged { .. } => Reason::Verify,
            Self::Stream { .. } | Self::Lock { .. } | Self::Cancelled => Reason::Internal,
        }
    }
}
