//! How each broker does what the contract needs from outside.

use std::time::Duration;

use lapin::BasicProperties;
use sluice::source::kafka::{Kafka, KafkaConfig};
use sluice::source::rabbitmq::{Rabbitmq, RabbitmqConfig};
use sluice::source::{Source, Stream};

use super::LIMIT;
use crate::rig::{Queue, QueueKind, Rig, Server, Topic, eventually, headers, unique};

/// One queue, or one topic with one group, of a test's own.
pub trait Broker: Sized {
    /// On the shared server.
    async fn fresh() -> Self;

    /// On a private server, which the test may kill.
    async fn on(server: &Server) -> Self;
    async fn private() -> Server;

    /// A node's source; each call is another node of the same Sluice. `more` are further lines of its table.
    fn node_with(&self, more: &str) -> Box<dyn Source>;

    fn node(&self) -> Box<dyn Source> {
        self.node_with("")
    }

    /// Settings with which a session ends after a few seconds of silence, and the buffer is soon full.
    fn impatient() -> &'static str;

    /// Stores messages, in this order.
    async fn produce(&self, payloads: &[Vec<u8>], headers: &[(&str, &str)]);

    async fn produce_numbers(&self, range: std::ops::Range<usize>) {
        let payloads: Vec<Vec<u8>> = range.map(|n| n.to_string().into_bytes()).collect();
        self.produce(&payloads, &[]).await;
    }

    /// Waits until everything that was produced is acknowledged.
    async fn wait_until_acknowledged(&self);

    /// Lets the stream lose its connection, if the broker can do that without dying itself.
    async fn cut(&self, stream: &mut Box<dyn Stream>);
}

pub struct Rabbit<const QUORUM: bool> {
    queue: Queue,
}

impl<const QUORUM: bool> Rabbit<QUORUM> {
    const KIND: QueueKind = if QUORUM {
        QueueKind::Quorum
    } else {
        QueueKind::Classic
    };
}

impl<const QUORUM: bool> Broker for Rabbit<QUORUM> {
    async fn fresh() -> Self {
        let queue = Rig::get().queue(Self::KIND).await;
        Self { queue }
    }

    async fn on(server: &Server) -> Self {
        let queue = server.as_rabbitmq().queue(Self::KIND).await;
        Self { queue }
    }

    async fn private() -> Server {
        Server::rabbitmq(&[]).await
    }

    fn node_with(&self, more: &str) -> Box<dyn Source> {
        Box::new(rabbitmq_node(&self.queue, more, false))
    }

    fn impatient() -> &'static str {
        "heartbeat = '1s'"
    }

    async fn produce(&self, payloads: &[Vec<u8>], pairs: &[(&str, &str)]) {
        let properties = BasicProperties::default().with_headers(headers(pairs));
        let messages = payloads.iter().map(|p| (p.clone(), properties.clone()));
        self.queue.publish_all(messages.collect()).await;
    }

    async fn wait_until_acknowledged(&self) {
        self.queue.wait_until_empty(LIMIT).await;
    }

    async fn cut(&self, stream: &mut Box<dyn Stream>) {
        cut(&self.queue, stream).await;
    }
}

/// Closes the stream's connection from the broker's side, as an administrator or a dying broker does.
pub async fn cut(queue: &Queue, stream: &mut Box<dyn Stream>) {
    // The HTTP API learns of a connection a second late, and cuts nothing before.
    let ended = eventually("the stream ending with its connection", LIMIT, async || {
        queue.cut_consumers().await;
        let soon = Duration::from_millis(200);
        tokio::time::timeout(soon, stream.idle()).await.ok()
    })
    .await;
    assert!(!ended.needs_operator, "{ended:?}");
}

/// A node that reads a queue.
pub fn rabbitmq_node(queue: &Queue, more: &str, ordered: bool) -> Rabbitmq {
    let uri = queue.uri();
    let table = format!("uris = ['{uri}']\nqueue = '{}'\n{more}", queue.name());
    let config: RabbitmqConfig = toml::from_str(&table).expect("the table is well formed");
    assert_eq!(config.validate(), []);
    Rabbitmq::new(unique().into(), config, ordered, "test")
}

pub struct KafkaGroup<const NEXT_GENERATION: bool> {
    topic: Topic,
    group: String,
}

impl<const NEXT_GENERATION: bool> Broker for KafkaGroup<NEXT_GENERATION> {
    async fn fresh() -> Self {
        let topic = Rig::get().topic(1).await;
        Self {
            topic,
            group: unique(),
        }
    }

    async fn on(server: &Server) -> Self {
        let topic = server.as_kafka().topic(1).await;
        Self {
            topic,
            group: unique(),
        }
    }

    async fn private() -> Server {
        Server::kafka(&[]).await
    }

    fn node_with(&self, more: &str) -> Box<dyn Source> {
        let protocol = if NEXT_GENERATION {
            "consumer"
        } else {
            "classic"
        };
        let more = format!("group_protocol = '{protocol}'\n{more}");
        Box::new(kafka_node(&self.topic, &self.group, &more))
    }

    fn impatient() -> &'static str {
        "session_timeout = '2s'\nmax_poll_interval = '3s'\nprefetch = '64KiB'"
    }

    async fn produce(&self, payloads: &[Vec<u8>], pairs: &[(&str, &str)]) {
        for payload in payloads {
            self.topic.produce(None, pairs, payload).await;
        }
    }

    async fn wait_until_acknowledged(&self) {
        self.topic.wait_until_committed(&self.group, LIMIT).await;
    }

    /// Dropping the stream is all that can be done: the next one begins where the group has committed.
    async fn cut(&self, _stream: &mut Box<dyn Stream>) {}
}

/// A node that reads a topic.
pub fn kafka_node(topic: &Topic, group: &str, more: &str) -> Kafka {
    let session = if more.contains("session_timeout") {
        ""
    } else {
        "session_timeout = '6s'"
    };
    let table = format!(
        "bootstrap_servers = '{}'\ntopics = ['{}']\ngroup_id = '{group}'\n{session}\n{more}",
        topic.bootstrap(),
        topic.name()
    );
    let config: KafkaConfig = toml::from_str(&table).expect("the table is well formed");
    assert_eq!(config.validate(), []);
    Kafka::new(unique().into(), config, false, "test")
}
