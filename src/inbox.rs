//! The inbox: the table that owns every accepted message, and the statements on it.
//!
//! One implementation per database ([`postgres`], [`sqlite`]) behind one contract, [`Inbox`]; one
//! conformance suite runs every behaviour on both. Knows no broker and no engine: an engine gets the
//! transaction and writes its own rows. Invariant: every change of a row compares its state and epoch,
//! and only the database's clock decides due times and expiry.

pub mod postgres;
pub mod sqlite;

mod error;
mod span;
mod text;

pub use error::{Class, DbError};

use std::future::Future;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::message::{DeadReason, Hash, WaitReason};
use crate::source::Finding;
use crate::units::Span;

/// `[inbox]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InboxConfig {
    /// `postgres://user:password@host/database` or `sqlite:path/to/file.db`.
    #[schemars(with = "String")]
    pub url: SecretString,
    /// `PostgreSQL`: the schema of Sluice's own tables.
    #[serde(default = "default_schema")]
    pub schema: String,
    #[serde(default)]
    pub retention: Retention,
    /// `PostgreSQL`: connections of this node, all together.
    #[serde(default = "default_connections")]
    pub connections: u32,
    /// Sessions are ended by the server after this long without a statement inside a transaction,
    /// so that a frozen node holds no row for longer.
    #[serde(default = "default_idle_in_transaction_timeout")]
    pub idle_in_transaction_timeout: Span,
    /// How long one statement may wait for a lock; on `PostgreSQL` less than `statement_timeout`.
    #[serde(default = "default_lock_timeout")]
    pub lock_timeout: Span,
    /// How long one statement may run.
    #[serde(default = "default_statement_timeout")]
    pub statement_timeout: Span,
    /// `PostgreSQL`: when a commit counts. `on` waits for the synchronous standbys, where there are any.
    #[serde(default)]
    pub synchronous_commit: SynchronousCommit,
}

/// `PostgreSQL`'s own setting of that name; `off` is not offered, because it loses acknowledged messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SynchronousCommit {
    #[default]
    On,
    RemoteApply,
    RemoteWrite,
    Local,
}

impl SynchronousCommit {
    pub fn as_sql(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::RemoteApply => "remote_apply",
            Self::RemoteWrite => "remote_write",
            Self::Local => "local",
        }
    }
}

/// How long rows are kept, counted from *done*. Dead rows stay until an operator discards them.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// The payload and the headers.
    #[serde(default = "default_payload_retention")]
    pub payload: Span,
    /// The dedup key: as long as this, a resend is recognised.
    #[serde(default = "default_key_retention")]
    pub key: Span,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            payload: default_payload_retention(),
            key: default_key_retention(),
        }
    }
}

fn default_schema() -> String {
    "sluice".to_owned()
}
fn default_connections() -> u32 {
    8
}
fn default_idle_in_transaction_timeout() -> Span {
    Span::secs(5)
}
fn default_lock_timeout() -> Span {
    Span::secs(5)
}
fn default_statement_timeout() -> Span {
    Span::secs(30)
}
fn default_payload_retention() -> Span {
    Span::days(3)
}
fn default_key_retention() -> Span {
    Span::days(30)
}

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
    /// Under the order key that it was born with it keeps its place; under another it is the last.
    pub order: Option<&'a OrderKey>,
}

/// Which waiting rows to take.
#[derive(Debug, Clone)]
pub enum Take<'a> {
    /// Whose due time has come, of these routes or of none, the oldest first; an ordered row only when it
    /// is its key's head.
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
    fn tell_overdue(&self, taken: &mut [StoredRow]) {
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

/// What purge did in one round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Purged {
    pub payloads: u64,
    pub keys: u64,
}

/// Rows of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Count {
    pub route: Option<String>,
    pub state: StateName,
    pub reason: Option<String>,
    pub rows: i64,
    /// Seconds since the oldest of them was accepted.
    pub oldest_age_seconds: f64,
}

