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
mod another_component;
mod architecture;
mod catalog;
mod catalog_find;
mod catalog_rebuild;
mod catalog_shared;
mod catalog_tables;
mod catalog_tables_faults;
mod celery_lists;
mod cli;
mod cli_check;
mod cli_faults;
mod clients;
mod copies;
mod copies_left;
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
mod media_restore_locks;
mod media_restore_places;
mod media_shares;
mod media_sparse;
mod media_steps;
mod monitoring;
mod pin;
mod postgres;
mod postgres_by_hand;
mod postgres_damage;
mod postgres_database;
mod postgres_definitions;
mod postgres_derived;
mod postgres_errors;
mod postgres_extensions;
mod postgres_in_place;
mod postgres_in_the_way;
mod postgres_kinds;
mod postgres_locks;
mod postgres_odd;
mod postgres_restore;
mod postgres_restore_faults;
mod postgres_restore_killed;
mod postgres_rights;
mod postgres_rights_many;
mod postgres_rights_odd;
mod postgres_settings;
mod postgres_tls;
mod postgres_versions;
mod redis_away;
mod removal;
mod restore;
mod restore_locks;
mod restore_refused;
mod restore_taken_over;
mod restore_two_machines;
mod retention;
mod schemas;
mod secrets;
mod store_contract;
mod store_damage;
mod store_kind;
mod store_local;
mod store_matrix;
mod store_s3;
mod store_s3_notes;
mod store_s3_settings;
mod store_s3_uploads;
mod store_shares;
mod stream;
mod support;
mod two_destinations;
mod two_destinations_locked;
mod two_destinations_stages;
mod undo_at_once;
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
mod weaviate_left_out;
mod weaviate_machines;
mod weaviate_pages;
mod weaviate_program;
mod weaviate_put_back;
mod weaviate_real;
mod weaviate_replace;
mod weaviate_restores;
mod weaviate_rights;
mod weaviate_sweep;
mod weaviate_taken_over;
mod weaviate_trial;
mod weaviate_undo;
mod weaviate_written;
mod worker;
mod worker_access;
mod worker_canvas;
mod worker_captures;
mod worker_chaos;
mod worker_control;
mod worker_eta;
mod worker_fleet;
mod worker_lost;
mod worker_rights;
mod worker_tools;
