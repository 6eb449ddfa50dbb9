//! A shop whose orders are told by messages: what was sent, and what must have come of it.
//!
//! A producer sends the same messages for the same seed, one in five of them twice. Each order is placed
//! once (a start), paid several times (variant C), called about (variant B) and noted in a table of the
//! shop's own (engine `sql`), and takes any number of messages of each kind, so that a second effect of a
//! message would show. Effects are counted in the engine's history and in that table alone; the inbox is
//! only asked whether anything is still to be done, because no double can come after that.

use std::collections::BTreeMap;
use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};

use crate::daemon::Config;
use crate::effects::Effects;
use crate::rig::{Deployment, Engine, Queue, QueueKind, Rig, Schema, Topic, eventually};

/// How often an order is paid, usually, and called about.
const PAID: usize = 3;
const CALLED: usize = 2;
/// How long a shop may take to have done what it was told, on a busy machine.
pub const LIMIT: Duration = Duration::from_mins(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broker {
    RabbitMq,
    Kafka,
}

/// Where a shop's messages come in.
pub enum Entrance {
    Queue(Box<Queue>),
    Topic(Topic),
}

impl Entrance {
    pub async fn of(broker: Broker) -> Entrance {
        let rig = Rig::get();
        match broker {
            Broker::RabbitMq => Entrance::Queue(Box::new(rig.queue(QueueKind::Quorum).await)),
            Broker::Kafka => Entrance::Topic(rig.topic(2).await),
        }
    }

    /// One whose order can be kept: all messages go to one consumer at a time.
    pub async fn ordered(broker: Broker) -> Entrance {
        let mut arguments = FieldTable::default();
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        let rig = Rig::get();
        match broker {
            Broker::RabbitMq => {
                let queue = rig.rabbitmq.queue_with(QueueKind::Quorum, arguments);
                Entrance::Queue(Box::new(queue.await))
            }
            Broker::Kafka => Entrance::of(broker).await,
        }
    }

    /// Sends in this order and waits until the broker has stored all.
    pub async fn send(&self, messages: &[Message]) {
        let sent = self.try_send(messages).await;
        sent.expect("the broker stores what is sent");
    }

    /// The same to a broker that may die meanwhile. After an error nobody knows which messages it has.
    pub async fn try_send(&self, messages: &[Message]) -> anyhow::Result<()> {
        match self {
            Entrance::Queue(queue) => {
                let all = messages
                    .iter()
                    .map(|message| (message.payload(), BasicProperties::default()));
                queue.try_publish(all.collect()).await
            }
            Entrance::Topic(topic) => {
                let sent = messages.iter().map(async |message| {
                    let payload = message.payload();
                    topic
                        .try_produce(None, Some(&message.order), &[], &payload)
                        .await
                });
                futures_util::future::try_join_all(sent).await?;
                Ok(())
            }
        }
    }

    /// The table of a source that is fed through it, by way of a proxy on this port if there is one.
    pub fn source(&self, name: &str, proxy: Option<u16>, limits: Limits) -> String {
        match self {
            Entrance::Queue(queue) => {
                let mut uri = reqwest::Url::parse(queue.uri()).expect("the rig's URIs are URIs");
                uri.set_port(proxy.or(uri.port())).expect("it has a host");
                let (queue, lines) = (queue.name(), limits.of_rabbitmq);
                format!(
                    "[sources.{name}.rabbitmq]\nuris = [\"{uri}\"]\nqueue = \"{queue}\"\n{lines}"
                )
            }
            Entrance::Topic(topic) => {
                let through = proxy.map(|port| format!("127.0.0.1:{port}"));
                let servers = through.as_deref().unwrap_or(topic.bootstrap());
                let (topic, lines) = (topic.name(), limits.of_kafka);
                format!(
                    "[sources.{name}.kafka]\nbootstrap_servers = \"{servers}\"\ntopics = [\"{topic}\"]\n\
                     group_id = \"{topic}\"\n{lines}"
                )
            }
        }
    }

    /// Waits until the broker has nothing left that is not acknowledged.
    pub async fn until_drained(&self) {
        match self {
            Entrance::Queue(queue) => queue.wait_until_empty(LIMIT).await,
            Entrance::Topic(topic) => topic.wait_until_committed(topic.name(), LIMIT).await,
        }
    }
}

/// How soon a source and its broker miss each other: lines of the source's table.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub of_rabbitmq: &'static str,
    pub of_kafka: &'static str,
}

