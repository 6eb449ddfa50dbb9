//! The names of all metrics, with their kind, unit and help: what `# HELP` and `# TYPE` say.
//!
//! A name stands here and nowhere else in the program. Dashboards and alert rules repeat it, and a test
//! holds them against what a running daemon exports.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// What a metric can be; the exporter needs to know it for the help line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

struct Entry(&'static str, Kind, Unit, &'static str);

macro_rules! catalogue {
    ($($constant:ident = $name:literal, $kind:ident, $unit:ident, $help:literal;)*) => {
        $(pub const $constant: &str = $name;)*
        const ALL: &[Entry] = &[$(Entry($name, Kind::$kind, Unit::$unit, $help),)*];
    };
}

catalogue! {
    DELIVERIES = "sluice_deliveries_total", Counter, Count, "Deliveries that came from the brokers, by the broker's redelivered flag.";
    MESSAGES = "sluice_messages_total", Counter, Count, "Messages by what became of them when their batch committed.";
    WAITS = "sluice_waits_total", Counter, Count, "Rows that began to wait, by reason.";
    DUPLICATES = "sluice_duplicates_total", Counter, Count, "Deliveries of a message that the inbox already held, by cause.";
    CONFLICTS = "sluice_dedup_conflicts_total", Counter, Count, "Messages whose dedup key came before with another payload.";
    INBOX_ROWS = "sluice_inbox_rows", Gauge, Count, "Rows in the inbox; every node of one database exports the same numbers.";
    INBOX_OLDEST_AGE = "sluice_inbox_oldest_age_seconds", Gauge, Seconds, "Age of the oldest row of a kind, by the database's clock.";
    BATCH_MESSAGES = "sluice_batch_messages", Histogram, Count, "Messages in a batch that was committed.";
    ACCEPT = "sluice_accept_seconds", Histogram, Seconds, "From a batch's first look to the answer of its commit.";
    DELIVERY_TO_COMMIT = "sluice_delivery_to_commit_seconds", Histogram, Seconds, "From a delivery's arrival in the process to the commit that holds it.";
    HANDED_TO_DONE = "sluice_handed_to_done_seconds", Histogram, Seconds, "From the hand-over to an engine to the proof of its effect.";
    ACK_FAILURES = "sluice_ack_failures_total", Counter, Count, "Acknowledgements that the broker did not take; the deliveries come again.";
    SOURCE_CONNECTED = "sluice_source_connected", Gauge, Count, "Whether the source has a connection to its broker and is let into its group (1) or not (0).";
    SOURCE_RECONNECTS = "sluice_source_reconnects_total", Counter, Count, "Connections that a source opened after its first one.";
    KAFKA_LAG = "sluice_kafka_lag", Gauge, Count, "Offsets of the partition between what is finished and its end; 0 when everything that can be read is finished.";
    KAFKA_BELOW_LOW_WATERMARK = "sluice_kafka_offset_below_low_watermark_total", Counter, Count, "Partitions whose committed offset was older than the oldest record: records were lost before they were read.";
    KAFKA_PARTITIONS_MET = "sluice_kafka_partitions_met_total", Counter, Count, "Partitions of which the group had committed nothing, and that began with their oldest record.";
    KAFKA_SKIPPED_TO_END = "sluice_kafka_skipped_to_end_total", Counter, Count, "Times that start = latest skipped all records of a topic, because the group had committed nothing of it.";
    KAFKA_REREAD = "sluice_kafka_reread_total", Counter, Count, "Offsets that the group had acknowledged and that are read again, because the database does not know them: it lost commits, or the group was moved.";
    KAFKA_RECREATED = "sluice_kafka_topic_recreated_total", Counter, Count, "Partitions that hold other records than the database knows: the topic was deleted and made again, or lost its end. They begin with their oldest record.";
    DB_BEHIND = "sluice_database_behind_total", Counter, Count, "Times that a database under a living node said less than it had committed: a failover that lost commits.";
    ENGINE_BACKLOG = "sluice_engine_backlog", Gauge, Count, "Jobs of Sluice in the engine that are not finished, by whether they can run.";
    ENGINE_UP = "sluice_engine_up", Gauge, Count, "Whether the engine answers (1) or not (0).";
    RECOVERED = "sluice_recovered_total", Counter, Count, "Rows that a sweep moved on.";
    RECOVERY = "sluice_recovery_seconds", Histogram, Seconds, "How long after it could have gone on a row was taken up by a sweep.";
    STALE_CHANGES = "sluice_stale_changes_total", Counter, Count, "Changes of rows that hit nothing, because another node was quicker.";
    DB_ERRORS = "sluice_db_errors_total", Counter, Count, "Errors of the database, by class.";
    DB_POOL = "sluice_db_pool_connections", Gauge, Count, "Connections to the database, by state.";
    NODES = "sluice_nodes", Gauge, Count, "Nodes on the database, by whether they still beat.";
    PURGED = "sluice_purged_total", Counter, Count, "What retention removed.";
    BUILD_INFO = "sluice_build_info", Gauge, Count, "Always 1; the label says which version runs.";
}

/// Tells the installed recorder what each metric means.
pub(super) fn describe() {
    for Entry(name, kind, unit, help) in ALL {
        match kind {
            Kind::Counter => describe_counter!(*name, *unit, *help),
            Kind::Gauge => describe_gauge!(*name, *unit, *help),
            Kind::Histogram => describe_histogram!(*name, *unit, *help),
        }
    }
}
