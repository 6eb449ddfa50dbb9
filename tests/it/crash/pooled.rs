//! Everything through `PgBouncer`, which pools by transaction: a handful of the server's sessions serve all
//! nodes, and no two transactions need meet the same one.

use std::process::Output;

use serde_json::Value;

use super::frozen;
use super::shop::{Broker, Entrance, LIMIT, Settings, Shop, messages};
use crate::daemon::{Config, Daemon};
use crate::rig::{QueueKind, Rig, Server, eventually};

const ORDERS: usize = 15;
/// What such a pooler asks for.
const POOLED: &str = "pooler = \"transaction\"";

fn port(pooler: &Server) -> u16 {
    pooler.part("port").parse().expect("a port is a number")
}

#[tokio::test]
async fn every_effect_happens_once_behind_a_pooler_though_nodes_die() {
    let pooler = Server::pgbouncer(&[]).await;
    let shop = Shop::open().await;
    let (queue, topic) = (
        Entrance::ordered(Broker::RabbitMq).await,
        Entrance::of(Broker::Kafka).await,
    );
    let settings = Settings {
        inbox: POOLED,
        of_payments: "order_by = \"$.order\"\norder_scope = \"payments\"",
        ..Settings::default()
    };
    let entrances = [("queue", &queue), ("topic", &topic)];
    let config = shop
        .config_at(shop.schema.url(), &entrances, settings)
        .through(port(&pooler));
    let steady = Daemon::start(&config, &[]).await;
    let mut sent = Vec::new();
    for (round, point) in ["inserted:3", "wake_claimed:2", "after_commit:2"]
        .into_iter()
        .enumerate()
    {
        let dying = Daemon::start(&config, &[("SLUICE_CRASH_AT", point)]).await;
        let seed = u64::try_from(round).expect("a few rounds");
        for (name, entrance) in entrances {
            let orders = shop.orders(&format!("{name}-{round}"), ORDERS);
            let told = messages(&orders, seed);
            entrance.send(&told).await;
            sent.extend(told);
        }
        shop.until_done(&sent, LIMIT).await;
        drop(dying);
    }
    queue.until_drained().await;
    topic.until_drained().await;
    shop.assert_exact(&sent).await;
    shop.assert_no_attempts().await;
    // Purged, too: nothing that a node does needs a session of its own.
    eventually("payloads being purged", LIMIT, async || {
        let left = "SELECT count(*) FROM inbox WHERE payload IS NOT NULL";
        let left: i64 = sqlx::query_scalar(left).fetch_one(&shop.inbox).await.ok()?;
        (left == 0).then_some(())
    })
    .await;
    assert!(!steady.log().contains("prepared statement"));
    steady.stop().await;
}

#[tokio::test]
async fn a_stale_node_changes_nothing_after_a_freeze_behind_a_pooler() {
    let pooler = Server::pgbouncer(&[]).await;
    let through = |config: Config| config.through(port(&pooler));
    frozen::freeze("before_commit", Broker::RabbitMq, POOLED, through).await;
}

#[tokio::test]
async fn a_pooler_that_nobody_configured_is_told_of() {
    let pooler = Server::pgbouncer(&[]).await;
    let shop = Shop::open().await;
    let entrance = Entrance::Queue(Box::new(Rig::get().queue(QueueKind::Classic).await));
    let config = |inbox: &str| {
        shop.config(&[("queue", &entrance)], inbox)
            .through(port(&pooler))
    };
    // One node after the other gives its statements the same names, on the same sessions of the server.
    let unaware = [
        Daemon::spawn(&config(""), &[]).await,
        Daemon::spawn(&config(""), &[]).await,
    ];
    let hint = "set `inbox.pooler = \"transaction\"`";
    eventually("a node saying what is wrong", LIMIT, async || {
        unaware
            .iter()
            .any(|node| node.log().contains(hint))
            .then_some(())
    })
    .await;
    drop(unaware);

    let node = Daemon::start(&config(POOLED), &[]).await;
    // How it ends is not asked: a look that is unaware of the pooler may meet a name that is taken.
    let about_inbox = async |node: &Daemon| {
        let said = program(node, &["check", "--connect", "--json"]).await;
        let said: Value = serde_json::from_slice(&said.stdout).expect("it prints JSON");
        said["parts"][0]["findings"].to_string()
    };
    let said = about_inbox(&node).await;
    assert!(said.contains("no state of a session is used"), "{said}");
    node.configure(&config(""));
    let said = about_inbox(&node).await;
    assert!(said.contains("if it pools by transaction, set"), "{said}");
    node.configure(&shop.config(&[("queue", &entrance)], POOLED));
    let said = about_inbox(&node).await;
    assert!(
        said.contains("no pooler stands before the server"),
        "{said}"
    );

    // A lock of a migration would stay on a session that somebody else gets.
    node.configure(&config(POOLED));
    let migrate = program(&node, &["migrate"]).await;
    let said = String::from_utf8_lossy(&migrate.stderr);
    assert_eq!(migrate.status.code(), Some(1), "{said}");
    assert!(said.contains("the server's own address"), "{said}");
    node.stop().await;
}

async fn program(node: &Daemon, arguments: &[&str]) -> Output {
    tokio::process::Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(arguments)
        .arg("-c")
        .arg(node.config_file())
        .output()
        .await
        .expect("it was built")
}
