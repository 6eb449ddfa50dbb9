//! The thread that owns a stream's consumer: it polls all the time, whatever the intake does.
//!
//! The client wants to be polled, answers some questions only by blocking, and blocks when it is dropped.
//! A thread of its own can do all of this; the runtime's threads never wait for a broker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::metadata::Metadata;
use tokio::sync::oneshot;

use super::context::Context;
use super::fault;
use super::identity::Identity;
use super::pattern;
use super::pulse::Pulse;
use super::shared::{Life, Shared, list};
use crate::message::{Envelope, Text};
use crate::source::SourceError;

/// The longest single wait for a record: how soon the thread notices that it shall stop.
const POLL: Duration = Duration::from_millis(100);
/// A full buffer is usually taken at once. Only after this long are the partitions paused, because
/// pausing throws away what the client has fetched ahead.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long a broker may take to prove that it is there.
const ANSWER: Duration = Duration::from_secs(2);

/// What the thread needs to begin.
pub(super) struct Plan {
    pub client: ClientConfig,
    pub topics: Vec<String>,
    pub context: Context,
    /// A buffer of this many bytes is full.
    pub buffer_bytes: usize,
    /// The stream ends when no broker has answered for this long.
    pub down_limit: Duration,
}

/// A thread that has been started.
pub(super) struct Started {
    /// How beginning went.
    pub opening: oneshot::Receiver<Result<(), SourceError>>,
    /// Resolves when the group is left and the thread is gone.
    pub ending: oneshot::Receiver<()>,
}

pub(super) fn spawn(plan: Plan) -> std::io::Result<Started> {
    let (opened, opening) = oneshot::channel();
    let (done, ending) = oneshot::channel();
    let name = format!("kafka-{}", plan.context.source);
    std::thread::Builder::new().name(name).spawn(move || {
        let _done = done;
        live(plan, opened);
    })?;
    Ok(Started { opening, ending })
}

/// Ends the stream however the thread ends, a panic included.
struct Farewell(Arc<Shared>);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.state().consumer = None;
        self.0.end(SourceError::new("the polling thread has ended"));
    }
}

fn live(plan: Plan, opened: oneshot::Sender<Result<(), SourceError>>) {
    let shared = Arc::clone(&plan.context.shared);
    let (buffer_bytes, down_limit) = (plan.buffer_bytes, plan.down_limit);
    let named = |topic: &&String| !pattern::is_pattern(topic);
    let topic = plan.topics.iter().find(named).cloned();
    let consumer = match begin(plan) {
        Ok(consumer) => Arc::new(consumer),
        Err(error) => {
            let _ = opened.send(Err(error));
            return;
        }
    };
    // Declared after the consumer, so dropped before it: the thread's handle is the last.
    let farewell = Farewell(Arc::clone(&shared));
    shared.state().consumer = Some(Arc::clone(&consumer));
    if opened.send(Ok(())).is_ok() {
        let mut poller = Poller {
            topic: topic.as_deref(),
            shared: &shared,
            consumer: &consumer,
            buffer_bytes,
            down_limit,
            pulse: Pulse::new(Instant::now()),
            identity: Identity::new(Instant::now()),
        };
        poller.run();
        poller.commit_rest();
    }
    drop(farewell);
    // Leaves the group, which takes until the coordinator has answered.
    drop(consumer);
}

/// Connects, makes sure that the topics exist, and joins the group.
fn begin(plan: Plan) -> Result<BaseConsumer<Context>, SourceError> {
    let limit = plan.context.limit;
    let consumer: BaseConsumer<Context> = plan
        .client
        .create_with_context(plan.context)
        .map_err(|cause| fault::refused(cause).needs_operator())?;
    for topic in &plan.topics {
        if pattern::is_pattern(topic) {
            metadata(&consumer, None, limit.0)?;
        } else {
            partitions(&consumer, topic, limit.0)?;
        }
    }
    let topics: Vec<&str> = plan.topics.iter().map(String::as_str).collect();
    consumer
        .subscribe(&topics)
        .map_err(|cause| SourceError::new("cannot subscribe").because(cause))?;
    Ok(consumer)
}

