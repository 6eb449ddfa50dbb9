//! The promises, named as the design names them.

use stateright::Property;

use super::broker::Place;
use super::inbox::{Claim, Inbox, Row, RowState};
use super::{ClaimUniqueBy, State, World};

pub const ACKED_MEANS_COMMITTED: &str = "acked means committed";
pub const ONE_EFFECT: &str = "one effect per dedup key";
pub const NOT_DRIVEN_AGAIN: &str = "a message that had its effect does not wait for another";
pub const NOTHING_DROPPED: &str = "nothing is dropped";
pub const NO_STALE_CHANGE: &str = "a stale node changes nothing";
pub const HANDED_HAS_ITS_CLAIM: &str = "a handed row and its claim come and go together";
pub const ONE_CLAIM: &str = "one hand-over at a time for what a job can consume";
pub const ATTEMPTS_ARE_ITS_OWN: &str = "no attempt is lost to another message";
pub const DOUBT_HAS_A_REASON: &str = "in doubt only where the evidence was cleaned up";
pub const QUIET_MEANS_SETTLED: &str = "when nobody has anything to do, all is settled";
/// Not a promise: a world in which it cannot happen would prove nothing.
pub const ALL_CAN_BE_DONE: &str = "every message can be done";

pub fn all() -> Vec<Property<World>> {
    vec![
        Property::always(ACKED_MEANS_COMMITTED, acked_means_committed),
        Property::always(ONE_EFFECT, one_effect),
        Property::always(NOT_DRIVEN_AGAIN, not_driven_again),
        Property::always(NOTHING_DROPPED, nothing_dropped),
        Property::always(NO_STALE_CHANGE, |_, state: &State| {
            !state.witness.stale_change
        }),
        Property::always(HANDED_HAS_ITS_CLAIM, handed_has_its_claim),
        Property::always(ONE_CLAIM, one_claim),
        Property::always(ATTEMPTS_ARE_ITS_OWN, |_, state: &State| {
            !state.witness.attempt_lost_to_another
        }),
        Property::always(DOUBT_HAS_A_REASON, doubt_has_a_reason),
        Property::always(QUIET_MEANS_SETTLED, quiet_means_settled),
        Property::sometimes(ALL_CAN_BE_DONE, all_are_done),
    ]
}

/// Every delivery that the broker counts as acknowledged has a row.
fn acked_means_committed(world: &World, state: &State) -> bool {
    let mut deliveries = world.scenario.queue.iter().zip(&state.broker.places);
    deliveries.all(|(key, place)| {
        *place != Place::Acked || state.inbox.rows.iter().any(|row| row.key == *key)
    })
}

fn one_effect(_: &World, state: &State) -> bool {
    state.witness.effects.values().all(|effects| *effects <= 1)
}

fn not_driven_again(_: &World, state: &State) -> bool {
    let mut waiting = state.inbox.rows_in(RowState::Waiting);
    waiting.all(|(_, row)| !state.witness.effects.contains_key(&row.key))
}

/// A message without an effect is still somebody's: the broker will give it again, or a row that is
/// not done holds it.
fn nothing_dropped(world: &World, state: &State) -> bool {
    let mut deliveries = world.scenario.queue.iter().zip(&state.broker.places);
    deliveries.all(|(key, place)| {
        let settled = |state| matches!(state, RowState::Done | RowState::Purged);
        let open = |row: &Row| row.key == *key && !settled(row.state);
        state.witness.effects.contains_key(key)
            || *place != Place::Acked
            || state.inbox.rows.iter().any(open)
    })
}

fn handed_has_its_claim(_: &World, state: &State) -> bool {
    let handed = state.inbox.rows_in(RowState::Handed);
    let mut handed: Vec<_> = handed.map(|(id, row)| (id, row.epoch)).collect();
    let claims = state.inbox.claims.iter();
    let mut claimed: Vec<_> = claims
        .map(|claim| (claim.hand_over.row, claim.hand_over.epoch))
        .collect();
    handed.sort_unstable();
    claimed.sort_unstable();
    handed == claimed
}

fn one_claim(world: &World, state: &State) -> bool {
    let claims = &state.inbox.claims;
    let by = match world.protocol.claim_unique_by {
        ClaimUniqueBy::Subscription => ClaimUniqueBy::Subscription,
        _ => ClaimUniqueBy::Reach,
    };
    let collide = |one: &Claim, other: &Claim| {
        Inbox::collide(world.way(), by, one.subscription, other.subscription)
    };
    claims
        .iter()
        .enumerate()
        .all(|(index, one)| claims[index + 1..].iter().all(|other| !collide(one, other)))
}

fn doubt_has_a_reason(_: &World, state: &State) -> bool {
    state.engine.has_lost_history() || state.inbox.rows_in(RowState::DeadInDoubt).next().is_none()
}

/// With no step left that anybody is bound to take: all is acknowledged, rows are done, dead, or
/// waiting for a catcher that is not there, and nothing of ours is left in the engine.
fn quiet_means_settled(world: &World, state: &State) -> bool {
    let mut bound = Vec::new();
    world.progress(state, &mut bound);
    if !bound.is_empty() {
        return true;
    }
    let all_acked = state
        .broker
        .places
        .iter()
        .all(|place| *place == Place::Acked);
    let nothing_open = state.inbox.rows_in(RowState::Handed).next().is_none()
        && state.inbox.claims.is_empty()
        && state.engine.jobs.is_empty();
    let nobody_waits_for_a_waiting_row = state.inbox.rows_in(RowState::Waiting).next().is_none()
        || state.engine.catchers().next().is_none();
    all_acked && nothing_open && nobody_waits_for_a_waiting_row
}

fn all_are_done(_: &World, state: &State) -> bool {
    let all_acked = state
        .broker
        .places
        .iter()
        .all(|place| *place == Place::Acked);
    all_acked
        && state
            .inbox
            .rows
            .iter()
            .all(|row| matches!(row.state, RowState::Done | RowState::Purged))
}
