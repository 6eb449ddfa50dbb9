//! Where a newly assigned partition begins: the committed offset, or what `start` says.
//!
//! librdkafka's own reset is `error`, because it resets without a word: a committed offset that the
//! broker no longer has would silently become the newest or the oldest one.
//!
//! `latest` is a moment and not a property of a partition: the first member that finds nothing committed
//! of a topic commits the ends of all its partitions. A partition without an offset was added later, all
//! its records came after the moment, and it begins with the oldest. Invariant: nothing is skipped of a
//! topic of which the group has committed anything.

use std::collections::BTreeSet;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::metadata::MetadataTopic;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

use super::config::Start;
use super::shared::list;
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
    Oldest(i64),
    /// The broker deleted records that were never read; the oldest record that is left.
    Lost { low: i64 },
    /// The group stood behind the end: the topic was recreated, or its tail was lost.
    Beyond { high: i64 },
}

/// `low` is the first offset that the broker still has, `high` the one that the next record gets.
fn decide(committed: Option<i64>, low: i64, high: i64) -> Begin {
    match committed {
        Some(offset) if offset < low => Begin::Lost { low },
        Some(offset) if offset > high => Begin::Beyond { high },
        Some(offset) => Begin::Committed(offset),
        None => Begin::Oldest(low),
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
    let broker = Broker { consumer, limit };
    let mut committed = broker.committed(partitions)?;
    if start == Start::Latest {
        let unknown = committed.iter().filter(|at| at.offset.is_none());
        let topics: BTreeSet<&str> = unknown.map(|at| at.topic.as_str()).collect();
        for topic in &topics {
            broker.meet(source, topic)?;
        }
        if !topics.is_empty() {
            committed = broker.committed(partitions)?;
        }
    }
    committed
        .into_iter()
        .map(|at| {
            let (low, high) = broker.watermarks(&at.topic, at.partition)?;
            let begin = decide(at.offset, low, high);
            let offset = announce(begin, source, &at)?;
            Ok(Position {
                topic: at.topic,
                partition: at.partition,
                offset,
            })
        })
        .collect()
}

/// How far the group has come in a partition.
struct Stand {
    topic: String,
    partition: i32,
    offset: Option<i64>,
}

/// Questions about offsets. The lists that the client returns must be gone before the consumer is
/// dropped, or it waits for ever; they live no longer than a question.
struct Broker<'a, C: ConsumerContext> {
    consumer: &'a BaseConsumer<C>,
    limit: Span,
}

impl<C: ConsumerContext> Broker<'_, C> {
    fn committed(&self, partitions: &TopicPartitionList) -> Result<Vec<Stand>, SourceError> {
        let asked =
            |cause| SourceError::new("cannot read the group's committed offsets").because(cause);
        let committed = self
            .consumer
            .committed_offsets(partitions.clone(), self.limit.0)
            .map_err(asked)?;
        let stand = |element: &TopicPartitionListElem<'_>| {
            element.error().map_err(asked)?;
            Ok(Stand {
                topic: element.topic().to_owned(),
                partition: element.partition(),
                offset: match element.offset() {
                    Offset::Offset(offset) => Some(offset),
                    _ => None,
                },
            })
        };
        committed.elements().iter().map(stand).collect()
    }

    fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), SourceError> {
        let asked = |cause| {
            SourceError::new(format!("cannot read the bounds of {topic}/{partition}"))
                .because(cause)
        };
        self.consumer
            .fetch_watermarks(topic, partition, self.limit.0)
            .map_err(asked)
    }

    /// Every partition of a topic, whoever has it.
    fn all(&self, topic: &str) -> Result<TopicPartitionList, SourceError> {
        let asked = |cause| {
            SourceError::new(format!("cannot read the partitions of {topic}")).because(cause)
        };
        let metadata = self
            .consumer
            .fetch_metadata(Some(topic), self.limit.0)
            .map_err(asked)?;
        let mut all = TopicPartitionList::new();
        for partition in metadata.topics().iter().flat_map(MetadataTopic::partitions) {
            all.add_partition(topic, partition.id());
        }
        Ok(all)
    }

    /// Commits where the topic ends now, if the group has committed nothing of it yet.
    ///
    /// A member that does so at the same moment commits ends that are as good.
    fn meet(&self, source: &str, topic: &str) -> Result<(), SourceError> {
        let stands = self.committed(&self.all(topic)?)?;
        if stands.iter().any(|at| at.offset.is_some()) {
            return Ok(());
        }
        let mut ends = Vec::with_capacity(stands.len());
        for at in stands {
            let (_, high) = self.watermarks(topic, at.partition)?;
            ends.push(Position {
                topic: at.topic,
                partition: at.partition,
                offset: high,
            });
        }
        list(&ends)
            .and_then(|ends| self.consumer.commit(&ends, CommitMode::Sync))
            .map_err(|cause| {
                SourceError::new("cannot commit where `start = \"latest\"` begins").because(cause)
            })?;
        metrics::kafka_skipped_to_end(source, topic);
        tracing::warn!(
            source,
            topic,
            partitions = ends.len(),
            "the group has committed nothing of this topic, or the broker has forgotten what it committed: \
             `start = \"latest\"` skips every record that is there"
        );
        Ok(())
    }
}

/// Says where the partition begins, loudly if records are lost.
fn announce(begin: Begin, source: &str, at: &Stand) -> Result<i64, SourceError> {
    let (topic, partition) = (at.topic.as_str(), at.partition);
    let committed = at.offset.unwrap_or_default();
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
        Begin::Oldest(offset) => {
            metrics::kafka_partition_met(source, topic);
            tracing::info!(
                source,
                topic,
                partition,
                offset,
                "nothing is committed of this partition: begins with the oldest record"
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
    fn a_partition_begins_where_the_group_stood_unless_the_broker_does_not_have_that() {
        for (committed, expected) in [
            (Some(5), Begin::Committed(5)),
            (Some(9), Begin::Committed(9)),
            (Some(20), Begin::Committed(20)),
            (Some(4), Begin::Lost { low: 5 }),
            (Some(0), Begin::Lost { low: 5 }),
            (Some(21), Begin::Beyond { high: 20 }),
            (None, Begin::Oldest(5)),
        ] {
            assert_eq!(decide(committed, 5, 20), expected, "{committed:?}");
        }
    }
}
