//! What a deployed BPMN 2.0 model says about messages: which names its instances wait for, whether
//! an instance can ever wait for one name twice at a time, or again, and where an instance may begin.
//!
//! The rows that Sluice writes bypass the checks that the engine makes when it is asked through its
//! API, so this module makes them on the model: pure functions on bytes, no database, no clock. It
//! reads the XML the way the engine does (attributes, defaults and quirks that change the flow of
//! tokens included) and ignores everything else: expressions, forms, listeners, the diagram.
//!
//! It cannot see what is not in the file: delegates or parse listeners that move executions by
//! themselves, instance modification and migration through the engine's API.
//!
//! Invariant: **in doubt the answer is a [`Refusal`]**. A wrong yes would let one message complete
//! two waiting places; a wrong no only makes the caller choose another way to deliver.

mod graph;
mod reader;
mod returns;
mod tag;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod token_game;
mod tokens;

use std::collections::{BTreeSet, HashMap, HashSet};

use graph::{Graph, Kind, Looping, MessageName, Node, NodeId, Trigger};
use thiserror::Error;
use tokens::Doubt;

pub use graph::Element;

/// Reads all executable processes of one deployed resource, in the order of the file.
///
/// A process whose `isExecutable` is absent or not `true` is left out, as the engine leaves it out
/// when the resource is deployed.
///
/// # Errors
///
/// [`ModelError`] when the bytes are not a BPMN model that the engine would have deployed as it
/// stands, or exceed what this module is willing to look at.
pub fn read(bpmn: &[u8]) -> Result<Vec<Process>, ModelError> {
    let graphs = reader::read(bpmn)?;
    Ok(graphs.into_iter().map(Process::new).collect())
}

/// Why a resource could not be read. Lines count from 1.
#[derive(Debug, Error)]
pub enum ModelError {
    #[error("the model has {bytes} bytes, more than {limit}", limit = reader::MAX_BYTES)]
    TooLarge { bytes: usize },
    #[error("line {line}: elements are nested more than {limit} deep", limit = reader::MAX_DEPTH)]
    TooDeep { line: usize },
    #[error("the model is not UTF-8 text from byte {offset} on")]
    NotUtf8 { offset: usize },
    #[error("the model declares the encoding {encoding}, only UTF-8 is read")]
    Encoding { encoding: String },
    #[error("line {line}: not well-formed XML")]
    Xml {
        line: usize,
        #[source]
        source: quick_xml::Error,
    },
    #[error("line {line}: the model ends inside an element")]
    Unclosed { line: usize },
    #[error("line {line}: a document type declaration could change the model, it is not read")]
    Doctype { line: usize },
    #[error("line {line}: the root element is not BPMN 2.0 definitions")]
    NotBpmn { line: usize },
    #[error("line {line}: {element} has no id")]
    NoId { element: String, line: usize },
    #[error("line {line}: the id '{id}' is used twice in one process")]
    DuplicateId { id: String, line: usize },
    #[error("line {line}: {element} refers to '{reference}', which is not a node of its scope")]
    Dangling {
        element: String,
        reference: String,
        line: usize,
    },
    #[error(
        "line {line}: {attribute}=\"{value}\", where the engine only understands true and false"
    )]
    Flag {
        attribute: &'static str,
        value: String,
        line: usize,
    },
}

