//! Floor 2: observability: metrics, the HTTP endpoint, logs.

pub mod http;
pub mod labels;
mod limited_listener;
mod metric_factory;
pub mod metrics;
pub mod telemetry;
