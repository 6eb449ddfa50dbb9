//! What may be acknowledged: never more than a prefix of the deliveries, and never an unfinished one.
//!
//! Both brokers acknowledge up to a point: `RabbitMQ` by a delivery tag with `multiple`, Kafka by an
//! offset. Batches finish in any order, so acknowledging the last finished delivery would now and then
//! acknowledge an earlier one that is still under way: a lost message when the process dies. This piece
//! remembers what was delivered, in order, and says how far everything is finished.
//!
//! It is pure: no broker, no clock. Tags rise within an incarnation, with gaps (a compacted topic, the
//! records of an aborted transaction). Invariant: a tag that [`Tracker::settle`] or [`Tracker::end`]
//! returns was delivered in the lane's present incarnation, and so was given back every delivery before it.

use std::collections::{BTreeMap, VecDeque};

use crate::message::Receipt;

/// The lanes of one stream: one on `RabbitMQ`, one for each assigned partition on Kafka.
#[derive(Debug, Default)]
pub struct Tracker {
    lanes: BTreeMap<u32, Lane>,
}

#[derive(Debug)]
struct Lane {
    incarnation: u64,
    /// Delivered and not yet part of the finished prefix, by rising tag.
    open: VecDeque<Open>,
    last_delivered: Option<u64>,
    /// The last delivery of the finished prefix.
    finished: Option<u64>,
}

#[derive(Debug)]
struct Open {
    tag: u64,
    finished: bool,
}

/// A lane whose finished prefix has grown: everything up to and including `upto` may be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grown {
    pub lane: u32,
    /// The tag of the last delivery of the prefix.
    pub upto: u64,
}

/// The broker delivered out of order, or on a lane that is not assigned: the stream cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("delivery {tag} of lane {lane} came after {after:?}, expected a higher one")]
pub struct OutOfOrder {
    pub lane: u32,
    pub tag: u64,
    pub after: Option<u64>,
}

impl Tracker {
    /// Begins a lane, or begins it anew: receipts of its earlier incarnations are void from now on.
    ///
    /// `incarnation` is never used twice by one source.
    pub fn begin(&mut self, lane: u32, incarnation: u64) {
        let fresh = Lane {
            incarnation,
            open: VecDeque::new(),
            last_delivered: None,
            finished: None,
        };
        self.lanes.insert(lane, fresh);
    }

    /// Ends a lane and returns the last delivery of its finished prefix, if anything was finished.
    pub fn end(&mut self, lane: u32) -> Option<u64> {
        self.lanes.remove(&lane).and_then(|lane| lane.finished)
    }

    /// Notes a delivery and makes its receipt.
    ///
    /// # Errors
    /// The tag is not higher than the one before it, or the lane was never begun.
    pub fn deliver(&mut self, lane: u32, tag: u64) -> Result<Receipt, OutOfOrder> {
        let refused = |after| OutOfOrder { lane, tag, after };
        let state = self.lanes.get_mut(&lane).ok_or_else(|| refused(None))?;
        if state.last_delivered.is_some_and(|last| tag <= last) {
            return Err(refused(state.last_delivered));
        }
        state.last_delivered = Some(tag);
        state.open.push_back(Open {
            tag,
            finished: false,
        });
        Ok(Receipt {
            lane,
            incarnation: state.incarnation,
            tag,
        })
    }

    /// Marks these deliveries finished and returns the lanes whose prefix has grown, by lane.
    ///
    /// Receipts of another incarnation, or of a lane that has ended, change nothing.
    pub fn settle(&mut self, receipts: impl IntoIterator<Item = Receipt>) -> Vec<Grown> {
        for receipt in receipts {
            self.finish(&receipt);
        }
        self.lanes
            .iter_mut()
            .filter_map(|(&lane, state)| state.grow().map(|upto| Grown { lane, upto }))
            .collect()
    }

    /// How many deliveries of a lane are not in its finished prefix.
    pub fn open(&self, lane: u32) -> usize {
        self.lanes.get(&lane).map_or(0, |lane| lane.open.len())
    }

