//! One daemon, with what may be changed about it while others go on: its clock, its configuration, its build.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::report::Recovery;
use super::world::{Links, Source};
use crate::crash::shop::{Entrance, Limits, Settings, Shop};
use crate::daemon::{Config, Daemon, Metrics, Signal};
use crate::rig::clock::Clock;

/// How long a daemon may take to end in order; longer than its own limit.
const DRAIN: Duration = Duration::from_secs(45);

/// Both notice a vanished server while its fault lasts.
const INBOX: &str =
    "statement_timeout = \"4s\"\nlock_timeout = \"2s\"\nidle_in_transaction_timeout = \"4s\"";

const LIMITS: Limits = Limits {
    of_rabbitmq: "heartbeat = \"2s\"\nconnect_timeout = \"4s\"",
    of_kafka: "session_timeout = \"3s\"\nconnect_timeout = \"4s\"",
};

pub struct Node {
    pub daemon: Daemon,
    recovery: Recovery,
    configurations: [Config; 2],
    configuration: usize,
    builds: [PathBuf; 2],
    build: usize,
    /// Seconds by which its clock is wrong.
    clock: i64,
}

impl Node {
    pub async fn start(
        number: usize,
        shop: &Shop,
        sources: &[Source],
        links: &Links,
        other: Option<&Path>,
    ) -> Node {
        let [first, second] = Change::ALL.map(|change| configuration(shop, sources, links, change));
        let this = Path::new(env!("CARGO_BIN_EXE_sluice"));
        let name = format!("[node]\nname = \"node-{}\"", number + 1);
        let configurations = [first.with(&name), second.with(&name)];
        Node {
            daemon: Daemon::start(&configurations[0], &[]).await,
            recovery: Recovery::default(),
            configurations,
            configuration: 0,
            builds: [this, other.unwrap_or(this)].map(Path::to_path_buf),
            build: 0,
            clock: 0,
        }
    }

    /// `kill -9`, after a look at what it measured.
    pub async fn kill(&mut self) {
        self.note_recovery().await;
        self.daemon.kill().await;
    }

    /// SIGTERM, and its end in order or by its own limit.
    pub async fn leave(&mut self) {
        self.note_recovery().await;
        self.daemon.signal(Signal::Term);
        self.daemon.wait_exit(DRAIN).await;
    }

    /// Comes back with the clock, configuration and build of the moment.
    pub async fn come_back(&mut self) {
        let clock = Clock::wrong_by(self.clock);
        self.daemon.restart(&clock.environment()).await;
    }

    /// Wrong by up to three days, or right again, from the next start on.
    pub fn change_clock(&mut self, choice: usize) {
        let hours = i64::try_from(choice % 145).expect("it is small") - 72;
        self.clock = match self.clock {
            0 => 3600 * hours + 1,
            _ => 0,
        };
    }

    /// The other one of two configurations, from the next start on.
    pub fn change_configuration(&mut self) {
        self.configuration = 1 - self.configuration;
        let configuration = &self.configurations[self.configuration];
        self.daemon.configure(configuration);
    }

    /// The other one of two builds, from the next start on.
    pub fn change_build(&mut self) {
        self.build = 1 - self.build;
        self.daemon.install(&self.builds[self.build]);
    }

    /// What the processes that ended measured, and the one that runs.
    pub async fn recovery_so_far(&self) -> Recovery {
        let mut recovery = self.recovery.clone();
        // One that is starting has nothing to tell.
        if let Some((_, body)) = self.daemon.get("/metrics").await {
            recovery.add(&Metrics::parse(&body));
        }
        recovery
    }

    /// Before the process ends.
    async fn note_recovery(&mut self) {
        self.recovery = self.recovery_so_far().await;
    }
}

/// What two valid configurations of one cluster differ in.
#[derive(Debug, Clone, Copy)]
enum Change {
    Before,
    After,
}

impl Change {
    const ALL: [Change; 2] = [Change::Before, Change::After];

    fn settings(self) -> Settings<'static> {
        match self {
            Change::Before => Settings {
                inbox: INBOX,
                ..Settings::default()
            },
            Change::After => Settings {
                inbox: INBOX,
                max_batches: 3,
                ..Settings::default()
            },
        }
    }

    /// Lines of every route of payments: how long they wait is another time.
    fn ttl(self) -> &'static str {
        match self {
            Change::Before => "",
            Change::After => "on_conflict = \"ignore\"\n",
        }
    }
}

fn configuration(shop: &Shop, sources: &[Source], links: &Links, change: Change) -> Config {
    let url = links.database.instead_of(shop.schema.url());
    let mut config = shop.base(&url, change.settings());
    for source in sources {
        let link = match source.entrance {
            Entrance::Queue(_) => &links.rabbitmq,
            Entrance::Topic(_) => &links.kafka,
        };
        let entrance = &source.entrance;
        config = config.with(&entrance.source(source.name, Some(link.port()), LIMITS));
        let order = if source.ordered {
            "order_by = \"$.order\"\norder_scope = \"payments\"\n"
        } else {
            ""
        };
        let of_payments = [order, change.ttl()].concat();
        config = config.with(&shop.routes(source.name, &of_payments));
        if matches!(change, Change::After) {
            config = config.with(&unused_route(source.name));
        }
    }
    config
}

/// Nobody sends such a message.
fn unused_route(source: &str) -> String {
    format!(
        "[routes.returned-{source}]\nsource = \"{source}\"\nengine = \"book\"\ndedup_key = \"$.id\"\n\
         when = {{ value = \"$.type\", equals = \"returned\" }}\n\
         [routes.returned-{source}.apply]\nbusiness_key = \"$.order\"\nvariables = {{ id = \"$.id\" }}\n"
    )
}
