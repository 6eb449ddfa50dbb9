//! `[sources.NAME.rabbitmq]`, and what can be wrong with it before a broker is asked.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::PathBuf;

use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use lapin::uri::AMQPUri;
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::management;
use crate::finding::Mistake;
use crate::source::{SHORTEST_CONNECT, SMALLEST_PREFETCH};
use crate::units::{Size, Span};

/// A `RabbitMQ` queue, classic or quorum.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RabbitmqConfig {
    /// `amqp://user:password@host:5672/vhost` or `amqps://…`; tried one after the other, the next one
    /// after every failure. Without a path the virtual host is `/`.
    #[schemars(with = "Vec<String>")]
    pub uris: Vec<SecretString>,
    /// The queue's name. It must exist, unless `declare` is given.
    pub queue: String,
    /// How many deliveries the broker may send ahead of their acknowledgement.
    #[serde(default = "default_prefetch_count")]
    pub prefetch_count: NonZeroU16,
    /// How much they may take in memory together. `RabbitMQ` counts messages only: when they turn out to
    /// be larger, the connection is cut, which gives them back, and the source asks for fewer at once until
    /// the node restarts.
    #[serde(default = "default_prefetch")]
    pub prefetch: Size,
    /// How this consumer is called at the broker; empty: the broker chooses.
    #[serde(default)]
    pub consumer_tag: String,
    /// How often both sides prove that they are alive. A vanished machine is noticed after about twice this.
    #[serde(default = "default_heartbeat")]
    pub heartbeat: Span,
    /// How long connecting may take, until the consumer stands.
    #[serde(default = "default_connect_timeout")]
    pub connect_timeout: Span,
    /// Declares the queue at every connection. Without it the queue must exist.
    #[serde(default)]
    pub declare: Option<Declare>,
    /// For `amqps://`: what is trusted beside the system's certificates, and who we are.
    #[serde(default)]
    pub tls: RabbitmqTls,
    /// The queue's `x-delivery-limit`, for the warning that the broker is about to drop a message by
    /// itself. AMQP does not tell it; 20 is the default of `RabbitMQ` 4 for quorum queues.
    #[serde(default = "default_delivery_limit")]
    pub delivery_limit: u32,
    /// `http://user:password@host:15672`: the management API, read by `sluice check --connect` alone.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub management_url: Option<SecretString>,
}

/// How the queue is declared; must equal what exists.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Declare {
    #[serde(default, rename = "type")]
    pub queue_type: QueueType,
    /// A quorum queue is always durable.
    #[serde(default = "default_durable")]
    pub durable: bool,
    /// `x-…` arguments, such as `x-single-active-consumer = true`.
    #[serde(default)]
    pub arguments: BTreeMap<String, Argument>,
}

/// Streams are missing on purpose: they are never acknowledged away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QueueType {
    #[default]
    Quorum,
    Classic,
}

/// The value of a queue argument.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Argument {
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Argument>),
}

/// Files in PEM. Certificate and host name are always verified: the TLS library offers nothing else.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RabbitmqTls {
    /// Certificates of authorities that are trusted beside the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Our own certificate chain.
    #[serde(default)]
    pub crt_file: Option<PathBuf>,
    /// Its private key (PKCS#8, without a password).
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

fn default_prefetch_count() -> NonZeroU16 {
    NonZeroU16::new(2000).expect("2000 is not zero")
}
fn default_prefetch() -> Size {
    Size::mib(32)
}
fn default_heartbeat() -> Span {
    Span::secs(10)
}
fn default_connect_timeout() -> Span {
    Span::secs(10)
}
fn default_durable() -> bool {
    true
}
fn default_delivery_limit() -> u32 {
    20
}

impl RabbitmqConfig {
    /// Everything that can be said to be wrong without a broker.
    pub fn validate(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if self.uris.is_empty() {
            mistakes.push(Mistake::new("uris", "expected at least one URI"));
        }
        for (index, uri) in self.uris.iter().enumerate() {
            match parse(uri) {
                Err(what) => mistakes.push(Mistake::new(format!("uris[{index}]"), what)),
                Ok(uri) if uri.query.heartbeat.is_some() => mistakes.push(Mistake::new(
                    format!("uris[{index}]"),
                    "the URI names a heartbeat: use the key `heartbeat`",
                )),
                Ok(_) => {}
            }
        }
        for (path, text) in [("queue", &self.queue), ("consumer_tag", &self.consumer_tag)] {
            if text.len() > 255 {
                mistakes.push(Mistake::new(path, "longer than AMQP's 255 bytes"));
            }
        }
        if self.queue.is_empty() {
            mistakes.push(Mistake::new("queue", "expected the name of a queue"));
        }
        if self.heartbeat.0.as_secs() == 0 || self.heartbeat.0.as_secs() > u64::from(u16::MAX) {
            mistakes.push(Mistake::new(
                "heartbeat",
                "expected between 1s and 65535s, whole seconds",
            ));
        }
        if self.prefetch < SMALLEST_PREFETCH {
            let what = format!("expected {SMALLEST_PREFETCH} or more");
            mistakes.push(Mistake::new("prefetch", what));
        }
        if self.connect_timeout < SHORTEST_CONNECT {
            let what = format!("expected {SHORTEST_CONNECT} or more: nothing connects sooner");
            mistakes.push(Mistake::new("connect_timeout", what));
        }
        if let Some(Err(what)) = self.management_url.as_ref().map(management::check) {
            mistakes.push(Mistake::new("management_url", what));
        }
        mistakes.extend(self.tls.validate());
        if let Some(declare) = &self.declare {
            mistakes.extend(declare.validate());
        }
        mistakes
    }
}

