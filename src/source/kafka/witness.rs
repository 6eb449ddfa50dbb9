//! Reads single records to know them again: a topic that was deleted and made again has others in their place.
//!
//! With a client of its own that joins no group, because the group's client must not fetch before it is
//! decided where it begins; and on a thread of its own, because a client answers and closes in its own time,
//! and the group waits for whoever asks here. Invariant: who asks has an answer within a limit.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, TryRecvError};
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

/// The time of each record, by topic and partition.
pub(super) type Times = BTreeMap<(String, i32), Mark>;

/// A look that is under way.
pub(super) struct Asked {
    answered: mpsc::Receiver<Result<Times, SourceError>>,
    patience: Duration,
    until: Instant,
}

impl Asked {
    /// The answer, if it is there or will not come any more. Does not block.
    pub(super) fn answer(&self, now: Instant) -> Option<Result<Times, SourceError>> {
        match self.answered.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty) if now < self.until => None,
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => Some(Err(self.unanswered())),
        }
    }

    fn unanswered(&self) -> SourceError {
        let patience = humantime::format_duration(self.patience);
        SourceError::new(format!(
            "the client that looks at single records did not answer within {patience}"
        ))
    }
}

/// The times of these records, one record of a partition. One that is gone, or has no
/// time, is missing. Blocks.
pub(super) fn times(
    client: &ClientConfig,
    wanted: &[Wanted],
    limit: Span,
) -> Result<Times, SourceError> {
    if wanted.is_empty() {
        return Ok(Times::new());
    }
    let asked = ask(client, wanted, limit)?;
    let answer = asked.answered.recv_timeout(asked.patience);
    answer.unwrap_or_else(|_| Err(asked.unanswered()))
}

/// The same without waiting.
pub(super) fn ask(
    client: &ClientConfig,
    wanted: &[Wanted],
    limit: Span,
) -> Result<Asked, SourceError> {
    let mut by_topic: BTreeMap<String, BTreeMap<i32, i64>> = BTreeMap::new();
    for at in wanted {
        let offsets = by_topic.entry(at.topic.clone()).or_default();
        offsets.insert(at.partition, at.offset);
    }
    let topics = u32::try_from(by_topic.len()).unwrap_or(u32::MAX);
    let patience = limit.0.saturating_mul(topics.saturating_add(1));
    let (answer, answered) = mpsc::channel();
    let client = client.clone();
    std::thread::Builder::new()
        .name("kafka-witness".to_owned())
        .spawn(move || look(client, by_topic, limit, &answer))
        .map_err(|cause| SourceError::new("cannot start a thread").because(cause))?;
    Ok(Asked {
        answered,
        patience,
        until: Instant::now() + patience,
    })
}

/// Answers before the client is dropped, which blocks until it has closed.
fn look(
    mut client: ClientConfig,
    by_topic: BTreeMap<String, BTreeMap<i32, i64>>,
    limit: Span,
    answer: &mpsc::Sender<Result<Times, SourceError>>,
) {
    client
        .set("enable.partition.eof", "true")
        .set("queued.min.messages", "1")
        .set("fetch.message.max.bytes", "65536")
        // The least that it takes. The one batch that a record stands in comes all the same.
        .set("fetch.max.bytes", "1000000")
        .set("statistics.interval.ms", "0")
        .remove("group.instance.id");
    let consumer: BaseConsumer = match client.create() {
        Ok(consumer) => consumer,
        Err(cause) => {
            let _ = answer.send(Err(asked(cause)));
            return;
        }
    };
    let _ = answer.send(of_topics(&consumer, by_topic, limit));
}

fn of_topics(
    consumer: &BaseConsumer,
    by_topic: BTreeMap<String, BTreeMap<i32, i64>>,
    limit: Span,
) -> Result<Times, SourceError> {
    let mut found = Times::new();
    // One topic after the other: the client tells the end of a partition by its number alone.
    for (topic, offsets) in by_topic {
        for (partition, mark) in of_topic(consumer, &topic, offsets, limit)? {
            found.insert((topic.clone(), partition), mark);
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
