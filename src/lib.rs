//! rna-backup takes Celery tasks from a Django app's Redis broker and backs up and restores the app's
//! PostgreSQL, Weaviate and media folder, so that every backup that counts was proven.
//!
//! # The house
//!
//! A module imports only from rows below its own. The compiler holds that for the crates, `tests/architecture.rs` for the
//! modules.
//!
//! | floor | module | what lives there |
//! | --- | --- | --- |
//! | 4 | [`worker`] | one message from lease to acknowledgement, shutdown |
//! | 4 | [`observe`] | metrics, health, logs |
//! | 3 | [`engine`] | backup, retention, locks: knows components and stores, not Celery |
//! | 2 | [`component`] | what can be backed up: PostgreSQL, Weaviate, media |
//! | 2 | [`catalog`] | which backups exist |
//! | 1 | [`celery`] | the crate `celery-redis`: Celery's protocol on Redis; knows nothing of backups |
//! | 1 | [`stream`] | the crate `rna-backup-archive`: compress, encrypt, hash, count, the tar format, and back |
//! | 1 | [`domain`] | the crate `rna-backup-model`, pure: commands, manifests, retention, reports |
//! | 1 | [`store`] | the crate `rna-backup-stores`: the destinations, where archives lie |
//! | 0 | [`base`] | the crate `rna-backup-base`: how settings are read, units, clock, durable writes |
//!
//! Above them stand [`config`] (what can be set), [`app`] (which puts the parts together) and
//! [`cli`] (the other front door beside the worker).
//!
//! # One message
//!
//! Redis list → `celery::consumer` (peek, judge, claim by one script) → `celery::message` →
//! [`domain::command`] → [`engine`] → `worker::outcome` → `celery::result` → acknowledgement.
//! The result is stored before the acknowledgement, and a backup records the task that made it, so
//! a crash at any instant repeats, never loses, and is done once in effect.
//!
//! # One backup
//!
//! `source.back_up(base, out, meter)` → [`stream::pack`] → `store.begin(key)`, and beside it the same bytes decoded
//! and counted → read back and hashed → commit → manifest, last. **A backup exists when its manifest does.**

pub use celery_redis as celery;
pub use rna_backup_archive as stream;
pub use rna_backup_base as base;
pub use rna_backup_model as domain;
pub use rna_backup_stores as store;

pub mod app;
pub mod catalog;
pub mod cli;
pub mod component;
pub mod config;
pub mod core_dumps;
pub mod engine;
pub mod observe;
pub mod preflight;
pub mod worker;
