//! Values that may be written in two ways. Understood by hand: serde's own untagged enums try one way after
//! the other, and can then say neither what was wrong nor where.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::config::{Condition, Scalar, TypedVariable, VariableConfig, When};

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WhenVisitor)
    }
}

struct WhenVisitor;

impl<'de> Visitor<'de> for WhenVisitor {
    type Value = When;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a condition such as { header = \"type\", equals = \"Paid\" }, or a list of them",
        )
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<When, A::Error> {
        Condition::deserialize(MapAccessDeserializer::new(map)).map(When::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<When, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(When::All)
    }
}

impl<'de> Deserialize<'de> for VariableConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(VariableVisitor)
    }
}

struct VariableVisitor;

impl<'de> Visitor<'de> for VariableVisitor {
    type Value = VariableConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "an expression such as \"$.amount\", or { from = \"$.paidAt\", type = \"date\" }",
        )
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<VariableConfig, A::Error> {
        TypedVariable::deserialize(MapAccessDeserializer::new(map)).map(VariableConfig::Typed)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<VariableConfig, E> {
        text.parse().map(VariableConfig::Plain).map_err(E::custom)
    }

    fn visit_bool<E>(self, value: bool) -> Result<VariableConfig, E> {
        Ok(VariableConfig::literal(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<VariableConfig, E> {
        Ok(VariableConfig::literal(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<VariableConfig, E> {
        Ok(VariableConfig::literal(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<VariableConfig, E> {
        Ok(VariableConfig::literal(number))
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number or a boolean")
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar::Boolean(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
        Ok(Scalar::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Scalar, E> {
        serde_json::Number::from_f64(number)
            .map(Scalar::Number)
            .ok_or_else(|| E::custom("a condition compares with a finite number"))
    }
}
