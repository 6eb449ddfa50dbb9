//! The words for why a row waits or is dead: columns, labels of metrics, and what people read.

/// Why a row is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeadReason {
    /// The payload is not JSON, though the route's mapping reads it.
    NotJson,
    /// The payload's content encoding is unknown, broken, or hides more than is allowed.
    Encoding,
    /// No route of the source takes it.
    Unrouted,
    /// The dedup key has no value.
    NoKey,
    /// A field that the mapping needs is missing or has the wrong type.
    Mapping,
    /// A value that the engine's columns cannot hold.
    ValueTooLong,
    /// The same dedup key came before with another payload.
    Conflict,
    /// The database refused the row for its data, or it failed again and again alone.
    Unstorable,
    /// Nobody waited, and the route says `on_no_match = "dead"`.
    NoMatch,
    /// The time to live was used up.
    Expired,
    /// The attempts were used up.
    Attempts,
    /// The engine cannot take it, whatever its state; the detail says why.
    Refused,
    /// Its correlation job is gone, and nothing proves whether it had its effect.
    InDoubt,
}

impl DeadReason {
    pub const ALL: [Self; 13] = [
        Self::NotJson,
        Self::Encoding,
        Self::Unrouted,
        Self::NoKey,
        Self::Mapping,
        Self::ValueTooLong,
        Self::Conflict,
        Self::Unstorable,
        Self::NoMatch,
        Self::Expired,
        Self::Attempts,
        Self::Refused,
        Self::InDoubt,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::Encoding => "encoding",
            Self::Unrouted => "unrouted",
            Self::NoKey => "no_key",
            Self::Mapping => "mapping",
            Self::ValueTooLong => "value_too_long",
            Self::Conflict => "conflict",
            Self::Unstorable => "unstorable",
            Self::NoMatch => "no_match",
            Self::Expired => "expired",
            Self::Attempts => "attempts",
            Self::Refused => "refused",
            Self::InDoubt => "in_doubt",
        }
    }
}

/// Why a row waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WaitReason {
    NoSubscription,
    /// Our own start for its business key has not run yet.
    Early,
    /// No deployed model has the message name.
    UnknownMessage,
    /// Several executions or definitions match.
    Ambiguous,
    /// A payload for one of several subscriptions of the same name.
    Unsupported,
    /// Another message is pending for the same subscription.
    Busy,
    /// What it waits for will not run by itself: no retries left, or suspended.
    Blocked,
    /// `max_backlog` of our own runnable jobs are unfinished.
    Backlog,
    /// An earlier message of its order key is not finished.
    Ordered,
    /// Its engine is not configured on the node that looked. It waits without end, because another node's
    /// configuration may have the engine, as while nodes are updated one by one.
    Held,
    /// A statement of the engine `sql` cannot be prepared: a table or a right is missing. No attempt is used.
    EngineDown,
    /// The engine answered no, or somebody wants it driven again; another attempt is due.
    Retry,
}

impl WaitReason {
    pub const ALL: [Self; 12] = [
        Self::NoSubscription,
        Self::Early,
        Self::UnknownMessage,
        Self::Ambiguous,
        Self::Unsupported,
        Self::Busy,
        Self::Blocked,
        Self::Backlog,
        Self::Ordered,
        Self::Held,
        Self::EngineDown,
        Self::Retry,
    ];

    /// Those that last until the row is due, though somebody may wait for it: it was answered no, or is held.
    pub const UNTIL_DUE: [Self; 4] = [Self::Ambiguous, Self::Unsupported, Self::Retry, Self::Held];

    /// Those in which a row becomes due only for safety or to ask again: nobody waits for it, or the engine's
    /// wake brings it.
    pub const SAFETY_NET: [Self; 3] = [Self::NoSubscription, Self::UnknownMessage, Self::Backlog];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSubscription => "no_subscription",
            Self::Early => "early",
            Self::UnknownMessage => "unknown_message",
            Self::Ambiguous => "ambiguous",
            Self::Unsupported => "unsupported",
            Self::Busy => "busy",
            Self::Blocked => "blocked",
            Self::Backlog => "backlog",
            Self::Ordered => "ordered",
            Self::Held => "held",
            Self::EngineDown => "engine_down",
            Self::Retry => "retry",
        }
    }

    /// Whether a look that ended with this reason used up an attempt: only an answer about *this* message does.
    pub fn uses_attempt(self) -> bool {
        matches!(self, Self::Ambiguous | Self::Unsupported | Self::Retry)
    }

    /// Whether the message's time to live runs while it waits for this.
    pub fn ttl_runs(self) -> bool {
        match self {
            Self::NoSubscription
            | Self::UnknownMessage
            | Self::Ambiguous
            | Self::Unsupported
            | Self::Blocked
            | Self::Retry => true,
            Self::Early
            | Self::Busy
            | Self::Backlog
            | Self::Ordered
            | Self::Held
            | Self::EngineDown => false,
        }
    }
}
