//! The protocol keeps every promise in every scenario, and each of its rules is needed.

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model};

use super::broker::BrokerKind;
use super::properties as promise;
use super::{ClaimUniqueBy, EpochRaisedBy, Key, Limits, Protocol, Scenario, Unproven, Way, World};

/// Two nodes take from one broker; the effect is part of the commit, so that only accepting matters.
fn accepting(broker: BrokerKind) -> Scenario {
    Scenario {
        broker,
        way: Way::InCommit,
        queue: vec![Key::A, Key::B, Key::A],
        batches: 2,
        tokens: 1,
        limits: Limits {
            connection_losses: 1,
            crashes: 1,
            unanswered_commits: 1,
            ..Limits::default()
        },
    }
}

/// Two messages for one instance, handed over, swept and confirmed while the engine does as it likes.
fn handing(way: Way) -> Scenario {
    Scenario {
        broker: BrokerKind::Queue,
        way,
        queue: vec![Key::A, Key::B],
        batches: 1,
        tokens: 1,
        limits: Limits {
            crashes: 1,
            killed_sessions: 1,
            new_subscriptions: 1,
            cancellations: 1,
            instance_deletions: 1,
            history_cleanups: 1,
            ..Limits::default()
        },
    }
}

fn check(name: &str, protocol: Protocol, scenario: Scenario) {
    let checker = World { protocol, scenario }.checker().spawn_bfs().join();
    eprintln!("{name}: {} states", checker.unique_state_count());
    checker.assert_properties();
}

fn breaks(protocol: Protocol, scenario: Scenario, promise: &'static str) {
    let until = HasDiscoveries::AnyOf(BTreeSet::from([promise]));
    let checker = World { protocol, scenario }.checker().finish_when(until).spawn_bfs().join();
    let path = checker.discovery(promise);
    eprintln!("{promise}: {} states, {:?}", checker.unique_state_count(), path.map(|path| path.into_actions()));
    assert!(checker.discovery(promise).is_some(), "no counterexample to {promise:?}");
}


fn h(way: Way, f: impl Fn(&mut Scenario)) -> Scenario { let mut s = handing(way); s.limits = Limits::default(); f(&mut s); s }

