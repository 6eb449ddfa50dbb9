//! Why a value of the file is not what its type wants, in the file's words and not in serde's.
//!
//! Knows nothing of the tree: the deserializer adds where it was.

use std::fmt;
use std::ops::Range;

use serde::de::{Expected, Unexpected};

use super::mistake::Mistake;
use super::node::Node;
use super::piece::Stand;

/// A node's identity; the tree does not move while it is deserialised.
pub type Place = *const Node;

/// `did you mean …?`, or all that is possible.
pub fn instead(found: &str, expected: &[&str]) -> String {
    let near = expected
        .iter()
        .map(|name| (strsim::damerau_levenshtein(found, name), name))
        .filter(|(distance, name)| *distance <= (name.len().max(found.len()) / 3).max(1))
        .min();
    match near {
        Some((_, name)) => format!("did you mean `{name}`?"),
        None if expected.is_empty() => "there is nothing to be set here".to_owned(),
        None => format!("expected {}", listed(expected, "or")),
    }
}

/// `` `a`, `b` or `c` ``.
pub fn listed(names: &[&str], or: &str) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.as_slice() {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [all @ .., last] => format!("{} {or} {last}", all.join(", ")),
    }
}

/// An error of serde, with its node once a deserializer on the way up has added it.
#[derive(Debug)]
pub struct Failure {
    pub kind: Kind,
    pub at: Option<Box<At>>,
}

#[derive(Debug)]
pub enum Kind {
    Custom(String),
    Type {
        found: String,
        expected: String,
    },
    Variant {
        found: String,
        expected: &'static [&'static str],
    },
    Missing(&'static str),
    /// A key that a type does not have, where the table was not asked with its keys.
    Unknown {
        field: String,
        expected: &'static [&'static str],
    },
    /// The stand-in is not good enough for the type.
    NoStandIn,
}

#[derive(Debug)]
pub struct At {
    pub place: Place,
    /// What the caret points at.
    pub point: Range<usize>,
    /// Those of a table.
    pub keys: Vec<String>,
    /// The value and what stands in the file for it, where they differ.
    pub hidden: Option<(String, String)>,
    pub secret: bool,
    /// What stood in for the node.
    pub stand: Option<Stand>,
}

impl At {
    /// What to say about it.
    pub fn mistake(&self, kind: &Kind) -> Mistake {
        let (mut message, mut help) = match kind {
            Kind::Custom(message) => (message.clone(), None),
            Kind::Type { expected, .. } if self.secret => (format!("expected {expected}"), None),
            Kind::Type { found, expected } => (format!("expected {expected}, found {found}"), None),
            Kind::Variant { found, expected } => (
                format!("`{found}` is not possible here"),
                Some(instead(found, expected)),
            ),
            Kind::Missing(field) => (format!("`{field}` is missing here"), None),
            Kind::Unknown { field, expected } => (
                format!("unknown key `{field}`"),
                Some(instead(field, expected)),
            ),
            Kind::NoStandIn => return Mistake::error(self.point.clone(), "this cannot be used"),
        };
        if let Some((value, written)) = self.hidden.as_ref().filter(|(value, _)| !value.is_empty())
        {
            message = message.replace(value, written);
            help = help.map(|help| help.replace(value, written));
        }
        Mistake {
            help,
            ..Mistake::error(self.point.clone(), message)
        }
    }
}

impl Failure {
    pub fn new(kind: Kind) -> Self {
        Self { kind, at: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.kind, f)
    }
}

impl std::error::Error for Failure {}

impl serde::de::Error for Failure {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let message = message.to_string();
        Self::new(Kind::Custom(match message.as_str() {
            "invalid socket address syntax" => {
                "expected an address and a port, such as \"127.0.0.1:9464\"".to_owned()
            }
            text if text.starts_with("data did not match any variant") => {
                "this value is not possible here".to_owned()
            }
            _ => message,
        }))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Kind::Type {
            found: found_words(found),
            expected: expected_words(&expected.to_string()),
        })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(found: &str, expected: &'static [&'static str]) -> Self {
        Self::new(Kind::Variant {
            found: found.to_owned(),
            expected,
        })
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(Kind::Unknown {
            field: field.to_owned(),
            expected,
        })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(Kind::Missing(field))
    }
}

fn found_words(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Str(text) => format!("the string {text:?}"),
        Unexpected::Bool(value) => format!("{value}"),
        Unexpected::Unsigned(value) => format!("{value}"),
        Unexpected::Signed(value) => format!("{value}"),
        Unexpected::Float(value) => format!("{value}"),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map | Unexpected::StructVariant => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// Of an unsigned type such as `u16`.
fn whole_number(min: u64, name: &str) -> String {
    let bits = name[1..].parse().unwrap_or(64);
    match u64::MAX >> (64 - bits) {
        u64::MAX => format!("a whole number, {min} or more"),
        max => format!("a whole number from {min} to {max}"),
    }
}

/// serde's words for a type, in those of the file.
fn expected_words(expected: &str) -> String {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => whole_number(0, expected),
        _ if expected.starts_with("a nonzero u") => whole_number(1, &expected[10..]),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a table".to_owned(),
        _ if expected.starts_with("struct ") => "a table".to_owned(),
        _ => expected.to_owned(),
    }
}
