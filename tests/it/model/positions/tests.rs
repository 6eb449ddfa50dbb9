//! The positions keep every promise in every scenario, and each of their rules is needed.

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model};

use super::{
    Limits, NO_FALSE_ALARM, NO_HOT_LOOP, POSITION_IS_TRUE, QUIET_MEANS_STORED, Rules, World,
};

/// Nodes come and go, the database keeps everything.
const REBALANCES: Limits = Limits {
    crashes: 1,
    revocations: 2,
    lost_answers: 1,
    failovers: 0,
    recreations: 0,
    forgotten_offsets: 1,
    operator_moves: 0,
};

/// An older copy of the database takes its place, under living nodes or dead ones.
const FAILOVER: Limits = Limits {
    crashes: 1,
    revocations: 1,
    lost_answers: 1,
    failovers: 1,
    recreations: 0,
    forgotten_offsets: 0,
    operator_moves: 0,
};

/// The topic is deleted and made again.
const RECREATION: Limits = Limits {
    crashes: 1,
    revocations: 1,
    lost_answers: 0,
    failovers: 0,
    recreations: 1,
    forgotten_offsets: 0,
    operator_moves: 0,
};

/// An operator sets the group's offset, forward or back.
const OPERATOR: Limits = Limits {
    crashes: 2,
    revocations: 0,
    lost_answers: 0,
    failovers: 0,
    recreations: 0,
    forgotten_offsets: 0,
    operator_moves: 1,
};

/// Walks through the whole scenario.
fn keeps_every_promise(limits: Limits) {
    let rules = Rules::sluice();
    let checker = World { rules, limits }.checker().spawn_bfs().join();
    checker.assert_properties();
}

/// Walks until the promise is broken.
fn breaks(promise: &'static str, rules: Rules, limits: Limits) {
    let until = HasDiscoveries::AnyOf(BTreeSet::from([promise]));
    let checker = World { rules, limits }
        .checker()
        .finish_when(until)
        .spawn_bfs()
        .join();
    assert!(
        checker.discovery(promise).is_some(),
        "no way was found to break {promise:?}"
    );
}

#[test]
fn rebalances_keep_every_promise() {
    keeps_every_promise(REBALANCES);
}

#[test]
fn a_database_that_loses_commits_keeps_every_promise() {
    keeps_every_promise(FAILOVER);
}

#[test]
fn a_recreated_topic_keeps_every_promise() {
    keeps_every_promise(RECREATION);
}

#[test]
fn a_group_that_is_moved_keeps_every_promise() {
    keeps_every_promise(OPERATOR);
}

#[test]
fn a_position_in_a_transaction_before_its_rows_drops_messages() {
    let rules = Rules {
        position_with_rows: false,
        ..Rules::sluice()
    };
    breaks(POSITION_IS_TRUE, rules, REBALANCES);
    breaks(QUIET_MEANS_STORED, rules, REBALANCES);
}

/// The later one of two batches commits first, and is all that the copy has.
#[test]
fn a_position_past_an_unfinished_batch_drops_messages() {
    let rules = Rules {
        contiguous: false,
        ..Rules::sluice()
    };
    breaks(POSITION_IS_TRUE, rules, FAILOVER);
    breaks(QUIET_MEANS_STORED, rules, FAILOVER);
}

/// A node that froze with a record of the old topic counts it as one of the new topic.
#[test]
fn a_position_that_is_not_fenced_drops_messages() {
    let rules = Rules {
        fenced: false,
        ..Rules::sluice()
    };
    breaks(POSITION_IS_TRUE, rules, RECREATION);
    breaks(QUIET_MEANS_STORED, rules, RECREATION);
}

/// Nobody reads again what a failover took, as long as the assignment lasts.
#[test]
fn a_position_that_is_not_compared_with_what_is_known_drops_messages() {
    let rules = Rules {
        compares_with_known: false,
        ..Rules::sluice()
    };
    breaks(QUIET_MEANS_STORED, rules, FAILOVER);
}

/// What the database lost is behind the assignment for ever, and nothing but the comparison keeps it from
/// being dropped, by ending one assignment after the other.
#[test]
fn beginning_where_the_group_stood_drops_messages_or_comes_to_no_end() {
    let rules = Rules {
        begins_at_smaller: false,
        ..Rules::sluice()
    };
    breaks(NO_HOT_LOOP, rules, FAILOVER);
    let rules = Rules {
        compares_with_known: false,
        ..rules
    };
    breaks(QUIET_MEANS_STORED, rules, OPERATOR);
}

#[test]
fn a_recreation_that_nobody_notices_drops_messages() {
    let rules = Rules {
        notices_recreation: false,
        ..Rules::sluice()
    };
    breaks(QUIET_MEANS_STORED, rules, RECREATION);
}

/// The later record is of the new topic already, and is in its place.
#[test]
fn an_anchor_that_moves_with_every_batch_drops_messages() {
    let rules = Rules {
        anchor_moves_by_looks: false,
        ..Rules::sluice()
    };
    breaks(QUIET_MEANS_STORED, rules, RECREATION);
}

/// The copy is older than the partition's first position.
#[test]
fn a_missing_position_that_nobody_misses_drops_messages() {
    let rules = Rules {
        commit_says_since: false,
        ..Rules::sluice()
    };
    breaks(QUIET_MEANS_STORED, rules, FAILOVER);
}

/// What the alarm is worth: nothing but a loss of commits sets the position behind the group.
#[test]
fn a_position_that_forgets_what_stands_beyond_a_gap_alarms_for_nothing() {
    let rules = Rules {
        remembers_ahead: false,
        ..Rules::sluice()
    };
    breaks(NO_FALSE_ALARM, rules, REBALANCES);
}
