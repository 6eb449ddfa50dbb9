//! `sluice demo`: the promise, shown without any server.
//!
//! An embedded Kafka (librdkafka's mock cluster), an SQLite inbox, the `sql` engine with a small order
//! process, and two real daemon processes. A producer sends again what it already sent, and sends some
//! payments before their orders; half way one daemon is killed with `kill -9`. What is printed at the end
//! is counted from the effects themselves: an append-only table without any unique key, where a double
//! would show and a loss would be missed.

mod broker;
mod daemon;
mod effects;
mod orders;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Failure, print};
use crate::units::Span;

use broker::Broker;
use daemon::{Counters, Daemon};
use effects::{Effects, Tally};
use orders::Orders;

/// Everything must have its effect this long after the last one had; otherwise it is lost.
const STANDSTILL: Duration = Duration::from_secs(45);
/// How often the screen and the counters are looked at.
const TICK: Duration = Duration::from_millis(250);

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  sluice demo
  sluice demo --for 1m --rate 500 --seed 7
  sluice demo --for 10s --json")]
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
    /// Keep the folder with configuration, database and logs
    #[arg(long)]
    keep: bool,
}

fn span(text: &str) -> Result<Span, String> {
    humantime::parse_duration(text)
        .map(Span)
        .map_err(|cause| format!("expected a duration such as \"20s\" or \"1m\": {cause}"))
}

/// What is printed.
#[derive(Debug, serde::Serialize)]
struct Report {
    sent: u64,
    unique: u64,
    effects: u64,
    duplicates: u64,
    lost: u64,
    doubled: u64,
    early: u64,
    /// By cause, as the daemons counted; what the killed one counted after the last look is missing.
    duplicates_by_cause: std::collections::BTreeMap<String, u64>,
    redriven: u64,
    /// From the kill to the next effect of a message that came through Kafka.
    killed_after_seconds: f64,
    all_done_after_seconds: f64,
    seed: u64,
}

