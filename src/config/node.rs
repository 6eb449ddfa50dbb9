//! The configuration as a tree in which every key and value knows where it stands in the file.
//!
//! Owns the substitution of `${VAR}` after parsing, so that no value can change the file's structure.
//! Knows no section and no key. Invariant: a value that came from the environment is never shown: its
//! node keeps the text that stands in the file.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::Mistake;

/// Where a process finds its environment; a parameter, so that tests have one of their own.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Node {
    /// Bytes of the file; of a table, those of its header.
    pub span: Range<usize>,
    pub value: Value,
    /// What stands in the file, where the value itself came from somewhere else.
    pub written: Option<String>,
}

#[derive(Debug, Clone)]
pub enum Value {
    String(String),
    Integer(i128),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    /// A value that could not be found out, which is reported already.
    Unknown,
    List(Vec<Node>),
    /// In the file's order.
    Table(Vec<(Key, Node)>),
}

/// A key and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub name: String,
    pub span: Range<usize>,
}

impl Node {
    /// The tree of a file; what is wrong with its syntax goes to `mistakes`.
    pub fn parse(text: &str, mistakes: &mut Vec<Mistake>) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        mistakes.extend(errors.into_iter().map(|error| {
            Mistake::error(
                error.span().unwrap_or(0..0),
                format!("this is not TOML: {}", error.message()),
            )
        }));
        let span = table.span();
        Self {
            span,
            value: Value::Table(entries(table.into_inner(), mistakes)),
            written: None,
        }
    }

    pub fn table(&self) -> Option<&[(Key, Node)]> {
        match &self.value {
            Value::Table(entries) => Some(entries),
            _ => None,
        }
    }

    /// The key and the value of that name, where this is a table that has it.
    pub fn entry(&self, name: &str) -> Option<(&Key, &Node)> {
        self.table()?
            .iter()
            .find(|(key, _)| key.name == name)
            .map(|(key, node)| (key, node))
    }

    /// Where the values stand that could not be found out.
    pub fn unknown(&self) -> Vec<Range<usize>> {
        match &self.value {
            Value::Unknown => vec![self.span.clone()],
            Value::Table(entries) => entries
                .iter()
                .flat_map(|(_, node)| node.unknown())
                .collect(),
            Value::List(nodes) => nodes.iter().flat_map(Self::unknown).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether the file has something at this path.
    pub fn has(&self, path: &[&str]) -> bool {
        let wanted = path.last();
        let found = self.at(path).and_then(|(key, _)| key);
        found.is_some_and(|key| Some(&key.name.as_str()) == wanted)
    }

    /// What to point at for this path: the value, or the key where the value is a table. Where the path
    /// leaves the tree, the last thing on the way that is there.
    ///
    /// A part of the path may be dotted and have an index, as parts of the program say it: `tls.ca_file`,
    /// `uris[0]`; a key of the file may hold dots itself.
    pub fn locate(&self, path: &[&str]) -> Range<usize> {
        match self.at(path) {
            Some((Some(key), node)) if node.table().is_some() => key.span.clone(),
            Some((_, node)) => node.span.clone(),
            None => self.span.clone(),
        }
    }

    /// The last thing on this path that is there, with its key, if it has one.
    pub fn at(&self, path: &[&str]) -> Option<(Option<&Key>, &Node)> {
        let mut found: Option<(Option<&Key>, &Node)> = None;
        for part in path {
            let mut rest = *part;
            while !rest.is_empty() {
                let node = found.map_or(self, |(_, node)| node);
                let Some((next, after)) = node.step(rest) else {
                    return found;
                };
                (found, rest) = (Some(next), after);
            }
        }
        found
    }

    /// One step along a dotted path: the longest key that it begins with, or an index.
    fn step<'n, 'p>(&'n self, path: &'p str) -> Option<((Option<&'n Key>, &'n Node), &'p str)> {
        match &self.value {
            Value::Table(entries) => entries
                .iter()
                .filter_map(|(key, node)| {
                    let rest = path.strip_prefix(key.name.as_str())?;
                    let rest = match rest.strip_prefix('.') {
                        Some(rest) => rest,
                        None if rest.is_empty() || rest.starts_with('[') => rest,
                        None => return None,
                    };
                    Some(((Some(key), node), rest))
                })
                .min_by_key(|(_, rest)| rest.len()),
            Value::List(nodes) => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                let node = nodes.get(index.parse::<usize>().ok()?)?;
                Some(((None, node), rest.strip_prefix('.').unwrap_or(rest)))
            }
            _ => None,
        }
    }

    /// Replaces `${VAR}` and `${VAR:-default}` in every string, `text` being the file's. In sections that are not
    /// `used`, a variable that is not set is no mistake, and its value stays unknown.
    pub fn substitute(
        &mut self,
        text: &str,
        environment: Environment<'_>,
        used: &[&str],
        mistakes: &mut Vec<Mistake>,
    ) {
        let Value::Table(sections) = &mut self.value else {
            return;
        };
        for (key, section) in sections {
            let is_used = used.contains(&key.name.as_str());
            section.replace(text, environment, is_used, mistakes);
        }
    }

    fn replace(
        &mut self,
        text: &str,
        environment: Environment<'_>,
        is_used: bool,
        mistakes: &mut Vec<Mistake>,
    ) {
        match &mut self.value {
            Value::String(value) => match substituted(value, environment) {
                Ok(None) => {}
                Ok(Some(new)) => self.written = Some(std::mem::replace(value, new)),
                Err(wrong) if wrong.is_unset && !is_used => self.value = Value::Unknown,
                Err(wrong) => {
                    let written = text.get(self.span.clone()).unwrap_or_default();
                    let span = match written.find(&wrong.what) {
                        Some(at) => self.span.start + at..self.span.start + at + wrong.what.len(),
                        None => self.span.clone(),
                    };
                    mistakes.push(Mistake::error(span, wrong.message).help(wrong.help));
                    self.value = Value::Unknown;
                }
            },
            Value::List(nodes) => {
                for node in nodes {
                    node.replace(text, environment, is_used, mistakes);
                }
            }
            Value::Table(entries) => {
                for (_, node) in entries {
                    node.replace(text, environment, is_used, mistakes);
                }
            }
            Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Unknown => {}
        }
    }
}

