//! Engines of the Camunda 7 family, by rows in their own tables: Operaton, Camunda 7.18–7.24, CIB seven.
//!
//! The engine's tables share the inbox's database, so that inbox row and engine rows commit together.
//! What is written are shapes that the engine has itself (docs of each module):
//!
//! | Variant | For | Row that the engine's job executor runs |
//! |---|---|---|
//! | C | a catcher that can hold one token only | `correlate-message` job: a real correlation, with variables, history and receipt |
//! | B | one chosen subscription among several, no payload | `event` job by the subscription's id |
//! | S1 | a start | the instance's row and its `async-continuation` / `process-start` job |
//!
//! A batch is looked at, and handed over once the inbox has its rows:
//!
//! ```text
//!  look    reads the facts: correlation (who waits), start (what can be started), definitions ─ model
//!  decide  facts in, outcome and plan out; pure
//!  hand    writes the plans: claim (C and B), start::rows with start::history (S1); variables, schema
//!
//!  wake    which waiting rows may go on        confirm  what became of the jobs
//!  backlog how much is still to be done        tables   names in statements
//! ```
//!
//! Owns the tables `pending` and `pending_start` (which subscription or start is claimed by which row),
//! and never touches the inbox's. Knows no broker. Invariant: nothing that exists in the engine's tables
//! is changed, but for the revision of a subscription that variant B claims.

mod backlog;
mod claim;
mod columns;
mod confirm;
mod correlation;
mod decide;
mod definitions;
mod foresee;
mod hand;
mod look;
pub mod model;
mod schema;
mod start;
mod tables;
mod variables;
mod wake;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Ask, Confirmed, Engine, EngineState, Matched, Prospect};
use crate::finding::Finding;
use crate::inbox::postgres::Tx;
use crate::inbox::{Class, DbError, Woken};
use crate::message::{Action, Hash, Message, Undecodable};

use definitions::Definitions;
use schema::EngineSchema;
pub use tables::Tables;

/// How long what was read of the engine's schema is trusted: its clock may change to summer time.
const SCHEMA_TRUSTED: Duration = Duration::from_mins(1);

/// `[engines.NAME.camunda_tables]`: an engine whose tables are in the inbox's database.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CamundaTablesConfig {
    /// The schema of the engine's tables.
    #[serde(default = "default_schema")]
    pub schema: String,
    /// The engine's `databaseTablePrefix`, without a schema.
    #[serde(default)]
    pub table_prefix: String,
    /// How many of our own jobs may be unfinished before further messages wait in the inbox.
    #[serde(default = "default_max_backlog")]
    pub max_backlog: u32,
    /// What to do when a job is gone and the engine's history is too small to prove its effect.
    pub unproven: Option<Unproven>,
    /// The zone of the engine's JVM, such as `Europe/Berlin`. Default: read from the engine's metrics
    /// table, else UTC. Only times in histories depend on it.
    pub time_zone: Option<String>,
    /// `RETRIES_` of a job.
    #[serde(default = "default_retries")]
    pub retries: u16,
}

/// What an unprovable correlation counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unproven {
    /// A job that is gone is taken to have had its effect. Not a promise any more: an instance that ended
    /// or was cancelled in between looks the same.
    AssumeDone,
}

fn default_schema() -> String {
    "public".to_owned()
}
fn default_max_backlog() -> u32 {
    5000
}
fn default_retries() -> u16 {
    3
}

/// One engine.
pub struct CamundaTables {
    name: String,
    config: CamundaTablesConfig,
    inbox_schema: String,
    tables: Tables,
    /// What is read from the database now and then, and at once after an error that an upgrade of the
    /// engine explains.
    schema: Mutex<Option<(Arc<EngineSchema>, Instant)>>,
    definitions: Definitions,
    /// Our own runnable unfinished jobs: counted by refresh, raised by every hand-over in between.
    backlog: AtomicI64,
    /// Some messages wait for the backlog: new ones go behind them.
    queue: AtomicBool,
    /// Where the next round of the wake goes on.
    wake_from: Mutex<wake::Place>,
}

impl CamundaTables {
    /// `inbox_schema`: where our own tables are. Both schemas and the prefix must be validated identifiers.
    pub fn new(name: &str, config: CamundaTablesConfig, inbox_schema: &str) -> Self {
        Self {
            name: name.to_owned(),
            inbox_schema: inbox_schema.to_owned(),
            tables: Tables::new(&config.schema, &config.table_prefix, inbox_schema),
            config,
            schema: Mutex::new(None),
            definitions: Definitions::default(),
            backlog: AtomicI64::new(0),
            queue: AtomicBool::new(false),
            wake_from: Mutex::default(),
        }
    }

    /// What the engine's schema is, read once; an engine that must not be written to is an outage, and is
    /// asked again until it may be.
    async fn schema(&self, tx: &mut Tx) -> Result<Arc<EngineSchema>, DbError> {
        let known = self.known_schema().as_ref().map(|(s, _)| Arc::clone(s));
        let schema = match known {
            Some(schema) if schema.usable().is_ok() => schema,
            _ => self.read_schema(tx).await?,
        };
        schema.usable()?;
        Ok(schema)
    }

    async fn read_schema(&self, tx: &mut Tx) -> Result<Arc<EngineSchema>, DbError> {
        let schema = Arc::new(EngineSchema::read(tx, &self.tables, &self.config).await?);
        *self.known_schema() = Some((Arc::clone(&schema), Instant::now()));
        Ok(schema)
    }

