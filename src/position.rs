//! How far a consumer group has come in a partition, as the inbox keeps it beside the rows: plain words that the
//! sources, the intake and the inbox share, so that neither side knows the other.
//!
//! A database that is restored or fails over to an older state has lost rows whose records are
//! acknowledged. Because the position is lost with them, it says where to read again. The rules stand as a
//! model in `tests/it/model/positions.rs`.
//! Invariant: what a position counts as stored was written in the transaction that counted it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

/// Whose position: the group's, in a partition of its cluster. Which source of the configuration reads it may
/// change, and is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The broker's own id of the cluster; empty where it has none.
    pub cluster_id: String,
    pub group_id: String,
    pub topic: String,
    pub number: i32,
    /// As in `[sources.NAME]`; last, so that it says nothing in the order in which positions are locked.
    pub source: String,
}

/// A record by which a topic is known: one that was deleted and made again has another in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub offset: i64,
    /// Milliseconds since 1970, as the record says.
    pub at_ms: i64,
}

impl Mark {
    pub fn of(offset: Option<i64>, at_ms: Option<i64>) -> Option<Self> {
        let (offset, at_ms) = (offset?, at_ms?);
        Some(Self { offset, at_ms })
    }

    /// Whether `seen` stands in its place, and is another.
    pub fn is_replaced_by(self, seen: Self) -> bool {
        seen.offset == self.offset && seen != self
    }
}

/// What the inbox keeps of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Every record below it is stored.
    pub next: i64,
    /// Where the position began; a broker's offset that says so misses a position that is gone.
    pub since: i64,
    /// The highest record that was counted: it tells a partition that has lost its end.
    pub highest: Option<Mark>,
    /// A record of the topic that the position is about: it tells a topic that was made again. Under a reader
    /// that goes on, the highest one may be of the new topic; so the anchor gives way to a later record only after
    /// it was seen in its place when that one had come already.
    pub anchor: Option<Mark>,
    /// Raised by every claim.
    pub epoch: i64,
}

impl Stored {
    /// The records that must be in their places, if they are still there.
    pub fn marks(&self) -> impl Iterator<Item = Mark> {
        self.highest.into_iter().chain(self.anchor)
    }
}

/// Where a position begins that is missing, or is about other records.
#[derive(Debug, Clone)]
pub struct Beginning {
    pub partition: Partition,
    pub claim: Uuid,
    pub at: i64,
    /// The record before it, if it is there.
    pub mark: Option<Mark>,
}

/// Who holds a position now, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub claim: Uuid,
    pub epoch: i64,
    pub next: i64,
}

/// The right to advance a position: one assignment of a partition, fenced by an id that is never used again.
#[derive(Debug)]
pub struct Claim {
    pub id: Uuid,
    pub epoch: i64,
    pub partition: Partition,
    /// How far the position was when it was claimed.
    stored: i64,
    /// What this assignment knows to be committed, from where it began to read.
    committed: Mutex<Covered>,
    anchor: Mutex<Option<Mark>>,
}

impl Claim {
    /// `begin`: the first offset that is read, at most `stored`. `anchor`: a record of the topic.
    pub fn new(
        id: Uuid,
        epoch: i64,
        partition: Partition,
        stored: i64,
        begin: i64,
        anchor: Option<Mark>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            epoch,
            partition,
            stored,
            committed: Mutex::new(Covered::upto(begin)),
            anchor: Mutex::new(anchor),
        })
    }

    /// What the topic is known by, if anything that has a time has come.
    pub fn anchor(&self) -> Option<Mark> {
        *self.lock_anchor()
    }

    /// The first record of this assignment came; where nothing was known of the topic, this is.
    pub fn meet(&self, first: Mark) {
        self.lock_anchor().get_or_insert(first);
    }

    /// The anchor was seen in its place after this record had come.
    pub fn move_anchor(&self, later: Mark) {
        *self.lock_anchor() = Some(later);
    }

    fn lock_anchor(&self) -> MutexGuard<'_, Option<Mark>> {
        self.anchor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything below this was committed; a database that says less has lost commits.
    pub fn known(&self) -> i64 {
        self.stored.max(self.committed().next())
    }

    /// A transaction that holds these is committed.
    pub fn commit(&self, offsets: Range<i64>) {
        self.committed().add(offsets);
    }

    fn committed(&self) -> MutexGuard<'_, Covered> {
        self.committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What is found in the place of the position; `None` is nothing. `known`: what was known before the look,
    /// because a commit may come in between.
    pub fn judge(&self, known: i64, found: Option<&Standing>) -> Held {
        match found {
            Some(found) if found.claim == self.id && found.next >= known => Held::Ours,
            Some(found) if found.claim != self.id && found.epoch >= self.epoch => Held::Taken,
            _ => Held::Behind,
        }
    }
}

