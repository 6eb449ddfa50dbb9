//! Questions to the broker about offsets, on the thread that polls.

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::metadata::MetadataTopic;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

use super::{Position, since_from_metadata};
use crate::metrics;
use crate::source::SourceError;
use crate::source::kafka::shared::list;
use crate::units::Span;

/// How far the group has come in a partition.
pub(super) struct Stand {
    pub topic: String,
    pub partition: i32,
    pub offset: Option<i64>,
    /// Where the inbox's position began, as whoever committed the offset said.
    pub since: Option<i64>,
}

/// Questions about offsets. The lists that the client returns must be gone before the consumer is
/// dropped, or it waits for ever; they live no longer than a question.
pub(super) struct Broker<'a, C: ConsumerContext> {
    pub consumer: &'a BaseConsumer<C>,
    pub limit: Span,
}

impl<C: ConsumerContext> Broker<'_, C> {
    pub(super) fn committed(
        &self,
        partitions: &TopicPartitionList,
    ) -> Result<Vec<Stand>, SourceError> {
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
                since: since_from_metadata(element.metadata()),
            })
        };
        committed.elements().iter().map(stand).collect()
    }

    pub(super) fn watermarks(
        &self,
        topic: &str,
        partition: i32,
    ) -> Result<(i64, i64), SourceError> {
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
    pub(super) fn meet(&self, source: &str, topic: &str) -> Result<(), SourceError> {
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
                since: None,
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
