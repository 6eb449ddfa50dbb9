//! A node is stopped inside a transaction, which holds row locks in the inbox and in the engine's tables.
//!
//! The server ends its session; the engine and the other node go on; and when it comes back, it changes
//! nothing.

use std::time::{Duration, Instant};

use super::say;
use super::shop::{Broker, Entrance, LIMIT, Shop, messages};
use crate::daemon::{Config, Daemon, Signal};
use crate::rig::eventually;

const ORDERS: usize = 10;
/// `idle_in_transaction_timeout` of the frozen node.
const SESSION_LIMIT: Duration = Duration::from_secs(4);

async fn freeze_at(point: &str, broker: Broker) {
    freeze(point, broker, "", |config| config).await;
}

/// `inbox` are lines of its table, `finish` is what else the configurations need.
pub async fn freeze(point: &str, broker: Broker, inbox: &str, finish: impl Fn(Config) -> Config) {
    let shop = Shop::open().await;
    let entrance = Entrance::of(broker).await;
    let limit = format!(
        "idle_in_transaction_timeout = \"{}s\"\n{inbox}",
        SESSION_LIMIT.as_secs()
    );
    let config = finish(shop.config(&[("orders", &entrance)], &limit));
    let sent = messages(&shop.orders("order", ORDERS), 7);
    let (early, late) = sent.split_at(sent.len() / 2);

    // Sessions carry the node's name.
    let name = shop.schema.name();
    let of_stale = config.clone().with(&format!("[node]\nname = \"{name}\""));
    // At its first pass: a quick engine may leave nothing for a second look of confirm or wake.
    let stale = Daemon::start(&of_stale, &[("SLUICE_STOP_AT", point)]).await;
    entrance.send(early).await;
    stale.until_stopped().await;
    let frozen = Instant::now();
    assert!(in_transaction(&shop).await > 0, "it is stopped outside");

    let going_on = async {
        let other = Daemon::start(&config, &[]).await;
        entrance.send(late).await;
        other
    };
    let ending = async {
        let look = async || (in_transaction(&shop).await == 0).then_some(());
        eventually("the frozen node's session ending", LIMIT, look).await;
        frozen.elapsed()
    };
    let (other, ended) = tokio::join!(going_on, ending);
    shop.until_done(&sent, LIMIT).await;
    say(&format!(
        "frozen at {point}: its session ended after {ended:.1?}, all was done after {:.1?}",
        frozen.elapsed()
    ));

    let before = shop.rows().await;
    stale.signal(Signal::Cont);
    // It finds its transaction gone, or first that its broker gave it up, and tries the same again.
    eventually("the stale node noticing", LIMIT, async || {
        let metrics = stale.metrics().await;
        let failed = metrics.sum("sluice_db_errors_total", &[]);
        let connected_again = metrics.sum("sluice_source_reconnects_total", &[]);
        (failed + connected_again > 0.0).then_some(())
    })
    .await;
    stale.until_ready().await;
    entrance.until_drained().await;
    stale.stop().await;
    assert_eq!(shop.rows().await, before, "the stale node changed rows");
    other.stop().await;
    shop.assert_exact(&sent).await;
}

/// How many sessions of the frozen node do nothing and hold locks.
async fn in_transaction(shop: &Shop) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity a
                WHERE application_name = 'sluice/' || $1 AND state = 'idle in transaction'
                  AND EXISTS (SELECT FROM pg_locks l
                               WHERE l.pid = a.pid AND l.locktype <> 'virtualxid')";
    let count = sqlx::query_scalar(sql)
        .bind(shop.schema.name())
        .fetch_one(&shop.inbox)
        .await;
    count.expect("the server answers")
}

mod a_stale_node_changes_nothing_after_a_freeze_at {
    use super::{Broker, freeze_at};

    #[tokio::test]
    async fn before_commit_from_kafka() {
        freeze_at("before_commit", Broker::Kafka).await;
    }

    #[tokio::test]
    async fn before_commit_from_rabbitmq() {
        freeze_at("before_commit", Broker::RabbitMq).await;
    }

    #[tokio::test]
    async fn wake_claimed() {
        freeze_at("wake_claimed", Broker::RabbitMq).await;
    }

    #[tokio::test]
    async fn confirm_read() {
        freeze_at("confirm_read", Broker::Kafka).await;
    }
}
