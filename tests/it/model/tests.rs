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

#[test]
fn accept_queue() { check("accept queue", Protocol::sluice(), accepting(BrokerKind::Queue)); }
#[test]
fn accept_log() { check("accept log", Protocol::sluice(), accepting(BrokerKind::Log)); }
#[test]
fn hand_c() { check("hand c", Protocol::sluice(), handing(Way::ByName)); }
#[test]
fn hand_b() { check("hand b", Protocol::sluice(), handing(Way::BySubscription)); }
