//! Plays a process token by token, as the engine does, to check what is proved about it.
//!
//! A state is a tree: an instance of a scope has tokens, a token on a subprocess has the instances
//! inside it. It shares the graph with the code under test, and nothing else.

use std::collections::{BTreeSet, VecDeque};

use super::graph::{Flow, Graph, Kind, Looping, MessageName, Node, NodeId, Trigger};

/// States with more tokens are not followed: two waiting ones are seen long before.
const MAX_TOKENS: usize = 7;
const MAX_STATES: usize = 2_000;

#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
struct Instance {
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Token {
    node: NodeId,
    inside: Vec<Instance>,
}

/// How often a run of the process can wait for the message at one time: 0, 1, or 2 for more.
pub(super) fn most_waiting(graph: &Graph, message_name: &str) -> usize {
    let game = Game {
        graph,
        message_name,
    };
    let mut queue: VecDeque<Instance> = game.begin(None).into();
    let mut seen: BTreeSet<Instance> = queue.iter().cloned().collect();
    let mut most = 0;
    while let Some(instance) = queue.pop_front() {
        most = most.max(game.waiting(&instance, None));
        if most >= 2 {
            return 2;
        }
        for next in game.steps(&instance, None) {
            let is_followed = next.size() <= MAX_TOKENS && seen.len() < MAX_STATES;
            if is_followed && seen.insert(next.clone()) {
                queue.push_back(next);
            }
        }
    }
    most
}

impl Instance {
    fn size(&self) -> usize {
        let inside = self.tokens.iter().flat_map(|token| &token.inside);
        self.tokens.len() + inside.map(Instance::size).sum::<usize>()
    }

    fn with(&self, token: Token) -> Self {
        let mut next = self.clone();
        next.tokens.push(token);
        next.tokens.sort();
        next
    }

    fn without(&self, nth: usize) -> Self {
        let mut next = self.clone();
        next.tokens.remove(nth);
        next
    }

    fn count(&self, node: NodeId) -> usize {
        self.tokens
            .iter()
            .filter(|token| token.node == node)
            .count()
    }
}

struct Game<'a> {
    graph: &'a Graph,
    message_name: &'a str,
}

