//! The inbox on PostgreSQL.
//!
//! Owns the transaction's session limits and every statement on our own tables; connections are had in
//! [`connect`], the statements of accepting stand in [`accept`], of driving in [`drive`] and [`due`], of order keys in
//! [`order`], of positions in [`position`], of purging in [`purge`], of operating in [`operate`] and [`inspect`], the migrations in
//! [`schema`]; [`plans`] says how the server plans them. Knows no broker and no engine, but lends its transaction to engines.
//! Invariant: every write runs in a transaction of [`PostgresInbox::begin`] or its `begin_small`, so that a session
//! limit stands behind every lock, and so that a session which a cancelled begin left open is ended.

mod accept;
mod connect;
mod drive;
mod due;
mod inspect;
mod operate;
mod order;
mod plans;
mod position;
mod purge;
mod schema;
mod session;
mod statement;

use std::collections::HashMap;
use std::future::Future;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use secrecy::ExposeSecret;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPool};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, SqlSafeStr as _, SqlStr};
use uuid::Uuid;

use self::connect::Connections;
use self::plans::Planning;
use self::statement::Schema;
use super::{
    Change, Count, DbError, Existing, Filter, Inbox, InboxConfig, NewRow, Node, NodeIdentity,
    OrderKey, Pooler, PositionView, Purged, Rekey, Retention, RowId, RowView, SchemaStatus, Take,
    Taken, UniqueKey,
};
use crate::finding::Finding;
use crate::position::{Advance, Beginning, Partition, Standing, Stored};

pub use self::session::{Session, Tx};

/// A statement that takes longer is told of.
const SLOW: Duration = Duration::from_secs(1);

/// How much longer than the server's own limit this side waits for a statement's answer.
const GRACE: Duration = Duration::from_secs(5);

/// The inbox on PostgreSQL; cheap to clone.
#[derive(Clone)]
pub struct PostgresInbox {
    inner: Arc<Inner>,
}

struct Inner {
    connections: Connections,
    schema: Schema,
    begin: SqlStr,
    begin_small: SqlStr,
    /// The client's own limit for one statement.
    patience: Duration,
    /// Where the look for forgotten heads of order keys goes on, by the routes it is for.
    rotation: Mutex<HashMap<String, Uuid>>,
    due_places: due::Places,
    accept: accept::Statements,
    drive: drive::Statements,
    due: due::Statements,
    order: order::Statements,
    position: position::Statements,
    purge: purge::Statements,
    operate: operate::Statements,
    inspect: inspect::Statements,
    state: schema::Statements,
}

