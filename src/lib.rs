//! Sluice.

pub mod engine;
pub mod inbox;
pub mod mapping;
pub mod message;
pub mod source;
pub mod units;
