//! Durations and sizes as people write them in the configuration: `"30s"`, `"16MiB"`.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time: `"250ms"`, `"30s"`, `"1h 30m"`, `"3d"`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    pub const fn ms(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }

    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    pub const fn days(days: u64) -> Self {
        Self::secs(days * 24 * 3600)
    }

    /// In whole milliseconds: nobody reads the rest.
    pub fn rounded(span: Duration) -> Self {
        Self::ms(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
    }

    /// Whole milliseconds, at most `i64::MAX`.
    pub fn as_ms(self) -> i64 {
        i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Quantity {
            expected: "a duration such as \"250ms\", \"30s\" or \"3d\"",
            parse: |text| humantime::parse_duration(text).map(Self).ok(),
        })
    }
}

/// A text that one function understands; a bare number is refused, because it says no unit.
struct Quantity<T> {
    expected: &'static str,
    parse: fn(&str) -> Option<T>,
}

impl<T> serde::de::Visitor<'_> for Quantity<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "a duration: \"250ms\", \"30s\", \"1h 30m\", \"3d\"",
            "examples": ["250ms", "30s", "1h 30m", "3d"]
        })
    }
}

/// A number of bytes: `"64KiB"`, `"16MiB"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    pub const fn mib(mib: u64) -> Self {
        Self(mib * 1024 * 1024)
    }

    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whole units are written as people write them; anything else is rounded to a tenth.
        for (bytes, unit) in [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
            if self.0 >= bytes && self.0.is_multiple_of(bytes) {
                return write!(f, "{}{unit}", self.0 / bytes);
            }
            if self.0 >= bytes {
                let tenths = (u128::from(self.0) * 10 + u128::from(bytes / 2)) / u128::from(bytes);
                return write!(f, "{}.{}{unit}", tenths / 10, tenths % 10);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl fmt::Debug for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Quantity {
            expected: "a size such as \"64KiB\" or \"16MiB\"",
            parse: |text| {
                let size = text.parse::<bytesize::ByteSize>().ok()?;
                Some(Self(size.as_u64()))
            },
        })
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "a number of bytes: \"64KiB\", \"16MiB\"",
            "examples": ["64KiB", "16MiB"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_their_largest_unit() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (64 << 10, "64KiB"),
            (16 << 20, "16MiB"),
            (113_152 << 10, "110.5MiB"),
            ((3 << 30) + 1, "3.0GiB"),
            (u64::MAX, "17179869184.0GiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    #[test]
    fn a_rounded_span_has_no_more_than_milliseconds() {
        let span = Span::rounded(Duration::from_micros(75_133));
        assert_eq!(span.to_string(), "75ms");
    }
}
