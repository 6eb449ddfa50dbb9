//! The deserializer of the tree: says of every failure at which node it was, and goes past what was
//! replaced. Unknown keys are reported here and left out, because a struct names its fields beforehand.

use std::ops::Range;

use serde::de::value::{MapAccessDeserializer, MapDeserializer, SeqDeserializer, StrDeserializer};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::failure::{At, Failure, Kind};
use super::mask::{holds_secrets, is_secret};
use super::node::{Key, Node, Value};
use super::piece::{Repair, Stand};

/// The deserializer of one node.
#[derive(Clone, Copy)]
pub struct Walk<'a> {
    pub node: &'a Node,
    /// What the caret points at when the node is a table: its key.
    pub header: &'a Range<usize>,
    pub key: &'a str,
    /// The value names a file that holds the value.
    pub from_file: bool,
    /// It is in a table of which everything is a secret.
    pub in_secrets: bool,
    pub repair: &'a Repair,
}

/// Keys that hold a secret. Each may be written as `KEY_file` instead, naming the file that holds it,
/// also where its type knows nothing of that.
pub const SECRETS: [&str; 7] = [
    "url",
    "uris",
    "password",
    "passphrase",
    "token",
    "key_pass",
    "management_url",
];

/// `password` of `password_file`, where the type has only the former.
fn secret_of(key: &str, fields: &'static [&'static str]) -> Option<&'static str> {
    let stem = key.strip_suffix("_file")?;
    let field = fields.iter().find(|field| **field == stem)?;
    (SECRETS.contains(field) && !fields.contains(&key)).then_some(*field)
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
                secret: self.from_file
                    || self.in_secrets
                    || SECRETS.contains(&self.key)
                    || is_secret(self.key),
                stand: self.repair.stand(self.node),
            })
        });
        Failure {
            at: Some(at),
            ..failure
        }
    }

    /// The content of the file that the value names, without its last line's end.
    fn content(self) -> Result<String, Failure> {
        let failure = |what| Failure::new(Kind::Custom(what));
        let Value::String(path) = &self.node.value else {
            return Err(failure("expected the path of a file".to_owned()));
        };
        let mut content = std::fs::read_to_string(path)
            .map_err(|cause| failure(format!("the file {path:?} cannot be read: {cause}")))?;
        content.truncate(content.trim_end_matches(['\r', '\n']).len());
        Ok(content)
    }

    /// A list in a file of its own has one element a line.
    fn visit_list<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        if !self.from_file {
            return self.visit(visitor, None);
        }
        let content = self.content()?;
        visitor.visit_seq(SeqDeserializer::<_, Failure>::new(content.lines()))
    }

    fn visit<'de, V: Visitor<'de>>(
        self,
        visitor: V,
        fields: Option<&'static [&'static str]>,
    ) -> Result<V::Value, Failure> {
        if self.from_file {
            return visitor.visit_string(self.content()?);
        }
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
            Value::Unknown => StandIn.deserialize_any(visitor),
            Value::List(nodes) => visitor.visit_seq(Elements {
                walk: self,
                rest: nodes.iter(),
            }),
            Value::Table(entries) => visitor.visit_map(Entries {
                walk: self,
                rest: entries.iter(),
                value: None,
                fields,
                made_up: self.repair.made_up(self.node),
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
            result.map_err(|failure| self.locate(failure))
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
        deserialize_seq() = |walk, visitor| walk.visit_list(visitor);
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
        let next = self
            .rest
            .find(|node| repair.stand(node) != Some(Stand::Nothing));
        let Some(node) = next else { return Ok(None) };
        let walk = Walk {
            node,
            header: &node.span,
            from_file: false,
            ..self.walk
        };
        seed.deserialize(walk)
            .map(Some)
            .map_err(|failure| walk.locate(failure))
    }
}

/// The keys and values of a table.
struct Entries<'a> {
    walk: Walk<'a>,
    rest: std::slice::Iter<'a, (Key, Node)>,
    /// What was read last, without its value; `None`: its value is made up.
    value: Option<Walk<'a>>,
    /// The keys that the type has; `None`: any.
    fields: Option<&'static [&'static str]>,
    made_up: Vec<&'static str>,
}

impl<'a> Entries<'a> {
    /// The next key that the type has, by the name that it has there; the others are reported.
    fn next_known(&mut self) -> Option<(&'a str, Walk<'a>)> {
        let repair = self.walk.repair;
        for (key, node) in self.rest.by_ref() {
            if repair.stand(node) == Some(Stand::Nothing) {
                continue;
            }
            let walk = Walk {
                node,
                header: &key.span,
                key: &key.name,
                from_file: false,
                in_secrets: self.walk.in_secrets || holds_secrets(self.walk.key),
                repair,
            };
            let Some(fields) = self.fields else {
                return Some((&key.name, walk));
            };
            if fields.contains(&key.name.as_str()) {
                return Some((&key.name, walk));
            }
            match secret_of(&key.name, fields) {
                None => repair.refuse_unknown(key, fields),
                Some(secret) if self.walk.node.entry(secret).is_some() => {
                    repair.refuse_second(key, secret);
                }
                Some(secret) => {
                    let from_file = true;
                    return Some((secret, Walk { from_file, ..walk }));
                }
            }
        }
        None
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Failure;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Failure> {
        // What is wrong with a key is said of its value's node, but points at the key.
        let (name, found) = if let Some((name, walk)) = self.next_known() {
            (name, Some(walk))
        } else {
            let Some(field) = self.made_up.pop() else {
                return Ok(None);
            };
            (field, None)
        };
        self.value = found;
        seed.deserialize(StrDeserializer::new(name))
            .map(Some)
            .map_err(|failure: Failure| match found {
                None => failure,
                Some(walk) => {
                    let mut failure = walk.locate(failure);
                    if let Some(at) = &mut failure.at {
                        at.point = walk.header.clone();
                    }
                    failure
                }
            })
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Failure> {
        match self.value.take() {
            // A type may judge a text after the deserializer is done with it.
            Some(walk) => seed
                .deserialize(walk)
                .map_err(|failure| walk.locate(failure)),
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
        deserialize_seq() = |visitor| visitor.visit_seq(SeqDeserializer::<_, Failure>::new(std::iter::empty::<&str>()));
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
    MapDeserializer::new(std::iter::empty::<(&str, &str)>())
}