/// What became of a position since it was claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    Ours,
    /// Another assignment has claimed it; nothing is lost, and nothing of it is ours.
    Taken,
    /// The database is older than what it has acknowledged.
    Behind,
}

/// What one delivery adds to its partition's position.
#[derive(Debug, Clone)]
pub struct Step {
    pub claim: Arc<Claim>,
    /// From behind the delivery before it: offsets in between hold no record for us.
    pub offsets: Range<i64>,
    /// The record's own time, if it has one.
    pub at_ms: Option<i64>,
    /// Its offset was acknowledged before, and the database had lost it.
    pub again: bool,
}

/// All that one transaction adds to one position.
#[derive(Debug, Clone)]
pub struct Advance {
    pub claim: Uuid,
    /// Rising, and without overlap.
    pub offsets: Vec<Range<i64>>,
    /// The highest of these records that has a time.
    pub highest: Option<Mark>,
    /// What its topic is known by.
    pub anchor: Option<Mark>,
}

impl Advance {
    /// One for each claim, by its id.
    pub fn of<'a>(steps: impl IntoIterator<Item = &'a Step>) -> Vec<Self> {
        let mut by_claim: BTreeMap<Uuid, Vec<&Step>> = BTreeMap::new();
        for step in steps {
            by_claim.entry(step.claim.id).or_default().push(step);
        }
        let advance = |(claim, steps): (Uuid, Vec<&Step>)| {
            let mut covered = Covered::upto(i64::MIN);
            for step in &steps {
                covered.add(step.offsets.clone());
            }
            let mark = |step: &&Step| Mark::of(Some(step.offsets.end - 1), step.at_ms);
            let marks = steps.iter().filter_map(mark);
            Self {
                claim,
                offsets: covered.ahead().collect(),
                highest: marks.max_by_key(|mark| mark.offset),
                anchor: steps.first().and_then(|step| step.claim.anchor()),
            }
        };
        by_claim.into_iter().map(advance).collect()
    }
}

/// Offsets that are stored: all below `next`, and ranges beyond it.
///
/// Batches commit in any order, so there may be gaps for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covered {
    next: i64,
    /// End by beginning; neither touching nor overlapping each other or `next`.
    ahead: BTreeMap<i64, i64>,
}

impl Covered {
    pub fn upto(next: i64) -> Self {
        Self {
            next,
            ahead: BTreeMap::new(),
        }
    }

    pub fn next(&self) -> i64 {
        self.next
    }

    /// What stands beyond the first gap, rising.
    pub fn ahead(&self) -> impl Iterator<Item = Range<i64>> {
        self.ahead.iter().map(|(&from, &to)| from..to)
    }

