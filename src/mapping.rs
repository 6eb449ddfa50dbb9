//! Expressions: how a value is taken from a delivery, and which type it gets. Pure.
//!
//! `$.a.b` is `JSONPath` (RFC 9535) that must find one value; `@name` is a property of the delivery;
//! anything else is a literal (`$$…` and `@@…` write a literal that begins with `$` or `@`).
//! Invariant: a number is never rounded on its way into a key: where a 64-bit value cannot hold it,
//! its own digits are taken from the payload.

mod notation;
mod value;

pub use value::ValueType;

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;

use serde_json::value::RawValue;
use serde_json_path::{JsonPath, NormalizedPath, PathElement};

use value::{inferred, kind, typed};

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

#[cfg(test)]
mod tests;
