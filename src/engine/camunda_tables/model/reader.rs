//! BPMN 2.0 XML to [`Graph`]s.
//!
//! Elements are told apart by what they do with tokens; one that is not known makes the process
//! [unsupported](Graph::unsupported) instead of being skipped.
//!
//! The file is read with a stack of its own, so nesting costs memory and never the call stack, and
//! it is bounded in size and depth.

use std::collections::HashMap;
use std::mem;

use quick_xml::events::{BytesDecl, Event};
use quick_xml::reader::NsReader;

use super::ModelError;
use super::graph::{
    Attachment, Element, Flow, Graph, Kind, Looping, MessageName, Node, NodeId, Trigger,
};
use super::tag::Tag;

/// Far above what people draw or tools generate; a stored resource is not trusted to be either.
pub(super) const MAX_BYTES: usize = 32 << 20;
pub(super) const MAX_DEPTH: usize = 512;

/// Child elements of a process or subprocess that no token moves through.
const TOKENLESS: [&str; 25] = [
    "association",
    "auditing",
    "categoryValueRef",
    "correlationSubscription",
    "dataInputAssociation",
    "dataObject",
    "dataObjectReference",
    "dataOutputAssociation",
    "dataStoreReference",
    "documentation",
    "extensionElements",
    "group",
    "humanPerformer",
    "incoming",
    "ioSpecification",
    "laneSet",
    "monitoring",
    "outgoing",
    "performer",
    "potentialOwner",
    "property",
    "resourceRole",
    "standardLoopCharacteristics",
    "supports",
    "textAnnotation",
];

/// Reads the executable processes of a resource.
pub(super) fn read(bpmn: &[u8]) -> Result<Vec<Graph>, ModelError> {
    let text = text_of(bpmn)?;
    let mut lines = Lines::of(text);
    let mut xml = NsReader::from_str(text);
    let mut reading = Reading::default();
    loop {
        let line = lines.at(xml.buffer_position());
        let event = xml.read_event().map_err(|source| ModelError::Xml {
            line: lines.at(xml.error_position()),
            source,
        })?;
        match event {
            Event::Start(start) => {
                let tag = Tag::of(&start, xml.resolver(), line)?;
                let part = reading.enter(&tag)?;
                reading.open.push(part);
                if reading.open.len() > MAX_DEPTH {
                    return Err(ModelError::TooDeep { line: tag.line });
                }
            }
            Event::Empty(start) => {
                let tag = Tag::of(&start, xml.resolver(), line)?;
                reading.enter(&tag)?;
            }
            Event::End(_) => {
                reading.open.pop();
            }
            Event::Decl(declaration) => accept_encoding(&declaration, text)?,
            // It could define entities and default attributes that the engine would see.
            Event::DocType(_) => return Err(ModelError::Doctype { line }),
            Event::Eof if reading.open.is_empty() => return reading.finish(),
            Event::Eof => return Err(ModelError::Unclosed { line }),
            Event::Text(_)
            | Event::CData(_)
            | Event::Comment(_)
            | Event::PI(_)
            | Event::GeneralRef(_) => {}
        }
    }
}

fn text_of(bpmn: &[u8]) -> Result<&str, ModelError> {
    if bpmn.len() > MAX_BYTES {
        return Err(ModelError::TooLarge { bytes: bpmn.len() });
    }
    let text = str::from_utf8(bpmn).map_err(|error| ModelError::NotUtf8 {
        offset: error.valid_up_to(),
    })?;
    // The byte order mark that some editors write.
    Ok(text.trim_start_matches('\u{feff}'))
}

/// Bytes that are valid UTF-8 but declared as something else would give the engine other names.
fn accept_encoding(declaration: &BytesDecl, text: &str) -> Result<(), ModelError> {
    match declaration.encoding() {
        Some(Ok(encoding)) if !encoding.eq_ignore_ascii_case("utf-8") && !text.is_ascii() => {
            Err(ModelError::Encoding {
                encoding: encoding.into_owned(),
            })
        }
        Some(_) | None => Ok(()),
    }
}

