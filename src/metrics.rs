//! Every metric that Sluice exports: its name, its labels, and the one function that records it.
//!
//! No metric's name stands anywhere else. Labels come from bounded sets (names of the configuration,
//! words of an enum), never an id or a key.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

/// What became of a message when its batch committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageOutcome {
    Handed,
    Done,
    Waiting,
    Dead,
    Duplicate,
    Ignored,
}

impl MessageOutcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handed => "handed",
            Self::Done => "done",
            Self::Waiting => "waiting",
            Self::Dead => "dead",
            Self::Duplicate => "duplicate",
            Self::Ignored => "ignored",
        }
    }
}

/// Why the same message came again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DuplicateCause {
    /// `RabbitMQ` says that it delivered it before.
    Redelivered,
    /// Kafka: the same record, read again after a restart or a rebalance.
    Rebalance,
    /// Another delivery of the same key: the producer sent it again.
    Resend,
    /// The row that holds the key is dead.
    OfDead,
}

impl DuplicateCause {
    pub const ALL: [Self; 4] = [
        Self::Redelivered,
        Self::Rebalance,
        Self::Resend,
        Self::OfDead,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redelivered => "redelivered",
            Self::Rebalance => "rebalance",
            Self::Resend => "resend",
            Self::OfDead => "of_dead",
        }
    }
}

/// The sweeps, as the label of what they did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    Wake,
    Due,
    Confirm,
    Purge,
}

impl Sweep {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wake => "wake",
            Self::Due => "due",
            Self::Confirm => "confirm",
            Self::Purge => "purge",
        }
    }
}

const NO_ROUTE: &str = "";

/// A delivery came from the broker.
pub fn delivered(source: &str, redelivered: bool) {
    let redelivered = if redelivered { "true" } else { "false" };
    counter!("sluice_deliveries_total", "source" => source.to_owned(), "redelivered" => redelivered)
        .increment(1);
}

/// A message's first outcome.
pub fn message(route: Option<&str>, outcome: MessageOutcome) {
    counter!("sluice_messages_total", "route" => route.unwrap_or(NO_ROUTE).to_owned(), "outcome" => outcome.as_str())
        .increment(1);
}

pub fn duplicate(route: Option<&str>, cause: DuplicateCause) {
    counter!("sluice_duplicates_total", "route" => route.unwrap_or(NO_ROUTE).to_owned(), "cause" => cause.as_str())
        .increment(1);
}

pub fn conflict(route: Option<&str>) {
    counter!("sluice_dedup_conflicts_total", "route" => route.unwrap_or(NO_ROUTE).to_owned())
        .increment(1);
}

/// A batch was committed: its size, and from its first look to the commit's answer.
pub fn accepted(source: &str, messages: usize, took: Duration) {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a batch has at most some thousands"
    )]
    histogram!("sluice_batch_messages", "source" => source.to_owned()).record(messages as f64);
    histogram!("sluice_accept_seconds", "source" => source.to_owned()).record(took);
}

/// From the delivery's arrival in this process to the commit that holds it.
pub fn committed(source: &str, took: Duration) {
    histogram!("sluice_delivery_to_commit_seconds", "source" => source.to_owned()).record(took);
}

/// From the hand-over to its proof.
pub fn confirmed(engine: &str, took: Duration) {
    histogram!("sluice_handed_to_done_seconds", "engine" => engine.to_owned()).record(took);
}

pub fn ack_failed(source: &str) {
    counter!("sluice_ack_failures_total", "source" => source.to_owned()).increment(1);
}

pub fn source_connected(source: &str, connected: bool) {
    gauge!("sluice_source_connected", "source" => source.to_owned()).set(if connected {
        1.0
    } else {
        0.0
    });
}

pub fn source_reconnected(source: &str) {
    counter!("sluice_source_reconnects_total", "source" => source.to_owned()).increment(1);
}

/// Records between the committed offset and the end of the partition; `None` when it is no longer ours.
pub fn kafka_lag(source: &str, topic: &str, partition: i32, lag: Option<i64>) {
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    let lag = lag.map_or(0.0, |lag| lag as f64);
    gauge!("sluice_kafka_lag", "source" => source.to_owned(), "topic" => topic.to_owned(), "partition" => partition.to_string())
        .set(lag);
}

/// The broker had already deleted records that this group had not read.
pub fn kafka_offset_below_low_watermark(source: &str, topic: &str) {
    counter!("sluice_kafka_offset_below_low_watermark_total", "source" => source.to_owned(), "topic" => topic.to_owned())
        .increment(1);
}

/// Our own unfinished jobs in the engine.
pub fn engine_backlog(engine: &str, runnable: u64, blocked: u64) {
    for (state, jobs) in [("runnable", runnable), ("blocked", blocked)] {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        gauge!("sluice_engine_backlog", "engine" => engine.to_owned(), "state" => state)
            .set(jobs as f64);
    }
}

pub fn engine_up(engine: &str, up: bool) {
    gauge!("sluice_engine_up", "engine" => engine.to_owned()).set(if up { 1.0 } else { 0.0 });
}

/// Rows that a sweep moved on, and how long after they could have gone.
pub fn recovered(sweep: Sweep, overdue: Duration) {
    counter!("sluice_recovered_total", "sweep" => sweep.as_str()).increment(1);
    histogram!("sluice_recovery_seconds", "sweep" => sweep.as_str()).record(overdue);
}

/// Changes that hit nothing, because another node was quicker.
pub fn stale_changes(count: u64) {
    counter!("sluice_stale_changes_total").increment(count);
}

/// `class`: the word of the error's class.
pub fn db_error(class: &'static str) {
    counter!("sluice_db_errors_total", "class" => class).increment(1);
}

pub fn db_pool(idle: usize, used: usize) {
    for (state, connections) in [("idle", idle), ("used", used)] {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a pool has at most some hundreds"
        )]
        gauge!("sluice_db_pool_connections", "state" => state).set(connections as f64);
    }
}

pub fn nodes(alive: usize, gone: usize) {
    for (state, nodes) in [("alive", alive), ("gone", gone)] {
        #[expect(clippy::cast_precision_loss, reason = "a handful of nodes")]
        gauge!("sluice_nodes", "state" => state).set(nodes as f64);
    }
}

pub fn purged(payloads: u64, keys: u64) {
    counter!("sluice_purged_total", "what" => "payload").increment(payloads);
    counter!("sluice_purged_total", "what" => "key").increment(keys);
}

/// The rows of one kind in the inbox; a kind that has no row any more is set to zero by the caller.
pub fn inbox(route: &str, state: &'static str, reason: &str, rows: i64, oldest_age_seconds: f64) {
    let labels = [
        ("route", route.to_owned()),
        ("state", state.to_owned()),
        ("reason", reason.to_owned()),
    ];
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    gauge!("sluice_inbox_rows", &labels).set(rows as f64);
    gauge!("sluice_inbox_oldest_age_seconds", &labels).set(oldest_age_seconds);
}

/// A row began to wait, at birth or when it was driven again.
pub fn waiting(route: &str, reason: &'static str) {
    counter!("sluice_waits_total", "route" => route.to_owned(), "reason" => reason).increment(1);
}
