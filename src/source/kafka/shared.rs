//! What the intake's side and the polling thread of one stream share, under one lock.
//!
//! The intake takes and settles; the thread polls, and its callbacks assign and revoke. Commits are
//! enqueued under the lock, and a partition ends under the lock, so that none is committed after it left.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Notify;

use super::assignment::Assignment;
use super::begin::{self, Position};
use super::context::Context;
use crate::source::SourceError;

/// A commit that failed is tried again after this long, if no later one has covered it.
const COMMIT_AGAIN: Duration = Duration::from_secs(1);
/// Commits of a stream are no closer than this: Kafka 4 answers each after some 10 ms, one after the other, and
/// those of every batch would pile up there for seconds, in the way of heartbeats and of leaving the group. The client
/// begins no partition and ends no rebalance while one is not answered.
const COMMIT_PAUSE: Duration = Duration::from_secs(1);
/// While one record waits for a lock, those behind it are finished and cannot be committed: so many are kept in mind.
const REMEMBERED: usize = 250_000;

#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Something for the intake: a record, or the end.
    pub arrived: Notify,
    /// Something for the thread: room in the buffer, receipts, the wish to stop.
    pub changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    pub assignment: Assignment,
    /// Used under the lock and never cloned out of it, so that the thread's own handle is the last one:
    /// dropping the last one blocks until the group is left.
    pub consumer: Option<Arc<BaseConsumer<Context>>>,
    /// The intake has taken nothing for a while: no partition is fetched.
    pub paused: bool,
    /// The intake is done with us.
    pub stop: bool,
    pub life: Life,
    /// No broker answers.
    pub unreachable: bool,
    /// When bytes of a broker came last, as far as the client has told.
    pub heard_at: Option<Instant>,
    committed_at: Option<Instant>,
    /// When what is finished is to be committed, unless a commit comes before.
    commit_at: Option<Instant>,
}

/// How far a stream is.
#[derive(Default)]
pub(super) enum Life {
    #[default]
    Reading,
    /// Nothing more is received for this reason. What came before is finished first, or the next stream
    /// would bring it again, and the one after that, and none would get any further.
    Finishing(SourceError),
    /// Ended; with the reason, until somebody was told.
    Over(Option<SourceError>),
}

impl Shared {
    /// The state stays sound when a holder of the lock panicked: each change is complete in itself.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something changed, or this long, while the condition holds.
    pub(super) fn wait_while<'a>(
        &self,
        state: MutexGuard<'a, State>,
        limit: Duration,
        condition: impl FnMut(&mut State) -> bool,
    ) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout_while(state, limit, condition);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// The stream is over; the first reason is the one that is told.
    pub(super) fn end(&self, error: SourceError) {
        let mut state = self.state();
        state.life = match std::mem::take(&mut state.life) {
            Life::Reading => Life::Over(Some(error)),
            Life::Finishing(first) => Life::Over(Some(first)),
            over @ Life::Over(_) => over,
        };
        drop(state);
        self.arrived.notify_one();
        self.changed.notify_all();
    }
}

impl State {
    /// Whether to receive no more for now.
    pub(super) fn is_full(&self, buffer_bytes: usize) -> bool {
        !self.is_reading()
            || self.assignment.buffered_bytes() >= buffer_bytes
            || self.assignment.remembered() >= REMEMBERED
    }

    pub(super) fn is_reading(&self) -> bool {
        matches!(self.life, Life::Reading)
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.life, Life::Over(_))
    }

    /// Whether anybody still wants something of this stream.
    pub(super) fn is_wanted(&self) -> bool {
        !self.stop && !self.is_over()
    }

    /// Ends a stream that had only to finish what came, when that is done.
    pub(super) fn end_if_finished(&mut self) {
        if let Life::Finishing(_) = self.life
            && self.assignment.is_finished()
            && let Life::Finishing(error) = std::mem::take(&mut self.life)
        {
            self.life = Life::Over(Some(error));
        }
    }

    /// The error for a caller after the end.
    pub(super) fn told(&mut self) -> SourceError {
        let told = match &mut self.life {
            Life::Over(error) => error.take(),
            Life::Reading | Life::Finishing(_) => None,
        };
        told.unwrap_or_else(|| SourceError::new("the stream has ended"))
    }

    /// Hands what is finished and not confirmed to the client, which commits it by itself; if it has just got
    /// something, a little later.
    pub(super) fn commit_finished(&mut self) -> Result<(), KafkaError> {
        let now = Instant::now();
        if let Some(at) = self.committed_at.map(|at| at + COMMIT_PAUSE)
            && now < at
        {
            self.commit_by(at);
            return Ok(());
        }
        let finished = self.assignment.unconfirmed();
        if finished.is_empty() {
            return Ok(());
        }
        let Some(consumer) = &self.consumer else {
            return Err(KafkaError::Canceled);
        };
        self.committed_at = Some(now);
        self.commit_at = None;
        consumer.commit(&list(&finished)?, CommitMode::Async)
    }

    pub(super) fn commit_failed(&mut self) {
        self.commit_by(Instant::now() + COMMIT_AGAIN);
    }

    /// Then, or when something else wants it earlier.
    pub(super) fn commit_by(&mut self, at: Instant) {
        self.commit_at = Some(self.commit_at.map_or(at, |wanted| wanted.min(at)));
    }

    pub(super) fn is_commit_planned(&self) -> bool {
        self.commit_at.is_some()
    }

    /// Makes the commit that was put off, or failed, when its time has come.
    pub(super) fn commit_due(&mut self, now: Instant) {
        if self.commit_at.is_none_or(|at| now < at) {
            return;
        }
        self.commit_at = None;
        if self.commit_finished().is_err() {
            self.commit_failed();
        }
    }

    /// What is assigned, as the client wants it.
    pub(super) fn partitions(&self) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for position in self.assignment.positions() {
            list.add_partition(&position.topic, position.partition);
        }
        list
    }
}

/// Positions as the client wants them. Such a list must be gone before the consumer is dropped.
pub(super) fn list(positions: &[Position]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for position in positions {
        let offset = Offset::Offset(position.offset);
        list.add_partition_offset(&position.topic, position.partition, offset)?;
        if let (Some(since), Some(mut element)) = (
            position.since,
            list.find_partition(&position.topic, position.partition),
        ) {
            element.set_metadata(begin::since_to_metadata(since));
        }
    }
    Ok(list)
}
