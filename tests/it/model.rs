//! The protocol as a model: every order in which brokers, two nodes, the database and the engine can
//! take their steps, checked exhaustively in small worlds.
//!
//! **What is modelled.** A broker (a queue whose tags restart at 1 on every stream, or a log with
//! offsets) that gives two messages, one of them twice. Two nodes that gather batches, match on a
//! snapshot, commit, acknowledge the finished prefix, and sweep. One database whose commits are
//! atomic: inbox rows unique by dedup key, claims (the pending rows), the engine's jobs. One process
//! instance whose catcher is cancelled, looped back to, or deleted with its instance, whose history
//! is cleaned up, and which knows nothing of us. A node that freezes is a node that takes no step
//! while the others do; the server may end its session in the meantime. A node that is killed after
//! it sent its commit is a node that freezes before that step and is killed after it.
//!
//! **What is not.** Matching itself (there is one message name, so a message takes the first free
//! subscription), catchers that stay when they are triggered, payloads and conflicts, order per key,
//! `ttl` and attempts as numbers, the backlog, bisecting, remote engines, deadlocks, an operator who
//! redrives a row in doubt. Batches of the sweeper are one row long: its rows do not touch each other.
//! A database that loses commits has a model of its own, [`positions`].
//!
//! **How to read it.** [`Protocol`] has a switch for each rule of the protocol; [`Protocol::sluice`]
//! is what the daemon does, and must keep every promise of [`properties`] in every [`Scenario`]. Each
//! test of a broken variant turns one switch and names the promise that this costs: the reason why
//! the rule is there. A step is a method of [`State`], in the file of whoever takes it: [`broker`],
//! [`intake`], [`sweeper`], [`engine`]; [`inbox`] holds what they share, the rows and the hand-over.
//! `progress` lists the steps that somebody is bound to take, `adversity` what may or may not happen,
//! within the scenario's limits.

use std::collections::BTreeMap;

use stateright::{Model, Property};

mod broker;
mod engine;
mod inbox;
mod intake;
mod positions;
mod properties;
mod scenario;
mod sweeper;
mod tests;

use broker::Broker;
use engine::Engine;
use inbox::Inbox;
use intake::Node;
use scenario::{Limits, Scenario, Way};

/// A message's dedup key; deliveries with equal keys are copies of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    A,
    B,
}

/// The index of a row of the inbox.
type RowId = u8;
/// The engine's id of a subscription, never used twice.
type SubscriptionId = u8;
/// Which of the two nodes. They are alike, so their order in a state means nothing (see
/// [`Model::next_state`]): two steps of a trace that name node 0 may be of different nodes.
type NodeId = usize;

/// One hand-over of one row: the id that the job, the claim and the receipt carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct HandOver {
    row: RowId,
    epoch: u8,
}

