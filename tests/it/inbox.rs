//! The conformance suite of the inbox: every behaviour, on every database.
//!
//! A behaviour is a function over any [`Kept`]; [`on_every_database`] makes a test of it on each. What
//! only one database can do (sessions, locks, order per key) stands in a module of its own.

mod accept;
mod drive;
mod due;
mod grants;
mod operate;
mod order;
mod positions;
mod postgres;
mod purge;
pub mod rows;
mod schema;
mod sqlite;

use sluice::inbox::postgres::PostgresInbox;
use sluice::inbox::sqlite::SqliteInbox;
use sluice::inbox::{Inbox, InboxConfig};

use crate::rig::{Database, Rig};

/// An inbox as a test needs it.
pub trait Kept: Inbox {
    /// Keeps what the tables live in, for as long as the test.
    type Place;

    /// A fresh place without tables.
    async fn place() -> Self::Place;

    /// A node on that place.
    fn node(place: &Self::Place) -> Self;

    /// Runs a statement of the test's own, in which `inbox`, `node` and so on are our tables.
    async fn sql(&self, sql: &str);

    /// Moves a column of times of all rows back by a day.
    async fn age(&self, table: &str, column: &str);
}

impl Kept for PostgresInbox {
    type Place = Database;

    async fn place() -> Database {
        Rig::get().database().await
    }

    fn node(place: &Database) -> Self {
        Self::connect(&config(&place.url()), "sluice/test").unwrap()
    }

    async fn sql(&self, sql: &str) {
        let sql = format!(
            "SET search_path TO {}; {sql}; RESET search_path",
            self.schema()
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(self.pool())
            .await
            .unwrap();
    }

    async fn age(&self, table: &str, column: &str) {
        let day = "interval '1 day'";
        self.sql(&format!("UPDATE {table} SET {column} = {column} - {day}"))
            .await;
    }
}

impl Kept for SqliteInbox {
    type Place = tempfile::TempDir;

    async fn place() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn node(place: &tempfile::TempDir) -> Self {
        Self::connect(&config(&url_in(place))).unwrap()
    }

    async fn sql(&self, sql: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
            .execute(self.writer())
            .await
            .unwrap();
    }

    async fn age(&self, table: &str, column: &str) {
        self.sql(&format!(
            "UPDATE {table} SET {column} = {column} - 86400000"
        ))
        .await;
    }
}

pub fn url_in(folder: &tempfile::TempDir) -> String {
    format!("sqlite:{}", folder.path().join("sluice.db").display())
}

/// The defaults, with this URL.
pub fn config(url: &str) -> InboxConfig {
    serde_json::from_value(serde_json::json!({ "url": url })).unwrap()
}

/// A fresh inbox with its tables, and what must live as long as it.
pub struct Fresh<I: Kept> {
    pub inbox: I,
    pub place: I::Place,
}

pub async fn fresh<I: Kept>() -> Fresh<I> {
    let place = I::place().await;
    let inbox = I::node(&place);
    inbox.migrate().await.unwrap();
    Fresh { inbox, place }
}

/// A test of each of these functions on each database.
macro_rules! on_every_database {
    ($($behaviour:ident),+ $(,)?) => {
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                let fresh = crate::inbox::fresh::<sluice::inbox::postgres::PostgresInbox>().await;
                super::$behaviour(fresh).await;
            })+
        }
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                let fresh = crate::inbox::fresh::<sluice::inbox::sqlite::SqliteInbox>().await;
                super::$behaviour(fresh).await;
            })+
        }
    };
}
pub(crate) use on_every_database;
