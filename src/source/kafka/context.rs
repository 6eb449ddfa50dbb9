//! What the client calls back, always on the polling thread: assignment and revocation of partitions,
//! answers to commits, statistics, errors and log lines.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::statistics::{self, ConsumerGroup};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, Statistics, TopicPartitionList};

use super::begin::{self, Opening, Position};
use super::config::Start;
use super::fault;
use super::ledger::Ledger;
use super::membership::{Change, Membership};
use super::shared::{Shared, list};
use crate::metrics;
use crate::source::SourceError;
use crate::units::Span;

/// How long a revocation waits for batches under way, so that their records need not be read again.
const FINISH_LIMIT: Duration = Duration::from_secs(1);

pub(super) struct Context {
    pub source: Arc<str>,
    pub start: Start,
    /// How long one question to the broker may take.
    pub limit: Span,
    /// What the inbox knows of positions.
    pub ledger: Option<Ledger>,
    /// The source's counter: no two assignments of a partition have the same number.
    pub incarnations: Arc<AtomicU64>,
    pub shared: Arc<Shared>,
    pub membership: Mutex<Membership>,
    /// The last error in the client's own words, which the error itself does not hold.
    pub last_error: Mutex<Option<(RDKafkaErrorCode, String)>>,
}

impl Context {
    /// What the client said about its last error.
    pub(super) fn take_last_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        let mut last = self
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        last.take()
    }

    /// New partitions: decides where each begins, and only then lets the client fetch.
    fn assign(&self, consumer: &BaseConsumer<Self>, partitions: &mut TopicPartitionList) {
        if partitions.count() > 0 {
            tracing::info!(
                source = &*self.source,
                partitions = partitions.count(),
                "partitions came: looking where each begins"
            );
        }
        // A stream that is over claims nothing any more; its client waits for an answer all the same.
        if self.shared.state().is_wanted()
            && let Err(error) = self.begin(consumer, partitions)
        {
            self.shared.end(error);
        }
        // The client keeps a pause beyond the assignment in which it was made.
        if let Err(cause) = consumer.resume(partitions) {
            tracing::debug!(source = &*self.source, %cause, "cannot resume the new partitions");
        }
        let assigned = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(partitions),
            RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.assign(partitions),
        };
        if let Err(cause) = assigned {
            self.shared
                .end(SourceError::new("the client refuses its partitions").because(cause));
        }
        let paused = self.shared.state().paused;
        if paused && let Err(cause) = consumer.pause(partitions) {
            tracing::debug!(source = &*self.source, %cause, "cannot pause the new partitions");
        }
    }

    /// Decides where these partitions begin.
    fn begin(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &mut TopicPartitionList,
    ) -> Result<(), SourceError> {
        let begins = begin::Begins {
            source: &self.source,
            start: self.start,
            limit: self.limit,
            ledger: self.ledger.as_ref(),
        };
        let openings = begins.resolve(consumer, partitions)?;
        self.take_over(partitions, openings)
            .map_err(|cause| SourceError::new("cannot set where a partition begins").because(cause))
    }

    fn take_over(
        &self,
        partitions: &mut TopicPartitionList,
        openings: Vec<Opening>,
    ) -> KafkaResult<()> {
        let mut state = self.shared.state();
        for opening in openings {
            let at = &opening.at;
            let offset = Offset::Offset(at.offset);
            partitions.set_partition_offset(&at.topic, at.partition, offset)?;
            let incarnation = self.incarnations.fetch_add(1, Ordering::Relaxed);
            if opening.is_forgotten {
                state.commit_by(Instant::now());
            }
            state.assignment.begin(opening, incarnation);
        }
        Ok(())
    }

    /// Partitions go: lets batches under way finish for a moment, commits what is finished, forgets them.
    fn revoke(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let leaving: Vec<(String, i32)> = partitions
            .elements()
            .iter()
            .map(|element| (element.topic().to_owned(), element.partition()))
            .collect();
        // A lost partition has its new owner already: what we would commit may lie behind its offsets.
        let lost = consumer.assignment_lost();
        let finished = self.give_up(&leaving, lost);
        if !finished.is_empty() && !lost {
            let committed =
                list(&finished).and_then(|finished| consumer.commit(&finished, CommitMode::Sync));
            if let Err(cause) = committed {
                metrics::ack_failed(&self.source);
                tracing::warn!(source = &*self.source, %cause, "cannot commit what is finished of a leaving partition; it comes again");
            }
        }
        let unassigned = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(partitions),
            RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.unassign(),
        };
        if let Err(cause) = unassigned {
            self.shared
                .end(SourceError::new("the client does not give up its partitions").because(cause));
        }
        for (topic, partition) in &leaving {
            metrics::kafka_lag(&self.source, topic, *partition, None);
        }
        tracing::info!(
            source = &*self.source,
            partitions = leaving.len(),
            lost,
            "partitions left"
        );
    }

    /// Ends the lanes. From here on no receipt of theirs changes anything.
    fn give_up(&self, leaving: &[(String, i32)], lost: bool) -> Vec<Position> {
        let mut state = self.shared.state();
        for (topic, partition) in leaving {
            state.assignment.discard(topic, *partition);
        }
        if !lost {
            state = self.shared.wait_while(state, FINISH_LIMIT, |state| {
                let under_way = |(topic, partition): &(String, i32)| {
                    state.assignment.in_flight(topic, *partition) > 0
                };
                state.is_wanted() && leaving.iter().any(under_way)
            });
        }
        leaving
            .iter()
            .filter_map(|(topic, partition)| state.assignment.end(topic, *partition))
            .collect()
    }

    /// What the client knows to be committed. Its answers to commits without waiting do not reach
    /// [`ConsumerContext::commit_callback`] (rdkafka 0.39 asks for them as events, and librdkafka makes
    /// none), so that a commit which a rebalance refused shows only here.
    fn committed(&self, topic: &str, partition: i32, offset: i64) {
        let mut state = self.shared.state();
        state.assignment.confirmed(topic, partition, offset);
        if !state.is_commit_planned() && !state.assignment.unconfirmed().is_empty() {
            state.commit_failed();
        }
    }

    fn membership(&self) -> MutexGuard<'_, Membership> {
        self.membership
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The group lets us in again, or has not for a while.
    fn look_at_group(&self, group: &ConsumerGroup) {
        let source = &*self.source;
        match self.membership().look(group, Instant::now()) {
            None => return,
            Some(Change::Outside) => {
                let (state, join_state) = (&*group.state, &*group.join_state);
                tracing::warn!(
                    source,
                    state,
                    join_state,
                    "the group does not let us in: its coordinator does not answer, or waits for a member"
                );
            }
            Some(Change::Inside) => tracing::info!(source, "the group has let us in"),
        }
        self.show_connected();
    }

    fn show_connected(&self) {
        let unreachable = self.shared.state().unreachable;
        let connected = !unreachable && !self.membership().is_kept_outside();
        metrics::source_connected(&self.source, connected);
    }

    /// The client reaches a broker again, or no longer. The stream goes on, so nobody else tells.
    pub(super) fn reachable(&self, reachable: bool) {
        let before = std::mem::replace(&mut self.shared.state().unreachable, !reachable);
        if before != reachable {
            return;
        }
        if reachable {
            tracing::info!(source = &*self.source, "a broker answers again");
        } else {
            tracing::warn!(source = &*self.source, "no broker answers");
        }
        self.show_connected();
    }
}

