//! A node: where its assignment begins, what it reads, and how its batches count themselves as stored.

use super::{Action, Committed, Covered, END, Offset, Record, Rules, State, Stored};

/// What a node knows; a crash forgets it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    /// There was no position, or one of other records, and it is not written anew yet.
    beginning: Option<Assigned>,
    pub assigned: Option<Assigned>,
    pub batches: Vec<Batch>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Assigned {
    assignment: u8,
    epoch: u8,
    since: Offset,
    /// A record of the topic that its position is about, if any has come or was known.
    anchor: Option<Record>,
    /// The last record that came.
    latest: Option<Record>,
    /// The next record to be read.
    next: Offset,
    /// What its batches are known to have committed, from where it began.
    finished: Covered,
    /// What was stored when it was claimed.
    claimed: Offset,
    acked: Offset,
    /// The group has given the partition away, and the node does not know it yet.
    lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Batch {
    record: Record,
    /// What its assignment knew the topic by, where that is over.
    anchor: Option<Record>,
    assignment: u8,
    epoch: u8,
    /// The database has it; the answer is on its way.
    pub is_committed: bool,
    /// Only where the position is not written with the rows: it is.
    position_is_out: bool,
}

/// What a batch finds in the place of the position that its assignment claimed.
enum Found {
    Ours,
    /// Somebody else has claimed it since.
    Taken,
    /// It was never claimed by us, or it stands behind what we know: the database has lost commits.
    Behind,
}

impl Assigned {
    fn begin_at(&mut self, offset: Offset) {
        self.next = offset;
        self.acked = offset;
        self.finished = Covered::upto(offset);
    }

    /// Whether a look finds another topic, or lets the anchor move. Where no topic can change any more, it need not.
    fn may_look_at_anchor(&self, state: &State) -> bool {
        let is_gone = |anchor: Record| anchor.incarnation != state.log.incarnation;
        self.anchor.is_some_and(is_gone) || state.left.recreations > 0 && self.anchor != self.latest
    }

    /// Below this everything is known to be stored.
    fn known(&self) -> Offset {
        self.claimed.max(self.finished.next)
    }
}

impl Node {
    /// Whether the group thinks that the partition is this node's.
    pub fn owns(&self) -> bool {
        self.beginning.is_some()
            || self
                .assigned
                .as_ref()
                .is_some_and(|assigned| !assigned.lost)
    }

    pub fn progress(&self, id: usize, rules: Rules, state: &State, actions: &mut Vec<Action>) {
        let is_free = !state.nodes.iter().any(Self::owns);
        match &self.assigned {
            None if self.beginning.is_some() => actions.push(Action::Begin(id)),
            None if is_free => actions.push(Action::Claim(id)),
            None => {}
            Some(assigned) => {
                if assigned.next < END && self.batches.len() < 2 {
                    actions.push(Action::Deliver(id));
                }
                if assigned.lost {
                    actions.push(Action::Notice(id));
                } else if assigned.finished.next > assigned.acked {
                    actions.push(Action::Ack(id));
                }
                let known = assigned.known();
                let found = state.found(rules, assigned.assignment, assigned.epoch, known);
                if rules.compares_with_known && !matches!(found, Found::Ours) {
                    actions.push(Action::Look(id));
                }
                if rules.notices_recreation && assigned.may_look_at_anchor(state) {
                    actions.push(Action::LookAtAnchor(id));
                }
            }
        }
        for (index, batch) in self.batches.iter().enumerate() {
            actions.push(if batch.is_committed {
                Action::Answer(id, index)
            } else {
                Action::Commit(id, index)
            });
        }
    }

    /// The group gives the partition away.
    pub fn lose(&mut self) {
        self.beginning = None;
        if let Some(assigned) = &mut self.assigned {
            assigned.lost = true;
        }
    }

    /// The stream ends, with all that is under way on it; the next one begins with an assignment.
    pub fn end(&mut self) {
        self.assigned = None;
        self.batches.clear();
    }

    /// The commit's answer arrives.
    pub fn answer(&mut self, batch: usize) {
        let batch = self.batches.remove(batch);
        let of_batch = |assigned: &&mut Assigned| assigned.assignment == batch.assignment;
        if let Some(assigned) = self.assigned.as_mut().filter(of_batch) {
            assigned.finished.add(batch.record.offset);
        }
    }
}

impl State {
    /// First step of an assignment: takes the position, so that nobody else changes it, and only then decides.
    pub fn claim(&mut self, rules: Rules, node: usize) {
        self.assignments += 1;
        let committed = self.log.committed;
        let mut assigned = Assigned {
            assignment: self.assignments,
            epoch: 1,
            since: 0,
            anchor: None,
            latest: None,
            next: 0,
            finished: Covered::upto(0),
            claimed: 0,
            acked: 0,
            lost: false,
        };
        let Some(stored) = &mut self.database.position else {
            assigned.since = match committed {
                Some(Committed {
                    since: Some(since), ..
                }) if rules.commit_says_since => since,
                Some(committed) => committed.offset,
                None => 0,
            };
            self.nodes[node].beginning = Some(assigned);
            return;
        };
        stored.assignment = assigned.assignment;
        stored.epoch += 1;
        assigned.epoch = stored.epoch;
        let of_another = |known: Record| known.incarnation != self.log.incarnation;
        let mut known = stored.highest.into_iter().chain(stored.anchor);
        if rules.notices_recreation && known.any(of_another) {
            self.nodes[node].beginning = Some(assigned);
            return;
        }
        if stored.highest.is_none() {
            stored.of = self.log.incarnation; // it counts nothing yet
        }
        let next = stored.covered.next;
        let committed = committed.map_or(next, |committed| committed.offset);
        assigned.anchor = stored.anchor.or(stored.highest);
        assigned.latest = assigned.anchor;
        assigned.since = stored.since;
        assigned.claimed = next;
        assigned.begin_at(if rules.begins_at_smaller {
            committed.min(next)
        } else {
            committed
        });
        self.nodes[node].assigned = Some(assigned);
    }

    /// Second step where there is no position, or one of other records: it begins where we do.
    pub fn begin(&mut self, node: usize) {
        let beginning = self.nodes[node].beginning.take();
        let mut assigned = beginning.expect("the position was asked for");
        let taken = |stored: &Stored| stored.assignment != assigned.assignment;
        if self.database.position.as_ref().is_some_and(taken) {
            return; // by another assignment: the stream ends, and asks again
        }
        // The record before it, which is there.
        assigned.anchor = assigned.since.checked_sub(1).map(|offset| Record {
            incarnation: self.log.incarnation,
            offset,
        });
        assigned.latest = assigned.anchor;
        assigned.claimed = assigned.since;
        assigned.begin_at(assigned.since);
        self.database.position = Some(Stored {
            covered: Covered::upto(assigned.since),
            highest: assigned.anchor,
            anchor: assigned.anchor,
            since: assigned.since,
            assignment: assigned.assignment,
            epoch: assigned.epoch,
            of: self.log.incarnation,
        });
        self.nodes[node].assigned = Some(assigned);
    }

    /// The broker gives the next record, of whatever topic has the name now; also to a node that it has thrown out.
    pub fn deliver(&mut self, rules: Rules, node: usize) {
        let incarnation = self.log.incarnation;
        let node = &mut self.nodes[node];
        let assigned = node.assigned.as_mut().expect("the partition is assigned");
        let offset = assigned.next;
        assigned.next += 1;
        let record = Record {
            incarnation,
            offset,
        };
        assigned.latest = Some(record);
        if assigned.anchor.is_none() || !rules.anchor_moves_by_looks {
            assigned.anchor = assigned.latest;
        }
        node.batches.push(Batch {
            record,
            anchor: assigned.anchor,
            assignment: assigned.assignment,
            epoch: assigned.epoch,
            is_committed: false,
            position_is_out: false,
        });
    }

    fn found(&self, rules: Rules, assignment: u8, epoch: u8, known: Offset) -> Found {
        match &self.database.position {
            None => Found::Behind,
            Some(stored) if stored.assignment != assignment && rules.fenced => {
                if stored.epoch >= epoch {
                    Found::Taken
                } else {
                    Found::Behind
                }
            }
            Some(stored) if rules.compares_with_known && stored.covered.next < known => {
                Found::Behind
            }
            Some(_) => Found::Ours,
        }
    }

    /// Row and position in one commit, unless the position is behind what is known.
    pub fn commit(&mut self, rules: Rules, node: usize, index: usize) {
        let batch = self.nodes[node].batches[index];
        let assigned = self.nodes[node].assigned.as_ref();
        let own = assigned.filter(|assigned| assigned.assignment == batch.assignment);
        let known = own.map_or(0, Assigned::known);
        let anchor = own.map_or(batch.anchor, |assigned| assigned.anchor);
        if !batch.position_is_out {
            match self.found(rules, batch.assignment, batch.epoch, known) {
                Found::Ours => self.count(rules, batch.record, anchor),
                Found::Taken => {}
                Found::Behind => return self.nodes[node].end(),
            }
        }
        let batch = &mut self.nodes[node].batches[index];
        if rules.position_with_rows || batch.position_is_out {
            batch.is_committed = true;
            self.database.rows.insert(batch.record);
        } else {
            batch.position_is_out = true;
        }
    }

    fn count(&mut self, rules: Rules, record: Record, anchor: Option<Record>) {
        let Some(stored) = &mut self.database.position else {
            return;
        };
        if rules.contiguous {
            stored.covered.add(record.offset);
        } else {
            stored.covered.next = stored.covered.next.max(record.offset + 1);
        }
        if !rules.remembers_ahead {
            stored.covered.ahead.clear();
        }
        stored.highest = stored.highest.max(Some(record));
        stored.anchor = anchor;
    }

    /// Reads the anchor again: what came before the look is of the same topic, or the stream ends.
    pub fn look_at_anchor(&mut self, node: usize) {
        let incarnation = self.log.incarnation;
        let node = &mut self.nodes[node];
        let assigned = node.assigned.as_mut().expect("the partition is assigned");
        let is_gone = |anchor: Record| anchor.incarnation != incarnation;
        if assigned.anchor.is_some_and(is_gone) {
            node.end();
        } else {
            assigned.anchor = assigned.latest;
        }
    }

    /// Moves the group's offset to the end of the finished prefix.
    pub fn ack(&mut self, rules: Rules, node: usize) {
        let assigned = self.nodes[node]
            .assigned
            .as_mut()
            .expect("the partition is assigned");
        assigned.acked = assigned.finished.next;
        self.log.committed = Some(Committed {
            offset: assigned.acked,
            since: rules.commit_says_since.then_some(assigned.since),
        });
    }
}