impl RabbitmqTls {
    fn validate(&self) -> Option<Mistake> {
        match (&self.crt_file, &self.key_file) {
            (Some(_), None) => Some(Mistake::new("tls", "`crt_file` needs `key_file`")),
            (None, Some(_)) => Some(Mistake::new("tls", "`key_file` needs `crt_file`")),
            (Some(_), Some(_)) | (None, None) => None,
        }
    }

    /// Reads the files; a path is part of the error.
    pub(super) async fn load(&self) -> Result<OwnedTLSConfig, (PathBuf, std::io::Error)> {
        let read = async |path: &PathBuf| {
            let text = tokio::fs::read(path).await;
            text.map_err(|cause| (path.clone(), cause))
        };
        let cert_chain = match &self.ca_file {
            Some(path) => Some(String::from_utf8_lossy(&read(path).await?).into_owned()),
            None => None,
        };
        let identity = match (&self.crt_file, &self.key_file) {
            (Some(crt), Some(key)) => Some(OwnedIdentity::PKCS8 {
                pem: read(crt).await?,
                key: read(key).await?,
            }),
            _ => None,
        };
        Ok(OwnedTLSConfig {
            identity,
            cert_chain,
        })
    }
}

impl Declare {
    fn validate(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if self.queue_type == QueueType::Quorum && !self.durable {
            mistakes.push(Mistake::new(
                "declare.durable",
                "a quorum queue is always durable",
            ));
        }
        for name in self.arguments.keys() {
            if name == "x-queue-type" {
                mistakes.push(Mistake::new(
                    format!("declare.arguments.{name}"),
                    "use the key `declare.type`",
                ));
            } else if name.len() > 255 {
                mistakes.push(Mistake::new(
                    "declare.arguments",
                    "a name is longer than AMQP's 255 bytes",
                ));
            }
        }
        mistakes
    }

    pub(super) fn table(&self) -> FieldTable {
        let mut table = FieldTable::default();
        let queue_type = match self.queue_type {
            QueueType::Quorum => "quorum",
            QueueType::Classic => "classic",
        };
        table.insert(
            "x-queue-type".into(),
            AMQPValue::LongString(queue_type.into()),
        );
        for (name, value) in &self.arguments {
            if let Ok(name) = ShortString::try_new(name.as_str()) {
                table.insert(name, value.as_amqp());
            }
        }
        table
    }
}

impl Argument {
    fn as_amqp(&self) -> AMQPValue {
        match self {
            Self::Boolean(value) => AMQPValue::Boolean(*value),
            Self::Integer(value) => AMQPValue::LongLongInt(*value),
            Self::Float(value) => AMQPValue::Double(*value),
            Self::Text(value) => AMQPValue::LongString(value.as_str().into()),
            Self::List(values) => AMQPValue::FieldArray(FieldArray::from(
                values.iter().map(Self::as_amqp).collect::<Vec<_>>(),
            )),
        }
    }
}

/// The broker's address as it may be printed: scheme, host, port and virtual host.
pub(super) fn address(uri: &AMQPUri) -> String {
    let AMQPUri {
        scheme,
        authority,
        vhost,
        ..
    } = uri;
    let vhost = vhost.strip_prefix('/').unwrap_or(vhost);
    format!("{scheme}://{}:{}/{vhost}", authority.host, authority.port)
}

/// Parses a URI; the error never repeats it, because it holds a password.
pub(super) fn parse(uri: &SecretString) -> Result<AMQPUri, String> {
    let text = uri.expose_secret();
    let expected = "expected amqp://user:password@host:5672/vhost or amqps://…";
    if !(text.starts_with("amqp://") || text.starts_with("amqps://")) {
        return Err(expected.to_owned());
    }
    let mut parsed: AMQPUri = text
        .parse()
        .map_err(|cause: String| format!("not an AMQP URI ({cause}), {expected}"))?;
    // The parser takes an IPv6 address for no host at all, and would connect to localhost.
    if let Some(host) = bracketed_host(text) {
        parsed.authority.host = host;
    }
    // `amqp://host` means the default virtual host, `amqp://host/` the one whose name is empty:
    // nobody who writes the second one means it.
    if parsed.vhost.is_empty() {
        "/".clone_into(&mut parsed.vhost);
    }
    Ok(parsed)
}

fn bracketed_host(uri: &str) -> Option<String> {
    let authority = uri.split("://").nth(1)?.split('/').next()?;
    let host = authority.rsplit('@').next()?.strip_prefix('[')?;
    Some(host.split_once(']')?.0.to_owned())
}
