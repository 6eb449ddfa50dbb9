//! Kafka.
use schemars::JsonSchema;
use serde::Deserialize;

/// `[sources.NAME.kafka]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {}
