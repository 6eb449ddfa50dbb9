//! The end of a daemon: in order, at once, and when nothing can be finished.

use std::time::Duration;

use lapin::BasicProperties;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};

use crate::crash::shop::{Broker, Entrance, LIMIT, Shop, messages};
use crate::daemon::{Config, Daemon, Signal};
use crate::effects::Effects;
use crate::rig::{QueueKind, Rig, Schema, eventually};

#[tokio::test]
async fn a_drain_under_load_loses_nothing_and_acknowledges_what_it_committed() {
    let shop = Shop::open().await;
    let queue = Entrance::of(Broker::RabbitMq).await;
    let topic = Entrance::of(Broker::Kafka).await;
    let config = shop.config(&[("queue", &queue), ("topic", &topic)], "");
    let to_queue = messages(&shop.orders("queued", 40), 1);
    let to_topic = messages(&shop.orders("topical", 40), 2);
    let mut daemon = Daemon::start(&config, &[]).await;
    let sending = async {
        tokio::join!(queue.send(&to_queue), topic.send(&to_topic));
    };
    let draining = async {
        for route in ["paid-queue", "paid-topic"] {
            let of_route = [("route", route)];
            daemon
                .until_count("sluice_messages_total", &of_route, 10)
                .await;
        }
        daemon.stop().await;
    };
    tokio::join!(sending, draining);
    let stored = "SELECT count(*) FROM inbox";
    let first: i64 = sqlx::query_scalar(stored)
        .fetch_one(&shop.inbox)
        .await
        .unwrap();

    daemon.restart(&[]).await;
    let mut sent = to_queue;
    sent.extend(to_topic);
    shop.until_done(&sent, LIMIT).await;
    queue.until_drained().await;
    topic.until_drained().await;
    shop.assert_exact(&sent).await;
    let all: i64 = sqlx::query_scalar(stored)
        .fetch_one(&shop.inbox)
        .await
        .unwrap();
    assert!(
        first < all,
        "nothing was left for the second run: {first} of {all}"
    );
    // Each of the producer's own duplicates is one; what comes again because of the drain is new.
    let duplicates = "SELECT sum(duplicates)::bigint FROM node_counter";
    let counted: i64 = sqlx::query_scalar(duplicates)
        .fetch_one(&shop.inbox)
        .await
        .unwrap();
    let resent = i64::try_from(sent.len()).unwrap() - all;
    assert_eq!(
        counted, resent,
        "something was committed and not acknowledged"
    );
    daemon.stop().await;
}

/// Nobody writes into the inbox as long as this lives.
async fn lock_inbox(schema: &Schema) -> PgConnection {
    let mut lock = PgConnection::connect(schema.url()).await.unwrap();
    let sql = format!("BEGIN; LOCK TABLE {}.inbox IN SHARE MODE", schema.name());
    lock.execute(AssertSqlSafe(sql)).await.unwrap();
    lock
}

async fn until_a_batch_waits(schema: &Schema, lock: &mut PgConnection) {
    let sql = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = to_regclass($1)";
    let inbox = format!("{}.inbox", schema.name());
    eventually("a batch waiting for its table", LIMIT, async || {
        let waiting: i64 = sqlx::query_scalar(sql)
            .bind(&inbox)
            .fetch_one(&mut *lock)
            .await
            .unwrap();
        (waiting > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_second_signal_or_the_drain_limit_ends_a_batch_that_cannot_commit() {
    let rig = Rig::get();
    let models = rig.engine().deploy(&["message-start"]).await;
    let schema = rig.schema();
    let queue = rig.queue(QueueKind::Quorum).await;
    let (name, key) = (models.name("OrderPlaced"), models.name("order"));
    let config = |drain_timeout: &str| {
        Config::on(&schema)
            .rabbitmq("orders", &queue, "")
            .camunda_tables("shop", "")
            .with(&format!(
                "[node]\ndrain_timeout = \"{drain_timeout}\"\n\
                 [routes.placed]\nsource = \"orders\"\nengine = \"shop\"\n\
                 [routes.placed.start]\nmessage_name = \"{name}\"\nbusiness_key = \"@correlation_id\""
            ))
    };
    let mut daemon = Daemon::start(&config("1m"), &[]).await;
    let mut lock = lock_inbox(&schema).await;
    let properties = BasicProperties::default()
        .with_message_id("only".into())
        .with_correlation_id(key.as_str().into());
    queue.publish(b"{}", properties).await;
    until_a_batch_waits(&schema, &mut lock).await;

    daemon.signal(Signal::Term);
    daemon.until_not_ready().await;
    assert_eq!(daemon.status().await["node"]["draining"], true);
    assert!(daemon.live().await);
    assert_eq!(daemon.exited(), None);
    daemon.signal(Signal::Int);
    let ended = daemon.wait_exit(Duration::from_secs(5)).await;
    assert_eq!(ended.code(), Some(1), "the second signal does not wait");

    daemon.configure(&config("1s"));
    daemon.restart(&[]).await;
    daemon.until_count("sluice_deliveries_total", &[], 1).await;
    daemon.signal(Signal::Term);
    let ended = daemon.wait_exit(Duration::from_secs(6)).await;
    assert_eq!(ended.code(), Some(1), "nor does the drain wait for ever");

    lock.close().await.unwrap();
    daemon.restart(&[]).await;
    queue.wait_until_empty(LIMIT).await;
    let effects = Effects::at(schema.url()).await;
    let process = models.name("message-start");
    effects.exactly(&process, "start", &[key], 1, LIMIT).await;
    daemon.stop().await;
}
