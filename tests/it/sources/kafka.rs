//! What only a Kafka source does: groups, offsets, and where a partition begins.

mod begin;
mod mocked;
mod patterns;
mod silent;
mod spare;
mod spoiled;

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, FutureProducer, FutureRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use sluice::finding::Level;
use sluice::message::{Delivery, Receipt, Text};
use sluice::metrics::{Exporter, Samples};
use sluice::source::kafka::{Kafka, KafkaConfig};
use sluice::source::{Source, Stream};
use sluice::units::Span;

use super::brokers::kafka_node;
use super::{ALL, LIMIT, next, numbers, payloads, receipts, settle, take};
use crate::rig::{Rig, Topic, eventually, unique};

/// The process's recorder: the polling thread records there, whatever the test's own thread does.
static METRICS: LazyLock<Exporter> =
    LazyLock::new(|| Exporter::install().expect("nobody else installs the recorder"));

/// The value of a metric of one source.
fn metric(name: &str, source: &dyn Source) -> Option<f64> {
    let samples = Samples::parse(&METRICS.render());
    let by_source = samples.sum_by(name, ["source"]);
    by_source.get(&[source.name().to_string()]).copied()
}

async fn open(node: &Kafka) -> Box<dyn Stream> {
    node.open().await.expect("the source opens")
}

async fn produce(topic: &Topic, partition: i32, range: std::ops::Range<usize>) {
    for n in range {
        let payload = n.to_string();
        topic
            .produce_to(partition, None, &[], payload.as_bytes())
            .await;
    }
}

fn by_partition(deliveries: Vec<Delivery>) -> BTreeMap<i32, Vec<Receipt>> {
    let mut receipts: BTreeMap<i32, Vec<Receipt>> = BTreeMap::new();
    for delivery in deliveries {
        let partition = delivery.envelope.partition.expect("Kafka has partitions");
        receipts
            .entry(partition)
            .or_default()
            .push(delivery.receipt);
    }
    receipts
}

#[tokio::test]
async fn a_revoked_partition_is_never_committed_whatever_finishes_later() {
    let topic = Rig::get().topic(4).await;
    let group = unique();
    for partition in 0..4 {
        produce(&topic, partition, 0..3).await;
    }
    let mut first = open(&kafka_node(&topic, &group, "")).await;
    let held = by_partition(take(&mut first, 12).await);
    assert_eq!(held.len(), 4);

    // The second member gets two of the partitions, and reads from where the group has committed.
    let mut second = open(&kafka_node(&topic, &group, "")).await;
    let mut moved = by_partition(take(&mut second, 6).await);
    assert_eq!(moved.len(), 2);

    // Now everything finishes that the first member still holds.
    let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = held
        .into_iter()
        .partition(|(partition, _)| !moved.contains_key(partition));
    assert!(!kept.is_empty(), "the first member keeps some");
    for (_, receipts) in gone {
        first
            .settle(receipts)
            .await
            .expect("stale receipts are no error");
    }
    let kept_partitions: Vec<i32> = kept.keys().copied().collect();
    for (_, receipts) in kept {
        first.settle(receipts).await.expect("the broker listens");
    }
    let committed = eventually("the kept partitions being committed", LIMIT, async || {
        let committed = topic.committed(&group).await;
        let done = |&p: &i32| committed[usize::try_from(p).expect("small")] == Some(3);
        kept_partitions.iter().all(done).then_some(committed)
    })
    .await;
    for &partition in moved.keys() {
        let offset = committed[usize::try_from(partition).expect("small")];
        assert_eq!(offset, None, "partition {partition} is the second member's");
    }

    // Its owner commits it.
    for (_, receipts) in std::mem::take(&mut moved) {
        second.settle(receipts).await.expect("the broker listens");
    }
    topic.wait_until_committed(&group, LIMIT).await;
    first.close().await;
    second.close().await;
}

