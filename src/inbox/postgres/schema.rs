//! Migrations, and whether this program may run on what is there.
//!
//! A program runs on the tables of its own migrations, and on newer ones that say so (`compatibility`):
//! a rolling update runs `sluice migrate` first, and then replaces the nodes one by one.
//! Invariant: a migration waits for a lock only for a moment. Whoever wants a table after it stands behind it, and
//! what holds the table may be a dump that takes hours.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use sqlx::migrate::{Migrate as _, Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, SqlSafeStr as _};

use super::statement::statements;
use super::{PostgresInbox, Tx};
use crate::inbox::{DbError, Inbox as _, Pooler, SchemaStatus};

/// Version, description and text of each migration; a landed one is never changed.
const MIGRATIONS: [(i64, &str, &str); 3] = [
    (
        1,
        "inbox",
        include_str!("../../../migrations/postgres/0001_inbox.sql"),
    ),
    (
        2,
        "source position",
        include_str!("../../../migrations/postgres/0002_source_position.sql"),
    ),
    (
        3,
        "position anchor",
        include_str!("../../../migrations/postgres/0003_position_anchor.sql"),
    ),
];

/// Nodes stand behind a migration for no longer, which is less than they wait for a lock themselves.
const LOCK_TIMEOUT: &str = "/* inbox.migrate */ SET lock_timeout = '2s'";
/// Between two tries nodes do what has stood behind the first.
const PAUSE: Duration = Duration::from_secs(3);
/// Then somebody must look at what holds the lock.
const PATIENCE: Duration = Duration::from_mins(5);
/// How many of those who hold a lock are told of.
const HOLDERS: i64 = 5;

statements! {
    // The name is told of every session, what it does only to a privileged role. Nodes hold theirs for moments.
    holders: r"/* inbox.migrate_holders */
        SELECT format('%s (pid %s)', COALESCE(NULLIF(a.application_name, ''), 'a session'), l.pid)
        FROM pg_locks l
        JOIN pg_class c ON c.oid = l.relation
        LEFT JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.granted AND l.pid <> pg_backend_pid() AND c.relkind = 'r'
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
        GROUP BY a.application_name, l.pid, a.xact_start
        ORDER BY a.xact_start, l.pid
        LIMIT $2",
    version: r"/* inbox.schema_version */
        SELECT COALESCE(max(version), 0) FROM {s}.schema_migration WHERE success",
    min_reader: r"/* inbox.schema_min_reader */
        SELECT min_reader FROM {s}.compatibility",
}

/// The newest migration that this program knows.
fn expected() -> i64 {
    MIGRATIONS
        .iter()
        .map(|(version, ..)| *version)
        .max()
        .unwrap_or(0)
}

pub(super) async fn status(inbox: &PostgresInbox) -> Result<SchemaStatus, DbError> {
    let mut tx = inbox.begin().await?;
    let status = read(inbox, &mut tx);
    let status = inbox.within("inbox.schema_status", status).await?;
    inbox.commit(tx).await?;
    Ok(status)
}

async fn read(inbox: &PostgresInbox, tx: &mut Tx) -> Result<SchemaStatus, sqlx::Error> {
    let schema = inbox.inner.schema.quoted();
    let there: bool =
        sqlx::query_scalar("/* inbox.schema_status */ SELECT to_regclass($1) IS NOT NULL")
            .bind(format!("{schema}.schema_migration"))
            .fetch_one(&mut **tx)
            .await?;
    if !there {
        return Ok(SchemaStatus::Missing);
    }
    let state = &inbox.inner.state;
    let version: i64 = sqlx::query_scalar(state.version.clone())
        .fetch_one(&mut **tx)
        .await?;
    if version == 0 {
        // The first migration failed: its other tables are not there.
        return Ok(SchemaStatus::Missing);
    }
    let min_reader = sqlx::query_scalar(state.min_reader.clone())
        .fetch_one(&mut **tx)
        .await?;
    Ok(SchemaStatus::of(version, min_reader, expected()))
}

