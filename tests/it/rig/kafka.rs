//! Kafka: a topic for each test, a producer, and a look at what a group has committed.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use futures_util::future::join_all;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{eventually, orphaned, tidy, unique};

/// How long a request may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A cluster, by its bootstrap servers.
#[derive(Clone)]
pub struct Kafka {
    bootstrap: String,
}

impl Kafka {
    pub fn at(bootstrap: &str) -> Kafka {
        Kafka {
            bootstrap: bootstrap.to_owned(),
        }
    }

    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// A fresh, empty topic.
    pub async fn topic(&self, partitions: i32) -> Topic {
        let topic = Topic {
            kafka: self.clone(),
            name: unique(),
            partitions,
            producer: self.producer(),
        };
        topic.create().await;
        topic
    }

    /// Whether there is a topic of this name.
    pub async fn has_topic(&self, name: &str) -> bool {
        let all = self
            .look("rig", |client| client.fetch_metadata(None, LIMIT))
            .await;
        let all = all.expect("the cluster answers");
        all.topics().iter().any(|topic| topic.name() == name)
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }

    fn producer(&self) -> FutureProducer {
        self.config()
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "1")
            .set("message.max.bytes", "20000000")
            .create()
            .expect("the producer's settings are valid")
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config()
            .create()
            .expect("the client's settings are valid")
    }

    /// A blocking look at the cluster, by a client that belongs to `group` without joining it.
    async fn look<T: Send + 'static>(
        &self,
        group: &str,
        look: impl FnOnce(&BaseConsumer) -> T + Send + 'static,
    ) -> T {
        let consumer: BaseConsumer = self
            .config()
            .set("group.id", group)
            .create()
            .expect("the client's settings are valid");
        tokio::task::spawn_blocking(move || look(&consumer))
            .await
            .expect("looking does not panic")
    }

    pub(super) async fn sweep(&self) {
        let Ok(metadata) = self
            .look("rig", |client| client.fetch_metadata(None, LIMIT))
            .await
        else {
            return;
        };
        let left: Vec<&str> = metadata
            .topics()
            .iter()
            .map(MetadataTopic::name)
            .filter(|name| orphaned(name))
            .collect();
        if !left.is_empty() {
            let _ = self
                .admin()
                .delete_topics(&left, &AdminOptions::new())
                .await;
        }
    }
}

/// A topic of one test's own. Deleted with this value.
pub struct Topic {
    kafka: Kafka,
    name: String,
    partitions: i32,
    producer: FutureProducer,
}

impl Topic {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn bootstrap(&self) -> &str {
        &self.kafka.bootstrap
    }

    pub fn partitions(&self) -> i32 {
        self.partitions
    }

    /// Makes the topic, or makes it again after [`delete`](Self::delete).
    pub async fn create(&self) {
        let new = NewTopic::new(&self.name, self.partitions, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(LIMIT));
        let results = self
            .kafka
            .admin()
            .create_topics([&new], &options)
            .await
            .expect("the broker answers");
        for result in results {
            result.expect("the broker makes the topic");
        }
        self.until_led().await;
    }

    /// The answer comes before the partitions lead; a producer that is too fast gets an error.
    async fn until_led(&self) {
        let name = self.name.clone();
        let led = move |client: &BaseConsumer| {
            let metadata = client.fetch_metadata(Some(&name), LIMIT).ok()?;
            let partitions = metadata.topics().first()?.partitions();
            partitions
                .iter()
                .all(|partition| partition.leader() >= 0 && partition.error().is_none())
                .then_some(partitions.len())
        };
        eventually("the topic having leaders", LIMIT, async || {
            let count = self.kafka.look("rig", led.clone()).await?;
            (count == usize::try_from(self.partitions).ok()?).then_some(())
        })
        .await;
    }

    /// Adds partitions to the topic under its consumers, until it has this many.
    pub async fn grow(&mut self, partitions: i32) {
        let count = usize::try_from(partitions).expect("partitions are counted");
        let grown = NewPartitions::new(&self.name, count);
        let options = AdminOptions::new().operation_timeout(Some(LIMIT));
        let results = self
            .kafka
            .admin()
            .create_partitions([&grown], &options)
            .await
            .expect("the broker answers");
        for result in results {
            result.expect("the broker adds partitions");
        }
        self.partitions = partitions;
        // The old one does not know them for minutes.
        self.producer = self.kafka.producer();
        self.until_led().await;
    }

    /// Deletes the topic under its consumers.
    pub async fn delete(&self) {
        delete(&self.kafka, &self.name)
            .await
            .expect("the topic can be deleted");
    }

    /// Produces one record and waits until the broker has stored it; returns partition and offset.
    pub async fn produce(
        &self,
        key: Option<&str>,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) -> (i32, i64) {
        self.try_produce(None, key, headers, payload)
            .await
            .expect("the broker stores the record")
    }

    /// The same to a partition of the test's choice.
    pub async fn produce_to(
        &self,
        partition: i32,
        key: Option<&str>,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) -> (i32, i64) {
        self.try_produce(Some(partition), key, headers, payload)
            .await
            .expect("the broker stores the record")
    }