/// This process, as other nodes and the status page see it.
#[derive(Debug, Clone)]
pub struct NodeIdentity {
    /// A fresh id at each start, never reused.
    pub incarnation: Uuid,
    pub name: String,
    pub version: String,
}

/// A node's row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Node {
    pub incarnation: Uuid,
    pub name: String,
    pub version: String,
    pub started_seconds_ago: f64,
    pub seen_seconds_ago: f64,
    pub duplicates: i64,
}

/// Which rows an operator means.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub route: Option<String>,
    pub state: Option<StateName>,
    pub reason: Option<String>,
    pub dedup_key: Option<String>,
    pub ids: Vec<RowId>,
    /// Accepted within the last …
    pub since: Option<Span>,
    /// Continue after this row (keyset paging, newest first).
    pub before: Option<RowId>,
    pub limit: i64,
}

/// A row as an operator sees it.
#[derive(Debug, Clone, Serialize)]
pub struct RowView {
    pub id: RowId,
    pub source: String,
    pub route: Option<String>,
    pub engine: Option<String>,
    pub scope: String,
    pub dedup_key: String,
    pub conflict: bool,
    pub state: StateName,
    pub reason: Option<String>,
    pub detail: String,
    pub epoch: i64,
    pub attempts: i32,
    pub message_name: Option<String>,
    pub business_key: Option<String>,
    pub process_instance_id: Option<String>,
    pub coordinates: Option<String>,
    /// RFC 3339, by the database's clock.
    pub received_at: String,
    pub changed_at: String,
    pub due_at: Option<String>,
    pub expires_at: Option<String>,
    pub payload_bytes: Option<i64>,
    /// Only `show` fills these two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envelope: Option<serde_json::Value>,
}

