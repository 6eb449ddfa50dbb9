//! A database that answers and takes no writes: read-only, out of connections, its disk full.

use lapin::BasicProperties;
use serde_json::json;
use sqlx::{Connection, PgConnection, PgPool};

use crate::daemon::{Config, Daemon, LIMIT};
use crate::rig::{Queue, QueueKind, Rig, Server, SmallDisk, Topic, eventually};

/// What each message brings along.
const BALLAST: usize = 100_000;

/// A user's own table on a private server, told by messages from both brokers.
struct Ledger {
    pool: PgPool,
    queue: Queue,
    topic: Topic,
    sent: usize,
}

impl Ledger {
    async fn open(url: &str) -> Ledger {
        let pool = sqlx::postgres::PgPoolOptions::new()
            .max_connections(1)
            .connect(url)
            .await
            .unwrap();
        // No key of any kind: a second effect of a message would show.
        let tables =
            "CREATE SCHEMA sluice; CREATE TABLE ledger (entry text, at timestamptz DEFAULT now())";
        sqlx::raw_sql(tables).execute(&pool).await.unwrap();
        Ledger {
            pool,
            queue: Rig::get().queue(QueueKind::Quorum).await,
            topic: Rig::get().topic(1).await,
            sent: 0,
        }
    }

    /// Little is held in memory, so that a backlog of much more would show.
    fn config(&self, url: &str) -> Config {
        let route = |source: &str| {
            format!(
                "[routes.of-{source}]\nsource = \"{source}\"\nengine = \"ledger\"\ndedup_key = \"$.id\"\n\
                 [routes.of-{source}.apply]\nbusiness_key = \"$.id\"\n"
            )
        };
        Config::at(url, "sluice")
            .rabbitmq("queue", &self.queue, "prefetch_count = 10")
            .kafka("topic", &self.topic, "prefetch = \"1MiB\"")
            .with("[intake]\nmax_batch_bytes = \"1MiB\"")
            .with("[engines.ledger.sql]\napply = \"INSERT INTO public.ledger (entry) VALUES (:business_key)\"")
            .granting("INSERT ON public.ledger")
            .with(&route("queue"))
            .with(&route("topic"))
    }

    /// Sends so many messages through each broker.
    async fn send(&mut self, count: usize) {
        let ballast = "b".repeat(BALLAST);
        let message = |n: usize| {
            let payload = json!({ "id": format!("entry-{n}"), "ballast": ballast });
            payload.to_string().into_bytes()
        };
        let numbers = self.sent..self.sent + count;
        let queued = numbers
            .clone()
            .map(|n| (message(2 * n), BasicProperties::default()));
        self.queue.publish_all(queued.collect()).await;
        let topical = numbers.map(|n| (n.to_string(), message(2 * n + 1)));
        self.topic.produce_all(&topical.collect::<Vec<_>>()).await;
        self.sent += count;
    }

    async fn execute(&self, sql: &'static str) {
        let done = sqlx::raw_sql(sql).execute(&self.pool).await;
        done.expect("the server answers who is connected");
    }

    async fn read_only(&self, on: bool) {
        self.execute("SET default_transaction_read_only = off")
            .await;
        let sql = if on {
            "ALTER SYSTEM SET default_transaction_read_only = on"
        } else {
            "ALTER SYSTEM RESET default_transaction_read_only"
        };
        self.execute(sql).await;
        self.execute("SELECT pg_reload_conf()").await;
    }

