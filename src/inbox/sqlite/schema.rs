//! Migrations, and whether this program may run on what is there; the rules are PostgreSQL's.

use std::borrow::Cow;

use sqlx::migrate::{Migrate as _, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection as _, SqlSafeStr as _};

use super::SqliteInbox;
use crate::inbox::SchemaStatus;

/// Version, description and text of each migration; a landed one is never changed.
const MIGRATIONS: [(i64, &str, &str); 3] = [
    (
        1,
        "inbox",
        include_str!("../../../migrations/sqlite/0001_inbox.sql"),
    ),
    (
        2,
        "source position",
        include_str!("../../../migrations/sqlite/0002_source_position.sql"),
    ),
    (
        3,
        "position anchor",
        include_str!("../../../migrations/sqlite/0003_position_anchor.sql"),
    ),
];
const TABLE: &str = "schema_migration";

const IS_THERE: &str = r"/* inbox.schema_status */
    SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'schema_migration')";
const VERSION: &str = r"/* inbox.schema_version */
    SELECT ifnull(max(version), 0) FROM schema_migration WHERE success";
const MIN_READER: &str = "/* inbox.schema_min_reader */ SELECT min_reader FROM compatibility";

/// The statements of this module, for the test that prepares each.
pub(super) const STATEMENTS: &[&str] = &[IS_THERE, VERSION, MIN_READER];

/// The newest migration that this program knows.
fn expected() -> i64 {
    MIGRATIONS
        .iter()
        .map(|(version, ..)| *version)
        .max()
        .unwrap_or(0)
}

pub(super) async fn status(inbox: &SqliteInbox) -> Result<SchemaStatus, sqlx::Error> {
    // Only `migrate` makes the file.
    if !tokio::fs::try_exists(inbox.file())
        .await
        .map_err(sqlx::Error::Io)?
    {
        return Ok(SchemaStatus::Missing);
    }
    let pool = inbox.readers();
    if !sqlx::query_scalar(IS_THERE).fetch_one(pool).await? {
        return Ok(SchemaStatus::Missing);
    }
    let version = sqlx::query_scalar(VERSION).fetch_one(pool).await?;
    let min_reader: Option<i64> = sqlx::query_scalar(MIN_READER).fetch_one(pool).await?;
    Ok(SchemaStatus::of(
        version,
        min_reader.unwrap_or(0),
        expected(),
    ))
}

/// Runs what is missing, inside one transaction that writes: sqlx's migrator takes no lock on SQLite, and
/// two processes would both find the same migration missing.
pub(super) async fn migrate(options: &SqliteConnectOptions) -> Result<Vec<String>, sqlx::Error> {
    let options = options.clone().create_if_missing(true);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let mut tx = connection
        .begin_with("/* inbox.migrate */ BEGIN IMMEDIATE")
        .await?;
    let migrator = migrator();
    tx.ensure_migrations_table(TABLE).await?;
    let before = tx.list_applied_migrations(TABLE).await?;
    migrator.run_direct(None, &mut *tx, false).await?;
    tx.commit().await?;
    connection.close().await?;
    let is_new = |version: i64| before.iter().all(|applied| applied.version != version);
    Ok(MIGRATIONS
        .iter()
        .filter(|(version, ..)| is_new(*version))
        .map(|(version, description, _)| format!("{version:04} {description}"))
        .collect())
}

fn migrator() -> Migrator {
    let migrations = MIGRATIONS
        .iter()
        .map(|(version, description, text)| {
            let description = Cow::Borrowed(*description);
            let text = text.into_sql_str();
            Migration::new(*version, description, MigrationType::Simple, text, false)
        })
        .collect();
    let mut migrator = Migrator::with_migrations(migrations);
    migrator.dangerous_set_table_name(TABLE);
    // A newer version's migrations are not ours to judge; `status` says whether we may run on them.
    migrator.set_ignore_missing(true);
    migrator
}
