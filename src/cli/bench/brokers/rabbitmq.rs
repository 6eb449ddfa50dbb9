//! A queue of the bench's own at the user's `RabbitMQ`.

use std::sync::Arc;

use anyhow::{Context, ensure};
use async_trait::async_trait;
use lapin::BasicProperties;
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::Place;
use crate::cli::bench::load::Load;
use crate::cli::bench::way;
use crate::source::rabbitmq::{Connected, QueueType, Rabbitmq, RabbitmqConfig};
use crate::source::{Positions, Source};

/// Messages that may be on their way to the broker at once.
const WINDOW: usize = 1000;
/// AMQP's mark of a message that outlives a restart.
const PERSISTENT: u8 = 2;

/// The queue, by its name; of the type that the configuration declares, else a quorum queue.
pub struct Queue {
    config: RabbitmqConfig,
}

impl Queue {
    pub fn new(config: &RabbitmqConfig, name: &str) -> Self {
        Self {
            config: RabbitmqConfig {
                queue: name.to_owned(),
                consumer_tag: String::new(),
                ..config.clone()
            },
        }
    }

    fn client(&self) -> Rabbitmq {
        let config = RabbitmqConfig {
            // It is there already.
            declare: None,
            ..self.config.clone()
        };
        Rabbitmq::new(Arc::from(way::NAME), config, false, "sluice bench")
    }

    pub fn name(&self) -> &str {
        &self.config.queue
    }

    fn short_name(&self) -> ShortString {
        self.name().into()
    }

    /// Declares it.
    pub async fn make(&self) -> anyhow::Result<()> {
        let Connected {
            connection,
            channel,
            ..
        } = self.client().connect().await?;
        let declared = self
            .config
            .declare
            .as_ref()
            .map(|declare| declare.queue_type);
        let kind = match declared.unwrap_or_default() {
            QueueType::Quorum => "quorum",
            QueueType::Classic => "classic",
        };
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare(self.short_name(), options, arguments)
            .await?;
        connection.close(200, "done".into()).await?;
        Ok(())
    }

    /// Deletes it with what is in it.
    pub async fn remove(&self) -> anyhow::Result<()> {
        let Connected {
            connection,
            channel,
            ..
        } = self.client().connect().await?;
        channel
            .queue_delete(self.short_name(), QueueDeleteOptions::default())
            .await?;
        connection.close(200, "done".into()).await?;
        Ok(())
    }
}

#[async_trait]
impl Place for Queue {
    async fn send(&self, load: &Load, first: u64, messages: u64) -> anyhow::Result<()> {
        let Connected {
            connection,
            channel,
            ..
        } = self.client().connect().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        let name = self.short_name();
        let mut confirms = Vec::with_capacity(WINDOW);
        for n in first..first + messages {
            let payload = load.payload(n);
            let published = channel.basic_publish(
                "".into(),
                name.clone(),
                BasicPublishOptions::default(),
                &payload,
                properties.clone(),
            );
            confirms.push(published.await?);
            if confirms.len() == WINDOW || n + 1 == first + messages {
                for confirm in confirms.drain(..) {
                    ensure!(
                        confirm.await?.is_ack(),
                        "the broker does not store a message"
                    );
                }
            }
        }
        connection
            .close(200, "done".into())
            .await
            .context("closing the publisher")?;
        Ok(())
    }

    fn source(&self, _positions: Option<Arc<dyn Positions>>) -> Arc<dyn Source> {
        Arc::new(self.client())
    }
}
