//! Where a newly assigned partition begins: where the inbox and the group agree that everything is stored,
//! or what `start` says.
//!
//! librdkafka's own reset is `error`, because it resets without a word: a committed offset that the
//! broker no longer has would silently become the newest or the oldest one.
//!
//! `latest` is a moment and not a property of a partition: the first member that finds nothing committed
//! of a topic commits the ends of all its partitions. A partition without an offset was added later, all
//! its records came after the moment, and it begins with the oldest.
//!
//! The position is taken before anything is decided, so that no batch of an earlier assignment changes what
//! was read. Invariants: nothing is skipped of a topic of which the group has committed anything, and nothing
//! that the inbox does not know to be stored.

mod broker;
mod decide;

use std::collections::BTreeSet;
use std::sync::Arc;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use uuid::Uuid;

use super::config::Start;
use super::ledger::Ledger;
use super::witness::{self, Records, Wanted};
use crate::position::{self, Claim, Stored};
use crate::source::SourceError;
use crate::units::Span;
use broker::{Broker, Stand};
use decide::{Begin, Bounds, Known, announce, decide};

/// A partition and the offset of the record that comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// Where the inbox's position of this partition began, where it keeps one.
    pub since: Option<i64>,
}

/// An assigned partition, and what it begins with.
#[derive(Debug)]
pub(super) struct Opening {
    pub at: Position,
    pub claim: Option<Arc<Claim>>,
    /// What stands below was acknowledged before, and the database had lost it.
    pub again_below: i64,
    /// The broker has no offset of the group, and is to be told where it stands.
    pub is_forgotten: bool,
}

/// What stands beside a committed offset: with it a position that is missing is missed.
const SINCE: &str = "sluice positions since ";

pub(super) fn since_to_metadata(since: i64) -> String {
    format!("{SINCE}{since}")
}

fn since_from_metadata(metadata: &str) -> Option<i64> {
    metadata.strip_prefix(SINCE)?.parse().ok()
}

/// What decides where a partition begins.
pub(super) struct Begins<'a> {
    pub source: &'a str,
    pub start: Start,
    /// How long one question to the broker may take.
    pub limit: Span,
    pub ledger: Option<&'a Ledger>,
}

/// Everything that is known of one partition.
struct Found {
    stand: Stand,
    /// What it was claimed by, where the inbox keeps positions.
    claim: Option<(position::Partition, Uuid)>,
    stored: Option<Stored>,
    bounds: Bounds,
}

