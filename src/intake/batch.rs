//! The items of a batch, and the rows that they become. Pure.
//!
//! Invariant: of the items of one batch that have one key, only the first is looked at and inserted.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::engine::{Ask, Engine};
use crate::inbox::{
    Change, Existing, Expires, NewRow, OrderKey, RowId, State, StateName, Target, UniqueKey,
};
use crate::message::{
    Action, DeadReason, Envelope, Hash, Message, StartBy, Undecodable, WaitReason,
};
use crate::metrics::DuplicateCause;
use crate::position::Step;
use crate::route::{OnConflict, Route, Routes, Taken};
use crate::units::Span;

use super::verdict::{Past, Verdict, wait};

/// The scope of what could not be decoded begins with this, which no configured scope may.
pub const UNDECODED: char = '!';

/// The epoch of a row that has just been born; every change of a row raises it.
pub(super) const FIRST_EPOCH: i64 = 1;

/// The engines of this node, by name.
pub(super) type Engines<Tx> = BTreeMap<String, Arc<dyn Engine<Tx>>>;

/// One delivery on its way into the inbox.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub row: RowId,
    pub source: Arc<str>,
    pub payload: Bytes,
    pub payload_hash: Hash,
    pub envelope: Envelope,
    pub redelivered: bool,
    /// What its transaction adds to its partition's position.
    pub step: Option<Step>,
    pub key: UniqueKey,
    /// The key as people know it.
    pub dedup_key: String,
    /// The engine's wake finds it as soon as somebody waits for it.
    pub announced: bool,
    pub decoded: Decoded,
}

/// What the routes made of it, and what an earlier try to store it added.
#[derive(Debug, Clone)]
pub(super) enum Decoded {
    Message {
        route: Arc<Route>,
        message: Box<Message>,
    },
    /// The user's own statement refused it: it is stored as waiting, with an attempt used.
    Refused {
        route: Arc<Route>,
        message: Box<Message>,
        detail: String,
    },
    /// Born dead. It keeps its place among the messages of its order key, where that can be told.
    Dead {
        route: Option<Arc<Route>>,
        order_key: Option<String>,
        undecodable: Undecodable,
    },
}

impl Item {
    /// Step 1. `None`: the source says to ignore it.
    pub fn of<Tx>(
        routes: &Routes,
        engines: &Engines<Tx>,
        source: &Arc<str>,
        payload: Bytes,
        envelope: Envelope,
        redelivered: bool,
    ) -> Option<Self> {
        let subject = routes.subject(&payload, &envelope);
        let decoded = match routes.decode(source, &subject) {
            Taken::Ignored => return None,
            Taken::Dead(undecodable) => Decoded::Dead {
                route: None,
                order_key: None,
                undecodable,
            },
            Taken::Unusable {
                route,
                order_key,
                undecodable,
            } => Decoded::Dead {
                route: Some(route),
                order_key,
                undecodable,
            },
            Taken::Message(route, message) => match fits(engines, &route, &message) {
                Ok(()) => Decoded::Message { route, message },
                Err(undecodable) => Decoded::Dead {
                    route: Some(route),
                    order_key: message.order_key,
                    undecodable,
                },
            },
        };
        let announced = match &decoded {
            Decoded::Message { route, message } => engines
                .get(&route.engine)
                .is_some_and(|engine| engine.announces(message)),
            Decoded::Refused { .. } | Decoded::Dead { .. } => false,
        };
        // Packed anew by its producer, it is still the same payload.
        let payload_hash = match subject.content() {
            Ok(content) => Hash::of(&[content.unpacked()]),
            Err(_) => Hash::of(&[&payload]),
        };
        let (key, dedup_key) = match &decoded {
            Decoded::Message { route, message } | Decoded::Refused { route, message, .. } => (
                UniqueKey {
                    scope: route.dedup_scope.clone(),
                    hash: message.dedup_key.hash,
                    conflict: None,
                },
                message.dedup_key.text.clone(),
            ),
            Decoded::Dead { .. } => undecoded_key(source, &payload_hash, &envelope),
        };
        Some(Self {
            row: RowId::fresh(),
            source: Arc::clone(source),
            payload,
            payload_hash,
            envelope,
            redelivered,
            step: None,
            key,
            dedup_key,
            announced,
            decoded,
        })
    }

