//! The transaction that everything runs in, our own statements and the engines'.
//!
//! Behind a pooler that pools by transaction the next transaction may meet another session of the server, so
//! nothing may be left behind in one and nothing be expected there. Invariant: there, no statement keeps a
//! name beyond its own execution, because another node's may have the same on that session.

use std::ops::{Deref, DerefMut};

use futures_util::TryStreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sqlx::error::BoxDynError;
use sqlx::postgres::{
    PgArguments, PgConnection, PgQueryResult, PgRow, PgStatement, PgTypeInfo, Postgres,
};
use sqlx::{AssertSqlSafe, Either, Execute, Executor, SqlSafeStr as _, SqlStr};

use super::plans::Planning;

/// A transaction, which the engines in this database share.
#[derive(Debug)]
pub struct Tx(Session);

/// What runs statements inside a transaction.
#[derive(Debug)]
pub struct Session {
    transaction: sqlx::Transaction<'static, Postgres>,
    /// As it began.
    planning: Planning,
    /// Whether a pooler may give the server's session to somebody else afterwards.
    pooled: bool,
}

impl Tx {
    pub(super) fn new(
        transaction: sqlx::Transaction<'static, Postgres>,
        planning: Planning,
        pooled: bool,
    ) -> Self {
        Self(Session {
            transaction,
            planning,
            pooled,
        })
    }

    pub(super) fn planning(&self) -> Planning {
        self.planning
    }

    pub(super) fn is_pooled(&self) -> bool {
        self.pooled
    }
}

impl Deref for Tx {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.0
    }
}

/// A statement without a name: parsed for this execution alone.
struct Unnamed<E>(E);

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Unnamed<E> {
    fn sql(self) -> SqlStr {
        self.0.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.0.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        self.0.take_arguments()
    }

    fn persistent(&self) -> bool {
        false
    }
}

impl<'c> Executor<'c> for &'c mut Session {
    type Database = Postgres;

    fn fetch_many<'e, 'q, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: Execute<'q, Postgres>,
        'q: 'e,
        E: 'q,
    {
        let connection: &'c mut PgConnection = &mut self.transaction;
        if self.pooled {
            connection.fetch_many(Unnamed(query))
        } else {
            connection.fetch_many(query)
        }
    }

    fn fetch_optional<'e, 'q, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: Execute<'q, Postgres>,
        'q: 'e,
        E: 'q,
    {
        let connection: &'c mut PgConnection = &mut self.transaction;
        if self.pooled {
            connection.fetch_optional(Unnamed(query))
        } else {
            connection.fetch_optional(query)
        }
    }

    /// Only what the server says of the statement; a pooler's session does not keep it.
    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        let pooled = self.pooled;
        Box::pin(async move {
            let connection: &mut PgConnection = &mut self.transaction;
            // A node that is unaware of the pooler may have left the very name that is given now.
            if pooled {
                forget(connection).await?;
            }
            let statement = connection.prepare_with(sql, parameters).await?;
            if pooled {
                forget(connection).await?;
            }
            Ok(statement)
        })
    }
}

/// Takes the names away that the driver gives to everything that it prepares. A pooler that manages the
/// names itself has given them others, which are its own business.
async fn forget(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let named = sqlx::query_scalar(
        "/* session.prepared */ SELECT name FROM pg_prepared_statements \
         WHERE NOT from_sql AND name ~ '^sqlx_s_[0-9]+$'",
    )
    .persistent(false);
    let names: Vec<String> = named.fetch_all(&mut *connection).await?;
    for name in names {
        let forget = AssertSqlSafe(format!("/* session.forget */ DEALLOCATE \"{name}\""));
        let mut done = (&mut *connection).execute_many(forget.into_sql_str());
        while done.try_next().await?.is_some() {}
    }
    Ok(())
}