/// How many partitions a topic has.
///
/// # Errors
/// It does not exist, we may not see it, or no broker answers.
pub(super) fn partitions(
    consumer: &BaseConsumer<Context>,
    topic: &str,
    limit: Duration,
) -> Result<usize, SourceError> {
    let metadata = metadata(consumer, Some(topic), limit)?;
    let found = metadata.topics().first();
    match found.map(|topic| (topic.error(), topic.partitions().len())) {
        Some((None, partitions)) if partitions > 0 => Ok(partitions),
        Some((Some(code), _)) => Err(fault::about_topic(topic, RDKafkaErrorCode::from(code))),
        Some((None, _)) | None => Err(fault::about_topic(
            topic,
            RDKafkaErrorCode::UnknownTopicOrPartition,
        )),
    }
}

/// What the brokers say about a topic, or about all that we may see.
///
/// # Errors
/// No broker answers.
pub(super) fn metadata(
    consumer: &BaseConsumer<Context>,
    topic: Option<&str>,
    limit: Duration,
) -> Result<Metadata, SourceError> {
    consumer.fetch_metadata(topic, limit).map_err(|cause| {
        // Why a connection failed is told by events, which somebody must fetch.
        for _ in 0..64 {
            consumer.poll(Duration::ZERO);
        }
        match consumer.context().take_last_error() {
            Some((code, reason)) => fault::told(code, &reason),
            None => SourceError::new("no broker answers").because(cause),
        }
    })
}

struct Poller<'a> {
    /// One of the topics, if any is named.
    topic: Option<&'a str>,
    shared: &'a Shared,
    consumer: &'a BaseConsumer<Context>,
    buffer_bytes: usize,
    down_limit: Duration,
    pulse: Pulse,
    identity: Identity,
}

