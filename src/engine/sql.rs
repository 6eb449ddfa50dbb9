//! The user's own statements.
use schemars::JsonSchema;
use serde::Deserialize;

/// `[engines.NAME.sql]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlConfig {}
