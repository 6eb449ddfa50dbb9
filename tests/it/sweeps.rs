//! What the sweeps and the intake owe to rows whose neighbours, or whose engine, are in trouble.
//!
//! Nodes without sources, on an inbox and a table of the user's own in one database.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use sluice::engine::sql::SqlOnPostgres;
use sluice::engine::{Ask, Confirmed, Engine, EngineState, Matched};
use sluice::finding::Finding;
use sluice::inbox::postgres::{PostgresInbox, Tx};
use sluice::inbox::{DbError, Filter, Inbox, Retention, Woken};
use sluice::intake::{Intake, IntakeConfig};
use sluice::message::{Message, Undecodable};
use sluice::route::{Route, Routes};
use sluice::shutdown::Shutdown;
use sluice::source::OnUnrouted;
use sluice::sweeper::{Round, Sweeper, SweeperConfig};
use sqlx::PgPool;
use uuid::Uuid;

use crate::engine::delivery;
use crate::rig::{Database, Rig, eventually};

/// Orders that are open take notes; looking for one may take long, or fail.
const SHOP: &str = "CREATE TABLE orders (key text, slow double precision NOT NULL DEFAULT 0);
    CREATE TABLE notes (id text, key text)";
const MATCH: &str = "SELECT 1 FROM orders o
    WHERE CASE WHEN o.key = :business_key THEN pg_sleep(o.slow) IS NOT NULL END";
const APPLY: &str = "INSERT INTO notes VALUES (:dedup_key, :business_key)";

struct Shop {
    pool: PgPool,
    database: Database,
}

struct Node {
    inbox: PostgresInbox,
    intake: Arc<Intake<PostgresInbox>>,
    sweeper: Sweeper<PostgresInbox>,
}

impl Shop {
    async fn open() -> Shop {
        let database = Rig::get().database().await;
        let pool = database.pool().await;
        sqlx::raw_sql(SHOP).execute(&pool).await.unwrap();
        Shop { pool, database }
    }

    /// `routes`: name, engine, further lines. `broken`: an engine that is in the way of everything.
    async fn node(&self, routes: &[(&str, &str, &str)], broken: Option<&'static str>) -> Node {
        let config = json!({ "url": self.database.url(), "statement_timeout": "300ms" });
        let config = serde_json::from_value(config).unwrap();
        let inbox = PostgresInbox::connect(&config, "sluice/test").unwrap();
        inbox.migrate().await.unwrap();
        let sql = serde_json::from_value(json!({ "match": MATCH, "apply": APPLY })).unwrap();
        let mut engines: Vec<Arc<dyn Engine<Tx>>> =
            vec![Arc::new(SqlOnPostgres::new("shop", &sql).unwrap())];
        engines.extend(broken.map(|name| Arc::new(Broken(name)) as Arc<dyn Engine<Tx>>));
        let routes = routes.iter().map(|(name, engine, more)| {
            let toml = format!(
                "source = 'test'\nengine = '{engine}'\ndedup_key = '@message_id'\n\
                 when = {{ header = 'route', equals = '{name}' }}\n{more}\n\
                 [apply]\nbusiness_key = '$.key'"
            );
            Route::new(name, toml::from_str(&toml).unwrap())
        });
        let routes = Routes::new([("test".to_owned(), OnUnrouted::Dead)], routes);
        let intake = Arc::new(Intake::new(
            inbox.clone(),
            engines,
            Arc::new(routes),
            Uuid::now_v7(),
            IntakeConfig::default(),
        ));
        let sweeper = Sweeper::new(
            Arc::clone(&intake),
            Retention::default(),
            SweeperConfig::default(),
        );
        Node {
            inbox,
            intake,
            sweeper,
        }
    }

    async fn run(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.pool).await.unwrap();
    }

    async fn make_due(&self) {
        self.run("UPDATE sluice.inbox SET due_at = clock_timestamp() WHERE state = 'waiting'")
            .await;
    }

    /// The ids of the notes of a key, in order.
    async fn notes(&self, key: &str) -> Vec<String> {
        sqlx::query_scalar("SELECT id FROM notes WHERE key = $1 ORDER BY id")
            .bind(key)
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }
}

impl Node {
    async fn send(&self, route: &str, id: &str, payload: serde_json::Value) {
        let delivery = delivery(0, route, id, &payload);
        self.intake.accept(vec![delivery]).await.unwrap();
    }

    /// State, reason and attempts by dedup key; a conflict's has a `!`.
    async fn rows(&self) -> HashMap<String, String> {
        let all = Filter {
            limit: 1000,
            ..Filter::default()
        };
        let rows = self.inbox.list(&all, false).await.unwrap();
        let told = rows.into_iter().map(|row| {
            let conflict = if row.conflict { "!" } else { "" };
            let reason = row.reason.unwrap_or_default();
            let is = format!("{} {reason} {}", row.state.as_str(), row.attempts);
            (format!("{}{conflict}", row.dedup_key), is)
        });
        told.collect()
    }
}