#[tokio::test]
async fn rebalances_of_members_that_finish_their_work_repeat_nothing() {
    let topic = Rig::get().topic(4).await;
    let group = unique();
    let (one, other) = (
        kafka_node(&topic, &group, ""),
        kafka_node(&topic, &group, ""),
    );
    let enough = AtomicBool::new(false);
    let producing = async {
        let mut produced = 0;
        while !enough.load(Ordering::SeqCst) {
            let number = produced.to_string();
            topic.produce(Some(&number), &[], number.as_bytes()).await;
            produced += 1;
        }
        produced
    };
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    // How many new ones a member has read and settled.
    let mut work = async |stream: &mut Box<dyn Stream>| {
        let taken = tokio::time::timeout(Duration::from_millis(20), stream.next(ALL)).await;
        let Ok(taken) = taken else { return 0 };
        let taken = taken.expect("the stream goes on");
        let count = taken.len();
        for payload in payloads(&taken) {
            *seen.entry(payload).or_default() += 1;
        }
        settle(stream, taken).await;
        count
    };
    let working = async {
        let mut first = open(&one).await;
        let mut read = 0;
        while read < 50 {
            read += work(&mut first).await;
        }
        // One member becomes two, and then one again.
        let mut second = open(&other).await;
        let mut read_by_second = 0;
        while read_by_second < 50 {
            read += work(&mut first).await;
            read_by_second += work(&mut second).await;
        }
        first.close().await;
        read_by_second += work(&mut second).await;
        enough.store(true, Ordering::SeqCst);
        (read + read_by_second, second)
    };
    let both = async { tokio::join!(producing, working) };
    let both = tokio::time::timeout(2 * LIMIT, both).await;
    let (produced, (mut read, mut second)) = both.expect("both members get work");
    while read < produced {
        read += work(&mut second).await;
    }
    second.close().await;
    let repeated: Vec<&String> = seen
        .iter()
        .filter(|(_, n)| **n > 1)
        .map(|(p, _)| p)
        .collect();
    assert!(repeated.is_empty(), "{repeated:?}");
    assert_eq!(seen.len(), produced, "each once");
}

#[tokio::test]
async fn start_latest_skips_what_is_there_and_nothing_that_comes_later() {
    for protocol in ["classic", "consumer"] {
        let topic = Rig::get().topic(1).await;
        let group = unique();
        produce(&topic, 0, 0..3).await;
        let more = format!("start = 'latest'\ngroup_protocol = '{protocol}'");
        let node = kafka_node(&topic, &group, &more);
        let stream = open(&node).await;
        // Committed at once: otherwise what comes while nobody reads would be skipped, too.
        eventually("the beginning being committed", LIMIT, async || {
            (topic.committed(&group).await == [Some(3)]).then_some(())
        })
        .await;
        stream.close().await;
        produce(&topic, 0, 3..5).await;
        let mut stream = open(&node).await;
        let taken = take(&mut stream, 2).await;
        assert_eq!(payloads(&taken), numbers(3..5));
        stream.close().await;
    }
}

#[tokio::test]
async fn start_earliest_reads_what_is_there_and_a_committed_offset_wins_over_start() {
    let topic = Rig::get().topic(1).await;
    let group = unique();
    produce(&topic, 0, 0..3).await;
    let mut stream = open(&kafka_node(&topic, &group, "start = 'earliest'")).await;
    let taken = take(&mut stream, 3).await;
    assert_eq!(payloads(&taken), numbers(0..3));
    settle(&mut stream, taken).await;
    stream.close().await;
    produce(&topic, 0, 3..4).await;
    let mut stream = open(&kafka_node(&topic, &group, "start = 'latest'")).await;
    assert_eq!(payloads(&take(&mut stream, 1).await), numbers(3..4));
    stream.close().await;
}

#[tokio::test]
async fn a_committed_offset_behind_the_end_needs_an_operator_and_is_not_reset() {
    let topic = Rig::get().topic(1).await;
    let group = unique();
    produce(&topic, 0, 0..3).await;
    commit(&topic, &group, 50).await;
    let node = kafka_node(&topic, &group, "");
    let mut stream = open(&node).await;
    let ended = tokio::time::timeout(LIMIT, stream.next(ALL)).await;
    let ended = ended.expect("the stream ends").expect_err("with an error");
    assert!(ended.needs_operator, "{ended:?}");
    assert!(ended.to_string().contains("committed 50"), "{ended}");
    stream.close().await;
    assert_eq!(topic.committed(&group).await, [Some(50)]);
}

#[tokio::test]
async fn records_deleted_before_they_were_read_are_counted_and_the_rest_is_read() {
    LazyLock::force(&METRICS);
    let topic = Rig::get().topic(1).await;
    let group = unique();
    produce(&topic, 0, 0..10).await;
    commit(&topic, &group, 2).await;
    topic.truncate(0, 6).await;
    let node = kafka_node(&topic, &group, "start = 'latest'");
    let mut stream = open(&node).await;
    let taken = take(&mut stream, 4).await;
    assert_eq!(payloads(&taken), numbers(6..10));
    settle(&mut stream, taken).await;
    topic.wait_until_committed(&group, LIMIT).await;
    stream.close().await;
    let counted = metric("sluice_kafka_offset_below_low_watermark_total", &node);
    assert_eq!(counted, Some(1.0));
}

