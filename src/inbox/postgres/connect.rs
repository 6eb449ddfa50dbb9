//! Connections: how one is had, and why none is.
//!
//! Owns the pool and its options. A pool goes on trying while its server refuses connections, starts up or
//! is full, and says in the end only that it gave up. So whoever waits for longer than usual asks the
//! server itself. Invariant: the error of a connection that was not to be had is the server's own, or says
//! that it did not answer.

use std::io;
use std::time::{Duration, Instant};

use sqlx::error::DatabaseError;
use sqlx::pool::PoolConnectionMetadata;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{Connection as _, Executor as _, Row as _, SqlStr};
use tokio::sync::Mutex;

use super::Tx;
use super::plans::Planning;
use crate::inbox::Pooler;

/// How long a connection may take to be had: from the pool, or newly made.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that lay in the pool for longer is asked whether it still lives.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// So often a session forgets its plans. Which of two indexes is the better one cannot be told while a table
/// is empty, and ANALYZE may be far away.
const PLANS_KEPT: Duration = Duration::from_mins(1);
/// More statements than two engines and the inbox have.
const STATEMENTS_KEPT: usize = 250;
/// Whoever waits for longer asks what is wrong.
const USUAL: Duration = Duration::from_millis(500);
/// How long the answer may take: a little less than what is left to the pool by then.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// A server that let somebody in is not asked again for so long: the pool is only busy.
const LET_IN: Duration = Duration::from_secs(1);

/// The way to connections of one node.
pub(super) struct Connections {
    pool: PgPool,
    options: PgConnectOptions,
    pooler: Pooler,
    /// When the server last let somebody in who asked why there is no connection; one asks at a time.
    let_in_at: Mutex<Option<Instant>>,
}

