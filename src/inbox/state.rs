//! What a row is, or becomes.

use serde::{Deserialize, Serialize};

use crate::message::{DeadReason, WaitReason};
use crate::units::Span;

/// What a row is, or becomes, with everything that the state needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Waiting {
        reason: WaitReason,
        detail: String,
        /// When the sweeper looks again, from now, whatever wakes it before; no later than the ttl is used
        /// up. Of no meaning for a row that is behind another of its order key: it is due when that one is
        /// finished.
        due_in: Span,
        expires: Expires,
    },
    /// A correlation job is written and its receipt is not seen yet.
    Handed,
    /// The effect is committed and proven, or the route says to ignore the message.
    Done {
        detail: String,
        process_instance_id: Option<String>,
    },
    /// Will not be driven again unless an operator says so.
    Dead { reason: DeadReason, detail: String },
}

/// What a change does to the time at which a waiting row expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expires {
    /// The ttl does not run in this state.
    Never,
    /// As it is; begins now where it did not run.
    Within(Span),
}

/// The names of the states, as they stand in the table, the metrics and the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    Waiting,
    Handed,
    Done,
    Dead,
    /// A state that only a newer version of Sluice knows; its rows are counted and left alone.
    Other,
}

impl StateName {
    /// Those that this version writes.
    pub const ALL: [Self; 4] = [Self::Waiting, Self::Handed, Self::Done, Self::Dead];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Handed => "handed",
            Self::Done => "done",
            Self::Dead => "dead",
            Self::Other => "other",
        }
    }

    /// The state of a stored row.
    pub fn parse(word: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == word)
            .unwrap_or(Self::Other)
    }
}

impl State {
    /// Whether an engine that has something to write for the row writes it in the same transaction.
    pub fn has_effect(&self) -> bool {
        matches!(self, Self::Handed | Self::Done { .. })
    }

    pub fn name(&self) -> StateName {
        match self {
            Self::Waiting { .. } => StateName::Waiting,
            Self::Handed => StateName::Handed,
            Self::Done { .. } => StateName::Done,
            Self::Dead { .. } => StateName::Dead,
        }
    }

    /// The word in the column `reason`.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Waiting { reason, .. } => Some(reason.as_str()),
            Self::Dead { reason, .. } => Some(reason.as_str()),
            Self::Handed | Self::Done { .. } => None,
        }
    }

    pub fn process_instance_id(&self) -> Option<&str> {
        match self {
            Self::Done {
                process_instance_id,
                ..
            } => process_instance_id.as_deref(),
            Self::Waiting { .. } | Self::Handed | Self::Dead { .. } => None,
        }
    }

    pub fn detail(&self) -> &str {
        match self {
            Self::Waiting { detail, .. }
            | Self::Dead { detail, .. }
            | Self::Done { detail, .. } => detail,
            Self::Handed => "",
        }
    }
}
