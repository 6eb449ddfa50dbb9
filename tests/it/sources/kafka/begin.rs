//! What `start = "latest"` skips, and what it must not.

use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use futures_util::future::join_all;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use sluice::bridge::positions;
use sluice::finding::Level;
use sluice::inbox::postgres::PostgresInbox;
use sluice::source::Source;
use sluice::units::Span;

use super::{
    ALL, LIMIT, METRICS, commit, kafka_node, metric, next, numbers, open, produce, settle, take,
};
use crate::inbox;
use crate::rig::{Rig, Topic, eventually, unique};

/// The group reads only what comes from now on, and soon sees what is added to the topic.
fn latest(protocol: &str) -> String {
    format!(
        "start = 'latest'\ngroup_protocol = '{protocol}'\n\
         librdkafka_options = {{ \"topic.metadata.refresh.interval.ms\" = \"500\" }}"
    )
}

/// Waits until the group has met the topic.
async fn until_met(topic: &Topic, group: &str) {
    eventually("the group meeting the topic", LIMIT, async || {
        let committed = topic.committed(group).await;
        committed.iter().all(Option::is_some).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_partition_that_is_added_begins_with_its_oldest_record_whatever_start_says() {
    LazyLock::force(&METRICS);
    for protocol in ["classic", "consumer"] {
        let mut topic = Rig::get().topic(1).await;
        let group = unique();
        produce(&topic, 0, 0..1).await;
        let node = kafka_node(&topic, &group, &latest(protocol));
        let mut stream = open(&node).await;
        until_met(&topic, &group).await;

        // Under a running node, which learns of it later than the producer.
        topic.grow(2).await;
        produce(&topic, 1, 1..3).await;
        let taken = take(&mut stream, 2).await;
        assert_eq!(super::payloads(&taken), numbers(1..3));
        settle(&mut stream, taken).await;
        stream.close().await;

        // While none runs.
        topic.grow(3).await;
        produce(&topic, 2, 3..4).await;
        let mut stream = open(&node).await;
        let taken = take(&mut stream, 1).await;
        assert_eq!(super::payloads(&taken), numbers(3..4));
        settle(&mut stream, taken).await;
        eventually(
            "all but the first record being committed",
            LIMIT,
            async || (topic.committed(&group).await == [Some(1), Some(2), Some(1)]).then_some(()),
        )
        .await;
        stream.close().await;
        let met = metric("sluice_kafka_partitions_met_total", &node);
        assert_eq!(met, Some(2.0), "{protocol}");
    }
}

#[tokio::test]
async fn two_members_that_meet_a_topic_together_both_skip_what_is_there() {
    for protocol in ["classic", "consumer"] {
        let topic = Rig::get().topic(4).await;
        let group = unique();
        for partition in 0..4 {
            produce(&topic, partition, 0..3).await;
        }
        let nodes = [0, 1].map(|_| kafka_node(&topic, &group, &latest(protocol)));
        let (first, second) = tokio::join!(nodes[0].open(), nodes[1].open());
        let mut members = [first, second].map(|stream| stream.expect("the source opens"));
        until_met(&topic, &group).await;
        assert_eq!(topic.committed(&group).await, [Some(3); 4], "{protocol}");

        for partition in 0..4 {
            produce(&topic, partition, 3..4).await;
        }
        let mut seen = Vec::new();
        let [one, other] = &mut members;
        while seen.len() < 4 {
            let read = async {
                tokio::select! {
                    taken = one.next(ALL) => (taken, true),
                    taken = other.next(ALL) => (taken, false),
                }
            };
            let (taken, by_one) = tokio::time::timeout(LIMIT, read)
                .await
                .expect("records come");
            let taken = taken.expect("the stream goes on");
            seen.extend(super::payloads(&taken));
            settle(if by_one { one } else { other }, taken).await;
        }
        // A rebalance in between may bring one again; what is old never comes.
        assert!(
            seen.iter().all(|payload| payload == "3"),
            "{protocol}: {seen:?}"
        );
        topic.wait_until_committed(&group, LIMIT).await;
        for member in members {
            member.close().await;
        }
    }
}

/// Otherwise the one who comes later would take the rest for partitions that were added.
#[tokio::test]
async fn who_meets_a_topic_first_commits_where_it_ends_for_the_others_too() {
    let topic = Rig::get().topic(4).await;
    let group = unique();
    for partition in 0..4 {
        produce(&topic, partition, 0..3).await;
    }
    let other: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", topic.bootstrap())
        .set("group.id", &group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("enable.auto.commit", "false")
        .create()
        .expect("the client's settings are valid");
    other.subscribe(&[topic.name()]).expect("it subscribes");
    let (met, until) = mpsc::channel::<()>();
    let (joined, has_all) = tokio::sync::oneshot::channel();
    let polling = tokio::task::spawn_blocking(move || {
        let mut joined = Some(joined);
        while until.try_recv() == Err(mpsc::TryRecvError::Empty) {
            other.poll(Duration::from_millis(50));
            let assigned = other.assignment().expect("it has joined").count();
            if assigned == 4
                && let Some(joined) = joined.take()
            {
                joined.send(()).expect("the test waits");
            }
        }
    });
    has_all.await.expect("it gets all partitions");
    let stream = open(&kafka_node(&topic, &group, &latest("classic"))).await;
    until_met(&topic, &group).await;
    assert_eq!(topic.committed(&group).await, [Some(3); 4]);
    drop(met);
    polling.await.expect("polling does not panic");
    stream.close().await;
}

#[tokio::test]
async fn a_group_that_the_broker_has_forgotten_skips_again_and_says_so() {
    LazyLock::force(&METRICS);
    let topic = Rig::get().topic(1).await;
    let group = unique();
    let node = kafka_node(&topic, &group, &latest("classic"));
    let stream = open(&node).await;
    until_met(&topic, &group).await;
    stream.close().await;
    let skipped = "sluice_kafka_skipped_to_end_total";
    assert_eq!(metric(skipped, &node), Some(1.0));

    produce(&topic, 0, 0..2).await;
    let findings = node.inspect().await.expect("the broker answers");
    let warns = |found: &[sluice::finding::Finding]| {
        let doubt =
            |f: &sluice::finding::Finding| f.level == Level::Warning && f.text.contains("skip");
        found.iter().any(doubt)
    };
    assert!(!warns(&findings), "{findings:?}");
    forget(&topic, &group).await;
    let findings = node.inspect().await.expect("the broker answers");
    assert!(warns(&findings), "{findings:?}");

    let mut stream = open(&node).await;
    until_met(&topic, &group).await;
    produce(&topic, 0, 2..3).await;
    assert_eq!(
        super::payloads(&next(&mut stream, ALL).await),
        numbers(2..3)
    );
    assert_eq!(metric(skipped, &node), Some(2.0));
    stream.close().await;
}

/// What the broker does by itself with the offsets of a group that had no member for a week.
async fn forget(topic: &Topic, group: &str) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", topic.bootstrap())
        .create()
        .expect("the client's settings are valid");
    eventually("the group being deleted", LIMIT, async || {
        let deleted = admin.delete_groups(&[group], &AdminOptions::new()).await;
        deleted.ok()?.into_iter().next()?.ok()
    })
    .await;
}

/// Stores records of 1 KB in each partition, in batches as large as they come.
async fn fill(topic: &Topic, records: usize) {
    let payload = [b'x'; 1000];
    let stored = (0..topic.partitions())
        .flat_map(|partition| std::iter::repeat_n(partition, records))
        .map(|partition| topic.try_produce(Some(partition), None, &[], &payload));
    for stored in join_all(stored).await {
        stored.expect("the broker stores the record");
    }
}

#[tokio::test]
async fn a_long_backlog_of_large_batches_keeps_no_partition_from_beginning() {
    let topic = Rig::get().topic(4).await;
    let group = unique();
    fill(&topic, 500).await;
    commit(&topic, &group, 500).await;
    for _ in 0..6 {
        fill(&topic, 2_000).await;
    }
    let inbox = inbox::fresh::<PostgresInbox>().await;
    let positions = positions::of(inbox.inbox.clone(), Span::secs(5));
    // Far less than reading any partition to its end takes.
    let node = kafka_node(&topic, &group, "connect_timeout = '2s'").with_positions(positions);
    let mut stream = open(&node).await;
    let taken = take(&mut stream, 1).await;
    assert!(taken.iter().all(|one| one.envelope.offset >= Some(500)));
    stream.close().await;
}