    /// How many deliveries are remembered, of all lanes.
    pub fn remembered(&self) -> usize {
        self.lanes.values().map(|lane| lane.open.len()).sum()
    }

    fn finish(&mut self, receipt: &Receipt) {
        let Some(lane) = self.lanes.get_mut(&receipt.lane) else {
            return;
        };
        if lane.incarnation != receipt.incarnation {
            return;
        }
        if let Ok(index) = lane
            .open
            .binary_search_by_key(&receipt.tag, |open| open.tag)
        {
            lane.open[index].finished = true;
        }
    }
}

impl Lane {
    /// Takes what is finished off the front; the last tag taken, if any.
    fn grow(&mut self) -> Option<u64> {
        let mut upto = None;
        while let Some(first) = self.open.pop_front_if(|open| open.finished) {
            upto = Some(first.tag);
        }
        if upto.is_some() {
            self.finished = upto;
        }
        upto
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn receipt(lane: u32, incarnation: u64, tag: u64) -> Receipt {
        Receipt {
            lane,
            incarnation,
            tag,
        }
    }

    fn delivered(tags: &[u64]) -> Tracker {
        let mut tracker = Tracker::default();
        tracker.begin(0, 1);
        for &tag in tags {
            tracker.deliver(0, tag).expect("tags rise");
        }
        tracker
    }

    #[test]
    fn a_later_delivery_finished_first_waits_for_the_earlier_one() {
        let mut tracker = delivered(&[1, 2, 3]);
        assert_eq!(tracker.settle([receipt(0, 1, 3), receipt(0, 1, 2)]), []);
        assert_eq!(
            tracker.settle([receipt(0, 1, 1)]),
            [Grown { lane: 0, upto: 3 }]
        );
    }

    #[test]
    fn gaps_between_offsets_do_not_hold_the_prefix_up() {
        let mut tracker = delivered(&[4, 9, 1_000]);
        assert_eq!(
            tracker.settle([receipt(0, 1, 4), receipt(0, 1, 9)]),
            [Grown { lane: 0, upto: 9 }]
        );
    }

    #[test]
    fn a_receipt_of_an_earlier_incarnation_acknowledges_nothing() {
        let mut tracker = delivered(&[1, 2]);
        tracker.begin(0, 2);
        tracker.deliver(0, 1).expect("tags begin again");
        assert_eq!(tracker.settle([receipt(0, 1, 1), receipt(0, 1, 2)]), []);
        assert_eq!(
            tracker.settle([receipt(0, 2, 1)]),
            [Grown { lane: 0, upto: 1 }]
        );
    }

    #[test]
    fn a_lane_that_ended_names_its_finished_prefix_once_and_takes_no_more() {
        let mut tracker = delivered(&[1, 2, 3]);
        tracker.settle([receipt(0, 1, 1), receipt(0, 1, 3)]);
        assert_eq!(tracker.end(0), Some(1));
        assert_eq!(tracker.settle([receipt(0, 1, 2)]), []);
        assert_eq!(tracker.end(0), None);
    }

    #[test]
    fn a_tag_that_does_not_rise_is_refused() {
        let mut tracker = delivered(&[7]);
        let refused = tracker.deliver(0, 7).expect_err("the same tag");
        assert_eq!(refused.after, Some(7));
        assert!(tracker.deliver(1, 1).is_err(), "a lane that never began");
    }

    /// One step of a stream's life, with small numbers so that steps meet.
    #[derive(Debug, Clone)]
    enum Step {
        Begin(u32),
        End(u32),
        /// Deliver on this lane, this far beyond the last tag.
        Deliver(u32, u64),
        /// Finish several of the receipts handed out so far, of whatever incarnation.
        Settle(Vec<prop::sample::Index>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let lane = 0..3_u32;
        prop_oneof![
            1 => lane.clone().prop_map(Step::Begin),
            1 => lane.clone().prop_map(Step::End),
            8 => (lane, 1..4_u64).prop_map(|(lane, ahead)| Step::Deliver(lane, ahead)),
            6 => prop::collection::vec(any::<prop::sample::Index>(), 1..6).prop_map(Step::Settle),
        ]
    }

    /// The same, told naively: per lane its incarnation, everything delivered, everything finished.
    #[derive(Default)]
    struct Model {
        lanes: BTreeMap<u32, (u64, Vec<u64>, BTreeSet<u64>)>,
    }

    impl Model {
        /// The end of the finished prefix.
        fn prefix(&self, lane: u32) -> Option<u64> {
            let (_, delivered, finished) = self.lanes.get(&lane)?;
            let whole = delivered.iter().take_while(|tag| finished.contains(tag));
            whole.last().copied()
        }

        fn finish(&mut self, receipt: &Receipt) {
            if let Some((incarnation, delivered, finished)) = self.lanes.get_mut(&receipt.lane)
                && *incarnation == receipt.incarnation
                && delivered.contains(&receipt.tag)
            {
                finished.insert(receipt.tag);
            }
        }
    }

    proptest! {
        /// Whatever the order of finish, rebalances and stale receipts: what may be acknowledged is the
        /// finished prefix, never more (nothing unfinished), never less (nothing stuck), each advance said once.
        #[test]
        fn what_may_be_acknowledged_is_exactly_the_finished_prefix(
            steps in prop::collection::vec(step(), 1..200)
        ) {
            let mut tracker = Tracker::default();
            let mut model = Model::default();
            let mut receipts: Vec<Receipt> = Vec::new();
            let mut acknowledged: BTreeMap<u32, u64> = BTreeMap::new();
            let mut incarnations = 0;
            for step in steps {
                match step {
                    Step::Begin(lane) => {
                        incarnations += 1;
                        tracker.begin(lane, incarnations);
                        model.lanes.insert(lane, (incarnations, Vec::new(), BTreeSet::new()));
                        acknowledged.remove(&lane);
                    }
                    Step::End(lane) => {
                        prop_assert_eq!(tracker.end(lane), model.prefix(lane));
                        model.lanes.remove(&lane);
                        acknowledged.remove(&lane);
                    }
                    Step::Deliver(lane, ahead) => {
                        let Some((_, delivered, _)) = model.lanes.get_mut(&lane) else {
                            prop_assert!(tracker.deliver(lane, ahead).is_err());
                            continue;
                        };
                        let tag = delivered.last().unwrap_or(&0) + ahead;
                        delivered.push(tag);
                        receipts.push(tracker.deliver(lane, tag).expect("tags rise"));
                    }
                    Step::Settle(indices) => {
                        if receipts.is_empty() {
                            continue;
                        }
                        let chosen: Vec<Receipt> = indices
                            .iter()
                            .map(|index| index.get(&receipts))
                            .map(|r| receipt(r.lane, r.incarnation, r.tag))
                            .collect();
                        for receipt in &chosen {
                            model.finish(receipt);
                        }
                        for grown in tracker.settle(chosen) {
                            let before = acknowledged.insert(grown.lane, grown.upto);
                            prop_assert!(before < Some(grown.upto), "said twice");
                        }
                    }
                }
                for &lane in model.lanes.keys() {
                    prop_assert_eq!(acknowledged.get(&lane).copied(), model.prefix(lane));
                }
            }
        }

        /// Once every receipt came back, in whatever order, nothing is left open.
        #[test]
        fn when_everything_is_finished_everything_is_acknowledged(
            order in Just((1..=40_u64).collect::<Vec<_>>()).prop_shuffle(),
            batch in 1..12_usize,
        ) {
            let mut tracker = delivered(&(1..=40).collect::<Vec<_>>());
            let mut upto = None;
            for tags in order.chunks(batch) {
                let grown = tracker.settle(tags.iter().map(|&tag| receipt(0, 1, tag)));
                upto = grown.last().map_or(upto, |grown| Some(grown.upto));
            }
            prop_assert_eq!(upto, Some(40));
            prop_assert_eq!(tracker.open(0), 0);
        }
    }
}
