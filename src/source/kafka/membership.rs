//! Whether the group has let this client in: a broker may answer every question while the group's coordinator
//! answers none, or waits for a member; then nobody gets a partition, and no lag is measured.
//!
//! Pure: the client's statistics tell. Connecting anew would help nobody, so that is all that is done about it.

use std::time::{Duration, Instant};

use rdkafka::statistics::ConsumerGroup;

use super::config::{GroupProtocol, KafkaConfig};
use super::pattern;

#[derive(Debug)]
pub(super) struct Membership {
    /// What lasts no longer than this is a rebalance like any other.
    patience: Duration,
    /// A member that has no partition, or a client whose patterns no topic matches, stays in `init`.
    rests_in_init: bool,
    outside_since: Option<Instant>,
    told: bool,
}

/// What is worth to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// For longer than a rebalance should take.
    Outside,
    Inside,
}

impl Membership {
    pub(super) fn new(config: &KafkaConfig) -> Self {
        let mut topics = config.topics.iter();
        Self {
            patience: 3 * config.session_timeout.0,
            rests_in_init: config.group_protocol == GroupProtocol::Consumer
                || topics.all(|topic| pattern::is_pattern(topic)),
            outside_since: None,
            told: false,
        }
    }

    /// Looks at what the client says of its group.
    pub(super) fn look(&mut self, group: &ConsumerGroup, now: Instant) -> Option<Change> {
        let is_in = match (&*group.state, &*group.join_state) {
            ("up", "steady") => true,
            ("up", "init") => self.rests_in_init,
            _ => false,
        };
        if is_in {
            self.outside_since = None;
            return std::mem::take(&mut self.told).then_some(Change::Inside);
        }
        let since = *self.outside_since.get_or_insert(now);
        if self.told || now.duration_since(since) < self.patience {
            return None;
        }
        self.told = true;
        Some(Change::Outside)
    }

    /// Whether it was told that the group does not let it in.
    pub(super) fn is_kept_outside(&self) -> bool {
        self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(table: &str, looks: &[(&str, &str, u64, Option<Change>)]) {
        let table =
            format!("bootstrap_servers = 'b'\ngroup_id = 'g'\nsession_timeout = '10s'\n{table}");
        let config = toml::from_str(&table).expect("the table is well formed");
        let mut membership = Membership::new(&config);
        let begun = Instant::now();
        for (state, join_state, seconds, expected) in looks {
            let group = ConsumerGroup {
                state: (*state).to_owned(),
                join_state: (*join_state).to_owned(),
                ..ConsumerGroup::default()
            };
            let change = membership.look(&group, begun + Duration::from_secs(*seconds));
            assert_eq!(change, *expected, "{state}, {join_state} after {seconds} s");
        }
    }

    #[test]
    fn a_group_that_lets_nobody_in_is_told_of_once_and_so_is_its_end() {
        looks(
            "topics = ['t', '^p$']",
            &[
                ("query-coord", "init", 0, None),
                ("up", "steady", 20, None),
                ("up", "wait-join", 30, None),
                ("up", "init", 59, None),
                ("up", "wait-sync", 60, Some(Change::Outside)),
                ("wait-coord", "init", 90, None),
                ("up", "steady", 100, Some(Change::Inside)),
                ("up", "steady", 110, None),
            ],
        );
    }

    #[test]
    fn whoever_has_nothing_to_be_let_in_for_is_not_kept_outside() {
        for table in [
            "topics = ['^p$']",
            "topics = ['t']\ngroup_protocol = 'consumer'",
        ] {
            looks(
                table,
                &[
                    ("up", "init", 0, None),
                    ("up", "init", 100, None),
                    ("wait-coord", "init", 110, None),
                    ("wait-coord", "init", 140, Some(Change::Outside)),
                ],
            );
        }
    }
}
