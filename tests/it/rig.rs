//! The real servers that the tests talk to.
//!
//! `tests/run` starts PostgreSQL, RabbitMQ, Apache Kafka and two nodes of the engine and says in the
//! environment where they are; [`Rig::get`] reads that. Tests run side by side on these servers, so each
//! takes things of its own, all of which vanish when the test ends: a [`Database`], a [`Schema`] beside
//! the engine's tables, a [`Queue`], a [`Topic`], a [`Deployment`] of process models. A test that breaks
//! a server starts a private one ([`Server`]), which it may kill and start again on the same port.
//!
//! The rig knows nothing of Sluice. It never skips: a test whose server is missing fails.

mod authority;
pub mod clock;
mod disk;
mod engine;
mod kafka;
mod postgres;
mod rabbitmq;
mod selftest;
mod server;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use uuid::Uuid;

pub use authority::{Authority, free_port};
pub use disk::SmallDisk;
pub use engine::{Answer, Deployment, Engine};
pub use kafka::{Kafka, Topic};
pub use postgres::{Database, Postgres, Schema, daemon_role};
pub use rabbitmq::{Queue, QueueKind, RabbitMq, headers};
pub use server::Server;

/// The servers of this test run.
pub struct Rig {
    /// The server; tests are its superuser.
    pub postgres: Postgres,
    pub rabbitmq: RabbitMq,
    pub kafka: Kafka,
    /// Two nodes on one database.
    engines: [Engine; 2],
    /// Name of the database that holds the engine's tables.
    engine_database: String,
}

static RIG: LazyLock<Rig> = LazyLock::new(|| {
    needed();
    let rig = Rig {
        postgres: Postgres::at(&variable("SLUICE_TEST_PG")),
        rabbitmq: RabbitMq::at(
            &variable("SLUICE_TEST_AMQP"),
            &variable("SLUICE_TEST_RABBIT_API"),
        ),
        kafka: Kafka::at(&variable("SLUICE_TEST_KAFKA")),
        engines: [
            Engine::at(&variable("SLUICE_TEST_ENGINE_1")),
            Engine::at(&variable("SLUICE_TEST_ENGINE_2")),
        ],
        engine_database: variable("SLUICE_TEST_ENGINE_DB"),
    };
    rig.sweep();
    rig
});

impl Rig {
    /// The servers of this run.
    ///
    /// # Panics
    /// When the tests were not started through `tests/run`.
    pub fn get() -> &'static Rig {
        &RIG
    }

    /// A fresh, empty database.
    pub async fn database(&self) -> Database {
        self.postgres.database().await
    }

    /// A fresh schema in the engine's own database: where Sluice's tables must be to share a transaction
    /// with the engine's, which lie in schema `public`.
    pub fn schema(&self) -> Schema {
        self.postgres.schema(&self.engine_database)
    }

    /// The URL of the engine's database, as superuser.
    pub fn engine_database_url(&self) -> String {
        self.postgres.url(&self.engine_database)
    }

    /// The engine, spoken to through its first node.
    pub fn engine(&self) -> Engine {
        self.engines[0].clone()
    }

    /// The same engine, spoken to through its second node.
    pub fn second_engine(&self) -> Engine {
        self.engines[1].clone()
    }

    /// A fresh, durable, empty queue.
    pub async fn queue(&self, kind: QueueKind) -> Queue {
        self.rabbitmq.queue(kind).await
    }

    /// A fresh, empty topic.
    pub async fn topic(&self, partitions: i32) -> Topic {
        self.kafka.topic(partitions).await
    }

    /// Removes what test processes left that were killed before they could.
    fn sweep(&self) {
        let postgres = self.postgres.clone();
        let engine_database = self.engine_database.clone();
        let rabbitmq = self.rabbitmq.clone();
        let kafka = self.kafka.clone();
        let engine = self.engines[0].clone();
        // What cannot be swept hurts nobody: no test has its name.
        let _ = apart(async move {
            postgres.sweep(&engine_database).await;
            rabbitmq.sweep().await;
            kafka.sweep().await;
            engine.sweep().await;
        });
    }
}

/// Folder in which the scripts of tests/rig keep what belongs to each server. It is there for private servers
/// alone, too, as `tests/chaos` has it.
///
/// # Panics
/// When nobody said where servers may be started.
pub fn needed() -> PathBuf {
    use_ring();
    PathBuf::from(variable("SLUICE_TEST_RIG"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the ban is for the daemon, whose environment belongs to its configuration"
)]
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: run the tests through tests/run, or start the servers with \
             `tests/run --up` and read their addresses with `. target/rig/env`"
        )
    })
}

/// What a random test begins with: `SLUICE_TEST_SEED`, to repeat one, or anything.
pub fn seed() -> u64 {
    match std::env::var("SLUICE_TEST_SEED") {
        Ok(seed) => seed.parse().expect("SLUICE_TEST_SEED is a number"),
        Err(_) => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .subsec_nanos()
            .into(),
    }
}

/// A name that no other test has, in this process or another. It tells which process made it, so that a
/// later run can remove what nobody owns any more.
pub fn unique() -> String {
    let random = Uuid::now_v7().simple().to_string();
    format!("t{}_{}", std::process::id(), &random[20..])
}

/// Whether a name made by [`unique`] belongs to a process that has ended.
fn orphaned(name: &str) -> bool {
    let Some((process, random)) = name.strip_prefix('t').and_then(|rest| rest.split_once('_'))
    else {
        return false;
    };
    let ours = !process.is_empty()
        && process.bytes().all(|byte| byte.is_ascii_digit())
        && random.len() == 12;
    ours && !Path::new("/proc").join(process).exists()
}

/// Looks again and again until there is something to return.
///
/// # Panics
/// When `limit` has passed; `what` completes the sentence "… did not happen".
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            start.elapsed() < limit,
            "{what} did not happen within {limit:?}"
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

/// Runs a future to its end on a runtime of its own: in `drop`, where nothing can be awaited, and where
/// the runtime of the test is no longer to be relied on.
fn apart<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> std::thread::Result<T> {
    let run = move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime needs nothing but memory and a file descriptor")
            .block_on(work)
    };
    std::thread::spawn(run).join()
}

/// Tidies up behind a test. A failure is told and no more: a panic in `drop` would hide the one of the
/// test, and the next run sweeps.
#[expect(
    clippy::print_stderr,
    reason = "the place where the test harness shows what a test says"
)]
fn tidy(what: &str, work: impl Future<Output = Result<()>> + Send + 'static) {
    // The timer belongs to the runtime it is made in, hence the block.
    match apart(async { tokio::time::timeout(Duration::from_secs(20), work).await }) {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => eprintln!("{what} is left behind: {error:#}"),
        Ok(Err(_)) => eprintln!("{what} is left behind: removing it takes too long"),
        Err(_) => eprintln!("{what} is left behind: removing it panicked"),
    }
}

/// A client for plain HTTP. A new one each time: its connections live in the runtime of one test, and
/// would be dead in the next. Without certificates to read that costs nothing.
pub fn http() -> reqwest::Client {
    use_ring();
    reqwest::Client::builder()
        .tls_certs_only([])
        .build()
        .expect("no certificates are no mistake")
}

/// Of the cryptography libraries that could be linked, rustls wants to be told which one it uses. Whoever
/// comes first wins, and everybody says the same.
fn use_ring() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
