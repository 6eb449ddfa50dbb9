//! Topics that are named by a pattern, and topics that come later.

use sluice::finding::Level;
use sluice::source::Source;
use sluice::source::kafka::{Kafka, KafkaConfig};

use super::{LIMIT, open, produce};
use crate::rig::{Rig, Topic, eventually, unique};
use crate::sources::{payloads, settle, take};

/// A node that reads what matches `^(one|other)$`; it looks for new topics every second.
fn node(topics: [&Topic; 2], group: &str, protocol: &str) -> Kafka {
    let [one, other] = topics.map(Topic::name);
    let table = format!(
        "bootstrap_servers = '{}'\ntopics = ['^({one}|{other})$']\ngroup_id = '{group}'\n\
         session_timeout = '6s'\ngroup_protocol = '{protocol}'\n\
         librdkafka_options = {{ 'topic.metadata.refresh.interval.ms' = '1000' }}",
        topics[0].bootstrap()
    );
    let config: KafkaConfig = toml::from_str(&table).expect("the table is well formed");
    assert_eq!(config.validate(), []);
    Kafka::new(unique().into(), config, false, "test")
}

async fn topics_that_match_are_read_from_their_oldest_record_on_whenever_they_come(protocol: &str) {
    let rig = Rig::get();
    let (one, other) = (rig.topic(1).await, rig.topic(2).await);
    let unmatched = rig.topic(1).await;
    produce(&unmatched, 0, 90..93).await;
    other.delete().await;
    let group = unique();
    produce(&one, 0, 0..2).await;
    let node = node([&one, &other], &group, protocol);
    let mut stream = open(&node).await;
    let taken = take(&mut stream, 2).await;
    assert_eq!(payloads(&taken), ["0", "1"]);
    settle(&mut stream, taken).await;

    // It has records before it is found.
    other.create().await;
    produce(&other, 0, 10..12).await;
    produce(&other, 1, 20..22).await;
    let taken = take(&mut stream, 4).await;
    let mut came = payloads(&taken);
    came.sort();
    assert_eq!(came, ["10", "11", "20", "21"]);
    let named = |delivery: &sluice::message::Delivery| {
        delivery.envelope.topic.as_deref() == Some(other.name())
    };
    assert!(taken.iter().all(named));
    settle(&mut stream, taken).await;
    other.wait_until_committed(&group, LIMIT).await;
    one.wait_until_committed(&group, LIMIT).await;
    stream.close().await;

    // It goes; the rest is read on, by this stream or by the next.
    let mut stream = Some(open(&node).await);
    other.delete().await;
    produce(&one, 0, 2..3).await;
    let taken = eventually("the rest being read", LIMIT, async || {
        let mut open = match stream.take() {
            Some(open) => open,
            None => node.open().await.ok()?,
        };
        let taken = open.next(super::ALL).await.ok()?;
        stream = Some(open);
        Some(taken)
    })
    .await;
    assert_eq!(payloads(&taken), ["2"]);
    let mut stream = stream.expect("it was read by one");
    settle(&mut stream, taken).await;
    one.wait_until_committed(&group, LIMIT).await;
    stream.close().await;
}

#[tokio::test]
async fn topics_that_match_are_read_whenever_they_come_by_a_classic_group() {
    topics_that_match_are_read_from_their_oldest_record_on_whenever_they_come("classic").await;
}

#[tokio::test]
async fn topics_that_match_are_read_whenever_they_come_by_a_next_generation_group() {
    topics_that_match_are_read_from_their_oldest_record_on_whenever_they_come("consumer").await;
}

#[tokio::test]
async fn a_pattern_without_topics_waits_for_the_first_and_a_look_says_so() {
    let rig = Rig::get();
    let (one, other) = (rig.topic(1).await, rig.topic(1).await);
    one.delete().await;
    other.delete().await;
    let node = node([&one, &other], &unique(), "classic");
    let found = eventually("nothing being there", LIMIT, async || {
        let found = node.inspect().await.expect("the broker answers");
        (found[0].level == Level::Warning).then_some(found)
    })
    .await;
    assert!(found[0].text.contains("matches no topic"), "{found:?}");
    let mut stream = open(&node).await;
    one.create().await;
    produce(&one, 0, 0..1).await;
    assert_eq!(payloads(&take(&mut stream, 1).await), ["0"]);
    stream.close().await;
    let found = node.inspect().await.expect("the broker answers");
    assert!(
        found[0].text.ends_with(&format!("matches {}", one.name())),
        "{found:?}"
    );
    assert!(found[1].text.contains("is 1 records behind"), "{found:?}");
}
