//! The user's own statements on the inbox's database: for people whose engine is a table.
//!
//! ```toml
//! [engines.orders.sql]
//! match = "SELECT 1 FROM orders WHERE id = :order_id AND state = 'open' FOR UPDATE"
//! apply = "INSERT INTO payments (order_id, amount, message) VALUES (:order_id, :amount, :dedup_key)"
//! ```
//!
//! `match` says who waits: no row is nobody, one is somebody, more are ambiguous. Without it there is
//! always somebody. `apply` is the effect; it commits with the inbox row, and one that changes no row is
//! an effect too. Parameters are the message's variables by their names, and `:business_key`,
//! `:dedup_key` and `:row_id` where no variable has that name. Nothing tells Sluice when somebody begins
//! to wait, so waiting rows are looked at again when they are due.
//!
//! How long the answer of `match` holds: it is asked again right before each message's `apply`, so what
//! earlier messages of the batch did is seen. Against other transactions it holds only when the statement
//! locks what it finds (`FOR UPDATE`), because PostgreSQL's transaction is READ COMMITTED; on SQLite
//! there is one writer, and nothing comes in between.
//!
//! Knows no broker and none of our own tables. Invariant: what a statement refuses is an error about its
//! message; a statement that cannot even be prepared is an error about none, and its messages wait.

mod postgres;
mod sqlite;
mod statement;

pub use postgres::SqlOnPostgres;
pub use sqlite::SqlOnSqlite;
pub use statement::{Dialect, Role};

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Ask, Matched, Missed, Outcome};
use crate::finding::Mistake;
use crate::inbox::{DbError, RowId, StateName};
use crate::message::{Action, DeadReason, Message, Undecodable, Value, WaitReason};

use statement::Statement;

/// The parameters that every message has, whatever its variables.
const DEDUP_KEY: &str = "dedup_key";
const ROW_ID: &str = "row_id";
/// The parameter that a message has when its route maps it.
const BUSINESS_KEY: &str = "business_key";

/// `[engines.NAME.sql]`: statements on the inbox's database, run in the inbox's transaction.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlConfig {
    /// Who waits for the message: no row is nobody, one is somebody, more are ambiguous. Default: somebody.
    #[serde(rename = "match")]
    pub matches: Option<String>,
    /// The effect. Parameters are written `:name`.
    pub apply: String,
}

impl SqlConfig {
    /// Everything that can be said to be wrong without a database.
    pub fn validate(&self, dialect: Dialect) -> Vec<Mistake> {
        self.texts()
            .filter_map(|(role, text)| {
                let refused = Statement::parse(text, role, dialect).err()?;
                Some(Mistake::new(role.as_str(), refused))
            })
            .collect()
    }

    /// The variables that a route to this engine must map; `business_key`, too, if a statement names it.
    pub fn wanted_parameters(&self, dialect: Dialect) -> BTreeSet<String> {
        self.texts()
            .filter_map(|(role, text)| Statement::parse(text, role, dialect).ok())
            .flat_map(|statement| statement.parameters().to_vec())
            .filter(|name| name != DEDUP_KEY && name != ROW_ID)
            .collect()
    }

    fn texts(&self) -> impl Iterator<Item = (Role, &str)> {
        let matches = self.matches.as_deref().map(|text| (Role::Match, text));
        matches
            .into_iter()
            .chain([(Role::Apply, self.apply.as_str())])
    }
}

/// The statements of one engine, read once.
#[derive(Debug)]
struct Statements {
    matches: Option<Statement>,
    apply: Statement,
}

impl Statements {
    fn parse(config: &SqlConfig, dialect: Dialect) -> Result<Self, Mistake> {
        let parse = |text: &str, role: Role| {
            Statement::parse(text, role, dialect).map_err(|what| Mistake::new(role.as_str(), what))
        };
        let matches = config.matches.as_deref();
        Ok(Self {
            matches: matches.map(|text| parse(text, Role::Match)).transpose()?,
            apply: parse(&config.apply, Role::Apply)?,
        })
    }

