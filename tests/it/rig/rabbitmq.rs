//! RabbitMQ: a queue for each test, and a producer that waits for the broker's confirmation.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::Mutex;

use super::{eventually, http, orphaned, tidy, unique};

/// A broker: where its messages go, and where its HTTP API answers, both with user and password.
#[derive(Clone)]
pub struct RabbitMq {
    amqp: String,
    api: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    Classic,
    Quorum,
}

impl RabbitMq {
    pub fn at(amqp: &str, api: &str) -> RabbitMq {
        RabbitMq {
            amqp: amqp.to_owned(),
            api: api.to_owned(),
        }
    }

    /// The URI for a client.
    pub fn uri(&self) -> &str {
        &self.amqp
    }

    /// A fresh, durable, empty queue.
    pub async fn queue(&self, kind: QueueKind) -> Queue {
        self.queue_with(kind, FieldTable::default()).await
    }

    /// The same with arguments: `x-single-active-consumer`, `x-delivery-limit`, a length limit.
    pub async fn queue_with(&self, kind: QueueKind, arguments: FieldTable) -> Queue {
        let queue = Queue {
            broker: self.clone(),
            name: unique(),
            kind,
            arguments,
            link: Mutex::new(None),
        };
        queue.declare().await;
        queue
    }

    /// Whether there is a queue of this name.
    pub async fn has_queue(&self, name: &str) -> bool {
        let found = self.ask(Method::GET, &format!("queues/%2f/{name}")).await;
        found.expect("the API answers").is_some()
    }

    /// Asks the HTTP API; `path` begins behind `/api/`. `None` when there is no such thing.
    pub async fn ask(&self, method: Method, path: &str) -> Result<Option<Value>> {
        let response = http()
            .request(method, format!("{}/{path}", self.api))
            .send()
            .await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let body = response.error_for_status()?.bytes().await?;
        Ok(Some(if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body)?
        }))
    }

    /// A user who may do everything. It stays until the server goes: nobody can do anything with it elsewhere.
    pub async fn user(&self, name: &str, password: &str) {
        let user = serde_json::json!({ "password": password, "tags": "" });
        let all = serde_json::json!({ "configure": ".*", "write": ".*", "read": ".*" });
        for (path, body) in [
            (format!("users/{name}"), user),
            (format!("permissions/%2f/{name}"), all),
        ] {
            let asked = http().put(format!("{}/{path}", self.api)).json(&body);
            let answer = asked.send().await.expect("the API answers");
            answer.error_for_status().expect("guest may do that");
        }
    }

    pub(super) async fn sweep(&self) {
        let Ok(Some(queues)) = self.ask(Method::GET, "queues/%2f?columns=name").await else {
            return;
        };
        let names = queues
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|queue| queue["name"].as_str());
        for name in names.filter(|name| orphaned(name)) {
            let _ = self
                .ask(Method::DELETE, &format!("queues/%2f/{name}"))
                .await;
        }
    }
}

/// A queue of one test's own, bound to nothing: publishers name it. Deleted with this value.
pub struct Queue {
    broker: RabbitMq,
    name: String,
    kind: QueueKind,
    arguments: FieldTable,
    link: Mutex<Option<Link>>,
}

struct Link {
    connection: Connection,
    channel: Channel,
}

impl Queue {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn uri(&self) -> &str {
        self.broker.uri()
    }

    /// Makes the queue, or makes it again after [`delete`](Self::delete).
    pub async fn declare(&self) {
        let mut arguments = self.arguments.clone();
        let kind = match self.kind {
            QueueKind::Classic => "classic",
            QueueKind::Quorum => "quorum",
        };
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        self.channel()
            .await
            .expect("the broker takes connections")
            .queue_declare(
                self.name.as_str().into(),
                QueueDeclareOptions::durable(),
                arguments,
            )
            .await
            .expect("the broker takes the queue's arguments");
    }

    /// Deletes the queue under its consumers.
    pub async fn delete(&self) {
        self.channel()
            .await
            .expect("the broker takes connections")
            .queue_delete(self.name.as_str().into(), QueueDeleteOptions::default())
            .await
            .expect("the queue can be deleted");
    }

    /// Publishes one persistent message and waits until the broker has confirmed it.
    pub async fn publish(&self, payload: &[u8], properties: BasicProperties) {
        self.publish_all(vec![(payload.to_vec(), properties)]).await;
    }

