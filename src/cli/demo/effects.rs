//! The effects, counted from outside: an append-only table without any unique key.
//!
//! Invariant: a row is read once, by its number, so that looking often costs little.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use anyhow::Context;
use serde_json::json;
use sqlx::Row;

use super::orders::Id;
use crate::inbox::sqlite::SqliteInbox;
use crate::inbox::{Inbox, InboxConfig};

/// The effects, held against what was sent.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub effects: u64,
    /// Sent, without any effect.
    pub lost: u64,
    /// Effects beyond the first of each.
    pub doubled: u64,
}

/// The file that the daemons share, and what was read of it so far.
pub struct Effects {
    inbox: SqliteInbox,
    last_row: i64,
    /// How many effects each message had.
    seen: HashMap<Id, u64>,
}

impl Effects {
    /// Makes the inbox's tables and the shop's.
    pub async fn create(file: &Path) -> anyhow::Result<Self> {
        let path = file.display().to_string();
        // What an URL would read as something else.
        let path = path.replace('%', "%25").replace('?', "%3F");
        let config: InboxConfig =
            serde_json::from_value(json!({ "url": format!("sqlite:{path}") }))?;
        let inbox = SqliteInbox::connect(&config)?;
        inbox.migrate().await?;
        sqlx::raw_sql(include_str!("shop.sql"))
            .execute(inbox.writer())
            .await
            .context("the shop's tables cannot be made")?;
        Ok(Self {
            inbox,
            last_row: 0,
            seen: HashMap::new(),
        })
    }

    /// Reads what was appended since the last look.
    pub async fn look(&mut self) -> anyhow::Result<()> {
        let rows = sqlx::query(
            "/* demo.effects */ SELECT rowid, message FROM effects WHERE rowid > ?1 ORDER BY rowid",
        )
        .bind(self.last_row)
        .fetch_all(self.inbox.readers())
        .await?;
        for row in rows {
            self.last_row = row.try_get("rowid")?;
            *self.seen.entry(row.try_get("message")?).or_default() += 1;
        }
        Ok(())
    }

    pub fn has(&self, id: &Id) -> bool {
        self.seen.contains_key(id)
    }

    pub fn tally(&self, expected: &BTreeSet<Id>) -> Tally {
        Tally {
            effects: self.seen.values().sum(),
            lost: expected.iter().filter(|id| !self.has(id)).count() as u64,
            doubled: self.seen.values().map(|times| times - 1).sum(),
        }
    }

    /// How many messages had an effect, as quickly as can be told.
    pub fn distinct(&self) -> u64 {
        self.seen.len() as u64
    }

    /// Those of these messages that have no effect yet.
    pub fn without<'a>(&self, ids: impl Iterator<Item = &'a Id>) -> HashSet<Id> {
        ids.filter(|id| !self.has(id)).cloned().collect()
    }

    /// Rows that did not have their effect at once: a sweep took them up, once or several times.
    pub async fn redriven(&self) -> anyhow::Result<u64> {
        let count: i64 = sqlx::query_scalar(
            "/* demo.redriven */ SELECT count(*) FROM inbox WHERE state = 'done' AND epoch > 1",
        )
        .fetch_one(self.inbox.readers())
        .await?;
        Ok(u64::try_from(count)?)
    }

    /// All duplicates that any node met, also one that was killed: counted in the transactions that met them.
    pub async fn duplicates(&self) -> anyhow::Result<u64> {
        let nodes = self.inbox.nodes().await?;
        let duplicates: i64 = nodes.iter().map(|node| node.duplicates).sum();
        Ok(u64::try_from(duplicates)?)
    }
}
