//! The engine's own pace: the same correlations by `POST /message`, and work completed by rows.
//!
//! A correlation by REST is completed when it is answered. One by rows is completed when some node of the
//! engine has run its job and the sweeper has seen the receipt; the sweeper runs along as in a daemon.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use super::Bench;
use super::hand_over::{self, Kind};
use super::memory::{Memory, Supply};
use super::process::Process;
use super::rate::{self, Total, per_second, percentile_ms};
use super::report::{Bound, Report};
use super::way;
use crate::inbox::Retention;
use crate::shutdown::Shutdown;
use crate::sweeper::{Sweeper, SweeperConfig};

/// Connections, and the key of the line.
const CONNECTIONS: [(usize, &str); 3] = [(1, "rest_1"), (8, "rest_8"), (16, "rest_16")];
/// No engine that is known answers more in a second; so many instances are made to wait.
const MOST_PER_SECOND: f64 = 1500.0;
/// An idle engine looks for jobs once a minute by default.
const FIRST_JOB: Duration = Duration::from_secs(70);
/// Without any progress for so long nobody runs jobs any more.
const STANDSTILL: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

pub async fn measure(bench: &Bench, process: &Process, report: &mut Report) -> anyhow::Result<()> {
    for (connections, name) in CONNECTIONS {
        bench.say(&format!(
            "{name}: POST /message on {connections} connections"
        ));
        by_rest(bench, process, connections, name, report).await?;
    }
    let rates = CONNECTIONS.iter().filter_map(|(_, name)| report.rate(name));
    let best = rates.fold(0.0, f64::max);
    bench.say("completed_rows: handing over, until an engine node has worked it off");
    let runs_jobs = Box::pin(completed(bench, process, best, report)).await?;
    if best > 0.0 {
        let completed = report.rate("completed_rows").map(|rows| rows / best);
        // Reported, not wanted: rows do not make an engine faster.
        report.note(
            "completed_rows_of_rest",
            "work completed, rows / REST",
            completed,
        );
        let handed = report.rate("accept_correlate").map(|rows| rows / best);
        let wanted = Bound::AtLeast(if runs_jobs { 5.0 } else { 10.0 });
        let what = if runs_jobs {
            "hand-over / REST at its best, engine nodes run jobs"
        } else {
            "hand-over / REST at its best, engine nodes run no jobs"
        };
        report.want("hand_over_of_rest", what, handed, wanted);
    }
    Ok(())
}

async fn by_rest(
    bench: &Bench,
    process: &Process,
    connections: usize,
    name: &'static str,
    report: &mut Report,
) -> anyhow::Result<()> {
    let load = bench.load(name);
    let messages = bench.enough(MOST_PER_SECOND, bench.duration);
    hand_over::prepare(bench, process, Kind::Correlate, &load, messages).await?;
    let paid = process.paid();
    let next = AtomicU64::new(0);
    let began = Instant::now();
    let workers = (0..connections).map(|worker| {
        let node = &process.rest[worker % process.rest.len()];
        let (next, load, paid) = (&next, &load, &paid);
        async move {
            let mut each = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= messages {
                    return anyhow::Ok(each);
                }
                let sent = Instant::now();
                node.correlate(paid, &load.key(n), load.amount(n)).await?;
                each.push(sent.elapsed());
                if began.elapsed() >= bench.duration {
                    return Ok(each);
                }
            }
        }
    });
    let mut each = try_join_all(workers).await?.concat();
    let elapsed = began.elapsed();
    each.sort_unstable();
    let p50 = percentile_ms(&each, 50);
    let how = format!("POST /message on {connections} connections, p50 {p50:.1} ms");
    let mut line = rate::line(name, Total::of(each.len() as u64, elapsed), &how);
    line.figures.push(("p50_ms", p50));
    report.add(line);
    Ok(())
}

/// Hands over what the engine takes some time for. Returns whether any node runs jobs.
async fn completed(
    bench: &Bench,
    process: &Process,
    rest: f64,
    report: &mut Report,
) -> anyhow::Result<bool> {
    let messages = bench.enough(rest.max(50.0), bench.duration);
    let load = bench.load("completed_rows");
    hand_over::prepare(bench, process, Kind::Correlate, &load, messages).await?;
    let engine = Arc::new(process.engine(&bench.ground));
    hand_over::refresh(bench, &engine).await?;
    let intake = way::intake(&bench.ground, engine, Kind::Correlate.route(process)?);
    let sweeper = Sweeper::new(
        Arc::clone(&intake),
        Retention::default(),
        SweeperConfig::default(),
    );
    let supply = Supply {
        messages,
        duration: Duration::from_mins(10),
        first: 0,
        pause: None,
    };
    let memory = Memory::new(way::NAME, load, supply);
    let shutdown = Shutdown::default();
    let began = Instant::now();
    let handing = way::go(intake, Arc::new(memory.clone()), memory.finished());
    let watching = async {
        handing.await?;
        worked_off(bench, process, messages).await
    };
    let worked_off = tokio::select! {
        worked_off = watching => worked_off?,
        () = sweeper.run(&shutdown) => None,
    };
    let Some((first, last)) = worked_off else {
        let why = "no node of the engine has run a job";
        report.skip("completed_rows".to_owned(), why);
        return Ok(false);
    };
    let elapsed = last.duration_since(began);
    let waited = first.duration_since(began).as_secs_f64();
    let how = format!(
        "handed over, run by the engine, receipt seen; the first after {waited:.1} s; by REST {rest:.0} /s at best"
    );
    let mut line = rate::line("completed_rows", Total::of(messages, elapsed), &how);
    line.figures.push(("first_after_seconds", waited));
    // From the first one on: an idle engine looks late.
    let working = last.duration_since(first);
    line.figures
        .push(("working_per_second", per_second(messages, working)));
    report.add(line);
    Ok(true)
}

/// When the first and the last row was seen done; `None` when nothing moves.
async fn worked_off(
    bench: &Bench,
    process: &Process,
    messages: u64,
) -> anyhow::Result<Option<(Instant, Instant)>> {
    let (mut first, mut moved_at, mut done) = (None, Instant::now(), 0);
    while done < messages {
        tokio::time::sleep(LOOK).await;
        let now = bench.ground.rows("done").await?;
        if now > done {
            moved_at = Instant::now();
            first.get_or_insert(moved_at);
            done = now;
        }
        if first.is_none() && process.jobs_are_run().await? {
            first = Some(Instant::now());
            moved_at = Instant::now();
        }
        let patience = if first.is_some() {
            STANDSTILL
        } else {
            FIRST_JOB
        };
        if moved_at.elapsed() > patience {
            return Ok(None);
        }
    }
    Ok(first.map(|first| (first, moved_at)))
}
