//! Batches: how many deliveries go into one, and how many are under way at once.
//!
//! The source is the test's own, so that it is known what was asked of it and what was given back; the
//! database is real, and holds batches up for as long as a test wants.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sluice::finding::Finding;
use sluice::inbox::Inbox;
use sluice::inbox::postgres::PostgresInbox;
use sluice::intake::{Intake, IntakeConfig};
use sluice::message::{Delivery, Envelope, Receipt};
use sluice::position::Claim;
use sluice::route::Routes;
use sluice::shutdown::Shutdown;
use sluice::source::{Limits, OnUnrouted, Source, SourceError, Stream};
use sluice::units::{Size, Span};
use sqlx::postgres::PgPool;
use sqlx::{Postgres, Transaction};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::rig::{Database, Rig, eventually};

const LIMIT: Duration = Duration::from_secs(30);
/// Longer than any test.
const NEVER: Span = Span::secs(600);

/// What the intake wanted of the stream the last time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Nothing,
    /// So many messages, at most.
    Next(usize),
    /// It can take none.
    Idle,
}

/// A source in memory, as the test sees it.
struct Memory {
    ordered: bool,
    given: Mutex<Given>,
    more: Notify,
}

struct Given {
    waiting: VecDeque<Delivery>,
    tags: u64,
    wanted: Wanted,
    /// How often somebody asked for the positions.
    looks: usize,
    /// The tags of each batch that was given back.
    settled: Vec<Vec<u64>>,
}

impl Memory {
    fn new(ordered: bool) -> Arc<Memory> {
        let given = Given {
            waiting: VecDeque::new(),
            tags: 0,
            wanted: Wanted::Nothing,
            looks: 0,
            settled: Vec::new(),
        };
        Arc::new(Memory {
            ordered,
            given: Mutex::new(given),
            more: Notify::new(),
        })
    }

    /// Deliveries of so many bytes each, numbered from 0 on.
    fn give(&self, sizes: &[usize]) {
        let mut given = self.given.lock().unwrap();
        for size in sizes {
            let tag = given.tags;
            given.tags += 1;
            given.waiting.push_back(delivery(tag, *size));
        }
        drop(given);
        self.more.notify_one();
    }

    /// Waits until the intake, having done what it can with what it has, wants this.
    async fn until_wanted(&self, wanted: Wanted) {
        eventually(&format!("{wanted:?} being wanted"), LIMIT, async || {
            let given = self.given.lock().unwrap();
            (given.waiting.is_empty() && given.wanted == wanted).then_some(())
        })
        .await;
    }

    /// The batches, as they were finished, once so many deliveries are.
    async fn until_settled(&self, deliveries: usize) -> Vec<Vec<u64>> {
        eventually("everything being settled", LIMIT, async || {
            let given = self.given.lock().unwrap();
            let count: usize = given.settled.iter().map(Vec::len).sum();
            (count == deliveries).then(|| given.settled.clone())
        })
        .await
    }
}

fn delivery(tag: u64, size: usize) -> Delivery {
    let delivery = Delivery {
        step: None,
        source: "memory".into(),
        payload: Bytes::new(),
        envelope: Envelope::default(),
        redelivered: false,
        receipt: Receipt {
            lane: 0,
            incarnation: 1,
            tag,
        },
    };
    let mut payload = tag.to_string();
    let rest = size - delivery.size() - payload.len();
    payload.push_str(&" ".repeat(rest));
    Delivery {
        payload: payload.into(),
        ..delivery
    }
}

struct MemorySource(Arc<str>, Arc<Memory>);

struct MemoryStream(Arc<Memory>);

#[async_trait]
impl Source for MemorySource {
    fn name(&self) -> &Arc<str> {
        &self.0
    }

    fn ordered(&self) -> bool {
        self.1.ordered
    }

    async fn open(&self) -> Result<Box<dyn Stream>, SourceError> {
        Ok(Box::new(MemoryStream(Arc::clone(&self.1))))
    }

