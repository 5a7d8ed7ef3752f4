//! Label values of metrics, as enums so that their number is bounded.

/// The operation of a run on a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A backup.
    Backup,
    /// A retention run.
    Prune,
    /// A restore drill: a backup is restored to a scratch place, compared and deleted.
    Drill,
    /// A restore.
    Restore,
    /// The undo of a restore.
    Undo,
    /// A verification.
    Verify,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 6] =
        [Self::Backup, Self::Drill, Self::Prune, Self::Restore, Self::Undo, Self::Verify];

    /// The label value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Drill => "drill",
            Self::Prune => "prune",
            Self::Restore => "restore",
            Self::Undo => "undo",
            Self::Verify => "verify",
        }
    }
}

/// The result of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunResult {
    /// The run succeeded.
    Success,
    /// The run ended with an error.
    Failure,
    /// The run was cancelled.
    Cancelled,
}

impl RunResult {
    /// Every result.
    pub const ALL: [Self; 3] = [Self::Success, Self::Failure, Self::Cancelled];

    /// The label value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The reason why a run failed, as a label value that never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Wrong settings, missing rights, or a component that is not configured.
    Config,
    /// The source is unreachable.
    Connect,
    /// The source could not be read.
    Read,
    /// The destination is full.
    Space,
    /// The destination could not be written.
    Store,
    /// The archive failed its verification.
    Verify,
    /// Another run holds the component.
    Busy,
    /// Several workers died over the run.
    WorkerLost,
    /// Any other reason.
    Internal,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::Config,
        Self::Connect,
        Self::Read,
        Self::Space,
        Self::Store,
        Self::Verify,
        Self::Busy,
        Self::WorkerLost,
        Self::Internal,
    ];

    /// The label value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Connect => "connect",
            Self::Read => "read",
            Self::Space => "space",
            Self::Store => "store",
            Self::Verify => "verify",
            Self::Busy => "busy",
            Self::WorkerLost => "worker_lost",
            Self::Internal => "internal",
        }
    }
}

/// The reason why retention did not delete a backup that has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The newest backup is suspiciously small.
    Anomaly,
    /// The clock stands far after the backups, and may be wrong.
    Clock,
    /// The destination keeps the copy locked.
    Locked,
    /// The destination denies the deletion.
    Denied,
}

impl Refusal {
    /// Every refusal.
    pub const ALL: [Self; 4] = [Self::Anomaly, Self::Clock, Self::Locked, Self::Denied];

    /// The label value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Anomaly => "anomaly",
            Self::Clock => "clock",
            Self::Locked => "locked",
            Self::Denied => "denied",
        }
    }
}
