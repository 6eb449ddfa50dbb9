//! The user's statements on PostgreSQL.
//!
//! The server tells which type each parameter has; every value is then sent as text and cast to that type
//! (`CAST(CAST($1 AS text) AS numeric)`), so that the server's own reading of the type decides, for every
//! type that it has, and a value that is none of that type is an error and never another value. What can
//! be told beforehand is told in [`render`], with the parameter's name.
//!
//! Invariant: a value is the message's own or an error, whatever types the user's tables have.

mod plan;
mod render;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Executor as _;
use sqlx::postgres::PgDatabaseError;

use super::{Dialect, SqlConfig, Statements, Unprepared, missed, outcome};
use crate::engine::{Ask, Engine, EngineState, Matched, Missed, Outcome};
use crate::finding::{Finding, Mistake};
use crate::inbox::postgres::Tx;
use crate::inbox::{Class, DbError, RowId};
use crate::message::{DeadReason, Message, Undecodable};

use plan::{Plan, Values};

/// Errors that say that a statement does not fit the tables: a syntax error or an unknown name, a
/// feature (or a plan) that is not supported, an unknown schema, a literal that is none of its type.
const UNPREPARED: [&str; 4] = ["42", "0A", "3F", "22"];
/// Errors of an execution that are about no message: the connection, the state of the session's transaction
/// and of its prepared statements, serialization and deadlocks, resources, the administrator's doing and
/// time limits, the system, a lock that was not to be had. All others are about the message, the user's own
/// codes (`RAISE … USING ERRCODE = 'ORD01'`) among them: as an outage, one message would stop its source.
const ABOUT_THE_SERVER: [&str; 8] = ["08", "25", "26", "40", "53", "57", "58", "55P03"];
/// A missing privilege, and also a policy of row level security, and what a user raises by that name.
const NOT_ALLOWED: [&str; 1] = ["42501"];
/// A plan older than this may have been overtaken by a change of the tables.
const PLAN_IS_FRESH: Duration = Duration::from_mins(1);

/// One engine of statements on PostgreSQL.
pub struct SqlOnPostgres {
    name: String,
    statements: Statements,
    known: Mutex<Known>,
}

/// What the server said about the statements.
#[derive(Default)]
struct Known {
    plan: Option<Arc<Plan>>,
    /// How many plans there were.
    plans: u64,
    /// Why there is none; logged when it changes.
    failure: Option<String>,
}

impl SqlOnPostgres {
    /// # Errors
    /// A statement that [`SqlConfig::validate`] refuses.
    pub fn new(name: &str, config: &SqlConfig) -> Result<Self, Mistake> {
        Ok(Self {
            name: name.to_owned(),
            statements: Statements::parse(config, Dialect::Postgres)?,
            known: Mutex::default(),
        })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plan, made if there is none. The inner error: a statement cannot be prepared; the transaction
    /// is as it was before.
    async fn plan(&self, tx: &mut Tx) -> Result<Result<Arc<Plan>, DbError>, DbError> {
        let number = {
            let mut known = self.known();
            if let Some(plan) = &known.plan {
                return Ok(Ok(Arc::clone(plan)));
            }
            known.plans += 1;
            known.plans
        };
        let named = |error| DbError::of("engine.sql.prepare")(error);
        tx.execute("/* engine.sql.savepoint */ SAVEPOINT sluice_plan")
            .await
            .map_err(named)?;
        match Plan::make(tx, &self.statements, number).await {
            Ok(plan) => {
                tx.execute("/* engine.sql.savepoint */ RELEASE SAVEPOINT sluice_plan")
                    .await
                    .map_err(named)?;
                let plan = Arc::new(plan);
                let mut known = self.known();
                known.plan = Some(Arc::clone(&plan));
                if known.failure.take().is_some() {
                    tracing::info!(engine = self.name, "the statements can be prepared again");
                }
                Ok(Ok(plan))
            }
            Err(error) => {
                let error = named(error);
                if !is_unprepared(&error) {
                    return Err(error);
                }
                tx.execute(
                    "/* engine.sql.savepoint */ ROLLBACK TO SAVEPOINT sluice_plan; \
                     RELEASE SAVEPOINT sluice_plan",
                )
                .await
                .map_err(named)?;
                let failure = Some(error.source.to_string());
                let mut known = self.known();
                if known.failure != failure {
                    tracing::warn!(
                        engine = self.name,
                        error = failure,
                        "a statement cannot be prepared, its messages wait"
                    );
                    known.failure = failure;
                }
                Ok(Err(error))
            }
        }
    }

    /// Says whom an error is about, and forgets a plan that may not fit the tables any more.
    fn refused(&self, plan: &Plan, error: DbError) -> DbError {
        let class = if is_privilege(&error) {
            Class::Outage
        } else if is_unprepared(&error) && !begins_with(&error, &["22"]) {
            self.known().plan = None;
            // With a fresh plan it is the statement's own inside that failed, for this message.
            if plan.age() < PLAN_IS_FRESH {
                Class::Message
            } else {
                Class::Again
            }
        } else if error.code().is_some() && !begins_with(&error, &ABOUT_THE_SERVER) {
            Class::Message
        } else {
            error.class
        };
        DbError { class, ..error }
    }
}

fn is_unprepared(error: &DbError) -> bool {
    // A missing privilege is an outage: it says nothing about the statement.
    begins_with(error, &UNPREPARED) && !begins_with(error, &NOT_ALLOWED)
}

/// Whether our role lacks a privilege, for every message: only the server's own check of its access lists
/// says so. A policy refuses one row, and `RAISE` one message, by the same code.
fn is_privilege(error: &DbError) -> bool {
    let check = error
        .source
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
        .and_then(PgDatabaseError::routine);
    begins_with(error, &NOT_ALLOWED)
        && check.is_none_or(|routine| routine.starts_with("aclcheck_error"))
}

fn begins_with(error: &DbError, classes: &[&str]) -> bool {
    let code = error.code().unwrap_or_default();
    classes.iter().any(|class| code.starts_with(class))
}

#[async_trait]
impl Engine<Tx> for SqlOnPostgres {
    fn name(&self) -> &str {
        &self.name
    }

