//! Rows that exist, driven again: steps 3, 5 and 6 of the way of a batch.
//!
//! Invariant: the rows are locked from the look to the change, and every change compares state and epoch.
//! One row's error is that row's alone: the others of its page go on, and it is set aside.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::crash_point;
use crate::inbox::{Change, Class, DbError, Inbox, Rekey, RowId, State, StateName, Take, Woken};
use crate::metrics::{self, Sweep};

use super::Intake;
use super::batch::{self, Decoded, Fate, Item};
use super::drive::{Drive, Redecoded};
use super::verdict::verdict;

/// What one round of redrive did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Driven {
    /// Rows that were looked at.
    pub taken: usize,
    /// Rows that no longer wait.
    pub moved: usize,
}

impl std::ops::AddAssign for Driven {
    fn add_assign(&mut self, more: Self) {
        self.taken += more.taken;
        self.moved += more.moved;
    }
}

impl<I: Inbox> Intake<I> {
    /// Drives waiting rows. An error that may be one row's own is that row's alone; the others go on.
    ///
    /// # Errors
    /// The database's, when it is not about a row.
    pub async fn redrive(&self, take: Take<'_>, sweep: Sweep) -> Result<Driven, DbError> {
        let mut ids = Vec::new();
        let driven = self
            .limited(Box::pin(self.drive(take, sweep, &mut ids)))
            .await;
        match driven {
            // Where none was taken, none is to blame.
            Err(error) if !ids.is_empty() && may_be_a_rows_own(&error) => {
                tracing::warn!(%error, rows = ids.len(), "rows are driven one by one");
                self.redrive_one_by_one(&ids, sweep).await
            }
            other => other,
        }
    }

    async fn redrive_one_by_one(&self, ids: &[RowId], sweep: Sweep) -> Result<Driven, DbError> {
        let mut driven = Driven::default();
        for id in ids {
            let mut itself = Vec::new();
            let one = [Woken::of(*id)];
            let alone = Box::pin(self.drive(one_of(&one), sweep, &mut itself));
            driven += match self.limited(alone).await {
                Err(error) if may_be_a_rows_own(&error) => {
                    // Only while the database does what it should is the row to blame.
                    self.inbox.probe().await?;
                    self.limited(Box::pin(self.refuse(*id, &error))).await?
                }
                other => other?,
            };
        }
        Ok(driven)
    }

    /// Drives the rows in one transaction; `ids` are those that it took.
    async fn drive(
        &self,
        take: Take<'_>,
        sweep: Sweep,
        ids: &mut Vec<RowId>,
    ) -> Result<Driven, DbError> {
        let mut tx = self.inbox.begin().await?;
        let (mut drives, changed) = self.take(&mut tx, take).await?;
        if drives.is_empty() {
            if changed {
                self.inbox.commit(tx).await?;
            }
            return Ok(Driven::default());
        }
        crash_point!("wake_claimed");
        ids.extend(drives.iter().map(|drive| drive.row.id));
        for drive in &mut drives {
            self.adopt(&mut tx, drive).await?;
        }
        // 3 look
        let asks: Vec<_> = drives.iter().filter_map(Drive::ask).collect();
        let mut looked = self.look(&mut tx, &asks).await?;
        let changes: Vec<Change> = drives
            .iter()
            .map(|drive| {
                let announced = drive.message().is_some_and(|(r, m)| self.announced(r, m));
                let verdict = match (drive.message(), looked.outcomes.get(&drive.row.id)) {
                    (Some((route, _)), Some(outcome)) => {
                        verdict(route, outcome, drive.past(), announced)
                    }
                    _ => drive.unasked_verdict(),
                };
                drive.change(verdict, announced)
            })
            .collect();
        let changed = self.change(&mut tx, &changes).await?;
        // 5 hand
        let to_hand: HashSet<RowId> = changes
            .iter()
            .filter(|change| changed.contains(&change.id) && change.state.has_effect())
            .map(|change| change.id)
            .collect();
        let by_row: HashMap<RowId, &Drive> = drives.iter().map(|d| (d.row.id, d)).collect();
        let mut moved = changed;
        for missed in looked.hand(&mut tx, &to_hand).await? {
            let drive = by_row[&missed.row];
            if let Some((route, _)) = drive.message() {
                let epoch = drive.row.epoch + 1;
                self.turn_to_waiting(&mut tx, route, &missed, epoch).await?;
            }
            moved.remove(&missed.row);
        }
        // 6 commit
        self.inbox.commit(tx).await?;
        self.committed();
        let mut driven = Driven {
            taken: drives.len(),
            moved: 0,
        };
        for change in changes.iter().filter(|change| moved.contains(&change.id)) {
            if change.state.name() != StateName::Waiting {
                driven.moved += 1;
                metrics::recovered(sweep, by_row[&change.id].row.overdue.map(|span| span.0));
            }
            warn_of_dead(change);
        }
        Ok(driven)
    }