/// Runs what is missing, however often a lock is not to be had, up to a point.
pub(super) async fn migrate(inbox: &PostgresInbox) -> Result<Vec<String>, DbError> {
    let connections = &inbox.inner.connections;
    if connections.pooler() == Pooler::Transaction {
        let meets_pooler = connections.meets_pooler().await;
        if meets_pooler.map_err(DbError::of("inbox.migrate"))? {
            // The pooler would give the session that holds the lock to others, and the lock would stay.
            let what = "a pooler stands before the server: migrations need a session of their own, so give \
                        `inbox.url` the server's own address for this command";
            return Err(DbError::of("inbox.migrate")(sqlx::Error::Configuration(
                what.into(),
            )));
        }
    }
    let began = Instant::now();
    loop {
        let done = try_once(inbox).await;
        match done {
            Err(error) if error.is_contention() && began.elapsed() < PATIENCE => {
                let holders = holders(inbox).await.unwrap_or_default();
                tracing::warn!(
                    code = error.code(),
                    holders,
                    "the migration waits for a lock and is tried again"
                );
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

/// On a session of its own: the lock of the migration belongs to the session, and ends with it also when a
/// statement fails.
async fn try_once(inbox: &PostgresInbox) -> Result<Vec<String>, DbError> {
    let session = inbox.inner.connections.session().await;
    let mut connection = session.map_err(DbError::of("inbox.migrate"))?;
    let done = run(inbox, &mut connection).await;
    // The answer is known; a session that does not close cleanly changes nothing about it.
    drop(connection.close().await);
    done.map_err(DbError::of("inbox.migrate"))
}

/// Who holds a lock on one of our tables, who has for longest first.
async fn holders(inbox: &PostgresInbox) -> Result<String, DbError> {
    let mut tx = inbox.begin().await?;
    let query = sqlx::query_scalar(inbox.inner.state.holders.clone())
        .bind(inbox.inner.schema.name())
        .bind(HOLDERS);
    let holders: Vec<String> = inbox
        .within("inbox.migrate_holders", query.fetch_all(&mut *tx))
        .await?;
    Ok(holders.join(", "))
}

async fn run(
    inbox: &PostgresInbox,
    connection: &mut PgConnection,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::raw_sql(LOCK_TIMEOUT)
        .execute(&mut *connection)
        .await?;
    // Taken again by the migrator: what was applied before must be read under the same lock.
    connection.lock().await?;
    create_schema(inbox, connection).await?;
    let migrator = migrator(inbox);
    connection
        .ensure_migrations_table(&migrator.table_name)
        .await?;
    let before = connection
        .list_applied_migrations(&migrator.table_name)
        .await?;
    migrator.run_direct(None, connection, false).await?;
    let is_new = |version: i64| before.iter().all(|applied| applied.version != version);
    Ok(MIGRATIONS
        .iter()
        .filter(|(version, ..)| is_new(*version))
        .map(|(version, description, _)| format!("{version:04} {description}"))
        .collect())
}

/// Only where it is missing: IF NOT EXISTS asks for the privilege also where it exists.
async fn create_schema(
    inbox: &PostgresInbox,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    let schema = &inbox.inner.schema;
    let there: bool = sqlx::query_scalar(
        "/* inbox.schema_exists */ SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)",
    )
    .bind(schema.name())
    .fetch_one(&mut *connection)
    .await?;
    if !there {
        sqlx::raw_sql(schema.sql("/* inbox.create_schema */ CREATE SCHEMA {s}"))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

fn migrator(inbox: &PostgresInbox) -> Migrator {
    let schema = inbox.inner.schema.quoted();
    let migrations = MIGRATIONS
        .iter()
        .map(|(version, description, text)| {
            let text = format!("SET LOCAL search_path TO {schema};\n{text}");
            Migration::new(
                *version,
                Cow::Borrowed(*description),
                MigrationType::Simple,
                AssertSqlSafe(text).into_sql_str(),
                false,
            )
        })
        .collect();
    let mut migrator = Migrator::with_migrations(migrations);
    migrator.dangerous_set_table_name(format!("{schema}.schema_migration"));
    // A newer version's migrations are not ours to judge; `status` says whether we may run on them.
    migrator.set_ignore_missing(true);
    migrator
}