impl PostgresInbox {
    /// Makes the pool; no server needs to live yet.
    ///
    /// `application_name` is what `pg_stat_activity` shows.
    ///
    /// # Errors
    /// An URL that cannot be read, a schema that is not an identifier.
    pub fn connect(config: &InboxConfig, application_name: &str) -> Result<Self, DbError> {
        let schema = Schema::new(&config.schema).map_err(DbError::of("inbox.schema"))?;
        // No extra_float_digits: a pooler would refuse it as a start-up parameter.
        let options = options(config.url.expose_secret())
            .map_err(DbError::of("inbox.url"))?
            .extra_float_digits(None)
            .application_name(application_name)
            // The driver would log slow statements with their whole text.
            .disable_statement_logging();
        let inner = Inner {
            connections: Connections::new(options, config.connections, config.pooler),
            begin: begin_statement(config, Planning::Anew),
            begin_small: begin_statement(config, Planning::Once),
            patience: config.statement_timeout.0 + GRACE,
            rotation: Mutex::default(),
            due_places: due::Places::default(),
            accept: accept::Statements::new(&schema),
            drive: drive::Statements::new(&schema),
            due: due::Statements::new(&schema),
            order: order::Statements::new(&schema),
            position: position::Statements::new(&schema),
            purge: purge::Statements::new(&schema),
            operate: operate::Statements::new(&schema),
            inspect: inspect::Statements::new(&schema),
            state: schema::Statements::new(&schema),
            schema,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The pool, for whoever needs a session of its own and for its gauges.
    pub fn pool(&self) -> &PgPool {
        self.inner.connections.pool()
    }

    /// The schema of our own tables as it stands in SQL, quoted.
    pub fn schema(&self) -> &str {
        self.inner.schema.quoted()
    }

    /// Every statement on our own tables, for the test that prepares each against the live schema.
    pub fn statements(&self) -> Vec<SqlStr> {
        let inner = &self.inner;
        [
            inner.accept.all(),
            inner.drive.all(),
            inner.due.all(),
            inner.order.all(),
            inner.position.all(),
            inner.purge.all(),
            inner.operate.all(),
            inner.inspect.all(),
            inner.state.all(),
        ]
        .concat()
    }

    /// The statement of [`Inbox::insert`] with its values ready to be sent: for whoever measures what the
    /// database alone can do.
    ///
    /// # Errors
    /// A value that cannot be encoded.
    pub fn ready_insert(&self, rows: &[NewRow]) -> Result<(SqlStr, PgArguments), DbError> {
        accept::ready_insert(self, rows)
    }

    fn rotation(&self) -> MutexGuard<'_, HashMap<String, Uuid>> {
        let rotation = self.inner.rotation.lock();
        rotation.unwrap_or_else(PoisonError::into_inner)
    }

    async fn begin_with(&self, statement: &SqlStr, planning: Planning) -> Result<Tx, DbError> {
        let begun = self.inner.connections.begin(statement.clone(), planning);
        self.within("inbox.begin", begun).await
    }

    /// Waits for one statement a little longer than the server would let it run.
    ///
    /// The server's own limit ends what is slow; this one ends what will never answer, because the
    /// machine vanished without closing its sockets.
    async fn within<T>(
        &self,
        step: &'static str,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, DbError> {
        let began = Instant::now();
        let answer = tokio::time::timeout(self.inner.patience, work).await;
        let took = began.elapsed();
        if took > SLOW {
            tracing::warn!(statement = step, ?took, "the database is slow");
        }
        answer
            .unwrap_or_else(|_| Err(no_answer()))
            .map_err(DbError::of(step))
    }
}

/// The parameters of an URL that the driver understands. Others it passes over with a warning that shows their value:
/// a misspelled `sslmode` would be no encryption, a misspelled `password` a password in the log.
const PARAMETERS: [&str; 17] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
];

/// What the URL says, or why it cannot be read.
pub(super) fn options(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let names = query.split('&').filter(|parameter| !parameter.is_empty());
    let names = names.map(|parameter| parameter.split('=').next().unwrap_or_default());
    let known = |name: &str| {
        PARAMETERS.contains(&name) || name == "options" || name.starts_with("options[")
    };
    for (number, name) in (1..).zip(names) {
        if !known(name) {
            // Not its name: behind a `?` that a password should not have had it is a part of the password.
            let what = format!(
                "parameter {number} behind the `?` is none that is known (sslmode, sslrootcert, sslcert, sslkey, host, \
                 hostaddr, port, dbname, user, password, application_name, options)"
            );
            return Err(sqlx::Error::Configuration(what.into()));
        }
    }
    PgConnectOptions::from_str(url)
}

fn no_answer() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        "the database did not answer",
    ))
}

/// One round trip begins and sets the limits; local ones, so that a pooler between does not matter, and all
/// in one statement, because idle nodes send little else.
fn begin_statement(config: &InboxConfig, planning: Planning) -> SqlStr {
    AssertSqlSafe(format!(
        "/* inbox.begin */ BEGIN ISOLATION LEVEL READ COMMITTED; \
         SELECT set_config('idle_in_transaction_session_timeout', '{}', true), \
         set_config('lock_timeout', '{}', true), \
         set_config('statement_timeout', '{}', true), \
         set_config('synchronous_commit', '{}', true), \
         {}",
        config.idle_in_transaction_timeout.as_ms(),
        config.lock_timeout.as_ms(),
        config.statement_timeout.as_ms(),
        config.synchronous_commit.as_sql(),
        planning.settings(),
    ))
    .into_sql_str()
}

impl Inbox for PostgresInbox {
    type Tx = Tx;

    fn connections(&self) -> (usize, usize) {
        let (all, idle) = (self.pool().size() as usize, self.pool().num_idle());
        (idle, all.saturating_sub(idle))
    }

    async fn begin(&self) -> Result<Tx, DbError> {
        self.begin_with(&self.inner.begin, Planning::Anew).await
    }

    async fn begin_small(&self) -> Result<Tx, DbError> {
        if self.inner.connections.pooler() == Pooler::Transaction {
            // No plan outlives its statement there.
            return self.begin().await;
        }
        self.begin_with(&self.inner.begin_small, Planning::Once)
            .await
    }