/// An engine whose tables were changed under the running daemon: nothing real stays in that state for
/// every statement.
struct Broken(&'static str);

/// Of this name, it does not even answer: somebody has its tables locked.
const SILENT: &str = "a-silent";

impl Broken {
    fn error() -> DbError {
        DbError::of("broken")(sqlx::Error::PoolClosed)
    }

    async fn answer<T>(&self) -> Result<T, DbError> {
        if self.0 == SILENT {
            std::future::pending::<()>().await;
        }
        Err(Self::error())
    }
}

#[async_trait]
impl Engine<Tx> for Broken {
    fn name(&self) -> &str {
        self.0
    }

    fn fits(&self, _: &Message) -> Result<(), Undecodable> {
        Ok(())
    }

    fn announces(&self, _: &Message) -> bool {
        true
    }

    fn hands_over(&self) -> bool {
        true
    }

    async fn look<'a>(
        &'a self,
        _: &mut Tx,
        _: &[Ask<'a>],
    ) -> Result<Box<dyn Matched<Tx> + 'a>, DbError> {
        Err(Self::error())
    }

    async fn wake(&self, _: &mut Tx, _: &[String], _: i64) -> Result<Vec<Woken>, DbError> {
        self.answer().await
    }

    async fn confirm(&self, _: &mut Tx, _: i64) -> Result<Option<Vec<Confirmed>>, DbError> {
        self.answer().await
    }

    async fn refresh(&self, _: &mut Tx) -> Result<EngineState, DbError> {
        Err(Self::error())
    }

    async fn inspect(&self, _: &mut Tx) -> Result<Vec<Finding>, DbError> {
        Err(Self::error())
    }
}

#[tokio::test]
async fn rows_of_a_broken_engine_do_not_hold_up_those_of_another() {
    let shop = Shop::open().await;
    let routes = [("noted", "shop", ""), ("lost", "a-broken", "")];
    // The engine was in order when the row came.
    let node = shop
        .node(&[("noted", "shop", ""), ("lost", "shop", "")], None)
        .await;
    node.send("lost", "l-1", json!({ "key": "k" })).await;
    node.send("noted", "n-1", json!({ "key": "k" })).await;

    let node = shop.node(&routes, Some("a-broken")).await;
    shop.run("INSERT INTO orders VALUES ('k')").await;
    shop.make_due().await;
    node.sweeper
        .wake_round()
        .await
        .expect_err("what is broken is told");
    assert_eq!(shop.notes("k").await, ["n-1"]);
    assert_eq!(node.rows().await["n-1"], "done  0");
    assert_eq!(node.rows().await["l-1"], "waiting no_subscription 0");
}

/// Each has its own pace and its own pauses.
#[tokio::test]
async fn an_engine_that_does_not_answer_does_not_hold_up_the_sweeps_of_another() {
    let shop = Shop::open().await;
    let routes = [("noted", "shop", ""), ("lost", SILENT, "")];
    let node = shop.node(&routes, Some(SILENT)).await;
    node.send("noted", "n-1", json!({ "key": "k" })).await;
    shop.run("INSERT INTO orders VALUES ('k')").await;
    shop.make_due().await;
    let shutdown = Shutdown::default();
    let driven = eventually("a row being driven", Duration::from_secs(20), async || {
        (shop.notes("k").await == ["n-1"]).then_some(())
    });
    tokio::select! {
        () = node.sweeper.run(&shutdown) => panic!("the sweeper ended by itself"),
        () = driven => {}
    }
}

/// As long as pages are full there is more to look at, though nothing moves.
#[tokio::test]
async fn a_full_page_is_followed_by_the_next_at_once_and_no_row_by_itself() {
    let shop = Shop::open().await;
    let node = shop.node(&[("noted", "shop", "")], None).await;
    let page = SweeperConfig::default().limit;
    let deliveries = (0..=page)
        .map(|n| delivery(0, "noted", &n.to_string(), &json!({ "key": "nobody" })))
        .collect();
    node.intake.accept(deliveries).await.unwrap();
    shop.make_due().await;
    // Old enough that they are not due again while the test runs.
    shop.run("UPDATE sluice.inbox SET received_at = received_at - interval '1 day'")
        .await;
    for expected in [Round::Full, Round::Some, Round::Empty] {
        assert_eq!(node.sweeper.wake_round().await.unwrap(), expected);
    }
}

