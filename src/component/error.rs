//! The errors of components, sorted by the remedy that a caller has.

use crate::stream::ArchiveError;
use std::io;
use tokio::task::JoinError;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// An error of a component: it could not be backed up, checked or restored.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// A setting, a right or a missing program: somebody has to change something.
    /// The text says what to do.
    #[error("{what}")]
    Unusable {
        /// The mistake in the settings or the order, and the way to mend it.
        what: String,
        /// The cause, when there is one.
        #[source]
        source: Option<Source>,
    },

    /// The source refused the credentials.
    #[error("{what}: access denied")]
    Denied {
        /// The action that was refused.
        what: String,
        /// The cause.
        #[source]
        source: Option<Source>,
    },

    /// The source is not there at the moment: restarting, network, too busy.
    #[error("{what}: not available")]
    Unavailable {
        /// The action that was tried.
        what: String,
        /// The cause.
        #[source]
        source: Option<Source>,
    },

    /// Another process works on the component.
    #[error("{what}")]
    Taken {
        /// The process, and the way to be rid of it.
        what: String,
    },

    /// A child process failed.
    #[error("{program} ended with {status}: {stderr}")]
    Failed {
        /// Name of the program.
        program: &'static str,
        /// Exit status, for people.
        status: String,
        /// The last lines of the program's standard error.
        stderr: String,
        /// True if those lines point at a passing fault (server shut down, connection lost).
        transient: bool,
    },

    /// The server refuses some objects of the archive, and takes all others.
    #[error("{what}")]
    Refused {
        /// The objects that are refused, the server's reasons, and the remedy.
        what: String,
        /// The names of the objects: a restore may go on without them.
        names: Vec<String>,
    },

    /// The archive is damaged, cut short, or not what it should be.
    #[error("{what}")]
    Corrupt {
        /// The defect of the archive.
        what: String,
        /// The cause, when there is one.
        #[source]
        source: Option<Source>,
    },

    /// Files that the process may not read. Their names are in the text.
    #[error("{what}")]
    Unreadable {
        /// The first of the files, and the number of the others.
        what: String,
    },

    /// The output refused the bytes: what stands behind it says why.
    #[error("write archive")]
    Output(#[source] io::Error),

    /// The source could not be read.
    #[error("{what}")]
    Read {
        /// The source that could not be read.
        what: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl ComponentError {
    /// True if the same call may succeed later. Every retry decides by this function alone.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Taken { .. } | Self::Read { .. } => true,
            Self::Failed { transient, .. } => *transient,
            // The caller knows better why its own output failed.
            Self::Output(_)
            | Self::Unusable { .. }
            | Self::Denied { .. }
            | Self::Refused { .. }
            | Self::Corrupt { .. }
            | Self::Unreadable { .. } => false,
        }
    }
}

impl From<ArchiveError> for ComponentError {
    fn from(err: ArchiveError) -> Self {
        match err {
            ArchiveError::Corrupt { what, source } => Self::Corrupt { what, source },
            ArchiveError::Read { what, source } => Self::Read { what, source },
            ArchiveError::Output(source) => Self::Output(source),
        }
    }
}

/// The error of blocking work that panicked, or that the end of the runtime stopped.
impl From<JoinError> for ComponentError {
    fn from(err: JoinError) -> Self {
        Self::Read { what: "work on files".to_owned(), source: err.into() }
    }
}
