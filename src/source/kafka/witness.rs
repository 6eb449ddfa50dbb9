//! Reads single records to know them again: a topic that was deleted and made again has others in their place.
//!
//! With a client of its own that joins no group, because the group's client must not fetch before it is
//! decided where it begins, and goes on from there; and on a thread of its own, because a client answers and closes
//! in its own time, and whoever asks here is the polling thread. Invariant: who asks has an answer within a limit.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};

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

/// Records that stand in their places, by topic and partition.
pub(super) type Records = BTreeMap<(String, i32), Vec<Mark>>;

/// What came of a look. A record that is gone, or has no time, was not seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub records: Records,
    /// Why some could not be looked at.
    pub failure: Option<SourceError>,
}

/// A look that is under way.
pub(super) struct Look {
    answered: mpsc::Receiver<Seen>,
    patience: Duration,
    until: Instant,
    thread: JoinHandle<()>,
}

impl Look {
    /// The answer, if it is there or will not come any more. Does not block.
    pub(super) fn answer(&self, now: Instant) -> Option<Seen> {
        match self.answered.try_recv() {
            Ok(seen) => Some(seen),
            Err(TryRecvError::Empty) if now < self.until => None,
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => Some(self.unanswered()),
        }
    }

    /// Whether its client is closed, too.
    pub(super) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    fn wait(&self) -> Seen {
        let answer = self.answered.recv_timeout(self.patience);
        answer.unwrap_or_else(|_| self.unanswered())
    }

    fn unanswered(&self) -> Seen {
        let patience = humantime::format_duration(self.patience);
        let what =
            format!("the client that looks at single records did not answer within {patience}");
        Seen {
            failure: Some(SourceError::new(what)),
            ..Seen::default()
        }
    }
}

/// Those of these records that are there. Blocks.
///
/// # Errors
/// Not all could be looked at.
pub(super) fn records(
    client: &ClientConfig,
    wanted: &[Wanted],
    limit: Span,
) -> Result<Records, SourceError> {
    if wanted.is_empty() {
        return Ok(Records::new());
    }
    let seen = look(client, wanted, limit)?.wait();
    seen.failure.map_or(Ok(seen.records), Err)
}

/// Begins a look at these records.
///
/// # Errors
/// The thread's.
pub(super) fn look(
    client: &ClientConfig,
    wanted: &[Wanted],
    limit: Span,
) -> Result<Look, SourceError> {
    let rounds = rounds(wanted);
    let count = u32::try_from(rounds.len()).unwrap_or(u32::MAX);
    let patience = limit.0.saturating_mul(count.saturating_add(1));
    let (answer, answered) = mpsc::channel();
    let client = client.clone();
    let thread = std::thread::Builder::new()
        .name("kafka-witness".to_owned())
        .spawn(move || go_through(client, rounds, limit, &answer))
        .map_err(|cause| SourceError::new("cannot start a thread").because(cause))?;
    Ok(Look {
        answered,
        patience,
        until: Instant::now() + patience,
        thread,
    })
}

/// One record of each partition of one topic: the client tells the end of a partition by its number alone.
struct Round {
    topic: String,
    offsets: BTreeMap<i32, i64>,
}

fn rounds(wanted: &[Wanted]) -> Vec<Round> {
    let mut rounds: Vec<Round> = Vec::new();
    for at in wanted {
        let is_wanted = |round: &Round| {
            round.topic == at.topic && round.offsets.get(&at.partition) == Some(&at.offset)
        };
        if rounds.iter().any(is_wanted) {
            continue;
        }
        let has_room = |round: &&mut Round| {
            round.topic == at.topic && !round.offsets.contains_key(&at.partition)
        };
        match rounds.iter_mut().find(has_room) {
            Some(round) => {
                round.offsets.insert(at.partition, at.offset);
            }
            None => rounds.push(Round {
                topic: at.topic.clone(),
                offsets: BTreeMap::from([(at.partition, at.offset)]),
            }),
        }
    }
    rounds
}

/// Answers before the client is dropped, which blocks until it has closed.
fn go_through(
    mut client: ClientConfig,
    rounds: Vec<Round>,
    limit: Span,
    answer: &mpsc::Sender<Seen>,
) {
    client
        .set("enable.partition.eof", "true")
        // A record that is gone by its retention: another comes, and tells so by its offset.
        .set("auto.offset.reset", "earliest")
        .set("queued.min.messages", "1")
        // A partition is asked for one record after the other, and one that has none says so soon.
        .set("fetch.queue.backoff.ms", "0")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.message.max.bytes", "65536")
        // The least that it takes. The one batch that a record stands in comes all the same.
        .set("fetch.max.bytes", "1000000")
        .set("statistics.interval.ms", "0")
        .remove("group.instance.id");
    let consumer = client.create_with_context(Quiet);
    let mut seen = Seen::default();
    match &consumer {
        Ok(consumer) => {
            for round in rounds {
                if let Err(error) = round.go(consumer, limit, &mut seen.records) {
                    seen.failure.get_or_insert(error);
                }
            }
        }
        Err(cause) => seen.failure = Some(cannot_look(cause.clone())),
    }
    // Nobody waits any more where the stream is over.
    let _ = answer.send(seen);
}

fn cannot_look(cause: KafkaError) -> SourceError {
    SourceError::new("cannot look at single records").because(cause)
}

/// What goes wrong comes with the answer.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, line: &str) {
        tracing::debug!(target: "librdkafka", facility, "{line}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ConsumerContext for Quiet {}

impl Round {
    fn go(
        self,
        consumer: &BaseConsumer<Quiet>,
        limit: Span,
        found: &mut Records,
    ) -> Result<(), SourceError> {
        let Self {
            topic,
            offsets: mut open,
        } = self;
        let mut list = TopicPartitionList::new();
        for (&partition, &offset) in &open {
            list.add_partition_offset(&topic, partition, Offset::Offset(offset))
                .map_err(cannot_look)?;
        }
        consumer.assign(&list).map_err(cannot_look)?;
        // Of an earlier round.
        consumer.resume(&list).map_err(cannot_look)?;
        let until = Instant::now() + limit.0;
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
                    let (partition, offset) = (record.partition(), record.offset());
                    if open.get(&partition) == Some(&offset) {
                        let mark = Mark::of(Some(offset), record.timestamp().to_millis());
                        let records = found.entry((topic.clone(), partition)).or_default();
                        records.extend(mark);
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
                done.add_partition(&topic, seen);
                consumer.pause(&done).map_err(cannot_look)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_has_one_record_of_each_partition_of_one_topic() {
        let wanted = [
            ("a", 0, 5),
            ("a", 1, 5),
            ("b", 0, 5),
            ("a", 0, 9),
            ("a", 1, 5),
        ];
        let wanted = wanted.map(|(topic, partition, offset)| Wanted {
            topic: topic.to_owned(),
            partition,
            offset,
        });
        let rounds = rounds(&wanted);
        let told: Vec<_> = rounds
            .iter()
            .map(|round| {
                (
                    &*round.topic,
                    round.offsets.iter().map(|(p, o)| (*p, *o)).collect(),
                )
            })
            .collect();
        let expected: [(&str, Vec<(i32, i64)>); 3] = [
            ("a", vec![(0, 5), (1, 5)]),
            ("b", vec![(0, 5)]),
            ("a", vec![(0, 9)]),
        ];
        assert_eq!(told, expected);
    }
}
