//! How much memory messages can take, as far as the configuration bounds it.

use serde::Serialize;

use super::Config;
use crate::units::Size;

/// How often a message is in memory while its transaction is under way: as it came, as it was decoded, among
/// the arguments of its statement, and in the connection's buffer.
const COPIES: u64 = 4;

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
                COPIES * batches * intake.max_batch_bytes.0,
                format!(
                    "source {name}, {COPIES} copies on the way to the database of {batches} × intake.max_batch_bytes ({})",
                    intake.max_batch_bytes
                ),
            );
            add(
                batches * intake.max_content_bytes.0,
                format!(
                    "source {name}, {batches} × a compressed message unpacked, intake.max_content_bytes ({})",
                    intake.max_content_bytes
                ),
            );
            if let Some(rabbitmq) = &source.rabbitmq {
                add(
                    rabbitmq.prefetch.0,
                    format!(
                        "source {name}, prefetch ({}); the delivery that goes beyond it gives all back",
                        rabbitmq.prefetch
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
            COPIES * config.sweeper.limit_bytes.0,
            format!(
                "sweeper, {COPIES} copies of sweeper.limit_bytes ({})",
                config.sweeper.limit_bytes
            ),
        );
        Self {
            total_bytes: parts.iter().map(|part| part.bytes).sum(),
            parts,
        }
    }
}
