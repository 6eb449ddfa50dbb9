//! AMQP properties and field tables, as an [`Envelope`].
//!
//! Pure. Invariant: what a redelivery changes by itself (`x-delivery-count`) does not stand among the
//! headers, so that the same message has the same headers however often it comes.

use lapin::BasicProperties;
use lapin::protocol::basic::AMQPProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Map, Value, json};

use crate::message::{Envelope, Text};

/// Headers that count deliveries; `RabbitMQ` writes them, no producer does.
const COUNTERS: [&str; 2] = ["x-delivery-count", "x-acquired-count"];

/// Everything around the payload.
///
/// Properties that an [`Envelope`] has no place for (`type`, `app_id`, `reply_to`, `user_id`,
/// `content_encoding`) stand behind the headers under their AMQP names, where no header has that name.
pub(super) fn of(routing_key: &str, properties: &BasicProperties) -> Envelope {
    let table = properties.headers().as_ref();
    Envelope {
        headers: headers(properties),
        message_id: properties.message_id().as_ref().map(ToString::to_string),
        correlation_id: properties
            .correlation_id()
            .as_ref()
            .map(ToString::to_string),
        content_type: properties.content_type().as_ref().map(ToString::to_string),
        routing_key: Some(routing_key.to_owned()),
        timestamp: properties.timestamp().map(milliseconds),
        delivery_count: table.and_then(|table| integer(table, "x-delivery-count")),
        ..Envelope::default()
    }
}

/// Whether the delivery comes from a stream, whose messages an acknowledgement does not take away.
pub(super) fn is_from_stream(properties: &BasicProperties) -> bool {
    let table = properties.headers().as_ref();
    table.is_some_and(|table| table.contains_key("x-stream-offset"))
}

fn headers(properties: &AMQPProperties) -> Vec<(String, Text)> {
    let table = properties.headers().as_ref();
    let mut headers: Vec<(String, Text)> = table
        .into_iter()
        .flat_map(FieldTable::inner)
        .filter(|(name, _)| !COUNTERS.contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect();
    let others = [
        ("type", properties.kind()),
        ("app_id", properties.app_id()),
        ("reply_to", properties.reply_to()),
        ("user_id", properties.user_id()),
        ("content_encoding", properties.content_encoding()),
    ];
    for (name, value) in others {
        if let Some(value) = value
            && !table.is_some_and(|table| table.contains_key(name))
        {
            headers.push((name.to_owned(), Text::new(value.as_str().to_owned())));
        }
    }
    headers
}

/// AMQP counts seconds, we count milliseconds.
fn milliseconds(seconds: u64) -> i64 {
    i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX)
}

fn integer(table: &FieldTable, name: &str) -> Option<i64> {
    match table.inner().get(name)? {
        AMQPValue::ShortShortInt(value) => Some(i64::from(*value)),
        AMQPValue::ShortShortUInt(value) => Some(i64::from(*value)),
        AMQPValue::ShortInt(value) => Some(i64::from(*value)),
        AMQPValue::ShortUInt(value) => Some(i64::from(*value)),
        AMQPValue::LongInt(value) => Some(i64::from(*value)),
        AMQPValue::LongUInt(value) => Some(i64::from(*value)),
        AMQPValue::LongLongInt(value) => Some(*value),
        _ => None,
    }
}

/// Strings and bytes as they are; everything else as its JSON text.
fn text(value: &AMQPValue) -> Text {
    match value {
        AMQPValue::LongString(value) => Text::new(value.as_bytes().to_vec()),
        AMQPValue::ByteArray(value) => Text::new(value.as_slice().to_vec()),
        AMQPValue::ShortString(value) => Text::new(value.as_str().to_owned()),
        AMQPValue::DecimalValue(value) => Text::new(decimal(value.scale, value.value)),
        other => Text::new(json_of(other).to_string()),
    }
}

fn json_of(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(value) => json!(value),
        AMQPValue::ShortShortInt(value) => json!(value),
        AMQPValue::ShortShortUInt(value) => json!(value),
        AMQPValue::ShortInt(value) => json!(value),
        AMQPValue::ShortUInt(value) => json!(value),
        AMQPValue::LongInt(value) => json!(value),
        AMQPValue::LongUInt(value) => json!(value),
        AMQPValue::LongLongInt(value) => json!(value),
        AMQPValue::Float(value) => json!(value),
        AMQPValue::Double(value) => json!(value),
        AMQPValue::Timestamp(value) => json!(value),
        AMQPValue::DecimalValue(value) => json!(decimal(value.scale, value.value)),
        AMQPValue::ShortString(value) => json!(value.as_str()),
        AMQPValue::LongString(value) => bytes(value.as_bytes()),
        AMQPValue::ByteArray(value) => bytes(value.as_slice()),
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(json_of).collect(),
        AMQPValue::FieldTable(table) => Value::Object(object(table)),
        AMQPValue::Void => Value::Null,
    }
}

