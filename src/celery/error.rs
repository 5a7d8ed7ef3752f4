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

    /// The code of an error that the server answered with. Redis before 7 answers `ERR` to what a command inside
    /// of a script met, and has the code of that in its text.
    pub(super) fn code(source: &RedisError) -> Option<&str> {
        const INSIDE: [&str; 5] = ["READONLY", "MASTERDOWN", "OOM", "MISCONF", "NOREPLICAS"];
        let text = source.detail().filter(|text| text.starts_with("Error running script"));
        let inside =
            text.and_then(|text| INSIDE.into_iter().find(|code| text.contains(&format!("-{code} "))));
        inside.or_else(|| source.code())
    }

    /// Whether the state of a server that an error tells of passes by itself.
    pub(super) fn passes(source: &RedisError) -> bool {
        // Out of memory, cannot persist, too few replicas, a script that runs, a failover: a state that passes.
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

    /// The error that a server's answer is to the client library.
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
