//! The deserializer of the tree: says of every failure at which node it was, and goes past what was
//! replaced. Unknown keys are reported here and left out, because a struct names its fields beforehand.

use std::ops::Range;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, IntoDeserializer as _, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::failure::{At, Failure, Kind};
use super::mistake::is_secret;
use super::node::{Key, Node, Value};
use super::piece::{Repair, Stand};

/// The deserializer of one node.
#[derive(Clone, Copy)]
pub struct Walk<'a> {
    pub node: &'a Node,
    /// What the caret points at when the node is a table: its key.
    pub header: &'a Range<usize>,
    pub key: &'a str,
    pub repair: &'a Repair,
}

impl Walk<'_> {
    /// Adds this node to the failure, unless something deeper has added itself.
    fn locate(self, failure: Failure) -> Failure {
        let at = failure.at.unwrap_or_else(|| {
            Box::new(At {
                place: std::ptr::from_ref(self.node),
                point: match self.node.value {
                    Value::Table(_) => self.header.clone(),
                    _ => self.node.span.clone(),
                },
                keys: match &self.node.value {
                    Value::Table(entries) => {
                        entries.iter().map(|(key, _)| key.name.clone()).collect()
                    }
                    _ => Vec::new(),
                },
                hidden: match (&self.node.value, &self.node.written) {
                    (Value::String(value), Some(written)) => Some((value.clone(), written.clone())),
                    _ => None,
                },
                secret: is_secret(self.key),
            })
        });
        Failure {
            at: Some(at),
            ..failure
        }
    }

    fn visit<'de, V: Visitor<'de>>(
        self,
        visitor: V,
        fields: Option<&'static [&'static str]>,
    ) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::String(text) => visitor.visit_str(text),
            Value::Integer(number) => match (i64::try_from(*number), u64::try_from(*number)) {
                (Ok(number), _) => visitor.visit_i64(number),
                (Err(_), Ok(number)) => visitor.visit_u64(number),
                (Err(_), Err(_)) => visitor.visit_i128(*number),
            },
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::Datetime(at) => Err(Failure::new(Kind::Custom(format!(
                "no key takes a date; as a text it is written \"{at}\""
            )))),
            Value::List(nodes) => visitor.visit_seq(Elements {
                walk: self,
                rest: nodes.iter(),
            }),
            Value::Table(entries) => visitor.visit_map(Entries {
                walk: self,
                rest: entries.iter(),
                value: None,
                fields,
                made_up: match fields {
                    Some(_) => self.repair.made_up(self.node),
                    None => Vec::new(),
                },
            }),
        }
    }
}

/// A method of the deserializer: the stand-in's where the node was replaced, else the node's own.
macro_rules! methods {
    ($($method:ident($($arg:ident: $type:ty),*) = |$walk:ident, $visitor:ident| $body:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($arg: $type,)* visitor: V) -> Result<V::Value, Failure> {
            let ($walk, $visitor) = (self, visitor);
            let result = match self.repair.stand(self.node) {
                Some(_) => StandIn.$method($($arg,)* $visitor),
                None => $body,
            };
            result.map_err(|failure| $walk.locate(failure))
        }
    )*};
}

/// A number or a boolean that comes from the environment is a text.
macro_rules! parsed {
    ($walk:ident, $visitor:ident, $visit:ident, $type:ty) => {
        match (&$walk.node.value, &$walk.node.written) {
            (Value::String(text), Some(_)) => match text.trim().parse::<$type>() {
                Ok(value) => $visitor.$visit(value),
                Err(_) => $walk.visit($visitor, None),
            },
            _ => $walk.visit($visitor, None),
        }
    };
}

