//! Converts the results and errors of the engine to the states that Celery stores. Errors become states here only.

use crate::base::chain;
use crate::catalog::CatalogError;
use crate::celery::CeleryError;
use crate::celery::result::{Child, Exception};
use crate::component::ComponentError;
use crate::domain::command::InvalidCommand;
use crate::domain::signature::SignatureError;
use crate::engine::EngineError;
use crate::store::StoreError;
use serde_json::Value;
use std::{error::Error, time::Duration};

/// The outcome of one task.
#[derive(Debug)]
pub enum Outcome {
    /// The task returned a value, and sent these tasks.
    Success {
        /// The return value of `AsyncResult.get()`.
        value: Value,
        /// `AsyncResult.children`.
        children: Vec<Child>,
    },
    /// The task failed and is not retried.
    Failure(Failure),
    /// The task failed by a fault that may pass, so the task is retried if there are retries left.
    Transient(Failure),
    /// The task was revoked before it ran, or terminated while it ran.
    Revoked {
        /// The number of the signal that the `revoke` command asked for; `None` if the task had not begun.
        signal: Option<i32>,
    },
    /// The message expired before the task could run.
    Expired,
    /// The worker shuts down, so the message goes back to its queue.
    Interrupted,
}

/// An exception, with the traceback that Flower shows.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The exception that Python raises.
    pub exception: Exception,
    /// The chain of causes, in the layout of a traceback.
    pub traceback: String,
}

