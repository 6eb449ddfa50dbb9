//! From the broker to the end of a process on real engine nodes, through the real daemon.
//!
//! What happened is read from the engine's own history, never from Sluice's tables.

mod drain;
mod nodes;
mod order;
