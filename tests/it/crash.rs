//! Nodes that die, freeze, lose answers and overtake each other, and the count of effects afterwards.
//!
//! The daemons, brokers, databases and engine nodes are real; effects are counted in the engine's history.
//! Every test is named after the promise that it holds. What is sent depends on a seed, and a node dies at a
//! named point in its code. Random faults are the chaos run's.

mod answers;
mod frozen;
mod gate;
mod interleaved;
mod points;
mod pooled;
mod recovery;
pub mod shop;
mod vanished;

#[expect(
    clippy::print_stderr,
    reason = "the place where the test harness shows what a test says"
)]
pub fn say(what: &str) {
    eprintln!("{what}");
}