/// Counts lines as reading goes on, so that the whole costs one pass over the text.
struct Lines<'a> {
    rest: &'a [u8],
    offset: u64,
    line: usize,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        Self {
            rest: text.as_bytes(),
            offset: 0,
            line: 1,
        }
    }

    /// The line of a byte; one that was already passed counts as the last one asked for.
    fn at(&mut self, offset: u64) -> usize {
        let further = offset.saturating_sub(self.offset);
        let further = usize::try_from(further).map_or(self.rest.len(), |n| n.min(self.rest.len()));
        let (passed, rest) = self.rest.split_at(further);
        self.line += passed.split(|&byte| byte == b'\n').count() - 1;
        self.rest = rest;
        self.offset = self.offset.max(offset);
        self.line
    }
}

/// What an open element is to us. Processes are numbered as in [`Reading::drafts`].
#[derive(Clone, Copy)]
enum Part {
    Definitions,
    Process(usize),
    Node(usize, NodeId),
    /// Nothing, with all that is in it.
    Ignored,
}

/// A reference by id that can only be followed when its process has been read to the end.
struct Reference {
    id: String,
    element: String,
    line: usize,
}

/// A sequence flow whose ends are still names.
struct DraftFlow {
    id: Option<String>,
    parent: Option<NodeId>,
    source: Reference,
    target: Reference,
}

/// A process while its elements come in; what they refer to may come later.
#[derive(Default)]
struct Draft {
    graph: Graph,
    ids: HashMap<String, NodeId>,
    flows: Vec<DraftFlow>,
    hosts: Vec<(NodeId, Reference)>,
    /// Message triggers by node and place in it, with the id of the message.
    messages: Vec<(NodeId, usize, String)>,
}

/// A resource while it is read.
#[derive(Default)]
struct Reading {
    open: Vec<Part>,
    /// The messages of the resource by id; they may stand after the processes that use them.
    messages: HashMap<String, MessageName>,
    drafts: Vec<Draft>,
}

impl Reading {
    /// Takes in a start tag, and says what its content will be part of.
    fn enter(&mut self, tag: &Tag) -> Result<Part, ModelError> {
        match self.open.last().copied() {
            None if tag.name == "definitions" => Ok(Part::Definitions),
            None => Err(ModelError::NotBpmn { line: tag.line }),
            Some(Part::Definitions) => self.definition(tag),
            Some(Part::Process(process)) => {
                let node = self.drafts[process].scope_part(None, tag)?;
                Ok(node.map_or(Part::Ignored, |node| Part::Node(process, node)))
            }
            Some(Part::Node(process, node)) => {
                let inner = self.drafts[process].node_part(node, tag)?;
                Ok(inner.map_or(Part::Ignored, |inner| Part::Node(process, inner)))
            }
            Some(Part::Ignored) => Ok(Part::Ignored),
        }
    }

    fn definition(&mut self, tag: &Tag) -> Result<Part, ModelError> {
        match tag.name.as_str() {
            "message" => {
                let name = message_name(tag.attribute("name"));
                // Nothing can refer to a message without an id; one that is used twice could be
                // either of them.
                if let Some(id) = tag.reference("id") {
                    let known = self.messages.entry(id.to_owned());
                    known
                        .and_modify(|name| *name = MessageName::Dynamic)
                        .or_insert(name);
                }
                Ok(Part::Ignored)
            }
            "process" if is_executable(tag) => {
                let mut draft = Draft::default();
                draft.graph.key = tag.id()?;
                self.drafts.push(draft);
                Ok(Part::Process(self.drafts.len() - 1))
            }
            _ => Ok(Part::Ignored),
        }
    }

    fn finish(self) -> Result<Vec<Graph>, ModelError> {
        let drafts = self.drafts.into_iter();
        drafts.map(|draft| draft.finish(&self.messages)).collect()
    }
}