#[tokio::test]
async fn records_deleted_under_a_reader_end_its_stream_and_the_next_one_goes_on_behind_them() {
    LazyLock::force(&METRICS);
    let topic = Rig::get().topic(1).await;
    let group = unique();
    let node = kafka_node(&topic, &group, "prefetch = '64KiB'");
    let filler = "x".repeat(4_000);
    let records: Vec<(String, Vec<u8>)> = (0..400)
        .map(|n| ("k".to_owned(), format!("{n}{filler}").into_bytes()))
        .collect();
    topic.produce_all(&records).await;
    let mut stream = open(&node).await;
    let first = take(&mut stream, 1).await;
    settle(&mut stream, first).await;
    topic.truncate(0, 399).await;
    let ended = eventually("the stream ending", LIMIT, async || {
        stream.next(ALL).await.err()
    })
    .await;
    assert!(!ended.needs_operator, "{ended:?}");
    stream.close().await;
    let mut stream = open(&node).await;
    assert_eq!(take(&mut stream, 1).await[0].envelope.offset, Some(399));
    let counted = metric("sluice_kafka_offset_below_low_watermark_total", &node);
    assert_eq!(counted, Some(1.0));
    stream.close().await;
}

#[tokio::test]
async fn a_buffer_that_nobody_empties_stops_growing() {
    let topic = Rig::get().topic(2).await;
    let records: Vec<(String, Vec<u8>)> = (0..200)
        .map(|n| (n.to_string(), vec![b'x'; 4_000]))
        .collect();
    topic.produce_all(&records).await;
    let mut stream = open(&kafka_node(&topic, &unique(), "prefetch = '64KiB'")).await;
    let idle = tokio::time::timeout(Duration::from_secs(4), stream.idle()).await;
    assert!(idle.is_err(), "the stream ended: {idle:?}");

    let mut taken = next(&mut stream, ALL).await;
    let bytes: usize = taken.iter().map(Delivery::size).sum();
    assert!(bytes <= 32 * 1024 + 5_000, "{bytes} bytes were buffered");
    taken.extend(take(&mut stream, 200 - taken.len()).await);
    for offsets in by_partition(taken).into_values() {
        let tags: Vec<u64> = offsets.iter().map(|receipt| receipt.tag).collect();
        assert!(tags.is_sorted_by(|a, b| a + 1 == *b), "{tags:?}");
    }
    stream.close().await;
}

/// The client keeps the pause of a partition beyond the assignment in which it was paused.
#[tokio::test]
async fn a_partition_that_left_while_nobody_emptied_the_buffer_is_read_when_it_comes_back() {
    let topic = Rig::get().topic(2).await;
    let group = unique();
    let records: Vec<(String, Vec<u8>)> = (0..200)
        .map(|n| (n.to_string(), vec![b'x'; 4_000]))
        .collect();
    topic.produce_all(&records).await;
    let mut first = open(&kafka_node(&topic, &group, "prefetch = '64KiB'")).await;
    // Its partitions are paused while nobody takes what came.
    let idle = tokio::time::timeout(Duration::from_secs(4), first.idle()).await;
    assert!(idle.is_err(), "the stream ended: {idle:?}");

    let mut second = open(&kafka_node(&topic, &group, "")).await;
    let wait = async |stream: &mut Box<dyn Stream>| next(stream, ALL).await;
    let (moved, error) = tokio::select! {
        moved = wait(&mut second) => (moved, None),
        error = first.idle() => (Vec::new(), Some(error)),
    };
    assert!(error.is_none(), "the first stream ended: {error:?}");
    let partition = moved[0].envelope.partition.expect("Kafka has partitions");
    let mut kept = 0;
    // Room again, while the partition is away.
    let taken = async |first: &mut Box<dyn Stream>| take(first, 1).await;
    while kept < 20 {
        for delivery in taken(&mut first).await {
            assert_ne!(delivery.envelope.partition, Some(partition));
            kept += 1;
        }
    }
    second.close().await;

    let back = async {
        loop {
            let deliveries = next(&mut first, ALL).await;
            let of = |delivery: &Delivery| delivery.envelope.partition == Some(partition);
            if deliveries.iter().any(of) {
                break;
            }
        }
    };
    let back = tokio::time::timeout(LIMIT, back).await;
    assert!(back.is_ok(), "partition {partition} is not read");
    first.close().await;
}