    /// Records the error that a row met alone; it is not tried.
    async fn refuse(&self, id: RowId, error: &DbError) -> Result<Driven, DbError> {
        let mut tx = self.inbox.begin().await?;
        let (drives, _) = self.take(&mut tx, one_of(&[Woken::of(id)])).await?;
        let changes: Vec<Change> = drives
            .iter()
            .map(|drive| drive.change(drive.refused(error), false))
            .collect();
        let changed = self.change(&mut tx, &changes).await?;
        self.inbox.commit(tx).await?;
        let changes = changes.iter().filter(|change| changed.contains(&change.id));
        changes.for_each(warn_of_dead);
        Ok(Driven {
            taken: drives.len(),
            moved: 0,
        })
    }

    /// Those of the rows that this node can drive, locked and decoded again; and whether something was changed on
    /// the way.
    async fn take(&self, tx: &mut I::Tx, take: Take<'_>) -> Result<(Vec<Drive>, bool), DbError> {
        let taken = self.inbox.take(tx, take, &self.blocking_scopes).await?;
        let mut bytes = 0;
        let drives = taken
            .rows
            .into_iter()
            .filter_map(|row| Drive::of(&self.routes, &self.engines, row))
            // Unpacked, they may be more than the page was bounded to; the next round takes the rest.
            .take_while(|drive| {
                let first = bytes == 0;
                bytes += drive.size();
                first || bytes <= self.config.max_batch_bytes.bytes()
            })
            .collect();
        Ok((drives, taken.changed))
    }

    async fn change(&self, tx: &mut I::Tx, changes: &[Change]) -> Result<HashSet<RowId>, DbError> {
        let changed = self.inbox.change(tx, changes).await?;
        metrics::stale_changes((changes.len() - changed.len()) as u64);
        Ok(changed.into_iter().collect())
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
        let key = std::slice::from_ref(&item.key);
        let existing = self.inbox.existing(tx, key).await?;
        // A row is no duplicate of itself.
        let another = existing.first().filter(|row| row.id != drive.row.id);
        drive.decoded = match (another, &item.decoded) {
            (None, Decoded::Message { route, message }) => {
                let rekey = Rekey {
                    id: drive.row.id,
                    epoch: drive.row.epoch,
                    route: &route.name,
                    key: &item.key,
                    dedup_key: &item.dedup_key,
                    payload_hash: item.payload_hash,
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
            (None, _) => Redecoded::Settled(item.unasked_verdict().state),
            (Some(existing), _) => {
                Redecoded::Settled(match batch::fate_of_repeat(item, existing) {
                    Fate::Conflict => Item::conflict(),
                    _ => State::Done {
                        detail: format!("a duplicate of row {}", existing.id),
                        process_instance_id: None,
                    },
                })
            }
        };
        Ok(())
    }
}

/// One row, whatever its size.
fn one_of(row: &[Woken; 1]) -> Take<'_> {
    let bytes = i64::MAX;
    Take::Rows { rows: row, bytes }
}

/// Whether the error may come from one row of the page: its data, a statement of the user's about it, a key
/// that its rows cannot have, a statement that never fits its time limit for it.
///
/// Somebody's lock is not: however long it is held, the rows wait for it together.
fn may_be_a_rows_own(error: &DbError) -> bool {
    match error.class {
        Class::Data | Class::Message => true,
        Class::Again => !error.is_contention(),
        Class::Outage => error.may_be_the_batch(),
    }
}

fn warn_of_dead(change: &Change) {
    if let State::Dead { reason, detail } = &change.state {
        tracing::warn!(row = %change.id, reason = reason.as_str(), detail, "message is dead");
    }
}
