//! What the inbox alone takes: raw inserts, and the whole way without an engine.
//!
//! The raw insert sends the inbox's own statement with values that are ready, so that it is the same table
//! with the same indexes and the same rows, and nothing else: no decoding, no BEGIN, no acknowledgement.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures_util::future::try_join_all;
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::{AssertSqlSafe, SqlStr};

use super::load::Load;
use super::memory::{Memory, Supply};
use super::rate::{self, TURNS, Total, count};
use super::report::{Bound, Report};
use super::way::{self, Nowhere};
use super::{Bench, Ground};
use crate::inbox::{NewRow, RowId, State, Target, UniqueKey};
use crate::message::{DedupKey, Envelope, Hash};

/// What is tried for the best rate.
const ROWS: [usize; 3] = [100, 500, 1000];
const CONNECTIONS: [usize; 3] = [1, 2, 4];

pub async fn measure(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let ground = &bench.ground;
    bench.say("raw_insert: looking for the best number of rows and connections");
    let mut raw = Raw::best(bench).await?;
    bench.say("raw_insert and accept, in turns");
    let (mut sent, mut accepted) = (Total::default(), Total::default());
    for _ in 0..TURNS {
        ground.clear().await?;
        sent += raw.insert(bench, bench.duration / TURNS).await?;
        let sent_shape = shape(ground).await?;
        ground.clear().await?;
        accepted += accept(bench, "accept", bench.duration / TURNS).await?;
        let shape = shape(ground).await?;
        ensure!(
            sent_shape == shape,
            "the rows that are compared differ: {sent_shape} and {shape}"
        );
    }
    let how = format!(
        "{} rows a statement on {} connections, the best of {ROWS:?} x {CONNECTIONS:?}",
        raw.rows, raw.connections
    );
    let mut line = rate::line("raw_insert", sent, &how);
    line.figures.push(("rows", count(raw.rows as u64)));
    line.figures
        .push(("connections", count(raw.connections as u64)));
    report.add(line);
    let how = "decode, map, insert, commit, acknowledge; no engine";
    report.add(rate::line("accept", accepted, how));
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

/// How the bare statement is sent.
struct Raw {
    rows: usize,
    connections: usize,
    /// The next message; none is sent twice.
    next: u64,
}

impl Raw {
    /// Tries each combination for a while.
    async fn best(bench: &Bench) -> anyhow::Result<Self> {
        let mut next = 0;
        let try_out = async |rows, connections| {
            bench.ground.clear().await?;
            let mut trial = Self {
                rows,
                connections,
                next,
            };
            let rate = trial.insert(bench, bench.duration / 8).await?.per_second();
            next = trial.next;
            Ok(rate)
        };
        let (_, rows, connections) = rate::best(&ROWS, &CONNECTIONS, try_out).await?;
        Ok(Self {
            rows,
            connections,
            next,
        })
    }

    /// Inserts for so long; the clock stands still while the next rows are made ready.
    async fn insert(&mut self, bench: &Bench, duration: Duration) -> anyhow::Result<Total> {
        let pool = bench.ground.inbox.pool();
        let mut sessions = Vec::new();
        for _ in 0..self.connections {
            let mut session = pool.acquire().await?;
            let level = bench.ground.config.synchronous_commit.as_sql();
            sqlx::query("/* bench.session */ SELECT set_config('synchronous_commit', $1, false)")
                .bind(level)
                .execute(&mut *session)
                .await?;
            sessions.push(session);
        }
        let load = bench.load("raw-insert");
        let mut total = Total::default();
        while total.elapsed < duration && total.messages < bench.messages {
            // Several statements for each connection, so that one that ends early is not idle for long.
            let statements = (bench.round / self.rows).max(self.connections);
            let ready = ready(&bench.ground, &load, self.next, self.rows, statements)?;
            let messages = (self.rows * statements) as u64;
            self.next += messages;
            let queue = Mutex::new(ready);
            let began = Instant::now();
            try_join_all(sessions.iter_mut().map(|session| send(session, &queue))).await?;
            total += Total::of(messages, began.elapsed());
        }
        let stored = bench.ground.rows("done").await?;
        let sent = total.messages;
        ensure!(
            stored == sent,
            "{sent} rows were sent and {stored} are there"
        );
        Ok(total)
    }
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

/// The whole way without an engine, for so long.
pub async fn accept(bench: &Bench, name: &str, duration: Duration) -> anyhow::Result<Total> {
    let ground = &bench.ground;
    let before = ground.rows("done").await?;
    let supply = Supply {
        messages: bench.messages,
        duration,
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
    Ok(Total::of(messages, tally.elapsed))
}
