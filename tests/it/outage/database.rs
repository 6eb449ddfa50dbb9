//! The database and the engine.

use std::collections::BTreeSet;

use super::FLAT;
use crate::crash::shop::{Broker, Entrance, LIMIT, Message, Shop, messages};
use crate::daemon::Daemon;
use crate::rig::{Server, eventually};

/// A shop on servers of its own, and messages that are sent bit by bit.
struct Business {
    shop: Shop,
    queue: Entrance,
    topic: Entrance,
    to_queue: Vec<Message>,
    to_topic: Vec<Message>,
    parts: usize,
    sent: usize,
}

impl Business {
    async fn open(postgres: &Server, engine: &Server, parts: usize) -> Business {
        let schema = postgres.as_postgres().schema("engine");
        let shop = Shop::on(&engine.as_engine(), schema).await;
        Business {
            queue: Entrance::of(Broker::RabbitMq).await,
            topic: Entrance::of(Broker::Kafka).await,
            to_queue: messages(&shop.orders("queued", 24), 11),
            to_topic: messages(&shop.orders("topical", 24), 12),
            shop,
            parts,
            sent: 0,
        }
    }

    /// Sends the next part through both brokers.
    async fn send(&mut self) {
        let part = |all: &[Message]| {
            let chunk = all.len().div_ceil(self.parts);
            all.chunks(chunk)
                .nth(self.sent)
                .unwrap_or_default()
                .to_vec()
        };
        let (to_queue, to_topic) = (part(&self.to_queue), part(&self.to_topic));
        tokio::join!(self.queue.send(&to_queue), self.topic.send(&to_topic));
        self.sent += 1;
    }

    async fn stored(&self) -> i64 {
        let sql = "SELECT count(*) FROM inbox";
        let stored = sqlx::query_scalar(sql).fetch_one(&self.shop.inbox).await;
        stored.expect("the database answers")
    }

    /// Waits until everything that was sent is stored.
    async fn until_stored(&self) {
        eventually("the messages being stored", LIMIT, async || {
            let stored = usize::try_from(self.stored().await).ok()?;
            (stored >= self.different()).then_some(())
        })
        .await;
    }

    /// How many different messages were sent so far.
    fn different(&self) -> usize {
        let of = |all: &[Message]| {
            let chunk = all.len().div_ceil(self.parts);
            let sent = all.iter().take(chunk * self.sent);
            let ids: BTreeSet<&String> = sent.map(|message| &message.id).collect();
            ids.len()
        };
        of(&self.to_queue) + of(&self.to_topic)
    }
}

#[tokio::test]
async fn an_outage_is_not_poison_when_database_and_engine_go_and_come() {
    let postgres = Server::postgres(&[]).await;
    // What a killed node had begun is free again after this time.
    let engine = Server::engine(Some(&postgres), "engine", &["LOCKTIME=4000"]).await;
    let mut business = Business::open(&postgres, &engine, 6).await;
    let entrances = [("queue", &business.queue), ("topic", &business.topic)];
    let limits = "statement_timeout = \"2s\"\nlock_timeout = \"1s\"";
    let daemon = Daemon::start(&business.shop.config(&entrances, limits), &[]).await;
    business.send().await;
    business.until_stored().await;
    let before = daemon.memory();

    // Ended as an administrator does, killed as by a power failure, frozen as behind a dead switch.
    business.send().await;
    postgres.stop().await;
    business.send().await;
    says_that_the_inbox_is_away(&daemon).await;
    postgres.start().await;
    daemon.until_ready().await;
    business.until_stored().await;

    postgres.kill().await;
    business.send().await;
    says_that_the_inbox_is_away(&daemon).await;
    postgres.start().await;
    daemon.until_ready().await;

    business.send().await;
    postgres.freeze().await;
    says_that_the_inbox_is_away(&daemon).await;
    postgres.thaw().await;
    daemon.until_ready().await;

    // Without an engine node everything is taken and handed; its jobs wait in the engine's own table.
    engine.kill().await;
    business.send().await;
    for queue in [&business.queue, &business.topic] {
        queue.until_drained().await;
    }
    assert!(daemon.ready().await);
    engine.start().await;

    let sent = [business.to_queue.as_slice(), &business.to_topic].concat();
    business.shop.until_done(&sent, LIMIT).await;
    business.shop.assert_exact(&sent).await;
    business.shop.assert_no_attempts().await;
    // The queue was never opened again: each time would have counted as a delivery of what it held.
    let reconnects = daemon
        .count("sluice_source_reconnects_total", &[("source", "queue")])
        .await;
    assert_eq!(reconnects, 0);
    let after = daemon.memory();
    assert!(after < before + FLAT, "from {before} to {after} bytes");
    daemon.stop().await;
}

async fn says_that_the_inbox_is_away(daemon: &Daemon) {
    let said = daemon.until_not_ready().await;
    let parts: Vec<_> = said["reasons"].as_array().unwrap().iter().collect();
    assert!(parts.iter().any(|part| part["part"] == "inbox"), "{said}");
    assert!(daemon.live().await, "nobody should end it for that");
}
