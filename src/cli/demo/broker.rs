//! The embedded Kafka, and the producer.

use std::time::Duration;

use anyhow::Context;
use futures_util::future::try_join_all;
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};

use super::orders::{Kind, Sending};

/// A partition of the mock keeps 5 MiB; the demo sends less than that to each.
const PARTITIONS: i32 = 8;
const SEND_LIMIT: Duration = Duration::from_secs(30);

pub struct Broker {
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: FutureProducer,
}

impl Broker {
    pub fn start() -> anyhow::Result<Self> {
        let cluster = MockCluster::new(1).context("the embedded Kafka does not start")?;
        for kind in [Kind::Order, Kind::Payment] {
            cluster
                .create_topic(kind.topic(), PARTITIONS, 1)
                .with_context(|| format!("the embedded Kafka refuses topic {}", kind.topic()))?;
        }
        let producer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("linger.ms", "5")
            .create()
            .context("the producer does not start")?;
        Ok(Self { cluster, producer })
    }

    pub fn address(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Sends them in this order, and waits until the broker has them.
    pub async fn send(&self, sendings: Vec<Sending>) -> anyhow::Result<()> {
        let deliveries = sendings.iter().map(|sending| {
            let record = FutureRecord::to(sending.kind.topic())
                .key(&sending.key)
                .payload(&sending.payload);
            self.producer.send(record, SEND_LIMIT)
        });
        try_join_all(
            deliveries.map(|delivery| async { delivery.await.map_err(|(cause, _)| cause) }),
        )
        .await
        .context("the embedded Kafka did not take a message")?;
        Ok(())
    }
}
