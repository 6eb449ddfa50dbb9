//! Every metric that Sluice exports: its name, its labels, and the one function that records it.
//!
//! The names and their help stand in [`catalogue`], and only the functions here record them. Labels come
//! from bounded sets (names of the configuration, words of an enum), never an id or a key.
//! [`Exporter`] renders them for Prometheus; [`Samples`] reads that text back for the status page, so that
//! page and Prometheus cannot disagree.

mod announce;
pub mod catalogue;
mod exporter;
mod samples;

pub use announce::{InboxGauges, InboxRows, announce};
pub use exporter::{AlreadyInstalled, Exporter};
pub use samples::Samples;

use std::time::Duration;

use metrics::{counter, gauge, histogram};
use serde::Serialize;

use catalogue as name;

/// What became of a message when its batch committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageOutcome {
    Handed,
    Done,
    Waiting,
    Dead,
    Duplicate,
    Ignored,
}

impl MessageOutcome {
    pub const ALL: [Self; 6] = [
        Self::Handed,
        Self::Done,
        Self::Waiting,
        Self::Dead,
        Self::Duplicate,
        Self::Ignored,
    ];

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DuplicateCause {
    /// `RabbitMQ` says that it delivered it before.
    Redelivered,
    /// Kafka: the same record, read again after a restart or a rebalance.
    Rebalance,
    /// Kafka: a record that was acknowledged, read again because the database is older than that.
    Reread,
    /// Another delivery of the same key: the producer sent it again.
    Resend,
    /// The row that holds the key is dead.
    OfDead,
}

impl DuplicateCause {
    pub const ALL: [Self; 5] = [
        Self::Redelivered,
        Self::Rebalance,
        Self::Reread,
        Self::Resend,
        Self::OfDead,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redelivered => "redelivered",
            Self::Rebalance => "rebalance",
            Self::Reread => "reread",
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
    pub const ALL: [Self; 4] = [Self::Wake, Self::Due, Self::Confirm, Self::Purge];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wake => "wake",
            Self::Due => "due",
            Self::Confirm => "confirm",
            Self::Purge => "purge",
        }
    }
}

/// The label of deliveries that no route took; no configured name has parentheses.
pub const NO_ROUTE: &str = "(none)";

/// The words of `inbox::Class`, which this leaf cannot import; a test holds them together.
pub const DB_ERROR_CLASSES: [&str; 4] = ["data", "message", "again", "outage"];

/// Deliveries came from the broker.
pub fn delivered(source: &str, redelivered: bool, deliveries: u64) {
    let redelivered = if redelivered { "true" } else { "false" };
    counter!(name::DELIVERIES, "source" => source.to_owned(), "redelivered" => redelivered)
        .increment(deliveries);
}

/// The first outcome of messages.
pub fn messages(route: Option<&str>, outcome: MessageOutcome, messages: u64) {
    counter!(name::MESSAGES, "route" => route.unwrap_or(NO_ROUTE).to_owned(), "outcome" => outcome.as_str())
        .increment(messages);
}

pub fn duplicate(route: Option<&str>, cause: DuplicateCause) {
    counter!(name::DUPLICATES, "route" => route.unwrap_or(NO_ROUTE).to_owned(), "cause" => cause.as_str())
        .increment(1);
}

pub fn conflict(route: Option<&str>) {
    counter!(name::CONFLICTS, "route" => route.unwrap_or(NO_ROUTE).to_owned()).increment(1);
}

/// A batch was committed: its size, and from its first look to the commit's answer.
pub fn accepted(source: &str, messages: usize, took: Duration) {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a batch has at most some thousands"
    )]
    histogram!(name::BATCH_MESSAGES, "source" => source.to_owned()).record(messages as f64);
    histogram!(name::ACCEPT, "source" => source.to_owned()).record(took);
}

/// From the arrival of a batch's first delivery in this process to the commit that holds them all.
pub fn committed(source: &str, took: Duration, messages: usize) {
    histogram!(name::DELIVERY_TO_COMMIT, "source" => source.to_owned()).record_many(took, messages);
}

/// From the hand-over to its proof.
pub fn confirmed(engine: &str, took: Duration) {
    histogram!(name::HANDED_TO_DONE, "engine" => engine.to_owned()).record(took);
}

pub fn ack_failed(source: &str) {
    counter!(name::ACK_FAILURES, "source" => source.to_owned()).increment(1);
}

pub fn source_connected(source: &str, connected: bool) {
    gauge!(name::SOURCE_CONNECTED, "source" => source.to_owned()).set(if connected {
        1.0
    } else {
        0.0
    });
}

pub fn source_reconnected(source: &str) {
    counter!(name::SOURCE_RECONNECTS, "source" => source.to_owned()).increment(1);
}

