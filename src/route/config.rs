//! `[routes.NAME]`: what a route is made of, as it stands in the configuration.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Patience, SECOND_LOOK, Then};
use crate::backoff::AttemptsConfig;
use crate::mapping::{Expression, ValueType};
use crate::message::DeadReason;
use crate::units::Span;

/// `[routes.NAME]`. With only `source` and `engine` it follows the convention: message name = topic or
/// routing key, business key = record key or `correlation_id`, every field of the payload a variable.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// The name of a source.
    pub source: String,
    /// The name of an engine.
    pub engine: String,
    /// Which deliveries; without it, all that no earlier route took.
    pub when: Option<When>,
    /// The idempotent-receiver key. Default: `@message_id`, else the header `X-CORRELATE-ID`, else (Kafka) `@coordinates`.
    pub dedup_key: Option<Expression>,
    /// In what the key is unique; it may not begin with `!`. Default: the route's name.
    pub dedup_scope: Option<String>,
    /// The same key with another payload: a dead row of its own, or only counted.
    #[serde(default)]
    pub on_conflict: OnConflict,
    /// A duplicate of a dead row makes that row due again.
    #[serde(default)]
    pub redrive_dead_on_duplicate: bool,
    /// Messages with the same value go one after the other, in the broker's order.
    pub order_by: Option<Expression>,
    /// Routes of one order scope keep one order. Default: the source's name.
    pub order_scope: Option<String>,
    /// Whether a dead message blocks the later ones of its key.
    #[serde(default)]
    pub on_dead: OnDead,
    /// How often, and how far apart, a message is tried that the engine answered no to.
    #[serde(default)]
    pub attempts: AttemptsConfig,
    /// Correlate to a waiting execution.
    pub correlate: Option<CorrelateConfig>,
    /// Start an instance.
    pub start: Option<StartConfig>,
    /// Parameters for the statements of a `sql` engine.
    pub apply: Option<ApplyConfig>,
}

/// One condition, or a list of which all must hold.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(untagged)]
pub enum When {
    One(Condition),
    All(Vec<Condition>),
}

impl When {
    pub fn conditions(self) -> Vec<Condition> {
        match self {
            Self::One(condition) => vec![condition],
            Self::All(conditions) => conditions,
        }
    }
}

/// A header or a value, compared as text.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// The header of this name.
    pub header: Option<String>,
    /// Any expression.
    pub value: Option<Expression>,
    pub equals: Option<Scalar>,
    pub one_of: Option<Vec<Scalar>>,
    /// There is a value, or there is none.
    pub exists: Option<bool>,
}

impl Condition {
    /// What is wrong with it, for the configuration's cross-check.
    pub fn mistake(&self) -> Option<&'static str> {
        let compares = self.equals.is_some() || self.one_of.is_some() || self.exists.is_some();
        match (&self.header, &self.value) {
            (None, None) => Some("expected `header` or `value`"),
            (Some(_), Some(_)) => Some("expected `header` or `value`, not both"),
            _ if !compares => Some("expected `equals`, `one_of` or `exists`"),
            _ => None,
        }
    }
}

/// What a condition compares with.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(untagged)]
pub enum Scalar {
    Text(String),
    Number(serde_json::Number),
    Boolean(bool),
}

impl Scalar {
    pub fn as_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Boolean(value) => value.to_string(),
        }
    }
}

/// The same key with another payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    #[default]
    Dead,
    Ignore,
}

/// What a dead message means for the later ones of its order key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDead {
    #[default]
    Block,
    Continue,
}

/// `[routes.NAME.correlate]`: the engine's own correlation criteria.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CorrelateConfig {
    pub message_name: Expression,
    pub business_key: Option<Expression>,
    /// Compared with the instance's variables, by type and value.
    #[serde(default)]
    pub correlation_keys: BTreeMap<String, VariableConfig>,
    pub process_instance_id: Option<Expression>,
    pub tenant_id: Option<Expression>,
    /// Only executions of no tenant.
    #[serde(default)]
    pub without_tenant: bool,
    /// Process variables.
    #[serde(default)]
    pub variables: BTreeMap<String, VariableConfig>,
    /// When nobody waits for it.
    #[serde(default)]
    pub on_no_match: OnNoMatch,
    /// How long it waits for somebody. Default: for ever.
    pub ttl: Option<Span>,
    #[serde(default)]
    pub on_expiry: OnExpiry,
    /// Where an instance has several subscriptions of the name, all of them get the message.
    #[serde(default)]
    pub broadcast: bool,
}

impl CorrelateConfig {
    /// `on_no_match = "dead"` and `"ignore"` are a short ttl: they look twice.
    pub(super) fn patience(&self) -> Patience {
        let then = match self.on_expiry {
            OnExpiry::Dead => Then::Dead(DeadReason::Expired),
            OnExpiry::Ignore => Then::Ignore,
        };
        match self.on_no_match {
            OnNoMatch::Wait | OnNoMatch::Start => Patience {
                ttl: self.ttl,
                then,
            },
            OnNoMatch::Dead => Patience {
                ttl: Some(SECOND_LOOK),
                then: Then::Dead(DeadReason::NoMatch),
            },
            OnNoMatch::Ignore => Patience {
                ttl: Some(SECOND_LOOK),
                then: Then::Ignore,
            },
        }
    }
}

/// When nobody waits. `dead` and `ignore` look twice, some seconds apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnNoMatch {
    #[default]
    Wait,
    /// Start by the message start event of that name, as the engine's own correlation does.
    Start,
    Dead,
    Ignore,
}

/// When the ttl is used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnExpiry {
    #[default]
    Dead,
    Ignore,
}

/// `[routes.NAME.start]`: exactly one of `message_name` and `process_definition_key`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartConfig {
    /// The message start event of this name, in the latest version.
    pub message_name: Option<Expression>,
    /// The none start event of the latest version of this definition.
    pub process_definition_key: Option<Expression>,
    pub business_key: Option<Expression>,
    pub tenant_id: Option<Expression>,
    /// Only definitions of no tenant.
    #[serde(default)]
    pub without_tenant: bool,
    /// Process variables.
    #[serde(default)]
    pub variables: BTreeMap<String, VariableConfig>,
}

/// `[routes.NAME.apply]`: what the statements of a `sql` engine get as named parameters.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyConfig {
    pub business_key: Option<Expression>,
    /// By the parameter's name, without the colon.
    #[serde(default)]
    pub variables: BTreeMap<String, VariableConfig>,
}

/// A value whose type follows JSON, or is named.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(untagged)]
pub enum VariableConfig {
    Typed(TypedVariable),
    Plain(Expression),
}

impl VariableConfig {
    pub(super) fn literal(value: impl Into<serde_json::Value>) -> Self {
        Self::Plain(Expression::Literal(value.into()))
    }
}

/// `{ from = "$.paidAt", type = "date" }`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TypedVariable {
    pub from: Expression,
    pub r#type: Option<ValueType>,
    /// Left out when there is no value (NULL for a statement); otherwise a missing value makes the message dead.
    #[serde(default)]
    pub optional: bool,
}
