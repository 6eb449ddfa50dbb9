//! Expressions: how a value is taken from a delivery, and which type it gets. Pure.
//!
//! `$.a.b` is `JSONPath` (RFC 9535) that must find one value; `@name` is a property of the delivery;
//! anything else is a literal (`$$…` and `@@…` write a literal that begins with `$` or `@`).
//! Invariant: a number is never rounded on its way into a key: where a 64-bit value cannot hold it,
//! its own digits are taken from the payload.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::DateTime;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json_path::{JsonPath, NormalizedPath, PathElement};

use crate::message::{Content, DeadReason, Envelope, Text, Undecodable, Value};

/// A delivery while it is being mapped; its payload is unpacked and parsed once, when an expression first
/// reads it.
pub struct Subject<'a> {
    pub payload: &'a [u8],
    pub envelope: &'a Envelope,
    /// What a compressed payload may become, in bytes.
    limit: usize,
    content: OnceCell<Result<Content<'a>, Undecodable>>,
    json: OnceCell<Result<serde_json::Value, Undecodable>>,
}

impl<'a> Subject<'a> {
    pub fn new(payload: &'a [u8], envelope: &'a Envelope) -> Self {
        Self {
            payload,
            envelope,
            limit: usize::MAX,
            content: OnceCell::new(),
            json: OnceCell::new(),
        }
    }

    /// With a bound for what a compressed payload may become, in bytes.
    #[must_use]
    pub fn bounded(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// The payload without its content encoding.
    ///
    /// # Errors
    /// [`DeadReason::Encoding`].
    pub fn content(&self) -> Result<&Content<'a>, Undecodable> {
        let content = self
            .content
            .get_or_init(|| Content::of(self.payload, self.envelope, self.limit));
        content.as_ref().map_err(Clone::clone)
    }

    /// The payload as JSON.
    ///
    /// # Errors
    /// [`DeadReason::NotJson`], with the line and column where it stops being JSON; or as
    /// [`Subject::content`].
    pub fn json(&self) -> Result<&serde_json::Value, Undecodable> {
        let parsed = self.json.get_or_init(|| {
            let content = self.content()?;
            serde_json::from_slice(content.json()).map_err(|cause| Undecodable {
                reason: DeadReason::NotJson,
                detail: match (content.json().len(), content.schema()) {
                    (0, _) => "the payload is empty, expected JSON".to_owned(),
                    (_, None) => format!(
                        "the payload is not JSON at line {} column {}",
                        cause.line(),
                        cause.column()
                    ),
                    (_, Some(schema)) => format!(
                        "the payload is not JSON behind five bytes that look like Confluent's framing \
                         (schema {schema}; Avro and Protobuf have it, too)"
                    ),
                },
            })
        });
        parsed.as_ref().map_err(Clone::clone)
    }

