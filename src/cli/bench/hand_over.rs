//! What the engine's tables take: the bare statements of a start and of a correlation, and the whole way.
//!
//! The bare line runs the very statements of the engine, look and hand-over, in transactions of their own,
//! for messages that are decoded already; no row of the inbox is written. Making the statements' arrays is
//! part of it, because the match's answer is part of them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures_util::future::try_join_all;

use super::Bench;
use super::load::Load;
use super::memory::{Memory, Supply};
use super::process::Process;
use super::rate::{self, TURNS, Total, count};
use super::report::{Bound, Report};
use super::way;
use crate::engine::camunda_tables::CamundaTables;
use crate::engine::{Ask, Engine as _, Outcome};
use crate::inbox::{Inbox as _, RowId};
use crate::mapping::Subject;
use crate::message::{Envelope, Hash, Message};
use crate::route::{Route, RouteConfig};

/// What is tried for the best rate.
const BATCHES: [usize; 4] = [50, 100, 200, 500];
const CONNECTIONS: [usize; 3] = [1, 2, 4];
/// No machine that is known hands over more in a second; so many instances are made to wait.
const MOST_PER_SECOND: f64 = 10_000.0;

/// What is asked of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Start,
    Correlate,
}

impl Kind {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Start => ("raw_start", "accept_start"),
            Self::Correlate => ("raw_correlate", "accept_correlate"),
        }
    }

    fn target(self) -> (&'static str, &'static str) {
        match self {
            Self::Start => (
                "accept_of_raw_start",
                "accept with starts / raw engine rows",
            ),
            Self::Correlate => (
                "accept_of_raw_correlate",
                "accept with correlations / raw engine rows",
            ),
        }
    }

    /// The state that the inbox's rows are born in.
    fn state(self) -> &'static str {
        match self {
            Self::Start => "done",
            Self::Correlate => "handed",
        }
    }

    pub fn route(self, process: &Process) -> anyhow::Result<RouteConfig> {
        match self {
            Self::Start => way::starting(&process.begun()),
            Self::Correlate => way::correlating(&process.paid()),
        }
    }
}

/// One kind: bare statements and the whole way, in turns.
pub async fn measure(
    bench: &Bench,
    process: &Process,
    kind: Kind,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (raw_name, accept_name) = kind.names();
    bench.say(&format!(
        "{raw_name}: looking for the best size of batches and number of connections"
    ));
    let trial = Trial::best(bench, process, kind).await?;
    bench.say(&format!("{raw_name} and {accept_name}, in turns"));
    let (mut raw, mut accepted) = (Total::default(), Total::default());
    for _ in 0..TURNS {
        raw += trial.run(bench, process, kind).await?;
        accepted += accept(bench, process, kind, &trial).await?;
    }
    let how = format!(
        "batches of {} on {} connections, the best of {BATCHES:?} x {CONNECTIONS:?}; match included, no row of the inbox",
        trial.batch, trial.connections
    );
    let mut line = rate::line(raw_name, raw, &how);
    line.figures.push(("batch", count(trial.batch as u64)));
    line.figures
        .push(("connections", count(trial.connections as u64)));
    report.add(line);
    report.add(rate::line(
        accept_name,
        accepted,
        "the whole way from memory",
    ));
    let ratio = report.ratio(accept_name, raw_name);
    let (name, what) = kind.target();
    report.want(name, what, ratio, Bound::AtLeast(0.8));
    Ok(())
}

/// One combination, for a while.
struct Trial {
    batch: usize,
    connections: usize,
    duration: Duration,
    /// Messages a second that there should be enough instances for.
    most: f64,
}

impl Trial {
    /// Tries each combination for a while; what is returned is to be measured in turns.
    async fn best(bench: &Bench, process: &Process, kind: Kind) -> anyhow::Result<Self> {
        let try_out = async |batch, connections| {
            let trial = Self {
                batch,
                connections,
                duration: bench.duration / 8,
                most: MOST_PER_SECOND,
            };
            Ok(trial.run(bench, process, kind).await?.per_second())
        };
        let (rate, batch, connections) = rate::best(&BATCHES, &CONNECTIONS, try_out).await?;
        Ok(Self {
            batch,
            connections,
            duration: bench.duration / TURNS,
            most: rate * 1.5,
        })
    }

