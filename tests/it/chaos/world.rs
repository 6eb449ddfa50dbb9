//! The servers, the ways to them and the daemons of one run: all its own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lapin::types::{AMQPValue, FieldTable};
use sqlx::AssertSqlSafe;
use tokio::sync::Mutex;

use super::node::Node;
use super::proxy::Link;
use super::schedule::Far;
use crate::crash::say;
use crate::crash::shop::{Entrance, Shop};
use crate::rig::{QueueKind, Server, SmallDisk};

pub const NODES: usize = 3;
/// How often somebody looks whether a topic is read.
const LOOK: Duration = Duration::from_secs(5);
/// Of the disk that holds Sluice's tables, while it is not full.
pub const ROOM: &str = "size=2g";

/// Where messages come in. Ordered ones keep the order of payments.
pub struct Source {
    pub name: &'static str,
    pub entrance: Entrance,
    pub ordered: bool,
}

/// The ways of one daemon to its servers.
pub struct Links {
    pub database: Link,
    pub rabbitmq: Link,
    pub kafka: Link,
}

impl Links {
    async fn open() -> Links {
        Links {
            database: Link::open().await,
            rabbitmq: Link::open().await,
            kafka: Link::open().await,
        }
    }

    pub fn to(&self, far: Far) -> &Link {
        match far {
            Far::Database => &self.database,
            Far::Rabbitmq => &self.rabbitmq,
            Far::Kafka => &self.kafka,
        }
    }

    pub fn all(&self) -> [&Link; 3] {
        [&self.database, &self.rabbitmq, &self.kafka]
    }
}

/// What a fault breaks it locks, so that no two faults meet there. Fields are dropped in this order: the
/// servers go last.
pub struct World {
    pub nodes: [Mutex<Node>; NODES],
    pub sources: Vec<Source>,
    pub shop: Shop,
    pub links: [Mutex<Links>; NODES],
    pub engines: [Mutex<Server>; 2],
    pub rabbitmq: Mutex<Server>,
    pub kafka: Mutex<Server>,
    /// A stranger that joins its consumers breaks nothing of the broker.
    pub group: Mutex<()>,
    pub disk: SmallDisk,
    pub database: Mutex<Server>,
}

impl World {
    /// Starts everything. `other` is another build of the daemon.
    pub async fn start(other: Option<&Path>) -> World {
        let links = [
            Links::open().await,
            Links::open().await,
            Links::open().await,
        ];
        let doors = links
            .each_ref()
            .map(|links| links.kafka.port().to_string())
            .join(",");
        let doors = format!("DOORS={doors}");
        let settings = [doors.as_str()];
        let (rabbitmq, kafka, (database, engines)) =
            tokio::join!(Server::rabbitmq(&[]), Server::kafka(&settings), engines(),);
        for (number, links) in links.iter().enumerate() {
            links.database.lead_to(&address(database.part("url")));
            links.rabbitmq.lead_to(&address(rabbitmq.part("amqp")));
            let door = format!("door{}", number + 1);
            links.kafka.lead_to(kafka.part(&door));
        }
        let shop = Shop::on(
            &engines[0].as_engine(),
            database.as_postgres().schema("engine"),
        )
        .await;
        let sources = sources(&rabbitmq, &kafka).await;
        let disk = SmallDisk::beside(&database.folder().join("data"), ROOM);
        put_tables_on(&disk, &shop).await;
        let [first, second, third] = &links;
        let nodes = [
            Node::start(0, &shop, &sources, first, other).await,
            Node::start(1, &shop, &sources, second, other).await,
            Node::start(2, &shop, &sources, third, other).await,
        ];
        World {
            nodes: nodes.map(Mutex::new),
            sources,
            shop,
            links: links.map(Mutex::new),
            engines: engines.map(Mutex::new),
            rabbitmq: Mutex::new(rabbitmq),
            kafka: Mutex::new(kafka),
            group: Mutex::new(()),
            disk,
            database: Mutex::new(database),
        }
    }

    /// Returns when the daemons have said for so long that Kafka lets none of them into a topic's group.
    ///
    /// Kafka's coordinator can lose its timers when it is elected twice while it loads; then it waits for dead members
    /// for ever (`CoordinatorRuntime` of Kafka 4.1 to 4.4).
    pub async fn until_kafka_is_stuck(&self, woken: Duration) {
        let mut well = Instant::now();
        while well.elapsed() <= woken {
            tokio::time::sleep(LOOK).await;
            if !self.is_kept_outside().await {
                well = Instant::now();
            }
        }
    }

    /// Whether there is a topic of which every node says that its group lets it not in.
    async fn is_kept_outside(&self) -> bool {
        let is_topic = |source: &&Source| matches!(source.entrance, Entrance::Topic(_));
        let topics = self.sources.iter().filter(is_topic);
        let mut outside: BTreeSet<&str> = topics.map(|source| source.name).collect();
        for node in &self.nodes {
            let Some((_, status)) = node.lock().await.daemon.get("/api/status").await else {
                return false;
            };
            let status: serde_json::Value = serde_json::from_str(&status).expect("it is JSON");
            let says_so = |name: &str| {
                let sources = status["sources"].as_array().into_iter().flatten();
                let mut own = sources.filter(|source| source["name"] == name);
                own.any(|source| {
                    let told = source["last_error"]["text"].as_str().unwrap_or_default();
                    source["connected"] == false && told.contains("does not let us in")
                })
            };
            outside.retain(|source| says_so(source));
        }
        !outside.is_empty()
    }