    fn all(&self) -> impl Iterator<Item = &Statement> {
        self.matches.iter().chain([&self.apply])
    }

    /// Whether the message has every parameter that the statements name.
    fn fit(&self, message: &Message) -> Result<(), Undecodable> {
        let Action::Apply(_) = &message.action else {
            return Err(mapping(
                "an engine of statements takes only what a route maps with `apply`",
            ));
        };
        let missing = self
            .all()
            .flat_map(Statement::parameters)
            .find(|name| *name != ROW_ID && variable(message, name).is_none());
        match missing {
            None => Ok(()),
            Some(name) if name == BUSINESS_KEY => Err(mapping(
                "a statement uses :business_key, and the route maps no `business_key`",
            )),
            Some(name) => Err(mapping(&format!(
                "a statement uses :{name}, and the route maps no variable `{name}`"
            ))),
        }
    }
}

fn mapping(detail: &str) -> Undecodable {
    Undecodable {
        reason: DeadReason::Mapping,
        detail: detail.to_owned(),
    }
}

/// The value of a parameter, but for the row's id.
fn variable<'a>(message: &'a Message, name: &str) -> Option<Cow<'a, Value>> {
    let mapped = message.variables.iter().find(|mapped| mapped.name == name);
    let text = |text: &str| Cow::Owned(Value::String(text.to_owned()));
    match (mapped, name, &message.action) {
        (Some(mapped), _, _) => Some(Cow::Borrowed(&mapped.value)),
        (None, DEDUP_KEY, _) => Some(text(&message.dedup_key.text)),
        (None, BUSINESS_KEY, Action::Apply(apply)) => apply.business_key.as_deref().map(text),
        (None, _, _) => None,
    }
}

/// The value of a parameter of a message that fits.
fn parameter<'a>(ask: &Ask<'a>, name: &str) -> Cow<'a, Value> {
    match variable(ask.message, name) {
        Some(value) => value,
        None if name == ROW_ID => Cow::Owned(Value::String(ask.row.to_string())),
        None => unreachable!("`fits` was asked before: the message has every parameter"),
    }
}

/// What so many rows of `match` mean.
fn outcome(found: usize) -> Outcome {
    match found {
        0 => Outcome::Nobody,
        1 => Outcome::Effect {
            process_instance_id: None,
        },
        _ => Outcome::Wait {
            reason: WaitReason::Ambiguous,
            detail: "match finds several rows".to_owned(),
        },
    }
}

/// A row whose match, asked again right before its effect, found something else than one row.
fn missed(row: RowId, found: usize) -> Option<Missed> {
    let (reason, detail) = match found {
        0 => (
            WaitReason::NoSubscription,
            "nobody waits any more".to_owned(),
        ),
        1 => return None,
        _ => (WaitReason::Ambiguous, "match finds several rows".to_owned()),
    };
    Some(Missed {
        row,
        from: StateName::Done,
        reason,
        detail,
    })
}

/// The outcomes while a statement cannot be prepared.
struct Unprepared(Vec<Outcome>);

impl Unprepared {
    fn new(error: &DbError, asks: usize) -> Self {
        // No value of a message is in it yet, so that the server's words can be shown as they are.
        let said = error.source.as_database_error().map_or_else(
            || error.source.to_string(),
            |error| error.message().to_owned(),
        );
        let outcome = Outcome::Wait {
            reason: WaitReason::EngineDown,
            detail: format!("a statement cannot be prepared: {said}"),
        };
        Self(vec![outcome; asks])
    }
}

#[async_trait]
impl<Tx: Send> Matched<Tx> for Unprepared {
    fn outcome(&self, index: usize) -> &Outcome {
        &self.0[index]
    }

    async fn hand(self: Box<Self>, _: &mut Tx, _: &HashSet<RowId>) -> Result<Vec<Missed>, DbError> {
        Ok(Vec::new())
    }
}

fn step(role: Role) -> &'static str {
    match role {
        Role::Match => "engine.sql.match",
        Role::Apply => "engine.sql.apply",
    }
}
