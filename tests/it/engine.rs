//! The engine `camunda_tables` against real nodes of the engine.
//!
//! A [`Place`] is a schema of Sluice's own tables beside the engine's; a [`Node`] is everything of a daemon
//! but its sources and its HTTP server, on the role that `deploy/grants.sql` makes. Tests hand it
//! deliveries, look through the engine's own REST interface at what came of them, and turn the sweeps round
//! by round, so that they decide what happens when.
//!
//! Two engines: the rig's two nodes, which run jobs as they come, and a *still* one, on a database of its
//! own, which runs a job only when a test says so.

mod asks;
mod broadcast;
mod constructs;
mod copy;
mod history;
mod levels;
mod oracle;
mod place;
mod plans;
mod proof;
mod races;
mod start;
mod upgrade;
mod values;
mod waiting;

pub use place::{Node, Place, delivery};
