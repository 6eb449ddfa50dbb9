//! A node, and the way of its batches: match on a snapshot, then one commit for all.

use std::collections::BTreeSet;

use super::broker::{Delivery, Stream, Tracker};
use super::engine::Catcher;
use super::inbox::RowState;
use super::scenario::Way;
use super::sweeper::Sweep;
use super::{Action, NodeId, State, World};

/// Everything that a node knows; a crash forgets it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    pub stream: Option<Stream>,
    pub tracker: Tracker,
    /// Delivered and not in a batch yet.
    pub received: Vec<Delivery>,
    pub batches: Vec<Batch>,
    pub sweep: Option<Sweep>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Batch {
    pub deliveries: Vec<Delivery>,
    /// Who waits for each delivery, as the open transaction saw it; `None` when there is none open.
    matched: Option<Vec<Option<Catcher>>>,
    /// Only where effects do not wait for the rows: they are out.
    effects_are_out: bool,
}

impl State {
    pub fn intake_progress(&self, world: &World, actions: &mut Vec<Action>) {
        for (id, node) in self.nodes.iter().enumerate() {
            if !node.received.is_empty() && node.batches.len() < world.scenario.batches {
                actions.push(Action::Begin(id));
            }
            for (index, batch) in node.batches.iter().enumerate() {
                actions.push(match batch.matched {
                    Some(_) => Action::Commit(id, index),
                    None => Action::MatchAgain(id, index),
                });
            }
        }
    }

    pub fn intake_adversity(&self, actions: &mut Vec<Action>) {
        for (id, node) in self.nodes.iter().enumerate() {
            if self.left.unanswered_commits > 0 {
                let open = |index: &usize| node.batches[*index].matched.is_some();
                let open = (0..node.batches.len()).filter(open);
                actions.extend(open.map(|index| Action::CommitUnanswered(id, index)));
            }
            if self.left.crashes > 0 && *node != Node::default() {
                actions.push(Action::Crash(id));
            }
        }
    }

    /// A batch is what has arrived; it is matched in a transaction that it leaves open.
    pub fn begin(&mut self, world: &World, node: NodeId) {
        let deliveries = std::mem::take(&mut self.nodes[node].received);
        let matched = Some(self.match_all(world, deliveries.len()));
        self.nodes[node].batches.push(Batch {
            deliveries,
            matched,
            effects_are_out: false,
        });
    }

    /// The same batch in a new transaction, after one that failed or whose end is not known.
    pub fn match_again(&mut self, world: &World, node: NodeId, batch: usize) {
        let messages = self.nodes[node].batches[batch].deliveries.len();
        self.nodes[node].batches[batch].matched = Some(self.match_all(world, messages));
    }

    /// The free catchers in this snapshot; the earlier message of a batch takes one first.
    fn match_all(&self, world: &World, messages: usize) -> Vec<Option<Catcher>> {
        let free = self.free_catchers(world).into_iter().map(Some);
        free.chain(std::iter::repeat(None)).take(messages).collect()
    }

    /// Rows, claims and jobs in one commit, which the node then remembers for the ack.
    pub fn commit(&mut self, world: &World, node: NodeId, batch: usize) {
        if !world.protocol.row_with_effect && !self.nodes[node].batches[batch].effects_are_out {
            self.commit_effects_alone(node, batch);
            return;
        }
        let batch = self.nodes[node].batches.remove(batch);
        self.commit_rows(world, &batch);
        for delivery in batch.deliveries {
            self.nodes[node].tracker.finish(&world.protocol, delivery);
        }
    }

    /// The commit happens, but its answer is lost: the node tries the same batch again.
    pub fn commit_unanswered(&mut self, world: &World, node: NodeId, batch: usize) {
        self.left.unanswered_commits -= 1;
        let sent = self.nodes[node].batches[batch].clone();
        self.commit_rows(world, &sent);
        self.nodes[node].batches[batch].matched = None;
    }

    fn commit_rows(&mut self, world: &World, batch: &Batch) {
        let matched = batch.matched.as_ref().expect("its transaction is open");
        for (delivery, catcher) in batch.deliveries.iter().zip(matched) {
            let Some(row) = self.inbox.insert(&world.protocol, delivery.key) else {
                continue; // a duplicate
            };
            if world.way() == Way::InCommit {
                self.inbox.rows[usize::from(row)].state = RowState::Done;
                if !batch.effects_are_out {
                    self.effect_of(delivery.key);
                }
            } else if let Some(catcher) = catcher {
                self.hand(world, row, *catcher);
            }
        }
    }

    /// What the daemon does not do: look for the rows, write the effects, and the rows later.
    fn commit_effects_alone(&mut self, node: NodeId, batch: usize) {
        let batch = &mut self.nodes[node].batches[batch];
        batch.effects_are_out = true;
        let keys: BTreeSet<_> = batch
            .deliveries
            .iter()
            .map(|delivery| delivery.key)
            .collect();
        for key in keys {
            if !self.inbox.knows(key) {
                self.effect_of(key);
            }
        }
    }

    /// The process dies and starts again: its transactions and streams end, what it knew is gone.
    pub fn crash(&mut self, node: NodeId) {
        self.left.crashes -= 1;
        self.end_stream(node);
        self.nodes[node] = Node::default();
    }
}