    /// Commits, or fails: in an aborted transaction COMMIT alone would roll back and report no error, and
    /// the batch would be acknowledged. The statement before it fails there.
    ///
    /// The transaction that CHAIN begins spares a warning of the server, because sqlx rolls back what it
    /// did not commit itself: it is empty, and ends when the connection goes home. The server does not
    /// count the wait for a synchronous standby as the statement's time; this side's patience ends it with
    /// an error, and the batch is tried again.
    async fn commit(&self, mut tx: Tx) -> Result<(), DbError> {
        self.within(
            "inbox.commit",
            tx.execute("/* inbox.commit */ SELECT 1; COMMIT AND CHAIN"),
        )
        .await?;
        Ok(())
    }

    async fn probe(&self) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        operate::probe(self, &mut tx).await?;
        self.commit(tx).await
    }

    async fn insert(&self, tx: &mut Tx, rows: &[NewRow]) -> Result<Vec<RowId>, DbError> {
        accept::insert(self, tx, rows).await
    }

    async fn existing(&self, tx: &mut Tx, keys: &[UniqueKey]) -> Result<Vec<Existing>, DbError> {
        accept::existing(self, tx, keys).await
    }

    async fn lock_order_keys(
        &self,
        tx: &mut Tx,
        keys: &[OrderKey],
        blocking_dead: &[String],
    ) -> Result<Vec<OrderKey>, DbError> {
        order::lock(self, tx, keys, blocking_dead).await
    }

    async fn take(
        &self,
        tx: &mut Tx,
        take: Take<'_>,
        blocking_dead: &[String],
    ) -> Result<Taken, DbError> {
        drive::take(self, tx, take, blocking_dead).await
    }

    async fn change(&self, tx: &mut Tx, changes: &[Change]) -> Result<Vec<RowId>, DbError> {
        drive::change(self, tx, changes).await
    }

    async fn rekey(&self, tx: &mut Tx, rekey: Rekey<'_>) -> Result<(), DbError> {
        drive::rekey(self, tx, rekey).await
    }

    async fn count_duplicates(
        &self,
        tx: &mut Tx,
        node: Uuid,
        duplicates: i64,
    ) -> Result<(), DbError> {
        accept::count_duplicates(self, tx, node, duplicates).await
    }

    async fn advance_positions(
        &self,
        tx: &mut Tx,
        advances: &[Advance],
    ) -> Result<HashMap<Uuid, i64>, DbError> {
        position::advance(self, tx, advances).await
    }

    async fn position_standing(
        &self,
        tx: &mut Tx,
        partitions: &[&Partition],
    ) -> Result<Vec<Option<Standing>>, DbError> {
        position::standing(self, tx, partitions).await
    }

    async fn claim_positions(
        &self,
        claims: &[(Partition, Uuid)],
    ) -> Result<Vec<Option<Stored>>, DbError> {
        position::claim(self, claims).await
    }

    async fn begin_positions(&self, beginnings: &[Beginning]) -> Result<Vec<Option<i64>>, DbError> {
        position::begin(self, beginnings).await
    }

    async fn positions(&self) -> Result<Vec<PositionView>, DbError> {
        position::list(self).await
    }

    async fn purge(&self, retention: Retention, limit: i64) -> Result<Purged, DbError> {
        purge::purge(self, retention, limit).await
    }

    async fn counts(&self) -> Result<Vec<Count>, DbError> {
        operate::counts(self).await
    }

    async fn beat(&self, node: &NodeIdentity) -> Result<(), DbError> {
        operate::beat(self, node).await
    }

    async fn nodes(&self) -> Result<Vec<Node>, DbError> {
        operate::nodes(self).await
    }

    async fn list(&self, filter: &Filter, bodies: bool) -> Result<Vec<RowView>, DbError> {
        operate::list(self, filter, bodies).await
    }

    async fn redrive(&self, filter: &Filter) -> Result<u64, DbError> {
        operate::redrive(self, filter).await
    }

    async fn discard(&self, filter: &Filter) -> Result<u64, DbError> {
        operate::discard(self, filter).await
    }

    async fn migrate(&self) -> Result<Vec<String>, DbError> {
        schema::migrate(self).await
    }

    async fn schema_status(&self) -> Result<SchemaStatus, DbError> {
        schema::status(self).await
    }

    async fn inspect(&self) -> Result<Vec<Finding>, DbError> {
        inspect::inspect(self).await
    }
}
