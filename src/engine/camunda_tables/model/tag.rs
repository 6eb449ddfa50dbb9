//! One start tag of a BPMN file, with its attributes.
//!
//! Names count by namespace and local name, whatever the prefixes. Where the standard and the engine
//! differ on an attribute, the engine is followed: what it compares as text is compared as text, and
//! a default that it takes from the schema is the schema's.

use std::collections::HashMap;

use quick_xml::XmlVersion;
use quick_xml::events::BytesStart;
use quick_xml::name::{Namespace, NamespaceResolver, ResolveResult};

use super::ModelError;

const BPMN: &str = "http://www.omg.org/spec/BPMN/20100524/MODEL";

/// Operaton's own namespace, Camunda's, and the older one that Camunda still reads.
const EXTENSIONS: [&str; 3] = [
    "http://operaton.org/schema/1.0/bpmn",
    "http://camunda.org/schema/1.0/bpmn",
    "http://activiti.org/bpmn",
];

/// One start tag, resolved.
pub(super) struct Tag {
    /// The local name; empty when the element is not of the BPMN namespace.
    pub(super) name: String,
    /// The name as it is written, for messages.
    pub(super) written: String,
    attributes: HashMap<String, String>,
    extensions: HashMap<String, String>,
    pub(super) line: usize,
}

impl Tag {
    pub(super) fn of(
        start: &BytesStart,
        names: &NamespaceResolver,
        line: usize,
    ) -> Result<Self, ModelError> {
        let failed = |source| ModelError::Xml { line, source };
        let mut tag = Self {
            name: String::new(),
            written: start.name().as_ref().to_owned(),
            attributes: HashMap::new(),
            extensions: HashMap::new(),
            line,
        };
        if let (ResolveResult::Bound(Namespace(BPMN)), name) = names.resolve_element(start.name()) {
            name.as_ref().clone_into(&mut tag.name);
        }
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| failed(error.into()))?;
            let value = attribute
                .normalized_value(XmlVersion::Implicit1_0)
                .map_err(failed)?;
            match names.resolve_attribute(attribute.key) {
                (ResolveResult::Unbound, name) => {
                    tag.attributes
                        .insert(name.as_ref().to_owned(), value.into_owned());
                }
                (ResolveResult::Bound(Namespace(namespace)), name)
                    if EXTENSIONS.contains(&namespace) =>
                {
                    tag.extensions
                        .insert(name.as_ref().to_owned(), value.into_owned());
                }
                (ResolveResult::Bound(_) | ResolveResult::Unknown(_), _) => {}
            }
        }
        Ok(tag)
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    pub(super) fn extension(&self, name: &str) -> Option<&str> {
        self.extensions.get(name).map(String::as_str)
    }

    /// An id or a reference to one; whitespace around it is no part of it.
    pub(super) fn reference(&self, name: &str) -> Option<&str> {
        self.attribute(name)
            .map(str::trim)
            .filter(|id| !id.is_empty())
    }

    pub(super) fn id(&self) -> Result<String, ModelError> {
        match self.reference("id") {
            Some(id) => Ok(id.to_owned()),
            None => Err(ModelError::NoId {
                element: self.written.clone(),
                line: self.line,
            }),
        }
    }

    /// A flag that moves tokens. The schema also allows 0 and 1, which the engine takes for other
    /// values than they say, each time differently.
    pub(super) fn flag(&self, attribute: &'static str, absent: bool) -> Result<bool, ModelError> {
        match self.attribute(attribute).map(str::trim) {
            None => Ok(absent),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(value) => Err(ModelError::Flag {
                attribute,
                value: value.to_owned(),
                line: self.line,
            }),
        }
    }

    pub(super) fn is_async_before(&self) -> bool {
        ["asyncBefore", "async"]
            .iter()
            .any(|name| self.extension(name) == Some("true"))
    }
}
