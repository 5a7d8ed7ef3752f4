//! rna-backup: a Celery-compatible worker that backs up a Django app's PostgreSQL, Weaviate and
//! media folder, and restores them safely.

pub mod base;
pub mod catalog;
pub mod celery;
pub mod component;
pub mod domain;
pub mod store;
pub mod stream;
