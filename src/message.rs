//! What a broker delivered, and what a route made of it.
//!
//! Owns the plain data that travels through the intake: a [`Delivery`] as the broker gave it, and the
//! [`Message`] that a route's mapping made of it. Knows no broker, no database and no engine.
//! Invariant: the payload's bytes are never changed; what is stored is what was delivered.

mod content;
mod reason;

pub use content::Content;
pub use reason::{DeadReason, WaitReason};

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::position::Step;

/// One message as the broker gave it.
#[derive(Debug)]
pub struct Delivery {
    /// The name of the source, as in `[sources.NAME]`.
    pub source: Arc<str>,
    /// The exact bytes.
    pub payload: Bytes,
    /// Everything around the payload.
    pub envelope: Envelope,
    /// What the broker says about earlier deliveries of it (`RabbitMQ` only; Kafka never knows).
    pub redelivered: bool,
    /// What it adds to its partition's position, where the inbox keeps one.
    pub step: Option<Step>,
    /// Where it stands in its stream; given back to the stream once the row is committed.
    pub receipt: Receipt,
}

impl Delivery {
    /// The bytes that this delivery holds in memory: payload and headers.
    pub fn size(&self) -> usize {
        self.payload.len() + self.envelope.size()
    }
}

/// The right to acknowledge one delivery on the one stream that delivered it.
///
/// Given back by value, so that a delivery cannot be acknowledged twice. A receipt of an earlier
/// stream (a lost connection, a revoked partition) is recognised by its incarnation and ignored.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Receipt {
    /// Which lane of the source: 0 on `RabbitMQ`; the number that the Kafka source gave to a partition.
    pub lane: u32,
    /// Which incarnation of that lane: one channel on `RabbitMQ`, one assignment of a partition on Kafka.
    pub incarnation: u64,
    /// The delivery tag, or the record's offset.
    pub tag: u64,
}

/// Everything around the payload; stored with the row, so that a redrive can map it again.
///
/// Absent means that the broker did not say. A newer version may know more fields; they are left alone.
/// Times are milliseconds since 1970, UTC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// In the broker's order; a name may stand more than once, and the last one wins in expressions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, Text)>,
    /// Kafka: the record's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Text>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    /// `RabbitMQ` quorum queues: `x-delivery-count`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_count: Option<i64>,
}

impl Envelope {
    /// The last header of that name; the exact name first, then without regard to case.
    pub fn header(&self, name: &str) -> Option<&Text> {
        let last = |same: &dyn Fn(&str) -> bool| {
            self.headers
                .iter()
                .rev()
                .find(|(n, _)| same(n))
                .map(|(_, v)| v)
        };
        last(&|n| n == name).or_else(|| last(&|n| n.eq_ignore_ascii_case(name)))
    }

    /// The record's place in Kafka; `None` for a delivery of `RabbitMQ`, whose coordinates mean nothing.
    ///
    /// The timestamp is part of it, because a topic that was deleted and made again counts from 0.
    pub fn coordinates(&self) -> Option<String> {
        let (topic, partition, offset) = (self.topic.as_ref()?, self.partition?, self.offset?);
        let timestamp = self.timestamp.unwrap_or_default();
        Some(format!("{topic}/{partition}@{offset}#{timestamp}"))
    }

    /// As it stands in the row.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an envelope is strings and numbers")
    }

    fn size(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.as_bytes().len())
            .sum();
        headers + self.key.as_ref().map_or(0, |key| key.as_bytes().len()) + 256
    }
}

/// Bytes that are nearly always UTF-8: a header's value, a record's key.
///
/// Stored as a JSON string when they are UTF-8 and as `{"base64": "…"}` otherwise, so that nothing is
/// changed on the way through the inbox.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(Bytes);

