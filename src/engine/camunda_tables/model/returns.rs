//! Which nodes may be entered again in the life of one instance of their scope: those on a cycle.
//!
//! More edges than the engine ever follows cost a yes and never make a wrong one: a boundary event may follow its
//! host at any time, and a link event throws to all that catch its name.

use std::collections::{BTreeMap, HashSet};

use super::graph::{Graph, Kind, NodeId, Trigger};

pub(super) fn returning(graph: &Graph) -> HashSet<NodeId> {
    let next = edges(graph);
    let nodes = graph.nodes().map(|(id, _)| id);
    nodes.filter(|&node| reaches(&next, node, node)).collect()
}

type Edges = BTreeMap<NodeId, Vec<NodeId>>;

fn edges(graph: &Graph) -> Edges {
    let mut next = Edges::new();
    for flow in &graph.flows {
        next.entry(flow.source).or_default().push(flow.target);
    }
    for attachment in &graph.attachments {
        let from_host = next.entry(attachment.host).or_default();
        from_host.push(attachment.event);
    }
    for (thrower, node) in graph.nodes() {
        if node.kind != Kind::ThrowEvent {
            continue;
        }
        let links = |other: &Trigger| matches!(other, Trigger::Link(_));
        for link in node.triggers.iter().filter(|trigger| links(trigger)) {
            let catchers = graph.nodes_in(node.parent).filter(|(_, other)| {
                other.kind != Kind::ThrowEvent && other.triggers.contains(link)
            });
            let catchers = catchers.map(|(id, _)| id);
            next.entry(thrower).or_default().extend(catchers);
        }
    }
    next
}

/// Whether some way of one step or more leads from one to the other.
fn reaches(next: &Edges, from: NodeId, to: NodeId) -> bool {
    let (mut seen, mut open) = (HashSet::new(), vec![from]);
    while let Some(node) = open.pop() {
        for &follower in next.get(&node).into_iter().flatten() {
            if follower == to {
                return true;
            }
            if seen.insert(follower) {
                open.push(follower);
            }
        }
    }
    false
}
