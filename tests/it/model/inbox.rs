//! The inbox's rows, the claims beside them, and the hand-over that writes both.

use super::engine::Catcher;
use super::scenario::Way;
use super::{
    ClaimUniqueBy, EpochRaisedBy, HandOver, Key, Protocol, RowId, State, SubscriptionId, World,
};

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Inbox {
    pub rows: Vec<Row>,
    pub claims: Vec<Claim>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    pub key: Key,
    pub state: RowState,
    pub epoch: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowState {
    Waiting,
    Handed,
    Done,
    DeadExpired,
    DeadInDoubt,
    /// The row is gone with its key, and only the judge remembers it.
    Purged,
}

/// A pending row: this hand-over, and no other, may consume what the claim reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    pub subscription: SubscriptionId,
    pub hand_over: HandOver,
}

impl Inbox {
    /// Writes a row that waits, or nothing if the key is there already.
    pub fn insert(&mut self, protocol: &Protocol, key: Key) -> Option<RowId> {
        if protocol.dedup_key_unique && self.knows(key) {
            return None;
        }
        self.rows.push(Row {
            key,
            state: RowState::Waiting,
            epoch: 0,
        });
        Some(u8::try_from(self.rows.len() - 1).expect("an inbox of a model is short"))
    }

    /// Whether a row holds the key.
    pub fn knows(&self, key: Key) -> bool {
        let mut rows = self.rows.iter();
        rows.any(|row| row.key == key && row.state != RowState::Purged)
    }

    pub fn row(&self, id: RowId) -> Row {
        self.rows[usize::from(id)]
    }

    pub fn rows_in(&self, state: RowState) -> impl Iterator<Item = (RowId, Row)> {
        let rows = (0..).zip(self.rows.iter().copied());
        rows.filter(move |(_, row)| row.state == state)
    }

    pub fn end_claim(&mut self, hand_over: HandOver) {
        self.claims.retain(|claim| claim.hand_over != hand_over);
    }

    /// Whether a claim on one of these subscriptions keeps another away from the other.
    pub fn collide(
        way: Way,
        by: ClaimUniqueBy,
        one: SubscriptionId,
        other: SubscriptionId,
    ) -> bool {
        match by {
            ClaimUniqueBy::Nothing => false,
            ClaimUniqueBy::Subscription => one == other,
            ClaimUniqueBy::Reach => way == Way::ByName || one == other,
        }
    }
}

impl State {
    /// Subscriptions that no claim reaches, as a look sees them: it takes care to see them as free
    /// even where the database would not insist.
    pub fn free_catchers(&self, world: &World) -> Vec<Catcher> {
        let by = match world.protocol.claim_unique_by {
            ClaimUniqueBy::Nothing => ClaimUniqueBy::Reach,
            by => by,
        };
        let taken = |catcher: &Catcher| {
            let mut claims = self.inbox.claims.iter();
            claims.any(|claim| {
                Inbox::collide(world.way(), by, claim.subscription, catcher.subscription)
            })
        };
        let mut free: Vec<_> = self
            .engine
            .catchers()
            .filter(|catcher| !taken(catcher))
            .collect();
        if world.way() == Way::ByName {
            // Several are ambiguous for a message, and then C would not be allowed anyway.
            free.truncate(1);
        }
        free
    }

    /// Writes the claim and the job and makes the row handed, or leaves it waiting if the claim
    /// misses. Everything that it compares, it reads in its own transaction.
    pub fn hand(&mut self, world: &World, id: RowId, catcher: Catcher) {
        let protocol = &world.protocol;
        let way = world.way();
        let claimed = |claim: &Claim| {
            Inbox::collide(
                way,
                protocol.claim_unique_by,
                claim.subscription,
                catcher.subscription,
            )
        };
        let still_there = match way {
            Way::BySubscription if protocol.bump_subscription => self.engine.bump(catcher),
            Way::ByName if !protocol.claim_sees_subscription => true,
            _ => self.engine.is_subscribed(catcher.subscription),
        };
        if !still_there || self.inbox.claims.iter().any(claimed) {
            return;
        }
        let row = &mut self.inbox.rows[usize::from(id)];
        row.state = RowState::Handed;
        row.epoch += 1;
        let hand_over = HandOver {
            row: id,
            epoch: row.epoch,
        };
        self.inbox.claims.push(Claim {
            subscription: catcher.subscription,
            hand_over,
        });
        self.engine.jobs.insert(hand_over, catcher.subscription);
        self.outdate_looks_at(id);
    }

    /// Writes a row's new state and counts it in the epoch where the protocol says so.
    pub fn set_state(&mut self, protocol: &Protocol, id: RowId, to: RowState) {
        let row = &mut self.inbox.rows[usize::from(id)];
        row.state = to;
        if protocol.epoch_raised_by == EpochRaisedBy::EveryChange {
            row.epoch += 1;
        }
        self.outdate_looks_at(id);
    }

    fn outdate_looks_at(&mut self, id: RowId) {
        let sweeps = self.nodes.iter_mut().filter_map(|node| node.sweep.as_mut());
        for sweep in sweeps.filter(|sweep| sweep.row == id) {
            sweep.outdated = true;
        }
    }

    pub fn effect_of(&mut self, key: Key) {
        *self.witness.effects.entry(key).or_default() += 1;
    }
}