impl ClientContext for Context {
    /// The client logs every attempt to connect as an error; what matters comes as an error event.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        let source = &*self.source;
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(target: "librdkafka", source, facility, "{line}");
            }
            RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning
            | RDKafkaLogLevel::Notice
            | RDKafkaLogLevel::Info
            | RDKafkaLogLevel::Debug => {
                tracing::debug!(target: "librdkafka", source, facility, "{line}");
            }
        }
    }

    fn stats(&self, statistics: Statistics) {
        // One that leaves is let in nowhere.
        if let Some(group) = statistics
            .cgrp
            .as_ref()
            .filter(|_| self.shared.state().is_wanted())
        {
            self.look_at_group(group);
        }
        let idle = statistics.brokers.values().map(|broker| broker.rxidle);
        let idle = idle.filter_map(|micros| u64::try_from(micros).ok()).min();
        let heard_at =
            idle.and_then(|idle| Instant::now().checked_sub(Duration::from_micros(idle)));
        let mut state = self.shared.state();
        state.heard_at = heard_at.or(state.heard_at);
        let positions = state.assignment.positions();
        // Otherwise what the client passes on is thrown away.
        let is_reading = state.is_reading();
        drop(state);
        for position in positions {
            let Position {
                topic, partition, ..
            } = &position;
            let partitions = statistics.topics.get(topic).map(|topic| &topic.partitions);
            let Some(measured) = partitions.and_then(|partitions| partitions.get(partition)) else {
                continue;
            };
            self.committed(topic, *partition, measured.committed_offset);
            // Records of a transaction that is still open cannot be read yet.
            let end = match measured.ls_offset {
                0.. => measured.ls_offset,
                _ => measured.hi_offset,
            };
            if end >= 0 {
                let fetches = fetches(measured).filter(|_| is_reading);
                let read_to = self.shared.state().assignment.read_to(&position, fetches);
                let lag = end.saturating_sub(read_to).max(0);
                metrics::kafka_lag(&self.source, topic, *partition, Some(lag));
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            let mut last = self
                .last_error
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            // A lost connection and "all brokers are down" follow the error that says why.
            let follows = code == RDKafkaErrorCode::AllBrokersDown;
            let better = match &*last {
                None => true,
                Some((before, said)) => {
                    fault::lasts(code, reason) || !fault::lasts(*before, said) && !follows
                }
            };
            if better {
                *last = Some((code, reason.to_owned()));
            }
        }
    }
}

/// Where the client fetches, if it has passed on everything before that: it puts records into its queue before
/// it says that it fetches behind them, and looks at the queue after. The queue is that of all partitions, and
/// its only reader is the thread that calls us.
fn fetches(measured: &statistics::Partition) -> Option<i64> {
    let is_passed_on = measured.fetch_state == "active" && measured.fetchq_cnt == 0;
    is_passed_on.then_some(measured.next_offset)
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                self.assign(consumer, partitions);
            }
            _ => self.revoke(consumer, partitions),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let mut failure = result.err();
        if matches!(
            failure,
            Some(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset))
        ) {
            return;
        }
        let mut state = self.shared.state();
        if failure.is_none() {
            for element in offsets.elements() {
                match (element.error(), element.offset()) {
                    (Ok(()), Offset::Offset(offset)) => {
                        state
                            .assignment
                            .confirmed(element.topic(), element.partition(), offset);
                    }
                    (Ok(()), _) => {}
                    (Err(cause), _) => failure = Some(cause),
                }
            }
        }
        if let Some(cause) = failure {
            state.commit_failed();
            metrics::ack_failed(&self.source);
            tracing::warn!(source = &*self.source, %cause, "the broker did not take a commit; it is tried again");
        }
    }
}
