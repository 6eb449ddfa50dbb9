//! Where a newly assigned partition begins: the committed offset, or what `start` says.
//!
//! librdkafka's own reset is `error`, because it resets without a word: a committed offset that the
//! broker no longer has would silently become the newest or the oldest one.

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::config::Start;
use crate::metrics;
use crate::source::SourceError;
use crate::units::Span;

/// A partition and the offset of the record that comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

/// What the offsets of a partition mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// Where the group stood.
    Committed(i64),
    /// Nothing is committed: the oldest record.
    Earliest(i64),
    /// Nothing is committed: the next record. To be committed at once, or a second start would skip
    /// what came in between.
    Latest(i64),
    /// The broker deleted records that were never read; the oldest record that is left.
    Lost { low: i64 },
    /// The group stood behind the end: the topic was recreated, or its tail was lost.
    Beyond { high: i64 },
}

/// `low` is the first offset that the broker still has, `high` the one that the next record gets.
fn decide(start: Start, committed: Option<i64>, low: i64, high: i64) -> Begin {
    match (committed, start) {
        (Some(offset), _) if offset < low => Begin::Lost { low },
        (Some(offset), _) if offset > high => Begin::Beyond { high },
        (Some(offset), _) => Begin::Committed(offset),
        (None, Start::Earliest) => Begin::Earliest(low),
        (None, Start::Latest) => Begin::Latest(high),
    }
}

/// Asks the broker about every partition of the list. Blocks, on the thread that polls.
pub(super) fn resolve<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &TopicPartitionList,
    source: &str,
    start: Start,
    limit: Span,
) -> Result<Vec<Position>, SourceError> {
    let asked = |what: &str, cause: KafkaError| SourceError::new(what).because(cause);
    // The lists that the client returns must be gone before the consumer is dropped, or it waits for
    // ever; they live no longer than this function.
    let committed = consumer
        .committed_offsets(partitions.clone(), limit.0)
        .map_err(|cause| asked("cannot read the group's committed offsets", cause))?;
    let mut positions = Vec::new();
    let mut fresh = TopicPartitionList::new();
    for element in committed.elements() {
        let (topic, partition) = (element.topic(), element.partition());
        element
            .error()
            .map_err(|cause| asked("cannot read the group's committed offsets", cause))?;
        let committed = match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        let (low, high) = consumer
            .fetch_watermarks(topic, partition, limit.0)
            .map_err(|cause| {
                asked(
                    &format!("cannot read the bounds of {topic}/{partition}"),
                    cause,
                )
            })?;
        let begin = decide(start, committed, low, high);
        let offset = announce(begin, source, topic, partition, committed)?;
        if let Begin::Latest(offset) = begin {
            fresh
                .add_partition_offset(topic, partition, Offset::Offset(offset))
                .map_err(|cause| asked("cannot note the newest offset", cause))?;
        }
        positions.push(Position {
            topic: topic.to_owned(),
            partition,
            offset,
        });
    }
    if fresh.count() > 0 {
        consumer
            .commit(&fresh, CommitMode::Sync)
            .map_err(|cause| asked("cannot commit where `start = \"latest\"` begins", cause))?;
    }
    Ok(positions)
}

/// Says where the partition begins, loudly if records are lost.
fn announce(
    begin: Begin,
    source: &str,
    topic: &str,
    partition: i32,
    committed: Option<i64>,
) -> Result<i64, SourceError> {
    let committed = committed.unwrap_or_default();
    match begin {
        Begin::Committed(offset) => {
            tracing::debug!(
                source,
                topic,
                partition,
                offset,
                "goes on where the group stood"
            );
            Ok(offset)
        }
        Begin::Earliest(offset) => {
            tracing::info!(
                source,
                topic,
                partition,
                offset,
                "nothing is committed: begins with the oldest record"
            );
            Ok(offset)
        }
        Begin::Latest(offset) => {
            tracing::info!(
                source,
                topic,
                partition,
                offset,
                "nothing is committed: begins with the next record"
            );
            Ok(offset)
        }
        Begin::Lost { low } => {
            metrics::kafka_offset_below_low_watermark(source, topic);
            tracing::error!(
                source,
                topic,
                partition,
                committed,
                low,
                "the broker has deleted records that were never read; goes on with the oldest that is left"
            );
            Ok(low)
        }
        Begin::Beyond { high } => Err(SourceError::new(format!(
            "the group has committed {committed} of {topic}/{partition}, which ends at {high}: \
             the topic was recreated or has lost its tail; set the group's offset"
        ))
        .needs_operator()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_committed_offset_wins_over_start_unless_the_broker_does_not_have_it() {
        for start in [Start::Earliest, Start::Latest] {
            for (committed, expected) in [
                (5, Begin::Committed(5)),
                (9, Begin::Committed(9)),
                (20, Begin::Committed(20)),
                (4, Begin::Lost { low: 5 }),
                (0, Begin::Lost { low: 5 }),
                (21, Begin::Beyond { high: 20 }),
            ] {
                assert_eq!(
                    decide(start, Some(committed), 5, 20),
                    expected,
                    "{start:?} {committed}"
                );
            }
        }
        assert_eq!(decide(Start::Earliest, None, 5, 20), Begin::Earliest(5));
        assert_eq!(decide(Start::Latest, None, 5, 20), Begin::Latest(20));
    }
}
