//! Promises of the README that no part alone can keep; the others are tested by name where their part is.
//!
//! A ledger of the user's own is the engine, on a database in which nobody else writes.

use std::time::Duration;

use lapin::BasicProperties;
use serde_json::json;
use sqlx::PgPool;

use crate::daemon::{Config, Daemon, LIMIT};
use crate::rig::clock::{self, Clock};
use crate::rig::{Database, Queue, QueueKind, Rig, eventually, headers};
use crate::stored::Inbox;

const TABLES: &str = "CREATE TABLE orders (key text, slot int); CREATE TABLE notes (id text)";
const ENGINE: &str = "[engines.ledger.sql]\n\
    match = \"SELECT 1 FROM public.orders WHERE key = :business_key\"\n\
    apply = \"INSERT INTO public.notes VALUES (:dedup_key)\"";

struct Ledger {
    pool: PgPool,
    queue: Queue,
    database: Database,
}

impl Ledger {
    async fn open() -> Ledger {
        let rig = Rig::get();
        let database = rig.database().await;
        let pool = database.pool().await;
        sqlx::raw_sql(TABLES).execute(&pool).await.unwrap();
        Ledger {
            pool,
            queue: rig.queue(QueueKind::Quorum).await,
            database,
        }
    }

    fn config(&self, source: &str) -> Config {
        Config::at(&self.database.url(), "public")
            .rabbitmq("queue", &self.queue, source)
            .with(ENGINE)
            .granting("SELECT ON public.orders")
            .granting("INSERT ON public.notes")
    }

    fn route(name: &str, more: &str) -> String {
        format!(
            "[routes.{name}]\nsource = \"queue\"\nengine = \"ledger\"\ndedup_key = \"@message_id\"\n\
             when = {{ header = \"type\", equals = \"{name}\" }}\n{more}\n\
             [routes.{name}.apply]\nbusiness_key = \"$.key\"\n"
        )
    }

    async fn run(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.pool).await.unwrap();
    }

    async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    fn inbox(&self) -> Inbox {
        let pool = self.pool.clone();
        Inbox { pool }
    }
}

fn message(route: &str, id: &str, payload: &[u8]) -> (Vec<u8>, BasicProperties) {
    let properties = BasicProperties::default()
        .with_message_id(id.into())
        .with_headers(headers(&[("type", route)]));
    (payload.to_vec(), properties)
}

