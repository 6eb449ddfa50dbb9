//! What a daemon takes: memory at full load, and time and statements when there is nothing to do.

use std::time::{Duration, Instant};

use anyhow::bail;
use secrecy::ExposeSecret;

use super::brokers::Place;
use super::daemon::{Daemon, Sources};
use super::hand_over::{self, Kind};
use super::load::Load;
use super::rate::{self, count, per_second};
use super::report::{Bound, Line, Report};
use super::statements::Counter;
use super::{Bench, Process, Subject};

const MIB: f64 = 1024.0 * 1024.0;
/// The message that the memory is promised for.
const MESSAGE_BYTES: u32 = 1000;
/// Messages of the line where nothing faster was measured before.
const USUAL_PER_SECOND: f64 = 5_000.0;
const LOOK: Duration = Duration::from_millis(200);
/// Without a new row for so long there is nothing to do.
const QUIET: Duration = Duration::from_secs(2);
/// Nothing moves for so long: something is wrong.
const STANDSTILL: Duration = Duration::from_mins(1);

/// Peak memory of a daemon that reads from one broker as fast as it can.
pub async fn memory(
    bench: &Bench,
    sources: &Sources<'_>,
    place: &dyn Place,
    process: Option<&Process>,
    name: &'static str,
    report: &mut Report,
) -> anyhow::Result<()> {
    let line = if process.is_some() {
        "accept_correlate"
    } else {
        "accept"
    };
    let messages = bench.enough(
        report.rate(line).unwrap_or(USUAL_PER_SECOND),
        bench.duration,
    );
    let load = Load::new(bench.seed, name, MESSAGE_BYTES);
    bench.say(&format!("{name}: sending {messages} messages first"));
    match process {
        Some(process) => {
            hand_over::prepare(bench, process, Kind::Correlate, &load, messages).await?;
        }
        None => bench.ground.clear().await?,
    }
    place.send(&load, 0, messages).await?;
    let daemon = Daemon::start(bench, sources, process, &bench.ground.config.url).await?;
    let began = Instant::now();
    let first_half = worked_off(bench, messages / 2)
        .await
        .map(|()| daemon.memory());
    let all = worked_off(bench, messages).await;
    let elapsed = began.elapsed();
    let (_, half) = first_half??;
    all?;
    let (now, peak) = daemon.memory()?;
    daemon.stop().await?;
    let (peak_mib, half_mib) = (count(peak) / MIB, count(half) / MIB);
    report.add(Line {
        name,
        headline: format!("{peak_mib:.1} MiB"),
        how: format!(
            "peak of a daemon that took {messages} messages of {MESSAGE_BYTES} bytes, {:.0} a second; {half_mib:.1} MiB after the first half",
            per_second(messages, elapsed)
        ),
        figures: vec![
            ("peak_bytes", count(peak)),
            ("peak_of_first_half_bytes", count(half)),
            ("end_bytes", count(now)),
            ("messages", count(messages)),
        ],
    });
    let names: (&'static str, &'static str) = match name {
        "memory_rabbitmq" => ("memory_rabbitmq_mib", "peak memory, reading RabbitMQ, MiB"),
        _ => ("memory_kafka_mib", "peak memory, reading Kafka, MiB"),
    };
    report.want(names.0, names.1, Some(peak_mib), Bound::AtMost(64.0));
    Ok(())
}

/// Until so many rows are there.
async fn worked_off(bench: &Bench, messages: u64) -> anyhow::Result<()> {
    let (mut rows, mut moved_at) = (0, Instant::now());
    while rows < messages {
        tokio::time::sleep(LOOK).await;
        let now = bench.ground.all_rows().await?;
        if now > rows {
            (rows, moved_at) = (now, Instant::now());
        }
        if moved_at.elapsed() > STANDSTILL {
            bail!("the daemon took {rows} of {messages} messages and then no more");
        }
    }
    Ok(())
}

/// Until no row has come for a while.
async fn until_quiet(bench: &Bench) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut rows = bench.ground.all_rows().await?;
    loop {
        tokio::time::sleep(bench.duration.max(QUIET)).await;
        let now = bench.ground.all_rows().await?;
        if now == rows {
            return Ok(());
        }
        if began.elapsed() > STANDSTILL {
            bail!("an idle daemon takes messages and does not come to an end");
        }
        rows = now;
    }
}

/// What a daemon costs that has nothing to do.
pub async fn idle(
    bench: &Bench,
    subject: &Subject,
    sources: &Sources<'_>,
    process: Option<&Process>,
    report: &mut Report,
) -> anyhow::Result<()> {
    bench.say("idle: a daemon with nothing to do");
    bench.ground.clear().await?;
    let counter = Counter::before(subject.inbox.url.expose_secret()).await?;
    let url = counter.as_ref().map_or(&subject.inbox.url, Counter::url);
    let daemon = Daemon::start(bench, sources, process, url).await?;
    // What a start costs is not what is measured, nor what another part left at the broker.
    until_quiet(bench).await?;
    let counts = || counter.as_ref().map(Counter::counts);
    let (cpu, before, began) = (daemon.cpu()?, counts(), Instant::now());
    // Long enough for its longest pauses.
    tokio::time::sleep((bench.duration * 2).max(2 * QUIET)).await;
    let (spent, after, elapsed) = (daemon.cpu()?.saturating_sub(cpu), counts(), began.elapsed());
    daemon.stop().await?;
    let percent = 100.0 * spent.as_secs_f64() / elapsed.as_secs_f64();
    let mut line = Line {
        name: "idle",
        headline: format!("{percent:.1} % of a core"),
        how: format!("over {:.0} s", elapsed.as_secs_f64()),
        figures: vec![("cpu_percent", percent)],
    };
    if let Some((before, after)) = before.zip(after) {
        let statements = rate::per_second(after.0 - before.0, elapsed);
        let round_trips = rate::per_second(after.1 - before.1, elapsed);
        line.headline = format!("{percent:.1} % of a core, {statements:.1} statements /s");
        line.how = format!("{}, {round_trips:.1} round trips /s", line.how);
        line.figures.push(("statements_per_second", statements));
        line.figures.push(("round_trips_per_second", round_trips));
    } else {
        let why = "its connection is not plain TCP and cannot be read along";
        report.skip("idle statements".to_owned(), why);
    }
    report.add(line);
    let value = report.figure("idle", "cpu_percent");
    report.want(
        "idle_cpu_percent",
        "idle, % of a core",
        value,
        Bound::AtMost(1.0),
    );
    let value = report.figure("idle", "statements_per_second");
    report.want(
        "idle_statements_per_second",
        "idle, statements a second",
        value,
        Bound::AtMost(20.0),
    );
    Ok(())
}
