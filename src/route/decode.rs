//! How a route makes a message of a delivery.

use std::collections::BTreeMap;

use super::{Route, Shape, StartConfig, VariableConfig};
use crate::mapping::{Expression, Property, Subject, ValueType};
use crate::message::{
    Action, Apply, Correlation, DeadReason, DedupKey, Message, Start, StartBy, Tenant, Undecodable,
    Value, Variable,
};

/// The property and header of the convention; the latter is what older correlation libraries send.
const CONVENTIONAL_KEY: [Property; 1] = [Property::MessageId];
const CONVENTIONAL_HEADER: &str = "X-CORRELATE-ID";

impl Route {
    /// Makes the message.
    ///
    /// # Errors
    /// What is missing or has the wrong type, and where; never a value of the payload.
    pub fn decode(&self, subject: &Subject<'_>) -> Result<Message, Undecodable> {
        let dedup_key = DedupKey::new(self.dedup_key(subject)?);
        let (action, variables) = match &self.shape {
            Shape::Convention => conventional(subject)?,
            Shape::Correlate(config) => (
                Action::Correlate(Correlation {
                    message_name: required(&config.message_name, "message_name", subject)?,
                    business_key: optional(config.business_key.as_ref(), "business_key", subject)?,
                    correlation_keys: variables(&config.correlation_keys, subject)?,
                    process_instance_id: optional(
                        config.process_instance_id.as_ref(),
                        "process_instance_id",
                        subject,
                    )?,
                    tenant: tenant(config.tenant_id.as_ref(), config.without_tenant, subject)?,
                }),
                variables(&config.variables, subject)?,
            ),
            Shape::Start(config) => (
                Action::Start(Start {
                    by: start_by(config, subject)?,
                    business_key: optional(config.business_key.as_ref(), "business_key", subject)?,
                    tenant: tenant(config.tenant_id.as_ref(), config.without_tenant, subject)?,
                }),
                variables(&config.variables, subject)?,
            ),
            Shape::Apply(config) => (
                Action::Apply(Apply {
                    business_key: optional(config.business_key.as_ref(), "business_key", subject)?,
                }),
                parameters(&config.variables, subject)?,
            ),
        };
        let order_key = match &self.order {
            None => None,
            Some(order) => Some(required(&order.by, "order_by", subject)?),
        };
        Ok(Message {
            dedup_key,
            action,
            variables,
            order_key,
        })
    }

    /// The order key of a delivery that makes no message, where it can be told: it keeps its place.
    pub(super) fn order_key(&self, subject: &Subject<'_>) -> Option<String> {
        let order = self.order.as_ref()?;
        order.by.text(subject).ok().flatten()
    }

    fn dedup_key(&self, subject: &Subject<'_>) -> Result<String, Undecodable> {
        let key = if let Some(expression) = &self.dedup_key {
            expression.text(subject)?
        } else {
            let mut key = None;
            for property in CONVENTIONAL_KEY.into_iter().chain([
                Property::Header(CONVENTIONAL_HEADER.to_owned()),
                // None on RabbitMQ, whose coordinates mean nothing.
                Property::Coordinates,
            ]) {
                key = key.or(Expression::Property(property).text(subject)?);
            }
            key
        };
        key.ok_or_else(|| Undecodable {
            reason: DeadReason::NoKey,
            detail: match &self.dedup_key {
                Some(expression) => format!("dedup_key: {expression} has no value"),
                None => format!(
                    "dedup_key: the delivery has neither @message_id nor a header {CONVENTIONAL_HEADER}"
                ),
            },
        })
    }
}

