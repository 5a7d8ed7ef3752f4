//! Label values of metrics: variants, so that their number is bounded.

/// What a run did to a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A backup.
    Backup,
    /// A retention run.
    Prune,
    /// A backup restored for real, compared and thrown away.
    Drill,
    /// A restore.
    Restore,
    /// A restore taken back.
    Undo,
    /// A verification.
    Verify,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 6] =
        [Self::Backup, Self::Drill, Self::Prune, Self::Restore, Self::Undo, Self::Verify];

    /// The label.
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

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunResult {
    /// As it should.
    Success,
    /// With an error.
    Failure,
    /// It was told to stop.
    Cancelled,
}

impl RunResult {
    /// Every result.
    pub const ALL: [Self; 3] = [Self::Success, Self::Failure, Self::Cancelled];

    /// The label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Why a run failed, in few words that never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Settings, rights, a component that is not configured.
    Config,
    /// The source is not there.
    Connect,
    /// The source could not be read.
    Read,
    /// The destination is full.
    Space,
    /// The destination could not be written.
    Store,
    /// The archive did not stand the proof.
    Verify,
    /// Another run has the component.
    Busy,
    /// Worker after worker died over it.
    WorkerLost,
    /// Anything else.
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

    /// The label.
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

/// Why retention left something that could go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The newest backup is suspiciously small.
    Anomaly,
    /// The destination keeps the copy locked.
    Locked,
    /// The destination does not allow it.
    Denied,
}

impl Refusal {
    /// Every refusal.
    pub const ALL: [Self; 3] = [Self::Anomaly, Self::Locked, Self::Denied];

    /// The label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Anomaly => "anomaly",
            Self::Locked => "locked",
            Self::Denied => "denied",
        }
    }
}