pub async fn demo(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let folder = tempfile::Builder::new()
        .prefix("sluice-demo-")
        .disable_cleanup(arguments.keep)
        .tempdir()
        .context("there is no place for the demo's files")?;
    let played = play(arguments, folder.path()).await;
    let report = match played {
        Ok(report) => report,
        Err(error) => {
            let kept = folder.keep();
            return Err(Failure::Failed(error.context(format!(
                "the demo did not come to its end; logs are in {}",
                kept.display()
            ))));
        }
    };
    if arguments.json {
        print::json(&report)?;
    } else {
        print::out(&report.table())?;
    }
    if arguments.keep {
        print::error(&format!("kept: {}\n", folder.path().display()));
    }
    if report.lost + report.doubled > 0 {
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

async fn play(arguments: &Arguments, folder: &std::path::Path) -> anyhow::Result<Report> {
    let effects = Effects::create(&folder.join("demo.db")).await?;
    let broker = Broker::start()?;
    let mut doomed = Daemon::start(folder, "one", &broker)?;
    let mut survivor = Daemon::start(folder, "two", &broker)?;
    doomed.until_live().await?;
    survivor.until_live().await?;
    let screen = Screen::new(arguments, &survivor);
    let mut orders = Orders::new(arguments.seed);
    let (began, mut killed_at) = (Instant::now(), None);
    let mut counters = [Counters::default(), Counters::default()];
    let mut done_at = Instant::now();
    let mut tally = Tally::default();
    let mut late = None;
    loop {
        tokio::time::sleep(TICK).await;
        let running = began.elapsed();
        if running < arguments.duration.0 {
            let due = running.as_secs_f64() * f64::from(arguments.rate);
            broker.send(orders.until(due)).await?;
        } else if !orders.is_closed() {
            broker.send(orders.close()).await?;
        }
        if killed_at.is_none() {
            counters[0].look(&doomed).await;
            if running >= arguments.duration.0 / 2 {
                doomed.kill()?;
                killed_at = Some(Instant::now());
                late = Some(Daemon::start(folder, "three", &broker)?);
            }
        }
        counters[1].look(&survivor).await;
        let now = effects.tally(orders.expected()).await?;
        if now.effects > tally.effects {
            done_at = Instant::now();
        }
        tally = now;
        screen.show(&orders, &tally, killed_at.is_some());
        let complete = orders.is_closed() && tally.lost == 0;
        if complete || (orders.is_closed() && done_at.elapsed() > STANDSTILL) {
            break;
        }
    }
    screen.finish();
    // Whatever would still double something gets its chance before the last count.
    let mut redriven = Counters::default();
    if let Some(late) = late {
        redriven.look(&late).await;
        late.stop().await?;
    }
    counters[1].look(&survivor).await;
    survivor.stop().await?;
    let tally = effects.tally(orders.expected()).await?;
    let killed_at = killed_at.context("nobody was killed: --for is too short")?;
    let all = [&counters[0], &counters[1], &redriven];
    Ok(Report {
        sent: orders.sent(),
        unique: orders.unique(),
        effects: tally.effects,
        duplicates: orders.sent() - orders.unique(),
        lost: tally.lost,
        doubled: tally.doubled,
        early: orders.early(),
        duplicates_by_cause: Counters::by_cause(&all),
        redriven: all.iter().map(|counters| counters.recovered()).sum(),
        killed_after_seconds: killed_at.duration_since(began).as_secs_f64(),
        all_done_after_seconds: done_at.duration_since(began).as_secs_f64(),
        seed: arguments.seed,
    })
}

impl Report {
    fn table(&self) -> String {
        let causes = self
            .duplicates_by_cause
            .iter()
            .map(|(cause, count)| format!("{count} {cause}"))
            .collect::<Vec<_>>()
            .join(", ");
        let rows = [
            ("sent", self.sent.to_string(), String::new()),
            ("unique", self.unique.to_string(), "dedup keys".to_owned()),
            (
                "effects",
                self.effects.to_string(),
                "rows that the process appended".to_owned(),
            ),
            (
                "duplicates",
                self.duplicates.to_string(),
                format!("sent more than once; seen by the daemons: {causes}"),
            ),
            (
                "early",
                self.early.to_string(),
                "payments sent before their order".to_owned(),
            ),
            (
                "re-driven",
                self.redriven.to_string(),
                "waiting rows that the sweepers took up".to_owned(),
            ),
            (
                "killed",
                format!("{:.1} s", self.killed_after_seconds),
                "kill -9 of one daemon, a third one was started".to_owned(),
            ),
            (
                "all done",
                format!("{:.1} s", self.all_done_after_seconds),
                String::new(),
            ),
            ("lost", self.lost.to_string(), String::new()),
            ("doubled", self.doubled.to_string(), String::new()),
        ];
        let rows = rows
            .into_iter()
            .map(|(name, number, note)| vec![name.to_owned(), number, note])
            .collect();
        format!("{}\n", print::table(&["", "", ""], rows))
    }
}

/// Progress: a bar on a terminal, a line now and then elsewhere.
struct Screen {
    bar: ProgressBar,
    lines: bool,
    shown_at: std::cell::Cell<Instant>,
}

impl Screen {
    fn new(arguments: &Arguments, daemon: &Daemon) -> Self {
        let lines = !print::errors_are_read_by_people();
        print::error(&format!(
            "two daemons are running; status page: http://{}/\n",
            daemon.address()
        ));
        let expected = arguments.duration.0.as_secs_f64() * f64::from(arguments.rate);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive number of messages, rounded for the bar"
        )]
        let bar =
            ProgressBar::with_draw_target(Some(expected as u64), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {msg}") {
            bar.set_style(style);
        }
        Self {
            bar,
            lines,
            shown_at: std::cell::Cell::new(Instant::now()),
        }
    }

    fn show(&self, orders: &Orders, tally: &Tally, killed: bool) {
        let killed = if killed { ", one daemon killed" } else { "" };
        let text = format!(
            "sent {}, unique {}, effects {}, doubled {}{killed}",
            orders.sent(),
            orders.unique(),
            tally.effects,
            tally.doubled
        );
        if !self.lines {
            self.bar.set_position(orders.sent());
            self.bar.set_message(text);
        } else if self.shown_at.get().elapsed() >= Duration::from_secs(2) {
            self.shown_at.set(Instant::now());
            print::error(&format!("{text}\n"));
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// A port that nobody listens on at this moment.
fn free_port() -> anyhow::Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    if port == 0 {
        bail!("the system gave no port");
    }
    Ok(port)
}
