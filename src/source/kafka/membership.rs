//! Whether the group has let this client in: a broker may answer every question while the group's coordinator
//! answers none, or waits for a member that is stuck; then nobody gets a partition, and no lag is measured.
//!
//! Pure: the client's statistics tell.

use std::time::{Duration, Instant};

use rdkafka::statistics::ConsumerGroup;

#[derive(Debug, Default)]
pub(super) struct Membership {
    /// Since when the client stands outside.
    outside_since: Option<Instant>,
    told: bool,
}

/// What a source reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Topics {
    Named,
    /// Where none matches, a client asks for nothing.
    Patterns,
}

/// What is worth to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// For longer than a rebalance should take.
    Outside,
    Inside,
}

impl Membership {
    /// Looks at what the client says of its group. What lasts no longer than `patience` is a rebalance like any
    /// other.
    pub(super) fn look(
        &mut self,
        group: &ConsumerGroup,
        topics: Topics,
        patience: Duration,
        now: Instant,
    ) -> Option<Change> {
        let is_in = match (&*group.state, &*group.join_state) {
            ("up", "steady") => true,
            ("up", "init") => topics == Topics::Patterns,
            _ => false,
        };
        if is_in {
            self.outside_since = None;
            return std::mem::take(&mut self.told).then_some(Change::Inside);
        }
        self.outside_since.get_or_insert(now);
        if self.told || self.outside_for(now)? < patience {
            return None;
        }
        self.told = true;
        Some(Change::Outside)
    }

    /// Whether it was told that the group does not let it in.
    pub(super) fn is_kept_outside(&self) -> bool {
        self.told
    }

    pub(super) fn outside_for(&self, now: Instant) -> Option<Duration> {
        self.outside_since.map(|since| now.duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_lets_nobody_in_is_told_of_once_and_so_is_its_end() {
        let begun = Instant::now();
        let mut membership = Membership::default();
        let mut look = |state: &str, join_state: &str, topics, seconds| {
            let group = ConsumerGroup {
                state: state.to_owned(),
                join_state: join_state.to_owned(),
                ..ConsumerGroup::default()
            };
            let now = begun + Duration::from_secs(seconds);
            let change = membership.look(&group, topics, Duration::from_secs(30), now);
            (
                change,
                membership.outside_for(now).map(|outside| outside.as_secs()),
            )
        };
        let named = Topics::Named;
        assert_eq!(look("query-coord", "init", named, 0), (None, Some(0)));
        assert_eq!(look("up", "steady", named, 20), (None, None));
        assert_eq!(look("up", "wait-join", named, 30), (None, Some(0)));
        assert_eq!(look("up", "init", named, 59), (None, Some(29)));
        let outside = Some(Change::Outside);
        assert_eq!(look("up", "wait-sync", named, 60), (outside, Some(30)));
        assert_eq!(look("wait-coord", "init", named, 90), (None, Some(60)));
        let inside = Some(Change::Inside);
        assert_eq!(look("up", "init", Topics::Patterns, 100), (inside, None));
        assert_eq!(look("up", "steady", Topics::Patterns, 110), (None, None));
    }
}