    async fn inspect(&self) -> Result<Vec<Finding>, SourceError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Stream for MemoryStream {
    async fn next(&mut self, limits: Limits) -> Result<Vec<Delivery>, SourceError> {
        loop {
            {
                let mut given = self.0.given.lock().unwrap();
                given.wanted = Wanted::Next(limits.messages);
                let taken = limits.take_from(&mut given.waiting);
                if !taken.is_empty() {
                    return Ok(taken);
                }
            }
            self.0.more.notified().await;
        }
    }

    async fn idle(&mut self) -> SourceError {
        self.0.given.lock().unwrap().wanted = Wanted::Idle;
        std::future::pending().await
    }

    async fn settle(&mut self, receipts: Vec<Receipt>) -> Result<(), SourceError> {
        let tags = receipts.iter().map(|receipt| receipt.tag).collect();
        self.0.given.lock().unwrap().settled.push(tags);
        Ok(())
    }

    fn claims(&self) -> Vec<Arc<Claim>> {
        self.0.given.lock().unwrap().looks += 1;
        Vec::new()
    }

    async fn close(self: Box<Self>) {}
}

/// An intake that reads a source in memory, on a database of its own.
struct Bench {
    memory: Arc<Memory>,
    pool: PgPool,
    shutdown: Shutdown,
    reading: tokio::task::JoinHandle<()>,
    _database: Database,
}

impl Bench {
    async fn start(ordered: bool, config: IntakeConfig) -> Bench {
        let database = Rig::get().database().await;
        let mut settings = crate::inbox::config(&database.url());
        settings.lock_timeout = Span::secs(60);
        settings.statement_timeout = Span::secs(90);
        let inbox = PostgresInbox::connect(&settings, "test").unwrap();
        inbox.migrate().await.unwrap();
        // What no route takes is a row, too, and needs no engine.
        let routes = Routes::new([("memory".to_owned(), OnUnrouted::Dead)], []);
        let node = Uuid::now_v7();
        let intake = Intake::new(inbox, [], Arc::new(routes), node, config);
        let memory = Memory::new(ordered);
        let shutdown = Shutdown::default();
        let source = Arc::new(MemorySource("memory".into(), Arc::clone(&memory)));
        let until = shutdown.clone();
        let reading = tokio::spawn(async move {
            let ended = Box::pin(intake.run(source, until, |_| {})).await;
            ended.expect("everything can be stored");
        });
        Bench {
            memory,
            pool: database.pool().await,
            shutdown,
            reading,
            _database: database,
        }
    }

    /// Batches wait for this transaction.
    async fn hold(&self) -> Transaction<'static, Postgres> {
        let mut tx = self.pool.begin().await.unwrap();
        sqlx::query("LOCK TABLE sluice.inbox IN SHARE MODE")
            .execute(&mut *tx)
            .await
            .unwrap();
        tx
    }

    /// How many batches are held up.
    async fn held(&self) -> i64 {
        sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
             AND wait_event_type = 'Lock' AND query LIKE '/* inbox.insert */%'",
        )
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    async fn until_held(&self, batches: i64) {
        let what = format!("{batches} batches being under way");
        eventually(&what, LIMIT, async || {
            (self.held().await == batches).then_some(())
        })
        .await;
    }

    async fn stop(self) {
        self.shutdown.drain();
        self.reading.await.unwrap();
    }
}

/// A small delivery.
const SMALL: usize = 300;

/// Of ten small messages, two at once; a second batch opens beside a slow one after this long.
fn ten(slow_batch: Span) -> IntakeConfig {
    IntakeConfig {
        max_batch: 10,
        slow_batch,
        transaction_timeout: NEVER,
        max_batches: 2,
        ..IntakeConfig::default()
    }
}

#[tokio::test]
async fn a_second_batch_opens_when_a_full_one_waits_and_a_third_one_never() {
    let bench = Bench::start(false, ten(NEVER)).await;
    let memory = &bench.memory;
    let hold = bench.hold().await;
    memory.give(&[SMALL; 3]);
    bench.until_held(1).await;

    memory.give(&[SMALL; 5]);
    memory.until_wanted(Wanted::Next(5)).await;
    assert_eq!(bench.held().await, 1, "five are not a full batch");

    memory.give(&[SMALL; 5]);
    bench.until_held(2).await;
    memory.until_wanted(Wanted::Next(10)).await;

    memory.give(&[SMALL; 10]);
    memory.until_wanted(Wanted::Idle).await;
    assert_eq!(bench.held().await, 2, "two are enough");

    hold.rollback().await.unwrap();
    let mut batches = memory.until_settled(23).await;
    batches.sort();
    let expected: Vec<Vec<u64>> = [0..3, 3..13, 13..23].map(Iterator::collect).into();
    assert_eq!(batches, expected);
    bench.stop().await;
}

#[tokio::test]
async fn the_positions_are_looked_at_again_and_again_while_nothing_comes() {
    let bench = Bench::start(false, ten(NEVER)).await;
    eventually("a third look", LIMIT, async || {
        (bench.memory.given.lock().unwrap().looks >= 3).then_some(())
    })
    .await;
    bench.stop().await;
}

