//! An inbox that has been in use for long: millions of rows that are done, a million that wait.
//!
//! The rows are made by the server itself. Done ones were finished over the last 33 days, so that some are
//! older than their retention; waiting ones came over the same days, are announced to an engine, have business keys
//! of their own, and are due within the hour, as the intake would have it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Bench;
use super::hand_over::{self, Kind};
use super::insert;
use super::load::Load;
use super::process::Process;
use super::rate::{self, count, per_second};
use super::report::{Bound, Line, Report};
use super::way::{self, Nowhere};
use crate::engine::Engine;
use crate::inbox::postgres::{PostgresInbox, Tx};
use crate::inbox::{DbError, Retention};
use crate::sweeper::{Round, Sweeper, SweeperConfig};

/// Rows of one statement that makes them.
const PIECE: u64 = 500_000;
/// Rounds of each sweep.
const ROUNDS: usize = 10;
/// How often, and how long at most, it is looked whether the engine runs what was handed over.
const LOOK: Duration = Duration::from_millis(100);
const STANDSTILL: Duration = Duration::from_secs(5);

/// How many rows there are to be.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    pub done: u64,
    pub waiting: u64,
}

pub async fn measure(
    bench: &Bench,
    rows: Rows,
    process: Option<&Process>,
    report: &mut Report,
) -> anyhow::Result<()> {
    bench.say("big_inbox: the empty one first");
    let how = "the empty inbox, just before";
    let empty = insert::accept(bench, "big_inbox_empty", bench.duration).await?;
    report.add(rate::line("big_inbox_empty", empty, how));
    bench.ground.clear().await?;
    let load = bench.load("big-waiting");
    let message = process.map_or_else(|| way::MESSAGE.to_owned(), Process::paid);
    make(bench, rows, &message, &load.prefix()).await?;
    let how = format!(
        "beside {} rows done and {} waiting",
        rows.done, rows.waiting
    );
    let full = insert::accept(bench, "big_inbox_accept", bench.duration).await?;
    report.add(rate::line("big_inbox_accept", full, &how));
    report.add(size(bench).await?);
    let ratio = report.ratio("big_inbox_accept", "big_inbox_empty");
    let indexes = report
        .figure("big_inbox_size", "index_bytes")
        .unwrap_or_default();
    let bound = if indexes < memory_bytes() / 2.0 {
        0.9
    } else {
        0.6
    };
    report.want(
        "big_inbox_of_empty",
        "accept into the big inbox / into the empty one",
        ratio,
        Bound::AtLeast(bound),
    );
    sweeps(bench, rows, process, &load, report).await
}

/// Fills the inbox, and lets the server know what is in it.
async fn make(bench: &Bench, rows: Rows, message: &str, prefix: &str) -> anyhow::Result<()> {
    let schema = bench.ground.inbox.schema();
    for (wanted, kind) in [(rows.done, "done"), (rows.waiting, "waiting")] {
        let mut from = 0;
        while from < wanted {
            let to = (from + PIECE).min(wanted);
            bench.say(&format!("big_inbox: {to} of {wanted} rows {kind}"));
            let text = match kind {
                "done" => done(schema, wanted, bench.size),
                _ => waiting(schema, message, prefix, wanted, bench.size),
            };
            let text = text.replace("{from}", &from.to_string());
            let text = text.replace("{to}", &(to - 1).to_string());
            bench.ground.run(&text).await?;
            from = to;
        }
    }
    bench.say("big_inbox: VACUUM ANALYZE");
    bench
        .ground
        .run(&format!("VACUUM (ANALYZE) {schema}.inbox"))
        .await?;
    Ok(())
}

/// Ids rise with time, as the daemon's do.
const ID: &str =
    "(lpad(to_hex({base} + n), 12, '0') || '7' || substr(md5({salt} || n), 1, 3) || '8'
                || substr(md5({salt} || n), 4, 15))::uuid";

fn id(base: &str, salt: &str) -> String {
    ID.replace("{base}", base).replace("{salt}", salt)
}

/// In milliseconds, of row `n`; the last ones have just come.
fn age(rows: u64) -> String {
    const DAYS: u64 = 33;
    format!("({} * (1 - n::float8 / {rows}))", DAYS * 24 * 3600 * 1000)
}

