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

mod anomaly;
mod architecture;
mod canvas_lab;
mod catalog;
mod catalog_find;
mod catalog_rebuild;
mod catalog_shared;
mod catalog_tables;
mod catalog_tables_faults;
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
mod copies;
mod deploy;
mod drill;
mod encrypted;
mod engine;
mod engine_fleet;
mod foreign;
mod fuzz;
mod hardening;
mod media;
mod media_attributes;
mod media_compare;
mod media_decode;
mod media_increment;
mod media_kinds;
mod media_readers;
mod media_restore;
mod media_restore_hostile;
mod media_restore_killed;
mod media_restore_places;
mod media_shares;
mod media_sparse;
mod media_steps;
mod monitoring;
mod pin;
mod postgres;
mod postgres_damage;
mod postgres_definitions;
mod postgres_derived;
mod postgres_errors;
mod postgres_in_place;
mod postgres_in_the_way;
mod postgres_kinds;
mod postgres_locks;
mod postgres_restore;
mod postgres_restore_faults;
mod postgres_restore_killed;
mod postgres_rights;
mod postgres_rights_odd;
mod postgres_settings;
mod postgres_tls;
mod postgres_versions;
mod redis_away;
mod removal;
mod restore;
mod restore_refused;
mod restore_two_machines;
mod retention;
mod schemas;
mod secrets;
mod store_contract;
mod store_damage;
mod store_local;
mod store_matrix;
mod store_s3;
mod store_s3_settings;
mod store_s3_uploads;
mod store_shares;
mod stream;
mod support;
mod two_destinations;
mod two_destinations_locked;
mod two_destinations_stages;
mod verify;
mod verify_copies;
mod verify_worker;
mod weaviate;
mod weaviate_ask;
mod weaviate_cases;
mod weaviate_deaths;
mod weaviate_export;
mod weaviate_faults;
mod weaviate_folder;
mod weaviate_jobs;
mod weaviate_machines;
mod weaviate_pages;
mod weaviate_program;
mod weaviate_put_back;
mod weaviate_real;
mod weaviate_replace;
mod weaviate_restores;
mod weaviate_rights;
mod weaviate_trial;
mod weaviate_undo;
mod weaviate_written;
mod worker;
mod worker_canvas;
mod worker_captures;
mod worker_chaos;
mod worker_control;
mod worker_fleet;
mod worker_lost;
mod worker_places;
mod worker_tools;
