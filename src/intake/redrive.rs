//! Rows that exist, driven again: steps 3, 5 and 6 of the way of a batch.
//!
//! Invariant: the rows are locked from the look to the change, and every change compares state and epoch.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::crash_point;
use crate::inbox::{
    Change, Class, DbError, Inbox, Rekey, RowId, State, StateName, StoredRow, Take,
};
use crate::mapping::Subject;
use crate::message::{DeadReason, Envelope, Message, Undecodable, WaitReason};
use crate::metrics::{self, Sweep};
use crate::route::Route;

use super::Intake;
use super::batch::{self, Fate, Item, UNDECODED};
use super::verdict::{Past, Verdict, verdict, wait};

/// What one round of redrive did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Driven {
    /// Rows that were looked at.
    pub taken: usize,
    /// Rows that no longer wait.
    pub moved: usize,
}

/// A row on its way, decoded again by today's configuration.
struct Drive {
    row: StoredRow,
    decoded: Redecoded,
}

enum Redecoded {
    Message {
        route: Arc<Route>,
        message: Box<Message>,
    },
    /// It was born dead, and today's configuration makes a message of it.
    Anew(Box<Item>),
    /// Whatever the engine says.
    Settled(State),
}

impl<I: Inbox> Intake<I> {
    /// Drives waiting rows. An error about one row's data is that row's alone; the others go on.
    ///
    /// # Errors
    /// The database's, when it is not about a row.
    pub async fn redrive(&self, take: Take<'_>, sweep: Sweep) -> Result<Driven, DbError> {
        let mut ids = Vec::new();
        let error = match self
            .limited(Box::pin(self.drive(take, sweep, None, &mut ids)))
            .await
        {
            Err(error) if matches!(error.class, Class::Data | Class::Message) => error,
            other => return other,
        };
        // One by one: there are few, and it is rare.
        let mut driven = Driven::default();
        tracing::warn!(%error, rows = ids.len(), "rows are driven one by one");
        for id in ids {
            let one = Take::Rows(&[id]);
            let mut none = Vec::new();
            let alone = match self
                .limited(Box::pin(self.drive(one.clone(), sweep, None, &mut none)))
                .await
            {
                Err(error) if matches!(error.class, Class::Data | Class::Message) => {
                    self.limited(Box::pin(self.drive(one, sweep, Some(&error), &mut none)))
                        .await
                }
                other => other,
            }?;
            driven.taken += alone.taken;
            driven.moved += alone.moved;
        }
        Ok(driven)
    }

