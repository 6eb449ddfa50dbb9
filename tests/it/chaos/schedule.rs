//! Which fault comes when: pure, and the same for the same seed.
//!
//! Faults come in rounds. A round holds every kind at least once, so that whoever counts rounds knows the least
//! number of each kind; their order, their victims and their lengths are the seed's. Knows nothing of servers.

use std::time::Duration;

use crate::crash::shop::Random;

/// What a daemon has a way to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Far {
    Database,
    Rabbitmq,
    Kafka,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `kill -9` of a daemon, and its start again.
    DaemonKill,
    /// `SIGSTOP` of a daemon, and `SIGCONT`.
    DaemonFreeze,
    /// SIGTERM, and its start again: its partitions and its queue go to others and come back.
    DaemonLeaves,
    /// The same, and it comes back with a clock that is wrong by hours, or right again.
    Clock,
    /// The same, with another configuration.
    Configuration,
    /// The same, as another build.
    Version,
    /// A stranger joins a group of consumers, takes what it is given, commits nothing and leaves.
    Rebalance,
    EngineKill,
    EngineFreeze,
    RabbitmqKill,
    RabbitmqFreeze,
    KafkaKill,
    KafkaFreeze,
    /// As an administrator restarts PostgreSQL: sessions are ended, the rest is in order.
    DatabaseRestart,
    /// `kill -9` of all its processes, and crash recovery.
    DatabaseCrash,
    /// There is no room for another page of any of Sluice's tables.
    DiskFull,
    /// All connections of one daemon to this server are closed.
    Cut(Far),
    /// Everything between the two comes late.
    Slow(Far),
    /// What the daemon asks, what the server answers, or both, is swallowed.
    HalfOpen(Far),
    /// The same with all servers at once, as if the daemon's machine were gone.
    Vanished,
}

/// A kind, and how often a deck has it. A round is shuffled from one deck or several.
const DECK: [(Kind, usize); 26] = [
    (Kind::DaemonKill, 2),
    (Kind::DaemonFreeze, 1),
    (Kind::DaemonLeaves, 1),
    (Kind::Clock, 1),
    (Kind::Configuration, 1),
    (Kind::Version, 1),
    (Kind::Rebalance, 1),
    (Kind::EngineKill, 1),
    (Kind::EngineFreeze, 1),
    (Kind::RabbitmqKill, 1),
    (Kind::RabbitmqFreeze, 1),
    (Kind::KafkaKill, 1),
    (Kind::KafkaFreeze, 1),
    (Kind::DatabaseRestart, 1),
    (Kind::DatabaseCrash, 1),
    (Kind::DiskFull, 1),
    (Kind::Cut(Far::Database), 1),
    (Kind::Cut(Far::Rabbitmq), 1),
    (Kind::Cut(Far::Kafka), 1),
    (Kind::Slow(Far::Database), 1),
    (Kind::Slow(Far::Rabbitmq), 1),
    (Kind::Slow(Far::Kafka), 1),
    (Kind::HalfOpen(Far::Database), 1),
    (Kind::HalfOpen(Far::Rabbitmq), 1),
    (Kind::HalfOpen(Far::Kafka), 1),
    (Kind::Vanished, 1),
];

/// Pause between the beginnings of two faults: shorter than most faults last, so that some overlap.
const PAUSE_MS: (u64, u64) = (200, 1_700);

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub kind: Kind,
    /// Any number: which of several victims it is.
    pub victim: usize,
    /// How long it lasts before it is mended; what the mending takes comes on top.
    pub lasts: Duration,
    /// Any number: what else the fault may choose.
    pub choice: usize,
}

/// A fault and when it begins, from the round's beginning on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub at: Duration,
    pub fault: Fault,
}

impl Kind {
    /// As it stands in the figures.
    pub fn name(self) -> String {
        let of = |what: &str, far: Far| format!("{what}_{}", far.name());
        let name = match self {
            Kind::DaemonKill => "daemon_kill",
            Kind::DaemonFreeze => "daemon_freeze",
            Kind::DaemonLeaves => "daemon_leaves",
            Kind::Clock => "clock",
            Kind::Configuration => "configuration",
            Kind::Version => "version",
            Kind::Rebalance => "rebalance",
            Kind::EngineKill => "engine_kill",
            Kind::EngineFreeze => "engine_freeze",
            Kind::RabbitmqKill => "rabbitmq_kill",
            Kind::RabbitmqFreeze => "rabbitmq_freeze",
            Kind::KafkaKill => "kafka_kill",
            Kind::KafkaFreeze => "kafka_freeze",
            Kind::DatabaseRestart => "database_restart",
            Kind::DatabaseCrash => "database_crash",
            Kind::DiskFull => "disk_full",
            Kind::Cut(far) => return of("cut", far),
            Kind::Slow(far) => return of("slow", far),
            Kind::HalfOpen(far) => return of("half_open", far),
            Kind::Vanished => "vanished",
        };
        name.to_owned()
    }

