//! The sweeps, a look and then a change, and the operator's redrive.

use super::broker::Place;
use super::engine::{Catcher, Evidence};
use super::inbox::{Row, RowState};
use super::intake::Node;
use super::{Action, HandOver, NodeId, Protocol, RowId, State, Unproven, World};

/// What a node has looked at and not changed yet. With `sweep_holds_lock` it is an open transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sweep {
    pub row: RowId,
    epoch: u8,
    intent: Intent,
    /// The row was changed since (for the judge only).
    pub outdated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Intent {
    Hand(Catcher),
    Confirm(Verdict),
    Expire,
    /// Only where the protocol reads in two snapshots: what stood there while the job was not asked for.
    SawEvidence(Verdict),
    /// Only where the protocol ends a claim in a transaction of its own, after the row's.
    EndClaim,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Verdict {
    Happened,
    Never,
    Unknown,
}

impl State {
    pub fn sweeper_progress(&self, world: &World, actions: &mut Vec<Action>) {
        let someone_is_free = !self.free_catchers(world).is_empty();
        for (id, node) in self.nodes.iter().enumerate() {
            match &node.sweep {
                Some(Sweep {
                    intent: Intent::SawEvidence(_),
                    ..
                }) => {
                    actions.push(Action::LookForTheJob(id));
                }
                Some(_) => actions.push(Action::Change(id)),
                None => {
                    let unlocked = |row: &RowId| !self.is_locked(&world.protocol, *row);
                    let rows = |state| {
                        self.inbox
                            .rows_in(state)
                            .map(|(row, _)| row)
                            .filter(unlocked)
                    };
                    if someone_is_free {
                        let waiting = rows(RowState::Waiting);
                        actions.extend(waiting.map(|row| Action::LookToHand(id, row)));
                    }
                    let handed = rows(RowState::Handed).filter(|row| {
                        let job_is_gone = !self.engine.jobs.contains_key(&self.hand_over(*row));
                        job_is_gone || !world.protocol.confirm_in_one_snapshot
                    });
                    actions.extend(handed.map(|row| Action::LookToConfirm(id, row)));
                }
            }
        }
    }

    pub fn sweeper_adversity(&self, world: &World, actions: &mut Vec<Action>) {
        let unlocked = |row: &RowId| !self.is_locked(&world.protocol, *row);
        let rows = |state| {
            self.inbox
                .rows_in(state)
                .map(|(row, _)| row)
                .filter(unlocked)
        };
        for (id, node) in self.nodes.iter().enumerate() {
            if node.sweep.is_none()
                && self.left.expiries > 0
                && self.free_catchers(world).is_empty()
            {
                actions.extend(rows(RowState::Waiting).map(|row| Action::LookToExpire(id, row)));
            }
            if node.sweep.is_some()
                && self.left.killed_sessions > 0
                && world.protocol.sweep_holds_lock
            {
                actions.push(Action::KillSession(id));
            }
        }
        if self.left.purges > 0 {
            let rows = (0..).zip(&self.inbox.rows);
            let over = rows.filter(|(row, _)| self.may_purge(world, *row));
            actions.extend(over.map(|(row, _)| Action::Purge(row)));
        }
        if self.left.operator_redrives > 0 {
            actions.extend(rows(RowState::DeadExpired).map(Action::OperatorRedrives));
        }
    }

    /// `FOR UPDATE SKIP LOCKED`: nobody looks at a row that an open sweep holds.
    fn is_locked(&self, protocol: &Protocol, row: RowId) -> bool {
        let mut sweeps = self.nodes.iter().filter_map(|node| node.sweep);
        protocol.sweep_holds_lock && sweeps.any(|sweep| sweep.row == row)
    }

    fn hand_over(&self, row: RowId) -> HandOver {
        HandOver {
            row,
            epoch: self.inbox.row(row).epoch,
        }
    }

    fn look(&mut self, node: NodeId, row: RowId, intent: Intent) {
        let epoch = self.inbox.row(row).epoch;
        self.nodes[node].sweep = Some(Sweep {
            row,
            epoch,
            intent,
            outdated: false,
        });
    }

    /// Wake: a waiting row and a catcher that is free for it.
    pub fn look_to_hand(&mut self, world: &World, node: NodeId, row: RowId) {
        let catcher = self.free_catchers(world)[0];
        self.look(node, row, Intent::Hand(catcher));
    }

    /// Confirm: a handed row whose job is gone, and what proves which end it took.
    pub fn look_to_confirm(&mut self, world: &World, node: NodeId, row: RowId) {
        let verdict = self.verdict(world, self.hand_over(row));
        let intent = if world.protocol.confirm_in_one_snapshot {
            Intent::Confirm(verdict)
        } else {
            Intent::SawEvidence(verdict)
        };
        self.look(node, row, intent);
    }

    /// The second snapshot of a confirm that does not read all in one.
    pub fn look_for_the_job(&mut self, node: NodeId) {
        let sweep = self.nodes[node]
            .sweep
            .as_mut()
            .expect("the node is confirming");
        let hand_over = HandOver {
            row: sweep.row,
            epoch: sweep.epoch,
        };
        if let Intent::SawEvidence(verdict) = sweep.intent {
            sweep.intent = Intent::Confirm(verdict);
        }
        if self.engine.jobs.contains_key(&hand_over) {
            self.nodes[node].sweep = None;
        }
    }

    fn verdict(&self, world: &World, hand_over: HandOver) -> Verdict {
        match self.engine.evidence_of(world.way(), hand_over) {
            Evidence::Happened => Verdict::Happened,
            Evidence::Cleaned if world.protocol.absence_needs_history => Verdict::Unknown,
            Evidence::Never | Evidence::Cleaned => Verdict::Never,
        }
    }

    /// A waiting row that nobody waits for has used up its time.
    pub fn look_to_expire(&mut self, node: NodeId, row: RowId) {
        self.left.expiries -= 1;
        self.look(node, row, Intent::Expire);
    }

    /// The change that the look called for, by state and epoch: otherwise it hits 0 rows.
    pub fn change(&mut self, world: &World, node: NodeId) {
        let protocol = &world.protocol;
        let sweep = self.nodes[node].sweep.take().expect("the node has looked");
        let hand_over = HandOver {
            row: sweep.row,
            epoch: sweep.epoch,
        };
        let row = self.inbox.row(sweep.row);
        let expected = match sweep.intent {
            Intent::Hand(_) | Intent::Expire => RowState::Waiting,
            Intent::Confirm(_) | Intent::SawEvidence(_) => RowState::Handed,
            Intent::EndClaim => return self.inbox.end_claim(hand_over),
        };
        if row.state != expected || (protocol.compare_epoch && row.epoch != sweep.epoch) {
            return;
        }
        self.witness.stale_change |= sweep.outdated;
        match sweep.intent {
            Intent::Hand(catcher) => self.hand(world, sweep.row, catcher),
            Intent::Expire => self.set_state(protocol, sweep.row, RowState::DeadExpired),
            Intent::Confirm(verdict) | Intent::SawEvidence(verdict) => {
                self.confirm(protocol, hand_over, verdict);
                if protocol.claim_ends_with_row {
                    self.inbox.end_claim(hand_over);
                } else {
                    self.nodes[node].sweep = Some(Sweep {
                        intent: Intent::EndClaim,
                        ..sweep
                    });
                }
            }
            Intent::EndClaim => {}
        }
    }

    fn confirm(&mut self, protocol: &Protocol, hand_over: HandOver, verdict: Verdict) {
        let to = match (verdict, protocol.unproven) {
            (Verdict::Happened, _) | (Verdict::Unknown, Unproven::AssumeDone) => RowState::Done,
            (Verdict::Never, _) => RowState::Waiting,
            (Verdict::Unknown, Unproven::DeadInDoubt) => RowState::DeadInDoubt,
        };
        if verdict == Verdict::Never {
            let mut claims = self.inbox.claims.iter();
            let claim = claims.find(|claim| claim.hand_over == hand_over);
            let consumed_by =
                claim.and_then(|claim| self.witness.consumed.get(&claim.subscription));
            self.witness.attempt_lost_to_another |= consumed_by.is_some_and(|by| *by != hand_over);
        }
        self.set_state(protocol, hand_over.row, to);
    }

    /// The server ends the session of a node that froze in a transaction: its late change fails.
    pub fn kill_session(&mut self, node: NodeId) {
        self.left.killed_sessions -= 1;
        self.nodes[node].sweep = None;
    }

    /// Whether the retention of its key is over, which is longer than any broker holds a delivery.
    fn may_purge(&self, world: &World, row: RowId) -> bool {
        let protocol = &world.protocol;
        let Row { key, state, .. } = self.inbox.row(row);
        let is_over = match state {
            RowState::Purged => false,
            RowState::Done => true,
            _ => !protocol.purge_takes_done_only,
        };
        let held = |node: &Node| {
            let under_way = node.batches.iter().flat_map(|batch| &batch.deliveries);
            under_way
                .chain(&node.received)
                .any(|delivery| delivery.key == key)
        };
        let mut places = world.scenario.queue.iter().zip(&self.broker.places);
        let comes_again = places.any(|(of, place)| *of == key && *place != Place::Acked);
        let waits = comes_again || self.nodes.iter().any(held);
        is_over && !self.is_locked(protocol, row) && !(waits && protocol.purge_waits)
    }

    /// Removes the row with its key.
    pub fn purge(&mut self, row: RowId) {
        self.left.purges -= 1;
        self.inbox.rows[usize::from(row)].state = RowState::Purged;
    }

    /// An operator drives an expired row again.
    pub fn operator_redrives(&mut self, world: &World, row: RowId) {
        self.left.operator_redrives -= 1;
        self.set_state(&world.protocol, row, RowState::Waiting);
    }
}