impl Text {
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, or `None` when the bytes are not UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_str() {
            Some(text) => fmt::Debug::fmt(text, f),
            None => write!(f, "base64:{}", BASE64.encode(&self.0)),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum TextRepr {
    Plain(String),
    Binary { base64: String },
}

impl Serialize for Text {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.as_str() {
            Some(text) => TextRepr::Plain(text.to_owned()),
            None => TextRepr::Binary {
                base64: BASE64.encode(&self.0),
            },
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match TextRepr::deserialize(deserializer)? {
            TextRepr::Plain(text) => Ok(Self::new(text)),
            TextRepr::Binary { base64 } => BASE64
                .decode(base64)
                .map(Self::new)
                .map_err(serde::de::Error::custom),
        }
    }
}

/// A decoded delivery: what the route's mapping made of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Idempotent-receiver key, unique in the route's dedup scope.
    pub dedup_key: DedupKey,
    /// What the engine shall do.
    pub action: Action,
    /// Process variables, in the order of the mapping.
    pub variables: Vec<Variable>,
    /// The value of `order_by`, where the route asks for order.
    pub order_key: Option<String>,
}

impl Message {
    /// The bytes that its variables hold in memory: unpacked, they may be more than were delivered.
    pub fn size(&self) -> usize {
        let of_variable = |variable: &Variable| variable.name.len() + variable.value.size();
        self.variables.iter().map(of_variable).sum()
    }
}

/// What the engine shall do with a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Correlate it to a waiting execution.
    Correlate(Correlation),
    /// Start an instance.
    Start(Start),
    /// Hand it to the user's own statement (engine `sql`).
    Apply(Apply),
}

/// The engine's own correlation criteria.
#[derive(Debug, Clone, PartialEq)]
pub struct Correlation {
    pub message_name: String,
    pub business_key: Option<String>,
    /// Compared with variables of any scope in the instance, by type and value.
    pub correlation_keys: Vec<Variable>,
    pub process_instance_id: Option<String>,
    pub tenant: Tenant,
}

/// How an instance is started.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    pub by: StartBy,
    pub business_key: Option<String>,
    pub tenant: Tenant,
}

/// Which start event.
#[derive(Debug, Clone, PartialEq)]
pub enum StartBy {
    /// The message start event of this name, in the latest version.
    Message(String),
    /// The none start event of the latest version of this process definition.
    DefinitionKey(String),
}

/// A message for the `sql` engine: its variables are the statement's named parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Apply {
    pub business_key: Option<String>,
}

/// Which tenants a message is for; the engine's own three cases.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Tenant {
    /// Any tenant, and none.
    #[default]
    Any,
    /// Only what belongs to no tenant.
    Without,
    Is(String),
}

/// A process variable.
#[derive(Debug, Clone, PartialEq)]
pub struct Variable {
    pub name: String,
    pub value: Value,
}

/// A typed value; the variants are the engine's own primitive types.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Boolean(bool),
    Short(i16),
    Integer(i32),
    Long(i64),
    Double(f64),
    String(String),
    /// Milliseconds since 1970, UTC.
    Date(i64),
    Bytes(Vec<u8>),
    /// JSON text, byte for byte as it stood in the payload where it is a part of it.
    Json(String),
}

impl Value {
    fn size(&self) -> usize {
        match self {
            Self::String(text) | Self::Json(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Null
            | Self::Boolean(_)
            | Self::Short(_)
            | Self::Integer(_)
            | Self::Long(_)
            | Self::Double(_)
            | Self::Date(_) => size_of::<Self>(),
        }
    }

    /// The engine's name of the type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean(_) => "boolean",
            Self::Short(_) => "short",
            Self::Integer(_) => "integer",
            Self::Long(_) => "long",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Date(_) => "date",
            Self::Bytes(_) => "bytes",
            Self::Json(_) => "json",
        }
    }
}

/// The idempotent-receiver key of a message: as the route made it, and its SHA-256.
///
/// The hash is what the unique index holds: fixed length, whatever the producer sends. It outlives a
/// version of Sluice, so its derivation (SHA-256 of the key's UTF-8 bytes) has golden vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DedupKey {
    pub text: String,
    pub hash: Hash,
}

impl DedupKey {
    pub fn new(text: String) -> Self {
        let hash = Hash::of(&[text.as_bytes()]);
        Self { text, hash }
    }
}

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Of the parts; with more than one, each is preceded by its length, so that `ab|c` is not `a|bc`.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut sha = Sha256::new();
        for part in parts {
            if parts.len() > 1 {
                sha.update((part.len() as u64).to_be_bytes());
            }
            sha.update(part);
        }
        Self(sha.finalize().into())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why a delivery could not become a message; the text goes into the row and is read by people.
///
/// It never holds a value of the payload, only where it stood and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Undecodable {
    /// A word from a bounded set: the row's reason and a metric's label.
    pub reason: DeadReason,
    pub detail: String,
}