impl Game<'_> {
    fn awaits(&self, node: NodeId) -> bool {
        let name = MessageName::Literal(self.message_name.to_owned());
        self.graph
            .node(node)
            .awaits()
            .any(|awaited| *awaited == name)
    }

    fn node(&self, id: NodeId) -> &Node {
        self.graph.node(id)
    }

    fn leaving(&self, id: NodeId) -> Vec<&Flow> {
        self.graph
            .flows
            .iter()
            .filter(|flow| flow.source == id)
            .collect()
    }

    fn arriving(&self, id: NodeId) -> usize {
        self.graph
            .flows
            .iter()
            .filter(|flow| flow.target == id)
            .count()
    }

    fn attached(&self, host: NodeId) -> impl Iterator<Item = NodeId> {
        let attachments = self.graph.attachments.iter();
        attachments.filter(move |a| a.host == host).map(|a| a.event)
    }

    fn waiting(&self, instance: &Instance, scope: Option<NodeId>) -> usize {
        let mut count = 0;
        for (id, node) in self.graph.nodes_in(scope) {
            if node.kind == Kind::EventSubProcess {
                let starts = self.graph.starts_of(Some(id));
                count += starts.filter(|(start, _)| self.awaits(*start)).count();
            }
        }
        for token in &instance.tokens {
            let node = self.node(token.node);
            count += self
                .attached(token.node)
                .filter(|event| self.awaits(*event))
                .count();
            count += match node.kind {
                Kind::ReceiveTask | Kind::CatchEvent if self.awaits(token.node) => {
                    if node.looping == Looping::Parallel {
                        2
                    } else {
                        1
                    }
                }
                Kind::EventBasedGateway => {
                    let flows = self.leaving(token.node);
                    flows.iter().filter(|flow| self.awaits(flow.target)).count()
                }
                _ => 0,
            };
            let inside = token.inside.iter();
            count += inside
                .map(|inner| self.waiting(inner, Some(token.node)))
                .sum::<usize>();
        }
        count
    }

    /// The states that an instance of `scope` can begin in.
    fn begin(&self, scope: Option<NodeId>) -> Vec<Instance> {
        let starts = self.graph.starts_of(scope);
        starts
            .flat_map(|(start, _)| self.arrive(&Instance::default(), start))
            .collect()
    }

    fn arrive(&self, instance: &Instance, id: NodeId) -> Vec<Instance> {
        let node = self.node(id);
        if !matches!(node.kind, Kind::SubProcess | Kind::EventSubProcess) {
            let token = Token {
                node: id,
                inside: Vec::new(),
            };
            return vec![instance.with(token)];
        }
        let copies = if node.looping == Looping::Parallel {
            2
        } else {
            1
        };
        let begun = self.begin(Some(id)).into_iter();
        begun
            .map(|inner| {
                instance.with(Token {
                    node: id,
                    inside: vec![inner; copies],
                })
            })
            .collect()
    }

    fn arrive_all(&self, instance: &Instance, ids: &[NodeId]) -> Vec<Instance> {
        ids.iter().fold(vec![instance.clone()], |states, &id| {
            states
                .iter()
                .flat_map(|state| self.arrive(state, id))
                .collect()
        })
    }

    fn steps(&self, instance: &Instance, scope: Option<NodeId>) -> Vec<Instance> {
        let mut next = Vec::new();
        for (nth, token) in instance.tokens.iter().enumerate() {
            let rest = instance.without(nth);
            for event in self.attached(token.node) {
                let interrupts =
                    self.node(event).kind == Kind::BoundaryEvent { interrupting: true };
                let stays = if interrupts { &rest } else { instance };
                next.extend(self.arrive(stays, event));
            }
            if token.inside.is_empty() {
                next.extend(self.complete(instance, &rest, token.node));
            } else {
                next.extend(self.inside(&rest, token));
            }
        }
        for (id, node) in self.graph.nodes_in(scope) {
            if node.is_for_compensation {
                next.extend(self.arrive(instance, id));
            } else if node.kind == Kind::EventSubProcess {
                let interrupts = self
                    .graph
                    .starts_of(Some(id))
                    .all(|(_, start)| start.kind == Kind::StartEvent { interrupting: true });
                let stays = if interrupts {
                    &Instance::default()
                } else {
                    instance
                };
                next.extend(self.arrive(stays, id));
            }
        }
        next
    }

    /// Steps inside a subprocess, and its completion when nothing is left inside.
    fn inside(&self, rest: &Instance, token: &Token) -> Vec<Instance> {
        let mut next = Vec::new();
        for (nth, inner) in token.inside.iter().enumerate() {
            for stepped in self.steps(inner, Some(token.node)) {
                let mut token = token.clone();
                token.inside[nth] = stepped;
                token.inside.sort();
                next.push(rest.with(token));
            }
            if inner.tokens.is_empty() {
                let mut token = token.clone();
                token.inside.remove(nth);
                if token.inside.is_empty() {
                    next.extend(self.leave(rest, token.node));
                    if self.node(token.node).looping == Looping::Sequential {
                        next.extend(self.arrive(rest, token.node));
                    }
                } else {
                    next.push(rest.with(token));
                }
            }
        }
        next
    }

    fn complete(&self, instance: &Instance, rest: &Instance, id: NodeId) -> Vec<Instance> {
        match self.node(id).kind {
            Kind::ParallelGateway => {
                let joined = self.arriving(id).max(1);
                if instance.count(id) < joined {
                    return Vec::new();
                }
                let mut left = instance.clone();
                for _ in 0..joined {
                    let nth = left.tokens.iter().position(|token| token.node == id);
                    left = nth.map_or(left.clone(), |nth| left.without(nth));
                }
                let targets: Vec<NodeId> = self.leaving(id).iter().map(|f| f.target).collect();
                self.arrive_all(&left, &targets)
            }
            Kind::InclusiveGateway => {
                let others = instance.tokens.iter().filter(|token| token.node != id);
                let comes = others
                    .map(|token| token.node)
                    .any(|from| self.reaches(from, id));
                if comes && instance.count(id) < self.arriving(id) {
                    return Vec::new();
                }
                let mut left = instance.clone();
                left.tokens.retain(|token| token.node != id);
                self.leave(&left, id)
            }
            _ => self.leave(rest, id),
        }
    }

    /// Along sequence flows only, as the engine looks: not by way of boundary events.
    fn reaches(&self, from: NodeId, to: NodeId) -> bool {
        let mut open = vec![from];
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            if id == to {
                return true;
            }
            if seen.insert(id) {
                open.extend(self.targets(id));
            }
        }
        false
    }

    fn targets(&self, id: NodeId) -> Vec<NodeId> {
        let mut targets: Vec<NodeId> = self.leaving(id).iter().map(|flow| flow.target).collect();
        if self.node(id).kind == Kind::ThrowEvent {
            let thrown = &self.node(id).triggers;
            let is_link = |trigger: &Trigger| matches!(trigger, Trigger::Link(_));
            for (other, node) in self.graph.nodes_in(self.node(id).parent) {
                let catches = node.kind == Kind::CatchEvent;
                if catches
                    && node
                        .triggers
                        .iter()
                        .any(|t| is_link(t) && thrown.contains(t))
                {
                    targets.push(other);
                }
            }
        }
        targets
    }

    /// Puts tokens on some of the flows that leave a node.
    fn leave(&self, rest: &Instance, id: NodeId) -> Vec<Instance> {
        let node = self.node(id);
        let targets = self.targets(id);
        if targets.is_empty() {
            return vec![rest.clone()];
        }
        if node.kind == Kind::EventBasedGateway {
            return targets
                .iter()
                .flat_map(|&caught| self.leave(rest, caught))
                .collect();
        }
        if node.kind == Kind::ExclusiveGateway {
            return targets
                .iter()
                .flat_map(|&target| self.arrive(rest, target))
                .collect();
        }
        let flows = self.leaving(id);
        let default = flows.iter().position(|flow| {
            node.looping == Looping::Once
                && node.default_flow.is_some()
                && flow.id == node.default_flow
        });
        let mut next = Vec::new();
        for chosen in 1..1_usize << targets.len() {
            let subset: Vec<usize> = (0..targets.len())
                .filter(|nth| chosen & (1 << nth) != 0)
                .collect();
            if subset.len() > 1 && default.is_some_and(|default| subset.contains(&default)) {
                continue;
            }
            let subset: Vec<NodeId> = subset.iter().map(|&nth| targets[nth]).collect();
            next.extend(self.arrive_all(rest, &subset));
        }
        next
    }
}