#[tokio::test]
async fn no_hot_loop_whatever_a_message_cannot_do() {
    /// For so long everything is counted, when all that there is to do has been done.
    const WATCHED: Duration = Duration::from_secs(5);
    /// Transactions of an idle node in that time, and as many again for what waits.
    const FEW: i64 = 150;

    let ledger = Ledger::open().await;
    let config = ledger
        .config("")
        .with(&Ledger::route("waits", ""))
        .with(&Ledger::route("refused", ""))
        // The queue of another source does not exist.
        .with(&format!(
            "[sources.nowhere.rabbitmq]\nuris = [\"{}\"]\nqueue = \"no-such-queue\"",
            ledger.queue.uri()
        ))
        .with("[routes.of-nowhere]\nsource = \"nowhere\"\nengine = \"ledger\"\ndedup_key = \"@message_id\"\n[routes.of-nowhere.apply]\nbusiness_key = \"$.key\"");
    let daemon = Daemon::spawn(&config, &[]).await;
    let inbox = ledger.inbox();
    // Nobody waits for the first, the user's own rule refuses the second, nobody can read the third.
    ledger
        .run(
            "INSERT INTO orders VALUES ('refused');
             ALTER TABLE notes ADD CHECK (id <> 'refused')",
        )
        .await;
    let sent = vec![
        message("waits", "waits", br#"{"key": "nobody"}"#),
        message("refused", "refused", br#"{"key": "refused"}"#),
        message("waits", "unreadable", b"not JSON"),
    ];
    ledger.queue.publish_all(sent).await;
    daemon.until_count("sluice_messages_total", &[], 3).await;
    inbox.until("waits", "waiting no_subscription", LIMIT).await;
    inbox.until("refused", "waiting retry", LIMIT).await;
    ledger.queue.wait_until_empty(LIMIT).await;

    let transactions = "SELECT xact_commit + xact_rollback FROM pg_stat_database \
                        WHERE datname = current_database()";
    // The statistics are a second late, so that both ends are.
    let before = ledger.number(transactions).await;
    let deliveries = daemon.count("sluice_deliveries_total", &[]).await;
    tokio::time::sleep(WATCHED).await;
    let happened = ledger.number(transactions).await - before;
    assert!(happened < FEW, "{happened} transactions of an idle node");
    assert_eq!(
        daemon.count("sluice_deliveries_total", &[]).await,
        deliveries,
        "something was requeued"
    );
    let said = daemon.log();
    let complaints = said.matches("no-such-queue").count();
    assert!((1..20).contains(&complaints), "{complaints} complaints");
}

#[tokio::test]
async fn memory_is_bounded_whatever_the_backlog() {
    const MESSAGES: i64 = 6_000;
    const BALLAST: usize = 50_000;
    /// What a daemon may need more than when it was idle, while 300 MB go through it.
    const MORE: u64 = 64 << 20;

    let ledger = Ledger::open().await;
    ledger.run("INSERT INTO orders VALUES ('k')").await;
    let config = ledger
        .config("prefetch_count = 200")
        .with("[intake]\nmax_batch_bytes = \"2MiB\"")
        .with(&Ledger::route("noted", ""));
    let daemon = Daemon::start(&config, &[]).await;
    let idle = daemon.memory();
    daemon.stop().await;
    let payload = json!({ "key": "k", "ballast": "b".repeat(BALLAST) }).to_string();
    for part in 0..MESSAGES / 500 {
        let messages = (part * 500..(part + 1) * 500)
            .map(|n| message("noted", &n.to_string(), payload.as_bytes()));
        ledger.queue.publish_all(messages.collect()).await;
    }

    let daemon = Daemon::start(&config, &[]).await;
    let mut most = 0;
    eventually("the backlog being worked off", 2 * LIMIT, async || {
        most = most.max(daemon.memory());
        let all = ledger.number("SELECT count(*) FROM notes").await == MESSAGES;
        all.then_some(())
    })
    .await;
    assert!(
        most < idle + MORE,
        "it took {most} bytes, and {idle} when it was idle"
    );
    daemon.stop().await;
}

/// Whole, while messages of 10 MB wait at both brokers, and in the queue more of them than may be in memory.
#[tokio::test]
async fn large_messages_take_no_more_memory_than_check_says() {
    const LARGE: usize = 10 << 20;
    const QUEUED: i64 = 60;
    const IN_TOPIC: i64 = 8;

    let ledger = Ledger::open().await;
    ledger.run("INSERT INTO orders VALUES ('k')").await;
    let topic = Rig::get().topic(2).await;
    let of_topic = Ledger::route("record", "")
        .replace("\"queue\"", "\"topic\"")
        .replace("@message_id", "$.id");
    let config = ledger
        .config("")
        .kafka("topic", &topic, "")
        .with(&Ledger::route("noted", ""))
        .with(&of_topic);
    let payload = |id: i64| {
        json!({ "key": "k", "id": format!("r{id}"), "ballast": "b".repeat(LARGE) }).to_string()
    };
    for id in 0..QUEUED {
        let large = message("noted", &id.to_string(), payload(id).as_bytes());
        ledger.queue.publish_all(vec![large]).await;
    }
    for id in 0..IN_TOPIC {
        let headers = [("type", "record")];
        topic.produce(None, &headers, payload(id).as_bytes()).await;
    }

    let daemon = Daemon::start(&config, &[]).await;
    eventually("the backlog being worked off", 2 * LIMIT, async || {
        let all = ledger.number("SELECT count(*) FROM notes").await == QUEUED + IN_TOPIC;
        all.then_some(())
    })
    .await;
    let found: serde_json::Value =
        serde_json::from_str(&daemon.command(&["check", "--json"]).await).unwrap();
    let said = found["memory"]["total_bytes"].as_u64().unwrap();
    let most = daemon.most_memory();
    println!("check says {} MiB, it took {} MiB", said >> 20, most >> 20);
    assert!(most < said, "check says {said} bytes, it took {most}");
    daemon.stop().await;
}

#[tokio::test]
async fn only_the_databases_clock_decides_whatever_a_nodes_own_says() {
    let ledger = Ledger::open().await;
    let later = "attempts = { initial_interval = \"1h\", max_interval = \"1h\" }";
    let config = ledger
        .config("")
        .with(&Ledger::route("waits", ""))
        .with(&Ledger::route("refused", later))
        .with("[sweeper]\nidle_interval = \"100ms\"\npurge_interval = \"100ms\"");
    ledger
        .run(
            "INSERT INTO orders VALUES ('refused');
             ALTER TABLE notes ADD CHECK (id NOT LIKE 'refused%')",
        )
        .await;
    let inbox = ledger.inbox();
    for (number, days) in [10, -10].into_iter().enumerate() {
        let wrong = Clock::wrong_by(days * clock::DAY);
        let daemon = Daemon::start(&config, &wrong.environment()).await;
        let (waits, refused) = (format!("waits-{number}"), format!("refused-{number}"));
        let payload = json!({ "key": waits }).to_string();
        ledger
            .queue
            .publish_all(vec![
                message("refused", &refused, br#"{"key": "refused"}"#),
                message("waits", &waits, payload.as_bytes()),
            ])
            .await;
        inbox.until(&refused, "waiting retry", LIMIT).await;
        inbox.until(&waits, "waiting no_subscription", LIMIT).await;
        // What is due is taken, though to a clock of long ago it is not yet due.
        sqlx::query("INSERT INTO orders VALUES ($1)")
            .bind(&waits)
            .execute(&ledger.pool)
            .await
            .unwrap();
        inbox.until(&waits, "done", LIMIT).await;
        let old = format!("old-{number}");
        ledger
            .queue
            .publish_all(vec![message("waits", &old, payload.as_bytes())])
            .await;
        inbox.until(&old, "done", LIMIT).await;
        sqlx::query("UPDATE inbox SET done_at = done_at - interval '4 days' WHERE dedup_key = $1")
            .bind(&old)
            .execute(&ledger.pool)
            .await
            .unwrap();
        eventually("what is old being purged", LIMIT, async || {
            let row = inbox.row(&old).await?;
            row.payload.is_none().then_some(())
        })
        .await;
        // By now every sweep has looked: what is due in an hour was left alone, and what is not old is there.
        for number in 0..=number {
            let row = inbox.row(&format!("refused-{number}")).await.unwrap();
            assert_eq!((row.is().as_str(), row.attempts), ("waiting retry", 1));
            let row = inbox.row(&format!("waits-{number}")).await.unwrap();
            assert!(row.payload.is_some(), "it was purged");
        }
        daemon.stop().await;
    }
}

#[tokio::test]
async fn nothing_is_dropped_of_a_route_that_was_renamed_and_it_is_said() {
    let ledger = Ledger::open().await;
    let config = |name: &str| {
        let route = Ledger::route(name, "dedup_scope = \"notes\"");
        ledger.config("").with(&route)
    };
    let mut daemon = Daemon::start(&config("old"), &[]).await;
    let sent = vec![message("old", "one", br#"{"key": "k"}"#)];
    ledger.queue.publish_all(sent).await;
    let inbox = ledger.inbox();
    inbox.until("one", "waiting no_subscription", LIMIT).await;
    daemon.stop().await;
    ledger.run("INSERT INTO orders VALUES ('k')").await;

    daemon.configure(&config("new"));
    daemon.restart(&[]).await;
    daemon.until_ready().await;
    eventually("the daemon saying who is stranded", LIMIT, async || {
        let said = daemon.status().await["problems"].to_string();
        said.contains("rows wait that only a node with this route drives")
            .then_some(())
    })
    .await;
    let row = inbox.row("one").await.unwrap();
    assert_eq!(row.is(), "waiting no_subscription");
    daemon.stop().await;

    daemon.configure(&config("old"));
    daemon.restart(&[]).await;
    inbox.until("one", "done", LIMIT).await;
    daemon.stop().await;
}