    /// The shortest and the longest time for which it is left as it is, in milliseconds.
    fn lasts_ms(self) -> (u64, u64) {
        match self {
            Kind::DaemonKill
            | Kind::DaemonLeaves
            | Kind::Clock
            | Kind::Configuration
            | Kind::Version => (0, 1_500),
            // Longer than a session of the database may be idle, and than a Kafka session.
            Kind::DaemonFreeze => (500, 7_000),
            Kind::EngineKill | Kind::RabbitmqKill | Kind::KafkaKill => (0, 1_000),
            // Longer than a job's lock.
            Kind::EngineFreeze => (500, 5_000),
            // Longer than the heartbeat allows.
            Kind::RabbitmqFreeze | Kind::KafkaFreeze => (500, 6_000),
            Kind::DatabaseRestart | Kind::DatabaseCrash => (0, 500),
            Kind::Rebalance | Kind::DiskFull => (1_000, 4_000),
            Kind::Cut(_) => (0, 1),
            Kind::Slow(_) => (500, 4_000),
            // Longer than statements, heartbeats and sessions may take.
            Kind::HalfOpen(_) | Kind::Vanished => (500, 8_000),
        }
    }
}

impl Far {
    pub fn name(self) -> &'static str {
        match self {
            Far::Database => "database",
            Far::Rabbitmq => "rabbitmq",
            Far::Kafka => "kafka",
        }
    }
}

/// Every kind, some more than once.
pub fn deck() -> Vec<Kind> {
    let kinds = DECK
        .iter()
        .flat_map(|&(kind, times)| std::iter::repeat_n(kind, times));
    kinds.collect()
}

/// As many faults, but of kinds with these names alone.
///
/// # Panics
/// On a name that is none.
pub fn deck_of(names: &[&str]) -> Vec<Kind> {
    let kind = |name: &&str| match DECK.iter().find(|(kind, _)| kind.name() == *name) {
        Some((kind, _)) => *kind,
        None => panic!(
            "{name} is no kind of fault, expected some of {:?}",
            deck().into_iter().map(Kind::name).collect::<Vec<_>>()
        ),
    };
    let kinds: Vec<Kind> = names.iter().map(kind).collect();
    kinds.into_iter().cycle().take(deck().len()).collect()
}

/// The faults of a round by its number, one of each in this deck, in the order of their beginning.
pub fn round(seed: u64, number: u64, deck: &[Kind]) -> Vec<Step> {
    let mut random = Random(seed ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93));
    let mut kinds = deck.to_vec();
    random.shuffle(&mut kinds);
    let mut at = Duration::ZERO;
    let mut steps = Vec::with_capacity(kinds.len());
    for kind in kinds {
        at += between(&mut random, PAUSE_MS);
        let fault = Fault {
            kind,
            victim: random.below(1 << 16),
            lasts: between(&mut random, kind.lasts_ms()),
            choice: random.below(1 << 16),
        };
        steps.push(Step { at, fault });
    }
    steps
}

fn between(random: &mut Random, (from_ms, to_ms): (u64, u64)) -> Duration {
    let span = usize::try_from(to_ms - from_ms).expect("a few seconds");
    Duration::from_millis(from_ms + random.below(span) as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{DECK, Kind, deck, deck_of, round};

    #[test]
    fn the_same_seed_gives_the_same_schedule_and_another_one_another() {
        let deck = deck();
        assert_eq!(round(7, 3, &deck), round(7, 3, &deck));
        assert_ne!(round(7, 3, &deck), round(8, 3, &deck));
        assert_ne!(
            round(7, 3, &deck),
            round(7, 4, &deck),
            "every round is another"
        );
    }

    #[test]
    fn a_round_holds_every_kind_and_goes_forward_in_time() {
        for number in 0..50 {
            let steps = round(1, number, &deck());
            assert_eq!(steps.len(), deck().len());
            assert!(steps.is_sorted_by_key(|step| step.at));
            let kinds: BTreeSet<_> = steps.iter().map(|step| step.fault.kind).collect();
            assert_eq!(kinds.len(), DECK.len());
        }
    }

    #[test]
    fn a_deck_of_some_kinds_has_no_others_and_is_as_large() {
        let some = deck_of(&["daemon_kill", "engine_kill"]);
        assert_eq!(some.len(), deck().len());
        let kinds: BTreeSet<_> = some.into_iter().collect();
        assert_eq!(kinds, [Kind::DaemonKill, Kind::EngineKill].into());
    }
}