    pub fn route(&self) -> Option<&Arc<Route>> {
        match &self.decoded {
            Decoded::Message { route, .. } | Decoded::Refused { route, .. } => Some(route),
            Decoded::Dead { route, .. } => route.as_ref(),
        }
    }

    /// The bytes that decoding it has added to what was delivered.
    pub fn size(&self) -> usize {
        self.message().map_or(0, Message::size)
    }

    pub fn route_name(&self) -> Option<&str> {
        self.route().map(|route| route.name.as_str())
    }

    pub fn message(&self) -> Option<&Message> {
        match &self.decoded {
            Decoded::Message { message, .. } | Decoded::Refused { message, .. } => Some(message),
            Decoded::Dead { .. } => None,
        }
    }

    pub fn order(&self) -> Option<OrderKey> {
        let order = self.route()?.order.as_ref()?;
        let (key, dead) = match &self.decoded {
            Decoded::Message { message, .. } | Decoded::Refused { message, .. } => {
                (message.order_key.clone()?, false)
            }
            Decoded::Dead { order_key, .. } => (order_key.clone()?, true),
        };
        let scope = order.scope.clone();
        // What the database cannot hold must not keep the dead row from being written.
        Some(OrderKey { scope, key }).filter(|order| !dead || order.is_storable())
    }

    /// Whether the later ones of its order key wait for it.
    fn holds_back(&self) -> bool {
        match &self.decoded {
            Decoded::Message { .. } | Decoded::Refused { .. } => true,
            Decoded::Dead { route, .. } => route
                .as_ref()
                .and_then(|route| route.order.as_ref())
                .is_some_and(|order| order.dead_blocks),
        }
    }

    /// What the engine is asked: nothing for a row that is born dead or refused.
    pub fn ask(&self) -> Option<(&str, Ask<'_>)> {
        match &self.decoded {
            Decoded::Message { route, message } => Some((
                route.engine.as_str(),
                ask(route, message, self.row, FIRST_EPOCH, &self.key),
            )),
            Decoded::Refused { .. } | Decoded::Dead { .. } => None,
        }
    }

    /// The state of an item that no engine was asked about.
    pub fn unasked_verdict(&self) -> Verdict {
        match &self.decoded {
            Decoded::Dead { undecodable, .. } => Verdict::free(dead(undecodable)),
            Decoded::Refused { route, detail, .. } => {
                wait(route, WaitReason::Retry, detail, Past::default(), false)
            }
            Decoded::Message { route, .. } => {
                let detail = "an earlier message of its order key is not finished";
                wait(route, WaitReason::Ordered, detail, Past::default(), false)
            }
        }
    }

    pub fn new_row(&self, verdict: Verdict) -> NewRow {
        NewRow {
            id: self.row,
            source: self.source.to_string(),
            route: self.route_name().map(str::to_owned),
            engine: self.route().map(|route| route.engine.clone()),
            key: self.key.clone(),
            dedup_key: self.dedup_key.clone(),
            payload_hash: self.payload_hash,
            payload: self.payload.clone(),
            envelope: self.envelope.to_json(),
            coordinates: self.envelope.coordinates(),
            sent_at: self.envelope.timestamp,
            target: self
                .message()
                .map(|message| target(message, self.announced))
                .unwrap_or_default(),
            order: self.order(),
            epoch: FIRST_EPOCH,
            attempts: verdict.attempts_used,
            state: verdict.state,
        }
    }

    /// Another payload under a key that is taken: a dead row of its own.
    pub fn conflict_row(&self) -> NewRow {
        let mut row = self.new_row(Verdict::free(Self::conflict()));
        row.id = RowId::fresh();
        row.key.conflict = Some(self.payload_hash);
        row.target = Target::default();
        row.order = None;
        row
    }

