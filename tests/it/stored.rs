//! The rows of an inbox as they stand in its table: exact bytes, state and reason.
//!
//! For what a row must hold and for how it waits. Effects are never counted here.

use std::time::Duration;

use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

use crate::rig::{Schema, eventually};

/// One row.
#[derive(Debug, Clone)]
pub struct Stored {
    pub source: String,
    pub route: String,
    pub dedup_key: String,
    pub state: String,
    pub reason: Option<String>,
    pub detail: String,
    pub attempts: i32,
    pub payload: Option<Vec<u8>>,
    envelope: Vec<u8>,
}

impl Stored {
    fn of(row: &PgRow) -> Stored {
        Stored {
            source: row.get("source"),
            route: row.get("route"),
            dedup_key: row.get("dedup_key"),
            state: row.get("state"),
            reason: row.get("reason"),
            detail: row.get("detail"),
            attempts: row.get("attempts"),
            payload: row.get("payload"),
            envelope: row.get("envelope"),
        }
    }

    /// Everything around the payload.
    pub fn envelope(&self) -> Value {
        serde_json::from_slice(&self.envelope).expect("the envelope is JSON")
    }

    /// The last header of this name.
    pub fn header(&self, name: &str) -> Option<Value> {
        let envelope = self.envelope();
        let headers = envelope["headers"].as_array()?;
        let found = headers.iter().rev().find(|header| header[0] == name)?;
        Some(found[1].clone())
    }

    /// State and reason in one word, as in `waiting no_subscription`.
    pub fn is(&self) -> String {
        let reason = self.reason.as_deref().unwrap_or_default();
        format!("{} {reason}", self.state).trim_end().to_owned()
    }
}

/// An inbox, looked into from outside.
pub struct Inbox {
    pub pool: PgPool,
}

impl Inbox {
    pub async fn of(schema: &Schema) -> Inbox {
        Inbox {
            pool: schema.pool().await,
        }
    }

    /// All rows, in the order in which they were accepted.
    pub async fn rows(&self) -> Vec<Stored> {
        let sql =
            "SELECT source, route, dedup_key, state, reason, detail, attempts, payload, envelope
                     FROM inbox ORDER BY id";
        let rows = sqlx::query(sql).fetch_all(&self.pool).await;
        let rows = rows.expect("the inbox's tables are there");
        rows.iter().map(Stored::of).collect()
    }

    /// The row with this key, as it is known to people.
    pub async fn row(&self, dedup_key: &str) -> Option<Stored> {
        let rows = self.rows().await;
        rows.into_iter().find(|row| row.dedup_key == dedup_key)
    }

    /// Waits until the row with this key is in a state, as [`Stored::is`] says it.
    pub async fn until(&self, dedup_key: &str, is: &str, limit: Duration) -> Stored {
        let mut last = None;
        let look = async || {
            last = self.row(dedup_key).await;
            last.clone().filter(|row| row.is() == is)
        };
        let what = format!("row {dedup_key} becoming {is}");
        eventually(&what, limit, look).await
    }

    /// Waits until no row is waiting or handed.
    pub async fn until_settled(&self, limit: Duration) {
        let sql = "SELECT count(*) FROM inbox WHERE state NOT IN ('done', 'dead')";
        eventually("every row being done or dead", limit, async || {
            let open: i64 = sqlx::query_scalar(sql)
                .fetch_one(&self.pool)
                .await
                .expect("the inbox's tables are there");
            (open == 0).then_some(())
        })
        .await;
    }
}