/// The rules of the protocol, each of which a broken variant gives up.
#[expect(clippy::struct_excessive_bools, reason = "a switch for each rule")]
#[derive(Clone, Copy, Debug)]
struct Protocol {
    /// A message's row and its effect are one transaction, not the effect first.
    row_with_effect: bool,
    /// A delivery counts as finished after its commit, not as soon as it is read.
    ack_after_commit: bool,
    /// `multiple` reaches up to the first unfinished delivery, not up to the last finished one.
    ack_prefix_only: bool,
    /// Each stream has a tracker of its own; answers for an earlier stream go nowhere.
    tracker_per_stream: bool,
    /// The dedup key is unique in the inbox.
    dedup_key_unique: bool,
    /// What a claim is unique by.
    claim_unique_by: ClaimUniqueBy,
    /// A hand-over happens only if the subscription is still there in its own transaction.
    claim_sees_subscription: bool,
    /// Variant B raises the subscription's `REV_`, so that the engine's transactions notice us.
    bump_subscription: bool,
    /// A sweep holds the row's lock from the look to the change, in one transaction.
    sweep_holds_lock: bool,
    /// A change compares the row's epoch with the one that was looked at, besides the state.
    compare_epoch: bool,
    /// Which changes of a row raise its epoch.
    epoch_raised_by: EpochRaisedBy,
    /// A confirmed row's new state and the end of its claim are one transaction.
    claim_ends_with_row: bool,
    /// The job and its evidence are read in one snapshot, not the evidence first.
    confirm_in_one_snapshot: bool,
    /// A missing receipt proves something only while the engine still holds the history it would be in.
    absence_needs_history: bool,
    /// What becomes of a row whose hand-over nothing proves.
    unproven: Unproven,
    /// Purge leaves a key alone as long as a broker may give it again.
    purge_waits: bool,
    /// Purge takes only rows that are done.
    purge_takes_done_only: bool,
    /// Variant C is refused where a model can hold two tokens at catchers of one name.
    refuse_two_tokens: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClaimUniqueBy {
    /// What one job may consume: for B the subscription, for C the instance and message name.
    Reach,
    /// The subscription, for C as well.
    Subscription,
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EpochRaisedBy {
    HandOver,
    EveryChange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unproven {
    DeadInDoubt,
    AssumeDone,
}

impl Protocol {
    /// What the daemon does.
    const fn sluice() -> Self {
        Self {
            row_with_effect: true,
            ack_after_commit: true,
            ack_prefix_only: true,
            tracker_per_stream: true,
            dedup_key_unique: true,
            claim_unique_by: ClaimUniqueBy::Reach,
            claim_sees_subscription: true,
            bump_subscription: true,
            sweep_holds_lock: true,
            compare_epoch: true,
            epoch_raised_by: EpochRaisedBy::EveryChange,
            claim_ends_with_row: true,
            confirm_in_one_snapshot: true,
            absence_needs_history: true,
            unproven: Unproven::DeadInDoubt,
            purge_waits: true,
            purge_takes_done_only: true,
            refuse_two_tokens: true,
        }
    }
}

/// The protocol in a scenario: what the checker walks through.
#[derive(Clone, Debug)]
struct World {
    protocol: Protocol,
    scenario: Scenario,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    broker: Broker,
    nodes: [Node; 2],
    inbox: Inbox,
    engine: Engine,
    left: Limits,
    witness: Witness,
}

/// What nobody in the world knows, kept to judge it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Witness {
    /// How often each message has had an effect.
    effects: BTreeMap<Key, u8>,
    /// Which hand-over consumed a subscription.
    consumed: BTreeMap<SubscriptionId, HandOver>,
    /// A row was changed by somebody who had looked at an earlier state of it.
    stale_change: bool,
    /// An attempt was counted because another message of ours had taken the subscription.
    attempt_lost_to_another: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    // The broker and its streams.
    Connect(NodeId),
    Deliver(NodeId),
    Ack(NodeId),
    LoseConnection(NodeId),
    // A batch on its way, by its place among the node's batches.
    Begin(NodeId),
    MatchAgain(NodeId, usize),
    Commit(NodeId, usize),
    CommitUnanswered(NodeId, usize),
    Crash(NodeId),
    // The sweeper, and the operator.
    LookToHand(NodeId, RowId),
    LookToConfirm(NodeId, RowId),
    LookForTheJob(NodeId),
    LookToExpire(NodeId, RowId),
    Change(NodeId),
    KillSession(NodeId),
    OperatorRedrives(RowId),
    Purge(RowId),
    // The engine.
    RunJob(HandOver),
    Subscribe,
    BeginCancel(SubscriptionId),
    FlushCancel,
    DeleteInstance,
    CleanUpHistory,
}

impl World {
    /// How messages are handed over here: by name only where the model can hold one token.
    fn way(&self) -> Way {
        match self.scenario.way {
            Way::ByName if self.protocol.refuse_two_tokens && self.scenario.tokens > 1 => {
                Way::BySubscription
            }
            way => way,
        }
    }

    /// The steps that somebody is bound to take sooner or later.
    fn progress(&self, state: &State, actions: &mut Vec<Action>) {
        state.broker_progress(self, actions);
        state.intake_progress(self, actions);
        state.sweeper_progress(self, actions);
        state.engine_progress(actions);
    }

    /// What may happen, or not.
    fn adversity(&self, state: &State, actions: &mut Vec<Action>) {
        state.broker_adversity(actions);
        state.intake_adversity(actions);
        state.sweeper_adversity(self, actions);
        state.engine_adversity(self, actions);
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            broker: Broker::holding(self.scenario.queue.len()),
            nodes: [Node::default(), Node::default()],
            inbox: Inbox::default(),
            engine: Engine::with_one_catcher(),
            left: self.scenario.limits,
            witness: Witness::default(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.progress(state, actions);
        self.adversity(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Connect(node) => next.connect(self, node),
            Action::Deliver(node) => next.deliver(self, node),
            Action::Ack(node) => next.ack(self, node),
            Action::LoseConnection(node) => next.lose_connection(node),
            Action::Begin(node) => next.begin(self, node),
            Action::MatchAgain(node, batch) => next.match_again(self, node, batch),
            Action::Commit(node, batch) => next.commit(self, node, batch),
            Action::CommitUnanswered(node, batch) => next.commit_unanswered(self, node, batch),
            Action::Crash(node) => next.crash(node),
            Action::LookToHand(node, row) => next.look_to_hand(self, node, row),
            Action::LookToConfirm(node, row) => next.look_to_confirm(self, node, row),
            Action::LookForTheJob(node) => next.look_for_the_job(node),
            Action::LookToExpire(node, row) => next.look_to_expire(node, row),
            Action::Change(node) => next.change(self, node),
            Action::KillSession(node) => next.kill_session(node),
            Action::OperatorRedrives(row) => next.operator_redrives(self, row),
            Action::Purge(row) => next.purge(row),
            Action::RunJob(hand_over) => next.run_job(self, hand_over),
            Action::Subscribe => next.subscribe(),
            Action::BeginCancel(subscription) => next.begin_cancel(subscription),
            Action::FlushCancel => next.flush_cancel(),
            Action::DeleteInstance => next.delete_instance(),
            Action::CleanUpHistory => next.clean_up_history(),
        }
        // The nodes are alike: one of two mirrored states is enough.
        next.nodes.sort();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