#[tokio::test]
async fn gaps_of_aborted_transactions_neither_deliver_nor_hold_a_commit_up_nor_count_as_lag() {
    LazyLock::force(&METRICS);
    let topic = Rig::get().topic(1).await;
    let group = unique();
    produce(&topic, 0, 0..2).await;
    let (bootstrap, name) = (topic.bootstrap().to_owned(), topic.name().to_owned());
    let transacting = tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("transactional.id", unique())
            .create()
            .expect("the producer's settings are valid");
        producer
            .init_transactions(LIMIT)
            .expect("the broker transacts");
        let ends = [("x", false), ("2", true), ("3", true), ("y", false)];
        for (payload, commits) in ends {
            producer.begin_transaction().expect("a transaction begins");
            let record: BaseRecord<'_, str, str> = BaseRecord::to(&name).payload(payload);
            producer
                .send(record)
                .map_err(|(error, _)| error)
                .expect("it is queued");
            producer.flush(LIMIT).expect("it is stored");
            let ended = if commits {
                producer.commit_transaction(LIMIT)
            } else {
                producer.abort_transaction(LIMIT)
            };
            ended.expect("the transaction ends");
        }
    });
    transacting.await.expect("producing does not panic");

    let node = kafka_node(&topic, &group, "statistics_interval = '100ms'");
    let mut stream = open(&node).await;
    let taken = take(&mut stream, 4).await;
    assert_eq!(payloads(&taken), numbers(0..4));
    let last = taken[3].envelope.offset.expect("Kafka has offsets");
    assert!(last > 5, "the abort and both markers have offsets: {last}");
    let mut receipts = receipts(taken);
    let gap = receipts.split_off(2);
    eventually("the lag while all is open", LIMIT, async || {
        (metric("sluice_kafka_lag", &node) == Some(10.0)).then_some(())
    })
    .await;
    stream.settle(gap).await.expect("the broker listens");
    stream.settle(receipts).await.expect("the broker listens");
    eventually("the commit behind the gaps", LIMIT, async || {
        (topic.committed(&group).await == [Some(last + 1)]).then_some(())
    })
    .await;
    eventually("no lag behind the last marker", LIMIT, async || {
        (metric("sluice_kafka_lag", &node) == Some(0.0)).then_some(())
    })
    .await;
    assert_eq!(topic.committed(&group).await, [Some(last + 1)]);
    stream.close().await;
}

#[tokio::test]
async fn tombstones_keys_and_headers_arrive_as_they_are() {
    let topic = Rig::get().topic(1).await;
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", topic.bootstrap())
        .create()
        .expect("the producer's settings are valid");
    let headers = OwnedHeaders::new()
        .insert(Header {
            key: "again",
            value: Some("one"),
        })
        .insert(Header {
            key: "again",
            value: Some("two"),
        })
        .insert(Header {
            key: "raw",
            value: Some(&[0xff_u8, 0x00][..]),
        })
        .insert(Header::<&str> {
            key: "null",
            value: None,
        });
    let record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(topic.name())
        .key(&[0xfe_u8, 0x01][..])
        .headers(headers)
        .timestamp(1_700_000_000_123);
    let stored = producer.send(record, LIMIT).await;
    stored
        .map_err(|(error, _)| error)
        .expect("the broker stores it");

    let mut stream = open(&kafka_node(&topic, &unique(), "")).await;
    let tombstone = take(&mut stream, 1).await.remove(0);
    assert!(tombstone.payload.is_empty());
    let envelope = &tombstone.envelope;
    let text = |bytes: &[u8]| Text::new(bytes.to_vec());
    assert_eq!(
        envelope.headers,
        [
            ("again".to_owned(), text(b"one")),
            ("again".to_owned(), text(b"two")),
            ("raw".to_owned(), text(&[0xff, 0x00])),
            ("null".to_owned(), text(b"")),
        ]
    );
    assert_eq!(
        envelope.header("again"),
        Some(&text(b"two")),
        "the last one wins"
    );
    assert_eq!(envelope.key, Some(text(&[0xfe, 0x01])));
    assert_eq!(envelope.timestamp, Some(1_700_000_000_123));
    assert_eq!(
        envelope.coordinates(),
        Some(format!("{}/0@0#1700000000123", topic.name()))
    );
    stream.close().await;
}

#[tokio::test]
async fn of_two_members_with_one_instance_id_the_older_ends_and_needs_an_operator() {
    let topic = Rig::get().topic(1).await;
    let group = unique();
    let same = "group_instance_id = 'same'";
    let mut older = open(&kafka_node(&topic, &group, same)).await;
    produce(&topic, 0, 0..1).await;
    let held = take(&mut older, 1).await;
    let mut newer = open(&kafka_node(&topic, &group, same)).await;
    let taken = take(&mut newer, 1).await;
    assert_eq!(payloads(&taken), payloads(&held));
    let ended = tokio::time::timeout(LIMIT, older.idle()).await;
    let ended = ended.expect("the older one is fenced");
    assert!(ended.needs_operator, "{ended:?}");
    older.close().await;
    settle(&mut newer, taken).await;
    topic.wait_until_committed(&group, LIMIT).await;
    newer.close().await;
}

