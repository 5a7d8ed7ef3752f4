//! The errors of reading and joining tar streams.

use std::io;

/// An error of a tar stream that is read or joined.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The archive is damaged, cut short, or not what it should be.
    #[error("{what}")]
    Corrupt {
        /// The defect of the archive.
        what: String,
        /// The cause, when there is one.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },

    /// The bytes of the archive could not be read.
    #[error("{what}")]
    Read {
        /// The action that failed.
        what: String,
        /// The cause.
        #[source]
        source: io::Error,
    },

    /// The reader of a joined archive is gone.
    #[error("write archive")]
    Output(#[source] io::Error),
}

impl ArchiveError {
    /// The error of blocking work that panicked, or that the end of the runtime stopped.
    pub(crate) fn stopped(err: tokio::task::JoinError) -> Self {
        Self::Read { what: "work on files".to_owned(), source: err.into() }
    }
}
