//! The statements with the types that the server gave their parameters.
//!
//! Owns the casts. Invariant: a statement's text carries the number of its plan, so that no connection
//! runs one that was prepared before the user changed a table.

use std::time::{Duration, Instant};

use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArguments, PgTypeInfo, PgTypeKind};
use sqlx::query::Query;
use sqlx::{
    AssertSqlSafe, Either, Executor as _, Postgres, SqlSafeStr as _, SqlStr, Statement as _,
};

use super::render::{self, Kind};
use crate::engine::Ask;
use crate::engine::sql::statement::{Role, Statement};
use crate::engine::sql::{Statements, parameter, step};
use crate::inbox::DbError;
use crate::inbox::postgres::{Session, Tx};

/// The statements with the types of their parameters.
#[derive(Debug)]
pub(super) struct Plan {
    matches: Option<Typed>,
    apply: Typed,
    made_at: Instant,
}

#[derive(Debug)]
struct Typed {
    sql: SqlStr,
    parameters: Vec<Parameter>,
}

#[derive(Debug)]
struct Parameter {
    name: String,
    kind: Kind,
    /// As the server writes it.
    type_name: String,
}

/// The values of one message, as text; `None` is NULL.
pub(super) struct Values {
    matches: Vec<Option<String>>,
    apply: Vec<Option<String>>,
}

/// Asks the server for the types, and writes the casts.
async fn typed(
    session: &mut Session,
    statement: &Statement,
    number: u64,
) -> Result<Typed, sqlx::Error> {
    let bare = numbered(statement, number, |index| format!("${}", index + 1));
    let prepared = session.prepare(bare).await?;
    let types = match prepared.parameters() {
        Some(Either::Left(types)) => types.to_vec(),
        Some(Either::Right(_)) | None => Vec::new(),
    };
    let names = type_names(session, &types).await?;
    let sql = numbered(statement, number, |index| {
        format!("CAST(CAST(${} AS text) AS {})", index + 1, names[index])
    });
    // Prepared here, while a failure has no consequences.
    session.prepare(sql.clone()).await?;
    let parameters = statement
        .parameters()
        .iter()
        .zip(types)
        .zip(names)
        .map(|((name, declared), type_name)| Parameter {
            name: name.clone(),
            kind: kind(&declared),
            type_name,
        })
        .collect();
    Ok(Typed { sql, parameters })
}

/// The user's own text, which is meant to be run, with the plan's number.
fn numbered(statement: &Statement, number: u64, place: impl Fn(usize) -> String) -> SqlStr {
    AssertSqlSafe(format!("{} /* {number} */", statement.text(place))).into_sql_str()
}

/// As a cast names them: `-1` keeps `bpchar` from becoming `character`, which holds one character.
async fn type_names(
    session: &mut Session,
    types: &[PgTypeInfo],
) -> Result<Vec<String>, sqlx::Error> {
    let oids: Vec<Oid> = types.iter().filter_map(PgTypeInfo::oid).collect();
    sqlx::query_scalar(
        "/* engine.sql.types */ SELECT format_type(t.oid, -1) \
         FROM unnest($1::oid[]) WITH ORDINALITY AS t (oid, place) \
         ORDER BY t.place",
    )
    .bind(oids)
    .fetch_all(session)
    .await
}

/// Domains are read as what they are made of.
fn kind(declared: &PgTypeInfo) -> Kind {
    match declared.kind() {
        PgTypeKind::Domain(base) => kind(base),
        _ => declared.oid().map_or(Kind::Other, |oid| Kind::of(oid.0)),
    }
}

impl Plan {
    /// # Errors
    /// A statement does not fit the tables, or the database's own.
    pub(super) async fn make(
        session: &mut Session,
        statements: &Statements,
        number: u64,
    ) -> Result<Self, sqlx::Error> {
        let matches = match &statements.matches {
            Some(statement) => Some(typed(session, statement, number).await?),
            None => None,
        };
        Ok(Self {
            matches,
            apply: typed(session, &statements.apply, number).await?,
            made_at: Instant::now(),
        })
    }

    pub(super) fn age(&self) -> Duration {
        self.made_at.elapsed()
    }

    /// For people: which parameters the statements take.
    pub(super) fn describe(&self) -> [String; 2] {
        let matches = self.matches.as_ref().map_or_else(
            || "there is no match: every message is applied at once".to_owned(),
            |matches| matches.describe("match"),
        );
        [matches, self.apply.describe("apply")]
    }

    /// # Errors
    /// The parameter that the message has no right value for.
    pub(super) fn values(&self, ask: &Ask<'_>) -> Result<Values, String> {
        Ok(Values {
            matches: match &self.matches {
                Some(typed) => typed.values(ask)?,
                None => Vec::new(),
            },
            apply: self.apply.values(ask)?,
        })
    }

    /// How many rows match finds; two stand for more.
    pub(super) async fn found(&self, tx: &mut Tx, values: &Values) -> Result<usize, DbError> {
        let Some(matches) = &self.matches else {
            return Ok(1);
        };
        let rows = matches.query(&values.matches).fetch_all(&mut **tx).await;
        Ok(rows.map_err(DbError::of(step(Role::Match)))?.len())
    }

    pub(super) async fn apply(&self, tx: &mut Tx, values: &Values) -> Result<(), DbError> {
        let applied = self.apply.query(&values.apply).execute(&mut **tx).await;
        applied.map_err(DbError::of(step(Role::Apply)))?;
        Ok(())
    }
}

impl Typed {
    fn values(&self, ask: &Ask<'_>) -> Result<Vec<Option<String>>, String> {
        self.parameters
            .iter()
            .map(
                |Parameter {
                     name,
                     kind,
                     type_name,
                 }| {
                    render::text(&parameter(ask, name), *kind).map_err(|found| {
                        format!("parameter :{name}: expected {type_name}, found {found}")
                    })
                },
            )
            .collect()
    }

    fn query<'q>(&self, values: &'q [Option<String>]) -> Query<'q, Postgres, PgArguments> {
        values
            .iter()
            .fold(sqlx::query(self.sql.clone()), |query, value| {
                query.bind(value.as_deref())
            })
    }

    fn describe(&self, what: &str) -> String {
        let parameters: Vec<String> = self
            .parameters
            .iter()
            .map(|parameter| format!(":{} {}", parameter.name, parameter.type_name))
            .collect();
        match parameters.as_slice() {
            [] => format!("{what} takes no parameters"),
            _ => format!("{what} takes {}", parameters.join(", ")),
        }
    }
}
