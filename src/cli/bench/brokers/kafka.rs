//! A topic and a consumer group of the bench's own at the user's Kafka.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use async_trait::async_trait;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::types::RDKafkaErrorCode;

use super::Place;
use crate::cli::bench::load::Load;
use crate::cli::bench::way;
use crate::source::kafka::{Kafka, KafkaConfig};
use crate::source::{Positions, Source};

const PARTITIONS: i32 = 4;
/// The broker's own default.
const REPLICATION: i32 = -1;
/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);
/// Records that may be on their way to the broker at once.
const WINDOW: usize = 5000;

/// The topic, by its name; the group has the same.
pub struct Topic {
    config: KafkaConfig,
}

impl Topic {
    pub fn new(config: &KafkaConfig, name: &str) -> Self {
        Self {
            config: KafkaConfig {
                topics: vec![name.to_owned()],
                group_id: name.to_owned(),
                group_instance_id: None,
                ..config.clone()
            },
        }
    }

    pub fn name(&self) -> &str {
        &self.config.group_id
    }

    async fn admin(&self) -> anyhow::Result<AdminClient<DefaultClientContext>> {
        let client = self.config.client("sluice bench").await?;
        client.create().context("a client of Kafka")
    }

    /// Creates the topic.
    pub async fn make(&self) -> anyhow::Result<()> {
        let topic = NewTopic::new(
            self.name(),
            PARTITIONS,
            TopicReplication::Fixed(REPLICATION),
        );
        let options = AdminOptions::new().operation_timeout(Some(LIMIT));
        let made = self
            .admin()
            .await?
            .create_topics([&topic], &options)
            .await?;
        for result in made {
            result.map_err(|(topic, code)| anyhow!("topic {topic} is not created: {code}"))?;
        }
        Ok(())
    }

    /// Deletes topic and group.
    pub async fn remove(&self) -> anyhow::Result<()> {
        let options = AdminOptions::new().operation_timeout(Some(LIMIT));
        let admin = self.admin().await?;
        for gone in admin.delete_topics(&[self.name()], &options).await? {
            match gone {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err((topic, code)) => bail!("topic {topic} is not deleted: {code}"),
            }
        }
        let began = Instant::now();
        loop {
            let gone = admin.delete_groups(&[self.name()], &options).await?;
            match gone.into_iter().next() {
                None | Some(Ok(_) | Err((_, RDKafkaErrorCode::GroupIdNotFound))) => return Ok(()),
                // A member that was interrupted stays in it until its session has timed out.
                Some(Err((_, RDKafkaErrorCode::NonEmptyGroup))) if began.elapsed() < LIMIT => {
                    tokio::time::sleep(PAUSE).await;
                }
                Some(Err((group, code))) => bail!("group {group} is not deleted: {code}"),
            }
        }
    }
}

#[async_trait]
impl Place for Topic {
    async fn send(&self, load: &Load, first: u64, messages: u64) -> anyhow::Result<()> {
        let mut client = self.config.client("sluice bench").await?;
        client.set("acks", "all").set("linger.ms", "5");
        let producer: FutureProducer = client.create().context("a producer of Kafka")?;
        let mut sent = Vec::with_capacity(WINDOW);
        for n in first..first + messages {
            let (key, payload) = (load.key(n), load.payload(n));
            let record = FutureRecord::to(self.name())
                .key(&key)
                .payload(&payload[..]);
            sent.push(producer.send_result(record).map_err(|(error, _)| error)?);
            if sent.len() == WINDOW || n + 1 == first + messages {
                for stored in sent.drain(..) {
                    stored.await?.map_err(|(error, _)| error)?;
                }
            }
        }
        Ok(())
    }

    fn source(&self, positions: Option<Arc<dyn Positions>>) -> Arc<dyn Source> {
        let config = self.config.clone();
        let kafka = Kafka::new(Arc::from(way::NAME), config, false, "sluice bench");
        Arc::new(match positions {
            Some(positions) => kafka.with_positions(positions),
            None => kafka,
        })
    }
}