/// Otherwise every round would meet it again, for as long as the one before it waits.
#[tokio::test]
async fn a_row_that_is_due_behind_another_is_met_once() {
    let shop = Shop::open().await;
    let routes = [("noted", "shop", "order_by = '$.key'")];
    let node = shop.node(&routes, None).await;
    for id in ["first", "second"] {
        node.send("noted", id, json!({ "key": "k" })).await;
    }
    shop.run(
        "UPDATE sluice.inbox SET due_at = clock_timestamp()
              + CASE dedup_key WHEN 'first' THEN interval '1 hour' ELSE interval '0' END",
    )
    .await;
    assert_eq!(node.sweeper.wake_round().await.unwrap(), Round::Empty);
    let due = "SELECT dedup_key FROM sluice.inbox WHERE due_at IS NOT NULL";
    let due: Vec<String> = sqlx::query_scalar(due).fetch_all(&shop.pool).await.unwrap();
    assert_eq!(due, ["first"]);
}

#[tokio::test]
async fn a_row_that_fails_alone_uses_its_attempts_and_holds_up_nobody() {
    let shop = Shop::open().await;
    let routes = [(
        "noted",
        "shop",
        "attempts = { max = 2, initial_interval = '1h', max_interval = '1h' }",
    )];
    let node = shop.node(&routes, None).await;
    for id in ["slow", "good-1", "good-2"] {
        let key = if id == "slow" { "slow" } else { "good" };
        node.send("noted", id, json!({ "key": key })).await;
    }
    // Its statement never fits its time limit.
    shop.run("INSERT INTO orders VALUES ('slow', 30), ('good', 0)")
        .await;
    shop.make_due().await;
    node.sweeper.wake_round().await.unwrap();
    assert_eq!(shop.notes("good").await, ["good-1", "good-2"]);
    assert_eq!(node.rows().await["slow"], "waiting retry 1");
    shop.make_due().await;
    node.sweeper.wake_round().await.unwrap();
    assert_eq!(node.rows().await["slow"], "dead attempts 2");
    assert!(shop.notes("slow").await.is_empty());
}

#[tokio::test]
async fn a_message_that_this_configuration_cannot_read_any_more_waits_for_one_that_can() {
    let shop = Shop::open().await;
    let node = shop.node(&[("noted", "shop", "")], None).await;
    node.send("noted", "n-1", json!({ "key": "k" })).await;
    // A node of the old configuration, while nodes are updated one by one.
    let old = shop
        .node(&[("noted", "shop", "order_by = '$.missing'")], None)
        .await;
    shop.make_due().await;
    old.sweeper.wake_round().await.unwrap();
    assert_eq!(node.rows().await["n-1"], "waiting retry 1");
    shop.run("INSERT INTO orders VALUES ('k')").await;
    shop.make_due().await;
    node.sweeper.wake_round().await.unwrap();
    assert_eq!(shop.notes("k").await, ["n-1"]);
}

#[tokio::test]
async fn a_row_is_no_duplicate_of_itself() {
    let shop = Shop::open().await;
    // The configuration's check refuses this scope, which has the look of what could not be decoded.
    let routes = [("noted", "shop", "dedup_scope = '!notes'")];
    let node = shop.node(&routes, None).await;
    node.send("noted", "n-1", json!({ "key": "k" })).await;
    assert_eq!(node.rows().await["n-1"], "waiting no_subscription 0");
    shop.run("INSERT INTO orders VALUES ('k')").await;
    shop.make_due().await;
    node.sweeper.wake_round().await.unwrap();
    assert_eq!(shop.notes("k").await, ["n-1"]);
    assert_eq!(node.rows().await["n-1"], "done  0");
}

#[tokio::test]
async fn a_resend_revives_a_dead_row_where_the_route_says_so_and_nothing_is_in_doubt() {
    let shop = Shop::open().await;
    let routes = [
        ("revived", "shop", "redrive_dead_on_duplicate = true"),
        ("left", "shop", ""),
    ];
    let node = shop.node(&routes, None).await;
    let payload = json!({ "key": "k" });
    for (route, id) in [
        ("revived", "dead"),
        ("revived", "doubtful"),
        ("revived", "other"),
        ("left", "left"),
    ] {
        node.send(route, id, payload.clone()).await;
    }
    shop.run(
        "UPDATE sluice.inbox SET state = 'dead', due_at = NULL,
                reason = CASE dedup_key WHEN 'doubtful' THEN 'in_doubt' ELSE 'attempts' END",
    )
    .await;
    shop.run("INSERT INTO orders VALUES ('k')").await;
    node.send("revived", "dead", payload.clone()).await;
    node.send("revived", "doubtful", payload.clone()).await;
    // The same key with another payload is no resend of it.
    node.send("revived", "other", json!({ "key": "k", "more": 1 }))
        .await;
    node.send("left", "left", payload).await;
    node.sweeper.wake_round().await.unwrap();
    assert_eq!(shop.notes("k").await, ["dead"]);
    let rows = node.rows().await;
    assert_eq!(rows["dead"], "done  0");
    assert_eq!(rows["doubtful"], "dead in_doubt 0");
    assert_eq!(rows["other"], "dead attempts 0");
    assert_eq!(rows["other!"], "dead conflict 0");
    assert_eq!(rows["left"], "dead attempts 0");
}
