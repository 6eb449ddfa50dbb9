//! What the inbox alone takes: raw inserts, and the whole way without an engine.
//!
//! The raw insert sends the inbox's own statement with values that are ready, so that it is the same table
//! with the same indexes and the same rows, and nothing else: no decoding, no BEGIN, no acknowledgement.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::{AssertSqlSafe, SqlStr};

use super::load::Load;
use super::memory::{Memory, Supply};
use super::rate::{self, count, per_second};
use super::report::{Bound, Line, Report};
use super::way::{self, Nowhere};
use super::{Bench, Ground};
use crate::inbox::{NewRow, RowId, State, Target, UniqueKey};
use crate::message::{DedupKey, Envelope, Hash};

/// What is tried for the best rate.
const ROWS: [usize; 3] = [100, 500, 1000];
const CONNECTIONS: [usize; 3] = [1, 2, 4];

pub async fn measure(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    bench.say("raw insert: looking for the best number of rows and connections");
    report.add(raw(bench).await?);
    let sent = shape(&bench.ground).await?;
    bench.say("accept: the whole way without an engine");
    bench.ground.clear().await?;
    let how = "decode, map, insert, commit, acknowledge; no engine";
    report.add(accept(bench, "accept", how).await?);
    let accepted = shape(&bench.ground).await?;
    ensure!(
        sent == accepted,
        "the rows that are compared differ: {sent} and {accepted}"
    );
    let ratio = report.ratio("accept", "raw_insert");
    report.want(
        "accept_of_raw_insert",
        "accept without engine / raw insert",
        ratio,
        Bound::AtLeast(0.8),
    );
    Ok(())
}

/// A row without what is different in each: both lines must write the same.
async fn shape(ground: &Ground) -> anyhow::Result<serde_json::Value> {
    let schema = ground.inbox.schema();
    let text = format!(
        "/* bench.shape */
         SELECT to_jsonb(i) - ARRAY['id', 'dedup_key', 'dedup_hash', 'payload', 'payload_hash',
                                    'business_key', 'received_at', 'changed_at', 'done_at']
           FROM {schema}.inbox i LIMIT 1"
    );
    let shape = sqlx::query_scalar(AssertSqlSafe(text)).fetch_one(ground.inbox.pool());
    Ok(shape.await?)
}

/// Tries each combination for a while, and measures the best one.
async fn raw(bench: &Bench) -> anyhow::Result<Line> {
    let ground = &bench.ground;
    let mut best: Option<(f64, usize, usize)> = None;
    let mut numbers = 0;
    for rows in ROWS {
        for connections in CONNECTIONS {
            ground.clear().await?;
            let (messages, elapsed) =
                insert(bench, rows, connections, bench.duration / 8, &mut numbers).await?;
            let rate = per_second(messages, elapsed);
            if best.is_none_or(|(most, ..)| rate > most) {
                best = Some((rate, rows, connections));
            }
        }
    }
    let (_, rows, connections) = best.context("something was tried")?;
    ground.clear().await?;
    let (messages, elapsed) =
        insert(bench, rows, connections, bench.duration, &mut numbers).await?;
    let stored = ground.rows("done").await?;
    ensure!(
        stored == messages,
        "{messages} rows were sent and {stored} are there"
    );
    let how = format!(
        "{rows} rows a statement on {connections} connections, the best of {ROWS:?} x {CONNECTIONS:?}"
    );
    let mut line = rate::line("raw_insert", messages, elapsed, &how);
    line.figures.push(("rows", count(rows as u64)));
    line.figures
        .push(("connections", count(connections as u64)));
    Ok(line)
}

