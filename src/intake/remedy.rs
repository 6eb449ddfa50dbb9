//! What is done about a database's error: the same batch again, halves of it, or a dead row.
//!
//! Invariant: an outage uses no attempt and drops nothing; only what the database says about *this*
//! item's data, or what it says again and again about this item alone while it answers everybody else,
//! makes the item dead.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::backoff::Delays;
use crate::inbox::{Class, DbError, Inbox, StateName};
use crate::metrics::{self, MessageOutcome};
use crate::position::Step;

use super::batch::{Fate, Item};
use super::{Intake, State, Stuck, Unstored};

/// A batch that fails this often while the probe succeeds is halved.
const FAILURES_UNTIL_HALVED: u32 = 2;
/// A single item that fails this often alone while the probe succeeds is dead.
const FAILURES_UNTIL_DEAD: u32 = 10;
/// Contention that lasts this long is treated like any other failure.
const CONTENTIONS_UNTIL_FAILURE: u32 = 20;

/// Items that are stored by one transaction, and what happened to them so far.
struct Part {
    items: Vec<Item>,
    /// Of deliveries that have no row: any transaction may count them.
    ignored: Vec<Step>,
    failures: u32,
    contentions: u32,
    delays: Delays,
}

impl Part {
    fn new(items: Vec<Item>, ignored: Vec<Step>) -> Self {
        Self {
            items,
            ignored,
            failures: 0,
            contentions: 0,
            delays: Delays::outage(),
        }
    }

    fn is_single(&self) -> bool {
        self.items.len() < 2
    }

    fn halves(mut self) -> Vec<Self> {
        let right = self.items.split_off(self.items.len() / 2);
        vec![
            Self::new(self.items, self.ignored),
            Self::new(right, Vec::new()),
        ]
    }
}

impl<I: Inbox> Intake<I> {
    /// Stores every item, whatever it takes.
    ///
    /// Halves are stored one after the other, so that an ordered source keeps its order. Without an order
    /// to keep, what has to be tried again comes after its neighbours.
    ///
    /// # Errors
    /// An item that cannot be stored in any form; a database that has lost commits.
    pub(super) async fn store(
        &self,
        items: Vec<Item>,
        ignored: Vec<Step>,
        arrived: Instant,
    ) -> Result<(), Unstored> {
        if items.is_empty() && ignored.is_empty() {
            return Ok(());
        }
        let ordered = items.iter().any(|item| item.order().is_some());
        let mut parts = VecDeque::from([Part::new(items, ignored)]);
        while let Some(part) = parts.pop_front() {
            let began = Instant::now();
            let transaction = Box::pin(self.transact(&part.items, &part.ignored));
            match self.limited(transaction).await {
                Ok(fates) => {
                    let fates = fates?;
                    self.set_outage(None);
                    record(&part.items, &fates, began, arrived);
                }
                Err(error) => {
                    metrics::db_error(error.class.as_str());
                    let again = self.remedy(part, error).await?;
                    if !ordered && again.len() == 1 {
                        parts.extend(again);
                    } else {
                        again
                            .into_iter()
                            .rev()
                            .for_each(|part| parts.push_front(part));
                    }
                }
            }
        }
        Ok(())
    }

    async fn remedy(&self, mut part: Part, error: DbError) -> Result<Vec<Part>, Stuck> {
        match error.class {
            Class::Again if part.contentions < CONTENTIONS_UNTIL_FAILURE => {
                tracing::debug!(%error, messages = part.items.len(), "contention, same batch again");
                part.contentions += 1;
                let mut delays = Delays::contention();
                tokio::time::sleep(delays.next_delay()).await;
                Ok(vec![part])
            }
            Class::Data | Class::Message if part.items.len() == 1 => Self::set_aside(part, error),
            Class::Data | Class::Message if !part.is_single() => Ok(part.halves()),
            Class::Again | Class::Outage | Class::Data | Class::Message => {
                tracing::warn!(%error, messages = part.items.len(), "the batch is tried again");
                if !error.may_be_the_batch() {
                    self.set_outage(Some(error.to_string()));
                }
                let stalled = Stalled::new(&self.stalled);
                tokio::time::sleep(part.delays.next_delay()).await;
                self.probe(&mut part.delays).await;
                drop(stalled);
                if error.may_be_the_batch() {
                    part.failures += 1;
                }
                let patience = if part.is_single() {
                    FAILURES_UNTIL_DEAD
                } else {
                    FAILURES_UNTIL_HALVED
                };
                let waits_for_others = part.is_single() && error.is_contention();
                if part.failures < patience || waits_for_others {
                    Ok(vec![part])
                } else if part.is_single() {
                    Self::set_aside(part, error)
                } else {
                    Ok(part.halves())
                }
            }
        }
    }

