//! One binary for all tests with real servers: each further one would link everything again.
//!
//! A test starts the servers that it needs, on free ports or sockets in its own folder, and they
//! end with it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    missing_debug_implementations
)]

mod architecture;
mod canvas_lab;
mod catalog;
mod catalog_find;
mod celery_canvas;
mod celery_canvas_captures;
mod celery_canvas_python;
mod celery_connect;
mod celery_control;
mod celery_control_faults;
mod celery_control_lab;
mod celery_control_python;
mod celery_lab;
mod celery_lock;
mod celery_messages;
mod celery_recovery;
mod celery_results;
mod celery_sentinel;
mod celery_sweep;
mod celery_take;
mod celery_tls;
mod cli;
mod cli_check;
mod cli_faults;
mod clients;
mod engine;
mod engine_fleet;
mod fuzz;
mod media;
mod media_decode;
mod postgres;
mod postgres_damage;
mod postgres_errors;
mod postgres_tls;
mod retention;
mod schemas;
mod store_contract;
mod store_local;
mod stream;
mod support;
mod worker;
mod worker_canvas;
mod worker_captures;
mod worker_chaos;
mod worker_control;
mod worker_fleet;
mod worker_tools;
