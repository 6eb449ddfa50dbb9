//! The worlds that the protocol is walked through: each small, and each rich in one kind of trouble.

use super::Key;
use super::broker::BrokerKind;

/// How a message's effect comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The effect is part of the accepting transaction: a start by rows, the `sql` engine.
    InCommit,
    /// A job that targets one subscription and is deleted with it (variant B).
    BySubscription,
    /// A job that correlates whatever waits for the name in the instance when it runs (variant C).
    ByName,
}

/// How often each thing that nobody is bound to do may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    pub connection_losses: u8,
    pub crashes: u8,
    pub killed_sessions: u8,
    pub unanswered_commits: u8,
    pub new_subscriptions: u8,
    pub cancellations: u8,
    pub instance_deletions: u8,
    pub history_cleanups: u8,
    pub expiries: u8,
    pub operator_redrives: u8,
    pub purges: u8,
}

/// A world that is small enough to be walked through wholly.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub broker: BrokerKind,
    pub way: Way,
    /// What stands in the broker's queue, in order.
    pub queue: Vec<Key>,
    /// How many batches a node may have under way at once.
    pub batches: usize,
    /// How many subscriptions of the name the instance may hold at once.
    pub tokens: usize,
    pub limits: Limits,
}

/// Two nodes take from one broker; the effect is part of the commit, so only accepting matters.
pub fn accepting(broker: BrokerKind) -> Scenario {
    let limits = Limits {
        connection_losses: 1,
        crashes: 1,
        // On a queue, where both nodes take at once, [`resending`] has it.
        unanswered_commits: u8::from(broker == BrokerKind::Log),
        ..Limits::default()
    };
    Scenario {
        broker,
        way: Way::InCommit,
        queue: vec![Key::A, Key::B, Key::A],
        batches: 2,
        tokens: 1,
        limits,
    }
}

/// Two messages for one instance, within some limits.
fn one_instance(way: Way, limits: Limits) -> Scenario {
    let queue = vec![Key::A, Key::B];
    Scenario {
        broker: BrokerKind::Queue,
        way,
        queue,
        batches: 1,
        tokens: 1,
        limits,
    }
}

/// A node dies while the engine cancels, loops and ends as it likes.
pub fn handing(way: Way) -> Scenario {
    let limits = Limits {
        crashes: 1,
        new_subscriptions: 1,
        cancellations: 1,
        instance_deletions: 1,
        ..Limits::default()
    };
    one_instance(way, limits)
}

/// The same message comes again while its first copy is on its way.
pub fn resending(way: Way) -> Scenario {
    let limits = Limits {
        connection_losses: 1,
        unanswered_commits: 1,
        new_subscriptions: 1,
        ..Limits::default()
    };
    Scenario {
        queue: vec![Key::A, Key::A],
        ..one_instance(way, limits)
    }
}

/// Sweeps freeze, rows expire and are redriven, the catcher comes and goes.
pub fn sweeping(way: Way) -> Scenario {
    let limits = Limits {
        killed_sessions: 1,
        new_subscriptions: 2,
        cancellations: 1,
        expiries: 2,
        operator_redrives: 1,
        ..Limits::default()
    };
    one_instance(way, limits)
}

/// The history that would prove something goes away, with the instance or before it.
pub fn forgetting(way: Way) -> Scenario {
    let limits = Limits {
        killed_sessions: 1,
        new_subscriptions: 1,
        cancellations: 1,
        instance_deletions: 1,
        history_cleanups: 1,
        ..Limits::default()
    };
    one_instance(way, limits)
}

/// A second token may come to a catcher of the same name.
pub fn two_tokens(way: Way) -> Scenario {
    let limits = Limits {
        crashes: 1,
        new_subscriptions: 2,
        cancellations: 1,
        ..Limits::default()
    };
    Scenario {
        tokens: 2,
        ..one_instance(way, limits)
    }
}

/// Keys are forgotten while deliveries come again and sweeps freeze.
pub fn purging(way: Way) -> Scenario {
    let limits = Limits {
        connection_losses: 1,
        killed_sessions: 1,
        new_subscriptions: 1,
        cancellations: 1,
        expiries: 1,
        purges: 2,
        ..Limits::default()
    };
    Scenario {
        queue: vec![Key::A, Key::A],
        ..one_instance(way, limits)
    }
}
