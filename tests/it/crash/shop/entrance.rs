//! Where a shop's messages come in: a queue or a topic, and how a node is told of it.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use super::{LIMIT, Message};
use crate::rig::{Queue, QueueKind, Rig, Topic};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broker {
    RabbitMq,
    Kafka,
}

/// Where a shop's messages come in.
pub enum Entrance {
    Queue(Box<Queue>),
    Topic(Topic),
}

impl Entrance {
    pub async fn of(broker: Broker) -> Entrance {
        let rig = Rig::get();
        match broker {
            Broker::RabbitMq => Entrance::Queue(Box::new(rig.queue(QueueKind::Quorum).await)),
            Broker::Kafka => Entrance::Topic(rig.topic(2).await),
        }
    }

    /// One whose order can be kept: all messages go to one consumer at a time.
    pub async fn ordered(broker: Broker) -> Entrance {
        let mut arguments = FieldTable::default();
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        let rig = Rig::get();
        match broker {
            Broker::RabbitMq => {
                let queue = rig.rabbitmq.queue_with(QueueKind::Quorum, arguments);
                Entrance::Queue(Box::new(queue.await))
            }
            Broker::Kafka => Entrance::of(broker).await,
        }
    }

    /// Sends in this order and waits until the broker has stored all.
    pub async fn send(&self, messages: &[Message]) {
        let sent = self.try_send(messages).await;
        sent.expect("the broker stores what is sent");
    }

    /// The same to a broker that may die meanwhile. After an error nobody knows which messages it has.
    pub async fn try_send(&self, messages: &[Message]) -> anyhow::Result<()> {
        match self {
            Entrance::Queue(queue) => {
                let all = messages
                    .iter()
                    .map(|message| (message.payload(), BasicProperties::default()));
                queue.try_publish(all.collect()).await
            }
            Entrance::Topic(topic) => {
                let sent = messages.iter().map(async |message| {
                    let payload = message.payload();
                    topic
                        .try_produce(None, Some(&message.order), &[], &payload)
                        .await
                });
                futures_util::future::try_join_all(sent).await?;
                Ok(())
            }
        }
    }

    /// The table of a source that is fed through it, by way of a proxy on this port if there is one.
    pub fn source(&self, name: &str, proxy: Option<u16>, limits: Limits) -> String {
        match self {
            Entrance::Queue(queue) => {
                let mut uri = reqwest::Url::parse(queue.uri()).expect("the rig's URIs are URIs");
                uri.set_port(proxy.or(uri.port())).expect("it has a host");
                let (queue, lines) = (queue.name(), limits.of_rabbitmq);
                format!(
                    "[sources.{name}.rabbitmq]\nuris = [\"{uri}\"]\nqueue = \"{queue}\"\n{lines}"
                )
            }
            Entrance::Topic(topic) => {
                let through = proxy.map(|port| format!("127.0.0.1:{port}"));
                let servers = through.as_deref().unwrap_or(topic.bootstrap());
                let (topic, lines) = (topic.name(), limits.of_kafka);
                format!(
                    "[sources.{name}.kafka]\nbootstrap_servers = \"{servers}\"\ntopics = [\"{topic}\"]\n\
                     group_id = \"{topic}\"\n{lines}"
                )
            }
        }
    }

    /// Waits until the broker has nothing left that is not acknowledged.
    pub async fn until_drained(&self) {
        match self {
            Entrance::Queue(queue) => queue.wait_until_empty(LIMIT).await,
            Entrance::Topic(topic) => topic.wait_until_committed(topic.name(), LIMIT).await,
        }
    }
}

/// How soon a source and its broker miss each other: lines of the source's table.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub of_rabbitmq: &'static str,
    pub of_kafka: &'static str,
}

impl Limits {
    /// Those of a configuration that says nothing.
    pub const DEFAULT: Limits = Limits {
        of_rabbitmq: "",
        of_kafka: "",
    };
    pub const QUICK: Limits = Limits {
        of_rabbitmq: "heartbeat = \"2s\"",
        of_kafka: "session_timeout = \"3s\"",
    };
}
