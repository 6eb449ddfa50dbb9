//! The integration tests: one program, one module per part of Sluice.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "what a test gathers around it may panic and be spawned freely"
)]

mod bad_input;
mod batches;
mod browser;
mod chaos;
mod cli;
mod config;
mod crash;
mod daemon;
mod dashboards;
mod demo;
mod deploy;
mod e2e;
mod effects;
mod engine;
mod fuzz;
mod http;
mod inbox;
mod logs;
mod model;
mod outage;
mod promises;
mod rig;
mod secrets;
mod sources;
mod sql_engine;
mod stored;
mod structure;
mod sweeps;
mod trust;