impl Failure {
    fn new(exc_type: &str, task: &str, err: &(dyn Error + 'static)) -> Self {
        let text = chain(err);
        Self { traceback: traceback(task, exc_type, err), exception: Exception::builtin(exc_type, text) }
    }

    /// The traceback of a task that is tried again after `delay`. It ends in Celery's own exception, `Retry`, out of
    /// whose words `celery-progress` reads the time.
    pub(super) fn traceback_of_retry(&self, delay: Duration) -> String {
        format!(
            "{}\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n  \
             rna-backup {}, in retry\ncelery.exceptions.Retry: Retry in {}s: {}\n",
            self.traceback,
            env!("CARGO_PKG_VERSION"),
            delay.as_secs(),
            self.exception
        )
    }
}

/// Formats an error like a Python traceback, with the chain of causes in the place of stack frames.
fn traceback(task: &str, exc_type: &str, err: &(dyn Error + 'static)) -> String {
    let mut causes = vec![err.to_string()];
    let mut cause = err.source();
    while let Some(err) = cause {
        causes.push(err.to_string());
        cause = err.source();
    }
    causes.dedup();
    let mut text = format!(
        "Traceback (most recent call last):\n  rna-backup {}, in {task}\n",
        env!("CARGO_PKG_VERSION")
    );
    for (depth, cause) in causes.iter().enumerate().skip(1) {
        text += &format!("  {}caused by: {cause}\n", "  ".repeat(depth - 1));
    }
    text + &format!("{exc_type}: {}\n", chain(err))
}

impl Outcome {
    /// Converts a result of the engine.
    pub fn of_engine<T>(task: &str, outcome: Result<T, EngineError>, value: impl FnOnce(T) -> Value) -> Self {
        match outcome {
            Ok(done) => Self::Success { value: value(done), children: Vec::new() },
            Err(EngineError::Cancelled) => Self::Interrupted,
            Err(err) => {
                let failure = Failure::new(python_type(&err), task, &err);
                if err.is_transient() { Self::Transient(failure) } else { Self::Failure(failure) }
            }
        }
    }

    /// Returns the failure of a message that is not a valid command, as the exception that Python would raise.
    pub fn of_invalid(task: &str, err: &InvalidCommand) -> Self {
        let exc_type = match err {
            InvalidCommand::NotRegistered(name) => {
                // As in Celery, there is no traceback, and the argument is the bare name.
                let exception = Exception::celery("NotRegistered", name.as_str());
                return Self::Failure(Failure { exception, traceback: String::new() });
            }
            InvalidCommand::Signature(_) => "TypeError",
            InvalidCommand::Value(_) => "ValueError",
        };
        Self::Failure(Failure::new(exc_type, task, err))
    }

    /// Returns the failure of an order without a valid signature; no data was touched.
    pub fn of_unsigned(task: &str, err: SignatureError) -> Self {
        Self::Failure(Failure::new("PermissionError", task, &err))
    }

    /// Returns the failure of a run that took longer than its soft or hard time limit.
    pub fn out_of_time(task: &str, limit: Duration, soft: bool) -> Self {
        let seconds = limit.as_secs_f64();
        let (name, args) = match soft {
            true => ("SoftTimeLimitExceeded", Vec::new()),
            false if limit.subsec_nanos() == 0 => ("TimeLimitExceeded", vec![limit.as_secs().into()]),
            false => ("TimeLimitExceeded", vec![seconds.into()]),
        };
        let text =
            format!("stopped after {seconds} s, its {} time limit", if soft { "soft" } else { "hard" });
        let cause = std::io::Error::other(text);
        let exception = Exception::billiard(name, args);
        Self::Failure(Failure { traceback: traceback(task, name, &cause), exception })
    }

    /// Returns the failure of a task whose child tasks Redis refuses. The failure is transient: an operator may fix
    /// the permissions before the last retry.
    pub fn not_sent(task: &str, err: &CeleryError) -> Self {
        Self::Transient(Failure::new("RuntimeError", task, err))
    }

    /// Returns the failure of a task that too many workers died over, as Celery's pool does for a lost process.
    pub fn worker_lost(task: &str, words: String) -> Self {
        const NAME: &str = "WorkerLostError";
        let traceback = traceback(task, NAME, &std::io::Error::other(words.clone()));
        Self::Failure(Failure { exception: Exception::billiard(NAME, vec![words.into()]), traceback })
    }

    /// Returns the failure of a run that panicked: the task fails, and the worker goes on.
    pub fn of_panic(task: &str) -> Self {
        Self::words(task, "RuntimeError", "a bug in rna-backup stopped this task, its log says where")
    }

    /// Returns the failure of a full backup without any configured component, which would otherwise look like a
    /// success.
    pub fn nothing_configured(task: &str) -> Self {
        Self::words(
            task,
            "ValueError",
            "no component is configured: set DATABASE_URL, MEDIA_ROOT or WEAVIATE_URL",
        )
    }

    fn words(task: &str, exc_type: &str, words: &str) -> Self {
        Self::Failure(Failure::new(exc_type, task, &std::io::Error::other(words)))
    }
}

/// Returns the built-in exception of Python that callers can catch for an error.
fn python_type(err: &EngineError) -> &'static str {
    match err {
        EngineError::Copy { source, .. } => python_type(source),
        EngineError::NotConfigured { .. }
        | EngineError::LeftOut { .. }
        | EngineError::Unfit { .. }
        | EngineError::NotOurs { .. }
        | EngineError::Catalog(CatalogError::Refused { .. }) => "ValueError",
        EngineError::Busy { .. } | EngineError::LockLost { .. } => "TimeoutError",
        EngineError::Fleet { .. } => "ConnectionError",
        EngineError::Component { source, .. } => match source {
            ComponentError::Unusable { .. } | ComponentError::Refused { .. } => "ValueError",
            ComponentError::Denied { .. } | ComponentError::Unreadable { .. } => "PermissionError",
            ComponentError::Unavailable { .. } => "ConnectionError",
            ComponentError::Taken { .. } => "TimeoutError",
            ComponentError::Read { .. } | ComponentError::Output(_) => "OSError",
            ComponentError::Failed { .. } | ComponentError::Corrupt { .. } => "RuntimeError",
        },
        EngineError::Locked { .. }
        | EngineError::Store(StoreError::Denied { .. } | StoreError::Locked { .. }) => "PermissionError",
        EngineError::Catalog(CatalogError::NotFound { .. }) => "FileNotFoundError",
        EngineError::Store(_)
        | EngineError::Catalog(_)
        | EngineError::Stream { .. }
        | EngineError::Lock { .. } => "OSError",
        EngineError::Verify { .. } | EngineError::Damaged { .. } | EngineError::Cancelled => "RuntimeError",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::component::ComponentName;
    use std::io;

    #[test]
    fn a_passing_fault_is_tried_again_and_a_lasting_one_is_not() {
        let component = ComponentName::MEDIA;
        let unread = EngineError::Component {
            component,
            source: ComponentError::Read {
                what: "read a".into(),
                source: io::Error::other("device on fire"),
            },
        };
        let Outcome::Transient(failure) = Outcome::of_engine("t", Err::<(), _>(unread), |()| Value::Null)
        else {
            panic!("a read error may pass");
        };
        assert_eq!(failure.exception.name(), "OSError");
        assert!(failure.traceback.ends_with("OSError: component media: read a: device on fire\n"));

        let unset = EngineError::NotConfigured { component };
        let Outcome::Failure(failure) = Outcome::of_engine("t", Err::<(), _>(unset), |()| Value::Null) else {
            panic!("a missing setting does not pass");
        };
        assert_eq!(failure.exception.message(), "media is not configured: set MEDIA_ROOT");
    }
}
