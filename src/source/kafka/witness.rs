//! Reads single records to know them again: a topic that was deleted and made again has others in their place.
//!
//! With a client of its own that joins no group, because the group's client must not fetch before it is
//! decided where it begins.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::position::Mark;
use crate::source::SourceError;
use crate::units::Span;

/// The longest single wait.
const POLL: Duration = Duration::from_millis(100);

/// One record to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

/// The times of these records by topic and partition, one record of a partition. One that is gone, or has no
/// time, is missing. Blocks.
pub(super) fn times(
    client: &ClientConfig,
    wanted: &[Wanted],
    limit: Span,
) -> Result<BTreeMap<(String, i32), Mark>, SourceError> {
    let mut found = BTreeMap::new();
    if wanted.is_empty() {
        return Ok(found);
    }
    let mut client = client.clone();
    client
        .set("enable.partition.eof", "true")
        .set("queued.min.messages", "1")
        .set("fetch.message.max.bytes", "65536")
        .set("statistics.interval.ms", "0")
        .remove("group.instance.id");
    let consumer: BaseConsumer = client.create().map_err(asked)?;
    let mut by_topic: BTreeMap<&str, BTreeMap<i32, i64>> = BTreeMap::new();
    for Wanted {
        topic,
        partition,
        offset,
    } in wanted
    {
        by_topic
            .entry(topic)
            .or_default()
            .insert(*partition, *offset);
    }
    // One topic after the other: the client tells the end of a partition by its number alone.
    for (topic, offsets) in by_topic {
        for (partition, mark) in of_topic(&consumer, topic, offsets, limit)? {
            found.insert((topic.to_owned(), partition), mark);
        }
    }
    Ok(found)
}

fn asked(cause: KafkaError) -> SourceError {
    SourceError::new("cannot look at single records").because(cause)
}

fn of_topic(
    consumer: &BaseConsumer,
    topic: &str,
    mut open: BTreeMap<i32, i64>,
    limit: Span,
) -> Result<Vec<(i32, Mark)>, SourceError> {
    let mut list = TopicPartitionList::new();
    for (&partition, &offset) in &open {
        list.add_partition_offset(topic, partition, Offset::Offset(offset))
            .map_err(asked)?;
    }
    consumer.assign(&list).map_err(asked)?;
    let until = Instant::now() + limit.0;
    let mut found = Vec::new();
    let mut refused = None;
    while !open.is_empty() {
        if Instant::now() > until {
            let missing: Vec<_> = open
                .iter()
                .map(|(at, offset)| format!("{at}@{offset}"))
                .collect();
            let what = format!(
                "records {} of {topic} (partition@offset) could not be looked at within {limit}",
                missing.join(", ")
            );
            let unseen = SourceError::new(what);
            return Err(match refused {
                Some(cause) => unseen.because(cause),
                None => unseen,
            });
        }
        let seen = match consumer.poll(POLL) {
            Some(Ok(record)) => {
                let partition = record.partition();
                if open.get(&partition) == Some(&record.offset())
                    && let Some(at_ms) = record.timestamp().to_millis()
                {
                    let offset = record.offset();
                    found.push((partition, Mark { offset, at_ms }));
                }
                partition
            }
            // The record is gone, and none came after it.
            Some(Err(KafkaError::PartitionEOF(partition))) => partition,
            // The client goes on by itself; what it said last is told if it comes to nothing.
            Some(Err(cause)) => {
                refused = Some(cause);
                continue;
            }
            None => continue,
        };
        if open.remove(&seen).is_some() {
            // Or the broker would go on with it to its end: of a large batch it sends the first partition's
            // alone, and the others have to wait.
            let mut done = TopicPartitionList::new();
            done.add_partition(topic, seen);
            consumer.pause(&done).map_err(asked)?;
        }
    }
    Ok(found)
}