impl Begins<'_> {
    /// Asks the inbox and the broker about every partition of the list. Blocks, on the thread that polls.
    pub(super) fn resolve<C: ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        partitions: &TopicPartitionList,
    ) -> Result<Vec<Opening>, SourceError> {
        let broker = Broker {
            consumer,
            limit: self.limit,
        };
        let mut stands = broker.committed(partitions)?;
        let claims = self.claims(consumer, &stands)?;
        let stored = match self.ledger {
            Some(ledger) => ledger.claim(&claims)?,
            None => vec![None; stands.len()],
        };
        if self.start == Start::Latest && self.skip_to_end(&broker, &stands, &stored)? {
            stands = broker.committed(partitions)?;
        }
        let mut claims = claims.into_iter();
        let mut found = Vec::with_capacity(stands.len());
        for (stand, stored) in stands.into_iter().zip(stored) {
            let (low, high) = broker.watermarks(&stand.topic, stand.partition)?;
            found.push(Found {
                stand,
                claim: claims.next(),
                stored,
                bounds: Bounds { low, high },
            });
        }
        let seen = match self.ledger {
            Some(ledger) => witness::records(&ledger.client, &wanted(&found), self.limit)?,
            None => Records::new(),
        };
        self.open(found, &seen)
    }

    /// A fresh claim for each partition, where the inbox keeps positions.
    fn claims<C: ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        stands: &[Stand],
    ) -> Result<Vec<(position::Partition, Uuid)>, SourceError> {
        let Some(ledger) = self.ledger else {
            return Ok(Vec::new());
        };
        let cluster = consumer.client().fetch_cluster_id(self.limit.0);
        let cluster =
            cluster.ok_or_else(|| SourceError::new("the broker does not say its cluster's id"))?;
        let claim = |at: &Stand| {
            let partition = ledger.partition(&cluster, &at.topic, at.partition);
            (partition, Uuid::now_v7())
        };
        Ok(stands.iter().map(claim).collect())
    }

    /// `start = "latest"`: commits the ends of topics that neither the group nor the inbox knows.
    fn skip_to_end<C: ConsumerContext>(
        &self,
        broker: &Broker<'_, C>,
        stands: &[Stand],
        stored: &[Option<Stored>],
    ) -> Result<bool, SourceError> {
        let at = || stands.iter().zip(stored);
        let known: BTreeSet<&str> = at()
            .filter(|(_, stored)| stored.is_some())
            .map(|(at, _)| at.topic.as_str())
            .collect();
        let unknown: BTreeSet<&str> = at()
            .filter(|(at, stored)| at.offset.is_none() && stored.is_none())
            .map(|(at, _)| at.topic.as_str())
            .collect();
        for topic in unknown.difference(&known) {
            broker.meet(self.source, topic)?;
        }
        Ok(!unknown.is_empty())
    }

    /// Decides, says so, and begins the positions that are missing or about other records.
    fn open(&self, found: Vec<Found>, records: &Records) -> Result<Vec<Opening>, SourceError> {
        let mut openings = Vec::with_capacity(found.len());
        let (mut anew, mut beginnings) = (Vec::new(), Vec::new());
        for Found {
            stand,
            claim,
            stored,
            bounds,
        } in found
        {
            let seen = records.get(&(stand.topic.clone(), stand.partition));
            let seen = seen.map_or(&[][..], Vec::as_slice);
            let known = stored.map(|stored| Known::of(stored, seen, bounds));
            let begin = decide(stand.offset, stand.since, known, bounds);
            let offset = announce(begin, self.source, &stand, bounds)?;
            let kept = stored.filter(|stored| begin.keeps_position(*stored));
            let since = claim
                .as_ref()
                .map(|_| kept.map_or(offset, |stored| stored.since));
            let claim = claim.and_then(|(partition, claim)| {
                if let Some(kept) = kept {
                    let (epoch, next) = (kept.epoch, kept.next);
                    let anchor = kept.anchor.or(kept.highest);
                    return Some(Claim::new(claim, epoch, partition, next, offset, anchor));
                }
                anew.push(openings.len());
                beginnings.push(position::Beginning {
                    partition,
                    claim,
                    at: offset,
                    // Of the record before it, where that is what was looked at.
                    mark: seen.iter().find(|seen| seen.offset + 1 == offset).copied(),
                });
                None
            });
            openings.push(Opening {
                at: Position {
                    topic: stand.topic,
                    partition: stand.partition,
                    offset,
                    since,
                },
                claim,
                again_below: begin.again_below(),
                is_forgotten: matches!(begin, Begin::Stored(_)),
            });
        }
        if let Some(ledger) = self.ledger {
            let epochs = ledger.begin(&beginnings)?;
            for ((index, begun), epoch) in anew.into_iter().zip(beginnings).zip(epochs) {
                let at = begun.at;
                let claim = Claim::new(begun.claim, epoch, begun.partition, at, at, begun.mark);
                openings[index].claim = Some(claim);
            }
        }
        Ok(openings)
    }
}

/// The records that tell whether these are the ones that the inbox knows: its own marks, or the one before the
/// position that is about to begin.
fn wanted(found: &[Found]) -> Vec<Wanted> {
    found.iter().flat_map(wanted_of).collect()
}

fn wanted_of(found: &Found) -> Vec<Wanted> {
    let Stand { offset, since, .. } = found.stand;
    let offsets: Vec<i64> = match found.stored {
        Some(stored) => stored.marks().map(|mark| mark.offset).collect(),
        None => offset.into_iter().chain(since).map(|at| at - 1).collect(),
    };
    let is_there = |offset: &i64| (found.bounds.low..found.bounds.high).contains(offset);
    let offsets = offsets.into_iter().filter(is_there);
    offsets
        .map(|offset| Wanted {
            topic: found.stand.topic.clone(),
            partition: found.stand.partition,
            offset,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_says_since_when_there_is_a_position() {
        assert_eq!(since_from_metadata(&since_to_metadata(42)), Some(42));
        assert_eq!(since_from_metadata(""), None);
        assert_eq!(since_from_metadata("somebody else's"), None);
    }
}
