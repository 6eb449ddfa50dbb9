//! The inbox as people see it: counts, nodes, and rows by a filter.

use serde::Serialize;
use uuid::Uuid;

use super::row::RowId;
use super::state::StateName;
use crate::units::Span;

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

/// How far a consumer group has come in a partition, as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PositionView {
    pub source: String,
    pub topic: String,
    pub partition: i32,
    /// Every record below it is stored.
    pub next_offset: i64,
    /// Records that are stored beyond a gap, which a batch under way will close.
    pub ahead: i64,
    /// The time of the highest record that is stored, in milliseconds since 1970.
    pub record_at_ms: Option<i64>,
    pub group_id: String,
    pub cluster_id: String,
    /// How often it was assigned.
    pub epoch: i64,
    /// RFC 3339, by the database's clock.
    pub changed_at: String,
}
