//! The user's statements on SQLite.
//!
//! SQLite's types belong to values: numbers, text and bytes are bound as they are, a boolean as 0 or 1,
//! a date as milliseconds since 1970, JSON as its text. What a column does not hold, its `CHECK`, `NOT
//! NULL` or `STRICT` must refuse. Invariant: the same as on PostgreSQL, where nothing is said.

use std::collections::HashSet;

use async_trait::async_trait;
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, Executor as _, SqlSafeStr as _, SqlStr, Sqlite, Transaction};

use super::statement::Statement;
use super::{Dialect, SqlConfig, Statements};
use super::{Unprepared, missed, outcome, parameter, step};
use crate::engine::{Ask, Engine, EngineState, Matched, Missed, Outcome};
use crate::finding::{Finding, Mistake};
use crate::inbox::{Class, DbError, RowId};
use crate::message::{Message, Undecodable, Value};

/// The inbox's transaction.
type Tx = Transaction<'static, Sqlite>;

/// `SQLITE_ERROR`: when preparing, the statement does not fit the tables; afterwards, what functions raise.
const GENERIC: i32 = 1;
/// `SQLITE_TOOBIG`, `SQLITE_CONSTRAINT` (with what a trigger raises), `SQLITE_MISMATCH`.
const ABOUT_THE_MESSAGE: [i32; 4] = [GENERIC, 18, 19, 20];

/// One engine of statements on SQLite.
pub struct SqlOnSqlite {
    name: String,
    statements: Statements,
}

/// The statements as they are prepared for the tables of this transaction.
struct Plan {
    matches: Option<SqlStr>,
    apply: SqlStr,
}

impl SqlOnSqlite {
    /// # Errors
    /// A statement that [`SqlConfig::validate`] refuses.
    pub fn new(name: &str, config: &SqlConfig) -> Result<Self, Mistake> {
        Ok(Self {
            name: name.to_owned(),
            statements: Statements::parse(config, Dialect::Sqlite)?,
        })
    }

    /// The inner error: a statement does not fit the tables.
    ///
    /// The version of the schema is read in a way that makes the connection look at the schema again, and
    /// stands in the statements' text: sqlx trusts the columns that a `RETURNING *` had when it was
    /// prepared, and panics when the table has got another since.
    async fn plan(&self, tx: &mut Tx) -> Result<Result<Plan, DbError>, DbError> {
        let version: i64 = sqlx::query_scalar(
            "/* engine.sql.version */ SELECT schema_version + 0 * EXISTS (SELECT 1 FROM sqlite_schema) \
             FROM pragma_schema_version",
        )
        .fetch_one(&mut **tx)
        .await
        .map_err(DbError::of("engine.sql.version"))?;
        let matches = self.statements.matches.as_ref();
        let plan = Plan {
            matches: matches.map(|statement| numbered(statement, version)),
            apply: numbered(&self.statements.apply, version),
        };
        for sql in plan.matches.iter().chain([&plan.apply]) {
            let prepared = tx.prepare(sql.clone()).await;
            match prepared.map_err(DbError::of("engine.sql.prepare")) {
                Ok(_) => {}
                Err(error) if code(&error) == Some(GENERIC) => return Ok(Err(error)),
                Err(error) => return Err(error),
            }
        }
        Ok(Ok(plan))
    }

    async fn found(&self, tx: &mut Tx, plan: &Plan, ask: &Ask<'_>) -> Result<usize, DbError> {
        let (Some(statement), Some(sql)) = (&self.statements.matches, &plan.matches) else {
            return Ok(1);
        };
        let rows = query(statement, sql, ask).fetch_all(&mut **tx).await;
        Ok(rows.map_err(|error| refused(statement, error))?.len())
    }

    async fn apply(&self, tx: &mut Tx, plan: &Plan, ask: &Ask<'_>) -> Result<(), DbError> {
        let statement = &self.statements.apply;
        let applied = query(statement, &plan.apply, ask).execute(&mut **tx).await;
        applied.map_err(|error| refused(statement, error))?;
        Ok(())
    }
}

/// The user's own text, which is meant to be run, with the version of the tables that it was prepared for.
fn numbered(statement: &Statement, version: i64) -> SqlStr {
    let text = statement.text(|index| format!("?{}", index + 1));
    AssertSqlSafe(format!("{text} /* {version} */")).into_sql_str()
}

fn query(
    statement: &Statement,
    sql: &SqlStr,
    ask: &Ask<'_>,
) -> sqlx::query::Query<'static, Sqlite, SqliteArguments> {
    let query = sqlx::query(sql.clone());
    statement
        .parameters()
        .iter()
        .fold(query, |query, name| bind(query, &parameter(ask, name)))
}

/// Says whom an error is about.
fn refused(statement: &Statement, error: sqlx::Error) -> DbError {
    let error = DbError::of(step(statement.role))(error);
    let class = match code(&error) {
        Some(code) if ABOUT_THE_MESSAGE.contains(&code) => Class::Message,
        Some(_) | None => error.class,
    };
    DbError { class, ..error }
}

/// The primary result code.
fn code(error: &DbError) -> Option<i32> {
    let extended: i32 = error.code()?.parse().ok()?;
    Some(extended & 0xff)
}

fn bind<'q>(
    query: sqlx::query::Query<'q, Sqlite, SqliteArguments>,
    value: &Value,
) -> sqlx::query::Query<'q, Sqlite, SqliteArguments> {
    match value {
        Value::Null => query.bind(None::<i64>),
        Value::Boolean(value) => query.bind(*value),
        Value::Short(number) => query.bind(i64::from(*number)),
        Value::Integer(number) => query.bind(i64::from(*number)),
        Value::Long(number) | Value::Date(number) => query.bind(*number),
        Value::Double(number) => query.bind(*number),
        Value::String(text) | Value::Json(text) => query.bind(text.clone()),
        Value::Bytes(bytes) => query.bind(bytes.clone()),
    }
}

#[async_trait]
impl Engine<Tx> for SqlOnSqlite {
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
            found.push((*ask, outcome(self.found(tx, &plan, ask).await?)));
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
        Ok(vec![match self.plan(tx).await? {
            Ok(_) => Finding::info(format!("engine {name}: its statements fit the tables")),
            Err(error) => Finding::error(format!(
                "engine {name}: a statement cannot be prepared: {}",
                error.source
            )),
        }])
    }
}

/// What a look found.
struct Looked<'a> {
    engine: &'a SqlOnSqlite,
    plan: Plan,
    found: Vec<(Ask<'a>, Outcome)>,
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
        let mut misses = Vec::new();
        let (engine, plan) = (self.engine, &self.plan);
        for (ask, outcome) in &self.found {
            if !rows.contains(&ask.row) || !matches!(outcome, Outcome::Effect { .. }) {
                continue;
            }
            // An earlier effect may have taken what this one was to have.
            match missed(ask.row, engine.found(tx, plan, ask).await?) {
                Some(miss) => misses.push(miss),
                None => engine.apply(tx, plan, ask).await?,
            }
        }
        Ok(misses)
    }
}
