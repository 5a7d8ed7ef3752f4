//! The ground floor of rna-backup: reading of settings, units, the clock, durable writes, access to folders, retries.

pub mod access;
pub mod advice;
pub mod backoff;
pub mod clock;
pub mod durable;
pub mod env;
pub mod lock;
pub mod units;

use std::{error::Error, fmt::Write};

/// The host name of this machine.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// An error and its causes on one line, joined by `: `. For the place where the error ends.
pub fn chain(err: &(dyn Error + 'static)) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        let words = err.to_string();
        // Transparent wrappers repeat their cause; the reader should not have to.
        if !text.ends_with(&words) {
            let _ = write!(text, ": {words}");
        }
        cause = err.source();
    }
    text
}
