//! Floor 4: observability: metrics, the HTTP endpoint, logs.

mod declared;
pub mod http;
mod limited_listener;
pub mod metrics;
pub mod telemetry;
