//! The program.

use std::process::ExitCode;

use sluice::bridge::{self, Options};
use sluice::config::Config;
use sluice::http::Problems;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[tokio::main]
async fn main() -> ExitCode {
    let problems = Problems::default();
    tracing_subscriber::registry()
        .with(tracing_subscriber::EnvFilter::new("info"))
        .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr))
        .with(problems.clone())
        .init();
    let path = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "sluice.toml".to_owned());
    let config = match Config::load(path.as_ref()) {
        Ok((config, _)) => config,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::from(78);
        }
    };
    match bridge::run(config, problems, Options { migrate: true }).await {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