impl<'de> Deserializer<'de> for Walk<'_> {
    type Error = Failure;

    methods! {
        deserialize_any() = |walk, visitor| walk.visit(visitor, None);
        deserialize_bool() = |walk, visitor| parsed!(walk, visitor, visit_bool, bool);
        deserialize_i8() = |walk, visitor| parsed!(walk, visitor, visit_i64, i64);
        deserialize_i16() = |walk, visitor| parsed!(walk, visitor, visit_i64, i64);
        deserialize_i32() = |walk, visitor| parsed!(walk, visitor, visit_i64, i64);
        deserialize_i64() = |walk, visitor| parsed!(walk, visitor, visit_i64, i64);
        deserialize_u8() = |walk, visitor| parsed!(walk, visitor, visit_i64, i64);
        deserialize_u16() = |walk, visitor| parsed!(walk, visitor, visit_i64, i64);
        deserialize_u32() = |walk, visitor| parsed!(walk, visitor, visit_i64, i64);
        deserialize_u64() = |walk, visitor| parsed!(walk, visitor, visit_i64, i64);
        deserialize_f32() = |walk, visitor| parsed!(walk, visitor, visit_f64, f64);
        deserialize_f64() = |walk, visitor| parsed!(walk, visitor, visit_f64, f64);
        deserialize_string() = |walk, visitor| walk.visit(visitor, None);
        deserialize_str() = |walk, visitor| walk.visit(visitor, None);
        deserialize_seq() = |walk, visitor| walk.visit(visitor, None);
        deserialize_map() = |walk, visitor| walk.visit(visitor, None);
        deserialize_option() = |walk, visitor| visitor.visit_some(walk);
        deserialize_newtype_struct(name: &'static str) = |walk, visitor| {
            let _ = name;
            visitor.visit_newtype_struct(walk)
        };
        deserialize_struct(name: &'static str, fields: &'static [&'static str]) = |walk, visitor| {
            let _ = name;
            walk.visit(visitor, Some(fields))
        };
        deserialize_enum(name: &'static str, variants: &'static [&'static str]) = |walk, visitor| {
            match &walk.node.value {
                Value::String(text) => visitor.visit_enum(StrDeserializer::new(text)),
                Value::Table(entries) => MapAccessDeserializer::new(Entries {
                    walk,
                    rest: entries.iter(),
                    value: None,
                    fields: None,
                    made_up: Vec::new(),
                })
                .deserialize_enum(name, variants, visitor),
                _ => walk.visit(visitor, None),
            }
        };
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// The elements of a list.
struct Elements<'a> {
    walk: Walk<'a>,
    rest: std::slice::Iter<'a, Node>,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Failure;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Failure> {
        let repair = self.walk.repair;
        match self
            .rest
            .find(|node| repair.stand(node) != Some(Stand::Nothing))
        {
            None => Ok(None),
            Some(node) => seed
                .deserialize(Walk {
                    node,
                    header: &node.span,
                    ..self.walk
                })
                .map(Some),
        }
    }
}

/// The keys and values of a table.
struct Entries<'a> {
    walk: Walk<'a>,
    rest: std::slice::Iter<'a, (Key, Node)>,
    /// Key and value of what was read last; without one its value is made up.
    value: Option<&'a (Key, Node)>,
    /// The keys that the type has; `None`: any.
    fields: Option<&'static [&'static str]>,
    made_up: Vec<&'static str>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Failure;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Failure> {
        let repair = self.walk.repair;
        for entry in self.rest.by_ref() {
            let (key, node) = entry;
            if repair.stand(node) == Some(Stand::Nothing) {
                continue;
            }
            match self.fields {
                Some(fields) if !fields.contains(&key.name.as_str()) => {
                    repair.refuse_unknown(key, fields);
                    continue;
                }
                _ => {}
            }
            self.value = Some(entry);
            let name = StrDeserializer::<Failure>::new(&key.name);
            return seed.deserialize(name).map(Some);
        }
        let Some(field) = self.made_up.pop() else {
            return Ok(None);
        };
        self.value = None;
        seed.deserialize(field.into_deserializer()).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Failure> {
        match self.value.take() {
            Some((key, node)) => seed.deserialize(Walk {
                node,
                header: &key.span,
                key: &key.name,
                ..self.walk
            }),
            None => seed.deserialize(StandIn),
        }
    }
}

/// A value of any type, so that the rest of a table can be looked at.
struct StandIn;

/// A method of the stand-in; whatever goes wrong with it is not the file's fault.
macro_rules! stand_ins {
    ($($method:ident($($arg:ident: $type:ty),*) = |$visitor:ident| $body:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($arg: $type,)* $visitor: V) -> Result<V::Value, Failure> {
            $(let _ = $arg;)*
            let result: Result<V::Value, Failure> = $body;
            result.map_err(|_| Failure::new(Kind::NoStandIn))
        }
    )*};
}

impl<'de> Deserializer<'de> for StandIn {
    type Error = Failure;

    stand_ins! {
        deserialize_any() = |visitor| visitor.visit_str("");
        deserialize_bool() = |visitor| visitor.visit_bool(false);
        deserialize_i8() = |visitor| visitor.visit_i64(1);
        deserialize_i16() = |visitor| visitor.visit_i64(1);
        deserialize_i32() = |visitor| visitor.visit_i64(1);
        deserialize_i64() = |visitor| visitor.visit_i64(1);
        deserialize_u8() = |visitor| visitor.visit_i64(1);
        deserialize_u16() = |visitor| visitor.visit_i64(1);
        deserialize_u32() = |visitor| visitor.visit_i64(1);
        deserialize_u64() = |visitor| visitor.visit_i64(1);
        deserialize_f32() = |visitor| visitor.visit_f64(1.0);
        deserialize_f64() = |visitor| visitor.visit_f64(1.0);
        deserialize_seq() = |visitor| visitor.visit_seq(serde::de::value::SeqDeserializer::new(std::iter::empty::<&str>()));
        deserialize_map() = |visitor| visitor.visit_map(empty());
        deserialize_option() = |visitor| visitor.visit_none();
        deserialize_newtype_struct(_name: &'static str) = |visitor| visitor.visit_newtype_struct(Self);
        deserialize_struct(_name: &'static str, _fields: &'static [&'static str]) = |visitor| visitor.visit_map(empty());
        deserialize_enum(_name: &'static str, variants: &'static [&'static str]) = |visitor| {
            visitor.visit_enum(StrDeserializer::<Failure>::new(variants.first().copied().unwrap_or_default()))
        };
    }

    forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct tuple tuple_struct identifier
        ignored_any
    }
}

fn empty<'de>() -> impl MapAccess<'de, Error = Failure> {
    serde::de::value::MapDeserializer::new(std::iter::empty::<(&str, &str)>())
}
