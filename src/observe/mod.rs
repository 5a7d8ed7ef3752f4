//! Floor 2: what the program shows of itself: metrics, the HTTP endpoint, logs.

mod door;
pub mod http;
pub mod labels;
mod maker;
pub mod metrics;
pub mod telemetry;
