//! What the status page and `/api/status` show: plain data at one moment.
//!
//! Names and words only, never a payload, a key or an id of a message.

use serde::Serialize;

use crate::inbox::{Count, Node};
use crate::metrics::DuplicateCause;

/// Everything that one node knows of itself and of the database that it shares.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    pub node: NodeStatus,
    pub readiness: Readiness,
    pub totals: Totals,
    pub sources: Vec<SourceStatus>,
    pub routes: Vec<RouteStatus>,
    pub engines: Vec<EngineStatus>,
    /// Rows by route, state and reason, of all nodes together.
    pub inbox: Vec<Count>,
    pub nodes: Vec<Node>,
    pub duplicates: Vec<DuplicateStatus>,
    /// The newest first.
    pub problems: Vec<Problem>,
}

/// Which process this is.
#[derive(Debug, Clone, Default, Serialize)]
pub struct NodeStatus {
    pub name: String,
    pub version: String,
    pub incarnation: uuid::Uuid,
    pub uptime_seconds: u64,
    pub draining: bool,
}

/// Whether the node does its work, and what is in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    pub ready: bool,
    pub reasons: Vec<Reason>,
}

/// One thing that is in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// Which part of the node: `inbox`, `source payments`, `engine shop`.
    pub part: String,
    pub reason: String,
}

/// A counter over time: messages a second.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Rate {
    /// Over the last seconds.
    pub per_second: f64,
    /// Since the process started.
    pub total: u64,
    /// One value a second, the oldest first; up to two minutes.
    pub history: Vec<f64>,
}

/// The sums of all routes and sources of this node.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Totals {
    pub deliveries: Rate,
    pub messages: Rate,
    pub duplicates: Rate,
    /// Rows that the sweeps of this node moved on.
    pub recovered: Rate,
    pub conflicts: u64,
    pub ack_failures: u64,
    pub stale_changes: u64,
    pub db_errors: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct SourceStatus {
    pub name: String,
    /// `rabbitmq` or `kafka`.
    pub kind: String,
    /// For people: the queue, or the topics and the group.
    pub detail: String,
    pub connected: bool,
    /// Why it takes nothing.
    pub paused: Option<String>,
    pub deliveries: Rate,
    pub redelivered: u64,
    /// Kafka only: records that are not read yet.
    pub lag: Option<u64>,
    pub reconnects: u64,
    pub ack_failures: u64,
    pub last_error: Option<Problem>,
}

#[derive(Debug, Clone, Serialize)]
pub struct RouteStatus {
    pub name: String,
    pub source: String,
    pub engine: String,
    /// All of its messages, duplicates included.
    pub messages: Rate,
    /// To the engine at once: handed or done in the commit that accepted them.
    pub through: Rate,
    pub duplicates: Rate,
    pub conflicts: u64,
    /// Of all nodes together, from the inbox.
    pub waiting: i64,
    pub handed: i64,
    pub done: i64,
    pub dead: i64,
    /// Of the rows that are neither done nor dead.
    pub oldest_age_seconds: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct EngineStatus {
    pub name: String,
    /// `camunda_tables` or `sql`.
    pub kind: String,
    /// For people: product, version, history level.
    pub detail: String,
    pub up: bool,
    pub backlog: u64,
    /// What the configuration allows.
    pub max_backlog: Option<u64>,
    pub blocked: u64,
    pub blocked_details: Vec<String>,
    /// Effects that were proven.
    pub confirmed: Rate,
}

#[derive(Debug, Clone, Serialize)]
pub struct DuplicateStatus {
    pub cause: DuplicateCause,
    pub total: u64,
    /// In the last minutes that the page remembers.
    pub recent: u64,
}

/// Something that was logged as a warning or an error.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Problem {
    pub severity: Severity,
    /// Which part of the program said so: `intake`, `sweeper`.
    pub part: String,
    /// The source, route or engine that it is about, by its configured name.
    pub subject: Option<String>,
    pub text: String,
    pub times: u64,
    /// Since it was seen last.
    pub seconds_ago: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Warning,
    Error,
}

/// A node beats every few seconds; one that did not for this long is gone.
const GONE_SECONDS: f64 = 30.0;

/// Whether a node still beats.
pub fn lives(node: &Node) -> bool {
    node.seen_seconds_ago < GONE_SECONDS
}

/// The nodes that are gone and did not come back under their name: what somebody may have to look after.
///
/// A restart leaves the row of the earlier incarnation behind, which means nothing.
pub fn gone(nodes: &[Node]) -> impl Iterator<Item = &Node> {
    nodes.iter().filter(|node| {
        let later = |other: &Node| other.seen_seconds_ago < node.seen_seconds_ago;
        let mut same_name = nodes.iter().filter(|other| other.name == node.name);
        !lives(node) && !same_name.any(|other| lives(other) || later(other))
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_node_that_came_back_is_not_gone() {
        let node = |name: &str, seen: f64| Node {
            incarnation: Uuid::now_v7(),
            name: name.to_owned(),
            version: String::new(),
            started_seconds_ago: 9_000.0,
            seen_seconds_ago: seen,
            duplicates: 0,
        };
        let nodes = [
            node("restarted", 600.0),
            node("restarted", 2.0),
            node("lost", 600.0),
            node("lost", 5_000.0),
            node("here", 4.9),
        ];
        let gone: Vec<_> = gone(&nodes).map(|node| node.seen_seconds_ago).collect();
        assert_eq!(gone, [600.0]);
        assert_eq!(nodes.iter().filter(|node| lives(node)).count(), 2);
    }
}