impl Limits {
    /// Those of a configuration that says nothing.
    pub const DEFAULT: Limits = Limits {
        of_rabbitmq: "",
        of_kafka: "",
    };
    pub const QUICK: Limits = Limits {
        of_rabbitmq: "heartbeat = \"2s\"",
        of_kafka: "session_timeout = \"3s\"",
    };
}

/// What a test sets that most leave as it is.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// Lines of the table `[inbox]`.
    pub inbox: &'a str,
    pub max_batches: usize,
    /// Lines of the route of payments.
    pub of_payments: &'a str,
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Settings {
            inbox: "",
            max_batches: 2,
            of_payments: "",
        }
    }
}

/// What a message tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Placed,
    Paid,
    Called,
    Noted,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Placed => "placed",
            Kind::Paid => "paid",
            Kind::Called => "called",
            Kind::Noted => "noted",
        }
    }
}

/// One message; the same bytes whenever it is sent.
#[derive(Debug, Clone)]
pub struct Message {
    /// The dedup key.
    pub id: String,
    pub kind: Kind,
    /// The business key.
    pub order: String,
}

impl Message {
    fn payload(&self) -> Vec<u8> {
        json!({"id": self.id, "type": self.kind.as_str(), "order": self.order})
            .to_string()
            .into_bytes()
    }
}

/// The messages of some orders in the order of sending, duplicates among them: the same for the same seed.
///
/// Payments of one order have rising numbers.
pub fn messages(orders: &[String], seed: u64) -> Vec<Message> {
    messages_paying(PAID, orders, seed)
}

/// The same with so many payments of each order.
pub fn messages_paying(times: usize, orders: &[String], seed: u64) -> Vec<Message> {
    let mut random = Random(seed);
    let mut told: Vec<(Kind, &String)> = Vec::new();
    for order in orders {
        told.push((Kind::Placed, order));
        told.extend(vec![(Kind::Paid, order); times]);
        told.extend([(Kind::Called, order); CALLED]);
        told.push((Kind::Noted, order));
    }
    random.shuffle(&mut told);
    let mut numbers: BTreeMap<(&str, &String), usize> = BTreeMap::new();
    let mut messages: Vec<Message> = told
        .into_iter()
        .map(|(kind, order)| {
            let number = numbers.entry((kind.as_str(), order)).or_default();
            *number += 1;
            let id = format!("{}-{number}-{order}", kind.as_str());
            Message {
                id,
                kind,
                order: order.clone(),
            }
        })
        .collect();
    for _ in 0..messages.len() / 5 {
        let first = random.below(messages.len());
        let again = first + 1 + random.below(messages.len() - first);
        messages.insert(again, messages[first].clone());
    }
    messages
}

/// A generator that gives the same numbers for the same seed on every machine: `SplitMix64`.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below this one.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("a usize fits");
        usize::try_from(self.next() % end).expect("it is below a usize")
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// A shop with its own inbox, models and history beside others on one engine.
pub struct Shop {
    pub schema: Schema,
    pub inbox: PgPool,
    models: Deployment,
    pub effects: Effects,
}

impl Shop {
    /// On the engine that all tests share.
    pub async fn open() -> Shop {
        let rig = Rig::get();
        Shop::on(&rig.engine(), rig.schema()).await
    }

    /// Beside an engine's tables.
    pub async fn on(engine: &Engine, schema: Schema) -> Shop {
        let model = ("order".to_owned(), include_str!("order.bpmn").to_owned());
        let suffix = crate::rig::unique();
        let inbox = schema.pool().await;
        // No unique key: a second effect shall show.
        let book = format!(
            "CREATE SCHEMA {0};
             CREATE TABLE {0}.noted (id text, about text, at timestamptz DEFAULT clock_timestamp())",
            schema.name()
        );
        let made = sqlx::raw_sql(AssertSqlSafe(book)).execute(&inbox).await;
        made.expect("the schema is the test's own");
        Shop {
            models: engine.deploy_texts(&suffix, vec![model], None).await,
            effects: Effects::at(schema.url()).await,
            inbox,
            schema,
        }
    }

    /// What the engine calls the process of an order.
    pub fn process(&self) -> String {
        self.models.name("order")
    }

    /// Names of orders that no other shop has.
    pub fn orders(&self, label: &str, count: usize) -> Vec<String> {
        (1..=count)
            .map(|number| format!("{label}-{number}-{}", self.models.suffix()))
            .collect()
    }

    /// A node that serves the shop: small batches, so that there are many of them, and quick sweeps.
    pub fn config(&self, entrances: &[(&str, &Entrance)], inbox: &str) -> Config {
        let settings = Settings {
            inbox,
            ..Settings::default()
        };
        self.config_at(self.schema.url(), entrances, settings)
    }