/// Inserts for so long; the clock stands still while the next rows are made ready. Returns how many, and
/// how long that took.
async fn insert(
    bench: &Bench,
    rows: usize,
    connections: usize,
    duration: Duration,
    numbers: &mut u64,
) -> anyhow::Result<(u64, Duration)> {
    let pool = bench.ground.inbox.pool();
    let mut sessions = Vec::new();
    for _ in 0..connections {
        sessions.push(pool.acquire().await?);
    }
    for session in &mut sessions {
        let level = bench.ground.config.synchronous_commit.as_sql();
        sqlx::query("/* bench.session */ SELECT set_config('synchronous_commit', $1, false)")
            .bind(level)
            .execute(&mut **session)
            .await?;
    }
    let load = bench.load("raw-insert");
    let (mut messages, mut elapsed) = (0, Duration::ZERO);
    while elapsed < duration && messages < bench.messages {
        // Several statements for each connection, so that one that ends early is not idle for long.
        let statements = (bench.round / rows).max(connections);
        let ready = ready(&bench.ground, &load, *numbers, rows, statements)?;
        *numbers += count_rows(rows, statements);
        messages += count_rows(rows, statements);
        let queue = Mutex::new(ready);
        let began = Instant::now();
        try_join_all(sessions.iter_mut().map(|session| send(session, &queue))).await?;
        elapsed += began.elapsed();
    }
    Ok((messages, elapsed))
}

type Ready = VecDeque<(SqlStr, PgArguments)>;

async fn send(session: &mut PgConnection, queue: &Mutex<Ready>) -> anyhow::Result<()> {
    loop {
        let next = queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front();
        let Some((text, values)) = next else {
            return Ok(());
        };
        sqlx::query_with(text, values)
            .fetch_all(&mut *session)
            .await?;
    }
}

/// Statements of so many rows each.
fn ready(
    ground: &Ground,
    load: &Load,
    first: u64,
    rows: usize,
    statements: usize,
) -> anyhow::Result<Ready> {
    let mut ready = Ready::with_capacity(statements);
    let mut n = first;
    for _ in 0..statements {
        let batch: Vec<NewRow> = (0..rows)
            .map(|_| {
                n += 1;
                row(load, n - 1)
            })
            .collect();
        ready.push_back(ground.inbox.ready_insert(&batch)?);
    }
    Ok(ready)
}

/// The row that the intake makes of the n-th message, whose effect is its row.
fn row(load: &Load, n: u64) -> NewRow {
    let payload = load.payload(n);
    let key = DedupKey::new(load.key(n));
    NewRow {
        id: RowId::fresh(),
        source: way::NAME.to_owned(),
        route: Some(way::NAME.to_owned()),
        engine: Some(way::NAME.to_owned()),
        key: UniqueKey {
            scope: way::NAME.to_owned(),
            hash: key.hash,
            conflict: None,
        },
        dedup_key: key.text.clone(),
        payload_hash: Hash::of(&[&payload]),
        payload,
        envelope: Envelope::default().to_json(),
        coordinates: None,
        sent_at: None,
        target: Target {
            message_name: Some(way::MESSAGE.to_owned()),
            business_key: Some(key.text),
            announced: false,
        },
        order: None,
        epoch: 1,
        attempts: 0,
        state: State::Done {
            detail: String::new(),
            process_instance_id: None,
        },
    }
}

/// The whole way without an engine, for the time of a line.
pub async fn accept(bench: &Bench, name: &'static str, how: &str) -> anyhow::Result<Line> {
    let ground = &bench.ground;
    let before = ground.rows("done").await?;
    let supply = Supply {
        messages: bench.messages,
        duration: bench.duration,
        first: 0,
        pause: None,
    };
    let memory = Memory::new(way::NAME, bench.load(name), supply);
    let intake = way::intake(ground, Arc::new(Nowhere), way::correlating(way::MESSAGE)?);
    let tally = way::go(intake, Arc::new(memory.clone()), memory.finished()).await?;
    let stored = ground.rows("done").await? - before;
    let messages = tally.messages;
    ensure!(
        stored == messages,
        "{messages} messages were given and {stored} are done"
    );
    Ok(rate::line(name, messages, tally.elapsed, how))
}

fn count_rows(rows: usize, statements: usize) -> u64 {
    (rows as u64).saturating_mul(statements as u64)
}
