//! Real servers and clients that the tests of several crates start, each for one test and gone with it.

#![allow(missing_docs, missing_debug_implementations)]

pub mod celery_lab;
pub mod certificate;
pub mod ports;
pub mod python;
pub mod redis;
pub mod rights;

use std::path::Path;

/// The folder of this repository.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
