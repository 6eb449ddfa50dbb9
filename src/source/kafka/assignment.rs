//! What this member of the group has: its partitions, the records that wait for the intake, and how far
//! each partition is finished.
//!
//! No broker and no clock. Invariant: nothing is buffered, handed out or committed of a
//! partition that is not assigned; an offset to commit is one behind a finished prefix.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::begin::{Opening, Position};
use crate::message::{Delivery, Envelope, Receipt};
use crate::position::{Claim, Mark, Step};
use crate::source::Limits;
use crate::source::prefix::{OutOfOrder, Tracker};

#[derive(Debug, Default)]
pub(super) struct Assignment {
    tracker: Tracker,
    /// The number of a partition's lane, by topic and partition. One that comes back gets its old
    /// number and a new incarnation.
    numbers: BTreeMap<String, BTreeMap<i32, u32>>,
    /// How many numbers are given.
    given: u32,
    /// The lanes of what is assigned.
    lanes: BTreeMap<u32, Lane>,
    /// Received, not yet taken by the intake.
    buffer: VecDeque<Delivery>,
    buffered_bytes: usize,
}

#[derive(Debug)]
struct Lane {
    topic: String,
    partition: i32,
    /// What a commit says now: one behind the finished prefix, or where the partition began.
    resume: i64,
    /// Behind the last record that was received, or where the partition began.
    next: i64,
    /// What the broker has confirmed, as far as we know.
    confirmed: i64,
    /// The right to count its records as stored, where the inbox keeps a position.
    claim: Option<Arc<Claim>>,
    /// Where that position began.
    since: Option<i64>,
    /// What stands below was acknowledged before, and the database had lost it.
    again_below: i64,
    /// The last record that came, if any came that has a time.
    latest: Option<Mark>,
    /// Received and thrown away: the tracker waits for them, the intake never had them.
    discarded: usize,
    /// Whether where the client says that it fetches was said since the partition began or was paused.
    fetches_here: bool,
}

/// What a topic is known by, and the record that had come last when somebody asked.
#[derive(Debug, Clone)]
pub(super) struct Anchored {
    pub claim: Arc<Claim>,
    pub anchor: Mark,
    pub latest: Option<Mark>,
}

impl Lane {
    fn position(&self) -> Position {
        Position {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.resume,
            since: self.since,
        }
    }

    /// What a record adds to the position: itself, and the offsets before it that hold nothing for us.
    fn step(&self, offset: i64, at_ms: Option<i64>) -> Option<Step> {
        self.claim.as_ref().map(|claim| Step {
            claim: Arc::clone(claim),
            offsets: self.next..offset.saturating_add(1),
            at_ms,
            again: offset < self.again_below,
        })
    }

    /// A record with a time came.
    fn saw(&mut self, record: Mark) {
        if let (None, Some(claim)) = (self.latest, &self.claim) {
            claim.meet(record);
        }
        self.latest = Some(record);
    }

    fn anchored(&self) -> Option<Anchored> {
        let claim = self.claim.as_ref()?;
        Some(Anchored {
            claim: Arc::clone(claim),
            anchor: claim.anchor()?,
            latest: self.latest,
        })
    }

    fn unconfirmed(&self) -> Option<Position> {
        (self.resume > self.confirmed).then(|| self.position())
    }
}

impl Assignment {
    /// A partition is assigned, and its next record is this one.
    pub(super) fn begin(&mut self, opening: Opening, incarnation: u64) {
        let at = opening.at;
        let given = &mut self.given;
        let partitions = self.numbers.entry(at.topic.clone()).or_default();
        let lane = *partitions.entry(at.partition).or_insert_with(|| {
            *given += 1;
            *given - 1
        });
        self.tracker.begin(lane, incarnation);
        let state = Lane {
            topic: at.topic,
            partition: at.partition,
            resume: at.offset,
            next: at.offset,
            confirmed: if opening.is_forgotten {
                i64::MIN
            } else {
                at.offset
            },
            claim: opening.claim,
            since: at.since,
            again_below: opening.again_below,
            latest: None,
            discarded: 0,
            fetches_here: false,
        };
        self.lanes.insert(lane, state);
    }

