//! The inbox on SQLite: one machine, a local disk, any number of processes.
//!
//! Owns one connection that writes and a few that read, and every statement on our own tables. Order
//! per key needs PostgreSQL, and is refused. There is one writer at a time in the whole file, so that
//! nothing needs a row lock, a fixed order of insertion, or a time limit of the session; a process that
//! is frozen inside a transaction holds up all others, which is why this is for small set-ups.
//! Invariant: every write runs in a transaction that was begun IMMEDIATE, so that what it read first is
//! still true when it writes.

mod accept;
mod drive;
mod file;
mod operate;
mod position;
mod schema;

use std::collections::HashMap;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use sqlx::ConnectOptions as _;
use sqlx::sqlite::{
    Sqlite, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use uuid::Uuid;

use super::{
    Change, Class, Count, DbError, Existing, Filter, Inbox, InboxConfig, NewRow, Node,
    NodeIdentity, OrderKey, PositionView, Purged, Rekey, Retention, RowId, RowView, SchemaStatus,
    Take, Taken, UniqueKey,
};
use crate::finding::Finding;
use crate::position::{Advance, Beginning, Partition, Standing, Stored};
use file::File;

/// A transaction, which the engines in this file share.
pub type Tx = sqlx::Transaction<'static, Sqlite>;

/// Connections that only read: pages, lists, counts.
const READERS: u32 = 3;

/// The inbox on SQLite; cheap to clone.
#[derive(Clone)]
pub struct SqliteInbox {
    inner: Arc<Inner>,
}

struct Inner {
    options: SqliteConnectOptions,
    file: File,
    writer: SqlitePool,
    readers: SqlitePool,
}

impl SqliteInbox {
    /// Makes the pools; the file is opened by the first statement, and made by [`Inbox::migrate`] alone.
    ///
    /// # Errors
    /// An URL that cannot be read, or one of a database in memory, which no other process could see.
    pub fn connect(config: &InboxConfig) -> Result<Self, DbError> {
        let options = options(config.url.expose_secret())
            .map_err(DbError::of("inbox.url"))?
            // Only `migrate` makes the file: one that is missing was moved or never there.
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            // NORMAL would lose the last commits, which are acknowledged, when the power fails.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(config.lock_timeout.0)
            // The driver would log slow statements with their whole text.
            .disable_statement_logging();
        let file = File::new(options.get_filename());
        let opened = file.clone();
        let writer = pool(1, config.statement_timeout.0).after_connect(move |_, _| {
            let opened = opened.opened();
            Box::pin(async { opened })
        });
        Ok(Self {
            inner: Arc::new(Inner {
                file,
                writer: writer.connect_lazy_with(options.clone()),
                readers: pool(READERS, config.lock_timeout.0).connect_lazy_with(options.clone()),
                options,
            }),
        })
    }

    /// The pool of the one connection that writes.
    pub fn writer(&self) -> &SqlitePool {
        &self.inner.writer
    }

    /// The pool of those that read.
    pub fn readers(&self) -> &SqlitePool {
        &self.inner.readers
    }

    fn file(&self) -> &Path {
        self.inner.options.get_filename()
    }

    /// Every statement on our own tables, for the test that prepares each against the live schema.
    pub fn statements(&self) -> Vec<&'static str> {
        [
            accept::statements(),
            drive::STATEMENTS.to_vec(),
            operate::STATEMENTS.to_vec(),
            position::STATEMENTS.to_vec(),
            schema::STATEMENTS.to_vec(),
        ]
        .concat()
    }
}

/// What the URL says, or why it cannot be read.
pub(super) fn options(url: &str) -> Result<SqliteConnectOptions, sqlx::Error> {
    let in_memory = url.contains(":memory:") || url.contains("mode=memory");
    if in_memory || !url.starts_with("sqlite:") {
        // A database in memory is gone with the process, and no other one sees it.
        let cause = "expected sqlite:path/to/file.db, on a disk that other processes see";
        return Err(sqlx::Error::Configuration(cause.into()));
    }
    SqliteConnectOptions::from_str(url)
}

fn pool(connections: u32, patience: Duration) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(patience)
        .test_before_acquire(false)
}

/// Now, in milliseconds since 1970; the same throughout one statement.
macro_rules! now {
    () => {
        "CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER)"
    };
}
use now;

impl Inbox for SqliteInbox {
    type Tx = Tx;

    fn connections(&self) -> (usize, usize) {
        let pools = [&self.inner.writer, &self.inner.readers];
        let all: usize = pools.iter().map(|pool| pool.size() as usize).sum();
        let idle: usize = pools.iter().map(|pool| pool.num_idle()).sum();
        (idle, all.saturating_sub(idle))
    }

    async fn begin(&self) -> Result<Tx, DbError> {
        self.inner
            .writer
            .begin_with("/* inbox.begin */ BEGIN IMMEDIATE")
            .await
            .map_err(DbError::of("inbox.begin"))
    }

    async fn commit(&self, tx: Tx) -> Result<(), DbError> {
        let committed = async {
            tx.commit().await?;
            self.inner.file.verify()
        };
        committed.await.map_err(DbError::of("inbox.commit"))
    }

