//! Sluice carries JSON messages from RabbitMQ and Kafka into a process engine of the Camunda 7 family,
//! exactly once in effect: the inbox row with its dedup key and the engine's own rows commit in one
//! database transaction, the broker is acknowledged after that commit, and a sweeper drives again what a
//! dead node left behind.
//!
//! # The rooms
//!
//! ```text
//!  leaves      message  position  mapping  units  finding  metrics  telemetry  backoff  shutdown  crash
//!                 ▲
//!  parts       route   source ─ rabbitmq kafka prefix    inbox ─ postgres sqlite    engine ─ camunda_tables sql
//!                 ▲                 ▲                       ▲                          ▲
//!  the way     intake   ★ one batch: decode, begin, look, insert, hand, commit, settle
//!                 ▲
//!  around it   sweeper (wake, confirm, purge)        http (health, metrics, the status page)
//!                 ▲
//!  the shell   config  ◀─ bridge (build, run, drain)  ◀─ cli
//! ```
//!
//! | Module | Owns |
//! |---|---|
//! | [`message`] | a delivery as the broker gave it, and the message that a route made of it |
//! | [`position`] | how far a partition is stored, in words that source, intake and inbox share |
//! | [`mapping`] | expressions: how a value is taken from a delivery, and which type it gets |
//! | [`route`] | which delivery, mapped how, to which engine |
//! | [`source`] | where messages come from; what may be acknowledged ([`source::prefix`]) |
//! | [`inbox`] | the table that owns every accepted message, on each database |
//! | [`engine`] | who waits for a message, and the engine's rows for it |
//! | [`intake`] | the way of a batch, and of a row that is driven again |
//! | [`sweeper`] | rows that no delivery drives any more |
//! | [`http`] | health, metrics, the status page |
//! | [`config`] | the file: assembles the parts' own config types and finds every mistake in it |
//! | [`bridge`] | builds everything, runs it, supervises, drains |
//! | [`cli`] | one file for each subcommand |
//! | [`metrics`], [`telemetry`] | names and meaning of every metric; logs |
//! | [`finding`] | what is found out about the set-up: mistakes in the file, and what a look at the servers says |
//! | [`backoff`], [`shutdown`], [`units`], [`crash`] | delays; the two-stage end; durations and sizes; crash points of the tests |
//!
//! # The way of one batch
//!
//! A [`source::Stream`] yields deliveries; the [`intake`] buffers what arrives while a batch commits, and
//! `Intake::accept` takes the batch:
//!
//! 1. Decode each: route, dedup key, correlation, variables. A failure becomes a row born dead.
//! 2. Begin one transaction, with the session's time limits.
//! 3. Look: the engine is asked about all messages at once, who waits for them, which start, or nobody.
//! 4. Insert the rows in their final state; the unique key drops the duplicates.
//! 5. Hand: the engine writes its rows for the new ones; a claim that misses turns its row to waiting.
//! 6. On Kafka, advance the positions: how far each partition is stored. Then commit.
//! 7. Settle: only now the receipts go back to the stream, which acknowledges the finished prefix.
//!
//! # The way of a crash
//!
//! Before the commit nothing is there and the broker delivers again. After it, a redelivery meets the unique
//! key and is a duplicate. A row that waits or is handed belongs to nobody between transactions: any node's
//! sweeper takes it under a lock, and changes it only by its state and epoch. A database that comes back older
//! than it was says so by its positions, and what Kafka still has is read again from there.
//!
//! # What is absent, on purpose
//!
//! - No broker knows the database, no engine knows a broker; only `Intake::accept` knows the order.
//! - Nothing is rejected or requeued: a delivery is acknowledged, or it stays with the broker.
//! - No row is owned by a node outside a transaction, so that a dead node leaves nothing behind.
//! - No local clock decides: due times and expiry are the database's.
//! - No timer waits for a batch to fill.
//! - No unbounded channel, and no part that imports one above it (a test holds the arrows).

pub mod backoff;
pub mod bridge;
pub mod cli;
pub mod config;
pub mod crash;
pub mod engine;
pub mod finding;
pub mod http;
pub mod inbox;
pub mod intake;
pub mod mapping;
pub mod message;
pub mod metrics;
pub mod position;
pub mod route;
pub mod shutdown;
pub mod source;
pub mod sweeper;
pub mod telemetry;
pub mod units;