    /// The payload's own text of the value at this place.
    ///
    /// Walks the raw text, so that nothing of it is rounded or reordered.
    fn raw_at(&self, path: &NormalizedPath<'_>) -> Option<&RawValue> {
        let mut raw: &RawValue = serde_json::from_slice(self.content().ok()?.json()).ok()?;
        for element in path.iter() {
            raw = match element {
                PathElement::Name(name) => {
                    let object: HashMap<Cow<'_, str>, &RawValue> =
                        serde_json::from_str(raw.get()).ok()?;
                    object.get(*name).copied()?
                }
                PathElement::Index(index) => {
                    let array: Vec<&RawValue> = serde_json::from_str(raw.get()).ok()?;
                    array.get(*index).copied()?
                }
            };
        }
        Some(raw)
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Expression {
    Path(JsonPath),
    Property(Property),
    Literal(serde_json::Value),
}

/// A property of the delivery, written `@name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Property {
    Header(String),
    Key,
    MessageId,
    CorrelationId,
    Topic,
    Partition,
    Offset,
    Timestamp,
    RoutingKey,
    Coordinates,
}

/// What an expression found.
enum Found<'a, 's> {
    Json(Parsed<'a, 's>),
    Text(Cow<'a, Text>),
    Number(i64),
}

/// A JSON value, and where its own text stands: looked up only where it can say more than the parsed value, because
/// it costs another reading of the payload.
#[derive(Clone, Copy)]
struct Parsed<'a, 's> {
    json: &'a serde_json::Value,
    place: Option<(&'a Subject<'s>, &'a JsonPath)>,
}

impl<'a> Parsed<'a, '_> {
    /// Of a number that 64 bits may not hold, and of what becomes JSON again.
    fn own_text(self) -> Option<&'a RawValue> {
        match self.json {
            serde_json::Value::Number(number) if number.is_i64() => None,
            serde_json::Value::Number(_)
            | serde_json::Value::Array(_)
            | serde_json::Value::Object(_) => {
                let (subject, path) = self.place?;
                let located = path.query_located(subject.json().ok()?);
                let node = located.iter().next()?;
                subject.raw_at(node.location())
            }
            _ => None,
        }
    }
}

impl<'a> From<&'a serde_json::Value> for Parsed<'a, '_> {
    /// Of no place in a payload.
    fn from(json: &'a serde_json::Value) -> Self {
        Self { json, place: None }
    }
}

impl Expression {
    /// The value as text, for a key or a name: a string as it is, a number or boolean by its digits.
    ///
    /// `Ok(None)`: there is no value, or it is null or empty.
    ///
    /// # Errors
    /// Not JSON; several values; an object or an array; bytes that are not UTF-8.
    pub fn text(&self, subject: &Subject<'_>) -> Result<Option<String>, Undecodable> {
        let Some(found) = self.find(subject)? else {
            return Ok(None);
        };
        let text = match found {
            Found::Number(number) => Some(number.to_string()),
            Found::Text(text) => Some(utf8(&text, self)?.to_owned()),
            Found::Json(parsed) => match parsed.json {
                serde_json::Value::Null => None,
                serde_json::Value::String(text) => Some(text.clone()),
                serde_json::Value::Bool(value) => Some(value.to_string()),
                serde_json::Value::Number(number) => {
                    let own = parsed.own_text();
                    Some(own.map_or_else(|| number.to_string(), |own| own.get().trim().to_owned()))
                }
                serde_json::Value::Array(_) | serde_json::Value::Object(_) => {
                    return Err(mapping(format!(
                        "{self} is {}, expected a string or a number",
                        kind(parsed.json)
                    )));
                }
            },
        };
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// The value with a type: the wanted one, or the one that its JSON type suggests.
    ///
    /// `Ok(None)`: there is no value.
    ///
    /// # Errors
    /// As [`Expression::text`], or the value has another type than the wanted one.
    pub fn value(
        &self,
        subject: &Subject<'_>,
        wanted: Option<ValueType>,
    ) -> Result<Option<Value>, Undecodable> {
        let Some(found) = self.find(subject)? else {
            return Ok(None);
        };
        let wrong = |what: &str| {
            let wanted = wanted.map_or("a process variable", ValueType::as_str);
            mapping(format!("{self} is {what}, expected {wanted}"))
        };
        match found {
            Found::Number(number) => match wanted {
                None | Some(ValueType::Long) => Ok(Some(Value::Long(number))),
                Some(wanted) => typed((&serde_json::Value::from(number)).into(), wanted)
                    .map(Some)
                    .map_err(|what| wrong(&what)),
            },
            Found::Text(text) => {
                if wanted == Some(ValueType::Bytes) {
                    return Ok(Some(Value::Bytes(text.as_bytes().to_vec())));
                }
                let json = serde_json::Value::from(utf8(&text, self)?);
                typed((&json).into(), wanted.unwrap_or(ValueType::String))
                    .map(Some)
                    .map_err(|what| wrong(&what))
            }
            Found::Json(parsed) => match wanted {
                Some(wanted) => typed(parsed, wanted),
                None => inferred(parsed),
            }
            .map(Some)
            .map_err(|what| wrong(&what)),
        }
    }

    fn find<'f, 's>(
        &'f self,
        subject: &'f Subject<'s>,
    ) -> Result<Option<Found<'f, 's>>, Undecodable> {
        match self {
            Self::Literal(value) => Ok(Some(Found::Json(value.into()))),
            Self::Property(property) => Ok(property.find(subject.envelope)),
            Self::Path(path) => {
                let payload = subject.json()?;
                let nodes = path.query(payload);
                let mut nodes = nodes.all().into_iter();
                let Some(json) = nodes.next() else {
                    return Ok(None);
                };
                if nodes.next().is_some() {
                    return Err(mapping(format!(
                        "{self} finds several values, expected one"
                    )));
                }
                let place = Some((subject, path));
                Ok(Some(Found::Json(Parsed { json, place })))
            }
        }
    }
}

impl Property {
    fn find<'a>(&self, envelope: &'a Envelope) -> Option<Found<'a, 'a>> {
        let text = |text: &'a Option<String>| {
            text.as_ref()
                .map(|text| Found::Text(Cow::Owned(Text::new(text.clone()))))
        };
        match self {
            Self::Header(name) => envelope
                .header(name)
                .map(|text| Found::Text(Cow::Borrowed(text))),
            Self::Key => envelope
                .key
                .as_ref()
                .map(|text| Found::Text(Cow::Borrowed(text))),
            Self::MessageId => text(&envelope.message_id),
            Self::CorrelationId => text(&envelope.correlation_id),
            Self::Topic => text(&envelope.topic),
            Self::RoutingKey => text(&envelope.routing_key),
            Self::Partition => envelope.partition.map(|n| Found::Number(i64::from(n))),
            Self::Offset => envelope.offset.map(Found::Number),
            Self::Timestamp => envelope.timestamp.map(Found::Number),
            Self::Coordinates => envelope
                .coordinates()
                .map(|text| Found::Text(Cow::Owned(Text::new(text)))),
        }
    }
}

/// The engine's own name of a type, as in `{ from = "$.paidAt", type = "date" }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValueType {
    Boolean,
    Short,
    Integer,
    Long,
    Double,
    String,
    /// RFC 3339, or milliseconds since 1970.
    Date,
    /// Base64 in JSON; the bytes themselves from a header or a key.
    Bytes,
    Json,
}

