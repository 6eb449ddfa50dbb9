//! How an expression is written: read from a text or a scalar of the configuration, and shown again.

use std::borrow::Cow;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use serde_json_path::JsonPath;

use super::{Expression, Property};

impl FromStr for Expression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(literal) = text.strip_prefix("$$") {
            return Ok(Self::Literal(format!("${literal}").into()));
        }
        if let Some(literal) = text.strip_prefix("@@") {
            return Ok(Self::Literal(format!("@{literal}").into()));
        }
        // No path begins so: the file said `$${`, which keeps the substitution of variables away.
        if text.starts_with("${") {
            return Ok(Self::Literal(text.into()));
        }
        if text.starts_with('$') {
            if ends_within_an_escape(text) {
                return Err(format!(
                    "{text:?} is no JSONPath (RFC 9535): it ends within `\\u…`"
                ));
            }
            return JsonPath::parse(text).map(Self::Path).map_err(|cause| {
                format!(
                    "{text:?} is no JSONPath (RFC 9535): {} at character {}",
                    cause.message(),
                    cause.position()
                )
            });
        }
        if let Some(property) = text.strip_prefix('@') {
            return property.parse().map(Self::Property);
        }
        Ok(Self::Literal(text.into()))
    }
}

/// Whether the text ends within `\u…`, which no path does: `serde_json_path` 0.7.2 panics there.
fn ends_within_an_escape(text: &str) -> bool {
    let without_digits = text.trim_end_matches(|c: char| c.is_ascii_hexdigit());
    without_digits.ends_with("\\u")
}

impl FromStr for Property {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "key" => Self::Key,
            "message_id" => Self::MessageId,
            "correlation_id" => Self::CorrelationId,
            "topic" => Self::Topic,
            "partition" => Self::Partition,
            "offset" => Self::Offset,
            "timestamp" => Self::Timestamp,
            "routing_key" => Self::RoutingKey,
            "coordinates" => Self::Coordinates,
            _ => match text.strip_prefix("header.") {
                Some(name) if !name.is_empty() => Self::Header(name.to_owned()),
                _ => {
                    return Err(format!(
                        "\"@{text}\" is no property of a delivery, expected @header.NAME, @key, \
                         @message_id, @correlation_id, @topic, @partition, @offset, @timestamp, \
                         @routing_key or @coordinates (write \"@@{text}\" for a literal)"
                    ));
                }
            },
        })
    }
}

impl std::fmt::Display for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => path.fmt(f),
            Self::Property(Property::Header(name)) => write!(f, "@header.{name}"),
            Self::Property(property) => f.write_str(match property {
                Property::Key => "@key",
                Property::MessageId => "@message_id",
                Property::CorrelationId => "@correlation_id",
                Property::Topic => "@topic",
                Property::Partition => "@partition",
                Property::Offset => "@offset",
                Property::Timestamp => "@timestamp",
                Property::RoutingKey => "@routing_key",
                Property::Coordinates => "@coordinates",
                Property::Header(_) => "@header",
            }),
            Self::Literal(value) => write!(f, "the literal {value}"),
        }
    }
}

impl<'de> Deserialize<'de> for Expression {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ExpressionVisitor)
    }
}

/// A text is understood; a number or a boolean is a literal.
struct ExpressionVisitor;

impl serde::de::Visitor<'_> for ExpressionVisitor {
    type Value = Expression;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an expression such as \"$.orderId\"")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Expression, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Expression, E> {
        Ok(Expression::Literal(value.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Expression, E> {
        Ok(Expression::Literal(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Expression, E> {
        Ok(Expression::Literal(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Expression, E> {
        Ok(Expression::Literal(number.into()))
    }
}

impl JsonSchema for Expression {
    fn schema_name() -> Cow<'static, str> {
        "Expression".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "number", "boolean"],
            "description": "\"$.a.b\" is JSONPath into the payload; \"@key\", \"@message_id\", \"@header.NAME\" … is a property of the delivery; anything else is a literal (\"$$\" and \"@@\" escape)",
            "examples": ["$.orderId", "@message_id", "@header.type"]
        })
    }
}
