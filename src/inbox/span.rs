//! Lengths of time as the databases reckon with them.

use super::{Expires, State};
use crate::message::WaitReason;
use crate::units::Span;

/// Milliseconds that every database's time can take: a hundred years stand for ever.
pub(super) fn ms(span: Span) -> i64 {
    span.as_ms().min(100 * 366 * 24 * 3600 * 1000)
}

/// When a row of a state is due and expires, in milliseconds from now.
pub(super) struct Times {
    /// None of a row that waits behind another of its order key: it is due when that one is finished.
    pub due_in_ms: Option<i64>,
    pub expires_in_ms: Option<i64>,
}

impl Times {
    pub(super) fn of(state: &State) -> Self {
        match state {
            State::Waiting {
                reason,
                due_in,
                expires,
                ..
            } => Self {
                due_in_ms: (*reason != WaitReason::Ordered).then(|| ms(*due_in)),
                expires_in_ms: match expires {
                    Expires::Never => None,
                    Expires::Within(span) => Some(ms(*span)),
                },
            },
            State::Handed | State::Done { .. } | State::Dead { .. } => Self {
                due_in_ms: None,
                expires_in_ms: None,
            },
        }
    }
}
