//! Two nodes, two engine nodes and a minute of `kill -9`, under load from both brokers.
//!
//! Which one dies when depends on a seed, which is printed; everything else is as random as a real outage.
//! The engine and its database are the test's own, so that no other test is hurt.

use std::time::{Duration, Instant};

use super::say;
use super::shop::{Broker, Entrance, Message, Random, Shop, messages};
use crate::daemon::{Config, Daemon};
use crate::rig::Server;

const LOAD: Duration = Duration::from_mins(1);
/// Orders of each broker; each is seven messages and a duplicate or two.
const ORDERS: usize = 270;
/// Messages of one broker that are sent at once.
const CHUNK: usize = 15;
/// The blows go on after the load until there were so many: on a slow machine a node takes long to come back.
const NODE_KILLS: usize = 5;
const ENGINE_KILLS: usize = 2;
/// How long everything may take once nobody dies any more.
const DRAIN: Duration = Duration::from_mins(2);

/// What the nodes measured before they died, by sweep.
#[derive(Default)]
struct Recovery([Rows; 3]);

#[derive(Default)]
struct Rows {
    all: f64,
    seconds: f64,
    within_2_s: f64,
}

impl Recovery {
    const SWEEPS: [&str; 3] = ["wake", "due", "confirm"];

    async fn add(&mut self, node: &Daemon) {
        // One that is starting has nothing to tell.
        if !node.live().await {
            return;
        }
        let metrics = node.metrics().await;
        for (rows, sweep) in self.0.iter_mut().zip(Self::SWEEPS) {
            let sum = |part: &str, more: &[(&str, &str)]| {
                let labels = [&[("sweep", sweep)], more].concat();
                metrics.sum(&format!("sluice_recovery_seconds_{part}"), &labels)
            };
            rows.all += sum("count", &[]);
            rows.seconds += sum("sum", &[]);
            rows.within_2_s += sum("bucket", &[("le", "2")]);
        }
    }

    fn say(&self) {
        for (rows, sweep) in self.0.iter().zip(Self::SWEEPS) {
            say(&format!(
                "{} rows taken up by {sweep}, {:.2} s after they could have gone on (mean), {:.1} % within 2 s",
                rows.all,
                rows.seconds / rows.all.max(1.0),
                100.0 * rows.within_2_s / rows.all.max(1.0),
            ));
        }
    }
}

/// Kills nodes until the end and starts them again; returns how often, and when the last one died.
async fn kill_nodes(
    nodes: &mut [Daemon; 2],
    mut random: Random,
    end: Instant,
    recovery: &mut Recovery,
) -> (usize, Instant) {
    let (mut kills, mut last) = (0, Instant::now());
    while Instant::now() < end || kills < NODE_KILLS {
        pause(&mut random, 1_000, 4_000).await;
        let node = &mut nodes[random.below(2)];
        recovery.add(node).await;
        node.kill().await;
        (kills, last) = (kills + 1, Instant::now());
        pause(&mut random, 0, 1_500).await;
        node.restart(&[]).await;
    }
    (kills, last)
}

/// Now and then both are dead.
async fn kill_engine(engine: &Server, mut random: Random, end: Instant) -> usize {
    let mut kills = 0;
    while Instant::now() < end || kills < ENGINE_KILLS {
        pause(&mut random, 2_000, 8_000).await;
        engine.kill().await;
        kills += 1;
        engine.start().await;
    }
    kills
}

/// The time between two blows; nothing is waited for.
async fn pause(random: &mut Random, from_ms: usize, to_ms: usize) {
    let pause = from_ms + random.below(to_ms - from_ms);
    tokio::time::sleep(Duration::from_millis(pause as u64)).await;
}

/// Sends at an even rate for as long as the load lasts.
async fn send(entrance: &Entrance, messages: &[Message]) {
    let chunks = messages.chunks(CHUNK);
    let each = LOAD / u32::try_from(chunks.len()).expect("there are few");
    let mut ticks = tokio::time::interval(each);
    for chunk in chunks {
        ticks.tick().await;
        entrance.send(chunk).await;
    }
}

/// How many seconds the records of Kafka waited for the commit that accepted them: p99 and the longest.
async fn waited(shop: &Shop) -> (f64, f64) {
    let sql = "SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY waited), max(waited)
                 FROM (SELECT extract(epoch FROM received_at)::float8 - sent_at_ms / 1000.0::float8
                              AS waited
                         FROM inbox WHERE sent_at_ms IS NOT NULL) w";
    let waited = sqlx::query_as(sql).fetch_one(&shop.inbox).await;
    waited.expect("the inbox can be read")
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_while_nodes_and_engine_nodes_are_killed_at_random() {
    let seed = crate::rig::seed();
    say(&format!("SLUICE_TEST_SEED={seed}"));
    let postgres = Server::postgres(&[]).await;
    // A dead engine node's jobs are free again after this lock time.
    let settings = ["LOCKTIME=3000"];
    let first = Server::engine(Some(&postgres), "engine", &settings).await;
    let second = Server::engine(Some(&postgres), "engine", &settings).await;
    let engines = [first, second];
    let schema = postgres.as_postgres().schema("engine");
    let shop = Shop::on(&engines[0].as_engine(), schema).await;
    let queue = Entrance::of(Broker::RabbitMq).await;
    let topic = Entrance::of(Broker::Kafka).await;
    let config: Config = shop.config(&[("queue", &queue), ("topic", &topic)], "");
    let mut nodes = [
        Daemon::start(&config, &[]).await,
        Daemon::start(&config, &[]).await,
    ];

    let by_queue = messages(&shop.orders("queue", ORDERS), seed);
    let by_topic = messages(&shop.orders("topic", ORDERS), seed + 1);
    let end = Instant::now() + LOAD;
    let mut recovery = Recovery::default();
    let ((node_kills, last), first, second, (), ()) = tokio::join!(
        kill_nodes(&mut nodes, Random(seed + 2), end, &mut recovery),
        kill_engine(&engines[0], Random(seed + 3), end),
        kill_engine(&engines[1], Random(seed + 4), end),
        send(&queue, &by_queue),
        send(&topic, &by_topic),
    );

    let sent = [by_queue, by_topic].concat();
    shop.until_done(&sent, DRAIN).await;
    queue.until_drained().await;
    topic.until_drained().await;
    let drained = last.elapsed();
    for node in &nodes {
        recovery.add(node).await;
    }
    let engine_kills = first + second;
    let (p99, max) = waited(&shop).await;
    say(&format!(
        "{} messages, {node_kills} nodes and {engine_kills} engine nodes killed; all was done {drained:.1?} \
         after the last node died; records of Kafka were accepted after {p99:.1} s (p99), {max:.1} s \
         (longest)",
        sent.len(),
    ));
    recovery.say();
    shop.assert_exact(&sent).await;
}
