//! Engine tables.
use schemars::JsonSchema;
use serde::Deserialize;

/// `[engines.NAME.camunda_tables]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CamundaTablesConfig {}