/// The payload is gone after three days, as the default retention wants it; of the fourth day it is still
/// there, to be purged.
fn done(schema: &str, rows: u64, size: u32) -> String {
    let id = id("1600000000000", "'done'");
    let age = age(rows);
    let kept = format!("{age} < 4 * 86400000.0");
    format!(
        "/* bench.done_rows */
         INSERT INTO {schema}.inbox
                (id, source, route, engine, scope, dedup_hash, dedup_key, payload_hash, payload, envelope,
                 message_name, business_key, epoch, attempts, state, detail, received_at, changed_at, done_at)
         SELECT {id}, 'bench', 'bench', 'bench', 'bench', sha256(convert_to('done' || n, 'UTF8')), 'done' || n,
                sha256(convert_to('payload' || n, 'UTF8')),
                CASE WHEN {kept} THEN convert_to(repeat('x', {size}), 'UTF8') END,
                CASE WHEN {kept} THEN '{{}}'::bytea ELSE '' END,
                'BenchOrder', 'done' || n, 1, 0, 'done', '', t.at, t.at, t.at
           FROM generate_series({{from}}::bigint, {{to}}::bigint) n
          CROSS JOIN LATERAL (SELECT clock_timestamp() - {age} * interval '1 millisecond' AS at) t"
    )
}

/// When it is looked at again is a tenth of its age away, at most.
fn waiting(schema: &str, message: &str, prefix: &str, rows: u64, size: u32) -> String {
    let id = id("1650000000000", "'waiting'");
    let age = age(rows);
    let interval =
        format!("least(greatest({age} / 10, 60000), 3600000) * interval '1 millisecond'");
    format!(
        "/* bench.waiting_rows */
         INSERT INTO {schema}.inbox
                (id, source, route, engine, scope, dedup_hash, dedup_key, payload_hash, payload, envelope,
                 message_name, business_key, announced, epoch, attempts, state, reason, detail,
                 received_at, changed_at, due_at)
         SELECT {id}, 'bench', 'bench', 'bench', 'bench', sha256(convert_to(k.key, 'UTF8')), k.key,
                sha256(convert_to('payload' || n, 'UTF8')),
                convert_to('{{\"id\":\"' || k.key || '\",\"orderId\":\"' || k.key
                           || '\",\"amount\":1.5,\"paid\":true,\"note\":\"' || repeat('x', {size}) || '\"}}', 'UTF8'),
                '{{}}'::bytea, '{message}', k.key, true, 1, 0, 'waiting', 'no_subscription', '',
                t.at, t.at, clock_timestamp() + random() * {interval}
           FROM generate_series({{from}}::bigint, {{to}}::bigint) n
          CROSS JOIN LATERAL (SELECT '{prefix}' || lpad(n::text, 9, '0') AS key) k
          CROSS JOIN LATERAL (SELECT clock_timestamp() - {age} * interval '1 millisecond' AS at) t"
    )
}

/// The rounds that the sweeper makes, each by itself.
async fn sweeps(
    bench: &Bench,
    rows: Rows,
    process: Option<&Process>,
    load: &Load,
    report: &mut Report,
) -> anyhow::Result<()> {
    let limit = SweeperConfig::default().limit;
    let (engine, route): (Arc<dyn Engine<Tx>>, _) = match process {
        Some(process) => {
            let woken = count_of_woken(limit).min(rows.waiting);
            process.clear().await?;
            process.wait_for(load, 0, woken).await?;
            let engine = Arc::new(process.engine(&bench.ground));
            hand_over::refresh(bench, &engine).await?;
            (engine, Kind::Correlate.route(process)?)
        }
        None => (Arc::new(Nowhere), way::correlating(way::MESSAGE)?),
    };
    let intake = way::intake(&bench.ground, engine, route);
    let sweeper = Sweeper::new(intake, Retention::default(), SweeperConfig::default());
    bench.say("big_inbox: rounds of wake and confirm");
    let before = bench.ground.rows("handed").await?;
    let wake = rounds(|| sweeper.wake_round()).await?;
    let woken = bench.ground.rows("handed").await?.saturating_sub(before);
    report.add(wake.line("big_inbox_wake", woken, "rows handed"));
    if let Some(process) = process {
        let_run(process, woken).await?;
    }
    let confirm = rounds(|| sweeper.confirm_round()).await?;
    let handed = bench.ground.rows("handed").await?;
    let confirmed = (before + woken).saturating_sub(handed);
    report.add(confirm.line("big_inbox_confirm", confirmed, "rows judged"));
    bench.say("big_inbox: purge");
    report.add(purge(bench, limit).await?);
    let ratio = report.ratio("big_inbox_purge", "big_inbox_accept");
    let what = "purge of the big inbox / accept into it";
    report.want("purge_of_accept", what, ratio, Bound::AtLeast(1.0));
    Ok(())
}

