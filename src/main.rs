//! The program: reads the command line, does what it says, and ends with one of its exit codes.

use std::process::ExitCode;

use clap::Parser;
use sluice::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(code) => code,
        Err(failure) => failure.tell(),
    }
}
