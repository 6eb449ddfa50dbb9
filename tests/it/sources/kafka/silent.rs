//! A broker that keeps its connections and says nothing.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::{LIMIT, METRICS, kafka_node, metric, open, produce, settle, take};
use crate::rig::{Server, eventually, unique};

/// Silence of five seconds, found by questions that are asked every two and answered within two.
const NOTICED: Duration = Duration::from_secs(10);
/// The session time-out, and a question more.
const ENDED: Duration = Duration::from_secs(13);

#[tokio::test]
async fn a_frozen_broker_is_seen_within_seconds_by_whoever_has_a_partition_and_whoever_has_none() {
    LazyLock::force(&METRICS);
    let broker = Server::kafka(&[]).await;
    let topic = broker.as_kafka().topic(1).await;
    let group = unique();
    produce(&topic, 0, 0..1).await;
    let session = "session_timeout = '9s'";
    let (busy, spare) = (
        kafka_node(&topic, &group, session),
        kafka_node(&topic, &group, session),
    );
    let mut reading = open(&busy).await;
    let taken = take(&mut reading, 1).await;
    settle(&mut reading, taken).await;
    let mut waiting = open(&spare).await;

    broker.freeze().await;
    let frozen = Instant::now();
    eventually("both saying that they reach nobody", NOTICED, async || {
        let connected = |node| metric("sluice_source_connected", node);
        (connected(&busy) == Some(0.0) && connected(&spare) == Some(0.0)).then_some(())
    })
    .await;
    for stream in [&mut reading, &mut waiting] {
        let left = ENDED.saturating_sub(frozen.elapsed());
        let ended = tokio::time::timeout(left, stream.idle()).await;
        let ended = ended.expect("a stream ends when its session would be over");
        assert!(!ended.needs_operator, "{ended:?}");
        assert!(
            ended.to_string().contains("no broker has answered"),
            "{ended}"
        );
    }
    broker.thaw().await;
    // They leave the group only now, when somebody listens.
    reading.close().await;
    waiting.close().await;
    produce(&topic, 0, 1..2).await;
    let mut again = eventually("a stream opening", LIMIT, async || {
        sluice::source::Source::open(&busy).await.ok()
    })
    .await;
    let taken = take(&mut again, 1).await;
    settle(&mut again, taken).await;
    topic.wait_until_committed(&group, LIMIT).await;
    again.close().await;
}
