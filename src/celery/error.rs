//! Why the broker or the result backend could not do what it was asked.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why the broker or the result backend could not do what it was asked.
///
/// One variant for each thing a caller can do. `Display` names the operation; the cause is in
/// `source()` alone.
#[derive(Debug, thiserror::Error)]
pub enum CeleryError {
    /// A URL or an option is wrong: somebody has to change a setting. Never holds the URL itself.
    #[error("{what}")]
    Config {
        /// What is wrong, and what is expected.
        what: String,
    },

    /// Redis is not there, still loading, or read-only for the moment: the same call may succeed later.
    /// Whether it took effect is unknown.
    #[error("{op}: redis is not available")]
    Unavailable {
        /// What was tried.
        op: &'static str,
        /// The cause.
        source: RedisError,
    },

    /// Redis answered and refused: credentials, rights, a key of another type.
    #[error("{op}: redis refuses")]
    Refused {
        /// What was tried.
        op: &'static str,
        /// The cause.
        source: RedisError,
    },

    /// The lease had passed to another worker before it was settled: its message runs elsewhere.
    #[error("settle lease {tag}: it is no longer ours")]
    LeaseLost {
        /// The delivery tag.
        tag: String,
    },

    /// The stop token fired before Redis answered. Whether the call took effect is unknown.
    #[error("{op}: stopped before redis answered")]
    Stopped {
        /// What was tried.
        op: &'static str,
    },
}

impl CeleryError {
    /// Whether the same call may succeed later: the one place that retries ask.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Sorts an error of the client library: the one place its kinds are read.
    pub(crate) fn from_redis(op: &'static str, source: RedisError) -> Self {
        if Self::passes(&source) { Self::Unavailable { op, source } } else { Self::Refused { op, source } }
    }

    /// Whether the state of a server that an error tells of passes by itself.
    pub(super) fn passes(source: &RedisError) -> bool {
        // Out of memory, cannot persist, too few replicas, a script that runs: a state that passes.
        let passing_state = matches!(source.code(), Some("OOM" | "MISCONF" | "NOREPLICAS" | "BUSY"));
        let comes_back = matches!(
            source.kind(),
            ErrorKind::Io
                | ErrorKind::Parse
                | ErrorKind::Server(
                    ServerErrorKind::BusyLoading
                        | ServerErrorKind::MasterDown
                        | ServerErrorKind::ReadOnly
                        | ServerErrorKind::TryAgain
                        | ServerErrorKind::ClusterDown
                        | ServerErrorKind::NoScript
                )
        );
        comes_back || passing_state
    }
}