    /// One transaction. `refused`: the error that this one row met alone; it is recorded instead of tried.
    async fn drive(
        &self,
        take: Take<'_>,
        sweep: Sweep,
        refused: Option<&DbError>,
        ids: &mut Vec<RowId>,
    ) -> Result<Driven, DbError> {
        let mut tx = self.inbox.begin().await?;
        let rows = self
            .inbox
            .take(&mut tx, take, &self.blocking_scopes)
            .await?;
        if rows.is_empty() {
            return Ok(Driven::default());
        }
        crash_point!("wake_claimed");
        ids.extend(rows.iter().map(|row| row.id));
        let mut drives: Vec<Drive> = rows
            .into_iter()
            .filter_map(|row| self.decode_again(row))
            .collect();
        if refused.is_none() {
            for drive in &mut drives {
                self.adopt(&mut tx, drive).await?;
            }
        }
        let asks: Vec<_> = match refused {
            Some(_) => Vec::new(),
            None => drives.iter().filter_map(Drive::ask).collect(),
        };
        // 3 look
        let mut looked = self.look(&mut tx, &asks).await?;
        let mut changes = Vec::with_capacity(drives.len());
        for drive in &drives {
            let verdict = match (refused, looked.outcomes.get(&drive.row.id)) {
                (Some(error), _) => drive.refused(error),
                (None, Some(outcome)) => drive.verdict(|route, message, past| {
                    verdict(route, outcome, past, self.announced(route, message))
                }),
                (None, None) => drive.unasked_verdict(),
            };
            changes.push(drive.change(verdict, |route, message| self.announced(route, message)));
        }
        let changed: HashSet<RowId> = self
            .inbox
            .change(&mut tx, &changes)
            .await?
            .into_iter()
            .collect();
        metrics::stale_changes((changes.len() - changed.len()) as u64);
        // 5 hand
        let by_row: HashMap<RowId, &Drive> = drives.iter().map(|d| (d.row.id, d)).collect();
        let mut missed_rows = HashSet::new();
        for missed in looked.hand(&mut tx, &changed).await? {
            if let Some(Redecoded::Message { route, .. }) =
                by_row.get(&missed.row).map(|drive| &drive.decoded)
            {
                let epoch = by_row[&missed.row].row.epoch + 1;
                self.turn_to_waiting(&mut tx, route, &missed, epoch).await?;
                missed_rows.insert(missed.row);
            }
        }
        // 6 commit
        self.inbox.commit(tx).await?;
        self.handed.notify_one();
        let moved = changes
            .iter()
            .filter(|change| changed.contains(&change.id) && !missed_rows.contains(&change.id))
            .filter(|change| change.state.name() != StateName::Waiting)
            .inspect(|change| {
                if let Some(drive) = by_row.get(&change.id) {
                    metrics::recovered(sweep, drive.row.overdue.0);
                }
                if let State::Dead { reason, detail } = &change.state {
                    tracing::warn!(row = %change.id, reason = reason.as_str(), detail, "message is dead");
                }
            })
            .count();
        Ok(Driven {
            taken: changes.len(),
            moved,
        })
    }

    /// `None`: the row's route is not in this node's configuration; another node drives it.
    fn decode_again(&self, row: StoredRow) -> Option<Drive> {
        let gone = |detail: &str| {
            Redecoded::dead(&Undecodable {
                reason: DeadReason::Unstorable,
                detail: detail.to_owned(),
            })
        };
        let envelope: Result<Envelope, _> = serde_json::from_slice(&row.envelope);
        let decoded = match (&row.payload, envelope) {
            (None, _) => gone("its payload was purged"),
            (Some(_), Err(cause)) => gone(&format!("its envelope cannot be read: {cause}")),
            (Some(payload), Ok(envelope)) if row.key.scope.starts_with(UNDECODED) => {
                let source = Arc::from(row.source.as_str());
                match Item::of(
                    &self.routes,
                    &self.engines,
                    &source,
                    payload.clone(),
                    envelope,
                    false,
                ) {
                    None => gone("the source now says to ignore it"),
                    Some(item) => match &item.decoded {
                        batch::Decoded::Dead { undecodable, .. } => Redecoded::dead(undecodable),
                        _ => Redecoded::Anew(Box::new(item)),
                    },
                }
            }
            (Some(payload), Ok(envelope)) => {
                let route = self.routes.get(row.route.as_deref()?)?;
                let message = route
                    .decode(&Subject::new(payload, &envelope))
                    .and_then(|message| match self.engines.get(&route.engine) {
                        Some(engine) => engine.fits(&message).map(|()| message),
                        None => Ok(message),
                    });
                match message {
                    Ok(message) => Redecoded::Message {
                        route: Arc::clone(route),
                        message: Box::new(message),
                    },
                    Err(undecodable) => Redecoded::dead(&undecodable),
                }
            }
        };
        Some(Drive { row, decoded })
    }

