//! A row on its way again, and what becomes of it. Pure.

use std::sync::Arc;

use crate::engine::Ask;
use crate::inbox::{Change, Class, DbError, State, StateName, StoredRow};
use crate::message::{DeadReason, Envelope, Message, Undecodable, WaitReason};
use crate::route::{Route, Routes};

use super::batch::{self, Decoded, Engines, Item, UNDECODED};
use super::verdict::{Past, Verdict, wait};

/// A row, decoded again by today's configuration.
pub(super) struct Drive {
    pub row: StoredRow,
    pub decoded: Redecoded,
}

pub(super) enum Redecoded {
    Message {
        route: Arc<Route>,
        message: Box<Message>,
    },
    /// It was born dead, and today's configuration makes a message of it.
    Anew(Box<Item>),
    /// It was a message once, and today's configuration, here, cannot make one of it.
    Unreadable {
        route: Arc<Route>,
        undecodable: Undecodable,
    },
    /// Whatever the engine says.
    Settled(State),
}

impl Drive {
    /// `None`: the row's route is not in this node's configuration; another node drives it.
    pub fn of<Tx>(routes: &Routes, engines: &Engines<Tx>, row: StoredRow) -> Option<Self> {
        let envelope: Result<Envelope, _> = serde_json::from_slice(&row.envelope);
        let decoded = match (&row.payload, envelope) {
            (None, _) => gone("its payload was purged"),
            (Some(_), Err(cause)) => gone(&format!("its envelope cannot be read: {cause}")),
            (Some(payload), Ok(envelope)) if row.key.scope.starts_with(UNDECODED) => {
                let source = Arc::from(row.source.as_str());
                let payload = payload.clone();
                match Item::of(routes, engines, &source, payload, envelope, false) {
                    None => gone("the source now says to ignore it"),
                    Some(item) => match &item.decoded {
                        Decoded::Dead { undecodable, .. } => {
                            Redecoded::Settled(batch::dead(undecodable))
                        }
                        Decoded::Message { .. } | Decoded::Refused { .. } => {
                            Redecoded::Anew(Box::new(item))
                        }
                    },
                }
            }
            (Some(payload), Ok(envelope)) => {
                let route = Arc::clone(routes.get(row.route.as_deref()?)?);
                let subject = routes.subject(payload, &envelope);
                let message = route.decode(&subject).and_then(|message| {
                    batch::fits(engines, &route, &message)?;
                    Ok(Box::new(message))
                });
                match message {
                    Ok(message) => Redecoded::Message { route, message },
                    Err(undecodable) => Redecoded::Unreadable { route, undecodable },
                }
            }
        };
        Some(Self { row, decoded })
    }

    pub fn past(&self) -> Past {
        Past {
            attempts: self.row.attempts,
            expired: self.row.expired,
            age: self.row.age,
        }
    }

    /// The bytes that decoding it has added to what is stored.
    pub fn size(&self) -> usize {
        match &self.decoded {
            Redecoded::Message { message, .. } => message.size(),
            Redecoded::Anew(item) => item.size(),
            Redecoded::Unreadable { .. } | Redecoded::Settled(_) => 0,
        }
    }

    pub fn message(&self) -> Option<(&Route, &Message)> {
        match &self.decoded {
            Redecoded::Message { route, message } => Some((route, message)),
            Redecoded::Anew(_) | Redecoded::Unreadable { .. } | Redecoded::Settled(_) => None,
        }
    }

    pub fn ask(&self) -> Option<(&str, Ask<'_>)> {
        let (route, message) = self.message()?;
        let epoch = self.row.epoch + 1;
        let ask = batch::ask(route, message, self.row.id, epoch, &self.row.key);
        Some((route.engine.as_str(), ask))
    }

    /// The verdict about what no engine was asked.
    pub fn unasked_verdict(&self) -> Verdict {
        match &self.decoded {
            Redecoded::Settled(state) => Verdict::free(state.clone()),
            Redecoded::Message { route, .. } => {
                let detail = "its engine is not configured";
                wait(route, WaitReason::Held, detail, self.past(), false)
            }
            // A node of another configuration may be able to, as while nodes are updated one by one.
            Redecoded::Unreadable { route, undecodable } => {
                let detail = format!("{}: {}", undecodable.reason.as_str(), undecodable.detail);
                wait(route, WaitReason::Retry, &detail, self.past(), false)
            }
            Redecoded::Anew(_) => unreachable!("the intake adopts or settles it first"),
        }
    }

    /// The verdict about a row that met an error of its own: an attempt, or dead when the database refused
    /// its data.
    pub fn refused(&self, error: &DbError) -> Verdict {
        let route = match &self.decoded {
            Redecoded::Message { route, .. } | Redecoded::Unreadable { route, .. } => Some(route),
            Redecoded::Anew(item) => item.route(),
            Redecoded::Settled(_) => None,
        };
        match (route, error.class) {
            (Some(route), Class::Message | Class::Again | Class::Outage) => {
                let detail = error.redacted();
                wait(route, WaitReason::Retry, &detail, self.past(), false)
            }
            (None, _) | (_, Class::Data) => Verdict::free(State::Dead {
                reason: DeadReason::Unstorable,
                detail: error.redacted(),
            }),
        }
    }

    /// `announced`: the engine's wake finds it.
    pub fn change(&self, verdict: Verdict, announced: bool) -> Change {
        let target = match self.message() {
            // Columns that the database refused must not be written again.
            _ if matches!(verdict.state, State::Dead { .. }) => None,
            Some((route, message)) => {
                let target = batch::target(message, announced);
                Some((Some(route.engine.clone()), target))
            }
            None => None,
        };
        Change {
            id: self.row.id,
            from: StateName::Waiting,
            epoch: self.row.epoch,
            new_epoch: self.row.epoch + 1,
            attempts_used: verdict.attempts_used,
            target,
            state: verdict.state,
        }
    }
}

/// There is nothing left that could be mapped.
fn gone(detail: &str) -> Redecoded {
    Redecoded::Settled(State::Dead {
        reason: DeadReason::Unstorable,
        detail: detail.to_owned(),
    })
}