/// Waits until the engine's nodes have run what was woken, so that there is something to confirm; where none runs jobs,
/// not for long.
async fn let_run(process: &Process, woken: u64) -> anyhow::Result<()> {
    let (mut run, mut moved_at) = (0, Instant::now());
    while run < woken && moved_at.elapsed() < STANDSTILL {
        tokio::time::sleep(LOOK).await;
        let now = process.jobs_run().await?;
        if now > run {
            (run, moved_at) = (now, Instant::now());
        }
    }
    Ok(())
}

/// Enough for every round to be full.
fn count_of_woken(limit: u32) -> u64 {
    u64::from(limit) * ROUNDS as u64
}

/// How long each round took.
struct Rounds(Vec<Duration>);

async fn rounds<F>(round: impl Fn() -> F) -> anyhow::Result<Rounds>
where
    F: Future<Output = Result<Round, DbError>>,
{
    let mut took = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        round().await?;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    Ok(Rounds(took))
}

impl Rounds {
    fn line(&self, name: &'static str, rows: u64, what: &str) -> Line {
        let p50 = rate::percentile_ms(&self.0, 50);
        let longest = rate::percentile_ms(&self.0, 100);
        let each = count(rows) / count(self.0.len() as u64);
        Line {
            name,
            headline: format!("p50 {p50:.1} ms a round"),
            how: format!("{ROUNDS} rounds, {each:.0} {what} in each; the longest {longest:.1} ms"),
            figures: vec![
                ("round_p50_ms", p50),
                ("round_max_ms", longest),
                ("rows_per_round", each),
            ],
        }
    }
}

/// Purges for the time of a line, or until nothing is left to be purged.
async fn purge(bench: &Bench, limit: u32) -> anyhow::Result<Line> {
    use crate::inbox::Inbox as _;
    // Purge takes larger pieces than the other sweeps.
    let limit = i64::from(limit) * Sweeper::<PostgresInbox>::PURGE_FACTOR;
    let (mut rows, mut took) = (0, Vec::new());
    let began = Instant::now();
    while began.elapsed() < bench.duration {
        let round = Instant::now();
        let purged = bench
            .ground
            .inbox
            .purge(Retention::default(), limit)
            .await?;
        if purged.payloads + purged.keys == 0 {
            break;
        }
        took.push(round.elapsed());
        rows += purged.payloads + purged.keys;
    }
    let elapsed: Duration = took.iter().sum();
    took.sort_unstable();
    let rounds = Rounds(took);
    let mut line = rounds.line("big_inbox_purge", rows, "payloads and keys purged");
    let rate = per_second(rows, elapsed);
    line.headline = format!("{rate:.0} /s");
    line.figures.push((super::report::PER_SECOND, rate));
    Ok(line)
}

async fn size(bench: &Bench) -> anyhow::Result<Line> {
    let table = format!("{}.inbox", bench.ground.inbox.schema());
    let sizes =
        "/* bench.size */ SELECT pg_table_size($1::regclass), pg_indexes_size($1::regclass)";
    let (table, indexes): (i64, i64) = sqlx::query_as(sizes)
        .bind(table)
        .fetch_one(bench.ground.inbox.pool())
        .await?;
    let (table, indexes) = (count(table.unsigned_abs()), count(indexes.unsigned_abs()));
    Ok(Line {
        name: "big_inbox_size",
        headline: format!("{:.0} MiB", (table + indexes) / MIB),
        how: format!("{:.0} MiB of them indexes", indexes / MIB),
        figures: vec![("table_bytes", table), ("index_bytes", indexes)],
    })
}

const MIB: f64 = 1024.0 * 1024.0;

/// Of this machine, which is the server's too in a test; 0 where it cannot be known.
fn memory_bytes() -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|total| total.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or_default() * 1024.0
}
