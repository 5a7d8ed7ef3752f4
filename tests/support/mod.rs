//! Real servers, started for one test and gone with it.

pub mod catalog;
pub mod chance;
pub mod dense;
pub mod disk;
pub mod faulty;
pub mod held_line;
pub mod lab;
pub mod memory;
pub mod postgres;
pub mod prometheus;
pub mod s3;
pub mod s3_proxy;
pub mod source;
pub mod tls_front;
pub mod tools;
pub mod tree;
pub mod weaviate_contents;
pub mod weaviate_server;
pub mod weaviate_start;

pub use test_support::{python, redis};
