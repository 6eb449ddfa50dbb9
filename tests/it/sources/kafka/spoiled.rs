//! Records that cannot be read: nothing behind them is, and the source says so.

use std::path::{Path, PathBuf};

use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use sluice::source::Stream;

use super::{ALL, LIMIT, commit, kafka_node, next, numbers, open, payloads, settle};
use crate::rig::{Server, Topic, unique};

/// Records of one partition, each in a batch of its own; this one is spoiled.
const SPOILED: i64 = 3;
const RECORDS: i64 = 6;

/// Where a batch's header holds its checksum, and where the bytes begin that it covers.
const CHECKSUM: std::ops::Range<usize> = 17..21;
const COVERED: usize = 21;
/// Where its records begin.
const BODY: usize = 61;

/// Stores records that the broker keeps compressed.
async fn produce_compressed(topic: &Topic) {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", topic.bootstrap())
        .set("compression.type", "lz4")
        .create()
        .expect("the producer's settings are valid");
    for n in 0..RECORDS {
        // Few bytes are stored as they are: compressed they would be more.
        let payload = n.to_string().repeat(2_000);
        let record: FutureRecord<'_, str, str> = FutureRecord::to(topic.name()).payload(&payload);
        let stored = producer.send(record, LIMIT).await;
        stored
            .map_err(|(error, _)| error)
            .expect("the broker stores it");
    }
}

fn segment(broker: &Server, topic: &Topic) -> PathBuf {
    let partition = format!("data/{}-0/00000000000000000000.log", topic.name());
    broker.folder().join(partition)
}

/// Changes bytes of one batch on a stopped broker's disk; with its checksum, or without.
fn spoil(segment: &Path, with_checksum: bool) {
    let mut log = std::fs::read(segment).expect("the partition has a segment");
    let mut begin = 0;
    loop {
        let number = |at: usize, bytes: usize| {
            log[at..at + bytes]
                .iter()
                .fold(0_i64, |number, byte| number << 8 | i64::from(*byte))
        };
        let (offset, length) = (number(begin, 8), number(begin + 8, 4));
        let end = begin + 12 + usize::try_from(length).expect("a length is positive");
        if offset == SPOILED {
            let batch = &mut log[begin..end];
            batch[BODY] ^= 0xff;
            if with_checksum {
                let sum = crc32c(&batch[COVERED..]);
                batch[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
            }
            break;
        }
        begin = end;
    }
    std::fs::write(segment, log).expect("the segment can be written");
}

/// Castagnoli's polynomial, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let sum = bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(sum & 1))
        })
    });
    !sum
}

/// Reads and settles until the stream ends: the first character of every payload, and the last words.
async fn read_to_the_end(
    stream: &mut Box<dyn Stream>,
) -> (Vec<String>, sluice::source::SourceError) {
    let mut read = Vec::new();
    loop {
        let taken = tokio::time::timeout(LIMIT, stream.next(ALL)).await;
        match taken.expect("the stream goes on or ends") {
            Ok(taken) => {
                read.extend(
                    payloads(&taken)
                        .into_iter()
                        .map(|text| text[..1].to_owned()),
                );
                settle(stream, taken).await;
            }
            Err(error) => return (read, error),
        }
    }
}

#[tokio::test]
async fn records_that_cannot_be_read_end_the_stream_and_nothing_behind_them_is_settled() {
    let broker = Server::kafka(&[]).await;
    let group = unique();
    let mut topics = Vec::new();
    for _ in 0..2 {
        let topic = broker.as_kafka().topic(1).await;
        produce_compressed(&topic).await;
        topics.push(topic);
    }
    broker.stop().await;
    for (topic, with_checksum) in topics.iter().zip([false, true]) {
        spoil(&segment(&broker, topic), with_checksum);
    }
    broker.start().await;

    for (topic, words) in topics.iter().zip(["CRC32C", "ecompression"]) {
        let node = kafka_node(topic, &group, "");
        // The second time there is nothing in front of it.
        for before in [numbers(0..3), Vec::new()] {
            let mut stream = open(&node).await;
            let (read, ended) = read_to_the_end(&mut stream).await;
            assert_eq!(read, before);
            assert!(ended.needs_operator, "{ended:?}");
            let said = ended.to_string();
            let place = format!("in {}/0", topic.name());
            assert!(said.contains(words) && said.contains(&place), "{said}");
            stream.close().await;
            assert_eq!(topic.committed(&group).await, [Some(SPOILED)]);
        }
        // What the operator does who gives it up.
        commit(topic, &group, SPOILED + 1).await;
        let mut stream = open(&node).await;
        let mut read = Vec::new();
        while read.len() < 2 {
            let taken = next(&mut stream, ALL).await;
            read.extend(
                payloads(&taken)
                    .into_iter()
                    .map(|text| text[..1].to_owned()),
            );
            settle(&mut stream, taken).await;
        }
        assert_eq!(read, numbers(4..6));
        topic.wait_until_committed(&group, LIMIT).await;
        stream.close().await;
    }
}
