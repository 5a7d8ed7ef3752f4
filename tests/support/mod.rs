//! Real servers, started for one test and gone with it.

pub mod catalog;
pub mod chance;
pub mod faulty;
pub mod lab;
pub mod postgres;
pub mod python;
pub mod redis;
pub mod tools;
pub mod tree;
