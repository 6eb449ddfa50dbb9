//! The daemon's own HTTP listener: health, metrics, the status page.
//!
//! Owns the listener and what it shows; the bridge fills the [`Board`]. Knows nothing about brokers and
//! engines but their names and numbers. Invariants: nothing here changes anything; nothing here waits for
//! a database, so that health answers while everything else is down; one slow client costs a bounded
//! amount of memory for a bounded time.

mod board;
mod format;
mod guard;
mod meter;
mod page;
mod problems;
mod router;
pub mod status;
mod view;
mod words;

pub use board::{Board, Plan, PlannedEngine, PlannedRoute, PlannedSource};
pub use problems::Problems;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::metrics::{Exporter, Samples};
use guard::Guard;

/// A client must send its request's head in this time; a connection that asks nothing is closed after it.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// Bytes of a request's head, and of what is buffered for one connection.
const HEAD_BYTES: usize = 16 * 1024;
/// A connection is closed after this long, however slowly its client reads; clients just open another one.
const CONNECTION_LIMIT: Duration = Duration::from_mins(2);
/// Answers under way get this long when the listener or their connection ends.
const FINISH_LIMIT: Duration = Duration::from_secs(2);
/// More clients wait in the kernel's queue.
const CONNECTIONS: usize = 128;
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// `[http]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Address and port. Whoever reaches it may read the status page and the metrics.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// Everything but health asks for it: as a bearer token, or as the password in a browser. Without it, a listener
    /// on loopback answers only who asks for `localhost` or a loopback address.
    #[schemars(with = "Option<String>")]
    pub token: Option<SecretString>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9464)),
            token: None,
        }
    }
}

impl HttpConfig {
    /// Whether strangers may read: it listens beyond this machine, and asks for nothing.
    pub fn is_open_to_strangers(&self) -> bool {
        self.token.is_none() && !self.listen.ip().is_loopback()
    }
}

/// Binds, and answers nobody yet, so that a wrong address fails before any work starts.
///
/// # Errors
/// The system's, with the address.
pub async fn bind(config: &HttpConfig) -> io::Result<Server> {
    let listen = config.listen;
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        let text = format!("http.listen: cannot listen on {listen}: {error}");
        io::Error::new(error.kind(), text)
    })?;
    if config.is_open_to_strangers() {
        tracing::warn!(
            %listen,
            "anybody who reaches this address can read the status page and the metrics: set http.token or listen on loopback"
        );
    }
    Ok(Server {
        listener,
        guard: Guard::of(config.token.as_ref(), listen.ip().is_loopback()),
    })
}

/// A listener that is bound.
pub struct Server {
    listener: TcpListener,
    guard: Guard,
}

impl Server {
    /// Where it listens; of use when the configured port was 0.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `until` is cancelled, which should be after the drain: health and metrics are wanted
    /// just then. Also lets the board take its samples.
    pub async fn serve(self, board: Board, exporter: Exporter, until: CancellationToken) {
        let sampling = sample(board.clone(), exporter.clone());
        let shown = router::Shown {
            board,
            exporter,
            guard: self.guard,
        };
        let service = TowerToHyperService::new(router::router(shown));
        let accepting = async {
            let places = Arc::new(Semaphore::new(CONNECTIONS));
            let mut connections = JoinSet::new();
            while let Some(stream) = until.run_until_cancelled(accept(&self.listener)).await {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                    break;
                };
                let (service, until) = (service.clone(), until.clone());
                connections.spawn(async move {
                    answer(stream, service, until).await;
                    drop(place);
                });
                while connections.try_join_next().is_some() {}
            }
            while connections.join_next().await.is_some() {}
        };
        tokio::select! {
            () = accepting => {}
            () = sampling => {}
        }
    }
}

/// The next connection. Errors are about one client, or pass: too many open files.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Serves one connection, for a limited time.
async fn answer(
    stream: TcpStream,
    service: TowerToHyperService<axum::Router>,
    until: CancellationToken,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // A client that hangs up or sends rubbish is its own affair: errors are not even logged.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = tokio::time::sleep(CONNECTION_LIMIT) => {}
        () = until.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    drop(tokio::time::timeout(FINISH_LIMIT, connection).await);
}

/// Lets the board take the counters' totals once a second, for ever.
async fn sample(board: Board, exporter: Exporter) {
    let mut every = tokio::time::interval(SAMPLE_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        board.sample(Instant::now(), Samples::parse(&exporter.render()));
    }
}