/// The engine compares as Java's `Boolean.parseBoolean` does, and skips a process that says nothing.
fn is_executable(tag: &Tag) -> bool {
    let value = tag.attribute("isExecutable").map(str::trim);
    value.is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// The expression language also drops backslashes, so a name with one is not what it seems.
fn message_name(name: Option<&str>) -> MessageName {
    match name {
        Some(name) if !name.is_empty() && !["${", "#{", "\\"].iter().any(|e| name.contains(e)) => {
            MessageName::Literal(name.to_owned())
        }
        Some(_) | None => MessageName::Dynamic,
    }
}

impl Draft {
    /// A child element of a process or subprocess; returns the node that it begins, if any.
    fn scope_part(
        &mut self,
        parent: Option<NodeId>,
        tag: &Tag,
    ) -> Result<Option<NodeId>, ModelError> {
        if TOKENLESS.contains(&tag.name.as_str()) {
            return Ok(None);
        }
        if tag.name == "sequenceFlow" {
            let reference = |attribute| Reference {
                id: tag.reference(attribute).unwrap_or_default().to_owned(),
                element: tag.written.clone(),
                line: tag.line,
            };
            self.flows.push(DraftFlow {
                id: tag.reference("id").map(str::to_owned),
                parent,
                source: reference("sourceRef"),
                target: reference("targetRef"),
            });
            return Ok(None);
        }
        if let Some(kind) = kind_of(tag)? {
            return self.add_node(parent, kind, tag).map(Some);
        }
        self.graph.unsupported.get_or_insert_with(|| Element {
            name: tag.written.as_str().into(),
            id: tag.reference("id").unwrap_or_default().into(),
        });
        Ok(None)
    }

    /// Ids are unique in a process across all of its scopes, as the engine requires.
    fn add_node(
        &mut self,
        parent: Option<NodeId>,
        kind: Kind,
        tag: &Tag,
    ) -> Result<NodeId, ModelError> {
        let id = tag.id()?;
        // MAX_BYTES keeps the count far below.
        let node = NodeId(u32::try_from(self.graph.nodes.len()).unwrap_or(u32::MAX));
        if self.ids.insert(id.clone(), node).is_some() {
            return Err(ModelError::DuplicateId { id, line: tag.line });
        }
        if matches!(kind, Kind::BoundaryEvent { .. }) {
            let host = Reference {
                id: tag
                    .reference("attachedToRef")
                    .unwrap_or_default()
                    .to_owned(),
                element: tag.written.clone(),
                line: tag.line,
            };
            self.hosts.push((node, host));
        }
        let is_process_start = parent.is_none() && matches!(kind, Kind::StartEvent { .. });
        if let Some(initiator) = tag.extension("initiator")
            && is_process_start
        {
            self.graph.initiator = Some(initiator.to_owned());
        }
        self.graph.nodes.push(Node {
            element: Element {
                name: tag.name.as_str().into(),
                id: id.into(),
            },
            kind,
            parent,
            triggers: Vec::new(),
            looping: Looping::Once,
            is_for_compensation: tag.flag("isForCompensation", false)?,
            async_before: tag.is_async_before(),
            default_flow: tag.reference("default").map(str::to_owned),
        });
        // Without the attribute a receive task is signalled and waits for no message.
        if kind == Kind::ReceiveTask && tag.attribute("messageRef").is_some() {
            self.add_trigger(node, "messageEventDefinition", tag);
        }
        Ok(node)
    }

    /// A child element of a flow node; returns the node that it begins, if any.
    fn node_part(&mut self, node: NodeId, tag: &Tag) -> Result<Option<NodeId>, ModelError> {
        let name = tag.name.as_str();
        if name == "multiInstanceLoopCharacteristics" {
            let is_sequential = tag.flag("isSequential", false)?;
            self.node_mut(node).looping = if is_sequential {
                Looping::Sequential
            } else {
                Looping::Parallel
            };
        } else if name.ends_with("EventDefinition") || name == "eventDefinitionRef" {
            self.add_trigger(node, name, tag);
        } else if matches!(
            self.graph.node(node).kind,
            Kind::SubProcess | Kind::EventSubProcess
        ) {
            return self.scope_part(Some(node), tag);
        }
        Ok(None)
    }

    /// `definition` is the element's name; the engine reads only those that stand in the event
    /// itself, so a reference to one elsewhere is a trigger that nobody knows.
    fn add_trigger(&mut self, node: NodeId, definition: &str, tag: &Tag) {
        let nth = self.graph.node(node).triggers.len();
        let trigger = match definition {
            "messageEventDefinition" => {
                let reference = tag.reference("messageRef").unwrap_or_default();
                // A prefix only repeats the target namespace, which all messages of a file share.
                let id = reference.rsplit(':').next().unwrap_or_default();
                self.messages.push((node, nth, id.to_owned()));
                Trigger::Message(MessageName::Dynamic)
            }
            "linkEventDefinition" => {
                Trigger::Link(tag.attribute("name").unwrap_or_default().to_owned())
            }
            "timerEventDefinition" => Trigger::Timer,
            "signalEventDefinition" => Trigger::Signal,
            "conditionalEventDefinition" => Trigger::Conditional,
            "errorEventDefinition" => Trigger::Error,
            "escalationEventDefinition" => Trigger::Escalation,
            "compensateEventDefinition" => Trigger::Compensation,
            _ => Trigger::Other,
        };
        self.node_mut(node).triggers.push(trigger);
    }

    fn node_mut(&mut self, node: NodeId) -> &mut Node {
        &mut self.graph.nodes[node.0 as usize]
    }

    /// Follows the references, now that everything they may lead to is known.
    fn finish(mut self, messages: &HashMap<String, MessageName>) -> Result<Graph, ModelError> {
        for (node, nth, id) in mem::take(&mut self.messages) {
            if let Some(name) = messages.get(&id) {
                self.node_mut(node).triggers[nth] = Trigger::Message(name.clone());
            }
        }
        if self.graph.unsupported.is_some() {
            // Flows may lead to what is not there; nothing will be concluded from the others.
            return Ok(self.graph);
        }
        for flow in mem::take(&mut self.flows) {
            let source = self.resolve(flow.parent, flow.source)?;
            let target = self.resolve(flow.parent, flow.target)?;
            self.graph.flows.push(Flow {
                id: flow.id,
                source,
                target,
            });
        }
        for (event, host) in mem::take(&mut self.hosts) {
            let host = self.resolve(self.graph.node(event).parent, host)?;
            self.graph.attachments.push(Attachment { host, event });
        }
        Ok(self.graph)
    }

    /// Flows and boundary events never reach across the border of a subprocess.
    fn resolve(&self, scope: Option<NodeId>, to: Reference) -> Result<NodeId, ModelError> {
        let node = self.ids.get(&to.id).copied();
        node.filter(|&node| self.graph.node(node).parent == scope)
            .ok_or(ModelError::Dangling {
                element: to.element,
                reference: to.id,
                line: to.line,
            })
    }
}

/// `None` for an element that may move tokens in a way that is not known here: a complex gateway, an
/// ad-hoc subprocess (which the engine leaves out), whatever a later standard or a tool adds.
fn kind_of(tag: &Tag) -> Result<Option<Kind>, ModelError> {
    Ok(Some(match tag.name.as_str() {
        "startEvent" => Kind::StartEvent {
            interrupting: tag.flag("isInterrupting", true)?,
        },
        "intermediateCatchEvent" => Kind::CatchEvent,
        "boundaryEvent" => Kind::BoundaryEvent {
            interrupting: tag.flag("cancelActivity", true)?,
        },
        "intermediateThrowEvent" | "endEvent" => Kind::ThrowEvent,
        "receiveTask" => Kind::ReceiveTask,
        "task" | "userTask" | "serviceTask" | "scriptTask" | "sendTask" | "manualTask"
        | "businessRuleTask" | "callActivity" => Kind::Activity,
        "exclusiveGateway" => Kind::ExclusiveGateway,
        "inclusiveGateway" => Kind::InclusiveGateway,
        "parallelGateway" => Kind::ParallelGateway,
        "eventBasedGateway" => Kind::EventBasedGateway,
        "subProcess" if tag.flag("triggeredByEvent", false)? => Kind::EventSubProcess,
        "subProcess" | "transaction" => Kind::SubProcess,
        _ => return Ok(None),
    }))
}