/// Why a question about a process was answered with no.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Refusal {
    #[error("no element of the process waits for message '{message_name}'")]
    NoCatcher { message_name: String },
    #[error("{first} and {second} both wait for message '{message_name}'")]
    SeveralCatchers {
        message_name: String,
        first: Element,
        second: Element,
    },
    #[error("the message name of {catcher} is an expression and may become any name")]
    NameExpression { catcher: Element },
    #[error("{element} is multi-instance, so {catcher} may wait several times at once")]
    MultiInstance { element: Element, catcher: Element },
    #[error("{element} may run any number of times at once, so {catcher} may wait twice")]
    Repeats { element: Element, catcher: Element },
    #[error("the flow forks at {fork} and may reach {element} twice, so {catcher} may wait twice")]
    Fork {
        fork: Element,
        element: Element,
        catcher: Element,
    },
    #[error("{element} may be entered again, so {catcher} may wait for another one later")]
    Returns { element: Element, catcher: Element },
    #[error("{element} is not an element whose flow of tokens is known")]
    Unsupported { element: Element },
    #[error("a scope with {places} elements is too large to prove anything about it")]
    TooLarge { places: usize },
    #[error("no start event of the process is started by message '{message_name}'")]
    NoMessageStart { message_name: String },
    #[error("the process has no start event without a trigger")]
    NoPlainStart,
    #[error("{first} and {second} could both be the start")]
    SeveralStarts { first: Element, second: Element },
    #[error(
        "{element} listens from the start of an instance, and rows would start it without listening"
    )]
    ListensFromStart { element: Element },
}

/// A start event that an instance may begin at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StartEvent {
    /// The event's id, the engine's activity id.
    pub id: String,
    /// Whether the engine itself continues asynchronously before this event: only then has the
    /// definition a job definition for it.
    pub async_before: bool,
    /// The variable that the engine fills with the authenticated user, or with null when there is
    /// none, as in a start by rows.
    pub initiator: Option<String>,
}

/// One executable process of a resource.
#[derive(Clone, Debug)]
pub struct Process {
    /// The process definition key.
    pub key: String,
    /// The literal message names that start events and catching elements wait for.
    pub message_names: BTreeSet<String>,
    /// Whether some element waits for a message whose name is only known at run time.
    pub has_name_expressions: bool,
    graph: Graph,
    /// The nodes that may hold two tokens, found once: the question comes with every message.
    doubts: HashMap<NodeId, Doubt>,
    /// The nodes that may be entered again.
    returning: HashSet<NodeId>,
}

impl Process {
    fn new(graph: Graph) -> Self {
        let names: Vec<&MessageName> = graph.nodes.iter().flat_map(Node::awaits).collect();
        let literal = |name: &&MessageName| match name {
            MessageName::Literal(name) => Some(name.clone()),
            MessageName::Dynamic => None,
        };
        Self {
            key: graph.key.clone(),
            message_names: names.iter().filter_map(literal).collect(),
            has_name_expressions: names.contains(&&MessageName::Dynamic),
            doubts: tokens::doubts(&graph),
            returning: returns::returning(&graph),
            graph,
        }
    }

    /// Whether an instance of the process may wait for a message of this very name.
    pub fn catches(&self, message_name: &str) -> bool {
        self.graph
            .nodes
            .iter()
            .filter(|node| !is_process_start(node))
            .flat_map(Node::awaits)
            .any(|name| matches!(name, MessageName::Literal(name) if name == message_name))
    }

    /// Proves that an instance never holds two subscriptions to this message at one time.
    ///
    /// There must be exactly one catcher of the name (receive task, catch event, boundary event or
    /// start of an event subprocess). A scope starts with one token and no token crosses its
    /// border, so it is enough to show scope by scope that the catcher cannot hold two tokens in
    /// one instance of its scope, nor that scope in one instance of the scope around it, up to the
    /// process. Several subscriptions one after the other are fine, and so is sequential
    /// multi-instance, which has one inner instance at a time.
    ///
    /// # Errors
    ///
    /// [`Refusal`] naming the element that stands in the way of the proof.
    pub fn single_token(&self, message_name: &str) -> Result<(), Refusal> {
        let graph = &self.graph;
        if let Some(element) = &graph.unsupported {
            let element = element.clone();
            return Err(Refusal::Unsupported { element });
        }
        let catcher = self.only_catcher(message_name)?;
        let is_boundary = matches!(graph.node(catcher).kind, Kind::BoundaryEvent { .. });
        for node in self.subscribed(catcher) {
            // On a multi-instance host the subscription belongs to the body around all the
            // instances, so the host's own looping does not matter.
            if !is_boundary {
                self.not_multi_instance(node, catcher)?;
            }
            self.holds_one_token(node, catcher)?;
        }
        for owner in self.scopes_around(catcher) {
            self.not_multi_instance(owner, catcher)?;
            self.holds_one_token(owner, catcher)?;
        }
        Ok(())
    }