/// The statements on our own tables.
///
/// Every method's error is the database's, classified; none retries by itself.
pub trait Inbox: Clone + Send + Sync + 'static {
    /// A transaction of this database.
    type Tx: Send;

    /// Begins a transaction with the session limits set (`PostgreSQL`: READ COMMITTED; `SQLite`: IMMEDIATE).
    fn begin(&self) -> impl Future<Output = Result<Self::Tx, DbError>> + Send;

    fn commit(&self, tx: Self::Tx) -> impl Future<Output = Result<(), DbError>> + Send;

    /// Connections of this node: idle, and in use.
    fn connections(&self) -> (usize, usize);

    /// Whether the database answers and takes writes; what an outage waits for.
    fn probe(&self) -> impl Future<Output = Result<(), DbError>> + Send;

    /// Inserts in the order of the key's hash; returns the ids that are new.
    fn insert(
        &self,
        tx: &mut Self::Tx,
        rows: &[NewRow],
    ) -> impl Future<Output = Result<Vec<RowId>, DbError>> + Send;

    /// The rows that hold these keys.
    fn existing(
        &self,
        tx: &mut Self::Tx,
        keys: &[UniqueKey],
    ) -> impl Future<Output = Result<Vec<Existing>, DbError>> + Send;

    /// Takes the transaction lock on each of these, in a fixed order; returns those that have a row which is not finished.
    ///
    /// `blocking_dead`: scopes in which a dead row blocks its key.
    fn lock_order_keys(
        &self,
        tx: &mut Self::Tx,
        keys: &[OrderKey],
        blocking_dead: &[String],
    ) -> impl Future<Output = Result<Vec<OrderKey>, DbError>> + Send;

    /// Takes waiting rows and locks them until the transaction ends; rows that others hold are left out.
    fn take(
        &self,
        tx: &mut Self::Tx,
        take: Take<'_>,
        blocking_dead: &[String],
    ) -> impl Future<Output = Result<Vec<StoredRow>, DbError>> + Send;

    /// Changes rows by state and epoch; returns the ids that changed. The others are stale.
    fn change(
        &self,
        tx: &mut Self::Tx,
        changes: &[Change],
    ) -> impl Future<Output = Result<Vec<RowId>, DbError>> + Send;

    /// Gives a row that was born dead the route and the key of its message. A key that somebody else took is
    /// an error of class [`Class::Again`].
    fn rekey(
        &self,
        tx: &mut Self::Tx,
        rekey: Rekey<'_>,
    ) -> impl Future<Output = Result<(), DbError>> + Send;

    /// Adds to this node's counters in the transaction: a commit that only proves duplicates must write,
    /// or it would not wait for the standby that the first commit still waits for.
    fn count_duplicates(
        &self,
        tx: &mut Self::Tx,
        node: Uuid,
        duplicates: i64,
    ) -> impl Future<Output = Result<(), DbError>> + Send;

    /// One bounded round of purge.
    fn purge(
        &self,
        retention: Retention,
        limit: i64,
    ) -> impl Future<Output = Result<Purged, DbError>> + Send;

    /// Rows by route, state and reason, with the oldest age. Done rows are an estimate on `PostgreSQL`.
    fn counts(&self) -> impl Future<Output = Result<Vec<Count>, DbError>> + Send;

    /// Writes this node's row, and forgets nodes not seen for a day.
    fn beat(&self, node: &NodeIdentity) -> impl Future<Output = Result<(), DbError>> + Send;

    fn nodes(&self) -> impl Future<Output = Result<Vec<Node>, DbError>> + Send;

    /// Newest first; payload and envelope only with `bodies`.
    fn list(
        &self,
        filter: &Filter,
        bodies: bool,
    ) -> impl Future<Output = Result<Vec<RowView>, DbError>> + Send;

    /// Makes dead and waiting rows due now, with fresh attempts. Returns how many.
    fn redrive(&self, filter: &Filter) -> impl Future<Output = Result<u64, DbError>> + Send;

    /// Makes dead and waiting rows done (`discarded by operator`): the key stays for its retention. Returns how many.
    fn discard(&self, filter: &Filter) -> impl Future<Output = Result<u64, DbError>> + Send;

    /// Creates or upgrades our tables.
    fn migrate(&self) -> impl Future<Output = Result<Vec<String>, DbError>> + Send;

    /// Whether our tables are there and of a version that this program understands.
    fn schema_status(&self) -> impl Future<Output = Result<SchemaStatus, DbError>> + Send;

    /// What `sluice check --connect` prints about the database.
    fn inspect(&self) -> impl Future<Output = Result<Vec<Finding>, DbError>> + Send;
}

/// The state of our tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaStatus {
    Current,
    Missing,
    /// Some migrations are still to be run.
    Behind {
        version: i64,
        expected: i64,
    },
    /// A newer version of Sluice made it, and says that this version may not run on it.
    TooNew {
        version: i64,
    },
}

impl SchemaStatus {
    /// `version`: the newest migration that was run; `min_reader`: the oldest one that a program must know
    /// to run on what it left; `expected`: the newest one that this program knows.
    fn of(version: i64, min_reader: i64, expected: i64) -> Self {
        if version == 0 {
            Self::Missing
        } else if version < expected {
            Self::Behind { version, expected }
        } else if min_reader > expected {
            Self::TooNew { version }
        } else {
            Self::Current
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_runs_on_its_own_tables_and_on_newer_ones_that_allow_it() {
        assert_eq!(SchemaStatus::of(0, 0, 2), SchemaStatus::Missing);
        let behind = SchemaStatus::Behind {
            version: 1,
            expected: 2,
        };
        assert_eq!(SchemaStatus::of(1, 1, 2), behind);
        assert_eq!(SchemaStatus::of(2, 1, 2), SchemaStatus::Current);
        assert_eq!(SchemaStatus::of(3, 2, 2), SchemaStatus::Current);
        let too_new = SchemaStatus::TooNew { version: 4 };
        assert_eq!(SchemaStatus::of(4, 3, 2), too_new);
    }
}