    /// How far a partition is read, for people alone: behind what is finished, or, when nothing of it is open,
    /// where the client fetches. Behind the last record may stand markers and aborted records, which nobody is
    /// given. `fetches`: only when the client has passed on all that it had fetched.
    pub(super) fn read_to(&mut self, at: &Position, fetches: Option<i64>) -> i64 {
        let Some(lane) = self.lane(&at.topic, at.partition) else {
            return at.offset;
        };
        let is_open = self.tracker.open(lane) > 0;
        let Some(state) = self.lanes.get_mut(&lane) else {
            return at.offset;
        };
        let fetches = fetches.filter(|_| state.fetches_here && !is_open);
        state.fetches_here = true;
        fetches.map_or(state.resume, |fetches| state.resume.max(fetches))
    }

    /// The client throws away what it has fetched ahead, and may still say for a moment that it is there.
    pub(super) fn fetches_anew(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.fetches_here = false;
        }
    }

    /// Throws away what is buffered of a partition that is being revoked: its next owner reads it.
    pub(super) fn discard(&mut self, topic: &str, partition: i32) {
        let Some(lane) = self.lane(topic, partition) else {
            return;
        };
        let before = self.buffer.len();
        self.buffer.retain(|delivery| delivery.receipt.lane != lane);
        self.buffered_bytes = self.buffer.iter().map(Delivery::size).sum();
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.discarded += before - self.buffer.len();
        }
    }

    /// How many records of a partition the intake has, or are finished behind one that it has.
    pub(super) fn in_flight(&self, topic: &str, partition: i32) -> usize {
        let Some(lane) = self.lane(topic, partition) else {
            return 0;
        };
        let buffered = self
            .buffer
            .iter()
            .filter(|d| d.receipt.lane == lane)
            .count();
        let discarded = self.lanes.get(&lane).map_or(0, |state| state.discarded);
        self.tracker.open(lane).saturating_sub(buffered + discarded)
    }

    /// A partition is no longer ours. Returns what is finished and not confirmed, if anything.
    pub(super) fn end(&mut self, topic: &str, partition: i32) -> Option<Position> {
        self.discard(topic, partition);
        let lane = self.lane(topic, partition)?;
        self.tracker.end(lane);
        self.lanes.remove(&lane)?.unconfirmed()
    }

    /// A record came from the broker. One of a partition that is not ours is dropped.
    ///
    /// # Errors
    /// Its offset is not behind the one before it.
    pub(super) fn receive(
        &mut self,
        source: &Arc<str>,
        payload: Bytes,
        envelope: Envelope,
    ) -> Result<(), OutOfOrder> {
        let place = (
            envelope.topic.as_deref(),
            envelope.partition,
            envelope.offset,
        );
        let (Some(topic), Some(partition), Some(offset)) = place else {
            return Ok(());
        };
        let Some(lane) = self.lane(topic, partition) else {
            return Ok(());
        };
        let tag = u64::try_from(offset).unwrap_or_default();
        let receipt = self.tracker.deliver(lane, tag)?;
        let mut step = None;
        if let Some(state) = self.lanes.get_mut(&lane) {
            step = state.step(offset, envelope.timestamp);
            state.next = offset.saturating_add(1);
            if let Some(at_ms) = envelope.timestamp {
                state.saw(Mark { offset, at_ms });
            }
        }
        let delivery = Delivery {
            source: Arc::clone(source),
            payload,
            envelope,
            redelivered: false,
            step,
            receipt,
        };
        self.buffered_bytes += delivery.size();
        self.buffer.push_back(delivery);
        Ok(())
    }

    pub(super) fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    /// Records that came and are not in the finished prefix of their partition.
    pub(super) fn remembered(&self) -> usize {
        self.tracker.remembered()
    }

    /// Hands out what is buffered, up to the limits.
    pub(super) fn take(&mut self, limits: Limits) -> Vec<Delivery> {
        let taken = limits.take_from(&mut self.buffer);
        let bytes: usize = taken.iter().map(Delivery::size).sum();
        self.buffered_bytes = self.buffered_bytes.saturating_sub(bytes);
        taken
    }

    /// These are finished. Returns what may be committed now and could not before.
    pub(super) fn settle(&mut self, receipts: Vec<Receipt>) -> Vec<Position> {
        let grown = self.tracker.settle(receipts);
        let mut positions = Vec::with_capacity(grown.len());
        for grown in grown {
            if let Some(lane) = self.lanes.get_mut(&grown.lane) {
                // Behind the last finished record, whatever gap follows it.
                lane.resume = i64::try_from(grown.upto).unwrap_or(i64::MAX - 1) + 1;
                positions.push(lane.position());
            }
        }
        positions
    }

    /// The broker has stored a commit.
    pub(super) fn confirmed(&mut self, topic: &str, partition: i32, offset: i64) {
        let lane = self.lane(topic, partition);
        if let Some(state) = lane.and_then(|lane| self.lanes.get_mut(&lane)) {
            state.confirmed = state.confirmed.max(offset);
        }
    }

    /// Everything that is finished and that the broker has not confirmed.
    pub(super) fn unconfirmed(&self) -> Vec<Position> {
        self.lanes.values().filter_map(Lane::unconfirmed).collect()
    }

    /// Whether nothing that was received is unfinished.
    pub(super) fn is_finished(&self) -> bool {
        self.lanes.keys().all(|&lane| self.tracker.open(lane) == 0)
    }

    /// What is assigned, and where each partition would resume.
    pub(super) fn positions(&self) -> Vec<Position> {
        self.lanes.values().map(Lane::position).collect()
    }

    /// The positions of what is assigned.
    pub(super) fn claims(&self) -> Vec<Arc<Claim>> {
        let claims = self.lanes.values().filter_map(|lane| lane.claim.as_ref());
        claims.cloned().collect()
    }

    /// What the topics of the assigned partitions are known by.
    pub(super) fn anchored(&self) -> Vec<Anchored> {
        self.lanes.values().filter_map(Lane::anchored).collect()
    }

    /// What is assigned, and what the broker is to send next.
    pub(super) fn expected(&self) -> Vec<Position> {
        let expected = |lane: &Lane| Position {
            offset: lane.next,
            ..lane.position()
        };
        self.lanes.values().map(expected).collect()
    }

    /// The lane of a partition that is assigned.
    fn lane(&self, topic: &str, partition: i32) -> Option<u32> {
        let lane = *self.numbers.get(topic)?.get(&partition)?;
        self.lanes.contains_key(&lane).then_some(lane)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::position::Partition;

    fn at(partition: i32, offset: i64) -> Position {
        Position {
            topic: "orders".to_owned(),
            partition,
            offset,
            since: None,
        }
    }

    fn begin(assignment: &mut Assignment, at: Position, incarnation: u64) {
        let opening = Opening {
            at,
            claim: None,
            again_below: 0,
            is_forgotten: false,
        };
        assignment.begin(opening, incarnation);
    }

    fn receive(assignment: &mut Assignment, partition: i32, offset: i64) {
        let envelope = Envelope {
            topic: Some("orders".to_owned()),
            partition: Some(partition),
            offset: Some(offset),
            ..Envelope::default()
        };
        let source: Arc<str> = "source".into();
        assignment
            .receive(&source, Bytes::from_static(b"{}"), envelope)
            .expect("offsets rise");
    }

    fn take_all(assignment: &mut Assignment) -> Vec<Receipt> {
        let limits = Limits {
            messages: 1000,
            bytes: 1 << 20,
        };
        let taken = assignment.take(limits);
        taken.into_iter().map(|delivery| delivery.receipt).collect()
    }

    #[test]
    fn each_partition_commits_its_own_prefix_behind_the_last_finished_record() {
        let mut assignment = Assignment::default();
        begin(&mut assignment, at(0, 5), 1);
        begin(&mut assignment, at(1, 0), 2);
        for (partition, offset) in [(0, 5), (1, 3), (0, 9), (1, 4)] {
            receive(&mut assignment, partition, offset);
        }
        assert_eq!(assignment.expected(), [at(0, 10), at(1, 5)]);
        let mut receipts = take_all(&mut assignment);
        assert_eq!(assignment.buffered_bytes(), 0);
        let last_of_1 = receipts.pop().expect("four were taken");
        assert_eq!(assignment.settle(receipts), [at(0, 10), at(1, 4)]);
        assert!(!assignment.is_finished(), "one is under way");
        assert_eq!(assignment.settle(vec![last_of_1]), [at(1, 5)]);
        assert!(assignment.is_finished());
    }

    #[test]
    fn a_partition_that_left_is_neither_handed_out_nor_committed_again() {
        let mut assignment = Assignment::default();
        begin(&mut assignment, at(0, 0), 1);
        begin(&mut assignment, at(1, 0), 2);
        receive(&mut assignment, 0, 0);
        let taken = take_all(&mut assignment);
        receive(&mut assignment, 0, 1);
        receive(&mut assignment, 1, 0);

        assert_eq!(
            assignment.end("orders", 0),
            None,
            "nothing of it is finished"
        );
        receive(&mut assignment, 0, 2);
        assert_eq!(assignment.settle(taken), []);
        let left = take_all(&mut assignment);
        assert_eq!(left.len(), 1, "only the other partition's record");
        assert_eq!(assignment.settle(left), [at(1, 1)]);

        begin(&mut assignment, at(0, 0), 3);
        receive(&mut assignment, 0, 0);
        let stale = Receipt {
            lane: 0,
            incarnation: 1,
            tag: 0,
        };
        assert_eq!(assignment.settle(vec![stale]), []);
    }

    #[test]
    fn a_partition_with_nothing_open_is_read_to_where_the_client_fetches() {
        let mut assignment = Assignment::default();
        begin(&mut assignment, at(0, 5), 1);
        let read = |assignment: &mut Assignment, fetches| assignment.read_to(&at(0, 0), fetches);
        assert_eq!(
            read(&mut assignment, Some(9)),
            5,
            "it may speak of an earlier assignment"
        );
        assert_eq!(
            read(&mut assignment, Some(9)),
            9,
            "only markers stand there"
        );
        receive(&mut assignment, 0, 9);
        assert_eq!(read(&mut assignment, Some(11)), 5, "buffered");
        let taken = take_all(&mut assignment);
        assert_eq!(read(&mut assignment, Some(11)), 5, "under way");
        assert_eq!(assignment.settle(taken), [at(0, 10)]);
        assert_eq!(read(&mut assignment, None), 10, "the client has more");
        assert_eq!(read(&mut assignment, Some(11)), 11);
        assert_eq!(read(&mut assignment, Some(-1001)), 10, "it does not know");
        assignment.fetches_anew();
        assert_eq!(read(&mut assignment, Some(20)), 10, "thrown away");
        assert_eq!(assignment.unconfirmed(), [at(0, 10)], "what is committed");
    }

    #[test]
    fn what_is_finished_and_unconfirmed_is_named_when_a_partition_leaves() {
        let mut assignment = Assignment::default();
        begin(&mut assignment, at(0, 0), 1);
        for offset in 0..3 {
            receive(&mut assignment, 0, offset);
        }
        let mut receipts = take_all(&mut assignment);
        let last = receipts.pop();
        assignment.settle(receipts);
        assert_eq!(assignment.unconfirmed(), [at(0, 2)]);
        assignment.confirmed("orders", 0, 1);
        assert_eq!(assignment.end("orders", 0), Some(at(0, 2)));
        assert_eq!(assignment.settle(last.into_iter().collect()), []);
        assert_eq!(assignment.unconfirmed(), []);
    }

    #[test]
    fn in_flight_is_what_the_intake_has_not_what_is_buffered_or_thrown_away() {
        let mut assignment = Assignment::default();
        begin(&mut assignment, at(0, 0), 1);
        receive(&mut assignment, 0, 0);
        let taken = take_all(&mut assignment);
        receive(&mut assignment, 0, 1);
        assert_eq!(assignment.in_flight("orders", 0), 1);
        assignment.discard("orders", 0);
        assert_eq!(assignment.in_flight("orders", 0), 1);
        assignment.settle(taken);
        assert_eq!(assignment.in_flight("orders", 0), 0);
        assert_eq!(assignment.buffered_bytes(), 0);
    }

    #[test]
    fn what_an_assignment_begins_with_tells_its_commits_and_its_steps() {
        let mut assignment = Assignment::default();
        let partition = Partition {
            cluster_id: String::new(),
            group_id: "g".to_owned(),
            source: "source".to_owned(),
            topic: "orders".to_owned(),
            number: 0,
        };
        let opening = Opening {
            at: at(0, 5),
            claim: Some(Claim::new(Uuid::nil(), 1, partition, 5, 5, None)),
            again_below: 8,
            is_forgotten: true,
        };
        assert_eq!(assignment.unconfirmed(), []);
        assignment.begin(opening, 1);
        assert_eq!(assignment.claims().len(), 1);
        assert_eq!(
            assignment.unconfirmed(),
            [at(0, 5)],
            "the broker does not know it"
        );
        for offset in [5, 9] {
            receive(&mut assignment, 0, offset);
        }
        let limits = Limits {
            messages: 10,
            bytes: 1 << 20,
        };
        let steps: Vec<Step> = assignment
            .take(limits)
            .into_iter()
            .filter_map(|d| d.step)
            .collect();
        assert_eq!(steps.len(), 2);
        assert_eq!((steps[0].offsets.clone(), steps[0].again), (5..6, true));
        assert_eq!((steps[1].offsets.clone(), steps[1].again), (6..10, false));
    }
}