    /// The one item is what is wrong: an attempt of it, or a dead row.
    fn set_aside(mut single: Part, error: DbError) -> Result<Vec<Part>, Stuck> {
        let detail = error.redacted();
        for item in &mut single.items {
            if item.is_spoiled() {
                return Err(Stuck {
                    source_name: item.source.to_string(),
                    error,
                });
            }
            match error.class {
                Class::Message => item.refuse(detail.clone()),
                Class::Data | Class::Again | Class::Outage => item.spoil(detail.clone()),
            }
        }
        Ok(vec![Part::new(single.items, single.ignored)])
    }

    /// Probes until the database answers and takes writes; then nothing is known to be in the way.
    pub(super) async fn until_database_answers(&self, delays: &mut Delays) {
        self.probe(delays).await;
        self.set_outage(None);
    }

    /// The same for a batch that failed: whether it can be stored now, only it can tell.
    async fn probe(&self, delays: &mut Delays) {
        while let Err(error) = self.inbox.probe().await {
            metrics::db_error(error.class.as_str());
            tracing::warn!(%error, "the database cannot be used, sources are paused");
            self.set_outage(Some(error.to_string()));
            tokio::time::sleep(delays.next_delay()).await;
        }
    }
}

/// Counts one batch as stalled for as long as it lives, also when the batch itself is dropped.
struct Stalled<'a>(&'a AtomicUsize);

impl<'a> Stalled<'a> {
    fn new(stalled: &'a AtomicUsize) -> Self {
        stalled.fetch_add(1, Ordering::SeqCst);
        Self(stalled)
    }
}

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Counts what the commit made true; never before it.
fn record(items: &[Item], fates: &[Fate], began: Instant, arrived: Instant) {
    if let Some(first) = items.first() {
        metrics::accepted(&first.source, items.len(), began.elapsed());
        metrics::committed(&first.source, arrived.elapsed(), items.len());
    }
    // Together, because a look for its counter costs more than counting a message.
    let mut outcomes: BTreeMap<(Option<&str>, MessageOutcome), u64> = BTreeMap::new();
    for (item, fate) in items.iter().zip(fates) {
        let route = item.route_name();
        let outcome = match fate {
            Fate::Duplicate(cause) => {
                metrics::duplicate(route, *cause);
                MessageOutcome::Duplicate
            }
            Fate::Conflict => {
                metrics::conflict(route);
                MessageOutcome::Dead
            }
            Fate::Stored(state) => {
                if let State::Waiting { reason, .. } = state {
                    metrics::waiting(route.unwrap_or(metrics::NO_ROUTE), reason.as_str());
                }
                outcome_of(state.name())
            }
            Fate::StoredBefore(state) => outcome_of(*state),
        };
        *outcomes.entry((route, outcome)).or_default() += 1;
    }
    for ((route, outcome), messages) in outcomes {
        metrics::messages(route, outcome, messages);
    }
    warn_of_dead(items, fates);
}

/// One line for a batch: a producer that sends rubbish must not fill the log, too.
fn warn_of_dead(items: &[Item], fates: &[Fate]) {
    let mut dead = items
        .iter()
        .zip(fates)
        .filter_map(|(item, fate)| match fate {
            Fate::Conflict => Some((item, "conflict", "the key came before with another payload")),
            Fate::Stored(State::Dead { reason, detail }) => Some((item, reason.as_str(), detail)),
            Fate::Stored(_) | Fate::StoredBefore(_) | Fate::Duplicate(_) => None,
        });
    let Some((item, reason, detail)) = dead.next() else {
        return;
    };
    tracing::warn!(
        source = &*item.source,
        route = item.route_name(),
        row = %item.row,
        reason,
        detail,
        others = dead.count(),
        "messages are dead"
    );
}

fn outcome_of(state: StateName) -> MessageOutcome {
    match state {
        StateName::Waiting => MessageOutcome::Waiting,
        StateName::Handed => MessageOutcome::Handed,
        // A newer version's state: it was stored, and is somebody else's to name.
        StateName::Done | StateName::Other => MessageOutcome::Done,
        StateName::Dead => MessageOutcome::Dead,
    }
}
