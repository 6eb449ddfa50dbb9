//! Kafka's positions in the inbox, as a model of their own: how far a partition is stored, in the very
//! database that holds its rows, so that a database which lost its last commits reads them again.
//!
//! **What is modelled.** One partition of a few records, each with a key of its own. Two nodes, one of which
//! the group may have thrown out without its knowledge. One database with the rows and the position; an older
//! copy of it may take its place, under living nodes (a failover that loses commits) or dead ones (a backup).
//! A batch is one record; two are under way at once, and a commit's answer arrives later than the commit. The
//! group's offset moves by acknowledgements, may be forgotten by the broker, and be set by an operator. The
//! topic may be recreated, also under a node that goes on reading where it stands: its offsets begin anew, with
//! other records.
//!
//! **What is not.** How the effect comes about (rows and effects are one transaction: the other model), gaps
//! between offsets (a property test of `Covered` has them), retention of records and of keys, a new topic that is
//! shorter than the old one, or has no record where the old one had its anchor, a partition that loses its end.
//!
//! [`Rules`] has a switch for each rule; [`Rules::sluice`] is what the daemon does.

use std::collections::BTreeSet;

use stateright::{Model, Property};

mod node;
mod tests;

use node::Node;

type Offset = u8;
/// The records of the partition, in each of its incarnations.
const END: Offset = 2;

/// What each test of a broken variant gives up.
#[expect(clippy::struct_excessive_bools, reason = "a switch for each rule")]
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// Rows and position are one transaction, not the position first.
    position_with_rows: bool,
    /// The position is the end of what is stored without a gap, not the end of the last batch.
    contiguous: bool,
    /// What is stored beyond a gap is remembered until the gap is closed.
    remembers_ahead: bool,
    /// A batch advances the position only under the assignment that it was read under.
    fenced: bool,
    /// The stored position is compared with what this assignment knows to be committed.
    compares_with_known: bool,
    /// An assignment begins at the smaller of the group's offset and the stored position.
    begins_at_smaller: bool,
    /// A position that belongs to another incarnation of the topic is noticed by the time of a record that it
    /// knows: when an assignment begins, and now and then as long as it lasts.
    notices_recreation: bool,
    /// That record, the anchor, gives way to a later one only when it was seen in its place after that one came.
    anchor_moves_by_looks: bool,
    /// The group's offset says since when there are positions, so that a missing one is noticed.
    commit_says_since: bool,
}

impl Rules {
    /// What the daemon does.
    const fn sluice() -> Self {
        Self {
            position_with_rows: true,
            contiguous: true,
            remembers_ahead: true,
            fenced: true,
            compares_with_known: true,
            begins_at_smaller: true,
            notices_recreation: true,
            anchor_moves_by_looks: true,
            commit_says_since: true,
        }
    }
}

/// How often each thing that nobody is bound to do may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Limits {
    crashes: u8,
    revocations: u8,
    lost_answers: u8,
    failovers: u8,
    recreations: u8,
    forgotten_offsets: u8,
    operator_moves: u8,
}

impl Limits {
    fn sum(self) -> u8 {
        self.crashes
            + self.revocations
            + self.lost_answers
            + self.failovers
            + self.recreations
            + self.forgotten_offsets
            + self.operator_moves
    }
}

#[derive(Clone, Debug)]
struct World {
    rules: Rules,
    limits: Limits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Record {
    /// Which topic of this name: the time of a record tells.
    incarnation: u8,
    offset: Offset,
}

/// The partition, and the group's offset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Log {
    incarnation: u8,
    committed: Option<Committed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Committed {
    offset: Offset,
    /// Where the first position of this partition began; an operator's tool does not write it.
    since: Option<Offset>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Database {
    rows: BTreeSet<Record>,
    position: Option<Stored>,
}

/// The row of the position.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Stored {
    covered: Covered,
    /// The highest record that it counts.
    highest: Option<Record>,
    /// A record of the topic that it is about.
    anchor: Option<Record>,
    since: Offset,
    /// Unique; the assignment that may advance it.
    assignment: u8,
    /// Raised by every claim, and set back with the database.
    epoch: u8,
    /// For the judge only: of which incarnation it speaks.
    of: u8,
}

/// What is stored without a gap, and what stands beyond.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Covered {
    next: Offset,
    ahead: BTreeSet<Offset>,
}

impl Covered {
    fn upto(next: Offset) -> Self {
        let ahead = BTreeSet::new();
        Self { next, ahead }
    }

