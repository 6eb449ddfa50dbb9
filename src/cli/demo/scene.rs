//! The stage of the demo: broker, daemons and tables, and what happens to them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::broker::Broker;
use super::daemon::{Causes, Daemon, configure};
use super::effects::Effects;
use super::orders::{Id, Orders};
use super::report::Report;
use super::screen::Screen;

/// When nothing has happened for so long, what has no effect is lost.
const STANDSTILL: Duration = Duration::from_secs(45);
const TICK: Duration = Duration::from_millis(100);
/// A record lies in the broker for about this long before a daemon has it.
const UNTIL_WORK_BEGINS: Duration = Duration::from_millis(15);

pub struct Scene {
    folder: PathBuf,
    screen: Screen,
    effects: Effects,
    // The daemons go before their broker does.
    doomed: Daemon,
    survivor: Daemon,
    broker: Broker,
    killed: Option<Killed>,
}

/// One daemon, after `kill -9`.
struct Killed {
    at: Instant,
    /// What was sent before and has no effect yet.
    open: HashSet<Id>,
    /// When the last of these had its effect.
    recovered_after: Option<Duration>,
    /// What it could still tell.
    causes: Causes,
}

impl Scene {
    /// Ready to play: two daemons share the topics' partitions. `expected`: how many messages will be sent.
    pub async fn set(folder: &Path, broken: bool, expected: u64) -> anyhow::Result<Self> {
        let mut screen = Screen::new(expected);
        screen.say("starting an embedded Kafka and two daemons");
        let effects = Effects::create(&folder.join("demo.db")).await?;
        configure(folder, broken)?;
        let broker = Broker::start()?;
        // Side by side: the group waits some seconds for members before it shares the partitions out.
        let (doomed, survivor) = tokio::try_join!(
            Daemon::start(folder, "one", &broker),
            Daemon::start(folder, "two", &broker)
        )?;
        let mut scene = Self {
            folder: folder.to_owned(),
            screen,
            effects,
            doomed,
            survivor,
            broker,
            killed: None,
        };
        tokio::try_join!(scene.doomed.until_reading(), scene.survivor.until_reading())?;
        let url = scene.survivor.url();
        scene
            .screen
            .say(&format!("both daemons read; status page: {url}"));
        Ok(scene)
    }

    /// Sends what is due and looks around.
    pub async fn tick(&mut self, orders: &mut Orders, due: u64) -> anyhow::Result<()> {
        tokio::time::sleep(TICK).await;
        let under_way = orders.unique().saturating_sub(self.effects.distinct());
        let room = Broker::ROOM.saturating_sub(under_way);
        let sendings = orders.until(due.min(orders.sent() + room));
        self.broker.send(&sendings).await?;
        self.look(orders).await
    }

    async fn look(&mut self, orders: &Orders) -> anyhow::Result<()> {
        self.effects.look().await?;
        let mut killed = "";
        if let Some(end) = &mut self.killed {
            killed = ", one daemon killed";
            end.open.retain(|id| !self.effects.has(id));
            if end.open.is_empty() {
                end.recovered_after.get_or_insert_with(|| end.at.elapsed());
                killed = ", one daemon killed, all caught up";
            }
        }
        let (sent, unique, distinct) = (orders.sent(), orders.unique(), self.effects.distinct());
        let text =
            format!("sent {sent}: {unique} messages, {distinct} of them had their effect{killed}");
        self.screen.show(sent, &text);
        Ok(())
    }

    /// `kill -9`, in the middle of work; the node is started again, as a service manager would do.
    pub async fn kill_one(&mut self, orders: &mut Orders, due: u64) -> anyhow::Result<()> {
        let mut causes = Causes::default();
        causes.look(&self.doomed).await;
        self.broker.send(&orders.until(due)).await?;
        tokio::time::sleep(UNTIL_WORK_BEGINS).await;
        self.doomed.kill()?;
        let at = Instant::now();
        self.screen.say("kill -9 of one daemon");
        self.effects.look().await?;
        self.killed = Some(Killed {
            at,
            open: self.effects.without(orders.ready()),
            recovered_after: None,
            causes,
        });
        self.doomed = Daemon::start(&self.folder, "one-again", &self.broker).await?;
        Ok(())
    }

    /// Sends the rest, and waits until everything is read and has its effect.
    pub async fn finish(&mut self, orders: &mut Orders) -> anyhow::Result<()> {
        self.broker.send(&orders.close()).await?;
        let (mut effects, mut since) = (0, Instant::now());
        loop {
            tokio::time::sleep(TICK).await;
            self.look(orders).await?;
            if self.effects.distinct() > effects {
                effects = self.effects.distinct();
                since = Instant::now();
            }
            let complete = effects == orders.unique() && self.broker.is_consumed().await?;
            if complete || since.elapsed() > STANDSTILL {
                return Ok(());
            }
        }
    }

    /// Ends the daemons as an operator would, and counts.
    pub async fn report(
        mut self,
        orders: &Orders,
        killed_after: Duration,
        seed: u64,
    ) -> anyhow::Result<Report> {
        let [mut again, mut survived] = [Causes::default(), Causes::default()];
        again.look(&self.doomed).await;
        survived.look(&self.survivor).await;
        self.doomed.stop().await?;
        self.survivor.stop().await?;
        self.effects.look().await?;
        let tally = self.effects.tally(orders.expected());
        let mut recovery = None;
        if let Some(killed) = &self.killed {
            recovery = killed.recovered_after;
            again = again.add(&killed.causes);
        }
        Ok(Report {
            sent: orders.sent(),
            unique: orders.unique(),
            effects: tally.effects,
            duplicates: self.effects.duplicates().await?,
            lost: tally.lost,
            doubled: tally.doubled,
            early: orders.early(),
            redriven: self.effects.redriven().await?,
            duplicates_by_cause: survived.add(&again).into_inner(),
            killed_after_seconds: killed_after.as_secs_f64(),
            recovery_seconds: recovery.map(|after| after.as_secs_f64()),
            seed,
        })
    }
}