/// The row that was in the way of an insert is purged before anybody can ask whose it is.
#[tokio::test]
async fn a_message_whose_key_is_purged_while_it_comes_again_is_stored() {
    const HELD: &str = "
        CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$;
        CREATE TRIGGER held AFTER INSERT ON sluice.inbox EXECUTE FUNCTION held();";
    const WAITS: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let bench = Bench::start(false, ten(NEVER)).await;
    let memory = &bench.memory;
    memory.give(&[SMALL]);
    memory.until_settled(1).await;
    sqlx::raw_sql(HELD).execute(&bench.pool).await.unwrap();
    let mut purge = bench.pool.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(7)")
        .execute(&mut *purge)
        .await
        .unwrap();

    // The same payload: the same key.
    memory.given.lock().unwrap().tags = 0;
    memory.give(&[SMALL]);
    eventually("the insert being held up", LIMIT, async || {
        let waits: i64 = sqlx::query_scalar(WAITS)
            .fetch_one(&bench.pool)
            .await
            .unwrap();
        (waits == 1).then_some(())
    })
    .await;
    sqlx::query("DELETE FROM sluice.inbox")
        .execute(&mut *purge)
        .await
        .unwrap();
    purge.commit().await.unwrap();
    memory.until_settled(2).await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM sluice.inbox")
        .fetch_one(&bench.pool)
        .await
        .unwrap();
    assert_eq!(rows, 1, "it was acknowledged");
    bench.stop().await;
}

#[tokio::test]
async fn a_second_batch_opens_beside_a_slow_one_with_whatever_is_there() {
    let bench = Bench::start(false, ten(Span::ms(50))).await;
    let memory = &bench.memory;
    let hold = bench.hold().await;
    memory.give(&[SMALL; 3]);
    bench.until_held(1).await;
    memory.give(&[SMALL; 2]);
    bench.until_held(2).await;
    memory.give(&[SMALL; 4]);
    memory.until_wanted(Wanted::Next(6)).await;
    assert_eq!(bench.held().await, 2, "two are enough, however slow");
    hold.rollback().await.unwrap();
    let mut batches = memory.until_settled(9).await;
    batches.sort();
    let expected: Vec<Vec<u64>> = [0..3, 3..5, 5..9].map(Iterator::collect).into();
    assert_eq!(batches, expected);
    bench.stop().await;
}

#[tokio::test]
async fn an_ordered_source_has_one_batch_under_way_however_slow_and_whatever_waits() {
    let bench = Bench::start(true, ten(Span::ms(1))).await;
    let memory = &bench.memory;
    let hold = bench.hold().await;
    memory.give(&[SMALL; 3]);
    bench.until_held(1).await;
    memory.give(&[SMALL; 12]);
    eventually("ten waiting and the rest being left", LIMIT, async || {
        let given = memory.given.lock().unwrap();
        (given.wanted == Wanted::Idle && given.waiting.len() == 2).then_some(())
    })
    .await;
    assert_eq!(bench.held().await, 1);
    hold.rollback().await.unwrap();
    let batches = memory.until_settled(15).await;
    let expected: Vec<Vec<u64>> = [0..3, 3..13, 13..15].map(Iterator::collect).into();
    assert_eq!(batches, expected, "in this order");
    bench.stop().await;
}

#[tokio::test]
async fn a_batch_keeps_to_its_bytes_and_a_larger_message_goes_alone() {
    let config = IntakeConfig {
        max_batch_bytes: Size(u64::try_from(3 * SMALL).unwrap()),
        ..ten(NEVER)
    };
    let bench = Bench::start(false, config).await;
    let memory = &bench.memory;
    let hold = bench.hold().await;
    memory.give(&[SMALL]);
    bench.until_held(1).await;
    memory.give(&[SMALL; 2]);
    memory.until_wanted(Wanted::Next(8)).await;
    // There is room for one more, and not for this one.
    memory.give(&[10 * SMALL]);
    bench.until_held(2).await;
    memory.until_wanted(Wanted::Idle).await;
    memory.give(&[SMALL; 7]);
    hold.rollback().await.unwrap();
    let mut batches = memory.until_settled(11).await;
    batches.sort();
    let expected: Vec<Vec<u64>> = [0..1, 1..3, 3..4].map(Iterator::collect).into();
    assert_eq!(batches[..3], expected);
    let small = &batches[3..];
    assert!(small.iter().all(|batch| batch.len() <= 3), "{small:?}");
    bench.stop().await;
}