    pub fn conflict() -> State {
        State::Dead {
            reason: DeadReason::Conflict,
            detail: "the same dedup key came before with another payload".to_owned(),
        }
    }

    /// After the database refused it alone: dead, with its bytes, without anything that was made of them
    /// but its place in its order.
    pub fn spoil(&mut self, detail: String) {
        self.decoded = Decoded::Dead {
            route: self.route().cloned(),
            order_key: self.order().map(|order| order.key),
            undecodable: Undecodable {
                reason: DeadReason::Unstorable,
                detail,
            },
        };
        (self.key, self.dedup_key) =
            undecoded_key(&self.source, &self.payload_hash, &self.envelope);
    }

    pub fn is_spoiled(&self) -> bool {
        matches!(
            &self.decoded,
            Decoded::Dead { undecodable, .. } if undecodable.reason == DeadReason::Unstorable
        )
    }

    /// After the user's own statement refused it alone.
    pub fn refuse(&mut self, detail: String) {
        if let Decoded::Message { route, message } = &self.decoded {
            self.decoded = Decoded::Refused {
                route: Arc::clone(route),
                message: message.clone(),
                detail,
            };
        }
    }
}

/// Whether the route's engine can hold the message at all; one that is not configured here says nothing.
pub(super) fn fits<Tx>(
    engines: &Engines<Tx>,
    route: &Route,
    message: &Message,
) -> Result<(), Undecodable> {
    let engine = engines.get(&route.engine);
    engine.map_or(Ok(()), |engine| engine.fits(message))
}

/// The state of what cannot be a message.
pub(super) fn dead(undecodable: &Undecodable) -> State {
    State::Dead {
        reason: undecodable.reason,
        detail: undecodable.detail.clone(),
    }
}

/// What the engine is asked about one message.
pub(super) fn ask<'a>(
    route: &Route,
    message: &'a Message,
    row: RowId,
    epoch: i64,
    key: &UniqueKey,
) -> Ask<'a> {
    let conflict = key.conflict.map(|hash| hash.0.to_vec()).unwrap_or_default();
    Ask {
        row,
        epoch,
        redriven: epoch > FIRST_EPOCH,
        message,
        identity: Hash::of(&[key.scope.as_bytes(), &key.hash.0, &conflict]),
        start_if_nobody: route.start_if_nobody,
        broadcast: route.broadcast,
    }
}

/// What wakes a row of this message.
pub(super) fn target(message: &Message, announced: bool) -> Target {
    let (message_name, business_key) = match &message.action {
        Action::Correlate(correlation) => (
            Some(correlation.message_name.clone()),
            correlation.business_key.clone(),
        ),
        Action::Start(start) => match &start.by {
            StartBy::Message(name) => (Some(name.clone()), start.business_key.clone()),
            StartBy::DefinitionKey(_) => (None, start.business_key.clone()),
        },
        Action::Apply(apply) => (None, apply.business_key.clone()),
    };
    Target {
        message_name,
        business_key,
        announced,
    }
}

/// What could not be decoded is keyed by its coordinates, or by the hash of its bytes and headers,
/// so that a redelivery makes no second row.
fn undecoded_key(source: &str, payload_hash: &Hash, envelope: &Envelope) -> (UniqueKey, String) {
    let text = envelope.coordinates().unwrap_or_else(|| {
        // The broker's own counter is not part of the message.
        let sent = Envelope {
            delivery_count: None,
            ..envelope.clone()
        };
        format!("{:?}", Hash::of(&[&payload_hash.0, &sent.to_json()]))
    });
    let key = UniqueKey {
        scope: format!("{UNDECODED}{source}"),
        hash: Hash::of(&[text.as_bytes()]),
        conflict: None,
    };
    (key, text)
}

/// The order of a batch's items: which go first.
pub(super) struct Plan {
    /// The first item of each key.
    pub firsts: Vec<usize>,
    /// Items whose key came before in this batch.
    pub repeats: Vec<usize>,
    pub order_keys: Vec<OrderKey>,
}