    /// Says what came in of each source, and what each daemon thinks of itself.
    pub async fn tell(&self) {
        let rows = "SELECT source, state, coalesce(reason, ''), count(*)
                      FROM inbox GROUP BY 1, 2, 3 ORDER BY 1, 2, 3";
        let rows: Result<Vec<(String, String, String, i64)>, _> =
            sqlx::query_as(rows).fetch_all(&self.shop.inbox).await;
        say(&format!("the inbox: {rows:?}"));
        for node in &self.nodes {
            let Some((_, status)) = node.lock().await.daemon.get("/api/status").await else {
                say("a daemon does not answer");
                continue;
            };
            let status: serde_json::Value = serde_json::from_str(&status).expect("it is JSON");
            for part in ["node", "readiness", "engines", "problems"] {
                say(&format!("{part}: {}", status[part]));
            }
            for source in status["sources"].as_array().into_iter().flatten() {
                let facts = [
                    "name",
                    "connected",
                    "paused",
                    "lag",
                    "reconnects",
                    "last_error",
                ];
                say(&format!(
                    "source: {:?}",
                    facts.map(|fact| source[fact].to_string())
                ));
            }
        }
    }

    /// Copies everybody's logs into a folder of its own for each.
    pub async fn keep_logs(&self, folder: &Path) {
        for (number, node) in self.nodes.iter().enumerate() {
            let of_node = folder.join(format!("daemon-{}", number + 1));
            copy_logs(node.lock().await.daemon.folder(), &of_node);
        }
        let servers = [
            (&self.database, "postgres"),
            (&self.rabbitmq, "rabbitmq"),
            (&self.kafka, "kafka"),
            (&self.engines[0], "engine-1"),
            (&self.engines[1], "engine-2"),
        ];
        for (server, name) in servers {
            copy_logs(&server.lock().await.folder(), &folder.join(name));
        }
    }
}

/// What the owner of Sluice's tables creates from now on lies on the small disk.
async fn put_tables_on(disk: &SmallDisk, shop: &Shop) {
    let place = disk.folder().display();
    let statements = [
        format!("CREATE TABLESPACE small LOCATION '{place}'"),
        "ALTER ROLE postgres IN DATABASE engine SET default_tablespace = small".to_owned(),
    ];
    for statement in statements {
        let done = sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&shop.inbox)
            .await;
        done.expect("the server is the run's own");
    }
}

/// A database and two nodes of the engine on it.
async fn engines() -> (Server, [Server; 2]) {
    let database = Server::postgres(&[]).await;
    // A dead engine node's jobs are free again after this lock time.
    let settings = ["LOCKTIME=3000"];
    // The first one makes the tables.
    let first = Server::engine(Some(&database), "engine", &settings).await;
    let second = Server::engine(Some(&database), "engine", &settings).await;
    (database, [first, second])
}

async fn sources(rabbitmq: &Server, kafka: &Server) -> Vec<Source> {
    let (rabbitmq, kafka) = (rabbitmq.as_rabbitmq(), kafka.as_kafka());
    let mut one_consumer = FieldTable::default();
    one_consumer.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    let queue = rabbitmq.queue(QueueKind::Quorum).await;
    let ordered_queue = rabbitmq.queue_with(QueueKind::Quorum, one_consumer).await;
    let source = |name, entrance, ordered| Source {
        name,
        entrance,
        ordered,
    };
    vec![
        source("queue", Entrance::Queue(Box::new(queue)), false),
        source("line", Entrance::Queue(Box::new(ordered_queue)), true),
        source("topic", Entrance::Topic(kafka.topic(6).await), false),
        source("log", Entrance::Topic(kafka.topic(4).await), true),
    ]
}

/// Host and port of a URL.
pub fn address(url: &str) -> String {
    let url = reqwest::Url::parse(url).expect("the rig's URLs are URLs");
    let host = url.host_str().expect("a server has a host");
    format!("{host}:{}", url.port().expect("the rig chose a port"))
}

/// Files that are small enough to be logs or configuration; data is left behind.
fn copy_logs(from: &Path, to: &Path) {
    const LARGEST: u64 = 256 << 20;
    std::fs::create_dir_all(to).unwrap();
    let files = std::fs::read_dir(from).into_iter().flatten().flatten();
    for file in files
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
    {
        let small = file.metadata().is_ok_and(|data| data.len() < LARGEST);
        if let (true, Some(name)) = (small, file.file_name()) {
            // What cannot be copied is not worth failing twice.
            let _ = std::fs::copy(&file, to.join(PathBuf::from(name)));
        }
    }
}
