//! `RabbitMQ`.
use schemars::JsonSchema;
use serde::Deserialize;

/// `[sources.NAME.rabbitmq]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RabbitmqConfig {}