    /// Whether a job that correlates by instance and name alone reaches the subscription that was chosen, and
    /// no other: `by_keys` when it was chosen by correlation keys, which such a job does not know.
    ///
    /// # Errors
    ///
    /// As [`Process::single_token`] and [`Process::waits_once`].
    pub fn carries_one(&self, message_name: &str, by_keys: bool) -> Result<(), Refusal> {
        self.single_token(message_name)?;
        if by_keys {
            self.waits_once(message_name)?;
        }
        Ok(())
    }

    /// Proves that an instance which waits for this message never waits for it anew: what is
    /// correlated later by the name alone meets what was waiting before, or nobody.
    ///
    /// Neither the catcher nor a scope around it may lie on a cycle or be multi-instance.
    ///
    /// # Errors
    ///
    /// [`Refusal`] naming the element that may be entered again.
    pub fn waits_once(&self, message_name: &str) -> Result<(), Refusal> {
        let catcher = self.only_catcher(message_name)?;
        let places = self.subscribed(catcher).into_iter();
        for node in places.chain(self.scopes_around(catcher)) {
            let loops = self.graph.node(node).looping != Looping::Once;
            if loops || self.returning.contains(&node) {
                return Err(Refusal::Returns {
                    element: self.graph.node(node).element.clone(),
                    catcher: self.graph.node(catcher).element.clone(),
                });
            }
        }
        Ok(())
    }

    /// The nodes with whose executions a catcher's subscription comes and goes, besides the scopes
    /// around it.
    fn subscribed(&self, catcher: NodeId) -> Vec<NodeId> {
        match self.graph.node(catcher).kind {
            // The execution around the event subprocess, for as long as it lives, whether or not
            // the event interrupts.
            Kind::StartEvent { .. } => Vec::new(),
            // One subscription for each execution of the host.
            Kind::BoundaryEvent { .. } => self.graph.hosts_of(catcher).collect(),
            // Behind an event-based gateway it is the gateway that is subscribed; two tokens there
            // could both move on to the event, so the event's own place tells.
            _ => vec![catcher],
        }
    }

    /// The subprocesses in which a catcher's subscription lies, from the inside.
    fn scopes_around(&self, catcher: NodeId) -> impl Iterator<Item = NodeId> {
        let parent = |node: NodeId| self.graph.node(node).parent;
        let inner = match self.graph.node(catcher).kind {
            Kind::StartEvent { .. } => parent(catcher).and_then(parent),
            _ => parent(catcher),
        };
        std::iter::successors(inner, move |&owner| parent(owner))
    }

    /// The start event that this message starts an instance at.
    ///
    /// # Errors
    ///
    /// [`Refusal`] when there is none, or when an instance may not be started by rows at all.
    pub fn start_by_message(&self, message_name: &str) -> Result<StartEvent, Refusal> {
        let starts = self.process_starts().filter(|node| {
            // With several definitions the engine obeys only one of them.
            matches!(node.triggers.as_slice(),
                [Trigger::Message(MessageName::Literal(name))] if name == message_name)
        });
        let message_name = message_name.to_owned();
        self.only_start(starts, Refusal::NoMessageStart { message_name })
    }

    /// The start event that an instance begins at when it is started by the definition's key: the
    /// only start event of the process that has no trigger.
    ///
    /// # Errors
    ///
    /// [`Refusal`] when it is not the only one or does not exist, or when an instance may not be
    /// started by rows at all.
    pub fn start_by_key(&self) -> Result<StartEvent, Refusal> {
        let starts = self
            .process_starts()
            .filter(|node| node.triggers.is_empty());
        self.only_start(starts, Refusal::NoPlainStart)
    }

