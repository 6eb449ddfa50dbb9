//! From the broker to the end of a process on real engine nodes, through the real daemon.
//!
//! What happened is read from the engine's own history, never from Sluice's tables.

mod drain;
mod duplicates;
mod in_order;
mod mended;
mod nodes;
mod order;
mod packed;
mod patience;
mod positions;
mod residue;
mod routes;
mod statements;
