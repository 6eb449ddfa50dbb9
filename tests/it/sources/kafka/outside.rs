//! A group that lets nobody in: the broker answers every question, and no record comes.

use std::sync::LazyLock;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use sluice::metrics::source_connected;
use sluice::source::Source;
use sluice::source::kafka::{Kafka, KafkaConfig};

use super::{LIMIT, METRICS, kafka_node, metric, open, produce, settle, take};
use crate::rig::{Rig, eventually, unique};

/// A member is outside after three session time-outs.
const LIMITS: &str = "session_timeout = '1s'\nstatistics_interval = '300ms'";

#[tokio::test]
async fn a_group_that_lets_nobody_in_is_told_of_until_it_does() {
    LazyLock::force(&METRICS);
    // A real coordinator that never ends loading cannot be had.
    let cluster = MockCluster::new(1).expect("the client has a mock cluster");
    let topic = unique();
    cluster
        .create_topic(&topic, 1, 1)
        .expect("the cluster makes topics");
    let servers = cluster.bootstrap_servers();
    let table = format!(
        "bootstrap_servers = '{servers}'\ntopics = ['{topic}']\ngroup_id = 'g'\n\
         session_timeout = '4s'\nstatistics_interval = '300ms'"
    );
    let config: KafkaConfig = toml::from_str(&table).expect("the table is well formed");
    let node = Kafka::new(unique().into(), config, false, "test");
    let loading = RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS;
    cluster.request_errors(RDKafkaApiKey::JoinGroup, &[loading; 1_000]);
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

    cluster.clear_request_errors(RDKafkaApiKey::JoinGroup);
    shown(1.0).await;
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &servers)
        .create()
        .expect("the producer's settings are valid");
    let record: FutureRecord<'_, str, str> = FutureRecord::to(&topic).payload("0");
    let stored = producer.send(record, LIMIT).await;
    stored
        .map_err(|(error, _)| error)
        .expect("the cluster stores it");
    let taken = take(&mut stream, 1).await;
    settle(&mut stream, taken).await;
    stream.close().await;
}

#[tokio::test]
async fn a_spare_member_is_no_outsider() {
    LazyLock::force(&METRICS);
    for protocol in ["classic", "consumer"] {
        let topic = Rig::get().topic(1).await;
        let group = unique();
        let limits = format!("{LIMITS}\ngroup_protocol = '{protocol}'");
        let (busy, spare) = (
            kafka_node(&topic, &group, &limits),
            kafka_node(&topic, &group, &limits),
        );
        let mut reading = open(&busy).await;
        produce(&topic, 0, 0..1).await;
        let taken = take(&mut reading, 1).await;
        settle(&mut reading, taken).await;
        let waiting = open(&spare).await;
        source_connected(spare.name(), true);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let connected = metric("sluice_source_connected", &spare);
        assert_eq!(connected, Some(1.0), "{protocol}");
        waiting.close().await;
        reading.close().await;
    }
}
