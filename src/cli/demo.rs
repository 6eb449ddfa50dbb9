//! `sluice demo`: the promise, shown without any server.
//!
//! An embedded Kafka (librdkafka's mock cluster), an SQLite inbox, the `sql` engine with a small shop, and
//! two real daemon processes. A producer sends again what it already sent, and sends some payments before
//! their orders; half way one daemon is killed with `kill -9` and started again. What is printed at the end
//! is counted from the effects themselves, in a table where a double would show and a loss would be missed.

mod broker;
mod daemon;
mod effects;
mod orders;
mod report;
mod scene;
mod screen;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use tempfile::TempDir;

use super::{Failure, Globals, print};
use crate::http::Problems;
use crate::telemetry;
use crate::units::Span;

use orders::Orders;
use report::Report;
use scene::Scene;

/// The mock cluster is made for tests and says much that means nothing here.
const QUIET: &str = "warn,rdkafka=off,librdkafka=off";

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  sluice demo
  sluice demo --for 1m --rate 1000 --seed 7
  sluice demo --for 10s --json
  sluice demo --dir demo && cd demo && sluice inbox list")]
pub struct Arguments {
    /// How long messages are sent
    #[arg(long = "for", value_name = "DURATION", default_value = "20s", value_parser = span)]
    duration: Span,
    /// Messages a second
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,
    /// Which messages are sent, in which order, and which of them twice
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print the result as one JSON object; progress goes to standard error
    #[arg(long)]
    json: bool,
    /// Put configuration, database and logs into this empty folder, and keep them
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Take resent payments for new ones: the demo must notice
    #[cfg(feature = "crash_points")]
    #[arg(long, hide = true)]
    break_deduplication: bool,
}

fn span(text: &str) -> Result<Span, String> {
    let span = humantime::parse_duration(text)
        .map_err(|cause| format!("expected a duration such as \"20s\" or \"1m\": {cause}"))?;
    if span < Duration::from_secs(1) {
        return Err("expected 1s or more".to_owned());
    }
    Ok(Span(span))
}

impl Arguments {
    fn is_broken(&self) -> bool {
        #[cfg(feature = "crash_points")]
        return self.break_deduplication;
        #[cfg(not(feature = "crash_points"))]
        false
    }

    /// How many messages should have been sent by now.
    fn due(&self, began: Instant) -> u64 {
        self.sent_within(began.elapsed().min(self.duration.0))
    }

    /// How many messages will be sent, more or less.
    fn expected(&self) -> u64 {
        self.sent_within(self.duration.0)
    }

    fn sent_within(&self, duration: Duration) -> u64 {
        let messages = duration.as_millis() * u128::from(self.rate) / 1000;
        u64::try_from(messages).unwrap_or(u64::MAX)
    }
}

pub async fn demo(globals: &Globals, arguments: &Arguments) -> Result<ExitCode, Failure> {
    let format = globals.log_format.unwrap_or_default();
    telemetry::init(globals.log_filter(QUIET)?, format, Problems::default())?;
    let mut folder = Folder::make(arguments.dir.as_deref())?;
    let played = tokio::select! {
        played = play(arguments, folder.path()) => played,
        _ = tokio::signal::ctrl_c() => {
            print::error("interrupted\n");
            return Err(Failure::Told);
        }
    };
    let report = played.inspect_err(|_| folder.keep())?;
    if arguments.json {
        print::json(&report)?;
    } else {
        print::out(&report.table())?;
    }
    if report.is_good() {
        Ok(ExitCode::SUCCESS)
    } else {
        folder.keep();
        Ok(ExitCode::FAILURE)
    }
}

/// Where everything is; said when it is kept.
enum Folder {
    Named(PathBuf),
    Temporary(TempDir),
}

impl Folder {
    fn make(named: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = named else {
            return tempfile::Builder::new()
                .prefix("sluice-demo-")
                .tempdir()
                .map(Self::Temporary)
                .context("there is no place for the demo's files");
        };
        let cannot = || format!("{} cannot be used", path.display());
        std::fs::create_dir_all(path).with_context(cannot)?;
        if std::fs::read_dir(path)
            .with_context(cannot)?
            .next()
            .is_some()
        {
            bail!("{}: expected an empty folder", path.display());
        }
        Ok(Self::Named(path.canonicalize()?))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Named(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }

    fn keep(&mut self) {
        if let Self::Temporary(folder) = self {
            folder.disable_cleanup(true);
        }
        let path = self.path().display();
        print::error(&format!("configuration, database and logs are in {path}\n"));
    }
}

/// The whole piece.
async fn play(arguments: &Arguments, folder: &Path) -> anyhow::Result<Report> {
    let duration = arguments.duration.0;
    let mut scene = Scene::set(folder, arguments.is_broken(), arguments.expected()).await?;
    let mut orders = Orders::new(arguments.seed);
    let began = Instant::now();
    while began.elapsed() < duration / 2 {
        scene.tick(&mut orders, arguments.due(began)).await?;
    }
    let killed_after = began.elapsed();
    scene.kill_one(&mut orders, arguments.due(began)).await?;
    while began.elapsed() < duration {
        scene.tick(&mut orders, arguments.due(began)).await?;
    }
    scene.finish(&mut orders).await?;
    scene.report(&orders, killed_after, arguments.seed).await
}
