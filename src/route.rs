//! Routes: which delivery, mapped how, to which engine. Pure.
//!
//! The first route of a source whose `when` holds takes a delivery. Its mapping makes a [`Message`] of it,
//! or says why it cannot; `on_unrouted` of the source says what becomes of what no route takes.
//! Knows no broker, no database and no engine beyond their names.

mod config;
mod decode;
mod either;
mod routes;

pub use config::{
    ApplyConfig, Condition, CorrelateConfig, OnConflict, OnDead, OnExpiry, OnNoMatch, RouteConfig,
    Scalar, StartConfig, TypedVariable, VariableConfig, When,
};
pub use routes::{Routes, Taken};

use crate::backoff::AttemptsConfig;
use crate::mapping::{Expression, Property, Subject};
use crate::message::{DeadReason, Undecodable};
use crate::units::Span;

/// How long the second look of `on_no_match = "dead"` and `"ignore"` comes after the first.
///
/// The first may have been early: the engine's own transaction may not have committed yet.
pub const SECOND_LOOK: Span = Span::secs(5);

/// A route, ready to map.
#[derive(Debug)]
pub struct Route {
    pub name: String,
    pub source: String,
    pub engine: String,
    pub dedup_scope: String,
    pub order: Option<Order>,
    pub attempts: AttemptsConfig,
    pub on_conflict: OnConflict,
    /// A duplicate of a dead row makes it due again.
    pub redrive_dead_on_duplicate: bool,
    /// What the route wants when nobody waits: how long, and what then.
    pub patience: Patience,
    /// `on_no_match = "start"`.
    pub start_if_nobody: bool,
    pub broadcast: bool,
    when: Vec<Condition>,
    dedup_key: Option<Expression>,
    shape: Shape,
}

/// Messages of one key go one after the other.
#[derive(Debug)]
pub struct Order {
    pub by: Expression,
    pub scope: String,
    /// A dead row blocks its key until an operator decides.
    pub dead_blocks: bool,
}

/// How long a message waits for somebody, and what becomes of it then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// `None`: for ever.
    pub ttl: Option<Span>,
    pub then: Then,
}

/// What becomes of a message that nobody waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Dead(DeadReason),
    Ignore,
}

#[derive(Debug)]
enum Shape {
    /// Only `source` and `engine` are given.
    Convention,
    Correlate(CorrelateConfig),
    Start(StartConfig),
    Apply(ApplyConfig),
}

impl Route {
    pub fn new(name: &str, config: RouteConfig) -> Self {
        let patience = config.correlate.as_ref().map_or(
            Patience {
                ttl: None,
                then: Then::Dead(DeadReason::Expired),
            },
            CorrelateConfig::patience,
        );
        let correlate = config.correlate.as_ref();
        Self {
            start_if_nobody: correlate.is_some_and(|c| c.on_no_match == OnNoMatch::Start),
            broadcast: correlate.is_some_and(|c| c.broadcast),
            patience,
            dedup_scope: config.dedup_scope.unwrap_or_else(|| name.to_owned()),
            order: config.order_by.map(|by| Order {
                by,
                scope: config.order_scope.unwrap_or_else(|| config.source.clone()),
                dead_blocks: config.on_dead == OnDead::Block,
            }),
            name: name.to_owned(),
            source: config.source,
            engine: config.engine,
            attempts: config.attempts,
            on_conflict: config.on_conflict,
            redrive_dead_on_duplicate: config.redrive_dead_on_duplicate,
            when: config.when.map(When::conditions).unwrap_or_default(),
            dedup_key: config.dedup_key,
            shape: match (config.correlate, config.start, config.apply) {
                (Some(correlate), _, _) => Shape::Correlate(correlate),
                (None, Some(start), _) => Shape::Start(start),
                (None, None, Some(apply)) => Shape::Apply(apply),
                (None, None, None) => Shape::Convention,
            },
        }
    }

    /// Whether the route takes the delivery.
    ///
    /// # Errors
    /// A condition reads the payload, and it is not JSON.
    pub fn takes(&self, subject: &Subject<'_>) -> Result<bool, Undecodable> {
        for condition in &self.when {
            if !condition.holds(subject)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What the route does with a message.
    pub fn outline(&self) -> Outline {
        match &self.shape {
            Shape::Convention => Outline::Convention,
            Shape::Correlate(config) => Outline::Correlate {
                payload: !config.variables.is_empty(),
                keys: !config.correlation_keys.is_empty(),
            },
            Shape::Start(config) => match &config.process_definition_key {
                Some(key) => Outline::StartByKey {
                    literal: literal(key).map(str::to_owned),
                },
                None => Outline::StartByMessage,
            },
            Shape::Apply(_) => Outline::Apply,
        }
    }

    /// The message name that is written in the configuration, not taken from the delivery.
    pub fn literal_message_name(&self) -> Option<&str> {
        let expression = match &self.shape {
            Shape::Correlate(config) => Some(&config.message_name),
            Shape::Start(config) => config.message_name.as_ref(),
            Shape::Apply(_) | Shape::Convention => None,
        };
        expression.and_then(literal)
    }
}

/// What a route does with a message, as far as its configuration tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outline {
    /// Correlates by the convention; each field of the payload is a variable.
    Convention,
    Correlate {
        payload: bool,
        /// By correlation keys.
        keys: bool,
    },
    StartByMessage,
    StartByKey {
        /// `None`: it comes with the delivery.
        literal: Option<String>,
    },
    Apply,
}

fn literal(expression: &Expression) -> Option<&str> {
    match expression {
        Expression::Literal(serde_json::Value::String(text)) => Some(text),
        Expression::Literal(_) | Expression::Property(_) | Expression::Path(_) => None,
    }
}

impl Condition {
    fn holds(&self, subject: &Subject<'_>) -> Result<bool, Undecodable> {
        let text = match (&self.header, &self.value) {
            (Some(name), _) => Expression::Property(Property::Header(name.clone())).text(subject),
            (None, Some(expression)) => expression.text(subject),
            (None, None) => Ok(None),
        };
        // An object where a string is expected does not match; a payload that is not JSON cannot be told.
        let text = match text {
            Err(undecodable)
                if matches!(
                    undecodable.reason,
                    DeadReason::NotJson | DeadReason::Encoding
                ) =>
            {
                return Err(undecodable);
            }
            Err(_) => None,
            Ok(text) => text,
        };
        let equals = self
            .equals
            .as_ref()
            .is_none_or(|wanted| text.as_deref() == Some(wanted.as_text().as_str()));
        let one_of = self.one_of.as_ref().is_none_or(|wanted| {
            wanted
                .iter()
                .any(|wanted| text.as_deref() == Some(wanted.as_text().as_str()))
        });
        let exists = self.exists.is_none_or(|wanted| wanted == text.is_some());
        Ok(equals && one_of && exists)
    }
}

#[cfg(test)]
mod tests;
