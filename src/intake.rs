//! The way of a batch: from the broker through the inbox and the engine to the acknowledgement.
//!
//! ```text
//! Intake::run      next batch ─▶ accept ─▶ next batch …        a bounded number of batches under way
//!  └ accept        1 decode   2 begin   3 look   4 insert   5 hand   6 advance, commit   7 settle (run)
//! ```
//!
//! [`Intake::accept`] is the only place that knows the order, and [`Intake::redrive`] is its steps 3, 5
//! and 6 on rows that exist. No other part of the program calls a source, the inbox and an engine together.
//! Invariant: a receipt leaves this module only after the commit that holds its delivery, or that proves
//! it a duplicate, or when the configuration says to ignore it.

mod advance;
mod batch;
mod drive;
mod redrive;
mod remedy;
mod run;
mod verdict;

pub use advance::Behind;
pub use batch::UNDECODED;
pub use redrive::Driven;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::crash_point;
use crate::engine::{Ask, Engine, Matched, Missed, Outcome};
use crate::inbox::{Change, DbError, Existing, Inbox, NewRow, RowId, State, UniqueKey};
use crate::message::{Delivery, Message, Receipt};
use crate::metrics::{self, MessageOutcome};
use crate::position::Step;
use crate::route::{Route, Routes};
use crate::source::SourceError;
use crate::telemetry;
use crate::units::{Size, Span};

use batch::{FIRST_EPOCH, Fate, Item, Plan};
use verdict::{Past, Verdict, verdict, wait};

/// `[intake]`: the limits of a batch. There is no timer: a batch is what arrived while the last one committed.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IntakeConfig {
    /// Messages of a batch, at most; up to 65535, the room that a batch has in the order of its source. With 200
    /// `sluice bench` accepts a fifth less than with 500, and no more with 1000.
    pub max_batch: usize,
    /// Payload and headers of a batch, at most; one larger message goes alone.
    pub max_batch_bytes: Size,
    /// What a compressed payload (`content_encoding`) may become; one that becomes more is dead.
    pub max_content_bytes: Size,
    /// Batches of a source under way at once. A source with an ordered route has one. With fewer than three
    /// a database with two cores waits for this process between batches.
    pub max_batches: usize,
    /// Another batch opens beside one that takes longer than this.
    pub slow_batch: Span,
    /// A transaction that takes longer than this is given up and tried again: its server may have vanished
    /// without a word.
    pub transaction_timeout: Span,
}

impl Default for IntakeConfig {
    fn default() -> Self {
        Self {
            max_batch: 500,
            max_batch_bytes: Size::mib(16),
            max_content_bytes: Size::mib(16),
            max_batches: 3,
            slow_batch: Span::ms(50),
            transaction_timeout: Span::secs(60),
        }
    }
}

impl IntakeConfig {
    /// The sequence that orders rows gives each batch so many numbers: the rows of a larger one would
    /// stand among those of the next.
    pub const LARGEST_BATCH: usize = 65_535;
}

/// Up to so many messages planning costs the server about as much as the work itself.
const SMALL_BATCH: usize = 8;

/// The way of every message of this node.
pub struct Intake<I: Inbox> {
    inbox: I,
    engines: BTreeMap<String, Arc<dyn Engine<I::Tx>>>,
    routes: Arc<Routes>,
    blocking_scopes: Vec<String>,
    node: Uuid,
    config: IntakeConfig,
    /// Something was handed: confirm may look.
    handed: Notify,
    /// Transactions that may have handed something.
    commits: AtomicU64,
    /// Batches that wait for the database; a drain does not wait with them.
    stalled: AtomicUsize,
    /// Why nothing can be stored now.
    outage: Mutex<Option<String>>,
}

/// A delivery whose row cannot be written at all: its source stops, and the delivery stays unacknowledged.
#[derive(Debug, thiserror::Error)]
#[error("a delivery of source {source_name:?} cannot be stored, not even as a dead row: {error}")]
pub struct Stuck {
    pub source_name: String,
    pub error: DbError,
}

/// Why a source stops until the next start: what it stopped at comes again, and nothing gets past it.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    #[error(transparent)]
    Stuck(#[from] Stuck),
    #[error("{}, again and again", telemetry::in_full(.0))]
    Unreadable(SourceError),
}

