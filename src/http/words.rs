//! What the words of the inbox mean, for people who did not write the program.

use crate::message::{DeadReason, WaitReason};
use crate::metrics::DuplicateCause;

/// The meaning of a row's reason, and whether somebody should look at it; both empty for an unknown one,
/// which a newer version may have written.
pub(super) fn reason(word: &str) -> (&'static str, bool) {
    let wait = WaitReason::ALL
        .into_iter()
        .find(|known| known.as_str() == word);
    let dead = DeadReason::ALL
        .into_iter()
        .find(|known| known.as_str() == word);
    match (wait, dead) {
        (Some(reason), _) => (waiting(reason), needs_somebody(reason)),
        (None, Some(reason)) => (dead_because(reason), true),
        (None, None) => ("", false),
    }
}

fn waiting(reason: WaitReason) -> &'static str {
    match reason {
        WaitReason::NoSubscription => "nobody waits for it yet",
        WaitReason::Early => "our own start for its business key has not run yet",
        WaitReason::UnknownMessage => "no deployed model has its message name",
        WaitReason::Ambiguous => "several executions match",
        WaitReason::Unsupported => "several subscriptions of one name, and a payload",
        WaitReason::Busy => "another message is pending for the same subscription",
        WaitReason::Blocked => "what it waits for does not run by itself",
        WaitReason::Backlog => "the engine has enough unfinished jobs of ours",
        WaitReason::Ordered => "an earlier message of its key is not finished",
        WaitReason::Held => "no node that looked has its engine configured",
        WaitReason::EngineDown => "a statement of its engine cannot be prepared",
        WaitReason::Retry => "the engine refused it, or it was redriven; another attempt is due",
    }
}

fn needs_somebody(reason: WaitReason) -> bool {
    matches!(
        reason,
        WaitReason::UnknownMessage
            | WaitReason::Ambiguous
            | WaitReason::Unsupported
            | WaitReason::Blocked
            | WaitReason::Held
            | WaitReason::EngineDown
    )
}

fn dead_because(reason: DeadReason) -> &'static str {
    match reason {
        DeadReason::NotJson => "the payload is not JSON",
        DeadReason::Encoding => "its content encoding cannot be undone",
        DeadReason::Unrouted => "no route takes it",
        DeadReason::NoKey => "its dedup key has no value",
        DeadReason::Mapping => "a field is missing or has the wrong type",
        DeadReason::ValueTooLong => "a value does not fit the engine's columns",
        DeadReason::Conflict => "its key came before with another payload",
        DeadReason::Unstorable => "the database refused it",
        DeadReason::NoMatch => "nobody waited, and the route says dead",
        DeadReason::Expired => "its time to live was used up",
        DeadReason::Attempts => "its attempts were used up",
        DeadReason::Refused => "the engine can never take it",
        DeadReason::InDoubt => "nothing proves whether it had its effect",
    }
}

/// Why the same message came again.
pub(super) fn cause(cause: DuplicateCause) -> &'static str {
    match cause {
        DuplicateCause::Redelivered => "RabbitMQ delivered it before",
        DuplicateCause::Rebalance => "Kafka: read again after a restart or rebalance",
        DuplicateCause::Reread => "Kafka: read again because the database was behind",
        DuplicateCause::Resend => "sent again with the same key",
        DuplicateCause::OfDead => "its first one is dead: redrive that one",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_and_cause_has_words_of_its_own() {
        let waits = WaitReason::ALL.map(|known| reason(known.as_str()).0);
        let deaths = DeadReason::ALL.map(|known| reason(known.as_str()).0);
        let causes = DuplicateCause::ALL.map(cause);
        let all = [&waits[..], &deaths[..], &causes[..]].concat();
        let distinct: BTreeSet<&str> = all.iter().copied().collect();
        assert!(!distinct.contains(""), "{all:?}");
        assert_eq!(distinct.len(), all.len(), "{all:?}");
    }

    #[test]
    fn what_waits_without_end_until_somebody_acts_says_so() {
        for (word, of) in [("held", "engine"), ("engine_down", "engine")] {
            let (meaning, needs_somebody) = reason(word);
            assert!(needs_somebody && meaning.contains(of), "{word}: {meaning}");
        }
        assert_eq!(reason("of a newer version"), ("", false));
    }
}
