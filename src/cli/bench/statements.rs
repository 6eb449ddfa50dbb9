//! Counts what one process asks of the database: it stands between the two and reads along.
//!
//! The server's own statistics are of the whole database, whoever uses it. Only plain connections over TCP
//! can be read along. Invariant: every byte is passed on unchanged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use secrecy::SecretString;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::shutdown::Shutdown;

/// Asks for encryption, before the first message: PostgreSQL's numbers for TLS and for GSSAPI.
const ENCRYPTION: [u32; 2] = [80_877_103, 80_877_104];

/// The counter, and the way through it. Ends with this value.
pub struct Counter {
    counts: Arc<Counts>,
    url: SecretString,
    shutdown: Shutdown,
}

#[derive(Default)]
struct Counts {
    statements: AtomicU64,
    round_trips: AtomicU64,
}

impl Counter {
    /// `None`: this database is not reached over plain TCP.
    pub async fn before(url: &str) -> anyhow::Result<Option<Self>> {
        let options: PgConnectOptions = url.parse()?;
        let plain = matches!(
            options.get_ssl_mode(),
            PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer
        );
        if !plain || options.get_socket().is_some() {
            return Ok(None);
        }
        let server = (options.get_host().to_owned(), options.get_port());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let here = options
            .host("127.0.0.1")
            .port(port)
            .ssl_mode(PgSslMode::Disable);
        let counter = Self {
            counts: Arc::default(),
            url: SecretString::from(here.to_url_lossy().to_string()),
            shutdown: Shutdown::default(),
        };
        let (counts, shutdown) = (Arc::clone(&counter.counts), counter.shutdown.clone());
        counter.shutdown.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (counts, server) = (Arc::clone(&counts), server.clone());
                shutdown.spawn(async move {
                    // A connection that ends is its users' business.
                    let _ = pass(client, server, &counts).await;
                });
            }
        });
        Ok(Some(counter))
    }

    /// The URL of the same database through the counter.
    pub fn url(&self) -> &SecretString {
        &self.url
    }

    /// Statements and round trips so far.
    pub fn counts(&self) -> (u64, u64) {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        (
            count(&self.counts.statements),
            count(&self.counts.round_trips),
        )
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.shutdown.abort();
    }
}

async fn pass(client: TcpStream, server: (String, u16), counts: &Counts) -> anyhow::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    begin(&mut from_client, &mut to_client, &mut to_server).await?;
    tokio::select! {
        asked = ask(&mut from_client, &mut to_server, counts) => asked,
        answered = tokio::io::copy(&mut from_server, &mut to_client) => {
            answered?;
            Ok(())
        }
    }
}

/// The messages before the first one that has a type. Encryption is refused, as many servers do.
async fn begin(
    from: &mut OwnedReadHalf,
    back: &mut OwnedWriteHalf,
    to: &mut OwnedWriteHalf,
) -> anyhow::Result<()> {
    loop {
        let length = from.read_u32().await?;
        let body = body(from, length).await?;
        let code = body.first_chunk().map(|code| u32::from_be_bytes(*code));
        if code.is_some_and(|code| ENCRYPTION.contains(&code)) {
            back.write_all(b"N").await?;
            continue;
        }
        to.write_all(&[&length.to_be_bytes()[..], &body].concat())
            .await?;
        return Ok(());
    }
}

async fn ask(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    counts: &Counts,
) -> anyhow::Result<()> {
    loop {
        let kind = from.read_u8().await?;
        let length = from.read_u32().await?;
        let body = body(from, length).await?;
        let (statements, round_trips) = counted(kind, &body);
        counts.statements.fetch_add(statements, Ordering::Relaxed);
        counts.round_trips.fetch_add(round_trips, Ordering::Relaxed);
        to.write_all(&[&[kind], &length.to_be_bytes()[..], &body].concat())
            .await?;
    }
}

async fn body(from: &mut OwnedReadHalf, length: u32) -> anyhow::Result<Vec<u8>> {
    let rest = length
        .checked_sub(4)
        .context("a message is longer than its length")?;
    let mut body = vec![0; usize::try_from(rest)?];
    from.read_exact(&mut body).await?;
    Ok(body)
}

/// Statements and round trips of one message: a query may hold several; an execution is of one, and what
/// belongs to it ends with a Sync.
fn counted(kind: u8, body: &[u8]) -> (u64, u64) {
    match kind {
        b'Q' => {
            let text = String::from_utf8_lossy(body);
            let text = text.trim_end_matches('\0');
            let parts = text.split(';').filter(|part| !part.trim().is_empty());
            (parts.count() as u64, 1)
        }
        b'E' => (1, 0),
        b'S' => (0, 1),
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_counts_its_statements_and_an_execution_is_one() {
        assert_eq!(counted(b'Q', b"/* a */ BEGIN; SET LOCAL a = 1;\0"), (2, 1));
        assert_eq!(counted(b'Q', b"COMMIT\0"), (1, 1));
        assert_eq!(counted(b'P', b"SELECT 1; SELECT 2\0"), (0, 0));
        assert_eq!(counted(b'E', b"\0\0\0\0\0"), (1, 0));
        assert_eq!(counted(b'S', b""), (0, 1));
    }
}