    /// Publishes persistent messages in this order, and waits until the broker has confirmed all.
    pub async fn publish_all(&self, messages: Vec<(Vec<u8>, BasicProperties)>) {
        self.try_publish(messages)
            .await
            .expect("the broker confirms what is published");
    }

    /// The same on a broker that may die meanwhile. After an error nobody knows which messages it has.
    pub async fn try_publish(&self, messages: Vec<(Vec<u8>, BasicProperties)>) -> Result<()> {
        let channel = self.channel().await?;
        let mut confirms = Vec::with_capacity(messages.len());
        for (payload, properties) in messages {
            let confirm = channel
                .basic_publish(
                    "".into(),
                    self.name.as_str().into(),
                    BasicPublishOptions {
                        mandatory: true,
                        ..BasicPublishOptions::default()
                    },
                    &payload,
                    properties.with_delivery_mode(2),
                )
                .await?;
            confirms.push(confirm);
        }
        for confirmation in try_join_all(confirms).await? {
            ensure!(
                matches!(confirmation, Confirmation::Ack(None)),
                "not stored: {confirmation:?}"
            );
        }
        Ok(())
    }

    /// How many messages nobody has been given yet.
    pub async fn ready(&self) -> u32 {
        self.count().await.expect("the broker tells of the queue")
    }

    async fn count(&self) -> Result<u32> {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::durable()
        };
        let channel = self.channel().await?;
        let queue = channel
            .queue_declare(self.name.as_str().into(), options, FieldTable::default())
            .await?;
        Ok(queue.message_count())
    }

    /// Waits until the queue holds nothing, neither ready nor unacknowledged.
    pub async fn wait_until_empty(&self, limit: Duration) {
        // The counts may be a second old, of before anything was sent: it has to stay empty for longer.
        const OLDEST: Duration = Duration::from_millis(1500);
        let mut since: Option<Instant> = None;
        eventually(
            &format!("queue {} running empty", self.name),
            limit,
            async || {
                let statistics = self.statistics().await?;
                let none = |field: &str| statistics[field].as_u64() == Some(0);
                let empty = none("messages_ready") && none("messages_unacknowledged");
                if !empty || self.count().await.ok() != Some(0) {
                    since = None;
                    return None;
                }
                let since = since.get_or_insert_with(Instant::now);
                (since.elapsed() > OLDEST).then_some(())
            },
        )
        .await;
    }

    /// What the HTTP API says about the queue; its counts lag by a second.
    pub async fn statistics(&self) -> Option<Value> {
        let path = format!("queues/%2f/{}", self.name);
        // A broker that has just begun answers with errors first; whoever asks has a limit.
        self.broker.ask(Method::GET, &path).await.ok().flatten()
    }

    /// Cuts the connections of all its consumers, as an administrator can; returns how many there were.
    pub async fn cut_consumers(&self) -> usize {
        let statistics = self.statistics().await.unwrap_or_default();
        let consumers = statistics["consumer_details"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for consumer in &consumers {
            if let Some(name) = consumer["channel_details"]["connection_name"].as_str() {
                let path = format!("connections/{}", percent_encoded(name));
                self.broker
                    .ask(Method::DELETE, &path)
                    .await
                    .expect("the HTTP API closes connections");
            }
        }
        consumers.len()
    }

    /// The producer's channel, on a new connection when the last one died.
    async fn channel(&self) -> Result<Channel> {
        let mut link = self.link.lock().await;
        if let Some(Link { channel, .. }) = link.as_ref().filter(|link| link.is_alive()) {
            return Ok(channel.clone());
        }
        let properties = ConnectionProperties::default().with_connection_name("test".into());
        let connection = Connection::connect(self.uri(), properties)
            .await
            .context("connecting to RabbitMQ")?;
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        *link = Some(Link {
            connection,
            channel: channel.clone(),
        });
        Ok(channel)
    }
}

impl Link {
    fn is_alive(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let broker = self.broker.clone();
        let path = format!("queues/%2f/{}", self.name);
        tidy(&format!("queue {}", self.name), async move {
            broker.ask(Method::DELETE, &path).await?;
            Ok(())
        });
    }
}

/// A table of string headers.
pub fn headers(pairs: &[(&str, &str)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert(
            (*name).into(),
            AMQPValue::LongString(LongString::from(*value)),
        );
    }
    table
}

/// The name of a connection holds spaces, colons and an arrow.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(3 * text.len());
    for byte in text.bytes() {
        write!(encoded, "%{byte:02X}").expect("a string takes what is written to it");
    }
    encoded
}
