//! From the engine's outcome and the route's patience to the row's state. Pure.

use std::time::Duration;

use crate::backoff::attempt_delay;
use crate::engine::Outcome;
use crate::inbox::{Expires, State};
use crate::message::{DeadReason, WaitReason};
use crate::route::{Route, Then};
use crate::units::Span;

/// What the row went through before this look; the default is a message that has just arrived.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Past {
    pub attempts: i32,
    /// Its ttl is used up, by the database's clock. This was its last look.
    pub expired: bool,
    /// Since it was accepted.
    pub age: Span,
}

/// What becomes of the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub state: State,
    pub attempts_used: i32,
}

impl Verdict {
    pub fn free(state: State) -> Self {
        Self {
            state,
            attempts_used: 0,
        }
    }
}

/// `announced`: the engine's wake finds the row by itself, so that looking again is only a safety net.
pub(super) fn verdict(route: &Route, outcome: &Outcome, past: Past, announced: bool) -> Verdict {
    match outcome {
        // Handed in vain again and again: somebody waits each time, and is gone each time.
        Outcome::Hand if past.attempts >= i32::from(route.attempts.max) => {
            Verdict::free(State::Dead {
                reason: DeadReason::Attempts,
                detail: format!("handed in vain {} times", past.attempts),
            })
        }
        Outcome::Hand => Verdict::free(State::Handed),
        Outcome::Effect {
            process_instance_id,
        } => Verdict::free(State::Done {
            detail: String::new(),
            process_instance_id: process_instance_id.clone(),
        }),
        Outcome::Nobody => wait(route, WaitReason::NoSubscription, "", past, announced),
        Outcome::Wait { reason, detail } => wait(route, *reason, detail, past, announced),
        Outcome::Dead { reason, detail } => Verdict::free(State::Dead {
            reason: *reason,
            detail: detail.clone(),
        }),
    }
}

/// A row that waits, or whose waiting is over.
pub(super) fn wait(
    route: &Route,
    reason: WaitReason,
    detail: &str,
    past: Past,
    announced: bool,
) -> Verdict {
    let attempts_used = i32::from(reason.uses_attempt());
    let attempts = past.attempts + attempts_used;
    let state = if past.expired && reason.ttl_runs() {
        expired(route, reason, detail)
    } else if reason.uses_attempt() && attempts >= i32::from(route.attempts.max) {
        State::Dead {
            reason: DeadReason::Attempts,
            detail: format!("{} after {attempts} attempts: {detail}", reason.as_str()),
        }
    } else {
        State::Waiting {
            reason,
            detail: detail.to_owned(),
            due_in: due_in(route, reason, attempts, past.age, announced),
            expires: match route.patience.ttl {
                Some(ttl) if reason.ttl_runs() => Expires::Within(ttl),
                _ => Expires::Never,
            },
        }
    };
    Verdict {
        state,
        attempts_used,
    }
}

fn expired(route: &Route, reason: WaitReason, detail: &str) -> State {
    match route.patience.then {
        Then::Dead(dead) => State::Dead {
            reason: dead,
            detail: format!("{} {detail}", reason.as_str())
                .trim_end()
                .to_owned(),
        },
        Then::Ignore => State::Done {
            detail: format!("ignored: {}", reason.as_str()),
            process_instance_id: None,
        },
    }
}

