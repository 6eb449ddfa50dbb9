//! The embedded Kafka, and the producer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::try_join_all;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::orders::{ORDERS, PAYMENTS, Sending};

/// A partition of the mock keeps 5 MiB and 100,000 records, and silently drops what is older: whoever sends
/// must not run further ahead of the daemons than [`Broker::ROOM`].
const PARTITIONS: i32 = 8;
/// The group of the demo's configuration.
const GROUP: &str = "sluice-demo";
const SEND_LIMIT: Duration = Duration::from_secs(30);
const ASK_LIMIT: Duration = Duration::from_secs(5);

pub struct Broker {
    // The clients go before the cluster does.
    producer: FutureProducer,
    /// Of the daemons' group without joining it: only asks what the group has committed.
    group: Arc<BaseConsumer>,
    cluster: MockCluster<'static, DefaultProducerContext>,
    /// Behind the last record that the producer wrote to a partition.
    ends: BTreeMap<(&'static str, i32), i64>,
}

impl Broker {
    /// How many messages may be sent and not have their effect yet.
    pub const ROOM: u64 = 20_000;

    pub fn start() -> anyhow::Result<Self> {
        let cluster = MockCluster::new(1).context("the embedded Kafka does not start")?;
        for topic in [ORDERS, PAYMENTS] {
            cluster
                .create_topic(topic, PARTITIONS, 1)
                .with_context(|| format!("the embedded Kafka refuses topic {topic}"))?;
        }
        let producer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("linger.ms", "5")
            .create()
            .context("the producer does not start")?;
        let group: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("group.id", GROUP)
            .create()
            .context("the consumer group cannot be asked")?;
        Ok(Self {
            producer,
            group: Arc::new(group),
            cluster,
            ends: BTreeMap::new(),
        })
    }

    pub fn address(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Sends them in this order, and waits until the broker has them.
    pub async fn send(&mut self, sendings: &[Sending]) -> anyhow::Result<()> {
        let deliveries = sendings.iter().map(|sending| {
            let record = FutureRecord::to(sending.topic)
                .key(&sending.key)
                .payload(&sending.payload);
            self.producer.send(record, SEND_LIMIT)
        });
        let delivered = try_join_all(
            deliveries.map(|delivery| async { delivery.await.map_err(|(cause, _)| cause) }),
        )
        .await
        .context("the embedded Kafka did not take a message")?;
        for (sending, delivery) in sendings.iter().zip(delivered) {
            let partition = (sending.topic, delivery.partition);
            let end = self.ends.entry(partition).or_default();
            *end = (*end).max(delivery.offset + 1);
        }
        Ok(())
    }

    /// Whether the daemons have acknowledged everything that was sent, resends too.
    pub async fn is_consumed(&self) -> anyhow::Result<bool> {
        let group = Arc::clone(&self.group);
        let ends = self.ends.clone();
        tokio::task::spawn_blocking(move || {
            let mut asked = TopicPartitionList::new();
            for (topic, partition) in ends.keys() {
                asked.add_partition(topic, *partition);
            }
            let committed = group.committed_offsets(asked, ASK_LIMIT)?;
            Ok(ends.iter().all(|((topic, partition), end)| {
                let found = committed.find_partition(topic, *partition);
                found.is_some_and(|found| found.offset() == Offset::Offset(*end))
            }))
        })
        .await?
    }
}
