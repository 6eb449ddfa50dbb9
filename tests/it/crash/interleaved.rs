//! Batches that overtake each other, partitions that move in mid-flight, rows that cannot be written.

use sluice::inbox::postgres::PostgresInbox;
use sluice::inbox::{Filter, Inbox as _, InboxConfig, StateName};

use super::gate::{self, Gate};
use super::shop::{Broker, Entrance, LIMIT, Message, Settings, Shop, messages};
use crate::daemon::Daemon;
use crate::rig::eventually;

const ORDERS: usize = 6;

/// The dedup keys of the messages that place orders.
fn placed(sent: &[Message]) -> Vec<String> {
    let ids = sent.iter().map(|message| &message.id);
    ids.filter(|id| id.starts_with("placed")).cloned().collect()
}

#[tokio::test]
async fn acked_means_committed_when_a_later_batch_finishes_first_and_the_connection_dies() {
    let shop = Shop::open().await;
    let entrance = Entrance::of(Broker::RabbitMq).await;
    let Entrance::Queue(queue) = &entrance else {
        unreachable!("it was asked for")
    };
    let node = Daemon::start(&shop.config(&[("orders", &entrance)], ""), &[]).await;
    let sent = messages(&shop.orders("order", 1), 1);
    let first = vec![sent[0].id.clone()];

    let gate = Gate::close(&shop, &first).await;
    entrance.send(&sent[..1]).await;
    gate.until_waited_for_by(1).await;
    // A second batch opens beside the one that hangs, and commits.
    let later: Vec<Message> = sent.iter().filter(|m| m.id != first[0]).cloned().collect();
    entrance.send(&later).await;
    eventually("the later batch committing", LIMIT, async || {
        (!shop.rows().await.is_empty()).then_some(())
    })
    .await;
    // The broker's list of connections is a moment behind.
    eventually("the connection dying", LIMIT, async || {
        queue.cut_consumers().await;
        let again = node.metric("sluice_source_reconnects_total", &[]).await;
        (again > 0.0).then_some(())
    })
    .await;
    gate.open().await;

    shop.until_done(&sent, LIMIT).await;
    entrance.until_drained().await;
    shop.assert_exact(&sent).await;
    let connected = node.metric("sluice_source_connected", &[]).await;
    assert!(
        (connected - 1.0).abs() < f64::EPSILON,
        "it is connected again"
    );
}

#[tokio::test]
async fn one_effect_per_key_when_its_partition_moves_while_its_batch_is_under_way() {
    let shop = Shop::open().await;
    let entrance = Entrance::of(Broker::Kafka).await;
    // Enough batches for all of them, so that no record still waits to be taken.
    let settings = Settings {
        max_batches: 64,
        inbox: "connections = 40",
        ..Settings::default()
    };
    let config = shop.config_at(shop.schema.url(), &[("orders", &entrance)], settings);
    let named = |name: &str| config.clone().with(&format!("[node]\nname = \"{name}\""));
    let old = Daemon::start(&named("old"), &[]).await;
    // So many orders that each partition has some.
    let sent = messages(&shop.orders("order", 4 * ORDERS), 2);

    let gate = Gate::close(&shop, &placed(&sent)).await;
    entrance.send(&sent).await;
    gate.until_waited_for_by(1).await;
    old.until_count("sluice_deliveries_total", &[], sent.len())
        .await;
    // The old owner waits a moment for its batches, then gives one partition up with them under way.
    let new = Daemon::start(&named("new"), &[]).await;
    gate.until_waited_for_by(2).await;
    gate.open().await;

    shop.until_done(&sent, LIMIT).await;
    entrance.until_drained().await;
    shop.assert_exact(&sent).await;
    let again = [("cause", "rebalance")];
    let name = "sluice_duplicates_total";
    let read_again = old.metric(name, &again).await + new.metric(name, &again).await;
    assert!(read_again >= 1.0, "no record was read by both");
}

#[tokio::test]
async fn nothing_is_dropped_of_a_batch_that_never_fits_its_time_limit() {
    let shop = Shop::open().await;
    let entrance = Entrance::of(Broker::RabbitMq).await;
    let limit = "statement_timeout = \"400ms\"\nlock_timeout = \"300ms\"";
    let _node = Daemon::start(&shop.config(&[("orders", &entrance)], limit), &[]).await;
    let sent = messages(&shop.orders("order", ORDERS), 3);
    let slow = sent
        .iter()
        .find(|message| message.id.starts_with("called"))
        .map(|message| message.id.clone())
        .expect("orders are called about");
    let others: Vec<Message> = sent.iter().filter(|m| m.id != slow).cloned().collect();

    gate::on_insert(&shop, std::slice::from_ref(&slow), "PERFORM pg_sleep(30)").await;
    entrance.send(&sent).await;
    // Its neighbours do not wait until it is given up.
    shop.until_accepted(&others).await;
    assert_eq!(shop.dead().await, []);
    shop.until_done_but(1, &others, LIMIT).await;
    entrance.until_drained().await;
    shop.assert_exact(&others).await;
    let dead = shop.dead().await;
    assert_eq!(dead[0].1, "unstorable", "{dead:?}");
    assert!(dead[0].2.contains("57014"), "it says why: {dead:?}");

    gate::leave_alone(&shop).await;
    redrive_dead(&shop).await;
    shop.until_done(&sent, LIMIT).await;
    shop.assert_exact(&sent).await;
}

/// What an operator does when the cause is mended.
async fn redrive_dead(shop: &Shop) {
    let text = format!(
        "url = \"{}\"\nschema = \"{}\"",
        shop.schema.url(),
        shop.schema.name()
    );
    let config: InboxConfig = toml::from_str(&text).unwrap();
    let inbox = PostgresInbox::connect(&config, "operator").unwrap();
    let dead = Filter {
        state: Some(StateName::Dead),
        limit: 100,
        ..Filter::default()
    };
    assert_eq!(inbox.redrive(&dead).await.unwrap(), 1);
}

/// Not even a dead row can be written for one message.
async fn refuse_a_message(broker: Broker) {
    let shop = Shop::open().await;
    let entrance = Entrance::of(broker).await;
    let mut node = Daemon::start(&shop.config(&[("orders", &entrance)], ""), &[]).await;
    let sent = messages(&shop.orders("order", ORDERS), 4);
    let refused = &sent[sent.len() / 2].id;

    let holds = format!("position('\"{refused}\"' IN convert_from(NEW.payload, 'UTF8')) > 0");
    let refuse = "RAISE EXCEPTION 'not this one' USING ERRCODE = 'data_exception'";
    gate::on_row(&shop, &holds, refuse).await;
    entrance.send(&sent).await;
    let said = node.until_not_ready().await.to_string();
    assert!(said.contains("not even as a dead row"), "{said}");
    node.kill().await;

    gate::leave_alone(&shop).await;
    node.restart(&[]).await;
    shop.until_done(&sent, LIMIT).await;
    entrance.until_drained().await;
    shop.assert_exact(&sent).await;
}

mod nothing_is_dropped_when_not_even_a_dead_row_can_be_written {
    use super::{Broker, refuse_a_message};

    #[tokio::test]
    async fn from_rabbitmq() {
        refuse_a_message(Broker::RabbitMq).await;
    }

    #[tokio::test]
    async fn from_kafka() {
        refuse_a_message(Broker::Kafka).await;
    }
}