/// When the sweeper looks again, whatever wakes the row before. Never at once: a page of rows that all
/// wait on must not be taken again and again.
fn due_in(route: &Route, reason: WaitReason, attempts: i32, age: Span, announced: bool) -> Span {
    let safety_net = Span((age.0 / 10).clamp(Duration::from_mins(1), Duration::from_hours(1)));
    match reason {
        // The engine's wake sees who waits, but not a new definition that the message would start.
        WaitReason::NoSubscription | WaitReason::UnknownMessage
            if announced && route.start_if_nobody =>
        {
            Span::secs(60)
        }
        WaitReason::NoSubscription | WaitReason::UnknownMessage if announced => safety_net,
        // Nothing tells when to look: the longer it has waited, the less a little longer matters.
        WaitReason::NoSubscription | WaitReason::UnknownMessage | WaitReason::EngineDown => {
            Span((age.0 / 10).clamp(Duration::from_secs(1), Duration::from_secs(30)))
        }
        WaitReason::Ambiguous | WaitReason::Unsupported | WaitReason::Retry => {
            attempt_delay(&route.attempts, attempts)
        }
        WaitReason::Early | WaitReason::Ordered => Span::secs(1),
        // The engine's wake brings these, in their order; being due would only mix it up.
        WaitReason::Backlog => safety_net,
        WaitReason::Busy => Span::secs(2),
        WaitReason::Held => Span::secs(5),
        WaitReason::Blocked => Span::secs(10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(extra: &str) -> Route {
        let toml = format!(
            "source='s'\nengine='e'\nattempts={{max=2}}\n[correlate]\nmessage_name='M'\n{extra}"
        );
        Route::new("r", toml::from_str(&toml).expect("a valid route"))
    }

    fn of(route: &Route, reason: WaitReason, past: Past) -> State {
        wait(route, reason, "why", past, true).state
    }

    #[test]
    fn the_ttl_runs_only_while_nothing_but_the_engines_answer_is_missing() {
        let route = route("ttl='1m'");
        let used_up = Past {
            expired: true,
            ..Past::default()
        };
        for reason in WaitReason::ALL {
            let waits = matches!(of(&route, reason, used_up), State::Waiting { .. });
            assert_eq!(waits, !reason.ttl_runs(), "{}", reason.as_str());
            if let State::Waiting { expires, .. } = of(&route, reason, Past::default()) {
                let runs = expires == Expires::Within(Span::secs(60));
                assert_eq!(runs, reason.ttl_runs(), "{}", reason.as_str());
            }
        }
    }

    #[test]
    fn only_answers_about_the_message_use_attempts() {
        let route = route("");
        let last = Past {
            attempts: 1,
            ..Past::default()
        };
        for reason in WaitReason::ALL {
            let dead = matches!(
                of(&route, reason, last),
                State::Dead {
                    reason: DeadReason::Attempts,
                    ..
                }
            );
            assert_eq!(dead, reason.uses_attempt(), "{}", reason.as_str());
        }
    }

    #[test]
    fn the_safety_net_is_the_rarer_the_longer_a_row_has_waited() {
        let waits = |extra: &str, reason, age: Duration, announced| {
            let past = Past {
                age: Span(age),
                ..Past::default()
            };
            match wait(&route(extra), reason, "why", past, announced).state {
                State::Waiting { due_in, .. } => due_in.0.as_secs(),
                state => panic!("{state:?}"),
            }
        };
        let nobody = WaitReason::NoSubscription;
        let (hour, day) = (Duration::from_hours(1), Duration::from_hours(24));
        for reason in [nobody, WaitReason::UnknownMessage] {
            assert_eq!(waits("", reason, Duration::ZERO, true), 60);
            assert_eq!(waits("", reason, hour, true), 360);
            assert_eq!(waits("", reason, day, true), 3600);
            assert_eq!(waits("", reason, day, false), 30);
            assert_eq!(waits("on_no_match='start'", reason, day, true), 60);
        }
        assert_eq!(waits("", WaitReason::Backlog, day, false), 3600);
    }

    #[test]
    fn no_row_is_due_at_once() {
        for reason in WaitReason::ALL {
            for announced in [false, true] {
                let state = wait(&route(""), reason, "why", Past::default(), announced).state;
                let State::Waiting { due_in, .. } = state else {
                    panic!("{state:?}");
                };
                assert!(
                    due_in.0 >= Duration::from_millis(500),
                    "{}",
                    reason.as_str()
                );
            }
        }
    }

    #[test]
    fn the_second_look_decides_what_nobody_waited_for() {
        let past = Past {
            expired: true,
            ..Past::default()
        };
        let nobody = |extra: &str| verdict(&route(extra), &Outcome::Nobody, past, true).state;
        assert!(matches!(
            nobody("on_no_match='dead'"),
            State::Dead {
                reason: DeadReason::NoMatch,
                ..
            }
        ));
        assert!(matches!(nobody("on_no_match='ignore'"), State::Done { .. }));
        assert!(matches!(
            nobody("ttl='1s'"),
            State::Dead {
                reason: DeadReason::Expired,
                ..
            }
        ));
    }
}
