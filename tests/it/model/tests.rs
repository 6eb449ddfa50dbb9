//! The protocol keeps every promise in every scenario, and each of its rules is needed.

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model};

use super::broker::BrokerKind;
use super::properties as promise;
use super::scenario::{
    Scenario, Way, accepting, forgetting, handing, purging, resending, sweeping, two_tokens,
};
use super::{ClaimUniqueBy, EpochRaisedBy, Protocol, Unproven, World};

/// Walks through the whole scenario.
fn keeps_every_promise(protocol: Protocol, scenario: Scenario) {
    let checker = World { protocol, scenario }.checker().spawn_bfs().join();
    checker.assert_properties();
}

/// Walks until the promise is broken.
fn breaks(promise: &'static str, protocol: Protocol, scenario: Scenario) {
    let until = HasDiscoveries::AnyOf(BTreeSet::from([promise]));
    let checker = World { protocol, scenario }
        .checker()
        .finish_when(until)
        .spawn_bfs()
        .join();
    assert!(
        checker.discovery(promise).is_some(),
        "no way was found to break {promise:?}"
    );
}

// What the daemon does.

#[test]
fn accepting_from_a_queue_keeps_every_promise() {
    keeps_every_promise(Protocol::sluice(), accepting(BrokerKind::Queue));
}

#[test]
fn accepting_from_a_log_keeps_every_promise() {
    keeps_every_promise(Protocol::sluice(), accepting(BrokerKind::Log));
}

#[test]
fn handing_by_name_keeps_every_promise() {
    keeps_every_promise(Protocol::sluice(), handing(Way::ByName));
}

#[test]
fn handing_by_subscription_keeps_every_promise() {
    keeps_every_promise(Protocol::sluice(), handing(Way::BySubscription));
}

#[test]
fn a_resend_by_name_keeps_every_promise() {
    keeps_every_promise(Protocol::sluice(), resending(Way::ByName));
}

#[test]
fn a_resend_by_subscription_keeps_every_promise() {
    keeps_every_promise(Protocol::sluice(), resending(Way::BySubscription));
}

#[test]
fn sweeping_by_name_keeps_every_promise() {
    keeps_every_promise(Protocol::sluice(), sweeping(Way::ByName));
}

#[test]
fn sweeping_by_subscription_keeps_every_promise() {
    keeps_every_promise(Protocol::sluice(), sweeping(Way::BySubscription));
}

#[test]
fn lost_history_by_name_keeps_every_promise() {
    keeps_every_promise(Protocol::sluice(), forgetting(Way::ByName));
}

#[test]
fn lost_history_by_subscription_keeps_every_promise() {
    keeps_every_promise(Protocol::sluice(), forgetting(Way::BySubscription));
}

#[test]
fn two_tokens_keep_every_promise() {
    keeps_every_promise(Protocol::sluice(), two_tokens(Way::ByName));
}

#[test]
fn purging_by_name_keeps_every_promise() {
    keeps_every_promise(Protocol::sluice(), purging(Way::ByName));
}

#[test]
fn purging_by_subscription_keeps_every_promise() {
    keeps_every_promise(Protocol::sluice(), purging(Way::BySubscription));
}

// Rules that stand in for each other: the daemon has both.

#[test]
fn locks_alone_keep_every_promise() {
    let protocol = Protocol {
        compare_epoch: false,
        ..Protocol::sluice()
    };
    keeps_every_promise(protocol, sweeping(Way::ByName));
}

#[test]
fn epochs_alone_keep_every_promise_because_every_change_raises_them() {
    let protocol = Protocol {
        sweep_holds_lock: false,
        ..Protocol::sluice()
    };
    keeps_every_promise(protocol, sweeping(Way::ByName));
}

/// The claim of B is the subscription's `REV_` already; the pending row only says so earlier.
#[test]
fn the_bump_alone_claims_a_subscription() {
    let claim_unique_by = ClaimUniqueBy::Nothing;
    let protocol = Protocol {
        claim_unique_by,
        ..Protocol::sluice()
    };
    keeps_every_promise(protocol, two_tokens(Way::BySubscription));
}

// What each rule is for.

#[test]
fn effects_before_rows_have_second_effects() {
    let protocol = Protocol {
        row_with_effect: false,
        ..Protocol::sluice()
    };
    breaks(promise::ONE_EFFECT, protocol, accepting(BrokerKind::Queue));
}

#[test]
fn an_ack_before_the_commit_acks_what_has_no_row() {
    for broker in [BrokerKind::Queue, BrokerKind::Log] {
        let protocol = Protocol {
            ack_after_commit: false,
            ..Protocol::sluice()
        };
        breaks(promise::ACKED_MEANS_COMMITTED, protocol, accepting(broker));
    }
}

#[test]
fn an_ack_before_the_commit_drops_messages() {
    let protocol = Protocol {
        ack_after_commit: false,
        ..Protocol::sluice()
    };
    breaks(
        promise::NOTHING_DROPPED,
        protocol,
        accepting(BrokerKind::Queue),
    );
}

#[test]
fn an_ack_past_an_unfinished_batch_acks_what_has_no_row() {
    for broker in [BrokerKind::Queue, BrokerKind::Log] {
        let protocol = Protocol {
            ack_prefix_only: false,
            ..Protocol::sluice()
        };
        breaks(promise::ACKED_MEANS_COMMITTED, protocol, accepting(broker));
    }
}

#[test]
fn a_tracker_kept_over_reconnections_acks_what_has_no_row() {
    let protocol = Protocol {
        tracker_per_stream: false,
        ..Protocol::sluice()
    };
    breaks(
        promise::ACKED_MEANS_COMMITTED,
        protocol,
        accepting(BrokerKind::Queue),
    );
}

