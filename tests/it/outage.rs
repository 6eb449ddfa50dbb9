//! Servers that end, die, freeze or refuse under load, and come back: no attempt is used, nothing is
//! lost or doubled, and the daemon goes on by itself.
//!
//! Every server that is hurt here is the test's own.

mod brokers;
mod credentials;
mod database;
mod refusing;

/// What a daemon may need more after outages than before them.
const FLAT: u64 = 48 << 20;