/// `source` and `engine` alone: the topic or routing key is the message's name, the record's key or
/// `correlation_id` the business key, each field of the payload a variable.
fn conventional(subject: &Subject<'_>) -> Result<(Action, Vec<Variable>), Undecodable> {
    let first = |properties: [Property; 2]| {
        let mut found = None;
        for property in properties {
            found = found.or(Expression::Property(property).text(subject)?);
        }
        Ok::<_, Undecodable>(found)
    };
    let message_name = first([Property::Topic, Property::RoutingKey])?.ok_or_else(|| {
        missing("message_name: the delivery has neither a topic nor a routing key")
    })?;
    let business_key = first([Property::Key, Property::CorrelationId])?;
    let serde_json::Value::Object(fields) = subject.json()? else {
        return Err(missing(
            "the payload is no JSON object, so its fields cannot be variables",
        ));
    };
    let variables = fields
        .keys()
        .map(|name| {
            let path = serde_json::Value::from(name.as_str());
            let expression: Expression = format!("$[{path}]")
                .parse()
                .map_err(|_| missing(&format!("the field {name:?} cannot be written as a path")))?;
            let value = expression.value(subject, None)?;
            Ok(value.map(|value| Variable {
                name: name.clone(),
                value,
            }))
        })
        .filter_map(Result::transpose)
        .collect::<Result<_, Undecodable>>()?;
    let correlation = Correlation {
        message_name,
        business_key,
        correlation_keys: Vec::new(),
        process_instance_id: None,
        tenant: Tenant::Any,
    };
    Ok((Action::Correlate(correlation), variables))
}

fn start_by(config: &StartConfig, subject: &Subject<'_>) -> Result<StartBy, Undecodable> {
    match (&config.process_definition_key, &config.message_name) {
        (Some(key), _) => {
            required(key, "process_definition_key", subject).map(StartBy::DefinitionKey)
        }
        (None, Some(name)) => required(name, "message_name", subject).map(StartBy::Message),
        (None, None) => Err(missing(
            "start: neither process_definition_key nor message_name is configured",
        )),
    }
}

fn tenant(
    tenant_id: Option<&Expression>,
    without_tenant: bool,
    subject: &Subject<'_>,
) -> Result<Tenant, Undecodable> {
    Ok(match tenant_id {
        Some(expression) => Tenant::Is(required(expression, "tenant_id", subject)?),
        None if without_tenant => Tenant::Without,
        None => Tenant::Any,
    })
}

fn variables(
    configured: &BTreeMap<String, VariableConfig>,
    subject: &Subject<'_>,
) -> Result<Vec<Variable>, Undecodable> {
    let mut variables = Vec::with_capacity(configured.len());
    for (name, config) in configured {
        let (from, wanted, optional) = config.parts();
        match named(from.value(subject, wanted), name)? {
            Some(value) => variables.push(Variable {
                name: name.clone(),
                value,
            }),
            None if optional => {}
            None => return Err(missing(&format!("{name}: {from} has no value"))),
        }
    }
    Ok(variables)
}

/// A statement needs a value for each of its parameters: what is optional and not there is null.
fn parameters(
    configured: &BTreeMap<String, VariableConfig>,
    subject: &Subject<'_>,
) -> Result<Vec<Variable>, Undecodable> {
    let mut found = variables(configured, subject)?;
    let absent: Vec<_> = configured
        .keys()
        .filter(|name| found.iter().all(|variable| variable.name != **name))
        .cloned()
        .collect();
    found.extend(absent.into_iter().map(|name| Variable {
        name,
        value: Value::Null,
    }));
    Ok(found)
}

fn required(
    expression: &Expression,
    what: &str,
    subject: &Subject<'_>,
) -> Result<String, Undecodable> {
    named(expression.text(subject), what)?
        .ok_or_else(|| missing(&format!("{what}: {expression} has no value")))
}

fn optional(
    expression: Option<&Expression>,
    what: &str,
    subject: &Subject<'_>,
) -> Result<Option<String>, Undecodable> {
    expression
        .map(|expression| required(expression, what, subject))
        .transpose()
}

fn named<T>(found: Result<T, Undecodable>, what: &str) -> Result<T, Undecodable> {
    found.map_err(|undecodable| Undecodable {
        detail: format!("{what}: {}", undecodable.detail),
        ..undecodable
    })
}

fn missing(detail: &str) -> Undecodable {
    Undecodable {
        reason: DeadReason::Mapping,
        detail: detail.to_owned(),
    }
}

impl VariableConfig {
    fn parts(&self) -> (&Expression, Option<ValueType>, bool) {
        match self {
            Self::Plain(from) => (from, None, false),
            Self::Typed(typed) => (&typed.from, typed.r#type, typed.optional),
        }
    }
}