    /// The same with payments in order.
    pub fn ordered_config(&self, entrances: &[(&str, &Entrance)]) -> Config {
        let settings = Settings {
            of_payments: "order_by = \"$.order\"\norder_scope = \"payments\"",
            ..Settings::default()
        };
        self.config_at(self.schema.url(), entrances, settings)
    }

    /// The same, with the database at an address of the test's choice.
    pub fn config_at(
        &self,
        url: &str,
        entrances: &[(&str, &Entrance)],
        settings: Settings<'_>,
    ) -> Config {
        let mut config = self.base(url, settings);
        for (name, entrance) in entrances {
            let source = entrance.source(name, None, Limits::QUICK);
            config = config
                .with(&source)
                .with(&self.routes(name, settings.of_payments));
        }
        config
    }

    /// All but the sources and their routes.
    pub fn base(&self, url: &str, settings: Settings<'_>) -> Config {
        Config::at(url, self.schema.name())
            .inbox("retention = { payload = \"1s\", key = \"1d\" }")
            .inbox(settings.inbox)
            // The clock of the engines that the rig starts.
            .camunda_tables("shop", "time_zone = \"UTC\"")
            .granting(&format!("INSERT ON {}.noted", self.schema.name()))
            .with(&format!(
                "[engines.book.sql]\napply = \"INSERT INTO {}.noted VALUES (:id, :business_key)\"",
                self.schema.name()
            ))
            .with(
                "[sweeper]\nbusy_interval = \"20ms\"\nidle_interval = \"300ms\"\npurge_interval = \"200ms\"",
            )
            .with(&format!(
                "[intake]\nmax_batch = 8\nslow_batch = \"1ms\"\nmax_batches = {}",
                settings.max_batches
            ))
    }

    /// The four routes of a source.
    pub fn routes(&self, source: &str, of_payments: &str) -> String {
        let route = |kind: &str, engine: &str, lines: &str, action: &str| {
            format!(
                "[routes.{kind}-{source}]\nsource = \"{source}\"\nengine = \"{engine}\"\n\
                 when = {{ value = \"$.type\", equals = \"{kind}\" }}\ndedup_key = \"$.id\"\n{lines}\n\
                 [routes.{kind}-{source}.{action}\nbusiness_key = \"$.order\"\n"
            )
        };
        let name = |message: &str| format!("message_name = \"{}\"", self.models.name(message));
        let carried = "variables = { paid = \"$.id\" }";
        [
            route("placed", "shop", "", &format!("start]\n{}", name("Placed"))),
            route(
                "paid",
                "shop",
                of_payments,
                &format!("correlate]\n{}\n{carried}", name("Paid")),
            ),
            route(
                "called",
                "shop",
                "",
                &format!("correlate]\n{}", name("Called")),
            ),
            route("noted", "book", "", "apply]\nvariables = { id = \"$.id\" }"),
        ]
        .concat()
    }

    // === what came of it ===

    /// Waits until every message that was sent is done, and nothing is left in the engine or at the broker.
    ///
    /// # Panics
    /// When a row is dead.
    pub async fn until_done(&self, sent: &[Message], limit: Duration) {
        self.until_done_but(0, sent, limit).await;
    }

    /// The same with as many dead rows, whose messages are not among the others.
    pub async fn until_done_but(&self, dead: i64, sent: &[Message], limit: Duration) {
        let unique = ids(sent).len();
        let mut last = String::new();
        let look = async || {
            let (states, left) = self.states().await?;
            last = format!("{states:?}, {left} jobs");
            let of = |state: &str| states.get(state).copied().unwrap_or(0);
            assert!(of("dead") <= dead, "rows are dead: {:?}", self.dead().await);
            let finished = of("done") + of("dead") == states.values().sum::<i64>();
            let all = usize::try_from(of("done")).ok()? >= unique && of("dead") == dead;
            (all && finished && left == 0).then_some(())
        };
        let waited =
            tokio::time::timeout(limit, eventually("the shop being done", limit * 2, look)).await;
        assert!(
            waited.is_ok(),
            "of {unique} messages after {limit:?}: {last}"
        );
    }

    /// Rows by state, and how many jobs of ours the engine has not run.
    pub async fn states(&self) -> Option<(BTreeMap<String, i64>, i64)> {
        let states: Vec<(String, i64)> =
            sqlx::query_as("SELECT state, count(*) FROM inbox GROUP BY 1")
                .fetch_all(&self.inbox)
                .await
                .ok()?;
        let left = "SELECT (SELECT count(*) FROM pending) + (SELECT count(*) FROM pending_start)";
        let left: i64 = sqlx::query_scalar(left).fetch_one(&self.inbox).await.ok()?;
        Some((states.into_iter().collect(), left))
    }