    /// A row that was born dead and is a message now takes its message's key, and keeps its place in the
    /// order; if the key is taken, it is a duplicate or a conflict.
    async fn adopt(&self, tx: &mut I::Tx, drive: &mut Drive) -> Result<(), DbError> {
        let Redecoded::Anew(item) = &drive.decoded else {
            return Ok(());
        };
        let order = item.order();
        let moves = order.is_some() && order != drive.row.order;
        if moves {
            let keys: Vec<_> = order.iter().cloned().collect();
            self.inbox
                .lock_order_keys(tx, &keys, &self.blocking_scopes)
                .await?;
        }
        let existing = self
            .inbox
            .existing(tx, std::slice::from_ref(&item.key))
            .await?;
        drive.decoded = match (existing.first(), &item.decoded) {
            (None, batch::Decoded::Message { route, message }) => {
                let rekey = Rekey {
                    id: drive.row.id,
                    epoch: drive.row.epoch,
                    route: &route.name,
                    key: &item.key,
                    dedup_key: &item.dedup_key,
                    order: order.as_ref(),
                };
                self.inbox.rekey(tx, rekey).await?;
                drive.row.key = item.key.clone();
                if moves {
                    // The last of its key; the sweep brings it when it is the first.
                    Redecoded::Settled(item.unasked_verdict().state)
                } else {
                    Redecoded::Message {
                        route: Arc::clone(route),
                        message: message.clone(),
                    }
                }
            }
            (Some(existing), _) => {
                Redecoded::Settled(match batch::fate_of_repeat(item, existing) {
                    Fate::Conflict => Item::conflict(),
                    _ => State::Done {
                        detail: format!("a duplicate of row {}", existing.id),
                        process_instance_id: None,
                    },
                })
            }
            (None, _) => Redecoded::Settled(item.unasked_verdict().state),
        };
        Ok(())
    }
}

impl Redecoded {
    fn dead(undecodable: &Undecodable) -> Self {
        Self::Settled(State::Dead {
            reason: undecodable.reason,
            detail: undecodable.detail.clone(),
        })
    }
}

impl Drive {
    fn past(&self) -> Past {
        Past {
            attempts: self.row.attempts,
            expired: self.row.expired,
        }
    }

    fn ask(&self) -> Option<(&str, crate::engine::Ask<'_>)> {
        match &self.decoded {
            Redecoded::Message { route, message } => Some((
                route.engine.as_str(),
                batch::ask(
                    route,
                    message,
                    self.row.id,
                    self.row.epoch + 1,
                    &self.row.key,
                ),
            )),
            Redecoded::Anew(_) | Redecoded::Settled(_) => None,
        }
    }

    /// The verdict about what no engine was asked.
    fn unasked_verdict(&self) -> Verdict {
        match &self.decoded {
            Redecoded::Settled(state) => Verdict::free(state.clone()),
            Redecoded::Message { route, .. } => {
                let detail = "its engine is not configured";
                wait(route, WaitReason::Held, detail, Past::default(), false)
            }
            Redecoded::Anew(_) => unreachable!("it was adopted"),
        }
    }

    fn verdict(&self, of: impl Fn(&Route, &Message, Past) -> Verdict) -> Verdict {
        match &self.decoded {
            Redecoded::Message { route, message } => of(route, message, self.past()),
            Redecoded::Anew(_) | Redecoded::Settled(_) => {
                unreachable!("only messages are asked about")
            }
        }
    }

    /// The row that met an error of its own: an attempt, or dead when the database refused its data.
    fn refused(&self, error: &DbError) -> Verdict {
        match (&self.decoded, error.class) {
            (Redecoded::Message { route, .. }, Class::Message) => wait(
                route,
                WaitReason::Retry,
                &error.redacted(),
                self.past(),
                false,
            ),
            _ => Verdict {
                state: State::Dead {
                    reason: DeadReason::Unstorable,
                    detail: error.redacted(),
                },
                attempts_used: 0,
            },
        }
    }

    fn change(&self, verdict: Verdict, announced: impl Fn(&Route, &Message) -> bool) -> Change {
        let target = match &self.decoded {
            // Columns that the database refused must not be written again.
            _ if matches!(verdict.state, State::Dead { .. }) => None,
            Redecoded::Message { route, message } => {
                let target = batch::target(message, announced(route, message));
                Some((Some(route.engine.clone()), target))
            }
            Redecoded::Anew(_) | Redecoded::Settled(_) => None,
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
