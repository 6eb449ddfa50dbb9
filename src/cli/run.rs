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
    let options = Options {
        migrate: arguments.migrate,
    };
    match bridge::run(config, problems, options).await {
        Ok(code) => Ok(code),
        Err(error) => {
            tracing::error!("{error:#}");
            Err(Failure::Told)
        }
    }
}
