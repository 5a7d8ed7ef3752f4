//! Errors of the broker and of the result backend.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// An error of the broker or of the result backend.
///
/// There is one variant for each action that a caller can take. `Display` names the operation; the cause is in
/// `source()` alone.
#[derive(Debug, thiserror::Error)]
pub enum CeleryError {
    /// A URL or an option is wrong, so an operator must change a setting. Never holds the URL itself.
    #[error("{what}")]
    Config {
        /// The mistake, and the expected value.
        what: String,
    },

    /// Redis is unreachable, still loading, or read-only for the moment: the same call may succeed later.
    /// The call may or may not have taken effect.
    #[error("{op}: redis is not available")]
    Unavailable {
        /// The name of the operation.
        op: &'static str,
        /// The error of the client library.
        source: RedisError,
    },

    /// Redis answered and refused the command: wrong credentials, missing rights, or a key of another type.
    #[error("{op}: redis refuses")]
    Refused {
        /// The name of the operation.
        op: &'static str,
        /// The error of the client library.
        source: RedisError,
    },

    /// The lease had passed to another worker before this one settled it, and that worker runs the message.
    #[error("settle lease {tag}: it is no longer ours")]
    LeaseLost {
        /// The delivery tag of the message.
        tag: String,
    },

    /// The stop token fired before Redis answered. It is unknown whether the call took effect.
    #[error("{op}: stopped before redis answered")]
    Stopped {
        /// The name of the operation.
        op: &'static str,
    },
}

impl CeleryError {
    /// True if the same call may succeed later. All retries decide by this method.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Classifies an error of the client library.
    pub(crate) fn from_redis(op: &'static str, source: RedisError) -> Self {
        if Self::passes(&source) { Self::Unavailable { op, source } } else { Self::Refused { op, source } }
    }

    /// Returns the code of an error reply of the server. If a command in a script fails, Redis before 7 answers `ERR`
    /// and puts the code of the failed command into the text.
    pub(super) fn code(source: &RedisError) -> Option<&str> {
        const INSIDE: [&str; 5] = ["READONLY", "MASTERDOWN", "OOM", "MISCONF", "NOREPLICAS"];
        let text = source.detail().filter(|text| text.starts_with("Error running script"));
        let inside =
            text.and_then(|text| INSIDE.into_iter().find(|code| text.contains(&format!("-{code} "))));
        inside.or_else(|| source.code())
    }

    /// Returns `true` if the cause of an error passes by itself.
    pub(super) fn passes(source: &RedisError) -> bool {
        // Out of memory, failing persistence, too few replicas, a running script, a failover: states that pass.
        const PASSING: [&str; 6] = ["OOM", "MISCONF", "NOREPLICAS", "BUSY", "READONLY", "MASTERDOWN"];
        let passing_state = Self::code(source).is_some_and(|code| PASSING.contains(&code));
        let comes_back = matches!(
            source.kind(),
            ErrorKind::Io
                | ErrorKind::Parse
                | ErrorKind::Server(
                    ServerErrorKind::BusyLoading
                        | ServerErrorKind::TryAgain
                        | ServerErrorKind::ClusterDown
                        | ServerErrorKind::NoScript
                )
        );
        comes_back || passing_state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the client library's error for an error reply of a server.
    fn answered(line: &str) -> CeleryError {
        let reply = redis::parse_redis_value(format!("{line}\r\n").as_bytes()).unwrap();
        CeleryError::from_redis("store result", reply.extract_error().unwrap_err())
    }

    #[test]
    fn a_server_that_cannot_write_for_now_is_waited_for_also_where_a_script_met_it() {
        let states = [
            "READONLY You can't write against a read only replica.",
            "OOM command not allowed when used memory > 'maxmemory'.",
            "MISCONF Redis is configured to save RDB snapshots, but it is currently not able to persist on disk.",
            "NOREPLICAS Not enough good replicas to write.",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        ];
        for state in states {
            assert!(answered(&format!("-{state}")).is_transient(), "{state}");
            // The words of Redis 5 and 6.
            let inside = format!(
                "-ERR Error running script (call to f_0a1b): @user_script:14: @user_script: 14: -{state}"
            );
            assert!(answered(&inside).is_transient(), "{inside}");
        }
        for state in
            ["-LOADING Redis is loading the dataset in memory", "-BUSY Redis is busy running a script."]
        {
            assert!(answered(state).is_transient(), "{state}");
        }
        let lasting = [
            "-NOPERM this user has no permissions to run the 'setex' command",
            "-WRONGTYPE Operation against a key holding the wrong kind of value",
            "-ERR Error running script (call to f_0a1b): @user_script:4: -OOMPH",
        ];
        for answer in lasting {
            assert!(!answered(answer).is_transient(), "{answer}");
        }
    }
}
