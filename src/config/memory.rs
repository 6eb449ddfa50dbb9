//! How much memory messages can take, as far as the configuration bounds it.

use serde::Serialize;

use super::Config;
use crate::units::Size;

/// What a message of a RabbitMQ queue is reckoned with, whose broker counts messages and not bytes.
const RECKONED_MESSAGE: Size = Size(64 * 1024);

/// The sum, and of what it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryBound {
    pub total_bytes: u64,
    pub parts: Vec<MemoryPart>,
}

/// One holder of messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryPart {
    pub bytes: u64,
    pub text: String,
}

impl MemoryBound {
    pub fn of(config: &Config) -> Self {
        let mut parts = Vec::new();
        let mut add = |bytes: u64, text: String| {
            parts.push(MemoryPart {
                bytes,
                text: format!("{}: {text}", Size(bytes)),
            });
        };
        let intake = &config.intake;
        for (name, source) in &config.sources {
            let ordered = config
                .routes
                .iter()
                .any(|(_, route)| route.source == *name && route.order_by.is_some());
            let batches = if ordered {
                1
            } else {
                intake.max_batches as u64
            };
            add(
                batches * intake.max_batch_bytes.0,
                format!(
                    "source {name}, {batches} × intake.max_batch_bytes ({})",
                    intake.max_batch_bytes
                ),
            );
            if let Some(rabbitmq) = &source.rabbitmq {
                let count = u64::from(rabbitmq.prefetch_count.get());
                add(
                    count * RECKONED_MESSAGE.0,
                    format!(
                        "source {name}, prefetch_count ({count}) × a message of {RECKONED_MESSAGE}; \
                         the broker counts messages, so larger ones take more"
                    ),
                );
            }
            if let Some(kafka) = &source.kafka {
                add(
                    kafka.prefetch.0 + kafka.prefetch.0 / 2,
                    format!(
                        "source {name}, prefetch ({}) and a fetch response beyond it; \
                         each further broker may add {}",
                        kafka.prefetch,
                        Size(kafka.prefetch.0 / 2)
                    ),
                );
            }
        }
        add(
            config.sweeper.limit_bytes.0,
            "sweeper, sweeper.limit_bytes".to_owned(),
        );
        Self {
            total_bytes: parts.iter().map(|part| part.bytes).sum(),
            parts,
        }
    }
}