fn entries(table: DeTable<'_>, mistakes: &mut Vec<Mistake>) -> Vec<(Key, Node)> {
    let mut entries: Vec<_> = table
        .into_iter()
        .map(|(key, value)| {
            let span = key.span();
            let name = key.into_inner().into_owned();
            (Key { name, span }, node(value, mistakes))
        })
        .collect();
    // The parser sorts by name; the order of routes is their meaning.
    entries.sort_by_key(|(key, _)| key.span.start);
    entries
}

fn node(value: Spanned<DeValue<'_>>, mistakes: &mut Vec<Mistake>) -> Node {
    let span = value.span();
    let mut refuse = |what: &str| {
        mistakes.push(Mistake::error(span.clone(), what));
        Value::Unknown
    };
    let value = match value.into_inner() {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Integer(digits) => i128::from_str_radix(digits.as_str(), digits.radix())
            .map_or_else(|_| refuse("this number is too large"), Value::Integer),
        DeValue::Float(digits) => digits
            .as_str()
            .parse()
            .map_or_else(|_| refuse("this is not a number"), Value::Float),
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Datetime(at) => Value::Datetime(at.to_string()),
        DeValue::Array(values) => {
            Value::List(values.into_iter().map(|v| node(v, mistakes)).collect())
        }
        DeValue::Table(table) => Value::Table(entries(table, mistakes)),
    };
    Node {
        span,
        value,
        written: None,
    }
}

/// A substitution that cannot be made: the text at fault, and what to say.
struct Wrong {
    what: String,
    message: String,
    help: String,
    /// Nothing is wrong with the text: the environment lacks the variable.
    is_unset: bool,
}

/// `Ok(None)`: there is nothing to substitute. `$${` stands for `${`, which an expression takes for a literal.
fn substituted(text: &str, environment: Environment<'_>) -> Result<Option<String>, Wrong> {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut changed) = (text, false);
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest[..at].strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &rest[at + 2..];
            changed = true;
            continue;
        }
        out.push_str(&rest[..at]);
        let Some(end) = rest[at..].find('}') else {
            return Err(Wrong {
                what: "${".to_owned(),
                message: "this `${` is not closed by `}`".to_owned(),
                help:
                    "write `${VAR}` or `${VAR:-default}`, and `$${` for the characters themselves"
                        .to_owned(),
                is_unset: false,
            });
        };
        let whole = &rest[at..=at + end];
        let inner = &whole[2..whole.len() - 1];
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        let named = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !named {
            return Err(Wrong {
                what: whole.to_owned(),
                message: format!("`{name}` is no name of an environment variable"),
                help: "write `${VAR}` or `${VAR:-default}`".to_owned(),
                is_unset: false,
            });
        }
        match (environment(name), default) {
            (Some(value), None) => out.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => out.push_str(&value),
            (_, Some(default)) => out.push_str(default),
            (None, None) => {
                return Err(Wrong {
                    what: whole.to_owned(),
                    message: format!("the environment variable {name} is not set"),
                    help: format!("set it, or give a default: `${{{name}:-…}}`"),
                    is_unset: true,
                });
            }
        }
        changed = true;
        rest = &rest[at + end + 1..];
    }
    out.push_str(rest);
    Ok(changed.then_some(out))
}