/// Why a batch is not stored, and its receipts do not come back.
#[derive(Debug, thiserror::Error)]
pub enum Unstored {
    #[error(transparent)]
    Stuck(#[from] Stuck),
    #[error(transparent)]
    Behind(#[from] Behind),
}

impl<I: Inbox> Intake<I> {
    /// `engines`: every engine that a route names.
    pub fn new(
        inbox: I,
        engines: impl IntoIterator<Item = Arc<dyn Engine<I::Tx>>>,
        routes: Arc<Routes>,
        node: Uuid,
        config: IntakeConfig,
    ) -> Self {
        Self {
            inbox,
            engines: engines
                .into_iter()
                .map(|engine| (engine.name().to_owned(), engine))
                .collect(),
            blocking_scopes: routes.blocking_scopes(),
            routes,
            node,
            config,
            handed: Notify::new(),
            commits: AtomicU64::new(0),
            stalled: AtomicUsize::new(0),
            outage: Mutex::new(None),
        }
    }

    /// Why nothing can be stored now, though the database may answer questions: sources are paused.
    pub fn outage(&self) -> Option<String> {
        let outage = self.outage.lock();
        outage.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_outage(&self, why: Option<String>) {
        let outage = self.outage.lock();
        *outage.unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// How many commits may have handed something, so far.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    fn committed(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.handed.notify_one();
    }

    /// Notified after a commit that may have handed something.
    pub fn handed(&self) -> &Notify {
        &self.handed
    }

    pub fn inbox(&self) -> &I {
        &self.inbox
    }

    pub fn engines(&self) -> impl Iterator<Item = &Arc<dyn Engine<I::Tx>>> {
        self.engines.values()
    }

    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Takes a batch all the way to its commit, however long the database is away; returns what may be acknowledged.
    ///
    /// # Errors
    /// A single delivery that cannot be stored in any form; a database that has lost commits.
    pub async fn accept(&self, deliveries: Vec<Delivery>) -> Result<Vec<Receipt>, Unstored> {
        self.accept_since(deliveries, Instant::now()).await
    }

    /// The same for deliveries of which the first arrived before now.
    async fn accept_since(
        &self,
        deliveries: Vec<Delivery>,
        arrived: Instant,
    ) -> Result<Vec<Receipt>, Unstored> {
        crash_point!("received");
        let mut receipts = Vec::with_capacity(deliveries.len());
        let mut items = Vec::with_capacity(deliveries.len());
        let mut bytes = 0;
        let mut ignored = Vec::new();
        count(&deliveries);
        for delivery in deliveries {
            let Delivery {
                source,
                payload,
                envelope,
                redelivered,
                receipt,
                step,
            } = delivery;
            receipts.push(receipt);
            // 1 decode
            let (routes, engines) = (&self.routes, &self.engines);
            let item = Item::of(routes, engines, &source, payload, envelope, redelivered);
            if let Some(item) = item {
                bytes += item.size();
                items.push(Item { step, ..item });
            } else {
                ignored.extend(step);
                metrics::messages(None, MessageOutcome::Ignored, 1);
            }
            // What was delivered small may have been packed.
            if bytes > self.config.max_batch_bytes.bytes() {
                let (packed, skipped) = (std::mem::take(&mut items), std::mem::take(&mut ignored));
                self.store(packed, skipped, arrived).await?;
                bytes = 0;
            }
        }
        self.store(items, ignored, arrived).await?;
        crash_point!("before_ack");
        Ok(receipts)
    }

    /// Gives up what takes longer than a transaction may; dropped, it is rolled back.
    ///
    /// Whoever talks to the database does it in here: a machine that vanished never answers.
    pub async fn limited<T>(
        &self,
        transaction: impl Future<Output = Result<T, DbError>>,
    ) -> Result<T, DbError> {
        let limit = self.config.transaction_timeout.0;
        DbError::unless_late("transaction", limit, transaction).await
    }

    /// Steps 2 to 6 for items that were never stored: one transaction, or none if the database has lost commits.
    async fn transact(
        &self,
        items: &[Item],
        ignored: &[Step],
    ) -> Result<Result<Vec<Fate>, Behind>, DbError> {
        // 2 begin
        let mut tx = if self.is_small(items) {
            self.inbox.begin_small().await?
        } else {
            self.inbox.begin().await?
        };
        let fates = if items.is_empty() {
            Vec::new()
        } else {
            self.write(&mut tx, items).await?
        };
        // 6 advance: what it locks, the next batch of the partition waits for.
        let steps: Vec<&Step> = items
            .iter()
            .filter_map(|item| item.step.as_ref())
            .chain(ignored)
            .collect();
        if let Err(behind) = self.advance(&mut tx, &steps).await? {
            return Ok(Err(behind));
        }
        crash_point!("before_commit");
        self.inbox.commit(tx).await?;
        for step in steps {
            step.claim.commit(step.offsets.clone());
        }
        crash_point!("after_commit");
        self.committed();
        Ok(Ok(fates))
    }

    /// Whether every statement of the batch finds what it needs by an index.
    fn is_small(&self, items: &[Item]) -> bool {
        items.len() <= SMALL_BATCH
            && items.iter().filter_map(Item::route).all(|route| {
                let engine = self.engines.get(&route.engine);
                engine.is_some_and(|engine| engine.reads_by_index())
            })
    }

    /// Steps 3 to 5, in a transaction that the caller commits. One fate for each item.
    async fn write(&self, tx: &mut I::Tx, items: &[Item]) -> Result<Vec<Fate>, DbError> {
        let plan = batch::plan(items);
        let held_back = self
            .inbox
            .lock_order_keys(tx, &plan.order_keys, &self.blocking_scopes)
            .await?;
        // 3 look
        let mut looked = self.look(tx, &plan.asked(items, &held_back)).await?;
        crash_point!("matched");
        // 4 insert
        let rows: Vec<NewRow> = plan
            .firsts
            .iter()
            .map(|&index| items[index].new_row(looked.first_verdict(&items[index])))
            .collect();
        let new: HashSet<RowId> = self.inbox.insert(tx, &rows).await?.into_iter().collect();
        crash_point!("inserted");
        let mut fates = self.repeats(tx, items, &plan, &new).await?;
        let repeated = i64::try_from(fates.len()).unwrap_or(i64::MAX);
        let mut to_hand = HashSet::with_capacity(new.len());
        for row in rows.into_iter().filter(|row| new.contains(&row.id)) {
            if row.state.has_effect() {
                to_hand.insert(row.id);
            }
            fates.insert(row.id, Fate::Stored(row.state));
        }
        // 5 hand
        for missed in looked.hand(tx, &to_hand).await? {
            let item = items.iter().find(|item| item.row == missed.row);
            let Some(route) = item.and_then(Item::route) else {
                continue;
            };
            let state = self
                .turn_to_waiting(tx, route, &missed, FIRST_EPOCH)
                .await?;
            fates.insert(missed.row, Fate::Stored(state));
        }
        // Last, because batches of one session wait here for each other.
        if repeated > 0 {
            self.inbox.count_duplicates(tx, self.node, repeated).await?;
        }
        crash_point!("handed");
        Ok(items
            .iter()
            .map(|item| fates.remove(&item.row).expect("every item has a fate"))
            .collect())
    }

    fn announced(&self, route: &Route, message: &Message) -> bool {
        self.engines
            .get(&route.engine)
            .is_some_and(|engine| engine.announces(message))
    }

    /// Asks every engine of the batch, each once.
    async fn look<'a>(
        &'a self,
        tx: &mut I::Tx,
        asks: &[(&str, Ask<'a>)],
    ) -> Result<Looked<'a, I::Tx>, DbError> {
        let mut looked = Looked {
            outcomes: HashMap::with_capacity(asks.len()),
            matched: Vec::new(),
        };
        for (name, engine) in &self.engines {
            let of_engine: Vec<Ask<'a>> = asks
                .iter()
                .filter(|(engine, _)| engine == name)
                .map(|(_, ask)| *ask)
                .collect();
            if of_engine.is_empty() {
                continue;
            }
            let matched = engine.look(tx, &of_engine).await?;
            for (index, ask) in of_engine.iter().enumerate() {
                let outcome = matched.outcome(index).clone();
                looked.outcomes.insert(ask.row, outcome);
            }
            looked.matched.push(matched);
        }
        Ok(looked)
    }

    /// Tells duplicates from conflicts among the items that were not inserted; a conflict gets a row of its own.
    async fn repeats(
        &self,
        tx: &mut I::Tx,
        items: &[Item],
        plan: &Plan,
        new: &HashSet<RowId>,
    ) -> Result<HashMap<RowId, Fate>, DbError> {
        let old: Vec<usize> = plan
            .firsts
            .iter()
            .copied()
            .filter(|&index| !new.contains(&items[index].row))
            .collect();
        let mut fates = HashMap::with_capacity(items.len());
        if old.is_empty() && plan.repeats.is_empty() {
            return Ok(fates);
        }
        let keys: Vec<UniqueKey> = old.iter().map(|&index| items[index].key.clone()).collect();
        let existing: HashMap<UniqueKey, Existing> = self
            .inbox
            .existing(tx, &keys)
            .await?
            .into_iter()
            .map(|existing| (existing.key.clone(), existing))
            .collect();
        // A row that was in the way, and is gone: purged since. What is a duplicate of nothing is new.
        if old
            .iter()
            .any(|&index| !existing.contains_key(&items[index].key))
        {
            return Err(DbError::overtaken("inbox.existing"));
        }
        let (mut conflicts, mut revived) = (Vec::new(), Vec::new());
        for item in old
            .iter()
            .copied()
            .chain(plan.repeats.iter().copied())
            .map(|index| &items[index])
        {
            let fate = match existing.get(&item.key) {
                Some(existing) => {
                    let fate = batch::fate_of_repeat(item, existing);
                    revived.extend(batch::revival(item, &fate, existing));
                    fate
                }
                None => plan.fate_in_batch(items, item),
            };
            if fate == Fate::Conflict && batch::keeps_conflicts(item) {
                conflicts.push(item.conflict_row());
            }
            fates.insert(item.row, fate);
        }
        self.inbox.insert(tx, &conflicts).await?;
        self.inbox.change(tx, &revived).await?;
        Ok(fates)
    }

    /// A claim that missed turns its row to waiting, in the same transaction.
    async fn turn_to_waiting(
        &self,
        tx: &mut I::Tx,
        route: &Route,
        missed: &Missed,
        epoch: i64,
    ) -> Result<State, DbError> {
        let verdict = wait(route, missed.reason, &missed.detail, Past::default(), false);
        let change = Change {
            id: missed.row,
            from: missed.from,
            epoch,
            new_epoch: epoch + 1,
            attempts_used: verdict.attempts_used,
            target: None,
            state: verdict.state.clone(),
        };
        let changed = self.inbox.change(tx, &[change]).await?;
        debug_assert_eq!(changed.len(), 1, "the row is this transaction's own");
        Ok(verdict.state)
    }
}

/// Counts what the broker delivered; a batch is one source's.
fn count(deliveries: &[Delivery]) {
    let Some(first) = deliveries.first() else {
        return;
    };
    let again = deliveries.iter().filter(|delivery| delivery.redelivered);
    let again = again.count() as u64;
    let all = deliveries.len() as u64;
    for (redelivered, deliveries) in [(false, all - again), (true, again)] {
        if deliveries > 0 {
            metrics::delivered(&first.source, redelivered, deliveries);
        }
    }
}

/// What the engines of a batch found.
struct Looked<'a, Tx> {
    outcomes: HashMap<RowId, Outcome>,
    matched: Vec<Box<dyn Matched<Tx> + 'a>>,
}

impl<Tx> Looked<'_, Tx> {
    /// The state that an item is born in, and whether that used an attempt.
    fn first_verdict(&self, item: &Item) -> Verdict {
        match (self.outcomes.get(&item.row), item.route()) {
            (Some(outcome), Some(route)) => {
                verdict(route, outcome, Past::default(), item.announced)
            }
            _ => item.unasked_verdict(),
        }
    }

    async fn hand(&mut self, tx: &mut Tx, rows: &HashSet<RowId>) -> Result<Vec<Missed>, DbError> {
        let mut missed = Vec::new();
        for matched in self.matched.drain(..) {
            missed.extend(matched.hand(tx, rows).await?);
        }
        Ok(missed)
    }
}
