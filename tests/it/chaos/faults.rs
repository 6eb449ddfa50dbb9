//! What each kind of fault does, and how it is mended. When one returns, what it broke works again, or is about to.

use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};

use super::checker::seconds;
use super::proxy::{Link, Lost, Mode};
use super::schedule::{Fault, Kind, Step};
use super::world::{NODES, ROOM, World};
use crate::crash::say;
use crate::crash::shop::Entrance;
use crate::daemon::Signal;
use crate::rig::Server;

/// The least by which a slow way delays each part of what it carries.
const SLOW: Duration = Duration::from_millis(50);

/// How often a server is started until it stays.
const STARTS: usize = 4;

/// A fault that happened.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    pub kind: Kind,
    /// Seconds since 1970.
    pub at: f64,
}

/// Lets the faults of one round happen, each when its time has come, what it breaks is whole, and not too much else
/// is broken.
pub struct Breaking<'a> {
    pub world: &'a World,
    pub begun: Instant,
    /// As many permits as faults may overlap.
    pub overlap: tokio::sync::Semaphore,
    /// Those that have begun.
    pub events: watch::Sender<Vec<Event>>,
}

impl Breaking<'_> {
    pub async fn all(&self, steps: &[Step]) {
        let start = tokio::time::Instant::now();
        let each = steps.iter().map(async |step| {
            tokio::time::sleep_until(start + step.at).await;
            self.one(step.fault).await;
        });
        futures_util::future::join_all(each).await;
    }

    async fn one(&self, fault: Fault) {
        let World {
            nodes,
            engines,
            rabbitmq,
            kafka,
            database,
            ..
        } = self.world;
        let engine = &engines[fault.victim % 2];
        match fault.kind {
            Kind::DaemonKill
            | Kind::DaemonFreeze
            | Kind::DaemonLeaves
            | Kind::Clock
            | Kind::Configuration
            | Kind::Version => self.daemon(&nodes[fault.victim % NODES], fault).await,
            Kind::Rebalance => self.rebalance(fault).await,
            Kind::EngineKill => self.kill(engine, fault).await,
            Kind::EngineFreeze => self.freeze(engine, fault).await,
            Kind::RabbitmqKill => self.kill(rabbitmq, fault).await,
            Kind::RabbitmqFreeze => self.freeze(rabbitmq, fault).await,
            Kind::KafkaKill => self.kill(kafka, fault).await,
            Kind::KafkaFreeze => self.freeze(kafka, fault).await,
            Kind::DatabaseCrash => self.kill(database, fault).await,
            Kind::DatabaseRestart => {
                let database = database.lock().await;
                let _permit = self.begin(fault).await;
                database.stop().await;
                tokio::time::sleep(fault.lasts).await;
                database.start().await;
            }
            Kind::DiskFull => {
                let _database = database.lock().await;
                let _permit = self.begin(fault).await;
                self.world.disk.fill();
                tokio::time::sleep(fault.lasts).await;
                self.world.disk.resize(ROOM);
            }
            Kind::Cut(_) | Kind::Slow(_) | Kind::HalfOpen(_) | Kind::Vanished => {
                self.way(fault).await;
            }
        }
    }

    /// Something happens on the way between a daemon and its servers.
    async fn way(&self, fault: Fault) {
        let links = self.world.links[fault.victim % NODES].lock().await;
        let _permit = self.begin(fault).await;
        let lost = Lost::ALL[fault.choice % Lost::ALL.len()];
        let (mode, troubled): (Mode, Vec<&Link>) = match fault.kind {
            Kind::Cut(far) => return links.to(far).cut(),
            Kind::Slow(far) => {
                let later = SLOW * u32::try_from(1 + fault.choice % 8).expect("it is small");
                (Mode::Slow(later), vec![links.to(far)])
            }
            Kind::HalfOpen(far) => (Mode::Swallows(lost), vec![links.to(far)]),
            _ => (Mode::Swallows(Lost::Everything), links.all().to_vec()),
        };
        for link in &troubled {
            link.be(mode);
        }
        tokio::time::sleep(fault.lasts).await;
        for link in &troubled {
            link.be(Mode::Open);
        }
    }

    async fn rebalance(&self, fault: Fault) {
        let _group = self.world.group.lock().await;
        let _permit = self.begin(fault).await;
        let topics = self
            .world
            .sources
            .iter()
            .filter_map(|source| match &source.entrance {
                Entrance::Topic(topic) => Some(topic),
                Entrance::Queue(_) => None,
            });
        let topics: Vec<_> = topics.collect();
        let topic = topics[fault.choice % topics.len()];
        topic.disturb(topic.name(), fault.lasts).await;
    }

    async fn daemon(&self, node: &Mutex<super::node::Node>, fault: Fault) {
        let mut node = node.lock().await;
        let _permit = self.begin(fault).await;
        if fault.kind == Kind::DaemonFreeze {
            node.daemon.signal(Signal::Stop);
            tokio::time::sleep(fault.lasts).await;
            node.daemon.signal(Signal::Cont);
            return;
        }
        match fault.kind {
            Kind::DaemonKill => node.kill().await,
            _ => node.leave().await,
        }
        match fault.kind {
            Kind::Clock => node.change_clock(fault.choice),
            Kind::Configuration => node.change_configuration(),
            Kind::Version => node.change_build(),
            _ => {}
        }
        tokio::time::sleep(fault.lasts).await;
        node.come_back().await;
    }

    async fn kill(&self, server: &Mutex<Server>, fault: Fault) {
        let server = server.lock().await;
        let _permit = self.begin(fault).await;
        server.kill().await;
        tokio::time::sleep(fault.lasts).await;
        // An engine node ends when its database is away at that moment; whoever runs one starts it again.
        for _ in 1..STARTS {
            if server.try_start().await.is_ok() {
                return;
            }
        }
        server.start().await;
    }

    async fn freeze(&self, server: &Mutex<Server>, fault: Fault) {
        let server = server.lock().await;
        let _permit = self.begin(fault).await;
        server.freeze().await;
        tokio::time::sleep(fault.lasts).await;
        server.thaw().await;
    }

    async fn begin(&self, fault: Fault) -> tokio::sync::SemaphorePermit<'_> {
        let permit = self.overlap.acquire().await;
        let at = seconds(chrono::Utc::now());
        let kind = fault.kind;
        self.events
            .send_modify(|events| events.push(Event { kind, at }));
        say(&format!(
            "[{:7.1} s] {} {} for {:.1} s",
            self.begun.elapsed().as_secs_f64(),
            kind.name(),
            fault.victim % NODES + 1,
            fault.lasts.as_secs_f64()
        ));
        permit.expect("it is never closed")
    }
}
