//! Nodes that die, freeze, lose answers and overtake each other, and the count of effects afterwards.
//!
//! The daemons, brokers, databases and engine nodes are real; effects are counted in the engine's history.
//! Every test is named after the promise that it holds. All but the random one repeat exactly: what is
//! sent depends on a seed, and where a node dies is a named point in its code.

mod points;
pub mod shop;
