//! Which nodes of a scope can hold tokens at the same time.
//!
//! One instance of one scope is taken as a net of places and transitions: a place for each node,
//! and one for each flow into a gateway that joins; a subprocess is one place, whatever happens
//! inside. The net does everything that the engine can do, and more: conditions may all hold, a
//! boundary event may fire at any time, a non-interrupting one any number of times, and an inclusive
//! gateway lets every token through instead of waiting for others.
//!
//! The relation computed on it holds every two places that some reachable state marks together (a
//! place with itself: two tokens there). It is the least one closed under two rules, so it costs the
//! square of the scope's size instead of the number of its states:
//!
//! 1. places that one transition fills are marked together;
//! 2. a place that can be marked together with all that a transition empties can be marked together
//!    with all that it fills.
//!
//! By induction over the steps of any run it misses no pair: two tokens side by side after a step
//! were both made by it (1), or one was made while the other stayed (2), or both were there before.
//! It may hold pairs that never happen, which costs a yes and never makes a wrong one. (Kovalyov
//! uses the same relation; for live and bounded free-choice nets it is exact.)

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use super::graph::{Flow, Graph, Kind, Looping, Node, NodeId, Trigger};

/// The table of pairs grows with the square of this; a scope.
const MAX_PLACES: usize = 1_000;
/// Every scope looks through all of these; a process.
const MAX_NODES: usize = 5_000;

/// Why a node is not known to hold at most one token in one instance of its scope.
#[derive(Clone, Copy, Debug)]
pub(super) enum Doubt {
    /// This node can bring a second token, by forking or by running at any time.
    SecondToken { from: NodeId },
    /// There are too many to keep the pairs of.
    TooLarge { places: usize },
}

/// All nodes of a process that are in doubt; the others hold at most one token.
pub(super) fn doubts(graph: &Graph) -> HashMap<NodeId, Doubt> {
    let places = graph.nodes.len();
    if places > MAX_NODES {
        let doubt = Doubt::TooLarge { places };
        return graph.nodes().map(|(id, _)| (id, doubt)).collect();
    }
    let owners = graph.nodes().filter_map(|(_, node)| node.parent);
    let scopes: BTreeSet<Option<NodeId>> = owners.map(Some).chain([None]).collect();
    let in_scope = |scope| doubts_in(Net::of(graph, scope));
    scopes.into_iter().flat_map(in_scope).collect()
}

fn doubts_in(net: Net) -> Vec<(NodeId, Doubt)> {
    let place_of: Vec<(NodeId, usize)> = net.place_of.iter().map(|(&n, &p)| (n, p)).collect();
    let places = net.places;
    if places > MAX_PLACES {
        let doubt = Doubt::TooLarge { places };
        return place_of
            .into_iter()
            .map(|(node, _)| (node, doubt))
            .collect();
    }
    let pairs = Closure::new(net).run();
    let doubt = |(node, place)| {
        let from = pairs.cause(place, place)?;
        Some((node, Doubt::SecondToken { from }))
    };
    place_of.into_iter().filter_map(doubt).collect()
}

/// Takes one token from each place of `from`, puts one into each place of `to`.
struct Transition {
    from: Vec<usize>,
    to: Vec<usize>,
    /// The node that this is a step of.
    cause: NodeId,
}

/// Where the one token of a fresh instance lies.
const ENTRY: usize = 0;

struct Net {
    places: usize,
    place_of: HashMap<NodeId, usize>,
    /// For each flow into a joining gateway, by its index in the graph.
    place_of_flow: HashMap<usize, usize>,
    transitions: Vec<Transition>,
    /// Places that hold any number of tokens from the beginning.
    springs: Vec<NodeId>,
}

impl Net {
    fn of(graph: &Graph, scope: Option<NodeId>) -> Self {
        let mut net = Self {
            places: ENTRY + 1,
            place_of: HashMap::new(),
            place_of_flow: HashMap::new(),
            transitions: Vec::new(),
            springs: Vec::new(),
        };
        for (id, _) in graph.nodes_in(scope) {
            let place = net.place();
            net.place_of.insert(id, place);
        }
        for (index, flow) in graph.flows.iter().enumerate() {
            let is_here = net.place_of.contains_key(&flow.target);
            if is_here && graph.node(flow.target).kind == Kind::ParallelGateway {
                let place = net.place();
                net.place_of_flow.insert(index, place);
            }
        }
        for (id, node) in graph.nodes_in(scope) {
            net.begin(graph, id, node);
            net.leave(graph, id, node);
        }
        for attachment in &graph.attachments {
            let Some(&host) = net.place_of.get(&attachment.host) else {
                continue;
            };
            let event = net.place_of[&attachment.event];
            let to = match graph.node(attachment.event).kind {
                Kind::BoundaryEvent { interrupting: true } => vec![event],
                _ => vec![host, event],
            };
            net.step(attachment.event, vec![host], to);
        }
        net
    }

