//! Logs: one line per change of state, on standard error, as text or JSON.

use std::str::FromStr;
use tracing_subscriber::EnvFilter;

/// The format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text lines for people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

impl FromStr for LogFormat {
    type Err = UnknownLogFormat;

    fn from_str(text: &str) -> Result<Self, UnknownLogFormat> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(UnknownLogFormat),
        }
    }
}

/// The error for a text that names no log format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is neither `text` nor `json`")]
pub struct UnknownLogFormat;

/// Sends all further logs to standard error, including panics. `filter` is in the syntax of `RUST_LOG`.
///
/// An invalid filter falls back to `info`, since a typo must not silence a backup. Called once, by `main`; a second
/// call changes no filter or format.
pub fn init(format: LogFormat, filter: &str) {
    let filter = EnvFilter::try_new(with_crates(filter)).unwrap_or_else(|_| EnvFilter::new("info"));
    // `log_internal_errors(false)`, because a closed reader of the log, as in `2>&1 | head`, would end a backup in a
    // panic.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    // An error means that a subscriber is set already, as in tests.
    let _ = match format {
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(colours).with_target(false).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).try_init(),
    };
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string);
        let why = panic.payload_as_str();
        tracing::error!(at, why, "a bug in rna-backup, please report it");
    }));
}

/// The crates of this program whose names do not begin with `rna_backup`.
const CRATES: [&str; 1] = ["celery_redis"];

/// Repeats a directive for `rna_backup` for the other crates of this program, since a filter such as `rna_backup=debug`
/// means the whole program. The directives as given come last, since the last one for a target counts.
fn with_crates(filter: &str) -> String {
    let repeated = filter.split(',').filter_map(|directive| {
        let level = directive.trim().strip_prefix("rna_backup")?;
        (level.is_empty() || level.starts_with('=')).then(|| CRATES.map(|name| format!("{name}{level}")))
    });
    repeated.flatten().chain([filter.to_owned()]).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_for_the_program_is_for_all_of_its_crates() {
        assert_eq!(with_crates("rna_backup=debug"), "celery_redis=debug,rna_backup=debug");
        assert_eq!(with_crates("rna_backup"), "celery_redis,rna_backup");
        let given = "warn, rna_backup=trace,celery_redis=warn";
        assert_eq!(with_crates(given), format!("celery_redis=trace,{given}"));
        for filter in ["info", "rna_backup::engine=debug", "aws=warn"] {
            assert_eq!(with_crates(filter), filter);
        }
    }
}
