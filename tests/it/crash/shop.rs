//! A shop whose orders are told by messages: what was sent, and what must have come of it.
//!
//! A producer sends the same messages for the same seed, one in five of them twice. Each order is placed
//! once (a start), paid several times (variant C), called about (variant B) and noted in a table of the
//! shop's own (engine `sql`), and takes any number of messages of each kind, so that a second effect of a
//! message would show. Effects are counted in the engine's history and in that table alone; the inbox is
//! only asked whether anything is still to be done, because no double can come after that.

mod entrance;
mod message;

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::{AssertSqlSafe, PgPool};

use crate::daemon::Config;
use crate::effects::Effects;
use crate::rig::{Deployment, Engine, Rig, Schema, eventually};

pub use entrance::{Broker, Entrance, Limits};
pub use message::{Kind, Message, Random, messages, messages_paying};

/// How long a shop may take to have done what it was told, on a busy machine.
pub const LIMIT: Duration = Duration::from_mins(2);

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