    /// Ends the daemon's sessions and takes their places, until it has none and nobody gets one.
    async fn take_all_connections(&self, url: &str) -> Vec<PgConnection> {
        let mut others = Vec::new();
        eventually("the connections being used up", LIMIT, async || {
            self.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                  WHERE application_name LIKE 'sluice/%'",
            )
            .await;
            while let Ok(connection) = PgConnection::connect(url).await {
                others.push(connection);
            }
            let theirs =
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'sluice/%'";
            (self.number(theirs).await == 0).then_some(())
        })
        .await;
        others
    }

    async fn number(&self, sql: &'static str) -> i64 {
        let number = sqlx::query_scalar(sql).fetch_one(&self.pool).await;
        number.expect("the server answers who is connected")
    }

    /// Everything that was sent has its one effect, and no message was blamed.
    async fn until_settled(&self, daemon: &Daemon) {
        let all = i64::try_from(2 * self.sent).unwrap();
        eventually("every message having its effect", LIMIT, async || {
            let done = "SELECT count(*) FROM sluice.inbox WHERE state = 'done'";
            (self.number(done).await == all).then_some(())
        })
        .await;
        assert_eq!(self.number("SELECT count(*) FROM ledger").await, all);
        let different = "SELECT count(DISTINCT entry) FROM ledger";
        assert_eq!(self.number(different).await, all);
        let blamed = "SELECT count(*) FROM sluice.inbox WHERE state = 'dead' OR attempts > 0";
        assert_eq!(
            self.number(blamed).await,
            0,
            "an outage was taken for poison"
        );
        daemon.until_ready().await;
    }
}

/// The daemon sees that it can write nothing, says why, and lives.
async fn until_it_waits(daemon: &Daemon, why: &str) {
    let what = format!("the daemon logging {why:?}");
    eventually(&what, LIMIT, async || {
        daemon.log().contains(why).then_some(())
    })
    .await;
    let outage = [("class", "outage")];
    daemon
        .until_count("sluice_db_errors_total", &outage, 1)
        .await;
    daemon.until_not_ready().await;
    assert!(daemon.live().await);
}

#[tokio::test]
async fn an_outage_is_not_poison_and_memory_is_bounded_when_a_database_refuses_writes() {
    let server =
        Server::postgres(&["max_connections=20", "superuser_reserved_connections=0"]).await;
    let url = server.as_postgres().url("postgres");
    let mut ledger = Ledger::open(&url).await;
    let daemon = Daemon::start(&ledger.config(&url), &[]).await;
    ledger.send(20).await;
    ledger.until_settled(&daemon).await;
    let before = daemon.memory();

    // A server that became a standby, as far as a client can see.
    ledger.read_only(true).await;
    let backlog = 300;
    ledger.send(backlog).await;
    until_it_waits(&daemon, "25006").await;
    let said = daemon.until_not_ready().await.to_string();
    assert!(said.contains("25006"), "{said}");
    assert!(daemon.status().await["sources"][0]["paused"].is_string());
    let growth = daemon.memory().saturating_sub(before);
    let bound = u64::try_from(backlog * BALLAST).unwrap();
    assert!(
        growth < bound,
        "{growth} bytes more for a backlog of twice {bound}"
    );
    ledger.read_only(false).await;
    ledger.until_settled(&daemon).await;

    // Somebody else has all the connections.
    let others = ledger.take_all_connections(&url).await;
    ledger.send(20).await;
    until_it_waits(&daemon, "53300 sorry, too many clients already").await;
    drop(others);
    ledger.until_settled(&daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn an_outage_is_not_poison_when_the_disk_is_full() {
    let server = Server::postgres(&[]).await;
    let url = server.as_postgres().url("postgres");
    let disk = SmallDisk::beside(&server.folder().join("data"), "size=6m");
    let mut ledger = Ledger::open(&url).await;
    let mut daemon = Daemon::start(&ledger.config(&url), &[]).await;
    daemon.stop().await;
    // Payloads that do not compress would fill it as quickly; these are kept as they are.
    let place = disk.folder().display();
    let moving = format!(
        "CREATE TABLESPACE small LOCATION '{place}';
         ALTER TABLE sluice.inbox SET TABLESPACE small;
         ALTER TABLE sluice.inbox ALTER COLUMN payload SET STORAGE EXTERNAL"
    );
    for statement in moving.split(';') {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()))
            .execute(&ledger.pool)
            .await
            .unwrap();
    }
    daemon.restart(&[]).await;
    daemon.until_ready().await;
    ledger.send(50).await;
    until_it_waits(&daemon, "53100").await;
    let stored = ledger.number("SELECT count(*) FROM sluice.inbox").await;
    assert!(stored < 100, "the disk was too large");
    disk.resize("size=64m");
    ledger.until_settled(&daemon).await;
    daemon.stop().await;
}
