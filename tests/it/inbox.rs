//! The conformance suite of the inbox: every behaviour, on every database.
//!
//! A behaviour is a function over any [`Inbox`]; [`on_every_database`] makes a test of it on each. What
//! only one database can do (order, sessions) stands in a module of its own.

mod postgres;
mod rows;

use std::path::Path;

use sluice::inbox::postgres::PostgresInbox;
use sluice::inbox::{Inbox, InboxConfig};

use crate::rig::{Database, Rig};

/// A fresh inbox with its tables, and what must live as long as it.
pub struct Fresh<I> {
    pub inbox: I,
    pub place: Place,
}

/// Where the inbox's tables are.
pub enum Place {
    Postgres(Database),
    Sqlite(tempfile::TempDir),
}

impl Place {
    /// The configuration of another node on the same tables.
    pub fn config(&self) -> InboxConfig {
        let url = match self {
            Self::Postgres(database) => database.url(),
            Self::Sqlite(folder) => sqlite_url(folder.path()),
        };
        config(&url)
    }
}

fn sqlite_url(folder: &Path) -> String {
    format!("sqlite:{}", folder.join("sluice.db").display())
}

/// The defaults, with this URL.
pub fn config(url: &str) -> InboxConfig {
    serde_json::from_value(serde_json::json!({ "url": url })).unwrap()
}

pub async fn on_postgres() -> Fresh<PostgresInbox> {
    let database = Rig::get().database().await;
    let inbox = PostgresInbox::connect(&config(&database.url()), "sluice/test").unwrap();
    inbox.migrate().await.unwrap();
    Fresh {
        inbox,
        place: Place::Postgres(database),
    }
}

/// A test of each of these functions on each database.
macro_rules! on_every_database {
    ($($behaviour:ident),+ $(,)?) => {
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                super::$behaviour(crate::inbox::on_postgres().await).await;
            })+
        }
    };
}
pub(crate) use on_every_database;

mod accept;