    fn add(&mut self, offset: Offset) {
        if offset >= self.next {
            self.ahead.insert(offset);
        }
        while self.ahead.remove(&self.next) {
            self.next += 1;
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    log: Log,
    database: Database,
    /// An older copy: a standby that lags behind, or a backup.
    copy: Option<Database>,
    nodes: [Node; 2],
    assignments: u8,
    left: Limits,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    // A node and its assignment.
    Claim(usize),
    Begin(usize),
    Deliver(usize),
    Commit(usize, usize),
    Answer(usize, usize),
    Ack(usize),
    Look(usize),
    LookAtAnchor(usize),
    Notice(usize),
    // What may happen, or not.
    Revoke(usize),
    LoseAnswer(usize, usize),
    Crash(usize),
    Copy,
    FailOver,
    Recreate,
    ForgetOffsets,
    OperatorMoves(Offset),
}

const QUIET_MEANS_STORED: &str = "when nobody has anything to do, every record has its row";
const POSITION_IS_TRUE: &str = "every record that the position counts has its row";
const NO_FALSE_ALARM: &str = "the position is behind the group only where commits were lost";
const NO_HOT_LOOP: &str = "an assignment ends for a reason";
const QUIET_CAN_BE_REACHED: &str = "everything can be stored";

impl World {
    fn progress(&self, state: &State, actions: &mut Vec<Action>) {
        for (id, node) in state.nodes.iter().enumerate() {
            node.progress(id, self.rules, state, actions);
        }
    }

    fn adversity(state: &State, actions: &mut Vec<Action>) {
        let left = &state.left;
        for (id, node) in state.nodes.iter().enumerate() {
            if left.crashes > 0 && *node != Node::default() {
                actions.push(Action::Crash(id));
            }
            if left.revocations > 0 && node.owns() {
                actions.push(Action::Revoke(id));
            }
            if left.lost_answers > 0 {
                let answers =
                    (0..node.batches.len()).filter(|batch| node.batches[*batch].is_committed);
                actions.extend(answers.map(|batch| Action::LoseAnswer(id, batch)));
            }
        }
        if left.failovers > 0 {
            actions.push(match state.copy {
                None => Action::Copy,
                Some(_) => Action::FailOver,
            });
        }
        if left.recreations > 0 {
            actions.push(Action::Recreate);
        }
        if !state.nodes.iter().any(Node::owns) {
            if left.forgotten_offsets > 0 && state.log.committed.is_some() {
                actions.push(Action::ForgetOffsets);
            }
            // The operator's tool refuses while the group has members, and there is a position by then.
            let used = state.database.position.is_some();
            if left.operator_moves > 0
                && used
                && state.nodes.iter().all(|node| node.assigned.is_none())
            {
                actions.extend((0..=END).map(Action::OperatorMoves));
            }
        }
    }
}

impl State {
    /// With no step left that anybody is bound to take.
    fn is_quiet(&self, world: &World) -> bool {
        let mut bound = Vec::new();
        world.progress(self, &mut bound);
        bound.is_empty()
    }

    fn has(&self, incarnation: u8, offset: Offset) -> bool {
        self.database.rows.contains(&Record {
            incarnation,
            offset,
        })
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            log: Log::default(),
            database: Database::default(),
            copy: None,
            nodes: [Node::default(), Node::default()],
            assignments: 0,
            left: self.limits,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.progress(state, actions);
        Self::adversity(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        let (rules, left) = (self.rules, &mut next.left);
        match action {
            Action::Claim(node) => next.claim(rules, node),
            Action::Begin(node) => next.begin(node),
            Action::Deliver(node) => next.deliver(rules, node),
            Action::Commit(node, batch) => next.commit(rules, node, batch),
            Action::Answer(node, batch) => next.nodes[node].answer(batch),
            Action::Ack(node) => next.ack(rules, node),
            Action::Look(node) => next.nodes[node].end(),
            Action::LookAtAnchor(node) => next.look_at_anchor(node),
            Action::Notice(node) => next.nodes[node].assigned = None,
            Action::Revoke(node) => {
                left.revocations -= 1;
                next.nodes[node].lose();
            }
            Action::LoseAnswer(node, batch) => {
                left.lost_answers -= 1;
                next.nodes[node].batches[batch].is_committed = false;
            }
            Action::Crash(node) => {
                left.crashes -= 1;
                next.nodes[node] = Node::default();
            }
            Action::Copy => next.copy = Some(next.database.clone()),
            Action::FailOver => {
                left.failovers -= 1;
                next.database = next.copy.take()?;
            }
            Action::Recreate => {
                left.recreations -= 1;
                next.log.incarnation += 1;
                next.log.committed = None;
            }
            Action::ForgetOffsets => {
                left.forgotten_offsets -= 1;
                next.log.committed = None;
            }
            Action::OperatorMoves(offset) => {
                left.operator_moves -= 1;
                let since = None;
                next.log.committed = Some(Committed { offset, since });
            }
        }
        // The nodes are alike: one of two mirrored states is enough.
        next.nodes.sort();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(QUIET_MEANS_STORED, |world: &Self, state: &State| {
                !state.is_quiet(world)
                    || (0..END).all(|offset| state.has(state.log.incarnation, offset))
            }),
            Property::always(POSITION_IS_TRUE, |_, state: &State| {
                state.database.position.as_ref().is_none_or(|stored| {
                    let counted = (stored.since..stored.covered.next)
                        .chain(stored.covered.ahead.iter().copied());
                    let is_there = |offset| {
                        let is_it =
                            |row: &Record| row.offset == offset && row.incarnation >= stored.of;
                        state.database.rows.iter().any(is_it)
                    };
                    counted.into_iter().all(is_there)
                })
            }),
            Property::always(NO_FALSE_ALARM, |world: &Self, state: &State| {
                let nothing_was_lost = state.left.failovers == world.limits.failovers
                    && state.left.operator_moves == world.limits.operator_moves
                    && state.left.recreations == world.limits.recreations;
                let committed = state.log.committed.map_or(0, |committed| committed.offset);
                let stored = state
                    .database
                    .position
                    .as_ref()
                    .map_or(0, |stored| stored.covered.next);
                !nothing_was_lost || committed <= stored
            }),
            Property::always(NO_HOT_LOOP, |world: &Self, state: &State| {
                let reasons = world.limits.sum() - state.left.sum();
                state.assignments <= 1 + 2 * reasons
            }),
            Property::sometimes(QUIET_CAN_BE_REACHED, |world: &Self, state: &State| {
                state.is_quiet(world)
                    && state
                        .log
                        .committed
                        .is_some_and(|committed| committed.offset == END)
            }),
        ]
    }
}
