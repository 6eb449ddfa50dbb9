//! Which type a value gets: the one that is named, or the one that its JSON type suggests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::DateTime;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Parsed;
use crate::message::Value;

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
pub(super) fn inferred(parsed: Parsed<'_, '_>) -> Result<Value, String> {
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

/// The value as the wanted type; an error says what it is instead.
pub(super) fn typed(parsed: Parsed<'_, '_>, wanted: ValueType) -> Result<Value, String> {
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

pub(super) fn kind(json: &serde_json::Value) -> &'static str {
    match json {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a boolean",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a string",
        serde_json::Value::Array(_) => "an array",
        serde_json::Value::Object(_) => "an object",
    }
}
