//! On the client's own mock cluster: that it is a broker like any other, and faults that a real one does not make
//! when it is asked to.

use std::sync::LazyLock;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sluice::metrics::source_connected;
use sluice::source::Source;
use sluice::source::kafka::{Kafka, KafkaConfig};

use super::{LIMIT, METRICS, metric, numbers, open, payloads, settle, take};
use crate::rig::{eventually, unique};

/// A cluster of one broker with one topic.
struct Mocked {
    cluster: MockCluster<'static, DefaultProducerContext>,
    topic: String,
}

impl Mocked {
    fn new(partitions: i32) -> Mocked {
        let cluster = MockCluster::new(1).expect("the client has a mock cluster");
        let topic = unique();
        cluster
            .create_topic(&topic, partitions, 1)
            .expect("the cluster makes topics");
        Mocked { cluster, topic }
    }

    /// A client's settings.
    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", self.cluster.bootstrap_servers());
        client
    }

    /// A node of the group `g`, with further lines of its table.
    fn node(&self, more: &str) -> Kafka {
        let table = format!(
            "bootstrap_servers = '{}'\ntopics = ['{}']\ngroup_id = 'g'\n{more}",
            self.cluster.bootstrap_servers(),
            self.topic
        );
        let config: KafkaConfig = toml::from_str(&table).expect("the table is well formed");
        Kafka::new(unique().into(), config, false, "test")
    }

    /// So many records, each its own number.
    async fn produce(&self, records: usize) {
        let producer: FutureProducer = self.client().create().expect("the settings are valid");
        for payload in numbers(0..records) {
            let record: FutureRecord<'_, str, str> =
                FutureRecord::to(&self.topic).payload(&payload);
            let stored = producer.send(record, LIMIT).await;
            stored
                .map_err(|(error, _)| error)
                .expect("the cluster stores it");
        }
    }
}

/// What `sluice demo` runs on, instead of a broker.
#[tokio::test]
async fn the_clients_own_mock_cluster_is_a_broker_like_any_other() {
    for protocol in ["classic", "consumer"] {
        let mocked = Mocked::new(2);
        mocked.produce(10).await;
        let node = mocked.node(&format!(
            "session_timeout = '6s'\ngroup_protocol = '{protocol}'"
        ));
        let mut stream = open(&node).await;
        let mut taken = take(&mut stream, 10).await;
        let mut came = payloads(&taken);
        let unfinished = taken.split_off(9).remove(0);
        settle(&mut stream, taken).await;
        stream.close().await;
        let mut stream = open(&node).await;
        let again = take(&mut stream, 1).await;
        assert_eq!(again[0].payload, unfinished.payload);
        came.sort();
        assert_eq!(came, numbers(0..10));
        stream.close().await;
    }
}

#[tokio::test]
async fn a_commit_that_the_broker_refused_is_made_again() {
    let mocked = Mocked::new(1);
    let Mocked { cluster, topic } = &mocked;
    let group: BaseConsumer = mocked
        .client()
        .set("group.id", "g")
        .create()
        .expect("the settings are valid");
    mocked.produce(3).await;
    let node = mocked.node("session_timeout = '6s'\nstatistics_interval = '200ms'");
    let mut stream = open(&node).await;
    let taken = take(&mut stream, 3).await;

    // Nothing follows that would be committed instead.
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS;
    cluster.request_errors(RDKafkaApiKey::OffsetCommit, &[refusal]);
    settle(&mut stream, taken).await;
    eventually("the commit", LIMIT, async || {
        let mut asked = TopicPartitionList::new();
        asked.add_partition(topic, 0);
        let committed = group.committed_offsets(asked, LIMIT).ok()?;
        let offset = committed.find_partition(topic, 0)?.offset();
        (offset == Offset::Offset(3)).then_some(())
    })
    .await;
    stream.close().await;
}

#[tokio::test]
async fn a_group_that_lets_nobody_in_is_told_of_until_it_does() {
    LazyLock::force(&METRICS);
    let mocked = Mocked::new(1);
    // As of a coordinator that never ends loading.
    let loading = RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS;
    let joining = RDKafkaApiKey::JoinGroup;
    mocked.cluster.request_errors(joining, &[loading; 1_000]);
    let node = mocked.node("session_timeout = '4s'\nstatistics_interval = '300ms'");
    let mut stream = open(&node).await;
    // As the intake does.
    source_connected(node.name(), true);
    let shown = async |connected: f64| {
        eventually("the source showing where it is", LIMIT, async || {
            (metric("sluice_source_connected", &node) == Some(connected)).then_some(())
        })
        .await;
    };
    shown(0.0).await;

    mocked.cluster.clear_request_errors(joining);
    shown(1.0).await;
    mocked.produce(1).await;
    let taken = take(&mut stream, 1).await;
    settle(&mut stream, taken).await;
    stream.close().await;
}
