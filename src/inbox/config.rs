//! `[inbox]`: where the inbox is, how long it keeps what is done, and the limits of a session.

use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{postgres, sqlite};
use crate::finding::Mistake;
use crate::units::Span;

/// `[inbox]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InboxConfig {
    /// `postgres://user:password@host/database` or `sqlite:path/to/file.db`.
    #[schemars(with = "String")]
    pub url: SecretString,
    /// `PostgreSQL`: the schema of Sluice's own tables.
    #[serde(default = "default_schema")]
    pub schema: String,
    #[serde(default)]
    pub retention: Retention,
    /// `PostgreSQL`: what stands between this node and the server.
    #[serde(default)]
    pub pooler: Pooler,
    /// `PostgreSQL`: connections of this node, all together.
    #[serde(default = "default_connections")]
    pub connections: u32,
    /// Sessions are ended by the server after this long without a statement inside a transaction,
    /// so that a frozen node holds no row for longer.
    #[serde(default = "default_idle_in_transaction_timeout")]
    pub idle_in_transaction_timeout: Span,
    /// How long one statement may wait for a lock; on `PostgreSQL` less than `statement_timeout`.
    #[serde(default = "default_lock_timeout")]
    pub lock_timeout: Span,
    /// How long one statement may run.
    #[serde(default = "default_statement_timeout")]
    pub statement_timeout: Span,
    /// `PostgreSQL`: when a commit counts. `on` waits for the synchronous standbys, where there are any.
    #[serde(default)]
    pub synchronous_commit: SynchronousCommit,
}

impl InboxConfig {
    /// What keeps the URL from being read, where its scheme is that of a database. Never repeats any of it,
    /// because it holds a password.
    pub fn mistake_in_url(&self) -> Option<Mistake> {
        let url = self.url.expose_secret();
        let (database, read) = if url.starts_with("sqlite:") {
            ("SQLite", sqlite::options(url).map(drop))
        } else {
            ("PostgreSQL", postgres::options(url).map(drop))
        };
        let cause = match read.err()? {
            sqlx::Error::Configuration(cause) => cause.to_string(),
            error => error.to_string(),
        };
        // The driver says so once or twice.
        let cause = cause.trim_start_matches("error with configuration: ");
        let what = format!("not the URL of a {database} database: {}", unquoted(cause));
        Some(Mistake::new("url", what))
    }
}

/// Without what it quotes.
fn unquoted(text: &str) -> String {
    match (text.find('"'), text.rfind('"')) {
        (Some(from), Some(to)) if from < to => {
            format!("{}\u{2026}{}", &text[..from], &text[to + 1..])
        }
        _ => text.to_owned(),
    }
}

/// What a connection is worth beyond one transaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooler {
    /// Nothing stands between, or a pooler that pools by session.
    #[default]
    None,
    /// A pooler that pools by transaction, such as `PgBouncer`: no state of a session is used, and each
    /// statement is parsed anew. `sluice migrate` goes to the server itself.
    Transaction,
}

/// `PostgreSQL`'s own setting of that name; `off` is not offered, because it loses acknowledged messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SynchronousCommit {
    #[default]
    On,
    RemoteApply,
    RemoteWrite,
    Local,
}

impl SynchronousCommit {
    pub fn as_sql(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::RemoteApply => "remote_apply",
            Self::RemoteWrite => "remote_write",
            Self::Local => "local",
        }
    }
}

/// How long rows are kept, counted from *done*. Dead rows stay until an operator discards them.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// The payload and the headers.
    #[serde(default = "default_payload_retention")]
    pub payload: Span,
    /// The dedup key: as long as this, a resend is recognised.
    #[serde(default = "default_key_retention")]
    pub key: Span,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            payload: default_payload_retention(),
            key: default_key_retention(),
        }
    }
}

fn default_schema() -> String {
    "sluice".to_owned()
}
fn default_connections() -> u32 {
    8
}
fn default_idle_in_transaction_timeout() -> Span {
    Span::secs(5)
}
fn default_lock_timeout() -> Span {
    Span::secs(5)
}
fn default_statement_timeout() -> Span {
    Span::secs(30)
}
fn default_payload_retention() -> Span {
    Span::days(3)
}
fn default_key_retention() -> Span {
    Span::days(30)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistake(url: &str) -> Option<String> {
        let config: InboxConfig = toml::from_str(&format!("url = {url:?}")).expect("a table");
        config.mistake_in_url().map(|mistake| mistake.what)
    }

    #[test]
    fn a_parameter_that_the_driver_would_pass_over_is_a_mistake_and_is_not_repeated() {
        for known in [
            "postgres://u@db/x",
            "postgres://u@db/x?",
            "postgres://u@db/x?sslmode=verify-full&sslrootcert=/ca.pem",
            "postgres://u@db/x?host=/var/run&options[search_path]=a&options=-c%20x=1",
        ] {
            assert_eq!(mistake(known), None, "{known}");
        }
        for unknown in [
            "postgres://u@db/x?sslmode=require&sslmod=verify-full",
            "postgres://u@db/x?host=db&pasword=hunter2",
        ] {
            let what = mistake(unknown).expect(unknown);
            assert!(what.contains("parameter 2 behind the `?`"), "{what}");
            assert!(!what.contains("hunter2"), "{what}");
        }
    }
}