    /// Waits until the inbox has a row of every message that was sent.
    pub async fn until_accepted(&self, sent: &[Message]) {
        let unique = ids(sent).len();
        eventually("the messages being accepted", LIMIT, async || {
            (self.rows().await.len() >= unique).then_some(())
        })
        .await;
    }

    /// Every row with what changes when it is driven.
    pub async fn rows(&self) -> Vec<(String, String, i64, i32)> {
        let sql = "SELECT id::text, state, epoch, attempts FROM inbox ORDER BY id";
        let rows = sqlx::query_as(sql).fetch_all(&self.inbox).await;
        rows.expect("the inbox can be read")
    }

    /// Dedup key, reason and detail of each dead row.
    pub async fn dead(&self) -> Vec<(String, String, String)> {
        let sql = "SELECT dedup_key, reason, detail FROM inbox WHERE state = 'dead'";
        let dead = sqlx::query_as(sql).fetch_all(&self.inbox).await;
        dead.expect("the inbox can be read")
    }

    /// Outages use no attempt.
    pub async fn assert_no_attempts(&self) {
        let used: Option<i32> = sqlx::query_scalar("SELECT max(attempts) FROM inbox")
            .fetch_one(&self.inbox)
            .await
            .expect("the inbox can be read");
        assert_eq!(used, Some(0), "an outage used attempts");
    }

    /// Compares the engine's history with what was sent: every unique message once, and nothing else.
    pub async fn assert_exact(&self, sent: &[Message]) {
        let process = self.process();
        let unique = ids(sent);
        let started = self.effects.started(&process).await;
        assert_eq!(started, counted(&unique, Kind::Placed), "orders placed");
        let called = self.effects.of(&process, "called").await;
        assert_eq!(called, counted(&unique, Kind::Called), "calls taken");
        let taken = self.effects.of(&process, "paid").await;
        assert_eq!(taken, counted(&unique, Kind::Paid), "payments taken");
        let paid = self.effects.values(&process, "paid").await;
        let mut carried: Vec<&String> = paid.values().flatten().collect();
        carried.sort();
        let paid_once: Vec<&String> = unique
            .iter()
            .filter(|(_, (kind, _))| *kind == Kind::Paid.as_str())
            .map(|(id, _)| id)
            .collect();
        assert_eq!(carried, paid_once, "payments carried, each once");
        let noted: Vec<(String, i64)> =
            sqlx::query_as("SELECT about, count(*) FROM noted GROUP BY 1")
                .fetch_all(&self.inbox)
                .await
                .expect("the shop's book can be read");
        let noted: BTreeMap<String, i64> = noted.into_iter().collect();
        assert_eq!(noted, counted(&unique, Kind::Noted), "notes in the book");
        // The models are made for these variants; another one would not be what the test is about.
        let jobs = self.effects.jobs(&process).await;
        let calls: i64 = called.values().sum();
        assert_eq!(
            jobs.get("event"),
            Some(&calls),
            "calls by variant B: {jobs:?}"
        );
        assert!(
            jobs.contains_key("correlate-message"),
            "payments by variant C"
        );
    }

    /// Every order got its payments in the order in which they were sent.
    pub async fn assert_ordered(&self) {
        let process = self.process();
        for (order, ids) in self.effects.values(&process, "paid").await {
            let numbers = ids.iter().map(|id| {
                let number = id.split('-').nth(1).and_then(|number| number.parse().ok());
                number.unwrap_or(0_usize)
            });
            assert!(numbers.is_sorted(), "payments of {order}: {ids:?}");
        }
    }
}

/// Kind and order of each unique message, by its id.
fn ids(sent: &[Message]) -> BTreeMap<String, (&'static str, String)> {
    sent.iter()
        .map(|message| {
            let what = (message.kind.as_str(), message.order.clone());
            (message.id.clone(), what)
        })
        .collect()
}

/// How many messages of a kind each order has.
fn counted(unique: &BTreeMap<String, (&'static str, String)>, kind: Kind) -> BTreeMap<String, i64> {
    let mut counts = BTreeMap::new();
    for (_, order) in unique.values().filter(|(of, _)| *of == kind.as_str()) {
        *counts.entry(order.clone()).or_insert(0) += 1;
    }
    counts
}