impl Connections {
    /// Makes the pool; no server needs to live yet.
    pub fn new(options: PgConnectOptions, at_most: u32, pooler: Pooler) -> Self {
        // Kept where a name would be kept, and only for as long.
        let options = match pooler {
            Pooler::None => options.statement_cache_capacity(STATEMENTS_KEPT),
            Pooler::Transaction => options.statement_cache_capacity(0),
        };
        let pool = match pooler {
            Pooler::None => forgetting_plans(noticing_this_machine(pool_options(at_most))),
            Pooler::Transaction => pool_options(at_most),
        };
        Self {
            pool: pool.connect_lazy_with(options.clone()),
            options,
            pooler,
            let_in_at: Mutex::new(None),
        }
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// A transaction, begun by this statement.
    pub async fn begin(&self, statement: SqlStr, planning: Planning) -> Result<Tx, sqlx::Error> {
        tokio::select! {
            biased;
            begun = self.pool.begin_with(statement) => {
                begun.map(|tx| Tx::new(tx, planning, self.pooler == Pooler::Transaction))
            }
            refusal = self.refusal() => Err(refusal),
        }
    }

    /// A session of its own, outside the pool.
    pub async fn session(&self) -> Result<PgConnection, sqlx::Error> {
        let connecting = PgConnection::connect_with(&self.options);
        let connected = tokio::time::timeout(ANSWER_TIMEOUT, connecting).await;
        match connected {
            Ok(connected) => connected.map_err(|error| self.placed(error)),
            Err(_) => Err(self.placed(sqlx::Error::Io(no_answer(ANSWER_TIMEOUT)))),
        }
    }

    pub fn pooler(&self) -> Pooler {
        self.pooler
    }

    /// Whether something answers in the server's place: it refuses or forgets what the server would set for a
    /// new session. (`PgBouncer` refuses settings that it does not know.)
    pub async fn meets_pooler(&self) -> Result<bool, sqlx::Error> {
        /// `protocol_violation`.
        const REFUSED: &str = "08P01";
        let options = self.options.clone().options([("sluice.direct", "yes")]);
        let mut session = match PgConnection::connect_with(&options).await {
            Ok(session) => session,
            Err(error) => {
                let code = error.as_database_error().and_then(DatabaseError::code);
                return if code.is_some_and(|code| code == REFUSED) {
                    Ok(true)
                } else {
                    Err(self.placed(error))
                };
            }
        };
        let asked =
            "/* inbox.pooler */ SELECT COALESCE(current_setting('sluice.direct', true), '')";
        let row = session.fetch_one(asked).await?;
        let set: String = row.try_get(0)?;
        // The answer is known, however the session ends.
        drop(session.close().await);
        Ok(set != "yes")
    }

    /// Why the server makes no connection; does not end while it does.
    async fn refusal(&self) -> sqlx::Error {
        loop {
            tokio::time::sleep(USUAL).await;
            // Boxed, because it is large and seldom needed, and every transaction begins here.
            if let Err(error) = Box::pin(self.ask()).await {
                return error;
            }
        }
    }

    /// Asks the server whether it lets us in, unless somebody did so just now.
    async fn ask(&self) -> Result<(), sqlx::Error> {
        let mut let_in_at = self.let_in_at.lock().await;
        if let_in_at.is_none_or(|at| at.elapsed() >= LET_IN) {
            let connection = self.session().await?;
            *let_in_at = Some(Instant::now());
            // The answer is known, however the session ends.
            drop(connection.close().await);
        }
        Ok(())
    }

    /// An error of the network with the address that it is about; the server's own errors speak for themselves.
    fn placed(&self, error: sqlx::Error) -> sqlx::Error {
        let sqlx::Error::Io(cause) = error else {
            return error;
        };
        let (host, port) = (self.options.get_host(), self.options.get_port());
        let what = match self.options.get_socket() {
            Some(socket) => format!("{}: {cause}", socket.display()),
            None => format!("{host}:{port}: {cause}"),
        };
        sqlx::Error::Io(io::Error::new(cause.kind(), what))
    }
}

/// Not of the kind that a statement's own slowness has: no batch is to blame for it.
fn no_answer(limit: Duration) -> io::Error {
    let what = format!("no answer within {} s", limit.as_secs());
    io::Error::new(io::ErrorKind::NotConnected, what)
}

/// The server shall notice that this machine vanished; sqlx has no way to ask the kernel here. A pooler's
/// sessions are not ours to set: it notices by its own settings.
fn noticing_this_machine(options: PgPoolOptions) -> PgPoolOptions {
    options.after_connect(|connection, _| {
        Box::pin(async move {
            connection
                .execute(
                    "/* inbox.keepalive */ SET tcp_keepalives_idle = 10; \
                     SET tcp_keepalives_interval = 3; SET tcp_keepalives_count = 3; \
                     SET tcp_user_timeout = 20000",
                )
                .await?;
            Ok(())
        })
    })
}

/// Each session by itself, between two transactions. Behind a pooler none keeps any.
fn forgetting_plans(options: PgPoolOptions) -> PgPoolOptions {
    options.before_acquire(|connection, meta| {
        Box::pin(async move {
            let span = |age: Duration| age.as_secs() / PLANS_KEPT.as_secs();
            let released = meta.age.saturating_sub(meta.idle_for);
            if span(meta.age) > span(released) {
                let forget = "/* inbox.plans */ DISCARD PLANS";
                connection.execute(forget).await?;
                return Ok(true);
            }
            is_alive(connection, meta).await
        })
    })
}

async fn is_alive(
    connection: &mut PgConnection,
    meta: PoolConnectionMetadata,
) -> Result<bool, sqlx::Error> {
    if meta.idle_for > TRUSTED_IDLE {
        connection.ping().await?;
    }
    Ok(true)
}

fn pool_options(at_most: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(at_most)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // A question before every use would double the round trips of a short transaction.
        .test_before_acquire(false)
        .before_acquire(|connection, meta| Box::pin(is_alive(connection, meta)))
        // Without a limit a connection to a machine that vanished would keep its place for ever.
        .after_release(|connection, _| {
            Box::pin(async move {
                match tokio::time::timeout(ACQUIRE_TIMEOUT, connection.ping()).await {
                    Ok(answer) => answer.map(|()| true),
                    Err(_) => Err(sqlx::Error::Io(no_answer(ACQUIRE_TIMEOUT))),
                }
            })
        })
}
