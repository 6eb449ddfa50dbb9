//! Where messages come from: the contract that every broker keeps, and the registry of brokers.
//!
//! A source opens streams; the intake reads a stream, and gives every receipt back once its row is
//! committed. A stream ends with an error and is never mended: the intake opens a new one, so that no
//! delivery tag and no tracker ever outlives the connection that made it.
//! No source knows a database or an engine, and none decides what becomes of a delivery. None rejects.

pub mod kafka;
pub mod prefix;
pub mod rabbitmq;

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use uuid::Uuid;

use crate::finding::Finding;
use crate::message::{Delivery, Receipt};
use crate::position::{Beginning, Claim, Partition, Stored};
use crate::units::{Size, Span};

/// A connection that must stand sooner never does.
const SHORTEST_CONNECT: Span = Span::ms(100);
/// Room for some messages of usual size.
const SMALLEST_PREFETCH: Size = Size(64 * 1024);

/// `[sources.NAME]`: exactly one of the broker's tables.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// What becomes of a delivery that no route takes.
    #[serde(default)]
    pub on_unrouted: OnUnrouted,
    /// A `RabbitMQ` queue.
    pub rabbitmq: Option<rabbitmq::RabbitmqConfig>,
    /// A set of Kafka topics, read as one consumer group.
    pub kafka: Option<Box<kafka::KafkaConfig>>,
}

/// What becomes of a delivery that no route takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUnrouted {
    /// A dead row, with its exact bytes.
    #[default]
    Dead,
    /// Acknowledged and counted; nothing is stored.
    Ignore,
}

/// How much may be taken at once; a stream returns early rather than wait for more.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub messages: usize,
    /// Bytes of payload and headers; one delivery larger than this is still taken, alone.
    pub bytes: usize,
}

impl Limits {
    /// Takes from the front what fits; at least one delivery, if there is one.
    pub fn take_from(self, buffer: &mut VecDeque<Delivery>) -> Vec<Delivery> {
        let mut taken: Vec<Delivery> = Vec::new();
        let mut bytes = 0_usize;
        while let Some(next) = buffer.pop_front_if(|next| {
            let fits = taken.len() < self.messages && bytes + next.size() <= self.bytes;
            fits || taken.is_empty()
        }) {
            bytes += next.size();
            taken.push(next);
        }
        taken
    }
}

/// What the inbox knows about how far its group has come: the one thing that a source may ask of it.
///
/// Each call is one transaction; an error says that it may be tried again later.
#[async_trait]
pub trait Positions: Send + Sync {
    /// Takes these: from now on no batch of an earlier assignment changes them. In this order, `None` where
    /// there is none.
    async fn claim(&self, claims: &[(Partition, Uuid)]) -> Result<Vec<Option<Stored>>, Unanswered>;

    /// Begins these, which are missing or claimed by the same id; in this order the epoch of each, `None`
    /// where another assignment has it.
    async fn begin(&self, beginnings: &[Beginning]) -> Result<Vec<Option<i64>>, Unanswered>;
}

/// Why the inbox does not answer.
pub type Unanswered = Box<dyn std::error::Error + Send + Sync>;

/// One configured source of one broker.
#[async_trait]
pub trait Source: Send + Sync {
    /// As in `[sources.NAME]`.
    fn name(&self) -> &Arc<str>;

    /// Whether its order is kept all the way, batch after batch (a route of it has `order_by`).
    fn ordered(&self) -> bool;

    /// Connects and begins to consume. One attempt: the intake retries with back-off.
    ///
    /// # Errors
    /// What the broker said, with the address without its password.
    async fn open(&self) -> Result<Box<dyn Stream>, SourceError>;

    /// Looks at the broker without consuming: what `sluice check --connect` prints, one finding a line.
    ///
    /// # Errors
    /// As [`Source::open`].
    async fn inspect(&self) -> Result<Vec<Finding>, SourceError>;
}

/// One connection's worth of deliveries.
#[async_trait]
pub trait Stream: Send {
    /// Waits for a delivery, and takes what else is there already, up to the limits. Cancel-safe.
    ///
    /// # Errors
    /// The stream is over: open a new one. What was not acknowledged comes again.
    async fn next(&mut self, limits: Limits) -> Result<Vec<Delivery>, SourceError>;

    /// Keeps the connection alive while the intake can take nothing. Cancel-safe.
    ///
    /// Kafka pauses its partitions and goes on polling here; [`Stream::next`] resumes them.
    /// Returns only when the stream is over.
    async fn idle(&mut self) -> SourceError;

    /// These deliveries are committed (or ignored by configuration): acknowledges the finished prefix.
    ///
    /// Receipts of another incarnation are dropped: their deliveries come again, as duplicates.
    ///
    /// # Errors
    /// The stream is over; what was not acknowledged comes again.
    async fn settle(&mut self, receipts: Vec<Receipt>) -> Result<(), SourceError>;

    /// The positions that this stream holds now: of what is assigned to it.
    fn claims(&self) -> Vec<Arc<Claim>> {
        Vec::new()
    }

    /// Ends the stream after the last batch: what is not acknowledged goes back to the broker.
    async fn close(self: Box<Self>);
}

/// Why a stream ended, or did not open.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct SourceError {
    pub what: String,
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// Trying again will not help before somebody changes something (the queue is missing, access refused).
    /// The intake goes on trying, with its longest delay, and says so.
    pub needs_operator: bool,
    /// A delivery that nobody here can read ends every stream. Each time the broker counts another attempt of
    /// all that it had sent, and drops it in the end: the source is opened no more until the next start.
    pub unreadable: bool,
}

impl SourceError {
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            cause: None,
            needs_operator: false,
            unreadable: false,
        }
    }

    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    #[must_use]
    pub fn needs_operator(mut self) -> Self {
        self.needs_operator = true;
        self
    }

    #[must_use]
    pub fn unreadable(mut self) -> Self {
        self.unreadable = true;
        self
    }
}
