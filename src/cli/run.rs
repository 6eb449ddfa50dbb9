//! `sluice run`.

use std::process::ExitCode;

use clap::Args;

use super::{Failure, Globals};
use crate::bridge::{self, Options};
use crate::http::Problems;
use crate::telemetry;

#[derive(Debug, Args)]
#[command(after_long_help = "\
The first SIGTERM or SIGINT drains: nothing more is taken, what is under way is finished and acknowledged, \
exit 0. A second one, or the end of `node.drain_timeout`, drops it (the broker delivers it again), exit 1.

Examples:
  sluice run -c sluice.toml
  sluice run -c sluice.toml --migrate --log-level debug")]
pub struct Arguments {
    /// Create or upgrade Sluice's own tables first; otherwise tables that are missing or old are refused
    #[arg(long)]
    migrate: bool,
    /// End when standard input does, with whoever started this process
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
}

pub async fn run(globals: &Globals, arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (config, warnings) = globals.load()?;
    let filter = globals.log_filter(&config.log.level)?;
    let format = globals.log_format.unwrap_or(config.log.format);
    let problems = Problems::default();
    telemetry::init(filter, format, problems.clone())?;
    for warning in warnings.to_string().lines() {
        tracing::warn!("{warning}");
    }
    if arguments.until_stdin_ends {
        std::thread::spawn(end_with_stdin);
    }
    let options = Options {
        migrate: arguments.migrate,
    };
    match bridge::run(config, problems, options).await {
        Ok(code) => Ok(code),
        Err(error) => {
            tracing::error!("{}", telemetry::in_full(error.as_ref()));
            Err(Failure::Told)
        }
    }
}

/// Nobody is left who could end this process in a better way, and it is made to be killed at any moment.
fn end_with_stdin() {
    let read = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
    tracing::error!(error = ?read.err(), "standard input has ended");
    std::process::exit(1);
}
