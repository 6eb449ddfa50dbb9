//! A process as a graph: its flow nodes, where each lies, and what connects them.
//!
//! The nodes of all scopes lie in one list; a node knows the subprocess around it. Nothing here
//! says how tokens move, which is [`tokens`](super::tokens)' part.

use std::fmt;

/// An element of the model as a reader of the XML finds it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Element {
    /// The element's name, for example `receiveTask`.
    pub name: Box<str>,
    pub id: Box<str>,
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}'", self.name, self.id)
    }
}

/// A node's place in [`Graph::nodes`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct NodeId(pub(super) u32);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    StartEvent {
        interrupting: bool,
    },
    CatchEvent,
    BoundaryEvent {
        interrupting: bool,
    },
    /// Intermediate throw events and end events.
    ThrowEvent,
    ReceiveTask,
    /// Every other task, and the call activity: what it calls is an instance of its own.
    Activity,
    ExclusiveGateway,
    InclusiveGateway,
    ParallelGateway,
    EventBasedGateway,
    /// Embedded subprocesses and transactions.
    SubProcess,
    EventSubProcess,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Looping {
    Once,
    Sequential,
    Parallel,
}

/// A message name as an instance will know it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum MessageName {
    Literal(String),
    /// An expression, or nothing that can be resolved: any name, for all that the model says.
    Dynamic,
}

/// One event definition of an event; a receive task has that of its message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Trigger {
    Message(MessageName),
    Link(String),
    Timer,
    Signal,
    Conditional,
    Error,
    Escalation,
    Compensation,
    /// Cancel, terminate, and definitions that stand elsewhere and are only referred to.
    Other,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) element: Element,
    pub(super) kind: Kind,
    /// The subprocess around this node; `None` at the level of the process.
    pub(super) parent: Option<NodeId>,
    pub(super) triggers: Vec<Trigger>,
    pub(super) looping: Looping,
    pub(super) is_for_compensation: bool,
    pub(super) async_before: bool,
    /// The id of the flow that is only taken when no other one is.
    pub(super) default_flow: Option<String>,
}

impl Node {
    /// The message names that this node waits for.
    pub(super) fn awaits(&self) -> impl Iterator<Item = &MessageName> {
        let catches = self.kind != Kind::ThrowEvent;
        self.triggers
            .iter()
            .filter_map(move |trigger| match trigger {
                Trigger::Message(name) if catches => Some(name),
                _ => None,
            })
    }
}

#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) id: Option<String>,
    pub(super) source: NodeId,
    pub(super) target: NodeId,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Attachment {
    pub(super) host: NodeId,
    pub(super) event: NodeId,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Graph {
    pub(super) key: String,
    pub(super) nodes: Vec<Node>,
    /// Sequence flows; source and target lie in the same scope.
    pub(super) flows: Vec<Flow>,
    /// Boundary events and their hosts; both lie in the same scope.
    pub(super) attachments: Vec<Attachment>,
    pub(super) initiator: Option<String>,
    /// The first element that is neither understood nor known to leave tokens alone.
    pub(super) unsupported: Option<Element>,
}

impl Graph {
    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        (0..).map(NodeId).zip(&self.nodes)
    }

    /// The nodes directly in `scope`.
    pub(super) fn nodes_in(&self, scope: Option<NodeId>) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes().filter(move |(_, node)| node.parent == scope)
    }

    /// The start events directly in `scope`.
    pub(super) fn starts_of(&self, scope: Option<NodeId>) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes_in(scope)
            .filter(|(_, node)| matches!(node.kind, Kind::StartEvent { .. }))
    }

    /// What the boundary event is attached to.
    pub(super) fn hosts_of(&self, event: NodeId) -> impl Iterator<Item = NodeId> {
        self.attachments
            .iter()
            .filter(move |attachment| attachment.event == event)
            .map(|attachment| attachment.host)
    }

    /// Whether a node runs outside the flow of tokens, as often as something else asks for it:
    /// compensation handlers, and event subprocesses that do not interrupt their scope.
    pub(super) fn repeats(&self, id: NodeId) -> bool {
        let node = self.node(id);
        let interrupts = |start: &Node| {
            start.kind == Kind::StartEvent { interrupting: true }
                && !start.triggers.contains(&Trigger::Compensation)
        };
        node.is_for_compensation
            || (node.kind == Kind::EventSubProcess
                && !self.starts_of(Some(id)).all(|(_, start)| interrupts(start)))
    }
}