    /// Produces records by key, those of one key in this order, and waits until all are stored.
    pub async fn produce_all(&self, records: &[(String, Vec<u8>)]) {
        let stored = records
            .iter()
            .map(|(key, payload)| self.try_produce(None, Some(key), &[], payload));
        for result in join_all(stored).await {
            result.expect("the broker stores the record");
        }
    }

    /// The same on a broker that may die meanwhile. The producer is idempotent: it repeats a record that
    /// was not confirmed without storing it twice.
    pub async fn try_produce(
        &self,
        partition: Option<i32>,
        key: Option<&str>,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) -> Result<(i32, i64)> {
        let mut table = OwnedHeaders::new_with_capacity(headers.len());
        for (name, value) in headers {
            table = table.insert(Header {
                key: name,
                value: Some(*value),
            });
        }
        let mut record: FutureRecord<'_, str, [u8]> =
            FutureRecord::to(&self.name).payload(payload).headers(table);
        record.key = key;
        record.partition = partition;
        let delivered = self
            .producer
            .send(record, LIMIT)
            .await
            .map_err(|(error, _)| error)?;
        Ok((delivered.partition, delivered.offset))
    }

    /// For each partition the first offset that is still there and the one that the next record gets.
    pub async fn watermarks(&self) -> Vec<(i64, i64)> {
        let (name, partitions) = (self.name.clone(), self.partitions);
        self.kafka
            .look("rig", move |client| {
                (0..partitions)
                    .map(|partition| {
                        client
                            .fetch_watermarks(&name, partition, LIMIT)
                            .expect("the broker answers")
                    })
                    .collect()
            })
            .await
    }

    /// What a group has committed, by partition.
    pub async fn committed(&self, group: &str) -> Vec<Option<i64>> {
        let (name, partitions) = (self.name.clone(), self.partitions);
        self.kafka
            .look(group, move |client| {
                let mut list = TopicPartitionList::new();
                list.add_partition_range(&name, 0, partitions - 1);
                let committed = client
                    .committed_offsets(list, LIMIT)
                    .expect("the broker answers");
                let offset = |partition| match committed.find_partition(&name, partition)?.offset()
                {
                    Offset::Offset(offset) => Some(offset),
                    _ => None,
                };
                (0..partitions).map(offset).collect()
            })
            .await
    }

    /// Sets a group's offset, as an operator's tool does it while the group has no members.
    pub async fn commit(&self, group: &str, partition: i32, offset: i64) {
        let name = self.name.clone();
        let commit = move |client: &BaseConsumer| {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&name, partition, Offset::Offset(offset))
                .expect("the offset is one");
            client.commit(&list, CommitMode::Sync).ok()
        };
        eventually("the group taking an offset", LIMIT, async || {
            self.kafka.look(group, commit.clone()).await
        })
        .await;
    }

    /// Waits until a group has committed all that was produced.
    pub async fn wait_until_committed(&self, group: &str, limit: Duration) {
        eventually(
            &format!("group {group} reaching the end"),
            limit,
            async || {
                let ends = self.watermarks().await;
                let committed = self.committed(group).await;
                let at_end =
                    |(&(_, high), offset): (&(i64, i64), &Option<i64>)| offset.unwrap_or(0) == high;
                ends.iter().zip(&committed).all(at_end).then_some(())
            },
        )
        .await;
    }

    /// Joins a group of consumers for a while, takes what it is given, commits nothing and leaves.
    pub async fn disturb(&self, group: &str, lasts: Duration) {
        let consumer: BaseConsumer = self
            .kafka
            .config()
            .set("group.id", group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", "3000")
            .set("enable.auto.commit", "false")
            .create()
            .expect("the client's settings are valid");
        let topic = self.name.clone();
        let disturbing = tokio::task::spawn_blocking(move || {
            consumer
                .subscribe(&[&topic])
                .expect("the name of a topic is one");
            let end = Instant::now() + lasts;
            while Instant::now() < end {
                // What it gets, and what goes wrong, is nothing to it.
                let _ = consumer.poll(Duration::from_millis(100));
            }
        });
        disturbing.await.expect("a consumer does not panic");
    }

    /// Removes a partition's records below an offset, as its retention would.
    pub async fn truncate(&self, partition: i32, below: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.name, partition, Offset::Offset(below))
            .expect("the offset is one");
        let options = AdminOptions::new().operation_timeout(Some(LIMIT));
        self.kafka
            .admin()
            .delete_records(&list, &options)
            .await
            .expect("the broker removes records");
    }
}

async fn delete(kafka: &Kafka, name: &str) -> Result<()> {
    let results = kafka
        .admin()
        .delete_topics(&[name], &AdminOptions::new())
        .await?;
    match results.into_iter().next() {
        Some(Err((_, code))) => Err(anyhow!("the broker keeps it: {code}")),
        Some(Ok(_)) | None => Ok(()),
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        let (kafka, name) = (self.kafka.clone(), self.name.clone());
        tidy(&format!("topic {name}"), async move {
            match delete(&kafka, &name).await {
                // The test deleted it itself.
                Err(error) if error.to_string().contains("UnknownTopic") => Ok(()),
                done => done,
            }
        });
    }
}
