//! The brokers.

use std::time::{Duration, Instant};

use super::FLAT;
use crate::crash::shop::{Entrance, LIMIT, Message, Shop, messages};
use crate::daemon::Daemon;
use crate::rig::{QueueKind, Server, eventually};

/// What is sent in each phase.
const PARTS: usize = 5;

fn part(all: &[Message], nth: usize) -> &[Message] {
    let chunk = all.len().div_ceil(PARTS);
    all.chunks(chunk).nth(nth).unwrap_or_default()
}

/// How soon it must be seen that a broker has stopped answering, although its connections stay.
const SOON: Duration = Duration::from_secs(15);

/// Ends the broker in each way while the daemon has deliveries of it in hand.
async fn goes_and_comes(broker: &Server, entrance: Entrance) {
    let shop = Shop::open().await;
    let daemon = Daemon::start(&shop.config(&[("orders", &entrance)], ""), &[]).await;
    let sent = messages(&shop.orders("order", 30), 21);
    entrance.send(part(&sent, 0)).await;
    let committed = |at_least| daemon.until_count("sluice_messages_total", &[], at_least);
    committed(10).await;
    let before = daemon.memory();

    entrance.send(part(&sent, 1)).await;
    broker.stop().await;
    says_that_the_source_is_away(&daemon).await;
    broker.start().await;
    daemon.until_ready().await;

    entrance.send(part(&sent, 2)).await;
    broker.kill().await;
    says_that_the_source_is_away(&daemon).await;
    broker.start().await;
    daemon.until_ready().await;

    entrance.send(part(&sent, 3)).await;
    broker.freeze().await;
    let frozen = Instant::now();
    says_that_the_source_is_away(&daemon).await;
    assert!(frozen.elapsed() < SOON, "it took {:?}", frozen.elapsed());
    broker.thaw().await;
    daemon.until_ready().await;

    entrance.send(part(&sent, 4)).await;
    shop.until_done(&sent, LIMIT).await;
    entrance.until_drained().await;
    shop.assert_exact(&sent).await;
    shop.assert_no_attempts().await;
    let after = daemon.memory();
    assert!(after < before + FLAT, "from {before} to {after} bytes");
    daemon.stop().await;
}

async fn says_that_the_source_is_away(daemon: &Daemon) {
    // A try to connect may come between the two looks.
    eventually("readiness and metric agreeing", LIMIT, async || {
        let said = daemon.until_not_ready().await.to_string();
        assert!(said.contains("source orders"), "{said}");
        let connected = daemon.count("sluice_source_connected", &[]).await;
        (connected == 0).then_some(())
    })
    .await;
    assert!(daemon.live().await, "nobody should end it for that");
}

#[tokio::test]
async fn an_outage_is_not_poison_when_rabbitmq_goes_and_comes() {
    let broker = Server::rabbitmq(&[]).await;
    let queue = broker.as_rabbitmq().queue(QueueKind::Quorum).await;
    goes_and_comes(&broker, Entrance::Queue(Box::new(queue))).await;
}

#[tokio::test]
async fn an_outage_is_not_poison_when_kafka_goes_and_comes() {
    let broker = Server::kafka(&[]).await;
    let topic = broker.as_kafka().topic(2).await;
    goes_and_comes(&broker, Entrance::Topic(topic)).await;
}
