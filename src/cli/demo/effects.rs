//! The effects: an append-only table without any unique key, counted from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions};

use super::orders::Kind;

/// The rows, held against what was sent.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub effects: u64,
    /// Sent, without any effect.
    pub lost: u64,
    /// Effects beyond the first of each.
    pub doubled: u64,
}

pub struct Effects {
    pool: SqlitePool,
}

impl Effects {
    pub async fn create(path: &Path) -> anyhow::Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(Duration::from_secs(10));
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await
            .with_context(|| format!("{} cannot be made", path.display()))?;
        // No unique key, on purpose: a double must be possible, or its absence would prove nothing.
        for statement in [
            "CREATE TABLE effects (kind TEXT NOT NULL, id TEXT NOT NULL, amount INTEGER NOT NULL)",
            "CREATE INDEX effects_of ON effects (kind, id)",
        ] {
            sqlx::query(statement).execute(&pool).await?;
        }
        Ok(Self { pool })
    }

    pub async fn tally(&self, expected: &BTreeSet<(Kind, String)>) -> anyhow::Result<Tally> {
        let rows = sqlx::query("SELECT kind, id, count(*) AS times FROM effects GROUP BY kind, id")
            .fetch_all(&self.pool)
            .await?;
        let mut seen: BTreeMap<(String, String), u64> = BTreeMap::new();
        for row in rows {
            let times: i64 = row.get("times");
            seen.insert((row.get("kind"), row.get("id")), u64::try_from(times)?);
        }
        let missing = expected
            .iter()
            .filter(|(kind, key)| !seen.contains_key(&(kind.as_str().to_owned(), key.clone())));
        Ok(Tally {
            effects: seen.values().sum(),
            lost: missing.count() as u64,
            doubled: seen.values().map(|times| times - 1).sum(),
        })
    }
}
