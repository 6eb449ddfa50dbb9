//! Routes: which delivery, mapped how, to which engine. Pure.
//!
//! The first route of a source whose `when` holds takes a delivery. Its mapping makes a [`Message`] of it,
//! or says why it cannot; `on_unrouted` of the source says what becomes of what no route takes.
//! Knows no broker, no database and no engine beyond their names.

mod config;
mod either;

pub use config::{
    ApplyConfig, Condition, CorrelateConfig, OnConflict, OnDead, OnExpiry, OnNoMatch, RouteConfig,
    Scalar, StartConfig, TypedVariable, VariableConfig, When,
};

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backoff::AttemptsConfig;
use crate::mapping::{Expression, Property, Subject, ValueType};
use crate::message::{
    Action, Apply, Correlation, DeadReason, DedupKey, Envelope, Message, Start, StartBy, Tenant,
    Undecodable, Value, Variable,
};
use crate::source::OnUnrouted;
use crate::units::Span;

/// How long the second look of `on_no_match = "dead"` and `"ignore"` comes after the first.
///
/// The first may have been early: the engine's own transaction may not have committed yet.
pub const SECOND_LOOK: Span = Span::secs(5);

/// The property and header of the convention; the latter is what older correlation libraries send.
const CONVENTIONAL_KEY: [Property; 1] = [Property::MessageId];
const CONVENTIONAL_HEADER: &str = "X-CORRELATE-ID";

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
    fn order_key(&self, subject: &Subject<'_>) -> Option<String> {
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

    /// What the route does with a message.
    pub fn outline(&self) -> Outline {
        match &self.shape {
            Shape::Convention => Outline::Convention,
            Shape::Correlate(config) => Outline::Correlate {
                payload: !config.variables.is_empty(),
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

/// What the routes of a source make of a delivery.
#[derive(Debug)]
pub enum Taken {
    /// A route took it, and its mapping made a message of it.
    Message(Arc<Route>, Box<Message>),
    /// A route took it, and its mapping cannot use it.
    Unusable {
        route: Arc<Route>,
        order_key: Option<String>,
        undecodable: Undecodable,
    },
    /// No route can be told, or none takes it, and that is an error.
    Dead(Undecodable),
    /// No route takes it, and the source says to ignore that.
    Ignored,
}

/// All routes, by source.
#[derive(Debug)]
pub struct Routes {
    by_source: BTreeMap<String, (OnUnrouted, Vec<Arc<Route>>)>,
    /// What a compressed payload may become, in bytes.
    content_limit: usize,
}

impl Routes {
    /// `sources`: every source with its `on_unrouted`; `routes` in the order of the file.
    pub fn new(
        sources: impl IntoIterator<Item = (String, OnUnrouted)>,
        routes: impl IntoIterator<Item = Route>,
    ) -> Self {
        let mut by_source: BTreeMap<_, _> = sources
            .into_iter()
            .map(|(source, on_unrouted)| (source, (on_unrouted, Vec::new())))
            .collect();
        for route in routes {
            by_source
                .entry(route.source.clone())
                .or_default()
                .1
                .push(Arc::new(route));
        }
        Self {
            by_source,
            content_limit: usize::MAX,
        }
    }

    /// Bounds what a compressed payload may become, in bytes.
    #[must_use]
    pub fn with_content_limit(self, content_limit: usize) -> Self {
        Self {
            content_limit,
            ..self
        }
    }

    /// A delivery, to be decoded.
    pub fn subject<'a>(&self, payload: &'a [u8], envelope: &'a Envelope) -> Subject<'a> {
        Subject::new(payload, envelope).bounded(self.content_limit)
    }

    /// Which route takes the delivery, and what it makes of it.
    pub fn decode(&self, source: &str, subject: &Subject<'_>) -> Taken {
        let Some((on_unrouted, routes)) = self.by_source.get(source) else {
            return Taken::Dead(unrouted(source));
        };
        for route in routes {
            match route.takes(subject) {
                // Which route it is for cannot be told: dead, whatever `on_unrouted` says.
                Err(undecodable) => return Taken::Dead(undecodable),
                Ok(false) => {}
                Ok(true) => {
                    let route = Arc::clone(route);
                    return match route.decode(subject) {
                        Ok(message) => Taken::Message(route, Box::new(message)),
                        Err(undecodable) => Taken::Unusable {
                            order_key: route.order_key(subject),
                            route,
                            undecodable,
                        },
                    };
                }
            }
        }
        match on_unrouted {
            OnUnrouted::Ignore => Taken::Ignored,
            OnUnrouted::Dead => Taken::Dead(unrouted(source)),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.by_source.values().flat_map(|(_, routes)| routes)
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Route>> {
        self.iter().find(|route| route.name == name)
    }

    /// Whether a route of this source asks for order.
    pub fn ordered(&self, source: &str) -> bool {
        self.iter()
            .any(|route| route.source == source && route.order.is_some())
    }

    /// The order scopes in which a dead row blocks its key.
    pub fn blocking_scopes(&self) -> Vec<String> {
        let mut scopes: Vec<_> = self
            .iter()
            .filter_map(|route| route.order.as_ref())
            .filter(|order| order.dead_blocks)
            .map(|order| order.scope.clone())
            .collect();
        scopes.sort();
        scopes.dedup();
        scopes
    }
}

fn unrouted(source: &str) -> Undecodable {
    Undecodable {
        reason: DeadReason::Unrouted,
        detail: format!("no route of source {source:?} takes it"),
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

#[cfg(test)]
mod tests;