    pub fn add(&mut self, offsets: Range<i64>) {
        let Range { mut start, mut end } = offsets;
        if start >= end {
            return;
        }
        // What touches it becomes one range with it.
        while let Some((&from, &to)) = self.ahead.range(..=end).next_back() {
            if to < start {
                break;
            }
            (start, end) = (start.min(from), end.max(to));
            self.ahead.remove(&from);
        }
        if start <= self.next {
            self.next = self.next.max(end);
        } else {
            self.ahead.insert(start, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn partition() -> Partition {
        Partition {
            cluster_id: "c".to_owned(),
            group_id: "g".to_owned(),
            source: "s".to_owned(),
            topic: "t".to_owned(),
            number: 0,
        }
    }

    #[test]
    fn a_gap_that_is_closed_takes_what_stands_beyond_it_along() {
        let mut covered = Covered::upto(5);
        covered.add(10..20);
        covered.add(7..9);
        assert_eq!(covered.next(), 5);
        assert_eq!(covered.ahead().collect::<Vec<_>>(), [7..9, 10..20]);
        covered.add(5..7);
        assert_eq!(covered.next(), 9);
        covered.add(9..10);
        assert_eq!(covered, Covered::upto(20));
    }

    proptest! {
        /// In whatever order and with whatever overlap ranges come: it is the set of their offsets.
        #[test]
        fn it_is_the_set_of_all_that_was_added(
            ranges in prop::collection::vec((0..60_i64, 0..8_i64), 0..30)
        ) {
            let mut covered = Covered::upto(3);
            let mut all: BTreeSet<i64> = (0..3).collect();
            for (from, length) in ranges {
                covered.add(from..from + length);
                all.extend(from..from + length);
            }
            let next = (0..99).find(|offset| !all.contains(offset)).expect("offsets are small");
            prop_assert_eq!(covered.next(), next);
            let ahead: BTreeSet<i64> = covered.ahead().flatten().collect();
            prop_assert_eq!(ahead, all.range(next..).copied().collect::<BTreeSet<_>>());
            let ranges: Vec<_> = covered.ahead().collect();
            prop_assert!(ranges.windows(2).all(|two| two[0].end < two[1].start), "{:?}", ranges);
        }
    }

    #[test]
    fn a_claim_tells_a_loss_from_another_assignment() {
        let claim = Claim::new(Uuid::from_u128(1), 5, partition(), 100, 80, None);
        let judged = |claim: &Claim, id, epoch, next| {
            let claimed = Uuid::from_u128(id);
            let standing = Standing {
                claim: claimed,
                epoch,
                next,
            };
            claim.judge(claim.known(), Some(&standing))
        };
        assert_eq!(judged(&claim, 1, 5, 100), Held::Ours);
        assert_eq!(judged(&claim, 1, 5, 99), Held::Behind);
        assert_eq!(judged(&claim, 2, 6, 100), Held::Taken);
        assert_eq!(judged(&claim, 2, 4, 100), Held::Behind);
        assert_eq!(claim.judge(0, None), Held::Behind);
        claim.commit(110..120);
        assert_eq!(claim.known(), 100, "what it began behind is stored already");
        claim.commit(80..110);
        assert_eq!(judged(&claim, 1, 5, 119), Held::Behind);
        assert_eq!(judged(&claim, 1, 5, 120), Held::Ours);
    }

    #[test]
    fn the_steps_of_a_transaction_are_one_advance_for_each_claim() {
        let claims = [1, 2].map(|id| Claim::new(Uuid::from_u128(id), 1, partition(), 0, 0, None));
        let mark = |offset| Mark {
            offset,
            at_ms: (offset + 1) * 10,
        };
        claims[0].meet(mark(0));
        claims[0].meet(mark(1));
        let step = |claim: usize, offsets: Range<i64>| Step {
            claim: Arc::clone(&claims[claim]),
            at_ms: Some(offsets.end * 10),
            offsets,
            again: false,
        };
        let steps = [step(0, 0..1), step(1, 4..5), step(0, 1..6), step(0, 8..9)];
        let advances = Advance::of(&steps);
        assert_eq!(advances.len(), 2);
        assert_eq!(advances[0].offsets, [0..6, 8..9]);
        assert_eq!(advances[0].highest, Some(mark(8)));
        assert_eq!(advances[0].anchor, Some(mark(0)), "the first that came");
        claims[0].move_anchor(mark(8));
        assert_eq!(Advance::of(&steps)[0].anchor, Some(mark(8)));
        assert_eq!(advances[1].offsets.first(), Some(&(4..5)));
    }
}