/// Records between the committed offset and the end of the partition; `None` when it is no longer ours.
pub fn kafka_lag(source: &str, topic: &str, partition: i32, lag: Option<i64>) {
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    let lag = lag.map_or(0.0, |lag| lag as f64);
    gauge!(name::KAFKA_LAG, "source" => source.to_owned(), "topic" => topic.to_owned(), "partition" => partition.to_string())
        .set(lag);
    // Topics are not known before Kafka assigns them: this is when their counters begin.
    for counter in [
        name::KAFKA_BELOW_LOW_WATERMARK,
        name::KAFKA_PARTITIONS_MET,
        name::KAFKA_SKIPPED_TO_END,
        name::KAFKA_REREAD,
        name::KAFKA_RECREATED,
    ] {
        of_topic(counter, source, topic, 0);
    }
}

/// The broker had already deleted records that this group had not read.
pub fn kafka_offset_below_low_watermark(source: &str, topic: &str) {
    of_topic(name::KAFKA_BELOW_LOW_WATERMARK, source, topic, 1);
}

/// The group had committed nothing of a partition, and begins with its oldest record.
pub fn kafka_partition_met(source: &str, topic: &str) {
    of_topic(name::KAFKA_PARTITIONS_MET, source, topic, 1);
}

/// The group had committed nothing of a topic, and `start = "latest"` skipped what is there.
pub fn kafka_skipped_to_end(source: &str, topic: &str) {
    of_topic(name::KAFKA_SKIPPED_TO_END, source, topic, 1);
}

/// The stored position was behind the group's offset: so many offsets are read again.
pub fn kafka_reread(source: &str, topic: &str, offsets: u64) {
    of_topic(name::KAFKA_REREAD, source, topic, offsets);
}

/// What is stored of a partition is about another topic of the same name.
pub fn kafka_topic_recreated(source: &str, topic: &str) {
    of_topic(name::KAFKA_RECREATED, source, topic, 1);
}

/// The database says less than it had committed.
pub fn database_behind(source: &str) {
    counter!(name::DB_BEHIND, "source" => source.to_owned()).increment(1);
}

fn of_topic(counter: &'static str, source: &str, topic: &str, times: u64) {
    counter!(counter, "source" => source.to_owned(), "topic" => topic.to_owned()).increment(times);
}

/// Our own unfinished jobs in the engine.
pub fn engine_backlog(engine: &str, runnable: u64, blocked: u64) {
    for (state, jobs) in [("runnable", runnable), ("blocked", blocked)] {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        gauge!(name::ENGINE_BACKLOG, "engine" => engine.to_owned(), "state" => state)
            .set(jobs as f64);
    }
}

pub fn engine_up(engine: &str, up: bool) {
    gauge!(name::ENGINE_UP, "engine" => engine.to_owned()).set(if up { 1.0 } else { 0.0 });
}

/// A row that a sweep moved on, and how long after it could have gone, where that is known.
pub fn recovered(sweep: Sweep, overdue: Option<Duration>) {
    counter!(name::RECOVERED, "sweep" => sweep.as_str()).increment(1);
    if let Some(overdue) = overdue {
        histogram!(name::RECOVERY, "sweep" => sweep.as_str()).record(overdue);
    }
}

/// Changes that hit nothing, because another node was quicker.
pub fn stale_changes(count: u64) {
    counter!(name::STALE_CHANGES).increment(count);
}

/// `class`: the word of the error's class.
pub fn db_error(class: &'static str) {
    counter!(name::DB_ERRORS, "class" => class).increment(1);
}

pub fn db_pool(idle: usize, used: usize) {
    for (state, connections) in [("idle", idle), ("used", used)] {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a pool has at most some hundreds"
        )]
        gauge!(name::DB_POOL, "state" => state).set(connections as f64);
    }
}

pub fn nodes(alive: usize, gone: usize) {
    for (state, nodes) in [("alive", alive), ("gone", gone)] {
        #[expect(clippy::cast_precision_loss, reason = "a handful of nodes")]
        gauge!(name::NODES, "state" => state).set(nodes as f64);
    }
}

pub fn purged(payloads: u64, keys: u64) {
    counter!(name::PURGED, "what" => "payload").increment(payloads);
    counter!(name::PURGED, "what" => "key").increment(keys);
}

/// The rows of one kind in the inbox. [`InboxGauges`] calls it, and sets the kinds to zero that vanished.
fn inbox(route: &str, state: &'static str, reason: &str, rows: i64, oldest_age_seconds: f64) {
    let labels = [
        ("route", route.to_owned()),
        ("state", state.to_owned()),
        ("reason", reason.to_owned()),
    ];
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    gauge!(name::INBOX_ROWS, &labels).set(rows as f64);
    gauge!(name::INBOX_OLDEST_AGE, &labels).set(oldest_age_seconds);
}

fn build_info() {
    gauge!(name::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// A row began to wait, at birth or when it was driven again.
pub fn waiting(route: &str, reason: &'static str) {
    counter!(name::WAITS, "route" => route.to_owned(), "reason" => reason).increment(1);
}
