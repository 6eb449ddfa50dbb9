//! A value as text that PostgreSQL reads as the wanted type. Pure.
//!
//! Invariant: a value becomes itself or an error. Text is read as a number where it is one, because keys
//! are always text; nothing is rounded to a whole number, and bytes are never mistaken for text.

use chrono::{DateTime, SecondsFormat};
use uuid::Uuid;

use crate::message::Value;

/// What a parameter's type asks of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Boolean,
    /// Whole numbers of so many bits.
    Whole(u32),
    Number,
    Text,
    Json,
    Bytes,
    Time,
    Uuid,
    /// Enums, addresses, arrays …: the server's own reading of text decides.
    Other,
}

impl Kind {
    /// By the type's number in `pg_type`, which is fixed for all that come with the server.
    pub(super) fn of(oid: u32) -> Self {
        match oid {
            16 => Self::Boolean,
            21 => Self::Whole(16),
            23 => Self::Whole(32),
            20 => Self::Whole(64),
            700 | 701 | 1700 => Self::Number,
            19 | 25 | 1042 | 1043 => Self::Text,
            114 | 3802 => Self::Json,
            17 => Self::Bytes,
            1082 | 1114 | 1184 => Self::Time,
            2950 => Self::Uuid,
            _ => Self::Other,
        }
    }
}

/// `None` is NULL.
///
/// # Errors
/// What was found instead, without the value.
pub(super) fn text(value: &Value, kind: Kind) -> Result<Option<String>, String> {
    if *value == Value::Null {
        return Ok(None);
    }
    let fits = match kind {
        Kind::Boolean => match value {
            Value::Boolean(value) => Some(value.to_string()),
            _ => None,
        },
        Kind::Whole(bits) => whole(value)
            .filter(|number| {
                let limit = 1_i128 << (bits - 1);
                (-limit..limit).contains(number)
            })
            .map(|number| number.to_string()),
        Kind::Number => number(value),
        Kind::Text | Kind::Other => plain(value).filter(|text| !text.contains('\0')),
        Kind::Json => json(value),
        Kind::Bytes => match value {
            Value::Bytes(bytes) => Some(hex(bytes)),
            _ => None,
        },
        Kind::Time => match value {
            Value::Date(_) | Value::String(_) => plain(value),
            _ => None,
        },
        Kind::Uuid => match value {
            Value::String(text) => Uuid::try_parse(text).ok().map(|uuid| uuid.to_string()),
            _ => None,
        },
    };
    match fits {
        Some(text) => Ok(Some(text)),
        None => Err(match (value, kind) {
            (Value::String(_), Kind::Text | Kind::Other) => "text with a NUL character".to_owned(),
            (Value::String(_), Kind::Whole(_) | Kind::Number | Kind::Uuid) => {
                "text that is none".to_owned()
            }
            (Value::Integer(_) | Value::Long(_) | Value::Short(_), Kind::Whole(_)) => {
                "a number beyond its range".to_owned()
            }
            (value, _) => format!("a value of type {}", value.type_name()),
        }),
    }
}

fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::Short(number) => Some(i128::from(*number)),
        Value::Integer(number) => Some(i128::from(*number)),
        // For who keeps times as numbers.
        Value::Long(number) | Value::Date(number) => Some(i128::from(*number)),
        Value::String(text) => text.parse().ok(),
        Value::Null | Value::Boolean(_) | Value::Double(_) | Value::Bytes(_) | Value::Json(_) => {
            None
        }
    }
}

fn number(value: &Value) -> Option<String> {
    match value {
        Value::Double(number) => Some(format!("{number:?}")),
        Value::String(text) => {
            let finite = text.parse::<f64>().is_ok_and(f64::is_finite);
            finite.then(|| text.clone())
        }
        _ => whole(value).map(|number| number.to_string()),
    }
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) | Value::Json(text) => Some(text.clone()),
        Value::Boolean(value) => Some(value.to_string()),
        Value::Date(at) => DateTime::from_timestamp_millis(*at)
            .map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true)),
        Value::Null | Value::Bytes(_) => None,
        Value::Short(_) | Value::Integer(_) | Value::Long(_) | Value::Double(_) => number(value),
    }
}

/// The value keeps its JSON type: text becomes a JSON string, even where it looks like a number.
fn json(value: &Value) -> Option<String> {
    match value {
        Value::Json(text) => Some(text.clone()),
        Value::String(_) | Value::Date(_) => {
            plain(value).map(|text| serde_json::Value::from(text).to_string())
        }
        _ => plain(value),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("\\x");
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_becomes_itself_or_an_error() {
        let string = |text: &str| Value::String(text.to_owned());
        let good = [
            (Value::Boolean(true), Kind::Boolean, "true"),
            (Value::Integer(-7), Kind::Whole(16), "-7"),
            (
                string("9223372036854775807"),
                Kind::Whole(64),
                "9223372036854775807",
            ),
            (Value::Date(0), Kind::Whole(64), "0"),
            (Value::Double(1e300), Kind::Number, "1e300"),
            (string("12.50"), Kind::Number, "12.50"),
            (Value::Long(5), Kind::Text, "5"),
            (Value::Date(1), Kind::Time, "1970-01-01T00:00:00.001Z"),
            (string("5"), Kind::Json, "\"5\""),
            (Value::Integer(5), Kind::Json, "5"),
            (
                Value::Json("{\"a\": 1.0}".to_owned()),
                Kind::Json,
                "{\"a\": 1.0}",
            ),
            (Value::Bytes(vec![0, 255]), Kind::Bytes, "\\x00ff"),
            (string("open"), Kind::Other, "open"),
        ];
        for (value, kind, expected) in good {
            let text = text(&value, kind).expect("it fits");
            assert_eq!(text.as_deref(), Some(expected), "{value:?} as {kind:?}");
        }
        assert_eq!(text(&Value::Null, Kind::Whole(16)), Ok(None));
        let bad = [
            (Value::Integer(1), Kind::Boolean),
            (string("true"), Kind::Boolean),
            (Value::Integer(32_768), Kind::Whole(16)),
            (Value::Double(5.0), Kind::Whole(32)),
            (string("12 "), Kind::Whole(32)),
            (string("NaN"), Kind::Number),
            (Value::Boolean(true), Kind::Number),
            (string("a\0b"), Kind::Text),
            (Value::Bytes(vec![65]), Kind::Text),
            (Value::Bytes(vec![65]), Kind::Json),
            (string("\\x41"), Kind::Bytes),
            (Value::Long(0), Kind::Time),
            (string("no"), Kind::Uuid),
        ];
        for (value, kind) in bad {
            assert!(text(&value, kind).is_err(), "{value:?} as {kind:?}");
        }
    }
}