    async fn run(&self, bench: &Bench, process: &Process, kind: Kind) -> anyhow::Result<Total> {
        // Each connection has something to do, however short the time is.
        let least = (self.batch * self.connections) as u64;
        let wanted = bench.enough(self.most, self.duration).max(least);
        let load = bench.load(kind.names().0);
        prepare(bench, process, kind, &load, wanted).await?;
        let route = Route::new(way::NAME, kind.route(process)?);
        let messages = decoded(&route, &load, wanted)?;
        let engine = process.engine(&bench.ground);
        refresh(bench, &engine).await?;
        let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
        let began = Instant::now();
        let workers = (0..self.connections).map(|_| async {
            loop {
                let from = next.fetch_add(self.batch, Ordering::Relaxed);
                let Some(batch) = messages.get(from..from + self.batch) else {
                    return anyhow::Ok(());
                };
                hand_over(bench, &engine, batch).await?;
                done.fetch_add(batch.len() as u64, Ordering::Relaxed);
                if began.elapsed() >= self.duration {
                    return Ok(());
                }
            }
        });
        try_join_all(workers).await?;
        Ok(Total::of(done.into_inner(), began.elapsed()))
    }
}

/// One transaction of look and hand-over.
async fn hand_over(
    bench: &Bench,
    engine: &CamundaTables,
    messages: &[Message],
) -> anyhow::Result<()> {
    let asks: Vec<Ask<'_>> = messages
        .iter()
        .map(|message| Ask {
            row: RowId::fresh(),
            epoch: 1,
            message,
            identity: Hash::of(&[way::NAME.as_bytes(), &message.dedup_key.hash.0]),
            redriven: false,
            start_if_nobody: false,
            broadcast: false,
        })
        .collect();
    let rows: HashSet<RowId> = asks.iter().map(|ask| ask.row).collect();
    let inbox = &bench.ground.inbox;
    let mut tx = inbox.begin().await?;
    let matched = engine.look(&mut tx, &asks).await?;
    for index in 0..asks.len() {
        let outcome = matched.outcome(index);
        let takes = matches!(outcome, Outcome::Hand | Outcome::Effect { .. });
        ensure!(takes, "the engine does not take a message: {outcome:?}");
    }
    let missed = matched.hand(&mut tx, &rows).await?;
    ensure!(
        missed.is_empty(),
        "somebody else writes into the bench's process"
    );
    inbox.commit(tx).await?;
    Ok(())
}

/// Clears away what was, and lets instances wait for what comes.
pub async fn prepare(
    bench: &Bench,
    process: &Process,
    kind: Kind,
    load: &Load,
    messages: u64,
) -> anyhow::Result<()> {
    process.clear().await?;
    bench.ground.clear().await?;
    if kind == Kind::Correlate {
        process.wait_for(load, 0, messages).await?;
    }
    Ok(())
}

fn decoded(route: &Route, load: &Load, messages: u64) -> anyhow::Result<Vec<Message>> {
    let envelope = Envelope::default();
    let decode = |n| {
        let payload = load.payload(n);
        Ok(route.decode(&Subject::new(&payload, &envelope))?)
    };
    (0..messages).map(decode).collect()
}

/// As the daemon does before its first message and every second.
pub async fn refresh(bench: &Bench, engine: &CamundaTables) -> anyhow::Result<()> {
    let inbox = &bench.ground.inbox;
    let mut tx = inbox.begin().await?;
    engine.refresh(&mut tx).await?;
    inbox.commit(tx).await?;
    Ok(())
}

async fn accept(
    bench: &Bench,
    process: &Process,
    kind: Kind,
    trial: &Trial,
) -> anyhow::Result<Total> {
    let messages = bench.enough(trial.most, trial.duration);
    let load = bench.load(kind.names().1);
    prepare(bench, process, kind, &load, messages).await?;
    let engine = Arc::new(process.engine(&bench.ground));
    refresh(bench, &engine).await?;
    let supply = Supply {
        messages,
        duration: trial.duration,
        first: 0,
        pause: None,
    };
    let memory = Memory::new(way::NAME, load, supply);
    let intake = way::intake(&bench.ground, engine, kind.route(process)?);
    let tally = way::go(intake, Arc::new(memory.clone()), memory.finished()).await?;
    let stored = bench.ground.rows(kind.state()).await?;
    let given = tally.messages;
    ensure!(
        stored == given,
        "{given} messages were given and {stored} are {}",
        kind.state()
    );
    Ok(Total::of(given, tally.elapsed))
}
