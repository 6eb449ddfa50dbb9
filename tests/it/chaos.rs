//! The chaos run: everything that can break does, again and again, and the effects are counted.
//!
//! Three daemons, two engine nodes, PostgreSQL, RabbitMQ and Kafka, all of the run's own. A seeded schedule of faults
//! comes in rounds; after each, everything is whole again, what was sent is worked off, and a checker that knows
//! nothing of what the daemons believe counts effects in the engine's history. `tests/chaos` chooses how long; the
//! test alone is one round, which has every kind of fault.

mod checker;
mod faults;
mod node;
mod options;
mod producer;
pub mod proxy;
mod report;
mod schedule;
mod world;

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::sync::{Semaphore, watch};

use checker::Verdict;
use faults::{Breaking, Event};
use options::Options;
use producer::{Load, Sent};
use report::{Figures, Recovery, Story};
use world::World;

use crate::crash::say;
use crate::crash::shop::Random;
use crate::rig::eventually;

/// Faults that may overlap.
const OVERLAP: usize = 5;
/// How long everything may take once nothing is broken any more.
const DRAIN: Duration = Duration::from_mins(4);
/// When no node is let into a group for so long, somebody is woken (the alert `SluiceSourceDisconnected` takes two
/// minutes) and restarts Kafka, as README says.
const WOKEN: Duration = Duration::from_mins(1);
/// How often it is said what is still to be done.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// A run, round by round.
struct Run<'a> {
    world: &'a World,
    options: &'a Options,
    begun: Instant,
    sent: Sent,
    events: Vec<Event>,
    rounds: u64,
    /// How often Kafka was restarted because it let nobody in.
    kafka_restarts: usize,
}

impl Run<'_> {
    /// Until it is over or something is wrong. What is known so far is written after each round, so that a run that
    /// is interrupted was not for nothing.
    async fn rounds(&mut self) -> (Verdict, Figures) {
        loop {
            self.round().await;
            let verdict = checker::look(&self.world.shop, &self.sent).await;
            say(&format!(
                "[{:7.1} s] round {} is over: {} faults so far, {} messages, {} lost, {} doubled",
                self.begun.elapsed().as_secs_f64(),
                self.rounds,
                self.events.len(),
                self.sent.messages.len(),
                verdict.lost.len(),
                verdict.doubled.len()
            ));
            let over = self
                .options
                .is_over(self.begun.elapsed(), self.events.len());
            let figures = self.figures(&verdict).await;
            self.options.write(&figures);
            if over || !verdict.is_good() {
                return (verdict, figures);
            }
        }
    }

    async fn round(&mut self) {
        self.rounds += 1;
        let seed = self.options.seed;
        let steps = schedule::round(seed, self.rounds, &self.options.deck);
        let (shop, sources) = (&self.world.shop, &self.world.sources);
        let mut random = Random(seed ^ self.rounds);
        let loads: Vec<Load> = sources
            .iter()
            .map(|source| {
                let orders = self.options.orders;
                Load::of(source, shop, &self.sent, (self.rounds, orders), &mut random)
            })
            .collect();
        let breaking = Breaking {
            world: self.world,
            begun: self.begun,
            overlap: Semaphore::new(OVERLAP),
            events: watch::Sender::default(),
        };
        let sending = sources.iter().zip(&loads).map(|(source, load)| {
            let begun = breaking.events.subscribe();
            load.send(source, steps.len(), begun)
        });
        let (sent, ()) = tokio::join!(join_all(sending), breaking.all(&steps));
        self.events.extend(breaking.events.send_replace(Vec::new()));
        for sent in sent {
            self.sent.add(sent);
        }
        self.kafka_restarts += self.drain().await;
    }

    /// Waits until every node works, and then until everything is done, as far as it can be seen; the checker
    /// says what is missing. Returns how often Kafka had to be restarted.
    ///
    /// # Panics
    /// When a daemon ended by itself.
    async fn drain(&self) -> usize {
        for node in &self.world.nodes {
            let daemon = &node.lock().await.daemon;
            eventually("every daemon working", DRAIN, async || {
                let ended = daemon.exited();
                assert!(ended.is_none(), "a daemon ended by itself: {ended:?}");
                daemon.ready().await.then_some(())
            })
            .await;
        }
        let unique = self.sent.messages.len();
        let mut told = Instant::now();
        let settled = async || {
            let (states, left) = self.world.shop.states().await?;
            if told.elapsed() > TOLD_EVERY {
                told = Instant::now();
                say(&format!(
                    "[{:7.1} s] of {unique} messages: {states:?}, {left} jobs",
                    self.begun.elapsed().as_secs_f64()
                ));
            }
            let done = states.get("done").copied().unwrap_or(0);
            let all = usize::try_from(done).ok()? >= unique;
            (all && done == states.values().sum::<i64>() && left == 0).then_some(())
        };
        let mut restarts = 0;
        let mut stuck = std::pin::pin!(self.world.until_kafka_is_stuck(WOKEN));
        let mut waiting = std::pin::pin!(eventually("everything being done", DRAIN * 2, settled));
        let mut late = std::pin::pin!(tokio::time::sleep(DRAIN));
        loop {
            tokio::select! {
                () = &mut waiting => break,
                () = &mut stuck, if restarts == 0 => {
                    say("Kafka answers and lets nobody into a group: it is restarted, as an operator would");
                    self.world.kafka.lock().await.restart().await;
                    restarts += 1;
                }
                () = &mut late => {
                    say(&format!("not everything was done within {DRAIN:?}"));
                    self.world.tell().await;
                    return restarts;
                }
            }
        }
        join_all(
            self.world
                .sources
                .iter()
                .map(|source| source.entrance.until_drained()),
        )
        .await;
        restarts
    }

    async fn figures(&self, verdict: &Verdict) -> Figures {
        let mut recovery = Recovery::default();
        for node in &self.world.nodes {
            recovery.join(&node.lock().await.recovery_so_far().await);
        }
        let story = Story {
            events: &self.events,
            sent: &self.sent,
            verdict,
            times: &checker::times(&self.world.shop, &self.sent).await,
            recovery: &recovery,
        };
        Figures {
            seed: self.options.seed,
            commit: self.options.commit.clone(),
            other_build: self.options.other_build(),
            seconds: self.begun.elapsed().as_secs(),
            rounds: self.rounds,
            kafka_restarts: self.kafka_restarts,
            ..Figures::of(&story)
        }
    }
}

#[tokio::test]
async fn every_message_has_one_effect_in_its_order_while_everything_breaks() {
    let options = Options::read();
    say(&format!("SLUICE_TEST_SEED={}", options.seed));
    let world = World::start(options.other.as_deref()).await;
    let mut run = Run {
        world: &world,
        options: &options,
        begun: Instant::now(),
        sent: Sent::default(),
        events: Vec::new(),
        rounds: 0,
        kafka_restarts: 0,
    };
    let ended = AssertUnwindSafe(run.rounds()).catch_unwind().await;
    let is_good = matches!(&ended, Ok((verdict, _)) if verdict.is_good());
    if !is_good || run.kafka_restarts > 0 {
        world.keep_logs(&options.logs).await;
        let logs = options.logs.display();
        say(&format!(
            "seed {}: the logs of all are kept in {logs}",
            options.seed
        ));
    }
    let (verdict, figures) = match ended {
        Ok(ended) => ended,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    say(&figures.text());
    assert!(verdict.is_good(), "seed {}: {verdict:#?}", options.seed);
}
