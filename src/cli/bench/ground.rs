//! Where the bench works: a schema of its own in the user's database, made and dropped again.
//!
//! Knows nothing of what is measured. Invariant: nothing outside this schema is written here.

use anyhow::Context;
use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _};

use super::Subject;
use crate::inbox::postgres::PostgresInbox;
use crate::inbox::{Inbox as _, InboxConfig};
use crate::intake::IntakeConfig;

/// The schema, and the inbox in it.
pub struct Ground {
    pub inbox: PostgresInbox,
    pub intake: IntakeConfig,
    /// With the schema's name.
    pub config: InboxConfig,
}

impl Ground {
    /// Makes the schema and its tables.
    pub async fn make(subject: &Subject, name: &str) -> anyhow::Result<Self> {
        let config = InboxConfig {
            schema: name.to_owned(),
            ..subject.inbox.clone()
        };
        let inbox = PostgresInbox::connect(&config, "sluice bench")?;
        inbox.migrate().await?;
        Ok(Self {
            inbox,
            intake: subject.intake,
            config,
        })
    }

    /// Empties the tables, so that no line pays for the one before it.
    pub async fn clear(&self) -> anyhow::Result<()> {
        let schema = self.inbox.schema();
        let text = format!(
            "/* bench.clear */ TRUNCATE {schema}.inbox, {schema}.pending, {schema}.pending_start"
        );
        self.run(&text).await?;
        Ok(())
    }

    /// Runs a statement that names the schema; returns how many rows it touched.
    ///
    /// The text must be made of constants and names that were checked to be identifiers.
    pub async fn run(&self, text: &str) -> anyhow::Result<u64> {
        let mut connection = self.inbox.pool().acquire().await?;
        let done = sqlx::raw_sql(AssertSqlSafe(text.to_owned()))
            .execute(&mut *connection)
            .await?;
        Ok(done.rows_affected())
    }

    /// How many rows there are.
    pub async fn all_rows(&self) -> anyhow::Result<u64> {
        let schema = self.inbox.schema();
        let text = format!("/* bench.all_rows */ SELECT count(*) FROM {schema}.inbox");
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(text))
            .fetch_one(self.inbox.pool())
            .await?;
        Ok(rows.unsigned_abs())
    }

    /// How many rows are in this state.
    pub async fn rows(&self, state: &str) -> anyhow::Result<u64> {
        let schema = self.inbox.schema();
        let text = format!("/* bench.rows */ SELECT count(*) FROM {schema}.inbox WHERE state = $1");
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(text))
            .bind(state)
            .fetch_one(self.inbox.pool())
            .await?;
        Ok(rows.unsigned_abs())
    }
}

/// Drops a schema of the bench's, over the heads of those of its own sessions that are still in it.
pub async fn drop_schema(inbox: &InboxConfig, name: &str) -> anyhow::Result<()> {
    let options: PgConnectOptions = inbox.url.expose_secret().parse()?;
    let mut connection = PgConnection::connect_with(&options).await?;
    let text = format!(
        "/* bench.drop_schema */ SET lock_timeout = '20s'; DROP SCHEMA IF EXISTS \"{name}\" CASCADE"
    );
    let dropped = sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut connection);
    dropped.await.context("the schema is not dropped")?;
    connection.close().await?;
    Ok(())
}
