//! A group that lets nobody in, and a client that hangs: the broker answers, and no record comes.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use sluice::metrics::source_connected;
use sluice::position::{Beginning, Partition, Stored};
use sluice::source::kafka::{Kafka, KafkaConfig};
use sluice::source::{Positions, Source, Unanswered};
use uuid::Uuid;

use super::{LIMIT, METRICS, kafka_node, metric, open, produce, settle, take};
use crate::rig::{Rig, eventually, unique};

const IMPATIENT: &str = "session_timeout = '2s'\nmax_poll_interval = '4s'";
/// The limits below, and some time to find out.
const ENDED: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_group_that_lets_nobody_in_is_told_of_and_tried_again() {
    LazyLock::force(&METRICS);
    // A real coordinator that never ends loading cannot be had.
    let cluster = MockCluster::new(1).expect("the client has a mock cluster");
    let topic = unique();
    cluster
        .create_topic(&topic, 1, 1)
        .expect("the cluster makes topics");
    let servers = cluster.bootstrap_servers();
    let node = |limits: &str| {
        let table = format!(
            "bootstrap_servers = '{servers}'\ntopics = ['{topic}']\ngroup_id = 'g'\n{limits}"
        );
        let config: KafkaConfig = toml::from_str(&table).expect("the table is well formed");
        Kafka::new(unique().into(), config, false, "test")
    };

    let loading = RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS;
    cluster.request_errors(RDKafkaApiKey::JoinGroup, &[loading; 1_000]);
    let limits = format!("{IMPATIENT}\nstatistics_interval = '500ms'");
    let impatient = node(&limits);
    let mut stream = open(&impatient).await;
    // As the intake does.
    source_connected(impatient.name(), true);
    eventually("the source saying that it is outside", ENDED, async || {
        (metric("sluice_source_connected", &impatient) == Some(0.0)).then_some(())
    })
    .await;
    let ended = tokio::time::timeout(ENDED, stream.idle()).await;
    let ended = ended.expect("no rebalance of ours lasts so long");
    assert!(!ended.needs_operator, "{ended:?}");
    assert!(
        ended.to_string().contains("has not let us in for 6s"),
        "{ended}"
    );
    drop(stream);

    // The next stream is let in when the coordinator is.
    cluster.clear_request_errors(RDKafkaApiKey::JoinGroup);
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &servers)
        .create()
        .expect("the producer's settings are valid");
    let record: FutureRecord<'_, str, str> = FutureRecord::to(&topic).payload("0");
    let stored = producer.send(record, LIMIT).await;
    stored
        .map_err(|(error, _)| error)
        .expect("the cluster stores it");
    let mut stream = open(&node("")).await;
    let taken = take(&mut stream, 1).await;
    settle(&mut stream, taken).await;
    stream.close().await;
}

/// Never answers: the thread that polls waits for it.
struct Silent;

#[async_trait]
impl Positions for Silent {
    async fn claim(&self, _: &[(Partition, Uuid)]) -> Result<Vec<Option<Stored>>, Unanswered> {
        std::future::pending().await
    }

    async fn begin(&self, _: &[Beginning]) -> Result<Vec<Option<i64>>, Unanswered> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_client_that_hangs_is_given_up() {
    let topic = Rig::get().topic(1).await;
    let group = unique();
    let node = kafka_node(&topic, &group, IMPATIENT).with_positions(Arc::new(Silent));
    let mut stream = open(&node).await;
    let ended = tokio::time::timeout(ENDED, stream.idle()).await;
    let ended = ended.expect("it does not poll for longer than it may");
    assert!(
        ended.to_string().contains("the client has hung for 4s"),
        "{ended}"
    );
    drop(stream);

    // Another node gets the partition.
    let other = kafka_node(&topic, &group, IMPATIENT);
    produce(&topic, 0, 0..1).await;
    let mut stream = open(&other).await;
    let taken = take(&mut stream, 1).await;
    settle(&mut stream, taken).await;
    topic.wait_until_committed(&group, LIMIT).await;
    stream.close().await;
}
