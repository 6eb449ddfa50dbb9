//! A node whose machine vanishes: every packet from it and to it is lost, and nobody is told.
//!
//! Its deliveries come back as soon as each broker misses it, which is the broker's own limit; the database ends its
//! session, and when its machine is there again, it changes nothing.

use std::time::{Duration, Instant};

use super::say;
use super::shop::{Broker, Entrance, LIMIT, Limits, Message, Settings, Shop, messages};
use crate::chaos::proxy::{Link, Lost, Mode};
use crate::daemon::{Config, Daemon};
use crate::rig::{Server, eventually};

const ORDERS: usize = 8;

/// The ways of the node that vanishes.
struct Links {
    database: Link,
    rabbitmq: Link,
    kafka: Link,
}

impl Links {
    fn be(&self, mode: Mode) {
        for link in [&self.database, &self.rabbitmq, &self.kafka] {
            link.be(mode);
        }
    }
}

/// Host and port of a URL.
fn address(url: &str) -> String {
    let url = reqwest::Url::parse(url).expect("the rig's URLs are URLs");
    let port = url.port().expect("the rig chose a port");
    format!("{}:{port}", url.host_str().expect("a server has a host"))
}

/// How long after the node vanished the last of these messages was accepted.
async fn accepted(shop: &Shop, sent: &[Message], vanished: Instant) -> Duration {
    let ids: Vec<String> = sent.iter().map(|message| message.id.clone()).collect();
    let sql = "SELECT count(*) FROM unnest($1::text[]) AS sent (key)
                WHERE NOT EXISTS (SELECT FROM inbox WHERE dedup_key = sent.key)";
    eventually("the messages being accepted", LIMIT, async || {
        let missing: i64 = sqlx::query_scalar(sql)
            .bind(&ids)
            .fetch_one(&shop.inbox)
            .await
            .unwrap();
        (missing == 0).then_some(())
    })
    .await;
    vanished.elapsed()
}

#[tokio::test]
async fn deliveries_of_a_vanished_machine_come_back_and_it_changes_nothing_later() {
    let links = Links {
        database: Link::open().await,
        rabbitmq: Link::open().await,
        kafka: Link::open().await,
    };
    let door = format!("DOORS={}", links.kafka.port());
    let kafka = Server::kafka(&[&door]).await;
    let shop = Shop::open().await;
    let queue = Entrance::of(Broker::RabbitMq).await;
    let topic = Entrance::Topic(kafka.as_kafka().topic(4).await);
    links.database.lead_to(&address(shop.schema.url()));
    links.kafka.lead_to(kafka.part("door1"));
    if let Entrance::Queue(queue) = &queue {
        links.rabbitmq.lead_to(&address(queue.uri()));
    }
    // With the limits of a configuration that says nothing about them.
    let config = |url: &str, to_queue: Option<u16>, to_topic: Option<u16>| -> Config {
        shop.base(url, Settings::default())
            .with(&queue.source("queue", to_queue, Limits::DEFAULT))
            .with(&shop.routes("queue", ""))
            .with(&topic.source("topic", to_topic, Limits::DEFAULT))
            .with(&shop.routes("topic", ""))
    };
    let url = links.database.instead_of(shop.schema.url());
    let ports = (Some(links.rabbitmq.port()), Some(links.kafka.port()));
    let vanishing = Daemon::start(&config(&url, ports.0, ports.1), &[]).await;
    let other = Daemon::start(&config(shop.schema.url(), None, None), &[]).await;
    let by_queue = messages(&shop.orders("by-queue", ORDERS), 30);
    let by_topic = messages(&shop.orders("by-topic", ORDERS), 31);
    tokio::join!(queue.send(&by_queue), topic.send(&by_topic));
    // It has a share of both.
    let deliveries = async |source: &str| {
        let labels = [("source", source)];
        vanishing
            .until_count("sluice_deliveries_total", &labels, 1)
            .await;
    };
    tokio::join!(deliveries("queue"), deliveries("topic"));

    links.be(Mode::Swallows(Lost::Everything));
    let vanished = Instant::now();
    let queued = messages(&shop.orders("queued", ORDERS), 32);
    let topical = messages(&shop.orders("topical", ORDERS), 33);
    tokio::join!(queue.send(&queued), topic.send(&topical));
    let (from_queue, from_topic) = tokio::join!(
        accepted(&shop, &queued, vanished),
        accepted(&shop, &topical, vanished)
    );
    let sent = [by_queue, by_topic, queued, topical].concat();
    shop.until_done(&sent, LIMIT).await;
    say(&format!(
        "vanished: what RabbitMQ had given it was accepted by the other after {from_queue:.1?} (heartbeat 10 s), \
         Kafka's partitions after {from_topic:.1?} (session time-out 10 s); all was done after {:.1?}",
        vanished.elapsed()
    ));

    let before = shop.rows().await;
    links.be(Mode::Open);
    vanishing.until_ready().await;
    queue.until_drained().await;
    topic.until_drained().await;
    assert_eq!(
        shop.rows().await,
        before,
        "the vanished node changed rows when it came back"
    );
    vanishing.stop().await;
    other.stop().await;
    shop.assert_exact(&sent).await;
}
