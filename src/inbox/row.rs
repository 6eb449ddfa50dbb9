//! Rows as the intake and the sweeps write, take and change them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::state::{State, StateName};
use crate::message::Hash;
use crate::units::Span;

/// A row's id: a UUID of version 7, made by the node that accepts the message, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RowId(pub Uuid);

impl RowId {
    pub fn fresh() -> Self {
        Self(Uuid::now_v7())
    }
}

impl std::fmt::Display for RowId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A row to be born in its final state.
#[derive(Debug, Clone)]
pub struct NewRow {
    pub id: RowId,
    pub source: String,
    /// `None`: no route took it.
    pub route: Option<String>,
    pub engine: Option<String>,
    pub key: UniqueKey,
    /// The key as people know it.
    pub dedup_key: String,
    pub payload_hash: Hash,
    pub payload: bytes::Bytes,
    /// [`crate::message::Envelope`] as JSON.
    pub envelope: Vec<u8>,
    /// Kafka's coordinates; tells a record read again from one sent again.
    pub coordinates: Option<String>,
    /// Milliseconds since 1970 by the broker's or the producer's clock; for people and latency only.
    pub sent_at: Option<i64>,
    pub target: Target,
    pub order: Option<OrderKey>,
    pub epoch: i64,
    pub attempts: i32,
    pub state: State,
}

/// What the unique index holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UniqueKey {
    pub scope: String,
    pub hash: Hash,
    /// `None` for the first message of a key; the payload's hash for another payload under the same key.
    pub conflict: Option<Hash>,
}

/// What wakes a waiting row: columns of its own, because the wake join reads them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    pub message_name: Option<String>,
    pub business_key: Option<String>,
    /// The engine's wake join finds the row by these two as soon as somebody waits for it.
    pub announced: bool,
}

/// Messages of one order key are handed over one after the other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderKey {
    pub scope: String,
    pub key: String,
}

impl OrderKey {
    /// The longest that every database's index takes, in bytes.
    const LONGEST: usize = 2000;

    /// Whether every database can hold it; a living row with one that cannot be held is refused.
    pub fn is_storable(&self) -> bool {
        !self.key.contains('\0') && self.key.len() <= Self::LONGEST
    }
}

/// The row that already holds a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Existing {
    pub id: RowId,
    pub key: UniqueKey,
    pub payload_hash: Hash,
    pub state: StateName,
    pub reason: Option<String>,
    pub epoch: i64,
    pub coordinates: Option<String>,
}

/// A row that the sweeper or an operator took to drive it again; locked until the transaction ends.
#[derive(Debug, Clone)]
pub struct StoredRow {
    pub id: RowId,
    pub source: String,
    pub route: Option<String>,
    pub key: UniqueKey,
    /// `None` after the payload's retention.
    pub payload: Option<bytes::Bytes>,
    pub envelope: Vec<u8>,
    pub reason: Option<String>,
    pub epoch: i64,
    pub attempts: i32,
    /// By the database's clock.
    pub expired: bool,
    /// Since it was accepted.
    pub age: Span,
    pub order: Option<OrderKey>,
    /// How long it could have gone on, where that is known: for the recovery histogram.
    pub overdue: Option<Span>,
}

/// A change of one row; made only if the row still has this state and epoch.
#[derive(Debug, Clone)]
pub struct Change {
    pub id: RowId,
    pub from: StateName,
    /// The epoch that the row must still have.
    pub epoch: i64,
    /// The epoch that it gets: one more, so that whoever looked at it before changes nothing.
    pub new_epoch: i64,
    /// Added to the attempts that the row used.
    pub attempts_used: i32,
    /// The engine and what wakes the row; written again on every drive, because the mapping may have
    /// been mended.
    pub target: Option<(Option<String>, Target)>,
    pub state: State,
}

/// What a waiting row turned out to be that was born dead: another configuration makes a message of it.
#[derive(Debug, Clone, Copy)]
pub struct Rekey<'a> {
    pub id: RowId,
    /// The epoch that the row must still have.
    pub epoch: i64,
    pub route: &'a str,
    pub key: &'a UniqueKey,
    /// The key as people know it.
    pub dedup_key: &'a str,
    /// Of the payload as it is read today.
    pub payload_hash: Hash,
    /// Under the order key that it was born with it keeps its place; under another it is the last.
    pub order: Option<&'a OrderKey>,
}

/// What was taken.
#[derive(Debug, Default)]
pub struct Taken {
    pub rows: Vec<StoredRow>,
    /// Something was changed on the way: the transaction is worth a commit even without a row.
    pub changed: bool,
}

/// Which waiting rows to take.
#[derive(Debug, Clone)]
pub enum Take<'a> {
    /// Whose due time has come, of these routes, the oldest first; an ordered row only when it is its key's
    /// head. Without any route: those that no route took, and that an operator made due. On `PostgreSQL`, where more is due than fits, half of every other page may be such as
    /// somebody waits for; and what is due behind another gives its due time back, if the transaction is committed.
    Due {
        routes: &'a [String],
        limit: i64,
        /// Bytes of payloads and envelopes after which no further row is taken.
        bytes: i64,
    },
    /// These, if they still wait, are not behind another of their order key, and nobody else holds them;
    /// after so many bytes no further row is taken.
    Rows { rows: &'a [Woken], bytes: i64 },
}

/// A waiting row that may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Woken {
    pub row: RowId,
    /// For how long it could have, where that is known.
    pub overdue: Option<Span>,
}

impl Take<'_> {
    /// Of rows that are taken by their ids, only who asks for them knows for how long they could have gone on.
    pub(super) fn tell_overdue(&self, taken: &mut [StoredRow]) {
        if let Self::Rows { rows, .. } = self {
            for row in taken {
                let woken = rows.iter().find(|woken| woken.row == row.id);
                row.overdue = woken.and_then(|woken| woken.overdue);
            }
        }
    }
}

impl Woken {
    /// `overdue` is not known.
    pub fn of(row: RowId) -> Self {
        Self { row, overdue: None }
    }
}
