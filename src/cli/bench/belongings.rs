//! What the bench made on the user's servers, and how each is removed again.
//!
//! A thing is noted before it is made: removing what is not there is no failure.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use secrecy::ExposeSecret;
use sqlx::postgres::PgPoolOptions;

use super::brokers::{Queue, Topic};
use super::rest::Rest;
use super::{Subject, ground, process};
use crate::engine::camunda_tables::{CamundaTablesConfig, Tables};
use crate::inbox::InboxConfig;
use crate::telemetry;

/// How long removing one thing may take.
const LIMIT: Duration = Duration::from_mins(5);

/// One thing on one server.
pub enum Belonging {
    Schema {
        inbox: InboxConfig,
        name: String,
    },
    Queue(Queue),
    Topic(Topic),
    /// The deployment, and every row of its processes.
    Process {
        inbox: InboxConfig,
        rest: Option<String>,
        tables: Tables,
        key: String,
    },
}

/// All of them.
#[derive(Default)]
pub struct Belongings {
    noted: Mutex<Vec<Belonging>>,
}

impl Belongings {
    /// To be called before the thing is made.
    pub fn note(&self, belonging: Belonging) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.push(belonging);
    }

    /// Removes everything, the last one first. Returns what is left, and why, for people.
    pub async fn remove(&self) -> Vec<String> {
        let mut left = Vec::new();
        loop {
            let next = self
                .noted
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            let Some(belonging) = next else {
                return left;
            };
            let why = match tokio::time::timeout(LIMIT, belonging.remove()).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => telemetry::in_full(error.as_ref()),
                Err(_) => format!("removing it took longer than {} s", LIMIT.as_secs()),
            };
            left.push(format!("{}: {why}", belonging.name()));
        }
    }
}

impl Belonging {
    pub fn process(subject: &Subject, engine: &CamundaTablesConfig, name: &str) -> Self {
        Self::Process {
            inbox: subject.inbox.clone(),
            rest: subject.engine_urls.first().cloned(),
            tables: Tables::new(&engine.schema, &engine.table_prefix, name),
            key: name.to_owned(),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Schema { name, .. } => format!("schema {name}"),
            Self::Queue(queue) => format!("queue {}", queue.name()),
            Self::Topic(topic) => format!("topic and group {}", topic.name()),
            Self::Process { key, .. } => format!("deployment {key} and rows of its processes"),
        }
    }

    async fn remove(&self) -> anyhow::Result<()> {
        match self {
            Self::Schema { inbox, name } => ground::drop_schema(inbox, name).await,
            Self::Queue(queue) => queue.remove().await,
            Self::Topic(topic) => topic.remove().await,
            Self::Process {
                inbox,
                rest,
                tables,
                key,
            } => {
                let rest = Rest::at(rest.as_deref().context("a node's address")?)?;
                let pool = PgPoolOptions::new().max_connections(1);
                let pool = pool.connect(inbox.url.expose_secret()).await?;
                process::remove(&pool, &rest, tables, key).await
            }
        }
    }
}