impl Poller<'_> {
    fn run(&mut self) {
        while let Some(wait) = self.turn() {
            match self.consumer.poll(wait) {
                Some(Ok(record)) => self.receive(&record),
                Some(Err(error)) => self.judge(&error),
                None => {}
            }
        }
    }

    /// Waits for room, pauses or resumes, and says how long the next poll may wait; `None` at the end.
    fn turn(&mut self) -> Option<Duration> {
        let mut state = self.shared.state();
        if state.is_full(self.buffer_bytes) {
            let patience = if state.paused { POLL } else { PATIENCE };
            state = self.shared.wait_while(state, patience, |state| {
                state.end_if_finished();
                state.is_wanted() && state.is_full(self.buffer_bytes)
            });
        }
        if !state.is_wanted() {
            drop(state);
            self.shared.arrived.notify_one();
            return None;
        }
        let full = state.is_full(self.buffer_bytes);
        let turned = (full != state.paused).then(|| state.partitions());
        if turned.is_some() {
            state.assignment.fetches_anew();
        }
        state.paused = full;
        let now = Instant::now();
        state.commit_due(now);
        if let Some(at) = state.heard_at {
            self.pulse.heard(at);
        }
        drop(state);
        // Without the lock, because the client answers in its own time; partitions change on this thread alone.
        if let Some(partitions) = turned {
            let done = if full {
                self.consumer.pause(&partitions)
            } else {
                self.consumer.resume(&partitions)
            };
            if let Err(cause) = done {
                tracing::debug!(source = &*self.consumer.context().source, %cause, full, "cannot pause or resume");
            }
        }
        if self.pulse.is_due(now) {
            self.ask();
            let silent = self.pulse.silent_for(Instant::now());
            if silent.is_some_and(|silent| silent >= self.down_limit) {
                let limit = humantime::format_duration(self.down_limit);
                let what = format!("no broker has answered for {limit}");
                self.shared.end(SourceError::new(what));
                return None;
            }
        }
        if let Err(another) = self.identity.turn(self.consumer.context(), now) {
            self.finish(another);
        }
        Some(if full { Duration::ZERO } else { POLL })
    }

    /// Asks whether a broker is there: the client does not tell of one that is silent, nor of one that
    /// is back.
    fn ask(&mut self) {
        let answer = self.consumer.fetch_metadata(self.topic, ANSWER);
        let now = Instant::now();
        let context = self.consumer.context();
        if answer.is_ok() {
            self.pulse.answered(now);
            context.reachable(true);
        } else {
            self.pulse.missed(now);
            if self.pulse.silent_for(now).is_some() {
                context.reachable(false);
            }
        }
    }

    fn receive(&self, record: &BorrowedMessage<'_>) {
        let context = self.consumer.context();
        let payload = Bytes::copy_from_slice(record.payload().unwrap_or_default());
        let mut state = self.shared.state();
        if !state.is_reading() {
            // It may stand behind what could not be read. The next stream reads it.
            return;
        }
        let received = state
            .assignment
            .receive(&context.source, payload, envelope(record));
        drop(state);
        match received {
            Ok(()) => self.shared.arrived.notify_one(),
            Err(cause) => {
                self.shared
                    .end(SourceError::new("the broker's offsets do not rise").because(cause));
            }
        }
    }

    /// What the client mends by itself goes on. Everything else ends the stream: an error about what a
    /// partition holds stands still for ever or, worse, the client goes on behind it.
    fn judge(&mut self, error: &KafkaError) {
        let context = self.consumer.context();
        let source = &*context.source;
        let reason = context.take_last_error().map(|(_, reason)| reason);
        let reason = reason.unwrap_or_else(|| error.to_string());
        let code = error
            .rdkafka_error_code()
            .unwrap_or(RDKafkaErrorCode::Unknown);
        let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
        if fault::is_of_a_pattern(code, &reason) {
            tracing::debug!(source, reason, "no topic matches for now");
        } else if fatal || fault::ends(code) || fault::needs_operator(code) {
            self.shared.end(fault::told(code, &reason));
        } else if code == RDKafkaErrorCode::AllBrokersDown {
            context.reachable(false);
            self.pulse.lost();
        } else if fault::mends_itself(code) {
            tracing::debug!(source, %code, reason, "the client goes on after an error");
        } else {
            let expected = self.shared.state().assignment.expected();
            self.finish(fault::about_records(code, &reason, &expected));
        }
    }

    /// Nothing more is received; the stream ends for this reason when what came is finished.
    fn finish(&self, reason: SourceError) {
        let source = &*self.consumer.context().source;
        let mut state = self.shared.state();
        if state.is_reading() {
            tracing::warn!(source, %reason, "nothing more is read; what was read before is finished first");
            state.life = Life::Finishing(reason);
        }
    }

    /// At the end: what is finished and not confirmed, before the partitions are given back.
    fn commit_rest(&self) {
        let state = self.shared.state();
        let rest = state.assignment.unconfirmed();
        let unreachable = state.unreachable;
        drop(state);
        if rest.is_empty() || unreachable || self.consumer.assignment_lost() {
            return;
        }
        let committed = list(&rest).and_then(|rest| self.consumer.commit(&rest, CommitMode::Sync));
        match committed {
            Ok(()) => {
                let mut state = self.shared.state();
                for position in rest {
                    state.assignment.confirmed(
                        &position.topic,
                        position.partition,
                        position.offset,
                    );
                }
            }
            Err(cause) => {
                crate::metrics::ack_failed(&self.consumer.context().source);
                tracing::warn!(source = &*self.consumer.context().source, %cause, "cannot commit at the end; it comes again");
            }
        }
    }
}

/// Everything around the payload. A tombstone has an empty payload: whoever decodes it decides.
fn envelope(record: &BorrowedMessage<'_>) -> Envelope {
    let headers = record.headers().into_iter().flat_map(Headers::iter);
    Envelope {
        headers: headers
            .map(|header| {
                (
                    header.key.to_owned(),
                    text(header.value.unwrap_or_default()),
                )
            })
            .collect(),
        key: record.key().map(text),
        topic: Some(record.topic().to_owned()),
        partition: Some(record.partition()),
        offset: Some(record.offset()),
        timestamp: record.timestamp().to_millis(),
        ..Envelope::default()
    }
}

fn text(bytes: &[u8]) -> Text {
    Text::new(bytes.to_vec())
}
