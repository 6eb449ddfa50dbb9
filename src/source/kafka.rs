//! Kafka: a set of topics, read as one consumer group.
//!
//! Every open makes a consumer with a thread of its own; every assignment of a partition is an incarnation
//! with its own prefix. Offsets are committed one behind the finished prefix, and only of partitions that
//! are ours. Where a partition begins is decided here, never by the client's own reset.

mod assignment;
mod begin;
mod config;
mod context;
mod fault;
mod group;
mod identity;
mod inspect;
mod ledger;
mod membership;
mod pattern;
mod poll;
mod pulse;
mod security;
mod shared;
mod stream;
mod witness;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use async_trait::async_trait;
use tokio::runtime::Handle;

pub use config::{GroupProtocol, KafkaConfig, Start};
pub use group::{Reading, To};
pub use security::{KafkaSasl, KafkaTls, SaslMechanism};

use crate::finding::Finding;
use crate::source::{Positions, Source, SourceError, Stream};
use crate::units::Span;
use context::Context;
use ledger::Ledger;
use membership::Membership;
use poll::{Plan, Started};
use shared::Shared;
use stream::KafkaStream;

/// A configured set of topics.
pub struct Kafka {
    name: Arc<str>,
    config: KafkaConfig,
    ordered: bool,
    /// How our clients are called in the broker's own tools.
    client_name: String,
    /// How long the inbox knows a dedup key, to compare with how long a topic keeps a record.
    key_retention: Option<Span>,
    /// What the inbox knows; without it the group's own offsets alone say where a partition begins.
    positions: Option<Arc<dyn Positions>>,
    incarnations: Arc<AtomicU64>,
}

impl Kafka {
    /// `client_name` names this process; the client is called by it and the source's name.
    pub fn new(name: Arc<str>, config: KafkaConfig, ordered: bool, client_name: &str) -> Self {
        Self {
            client_name: format!("{client_name} {name}"),
            name,
            config,
            ordered,
            key_retention: None,
            positions: None,
            incarnations: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Lets [`Source::inspect`] warn of topics that keep records longer than the inbox keeps keys.
    #[must_use]
    pub fn with_key_retention(mut self, retention: Span) -> Self {
        self.key_retention = Some(retention);
        self
    }

    /// Begins where the inbox says, if that is before where the group stood, and tells it what is stored.
    #[must_use]
    pub fn with_positions(mut self, positions: Arc<dyn Positions>) -> Self {
        self.positions = Some(positions);
        self
    }

    /// What one consumer is made of, and what it shares with whoever reads it.
    async fn plan(&self) -> Result<Plan, SourceError> {
        let client = self.config.client(&self.client_name).await?;
        let ledger = self.positions.as_ref().map(|positions| Ledger {
            positions: Arc::clone(positions),
            runtime: Handle::current(),
            client: client.clone(),
            source: Arc::clone(&self.name),
            group_id: self.config.group_id.clone(),
        });
        let context = Context {
            source: Arc::clone(&self.name),
            start: self.config.start,
            limit: self.config.connect_timeout,
            ledger,
            incarnations: Arc::clone(&self.incarnations),
            shared: Arc::new(Shared::default()),
            membership: Mutex::new(Membership::new(&self.config)),
            last_error: Mutex::new(None),
        };
        Ok(Plan {
            client,
            topics: self.config.topics.clone(),
            context,
            buffer_bytes: self.config.half_prefetch(),
            down_limit: self.config.session_timeout.0,
        })
    }

    /// An error with the brokers that it is about.
    fn at(&self, mut error: SourceError) -> SourceError {
        error.what = format!(
            "{} (kafka at {})",
            error.what, self.config.bootstrap_servers
        );
        error
    }
}

#[async_trait]
impl Source for Kafka {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn ordered(&self) -> bool {
        self.ordered
    }

    async fn open(&self) -> Result<Box<dyn Stream>, SourceError> {
        let plan = self.plan().await?;
        let shared = Arc::clone(&plan.context.shared);
        let Started { opening, ending } = poll::spawn(plan)
            .map_err(|cause| SourceError::new("cannot start a thread").because(cause))?;
        let ended = || SourceError::new("the polling thread has ended");
        let opened = opening.await.map_err(|_| ended())?;
        opened.map_err(|error| self.at(error))?;
        Ok(Box::new(KafkaStream {
            source: Arc::clone(&self.name),
            shared,
            ending,
        }))
    }

    async fn inspect(&self) -> Result<Vec<Finding>, SourceError> {
        let plan = self.plan().await?;
        inspect::look(&self.config, plan, self.key_retention)
            .await
            .map_err(|error| self.at(error))
    }
}
