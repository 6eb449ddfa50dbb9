//! Several nodes on one database: they share the work, and who comes or goes costs nothing.

use crate::crash::shop::{Broker, Entrance, LIMIT, Message, Shop, messages};
use crate::daemon::Daemon;

async fn taken(node: &Daemon, source: &str) -> usize {
    node.count("sluice_deliveries_total", &[("source", source)])
        .await
}

#[tokio::test]
async fn nodes_share_the_work_and_come_and_go_without_a_double() {
    let shop = Shop::open().await;
    let queue = Entrance::of(Broker::RabbitMq).await;
    let topic = Entrance::of(Broker::Kafka).await;
    let config = shop.config(&[("queue", &queue), ("topic", &topic)], "");
    let first = Daemon::start(&config, &[]).await;
    let second = Daemon::start(&config, &[]).await;
    let sent = [
        messages(&shop.orders("queued", 36), 3),
        messages(&shop.orders("topical", 36), 4),
    ];
    let send = async |part: usize| {
        let third = |all: &[Message]| {
            let chunk = all.len().div_ceil(3);
            all.chunks(chunk).nth(part).unwrap_or_default().to_vec()
        };
        let (to_queue, to_topic) = (third(&sent[0]), third(&sent[1]));
        tokio::join!(queue.send(&to_queue), topic.send(&to_topic));
    };
    send(0).await;
    for node in [&first, &second] {
        node.until_count("sluice_deliveries_total", &[("source", "queue")], 1)
            .await;
    }
    // The second leaves under load, and a third takes its place: partitions move twice.
    let leaving = async {
        second.stop().await;
        Daemon::start(&config, &[]).await
    };
    let (third, ()) = tokio::join!(leaving, send(1));
    send(2).await;

    let sent = sent.concat();
    shop.until_done(&sent, LIMIT).await;
    queue.until_drained().await;
    topic.until_drained().await;
    shop.assert_exact(&sent).await;
    assert!(
        taken(&third, "queue").await > 0,
        "the third node took nothing"
    );
    let nodes = third.count("sluice_nodes", &[("state", "alive")]).await;
    assert!(nodes >= 2, "{nodes} nodes are seen");
    for node in [&first, &third] {
        node.stop().await;
    }
}

#[tokio::test]
async fn the_order_of_a_key_survives_a_node_that_leaves() {
    for broker in [Broker::RabbitMq, Broker::Kafka] {
        let shop = Shop::open().await;
        let entrance = Entrance::ordered(broker).await;
        let config = shop.ordered_config(&[("orders", &entrance)]);
        let first = Daemon::start(&config, &[]).await;
        let second = Daemon::start(&config, &[]).await;
        let sent = messages(&shop.orders("order", 12), 7);
        let (early, late) = sent.split_at(sent.len() / 2);
        entrance.send(early).await;
        let leaving = async {
            first.until_count("sluice_messages_total", &[], 5).await;
            first.stop().await;
        };
        let sending = async {
            for chunk in late.chunks(5) {
                entrance.send(chunk).await;
            }
        };
        tokio::join!(leaving, sending);
        shop.until_done(&sent, LIMIT).await;
        entrance.until_drained().await;
        shop.assert_exact(&sent).await;
        shop.assert_ordered().await;
        second.stop().await;
    }
}
