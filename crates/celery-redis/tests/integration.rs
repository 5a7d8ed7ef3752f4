//! All tests of this crate with a real Redis and real Celery, in one binary: each further binary would link everything again.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    missing_debug_implementations
)]

mod canvas;
mod canvas_captures;
mod canvas_lab;
mod canvas_python;
mod connect;
mod control;
mod control_faults;
mod control_lab;
mod control_python;
mod examples;
mod lock;
mod messages;
mod recovery;
mod results;
mod sentinel;
mod sweep;
mod take;
mod tls;