impl ValueType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Short => "short",
            Self::Integer => "integer",
            Self::Long => "long",
            Self::Double => "double",
            Self::String => "string",
            Self::Date => "date",
            Self::Bytes => "bytes",
            Self::Json => "json",
        }
    }
}

/// The type that the JSON type suggests.
fn inferred(parsed: Parsed<'_, '_>) -> Result<Value, String> {
    match parsed.json {
        serde_json::Value::Null => Ok(Value::Null),
        serde_json::Value::Bool(_) => typed(parsed, ValueType::Boolean),
        serde_json::Value::String(_) => typed(parsed, ValueType::String),
        serde_json::Value::Array(_) | serde_json::Value::Object(_) => {
            typed(parsed, ValueType::Json)
        }
        serde_json::Value::Number(number) => {
            if let Some(long) = number.as_i64() {
                return Ok(i32::try_from(long).map_or(Value::Long(long), Value::Integer));
            }
            // Without a fraction it may be a whole number that only became a double because it is so long.
            let is_fraction = number.as_f64().is_some_and(|double| double.fract() != 0.0);
            let is_whole = !is_fraction
                && match parsed.own_text() {
                    Some(own) => !own.get().contains(['.', 'e', 'E']),
                    None => !number.is_f64(),
                };
            if is_whole {
                return Err(
                    "a whole number beyond 64 bits (map it as string, double or json)".to_owned(),
                );
            }
            typed(parsed, ValueType::Double)
        }
    }
}

fn typed(parsed: Parsed<'_, '_>, wanted: ValueType) -> Result<Value, String> {
    use serde_json::Value as Json;
    let json = parsed.json;
    let wrong = || kind(json).to_owned();
    let long = || match json {
        Json::Number(number) => number
            .as_i64()
            .ok_or_else(|| "a number that 64 bits cannot hold exactly".to_owned()),
        Json::String(text) => text.trim().parse().map_err(|_| wrong()),
        _ => Err(wrong()),
    };
    match (wanted, json) {
        (_, Json::Null) => Ok(Value::Null),
        (ValueType::Boolean, Json::Bool(value)) => Ok(Value::Boolean(*value)),
        (ValueType::Boolean, Json::String(text)) => {
            text.parse().map(Value::Boolean).map_err(|_| wrong())
        }
        (ValueType::Short, _) => i16::try_from(long()?)
            .map(Value::Short)
            .map_err(|_| "a number beyond 16 bits".to_owned()),
        (ValueType::Integer, _) => i32::try_from(long()?)
            .map(Value::Integer)
            .map_err(|_| "a number beyond 32 bits".to_owned()),
        (ValueType::Long, _) => Ok(Value::Long(long()?)),
        (ValueType::Double, Json::Number(number)) => number
            .as_f64()
            .filter(|double| double.is_finite())
            .map(Value::Double)
            .ok_or_else(wrong),
        (ValueType::Double, Json::String(text)) => text
            .trim()
            .parse()
            .ok()
            .filter(|double: &f64| double.is_finite())
            .map(Value::Double)
            .ok_or_else(wrong),
        (ValueType::String, Json::String(text)) => Ok(Value::String(text.clone())),
        (ValueType::String | ValueType::Json, _) => Ok({
            let own = parsed.own_text();
            let text = own.map_or_else(|| json.to_string(), |own| own.get().to_owned());
            match wanted {
                ValueType::Json => Value::Json(text),
                _ => Value::String(text),
            }
        }),
        (ValueType::Date, Json::Number(_)) => Ok(Value::Date(long()?)),
        (ValueType::Date, Json::String(text)) => date(text)
            .map(Value::Date)
            .ok_or_else(|| "a string that is no RFC 3339 date".to_owned()),
        (ValueType::Bytes, Json::String(text)) => BASE64
            .decode(text)
            .map(Value::Bytes)
            .map_err(|_| "a string that is not base64".to_owned()),
        (ValueType::Boolean | ValueType::Double | ValueType::Date | ValueType::Bytes, _) => {
            Err(wrong())
        }
    }
}

/// RFC 3339, and the engine's own REST form, whose zone has no colon.
fn date(text: &str) -> Option<i64> {
    DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%z"))
        .ok()
        .map(|at| at.timestamp_millis())
}

fn kind(json: &serde_json::Value) -> &'static str {
    match json {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a boolean",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a string",
        serde_json::Value::Array(_) => "an array",
        serde_json::Value::Object(_) => "an object",
    }
}

fn utf8<'a>(text: &'a Text, expression: &Expression) -> Result<&'a str, Undecodable> {
    text.as_str()
        .ok_or_else(|| mapping(format!("{expression} is not UTF-8")))
}

fn mapping(detail: String) -> Undecodable {
    Undecodable {
        reason: DeadReason::Mapping,
        detail,
    }
}

impl FromStr for Expression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(literal) = text.strip_prefix("$$") {
            return Ok(Self::Literal(format!("${literal}").into()));
        }
        if let Some(literal) = text.strip_prefix("@@") {
            return Ok(Self::Literal(format!("@{literal}").into()));
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

#[cfg(test)]
mod tests;