    fn known_schema(&self) -> MutexGuard<'_, Option<(Arc<EngineSchema>, Instant)>> {
        self.schema.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A column that is missing, or that must have a value and gets none: the engine was upgraded. That is
    /// no message's fault, and the next look reads the columns again.
    fn upgraded<T>(&self, result: Result<T, DbError>) -> Result<T, DbError> {
        result.map_err(|error| match error.code().as_deref() {
            Some("42703" | "42P01" | "23502") => {
                *self.known_schema() = None;
                DbError {
                    class: Class::Outage,
                    ..error
                }
            }
            _ => error,
        })
    }

    /// The id of the instance that a message of this identity starts.
    fn instance_id(&self, identity: &Hash) -> String {
        start::instance_id(&self.inbox_schema, &self.name, identity)
    }

    /// `RETRIES_` of a job.
    fn retries(&self) -> i32 {
        i32::from(self.config.retries)
    }

    /// How many more jobs the backlog may hold.
    fn backlog_room(&self) -> i64 {
        (i64::from(self.config.max_backlog) - self.backlog.load(Ordering::Relaxed)).max(0)
    }

    /// Until the next refresh counts them: the transaction may still be rolled back.
    fn backlog_grew(&self, jobs: usize) {
        let jobs = i64::try_from(jobs).unwrap_or(i64::MAX);
        self.backlog.fetch_add(jobs, Ordering::Relaxed);
    }

    fn has_queue(&self) -> bool {
        self.queue.load(Ordering::Relaxed)
    }

    fn queue_began(&self) {
        self.queue.store(true, Ordering::Relaxed);
    }

    fn wake_from(&self) -> MutexGuard<'_, wake::Place> {
        self.wake_from
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Engine<Tx> for CamundaTables {
    fn name(&self) -> &str {
        &self.name
    }

    fn fits(&self, message: &Message) -> Result<(), Undecodable> {
        variables::fits(message)
    }

    /// The wake join knows a message by its name and business key; nothing else. It begins after the
    /// empty key.
    fn announces(&self, message: &Message) -> bool {
        match &message.action {
            Action::Correlate(correlation) => {
                let business_key = correlation.business_key.as_deref();
                business_key.is_some_and(|key| !key.is_empty())
                    && correlation.correlation_keys.is_empty()
                    && correlation.process_instance_id.is_none()
                    && correlation.tenant == crate::message::Tenant::Any
            }
            Action::Start(_) | Action::Apply(_) => false,
        }
    }

    fn hands_over(&self) -> bool {
        true
    }

    fn reads_by_index(&self) -> bool {
        true
    }

    async fn look<'a>(
        &'a self,
        tx: &mut Tx,
        asks: &[Ask<'a>],
    ) -> Result<Box<dyn Matched<Tx> + 'a>, DbError> {
        let found = self.upgraded(look::look(self, tx, asks).await)?;
        Ok(Box::new(found))
    }

    async fn wake(
        &self,
        tx: &mut Tx,
        routes: &[String],
        limit: i64,
    ) -> Result<Vec<Woken>, DbError> {
        let limit = limit.min(self.backlog_room());
        if limit <= 0 {
            return Ok(Vec::new());
        }
        // However long the queue for the backlog is, a part is for others: somebody begins to wait for a row that is
        // seldom due by itself.
        let most = limit - limit / 4;
        let queued = wake::queued(tx, &self.tables, &self.name, routes, most).await?;
        self.queue.store(!queued.is_empty(), Ordering::Relaxed);
        let mut rows: Vec<Woken> = queued.into_iter().map(Woken::of).collect();
        let rest = limit - i64::try_from(rows.len()).unwrap_or(limit);
        if rest > 0 {
            let from = self.wake_from().clone();
            let asked = wake::Asked {
                engine: &self.name,
                routes,
                clock: self.schema(tx).await?.engine_clock(),
            };
            let (woken, end) = wake::wake(tx, &self.tables, asked, rest, from).await?;
            *self.wake_from() = end;
            rows.extend(woken);
        }
        Ok(rows)
    }

    async fn confirm(&self, tx: &mut Tx, limit: i64) -> Result<Option<Vec<Confirmed>>, DbError> {
        let schema = self.schema(tx).await?;
        let assume_done = self.config.unproven == Some(Unproven::AssumeDone);
        let confirmed =
            confirm::confirm(tx, &self.tables, &self.name, &schema, assume_done, limit).await;
        self.upgraded(confirmed)
    }

    async fn refresh(&self, tx: &mut Tx) -> Result<EngineState, DbError> {
        let is_old = |read: &(_, Instant)| read.1.elapsed() > SCHEMA_TRUSTED;
        if self.known_schema().as_ref().is_none_or(is_old) {
            self.read_schema(tx).await?;
        }
        self.schema(tx).await?;
        let definitions = self.definitions.refresh(tx, &self.tables).await;
        self.upgraded(definitions)?;
        let state = self.upgraded(backlog::backlog(tx, &self.tables, &self.name).await)?;
        let runnable = i64::try_from(state.backlog).unwrap_or(i64::MAX);
        self.backlog.store(runnable, Ordering::Relaxed);
        Ok(state)
    }

    async fn inspect(&self, tx: &mut Tx) -> Result<Vec<Finding>, DbError> {
        let schema = EngineSchema::read(tx, &self.tables, &self.config).await?;
        Ok(schema.findings(&self.name, &self.config))
    }

    async fn foresee(
        &self,
        tx: &mut Tx,
        prospects: &[Prospect],
    ) -> Result<Vec<(String, Finding)>, DbError> {
        foresee::foresee(self, tx, prospects).await
    }
}