/// An offset, unlike a tag, names the same record on every assignment, so nothing is lost; but what
/// another node finished in between is a gap that never closes.
#[test]
fn a_tracker_kept_over_assignments_stops_acking() {
    let protocol = Protocol {
        tracker_per_stream: false,
        ..Protocol::sluice()
    };
    breaks(
        promise::QUIET_MEANS_SETTLED,
        protocol,
        accepting(BrokerKind::Log),
    );
}

#[test]
fn a_dedup_key_that_is_not_unique_has_second_effects() {
    let protocol = Protocol {
        dedup_key_unique: false,
        ..Protocol::sluice()
    };
    breaks(promise::ONE_EFFECT, protocol, accepting(BrokerKind::Queue));
    breaks(promise::ONE_EFFECT, protocol, resending(Way::ByName));
    breaks(
        promise::ONE_EFFECT,
        protocol,
        resending(Way::BySubscription),
    );
}

#[test]
fn claims_that_are_not_unique_hand_a_catcher_twice() {
    let claim_unique_by = ClaimUniqueBy::Nothing;
    let protocol = Protocol {
        claim_unique_by,
        ..Protocol::sluice()
    };
    breaks(promise::ONE_CLAIM, protocol, handing(Way::ByName));
}

/// A job by name takes whoever waits when it runs. A claim on the subscription that it was written
/// for leaves the next round of the loop to another message, whose job then finds nobody.
#[test]
fn claims_by_subscription_waste_attempts_where_jobs_go_by_name() {
    let claim_unique_by = ClaimUniqueBy::Subscription;
    let protocol = Protocol {
        claim_unique_by,
        ..Protocol::sluice()
    };
    breaks(
        promise::ATTEMPTS_ARE_ITS_OWN,
        protocol,
        sweeping(Way::ByName),
    );
}

/// Between match and claim the earlier message may have been handed, done and confirmed.
#[test]
fn claims_on_a_subscription_that_is_gone_waste_attempts() {
    let protocol = Protocol {
        claim_sees_subscription: false,
        ..Protocol::sluice()
    };
    breaks(
        promise::ATTEMPTS_ARE_ITS_OWN,
        protocol,
        handing(Way::ByName),
    );
}

/// The engine deletes a subscription without the job that it had not seen, and the job, finding
/// nothing, calls itself a success.
#[test]
fn a_subscription_that_is_not_bumped_drops_messages() {
    let protocol = Protocol {
        bump_subscription: false,
        ..Protocol::sluice()
    };
    breaks(
        promise::NOTHING_DROPPED,
        protocol,
        handing(Way::BySubscription),
    );
}

#[test]
fn sweeps_without_lock_and_epoch_change_what_they_did_not_look_at() {
    let protocol = Protocol {
        sweep_holds_lock: false,
        compare_epoch: false,
        ..Protocol::sluice()
    };
    breaks(promise::NO_STALE_CHANGE, protocol, sweeping(Way::ByName));
    breaks(
        promise::HANDED_HAS_ITS_CLAIM,
        protocol,
        sweeping(Way::ByName),
    );
    breaks(
        promise::QUIET_MEANS_SETTLED,
        protocol,
        sweeping(Way::ByName),
    );
}

/// A row that expires and is redriven has the same state and epoch as before.
#[test]
fn epochs_of_hand_overs_do_not_replace_the_lock() {
    let protocol = Protocol {
        epoch_raised_by: EpochRaisedBy::HandOver,
        sweep_holds_lock: false,
        ..Protocol::sluice()
    };
    breaks(promise::NO_STALE_CHANGE, protocol, sweeping(Way::ByName));
}

#[test]
fn a_claim_that_ends_after_its_row_stays_when_the_node_dies() {
    let protocol = Protocol {
        claim_ends_with_row: false,
        ..Protocol::sluice()
    };
    breaks(promise::QUIET_MEANS_SETTLED, protocol, handing(Way::ByName));
}

#[test]
fn evidence_read_before_the_job_has_second_effects() {
    let protocol = Protocol {
        confirm_in_one_snapshot: false,
        ..Protocol::sluice()
    };
    breaks(promise::ONE_EFFECT, protocol, sweeping(Way::ByName));
}

#[test]
fn absence_taken_for_proof_has_second_effects() {
    for way in [Way::ByName, Way::BySubscription] {
        let protocol = Protocol {
            absence_needs_history: false,
            ..Protocol::sluice()
        };
        breaks(promise::NOT_DRIVEN_AGAIN, protocol, forgetting(way));
        breaks(promise::ONE_EFFECT, protocol, forgetting(way));
    }
}

/// What a user accepts who writes `unproven = "assume_done"`.
#[test]
fn unproven_rows_assumed_done_drop_messages() {
    let protocol = Protocol {
        unproven: Unproven::AssumeDone,
        ..Protocol::sluice()
    };
    breaks(promise::NOTHING_DROPPED, protocol, forgetting(Way::ByName));
}

#[test]
fn two_tokens_and_a_job_by_name_have_second_effects() {
    let protocol = Protocol {
        refuse_two_tokens: false,
        ..Protocol::sluice()
    };
    breaks(promise::ONE_EFFECT, protocol, two_tokens(Way::ByName));
}

/// A key that is forgotten while a copy of its message is still on its way.
#[test]
fn a_key_that_is_purged_too_early_has_second_effects() {
    let protocol = Protocol {
        purge_waits: false,
        ..Protocol::sluice()
    };
    breaks(promise::ONE_EFFECT, protocol, purging(Way::ByName));
}

#[test]
fn purging_rows_that_are_not_done_drops_messages() {
    let protocol = Protocol {
        purge_takes_done_only: false,
        ..Protocol::sluice()
    };
    breaks(promise::NOTHING_DROPPED, protocol, purging(Way::ByName));
}