    fn only_catcher(&self, message_name: &str) -> Result<NodeId, Refusal> {
        let mut found: Option<NodeId> = None;
        for (id, node) in self.graph.nodes() {
            if is_process_start(node) {
                continue;
            }
            for name in node.awaits() {
                match (name, found) {
                    (MessageName::Dynamic, _) => {
                        let catcher = node.element.clone();
                        return Err(Refusal::NameExpression { catcher });
                    }
                    (MessageName::Literal(name), _) if name != message_name => {}
                    (MessageName::Literal(_), None) => found = Some(id),
                    (MessageName::Literal(_), Some(first)) => {
                        return Err(Refusal::SeveralCatchers {
                            message_name: message_name.to_owned(),
                            first: self.graph.node(first).element.clone(),
                            second: node.element.clone(),
                        });
                    }
                }
            }
        }
        found.ok_or_else(|| Refusal::NoCatcher {
            message_name: message_name.to_owned(),
        })
    }

    fn not_multi_instance(&self, node: NodeId, catcher: NodeId) -> Result<(), Refusal> {
        match self.graph.node(node).looping {
            Looping::Once | Looping::Sequential => Ok(()),
            Looping::Parallel => Err(Refusal::MultiInstance {
                element: self.graph.node(node).element.clone(),
                catcher: self.graph.node(catcher).element.clone(),
            }),
        }
    }

    /// Proves that one instance of the scope around `node` never has two tokens on it.
    fn holds_one_token(&self, node: NodeId, catcher: NodeId) -> Result<(), Refusal> {
        let element = |node: NodeId| self.graph.node(node).element.clone();
        match self.doubts.get(&node).copied() {
            None => Ok(()),
            Some(Doubt::TooLarge { places }) => Err(Refusal::TooLarge { places }),
            Some(Doubt::SecondToken { from }) if self.graph.repeats(from) => {
                Err(Refusal::Repeats {
                    element: element(from),
                    catcher: element(catcher),
                })
            }
            Some(Doubt::SecondToken { from }) => Err(Refusal::Fork {
                fork: element(from),
                element: element(node),
                catcher: element(catcher),
            }),
        }
    }

    fn process_starts(&self) -> impl Iterator<Item = &Node> {
        self.graph
            .nodes
            .iter()
            .filter(|node| is_process_start(node))
    }

    fn only_start<'a>(
        &self,
        mut starts: impl Iterator<Item = &'a Node>,
        none: Refusal,
    ) -> Result<StartEvent, Refusal> {
        let start = starts.next().ok_or(none)?;
        if let Some(second) = starts.next() {
            return Err(Refusal::SeveralStarts {
                first: start.element.clone(),
                second: second.element.clone(),
            });
        }
        self.nothing_listens_from_start()?;
        Ok(StartEvent {
            id: start.element.id.to_string(),
            async_before: start.async_before,
            // The engine keeps one initiator per process, the last that it reads, and fills it
            // whichever start event is used.
            initiator: self.graph.initiator.clone(),
        })
    }

    /// The engine subscribes an instance's event subprocesses (and creates their timers) while it
    /// starts the instance; an instance that appears as rows has passed that point without it.
    /// Errors, escalations and compensation find their event subprocess without a subscription.
    fn nothing_listens_from_start(&self) -> Result<(), Refusal> {
        let graph = &self.graph;
        for (id, owner) in graph.nodes() {
            if owner.parent.is_some() || owner.kind != Kind::EventSubProcess {
                continue;
            }
            let is_caught_without_rows = graph.starts_of(Some(id)).all(|(_, start)| {
                let rowless = [Trigger::Error, Trigger::Escalation, Trigger::Compensation];
                !start.triggers.is_empty()
                    && start
                        .triggers
                        .iter()
                        .all(|trigger| rowless.contains(trigger))
            });
            if !is_caught_without_rows {
                let element = owner.element.clone();
                return Err(Refusal::ListensFromStart { element });
            }
        }
        Ok(())
    }
}

/// A start event of the process subscribes the definition, never an instance.
fn is_process_start(node: &Node) -> bool {
    node.parent.is_none() && matches!(node.kind, Kind::StartEvent { .. })
}