fn object(table: &FieldTable) -> Map<String, Value> {
    table
        .inner()
        .iter()
        .map(|(name, value)| (name.to_string(), json_of(value)))
        .collect()
}

/// Inside JSON, bytes that are not UTF-8 take the form that a [`Text`] has in the inbox.
fn bytes(value: &[u8]) -> Value {
    serde_json::to_value(Text::new(value.to_vec())).unwrap_or(Value::Null)
}

/// `value × 10^-scale`, in plain digits.
fn decimal(scale: u8, value: u32) -> String {
    let scale = usize::from(scale);
    let digits = format!("{value:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if fraction.is_empty() {
        whole.to_owned()
    } else {
        format!("{whole}.{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::{ByteArray, DecimalValue, FieldArray};

    use super::*;

    fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in entries {
            table.insert((*name).into(), value.clone());
        }
        table
    }

    fn header_of(value: AMQPValue) -> Text {
        let properties = AMQPProperties::default().with_headers(table(&[("h", value)]));
        let envelope = of("", &properties);
        envelope.header("h").expect("the header is there").clone()
    }

    #[test]
    fn every_type_of_header_value_has_its_text() {
        let nested = table(&[
            (
                "list",
                AMQPValue::FieldArray(FieldArray::from(vec![
                    AMQPValue::LongLongInt(-5),
                    AMQPValue::LongString("ä".into()),
                    AMQPValue::Void,
                ])),
            ),
            (
                "raw",
                AMQPValue::ByteArray(ByteArray::from(vec![0xff, 0x00])),
            ),
        ]);
        let nested_text = r#"{"list":[-5,"ä",null],"raw":{"base64":"/wA="}}"#;
        for (value, expected) in [
            (
                AMQPValue::LongString("a \"quoted\" €".into()),
                "a \"quoted\" €",
            ),
            (AMQPValue::Boolean(true), "true"),
            (AMQPValue::ShortShortInt(-3), "-3"),
            (AMQPValue::LongUInt(4_000_000_000), "4000000000"),
            (AMQPValue::LongLongInt(i64::MIN), "-9223372036854775808"),
            (AMQPValue::Double(0.5), "0.5"),
            (AMQPValue::Timestamp(1_700_000_000), "1700000000"),
            (
                AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 5 }),
                "0.05",
            ),
            (
                AMQPValue::DecimalValue(DecimalValue { scale: 0, value: 5 }),
                "5",
            ),
            (AMQPValue::Void, "null"),
            (AMQPValue::FieldTable(nested), nested_text),
        ] {
            assert_eq!(
                header_of(value.clone()).as_str(),
                Some(expected),
                "{value:?}"
            );
        }
        let bytes = AMQPValue::ByteArray(ByteArray::from(vec![0xff, 0xfe]));
        assert_eq!(header_of(bytes).as_bytes(), [0xff, 0xfe]);
    }

    #[test]
    fn a_redelivery_has_the_same_headers_and_says_its_count() {
        let first = table(&[("type", AMQPValue::LongString("Paid".into()))]);
        let mut again = first.clone();
        again.insert("x-delivery-count".into(), AMQPValue::LongLongInt(3));
        again.insert("x-acquired-count".into(), AMQPValue::LongLongInt(4));
        let first = of("q", &AMQPProperties::default().with_headers(first));
        let again = of("q", &AMQPProperties::default().with_headers(again));
        assert_eq!(first.headers, again.headers);
        assert_eq!(
            (first.delivery_count, again.delivery_count),
            (None, Some(3))
        );
    }

    #[test]
    fn properties_fill_the_envelope_and_a_header_wins_over_a_property_of_its_name() {
        let properties = AMQPProperties::default()
            .with_headers(table(&[("type", AMQPValue::LongString("header".into()))]))
            .with_type("property".into())
            .with_app_id("shop".into())
            .with_message_id("m-1".into())
            .with_correlation_id("c-1".into())
            .with_content_type("application/json".into())
            .with_timestamp(1_700_000_000);
        let envelope = of("orders.paid", &properties);
        assert_eq!(
            envelope.header("type").and_then(Text::as_str),
            Some("header")
        );
        assert_eq!(
            envelope.header("app_id").and_then(Text::as_str),
            Some("shop")
        );
        assert_eq!(envelope.message_id.as_deref(), Some("m-1"));
        assert_eq!(envelope.correlation_id.as_deref(), Some("c-1"));
        assert_eq!(envelope.content_type.as_deref(), Some("application/json"));
        assert_eq!(envelope.routing_key.as_deref(), Some("orders.paid"));
        assert_eq!(envelope.timestamp, Some(1_700_000_000_000));
    }
}