pub(super) fn plan(items: &[Item]) -> Plan {
    let mut seen: HashSet<&UniqueKey> = HashSet::with_capacity(items.len());
    let mut plan = Plan {
        firsts: Vec::with_capacity(items.len()),
        repeats: Vec::new(),
        order_keys: Vec::new(),
    };
    for (index, item) in items.iter().enumerate() {
        if seen.insert(&item.key) {
            plan.firsts.push(index);
            plan.order_keys.extend(item.order());
        } else {
            plan.repeats.push(index);
        }
    }
    plan.order_keys.sort();
    plan.order_keys.dedup();
    plan
}

impl Plan {
    /// A repeat of an item that this batch itself inserted.
    pub fn fate_in_batch(&self, items: &[Item], item: &Item) -> Fate {
        let first = self
            .firsts
            .iter()
            .map(|&first| &items[first])
            .find(|first| first.key == item.key);
        match first {
            Some(first) if first.payload_hash != item.payload_hash => Fate::Conflict,
            _ if item.redelivered => Fate::Duplicate(DuplicateCause::Redelivered),
            _ => Fate::Duplicate(DuplicateCause::Resend),
        }
    }

    /// The items that the engines are asked about: of one order key only the first, and only when no
    /// earlier row of the key is unfinished.
    pub fn asked<'a>(&self, items: &'a [Item], held_back: &[OrderKey]) -> Vec<(&'a str, Ask<'a>)> {
        let mut taken: HashSet<OrderKey> = held_back.iter().cloned().collect();
        self.firsts
            .iter()
            .map(|&index| &items[index])
            .filter(|item| {
                item.order()
                    .is_none_or(|key| !item.holds_back() || taken.insert(key))
            })
            .filter_map(Item::ask)
            .collect()
    }
}

/// What became of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    Stored(State),
    /// Stored by an earlier try of this very batch, whose commit's answer was lost.
    StoredBefore(StateName),
    Duplicate(DuplicateCause),
    Conflict,
}

/// Tells a duplicate from a conflict.
pub(super) fn fate_of_repeat(item: &Item, existing: &Existing) -> Fate {
    if item.row == existing.id {
        return Fate::StoredBefore(existing.state);
    }
    if item.payload_hash != existing.payload_hash {
        return Fate::Conflict;
    }
    let coordinates = item.envelope.coordinates();
    Fate::Duplicate(match existing.state {
        StateName::Dead => DuplicateCause::OfDead,
        _ if item.redelivered => DuplicateCause::Redelivered,
        _ if item.step.as_ref().is_some_and(|step| step.again) => DuplicateCause::Reread,
        _ if coordinates.is_some() && coordinates == existing.coordinates => {
            DuplicateCause::Rebalance
        }
        _ => DuplicateCause::Resend,
    })
}

/// Whether a conflict is stored as a row of its own.
pub(super) fn keeps_conflicts(item: &Item) -> bool {
    item.route()
        .is_none_or(|route| route.on_conflict == OnConflict::Dead)
}

/// A duplicate of a dead row makes it due again, where the route says so; one that may have had its effect
/// is an operator's to decide.
pub(super) fn revival(item: &Item, fate: &Fate, existing: &Existing) -> Option<Change> {
    let wanted = item
        .route()
        .is_some_and(|route| route.redrive_dead_on_duplicate);
    let of_dead = *fate == Fate::Duplicate(DuplicateCause::OfDead);
    let in_doubt = existing.reason.as_deref() == Some(DeadReason::InDoubt.as_str());
    (wanted && of_dead && !in_doubt).then(|| Change {
        id: existing.id,
        from: StateName::Dead,
        epoch: existing.epoch,
        new_epoch: existing.epoch + 1,
        attempts_used: 0,
        target: None,
        state: State::Waiting {
            reason: WaitReason::Retry,
            detail: "redriven by a duplicate".to_owned(),
            due_in: Span::ms(0),
            expires: Expires::Never,
        },
    })
}