#[tokio::test]
async fn a_missing_topic_needs_an_operator_until_it_is_there() {
    let topic = Rig::get().topic(1).await;
    let node = kafka_node(&topic, &unique(), "");
    let mut stream = open(&node).await;
    produce(&topic, 0, 0..1).await;
    take(&mut stream, 1).await;
    topic.delete().await;
    let ended = tokio::time::timeout(2 * LIMIT, stream.next(ALL)).await;
    let ended = ended.expect("the stream ends").expect_err("with an error");
    assert!(ended.needs_operator, "{ended:?}");
    stream.close().await;
    let missing = eventually("the topic being gone", LIMIT, async || {
        node.open().await.err()
    })
    .await;
    assert!(missing.needs_operator, "{missing:?}");
    assert!(missing.to_string().contains(topic.name()), "{missing}");

    topic.create().await;
    produce(&topic, 0, 1..2).await;
    let mut stream = open(&node).await;
    assert_eq!(payloads(&take(&mut stream, 1).await), numbers(1..2));
    stream.close().await;
}

#[tokio::test]
async fn lag_is_told_for_what_is_assigned_and_zero_when_it_leaves() {
    LazyLock::force(&METRICS);
    let topic = Rig::get().topic(1).await;
    let group = unique();
    produce(&topic, 0, 0..10).await;
    let node = kafka_node(&topic, &group, "statistics_interval = '100ms'");
    let mut stream = open(&node).await;
    let mut taken = take(&mut stream, 10).await;
    drop(taken.split_off(4));
    settle(&mut stream, taken).await;
    let lag = async |expected: f64| {
        eventually("the lag being told", LIMIT, async || {
            (metric("sluice_kafka_lag", &node) == Some(expected)).then_some(())
        })
        .await;
    };
    lag(6.0).await;
    stream.close().await;
    lag(0.0).await;
}

#[tokio::test]
async fn a_look_at_the_topics_joins_nothing_and_warns_of_long_retention() {
    let topic = Rig::get().topic(3).await;
    let group = unique();
    produce(&topic, 0, 0..5).await;
    commit(&topic, &group, 2).await;
    let node = kafka_node(&topic, &group, "").with_key_retention(Span::days(1));
    let found = node.inspect().await.expect("the broker answers");
    assert!(
        found[0].text.contains("3 partitions") && found[0].text.contains("3 records behind"),
        "{found:?}"
    );
    let warned = found
        .iter()
        .any(|f| f.level == Level::Warning && f.text.contains("7days"));
    assert!(warned, "{found:?}");

    let node = kafka_node(&topic, &group, "").with_key_retention(Span::days(30));
    let found = node.inspect().await.expect("the broker answers");
    assert!(found.iter().all(|f| f.level == Level::Info), "{found:?}");
}

#[tokio::test]
async fn brokers_that_do_not_answer_are_an_outage_and_secrets_are_never_printed() {
    let table = "bootstrap_servers = '127.0.0.1:1'\ntopics = ['t']\ngroup_id = 'g'\n\
                 connect_timeout = '2s'\n\
                 sasl = { mechanism = 'PLAIN', username = 'u', password = 'hunter2' }";
    let config: KafkaConfig = toml::from_str(table).expect("the table is well formed");
    assert_eq!(config.validate(), []);
    assert!(!format!("{config:?}").contains("hunter2"));
    let node = Kafka::new(unique().into(), config, false, "test");
    let refused = node.open().await.err().expect("nobody listens on port 1");
    assert!(!refused.needs_operator, "{refused:?}");
    let told = format!("{refused} {refused:?}");
    assert!(
        told.contains("127.0.0.1:1") && !told.contains("hunter2"),
        "{told}"
    );
}

/// Moves a group that has no members, as an operator's tool does: to this offset in each partition.
async fn commit(topic: &Topic, group: &str, offset: i64) {
    let partitions = topic.partitions();
    let (bootstrap, name, group) = (
        topic.bootstrap().to_owned(),
        topic.name().to_owned(),
        group.to_owned(),
    );
    let committing = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", group)
            .create()
            .expect("the client's settings are valid");
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(&name, partition, Offset::Offset(offset))
                .expect("the offset is one");
        }
        consumer
            .commit(&list, CommitMode::Sync)
            .expect("the broker stores it");
    });
    committing.await.expect("committing does not panic");
}
