//! Sluice.

pub mod backoff;
pub mod bridge;
pub mod config;
pub mod crash;
pub mod engine;
pub mod http;
pub mod inbox;
pub mod intake;
pub mod mapping;
pub mod message;
pub mod metrics;
pub mod route;
pub mod shutdown;
pub mod source;
pub mod sweeper;
pub mod telemetry;
pub mod units;