#[test] fn x1() { breaks(Protocol { ack_after_commit: false, ..Protocol::sluice() }, accepting(BrokerKind::Queue), promise::ACKED_MEANS_COMMITTED) }
#[test] fn x1l() { breaks(Protocol { ack_after_commit: false, ..Protocol::sluice() }, accepting(BrokerKind::Log), promise::ACKED_MEANS_COMMITTED) }
#[test] fn x2() { breaks(Protocol { ack_prefix_only: false, ..Protocol::sluice() }, accepting(BrokerKind::Queue), promise::ACKED_MEANS_COMMITTED) }
#[test] fn x2l() { breaks(Protocol { ack_prefix_only: false, ..Protocol::sluice() }, accepting(BrokerKind::Log), promise::ACKED_MEANS_COMMITTED) }
#[test] fn x3() { breaks(Protocol { tracker_per_stream: false, ..Protocol::sluice() }, accepting(BrokerKind::Queue), promise::ACKED_MEANS_COMMITTED) }
#[test] fn x3l() { breaks(Protocol { tracker_per_stream: false, ..Protocol::sluice() }, accepting(BrokerKind::Log), promise::ACKED_MEANS_COMMITTED) }
#[test] fn x4() { breaks(Protocol { dedup_key_unique: false, ..Protocol::sluice() }, accepting(BrokerKind::Queue), promise::ONE_EFFECT) }
#[test] fn x5() { breaks(Protocol { sweep_holds_lock: false, compare_epoch: false, ..Protocol::sluice() }, handing(Way::ByName), promise::NO_STALE_CHANGE) }
#[test] fn x5b() { breaks(Protocol { sweep_holds_lock: false, compare_epoch: false, ..Protocol::sluice() }, handing(Way::ByName), promise::HANDED_HAS_ITS_CLAIM) }
#[test] fn x6() { breaks(Protocol { sweep_holds_lock: false, ..Protocol::sluice() }, h(Way::ByName, |s| { s.limits.cancellations = 1; s.limits.expiries = 2; s.limits.operator_redrives = 1; }), promise::NO_STALE_CHANGE) }
#[test] fn x7() { breaks(Protocol { confirm_in_one_snapshot: false, ..Protocol::sluice() }, handing(Way::ByName), promise::ONE_EFFECT) }
#[test] fn x8() { breaks(Protocol { claim_unique_by: ClaimUniqueBy::Nothing, ..Protocol::sluice() }, handing(Way::ByName), promise::ONE_CLAIM) }
#[test] fn x8b() { breaks(Protocol { claim_unique_by: ClaimUniqueBy::Nothing, ..Protocol::sluice() }, handing(Way::ByName), promise::ATTEMPTS_ARE_ITS_OWN) }
#[test] fn x8c() { breaks(Protocol { claim_unique_by: ClaimUniqueBy::Nothing, ..Protocol::sluice() }, handing(Way::BySubscription), promise::ONE_CLAIM) }
#[test] fn x9() { breaks(Protocol { claim_unique_by: ClaimUniqueBy::Subscription, ..Protocol::sluice() }, handing(Way::ByName), promise::ATTEMPTS_ARE_ITS_OWN) }
#[test] fn x10() { breaks(Protocol { claim_sees_subscription: false, ..Protocol::sluice() }, handing(Way::ByName), promise::ATTEMPTS_ARE_ITS_OWN) }
#[test] fn x11() { breaks(Protocol { bump_subscription: false, ..Protocol::sluice() }, handing(Way::BySubscription), promise::NOTHING_DROPPED) }
#[test] fn x12() { breaks(Protocol { absence_needs_history: false, ..Protocol::sluice() }, handing(Way::ByName), promise::ONE_EFFECT) }
#[test] fn x12b() { breaks(Protocol { absence_needs_history: false, ..Protocol::sluice() }, handing(Way::BySubscription), promise::NOT_DRIVEN_AGAIN) }
#[test] fn x13() { breaks(Protocol { unproven: Unproven::AssumeDone, ..Protocol::sluice() }, handing(Way::ByName), promise::NOTHING_DROPPED) }
#[test] fn x14() { breaks(Protocol { refuse_two_tokens: false, ..Protocol::sluice() }, Scenario { tokens: 2, ..handing(Way::ByName) }, promise::ONE_EFFECT) }

#[test] fn p6c() { check("locks alone", Protocol { compare_epoch: false, ..Protocol::sluice() }, h(Way::ByName, |s| { s.limits.cancellations = 1; s.limits.new_subscriptions=1; s.limits.killed_sessions=1; s.limits.expiries = 2; s.limits.operator_redrives = 1; })) }
#[test] fn p6b() { check("epochs alone", Protocol { sweep_holds_lock: false, epoch_raised_by: EpochRaisedBy::EveryChange, ..Protocol::sluice() }, h(Way::ByName, |s| { s.limits.cancellations = 1; s.limits.new_subscriptions=1; s.limits.expiries = 2; s.limits.operator_redrives = 1; })) }
#[test] fn p6() { check("sweep c", Protocol::sluice(), h(Way::ByName, |s| { s.limits.cancellations = 1; s.limits.new_subscriptions=2; s.limits.killed_sessions=1; s.limits.expiries = 2; s.limits.operator_redrives = 1; })) }
#[test] fn p7() { check("two tokens", Protocol::sluice(), Scenario { tokens: 2, ..h(Way::ByName, |s| { s.limits.cancellations = 1; s.limits.new_subscriptions=2; s.limits.killed_sessions=1; }) }) }
#[test] fn p8() { check("resend c", Protocol::sluice(), Scenario { queue: vec![Key::A, Key::B, Key::A], ..h(Way::ByName, |s| { s.limits.connection_losses = 1; s.limits.crashes=1; s.limits.unanswered_commits=1; s.limits.new_subscriptions=1; }) }) }
#[test]
fn accept_queue() { check("accept queue", Protocol::sluice(), accepting(BrokerKind::Queue)); }
#[test]
fn accept_log() { check("accept log", Protocol::sluice(), accepting(BrokerKind::Log)); }
#[test]
fn hand_c() { check("hand c", Protocol::sluice(), handing(Way::ByName)); }
#[test]
fn hand_b() { check("hand b", Protocol::sluice(), handing(Way::BySubscription)); }
