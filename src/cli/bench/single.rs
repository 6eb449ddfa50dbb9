//! One message at a time on an idle system: from the delivery to the commit.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;

use super::Bench;
use super::hand_over::{self, Kind};
use super::memory::{Memory, Supply};
use super::process::Process;
use super::rate::{count, percentile_ms};
use super::report::{Bound, Line, Report};
use super::way::{self, Nowhere};
use crate::engine::Engine;
use crate::inbox::postgres::Tx;
use crate::route::RouteConfig;

const MESSAGES: u64 = 500;
/// Between a commit and the next delivery.
const PAUSE: Duration = Duration::from_millis(5);

/// Without an engine, and with one where that may be.
pub async fn measure(
    bench: &Bench,
    process: Option<&Process>,
    report: &mut Report,
) -> anyhow::Result<()> {
    bench.say("single: one message at a time");
    bench.ground.clear().await?;
    let route = way::correlating(way::MESSAGE)?;
    let line = line(bench, "single", Arc::new(Nowhere), route).await?;
    add(report, line, ["single_p50_ms", "single_p99_ms"]);
    if let Some(process) = process {
        let load = bench.load("single_correlate");
        let messages = MESSAGES.min(bench.messages);
        hand_over::prepare(bench, process, Kind::Correlate, &load, messages).await?;
        let engine = Arc::new(process.engine(&bench.ground));
        hand_over::refresh(bench, &engine).await?;
        let route = Kind::Correlate.route(process)?;
        let line = self::line(bench, "single_correlate", engine, route).await?;
        add(
            report,
            line,
            ["single_correlate_p50_ms", "single_correlate_p99_ms"],
        );
    }
    Ok(())
}

fn add(report: &mut Report, line: Line, names: [&'static str; 2]) {
    let name = line.name;
    report.add(line);
    let [p50, p99] = names;
    let value = report.figure(name, "p50_ms");
    report.want(
        p50,
        "one message, delivery to commit, p50 in ms",
        value,
        Bound::AtMost(3.0),
    );
    let value = report.figure(name, "p99_ms");
    report.want(
        p99,
        "one message, delivery to commit, p99 in ms",
        value,
        Bound::AtMost(15.0),
    );
}

async fn line(
    bench: &Bench,
    name: &'static str,
    engine: Arc<dyn Engine<Tx>>,
    route: RouteConfig,
) -> anyhow::Result<Line> {
    let supply = Supply {
        messages: MESSAGES.min(bench.messages),
        duration: bench.duration * 4,
        first: 0,
        pause: Some(PAUSE),
    };
    let memory = Memory::new(way::NAME, bench.load(name), supply);
    let intake = way::intake(&bench.ground, engine, route);
    let source = Arc::new(memory.clone());
    let mut tally = way::go(intake, source, memory.finished()).await?;
    ensure!(!tally.each.is_empty(), "nothing was acknowledged");
    tally.each.sort_unstable();
    let (p50, p99) = (
        percentile_ms(&tally.each, 50),
        percentile_ms(&tally.each, 99),
    );
    Ok(Line {
        name,
        headline: format!("p50 {p50:.2} ms, p99 {p99:.2} ms"),
        how: format!(
            "{} messages, each {} ms after the commit of the one before; from the delivery to the commit",
            tally.messages,
            PAUSE.as_millis()
        ),
        figures: vec![
            ("p50_ms", p50),
            ("p99_ms", p99),
            ("messages", count(tally.messages)),
        ],
    })
}