    fn place(&mut self) -> usize {
        self.places += 1;
        self.places - 1
    }

    fn step(&mut self, cause: NodeId, from: Vec<usize>, to: Vec<usize>) {
        self.transitions.push(Transition { from, to, cause });
    }

    /// How the node gets tokens without a sequence flow.
    fn begin(&mut self, graph: &Graph, id: NodeId, node: &Node) {
        let place = self.place_of[&id];
        if graph.repeats(id) {
            self.springs.push(id);
        } else if matches!(node.kind, Kind::StartEvent { .. } | Kind::EventSubProcess) {
            // An interrupting event subprocess ends every other token of its scope, so a scope in
            // which one runs looks like a scope that began with it.
            self.step(id, vec![ENTRY], vec![place]);
        }
    }

    /// What the node does with its tokens when it is done.
    fn leave(&mut self, graph: &Graph, id: NodeId, node: &Node) {
        let mut joined = Vec::new();
        let mut targets = Vec::new();
        let mut otherwise = Vec::new();
        for (index, flow) in graph.flows.iter().enumerate() {
            if flow.target == id {
                joined.extend(self.place_of_flow.get(&index));
            }
            if flow.source == id {
                let edge = self.place_of_flow.get(&index);
                let target = edge.copied().unwrap_or_else(|| self.place_of[&flow.target]);
                if is_default(node, flow) {
                    otherwise.push(target);
                } else {
                    targets.push(target);
                }
            }
        }
        targets.extend(link_targets(graph, node).map(|target| self.place_of[&target]));
        let place = self.place_of[&id];
        match node.kind {
            Kind::ParallelGateway => {
                targets.append(&mut otherwise);
                let from = if joined.is_empty() {
                    vec![place]
                } else {
                    joined
                };
                self.step(id, from, targets);
            }
            Kind::ExclusiveGateway | Kind::EventBasedGateway => {
                for target in targets.into_iter().chain(otherwise) {
                    self.step(id, vec![place], vec![target]);
                }
            }
            Kind::StartEvent { .. }
            | Kind::CatchEvent
            | Kind::BoundaryEvent { .. }
            | Kind::ThrowEvent
            | Kind::ReceiveTask
            | Kind::Activity
            | Kind::InclusiveGateway
            | Kind::SubProcess
            | Kind::EventSubProcess => {
                // Everything but a gateway forks, too, when it has several flows; that only some
                // of their conditions may hold makes fewer tokens, never other ones.
                self.step(id, vec![place], targets);
                for target in otherwise {
                    self.step(id, vec![place], vec![target]);
                }
            }
        }
    }
}

/// The engine looks for the default flow on the body of a multi-instance activity, which has none:
/// there the flow is one like all others and is taken beside them.
fn is_default(node: &Node, flow: &Flow) -> bool {
    node.looping == Looping::Once && flow.id.is_some() && flow.id == node.default_flow
}

/// A throwing link hands its token to the catching one of the same name in its scope.
fn link_targets(graph: &Graph, node: &Node) -> impl Iterator<Item = NodeId> {
    let throws = node.kind == Kind::ThrowEvent;
    let links: Vec<&Trigger> = node
        .triggers
        .iter()
        .filter(|trigger| throws && matches!(trigger, Trigger::Link(_)))
        .collect();
    graph
        .nodes_in(node.parent)
        .filter(move |(_, other)| {
            other.kind == Kind::CatchEvent
                && other
                    .triggers
                    .iter()
                    .any(|trigger| links.contains(&trigger))
        })
        .map(|(id, _)| id)
}

/// A symmetric table: for two places that can be marked together the node that made it so.
struct Pairs {
    places: usize,
    causes: Vec<Option<NodeId>>,
}

impl Pairs {
    fn cause(&self, first: usize, second: usize) -> Option<NodeId> {
        self.causes[first * self.places + second]
    }

    /// Returns whether the pair is new.
    fn insert(&mut self, first: usize, second: usize, cause: NodeId) -> bool {
        if self.cause(first, second).is_some() {
            return false;
        }
        self.causes[first * self.places + second] = Some(cause);
        self.causes[second * self.places + first] = Some(cause);
        true
    }
}

/// What was found and has not been drawn conclusions from.
enum News {
    Marked(usize),
    Pair(usize, usize),
}