    async fn probe(&self) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        operate::probe(&mut tx)
            .await
            .map_err(DbError::of("inbox.probe"))?;
        self.commit(tx).await
    }

    async fn insert(&self, tx: &mut Tx, rows: &[NewRow]) -> Result<Vec<RowId>, DbError> {
        accept::insert(tx, rows)
            .await
            .map_err(DbError::of("inbox.insert"))
    }

    async fn existing(&self, tx: &mut Tx, keys: &[UniqueKey]) -> Result<Vec<Existing>, DbError> {
        accept::existing(tx, keys)
            .await
            .map_err(DbError::of("inbox.existing"))
    }

    async fn lock_order_keys(
        &self,
        _: &mut Tx,
        keys: &[OrderKey],
        _: &[String],
    ) -> Result<Vec<OrderKey>, DbError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        Err(DbError {
            class: Class::Outage,
            step: "inbox.lock_order_keys",
            source: sqlx::Error::Configuration("order per key needs PostgreSQL".into()),
        })
    }

    async fn take(&self, tx: &mut Tx, take: Take<'_>, _: &[String]) -> Result<Taken, DbError> {
        let rows = drive::take(tx, take)
            .await
            .map_err(DbError::of("inbox.take"))?;
        Ok(Taken {
            rows,
            changed: false,
        })
    }

    async fn change(&self, tx: &mut Tx, changes: &[Change]) -> Result<Vec<RowId>, DbError> {
        drive::change(tx, changes)
            .await
            .map_err(DbError::of("inbox.change"))
    }

    async fn rekey(&self, tx: &mut Tx, rekey: Rekey<'_>) -> Result<(), DbError> {
        drive::rekey(tx, rekey)
            .await
            .map_err(DbError::of("inbox.rekey"))
    }

    async fn count_duplicates(
        &self,
        tx: &mut Tx,
        node: Uuid,
        duplicates: i64,
    ) -> Result<(), DbError> {
        accept::count_duplicates(tx, node, duplicates)
            .await
            .map_err(DbError::of("inbox.count_duplicates"))
    }

    async fn advance_positions(
        &self,
        tx: &mut Tx,
        advances: &[Advance],
    ) -> Result<HashMap<Uuid, i64>, DbError> {
        position::advance(tx, advances)
            .await
            .map_err(DbError::of("inbox.advance_positions"))
    }

    async fn position_standing(
        &self,
        tx: &mut Tx,
        partitions: &[&Partition],
    ) -> Result<Vec<Option<Standing>>, DbError> {
        position::standing(tx, partitions)
            .await
            .map_err(DbError::of("inbox.position_standing"))
    }

    async fn claim_positions(
        &self,
        claims: &[(Partition, Uuid)],
    ) -> Result<Vec<Option<Stored>>, DbError> {
        let mut tx = self.begin().await?;
        let stored = position::claim(&mut tx, claims)
            .await
            .map_err(DbError::of("inbox.claim_position"))?;
        self.commit(tx).await?;
        Ok(stored)
    }

    async fn begin_positions(&self, beginnings: &[Beginning]) -> Result<Vec<Option<i64>>, DbError> {
        let mut tx = self.begin().await?;
        let epochs = position::begin(&mut tx, beginnings)
            .await
            .map_err(DbError::of("inbox.begin_position"))?;
        self.commit(tx).await?;
        Ok(epochs)
    }

    async fn positions(&self) -> Result<Vec<PositionView>, DbError> {
        position::list(self.readers())
            .await
            .map_err(DbError::of("inbox.positions"))
    }

    async fn purge(&self, retention: Retention, limit: i64) -> Result<Purged, DbError> {
        let mut tx = self.begin().await?;
        let purged = drive::purge(&mut tx, retention, limit)
            .await
            .map_err(DbError::of("inbox.purge"))?;
        self.commit(tx).await?;
        Ok(purged)
    }

    async fn counts(&self) -> Result<Vec<Count>, DbError> {
        operate::counts(self.readers())
            .await
            .map_err(DbError::of("inbox.counts"))
    }

    async fn beat(&self, node: &NodeIdentity) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        operate::beat(&mut tx, node)
            .await
            .map_err(DbError::of("inbox.beat"))?;
        self.commit(tx).await
    }

    async fn nodes(&self) -> Result<Vec<Node>, DbError> {
        operate::nodes(self.readers())
            .await
            .map_err(DbError::of("inbox.nodes"))
    }

    async fn list(&self, filter: &Filter, bodies: bool) -> Result<Vec<RowView>, DbError> {
        operate::list(self.readers(), filter, bodies)
            .await
            .map_err(DbError::of("inbox.list"))
    }

    async fn redrive(&self, filter: &Filter) -> Result<u64, DbError> {
        operate::page_through(self, operate::REDRIVE, filter).await
    }

    async fn discard(&self, filter: &Filter) -> Result<u64, DbError> {
        operate::page_through(self, operate::DISCARD, filter).await
    }

    async fn migrate(&self) -> Result<Vec<String>, DbError> {
        schema::migrate(&self.inner.options)
            .await
            .map_err(DbError::of("inbox.migrate"))
    }

    async fn schema_status(&self) -> Result<SchemaStatus, DbError> {
        schema::status(self)
            .await
            .map_err(DbError::of("inbox.schema_status"))
    }

    async fn inspect(&self) -> Result<Vec<Finding>, DbError> {
        operate::inspect(self)
            .await
            .map_err(DbError::of("inbox.inspect"))
    }
}