    fn fits(&self, message: &Message) -> Result<(), Undecodable> {
        self.statements.fit(message)
    }

    /// Nothing says when somebody begins to wait.
    fn announces(&self, _: &Message) -> bool {
        false
    }

    fn hands_over(&self) -> bool {
        false
    }

    async fn look<'a>(
        &'a self,
        tx: &mut Tx,
        asks: &[Ask<'a>],
    ) -> Result<Box<dyn Matched<Tx> + 'a>, DbError> {
        let plan = match self.plan(tx).await? {
            Ok(plan) => plan,
            Err(error) => return Ok(Box::new(Unprepared::new(&error, asks.len()))),
        };
        let mut found = Vec::with_capacity(asks.len());
        for ask in asks {
            found.push(match plan.values(ask) {
                Ok(values) => {
                    let rows = plan.found(tx, &values).await;
                    let rows = rows.map_err(|error| self.refused(&plan, error))?;
                    (ask.row, outcome(rows), Some(values))
                }
                Err(detail) => {
                    let reason = DeadReason::Mapping;
                    (ask.row, Outcome::Dead { reason, detail }, None)
                }
            });
        }
        Ok(Box::new(Looked {
            engine: self,
            plan,
            found,
        }))
    }

    async fn refresh(&self, tx: &mut Tx) -> Result<EngineState, DbError> {
        let mut state = EngineState::default();
        if let Err(error) = self.plan(tx).await? {
            state.blocked_details.push(error.source.to_string());
        }
        Ok(state)
    }

    async fn inspect(&self, tx: &mut Tx) -> Result<Vec<Finding>, DbError> {
        let name = &self.name;
        let plan = match self.plan(tx).await? {
            Ok(plan) => plan,
            Err(error) => {
                let text = format!(
                    "engine {name}: a statement cannot be prepared: {}",
                    error.source
                );
                return Ok(vec![Finding::error(text)]);
            }
        };
        let found = plan.describe();
        Ok(found
            .map(|what| Finding::info(format!("engine {name}: {what}")))
            .into())
    }
}

/// What a look found, and the values for the effect.
struct Looked<'a> {
    engine: &'a SqlOnPostgres,
    plan: Arc<Plan>,
    found: Vec<(RowId, Outcome, Option<Values>)>,
}

#[async_trait]
impl Matched<Tx> for Looked<'_> {
    fn outcome(&self, index: usize) -> &Outcome {
        &self.found[index].1
    }

    async fn hand(
        self: Box<Self>,
        tx: &mut Tx,
        rows: &HashSet<RowId>,
    ) -> Result<Vec<Missed>, DbError> {
        let refused = |error| self.engine.refused(&self.plan, error);
        let (mut misses, mut applied) = (Vec::new(), false);
        for (row, outcome, values) in &self.found {
            let (Outcome::Effect { .. }, Some(values)) = (outcome, values) else {
                continue;
            };
            if !rows.contains(row) {
                continue;
            }
            // An earlier effect may have taken what this one was to have.
            let found = self.plan.found(tx, values).await.map_err(refused)?;
            if let Some(miss) = missed(*row, found) {
                misses.push(miss);
                continue;
            }
            self.plan.apply(tx, values).await.map_err(refused)?;
            applied = true;
        }
        if applied {
            // A deferred constraint would otherwise be checked by the commit, which cannot tell whose it is.
            tx.execute("/* engine.sql.constraints */ SET CONSTRAINTS ALL IMMEDIATE")
                .await
                .map_err(DbError::of("engine.sql.constraints"))
                .map_err(refused)?;
        }
        Ok(misses)
    }
}
