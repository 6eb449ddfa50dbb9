//! What an engine in the inbox's own transaction must be able to do, and the registry of engines.
//!
//! Such an engine looks at who waits for a batch of messages, and writes its rows for them in the
//! transaction that also holds the inbox rows. It never talks to a broker, never commits, and never
//! touches the inbox's table; its own tables of ours (pending claims) it owns alone.

pub mod camunda_tables;
pub mod sql;

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::finding::Finding;
use crate::inbox::{DbError, RowId, StateName, Woken};
use crate::message::{DeadReason, Hash, Message, Undecodable, WaitReason};

/// `[engines.NAME]`: exactly one of the tables.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// Operaton, Camunda 7 or CIB seven, by rows in the tables that share the inbox's database.
    pub camunda_tables: Option<camunda_tables::CamundaTablesConfig>,
    /// The user's own statements on the inbox's database.
    pub sql: Option<sql::SqlConfig>,
}

/// One message of a batch, and the row that it is or will be.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub row: RowId,
    /// The epoch that a hand-over of this look will have.
    pub epoch: i64,
    pub message: &'a Message,
    /// From what a start derives the instance's id: scope, dedup key and conflict, never the row.
    pub identity: Hash,
    /// The row waited before, so that it need not queue behind others which wait for the backlog.
    pub redriven: bool,
    /// `on_no_match = "start"`: when nobody waits, start by the message's name.
    pub start_if_nobody: bool,
    /// The route wants every subscription of the name in the matched instance to have it.
    pub broadcast: bool,
}

/// What a route will ask of its engine, as far as the configuration tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prospect {
    pub route: String,
    pub wish: Wish,
}

/// `None` for what comes with each delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    Correlate {
        name: Option<String>,
        /// Messages carry variables.
        payload: bool,
        /// Messages are matched by correlation keys.
        keys: bool,
        broadcast: bool,
        /// `on_no_match = "start"`.
        or_start: bool,
    },
    StartByMessage {
        name: Option<String>,
    },
    StartByKey {
        key: Option<String>,
    },
    Apply,
}

/// What becomes of one message, as far as the look can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A correlation job will be written; its receipt is the proof.
    Hand,
    /// The effect itself will be in our commit (or is there already, by its deterministic id).
    Effect {
        /// The instance that was started.
        process_instance_id: Option<String>,
    },
    /// Nobody waits for it. The route says what that means.
    Nobody,
    Wait {
        reason: WaitReason,
        /// For people: which definition, which subscription.
        detail: String,
    },
    /// It can never be taken as it is.
    Dead { reason: DeadReason, detail: String },
}

/// A row whose claim missed between look and hand-over: somebody else was quicker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missed {
    pub row: RowId,
    /// The state that the row was given for the outcome that did not come true.
    pub from: StateName,
    pub reason: WaitReason,
    pub detail: String,
}

/// What confirm learned about a row that was handed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmed {
    pub row: RowId,
    /// The epoch of the hand-over that this is about.
    pub epoch: i64,
    pub verdict: Verdict,
    /// Since the hand-over, by the database's clock.
    pub handed_ago: Duration,
    /// Since the effect, by the engine's clock, where that is known: for the recovery histogram.
    pub overdue: Option<Duration>,
}

/// The proof, or that there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The receipt is there.
    Done,
    /// It is proven that the effect never happened.
    Never { detail: String },
    /// The job is gone, and nothing proves either.
    InDoubt { detail: String },
}

/// An engine whose effect commits together with the inbox row.
///
/// `Tx` is the inbox's transaction, so that an engine cannot be given the transaction of another database.
#[async_trait]
pub trait Engine<Tx>: Send + Sync {
    /// As in `[engines.NAME]`.
    fn name(&self) -> &str;

    /// Whether the engine's columns can hold the message at all; pure, before any transaction.
    ///
    /// # Errors
    /// What does not fit, by the variable's name.
    fn fits(&self, message: &Message) -> Result<(), Undecodable>;

    /// Whether [`Engine::wake`] finds a waiting row of this message as soon as somebody waits for it.
    /// If not, the sweeper looks again and again.
    fn announces(&self, message: &Message) -> bool;

    /// Whether it answers [`Outcome::Hand`], or knows when somebody begins to wait: only such an engine is
    /// asked to [`Engine::wake`] and to [`Engine::confirm`].
    fn hands_over(&self) -> bool;

    /// Whether what its look and its hand-over read of large tables for a handful of messages is found by an
    /// index ([`Inbox::begin_small`](crate::inbox::Inbox::begin_small)); of a user's statements nobody knows.
    fn reads_by_index(&self) -> bool {
        false
    }

    /// Step 3: who waits for these, in the batch's order. Only a look: [`Matched::hand`] makes it true.
    ///
    /// # Errors
    /// The database's.
    async fn look<'a>(
        &'a self,
        tx: &mut Tx,
        asks: &[Ask<'a>],
    ) -> Result<Box<dyn Matched<Tx> + 'a>, DbError>;

    /// Rows of these routes that may go on now: those that only waited for the backlog, the oldest
    /// first, and a free subscription joined with the first waiting row for it. Only a look.
    ///
    /// # Errors
    /// The database's.
    async fn wake(
        &self,
        _tx: &mut Tx,
        _routes: &[String],
        _limit: i64,
    ) -> Result<Vec<Woken>, DbError> {
        Ok(Vec::new())
    }

    /// Handed rows whose job is gone, with the proof from the same snapshot; their claims are released. `None`:
    /// no job is gone, and there is nothing to commit.
    ///
    /// # Errors
    /// The database's.
    async fn confirm(&self, _tx: &mut Tx, _limit: i64) -> Result<Option<Vec<Confirmed>>, DbError> {
        Ok(None)
    }

    /// Learns what changes slowly: deployed models, the backlog, what is blocked. Called every
    /// half second while there is something to do; only a look.
    ///
    /// # Errors
    /// The database's.
    async fn refresh(&self, tx: &mut Tx) -> Result<EngineState, DbError>;

    /// What `sluice check --connect` prints about it.
    ///
    /// # Errors
    /// The database's.
    async fn inspect(&self, tx: &mut Tx) -> Result<Vec<Finding>, DbError>;

    /// What will become of the messages of these routes, as far as it can be told now; each finding with
    /// its route. An error is about its route alone.
    ///
    /// # Errors
    /// The database's.
    async fn foresee(
        &self,
        _tx: &mut Tx,
        _prospects: &[Prospect],
    ) -> Result<Vec<(String, Finding)>, DbError> {
        Ok(Vec::new())
    }
}

/// What a look found for each message of a batch, and the way to hand them over.
#[async_trait]
pub trait Matched<Tx>: Send {
    /// The outcome of the n-th ask.
    fn outcome(&self, index: usize) -> &Outcome;

    /// Step 5: writes the engine's rows for those of these rows that it was asked about and whose outcome
    /// is [`Outcome::Hand`] or [`Outcome::Effect`]; the others are none of its business.
    ///
    /// # Errors
    /// The database's.
    async fn hand(
        self: Box<Self>,
        tx: &mut Tx,
        rows: &HashSet<RowId>,
    ) -> Result<Vec<Missed>, DbError>;
}

/// What an engine says of itself, for the status page and the metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct EngineState {
    /// Our own runnable jobs that are not finished.
    pub backlog: u64,
    /// Our own jobs that will not run by themselves: no retries left, or suspended.
    pub blocked: u64,
    /// For people: what blocks, at most a handful, and what no engine node takes although it could.
    pub blocked_details: Vec<String>,
}
