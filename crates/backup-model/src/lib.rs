//! The model of a backup, pure: ids, commands, manifests, reports and retention, without any I/O.

pub mod anomaly;
pub mod clock_doubt;
pub mod command;
pub mod component;
pub mod definitions;
pub mod derived;
pub mod facts;
pub mod id;
pub mod labels;
pub mod listing;
pub mod manifest;
pub mod metadata;
pub mod progress;
pub mod properties;
pub mod rebuild;
pub mod report;
pub mod retention;
pub mod rights;
pub mod signature;
pub mod task_note;