/// Applies the two rules until nothing new comes of them.
struct Closure {
    transitions: Vec<Rc<Transition>>,
    /// For each place the transitions that take from it.
    takers: Vec<Vec<usize>>,
    /// For each transition whether it can ever fire.
    fires: Vec<bool>,
    /// For each transition whether it has been taken apart by [`Closure::loosen`].
    loose: Vec<bool>,
    marked: Vec<bool>,
    pairs: Pairs,
    news: Vec<News>,
}

impl Closure {
    fn new(net: Net) -> Self {
        let places = net.places;
        let mut closure = Self {
            transitions: Vec::new(),
            takers: vec![Vec::new(); places],
            fires: Vec::new(),
            loose: Vec::new(),
            marked: vec![false; places],
            pairs: Pairs {
                places,
                causes: vec![None; places * places],
            },
            news: Vec::new(),
        };
        for transition in net.transitions {
            closure.add(transition);
        }
        closure.mark(ENTRY);
        for (index, spring) in net.springs.iter().enumerate() {
            let place = net.place_of[spring];
            closure.mark(place);
            closure.pair(place, ENTRY, *spring);
            for other in &net.springs[..=index] {
                closure.pair(place, net.place_of[other], *spring);
            }
        }
        closure
    }

    fn run(mut self) -> Pairs {
        while let Some(news) = self.news.pop() {
            match news {
                News::Marked(place) => {
                    for nth in 0..self.takers[place].len() {
                        self.fire(self.takers[place][nth]);
                    }
                }
                News::Pair(first, second) => {
                    self.conclude(first, second);
                    self.conclude(second, first);
                }
            }
        }
        self.pairs
    }

    fn add(&mut self, transition: Transition) -> usize {
        let index = self.transitions.len();
        for &place in &transition.from {
            self.takers[place].push(index);
        }
        self.transitions.push(Rc::new(transition));
        self.fires.push(false);
        self.loose.push(false);
        index
    }

    fn mark(&mut self, place: usize) {
        if !self.marked[place] {
            self.marked[place] = true;
            self.news.push(News::Marked(place));
        }
    }

    fn pair(&mut self, first: usize, second: usize, cause: NodeId) {
        if self.pairs.insert(first, second, cause) {
            self.news.push(News::Pair(first, second));
        }
    }

    fn conclude(&mut self, place: usize, beside: usize) {
        for nth in 0..self.takers[place].len() {
            let index = self.takers[place][nth];
            if self.transitions[index].from.contains(&beside) {
                self.fire(index);
                if place == beside {
                    self.loosen(index);
                }
            }
            self.spread(index, beside);
        }
    }

    /// Rule 1, once everything that the transition takes can be there together.
    fn fire(&mut self, index: usize) {
        let step = Rc::clone(&self.transitions[index]);
        let Transition { from, to, cause } = step.as_ref();
        let is_marked = from.iter().all(|&place| self.marked[place]);
        if !is_marked || self.fires[index] || !self.all_together(from) {
            return;
        }
        self.fires[index] = true;
        for (nth, &place) in to.iter().enumerate() {
            self.mark(place);
            // A place that is filled twice at once pairs with itself here.
            for &other in &to[..nth] {
                self.pair(place, other, *cause);
            }
        }
        for beside in 0..self.pairs.places {
            self.spread(index, beside);
        }
    }

    /// Rule 2 for one place that may be marked beside everything that the transition takes.
    fn spread(&mut self, index: usize, beside: usize) {
        if !self.fires[index] {
            return;
        }
        let step = Rc::clone(&self.transitions[index]);
        let mut causes = step
            .from
            .iter()
            .map(|&place| self.pairs.cause(place, beside));
        let Some(Some(cause)) = causes.next() else {
            return;
        };
        if causes.any(|cause| cause.is_none()) {
            return;
        }
        for &place in &step.to {
            self.pair(place, beside, cause);
        }
    }

    fn all_together(&self, places: &[usize]) -> bool {
        places.iter().enumerate().all(|(nth, &place)| {
            places[..nth]
                .iter()
                .all(|&other| self.pairs.cause(place, other).is_some())
        })
    }

    /// The engine's joining gateway counts tokens and does not ask which flow each came by. That is
    /// the same as one from each flow while no flow brings two; as soon as one may, the gateway is
    /// let through by every single token.
    fn loosen(&mut self, index: usize) {
        let join = Rc::clone(&self.transitions[index]);
        if join.from.len() < 2 || self.loose[index] {
            return;
        }
        self.loose[index] = true;
        for &place in &join.from {
            let single = self.add(Transition {
                from: vec![place],
                to: join.to.clone(),
                cause: join.cause,
            });
            self.fire(single);
        }
    }
}
