//! Floor 2: observability: metrics, the HTTP endpoint, logs.

mod door;
pub mod http;
pub mod labels;
mod maker;
pub mod metrics;
pub mod telemetry;
