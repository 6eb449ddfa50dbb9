//! The life of one source: open a stream, read it into batches, give the receipts back, open another.
//!
//! Invariant: what is read and not committed is bounded by one buffer and the batches under way; while
//! nothing can be taken the stream idles, and while the database is away no consumer opens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::backoff::Delays;
use crate::crash_point;
use crate::inbox::Inbox;
use crate::message::{Delivery, Receipt};
use crate::metrics;
use crate::shutdown::Shutdown;
use crate::source::{Limits, Source, SourceError, Stream};
use crate::telemetry;
use crate::units::Span;

use super::{Intake, Stopped, Stuck, Unstored};

/// A stream that lived this long was a good one: the next reconnection begins with a short delay again.
const GOOD_STREAM: Duration = Duration::from_secs(30);

/// How often a drain looks whether its last batches are stalled.
const LOOK_AT_DRAIN: Duration = Duration::from_millis(100);

/// How often a partition without batches is compared with what the database says.
const LOOK_AT_POSITIONS: Duration = Duration::from_secs(5);

/// Why a stream is no longer read.
enum End {
    Drained,
    Lost(SourceError),
    Stuck(Stuck),
}

/// So many streams in a row may end at a delivery that nobody here can read. One may have been garbled on its way;
/// more would let the broker count its attempts up to the limit, where it drops all that was sent along.
const UNREADABLE: u32 = 2;

impl<I: Inbox> Intake<I> {
    /// Reads the source until the shutdown drains it.
    ///
    /// # Errors
    /// A delivery that cannot be stored in any form, or not even be read; it stays unacknowledged.
    pub async fn run(
        &self,
        source: Arc<dyn Source>,
        shutdown: Shutdown,
        connected: impl Fn(Result<(), &SourceError>) + Send + Sync,
    ) -> Result<(), Stopped> {
        let name = source.name().clone();
        let mut delays = Delays::outage();
        let mut unreadable = 0;
        while !shutdown.is_draining() {
            metrics::source_connected(&name, false);
            let mut probing = Delays::outage();
            let ready = shutdown.unless_draining(self.until_database_answers(&mut probing));
            if ready.await.is_none() {
                break;
            }
            tracing::info!(source = %name, "connecting");
            let Some(opened) = shutdown.unless_draining(source.open()).await else {
                break;
            };
            let began = Instant::now();
            let lost = match opened {
                Err(error) => error,
                Ok(stream) => {
                    metrics::source_connected(&name, true);
                    connected(Ok(()));
                    tracing::info!(source = %name, "connected");
                    match self.consume(&*source, stream, &shutdown).await {
                        End::Drained => break,
                        End::Stuck(stuck) => {
                            metrics::source_connected(&name, false);
                            return Err(stuck.into());
                        }
                        End::Lost(error) => error,
                    }
                }
            };
            if began.elapsed() > GOOD_STREAM {
                delays.reset();
                unreadable = 0;
            }
            metrics::source_reconnected(&name);
            metrics::source_connected(&name, false);
            connected(Err(&lost));
            unreadable = if lost.unreadable { unreadable + 1 } else { 0 };
            if unreadable == UNREADABLE {
                return Err(Stopped::Unreadable(lost));
            }
            let delay = if lost.needs_operator {
                Delays::LONGEST_OUTAGE
            } else {
                delays.next_delay()
            };
            tracing::warn!(source = %name, error = telemetry::in_full(&lost), retry_in = %Span::rounded(delay), "the source is not connected");
            shutdown.unless_draining(tokio::time::sleep(delay)).await;
        }
        metrics::source_connected(&name, false);
        Ok(())
    }

    /// Reads one stream to its end.
    async fn consume(
        &self,
        source: &dyn Source,
        mut stream: Box<dyn Stream>,
        shutdown: &Shutdown,
    ) -> End {
        let end = self.read(source, &mut *stream, shutdown).await;
        // What is only buffered goes back to the broker. Nobody else closes it: a stuck source opens no other.
        if matches!(end, End::Drained | End::Stuck(_)) {
            stream.close().await;
        }
        end
    }

    async fn read(&self, source: &dyn Source, stream: &mut dyn Stream, shutdown: &Shutdown) -> End {
        let max_batches = if source.ordered() {
            1
        } else {
            self.config.max_batches.max(1)
        };
        let mut buffer = Buffer::new(Limits {
            messages: self.config.max_batch.max(1),
            bytes: self.config.max_batch_bytes.bytes(),
        });
        let mut under_way = FuturesUnordered::new();
        let mut opened_at = Instant::now();
        // One at a time, beside everything else: what it finds must not wait for the broker.
        let mut looks = FuturesUnordered::new();
        let mut look_at = Instant::now() + LOOK_AT_POSITIONS;
        loop {
            let draining = shutdown.is_draining();
            let slow = opened_at.elapsed() >= self.config.slow_batch.0;
            let may_open =
                under_way.is_empty() || under_way.len() < max_batches && (buffer.is_full() || slow);
            if !draining && may_open && !buffer.deliveries.is_empty() {
                let (deliveries, arrived) = buffer.take();
                under_way.push(self.accept_since(deliveries, arrived));
                opened_at = Instant::now();
            }
            // A batch that waits for the database has nothing committed that is not repeated safely.
            let stalled = self.stalled.load(Ordering::SeqCst) > 0;
            if draining && (under_way.is_empty() || stalled) {
                return End::Drained;
            }
            if !draining && looks.is_empty() && Instant::now() >= look_at {
                looks.push(self.look_at_positions(stream.claims()));
                look_at = Instant::now() + LOOK_AT_POSITIONS;
            }
            let room = (!draining).then(|| buffer.room()).flatten();
            tokio::select! {
                biased;
                Some(accepted) = under_way.next(), if !under_way.is_empty() => {
                    if let Err(end) = self.settle(stream, accepted).await {
                        return end;
                    }
                }
                Some(found) = looks.next(), if !looks.is_empty() => {
                    if let Some(error) = found.and_then(|found| found.ends(&stream.claims())) {
                        return End::Lost(error);
                    }
                }
                taken = take(stream, room) => match taken {
                    Ok(deliveries) => buffer.add(deliveries),
                    Err(error) => return End::Lost(error),
                },
                () = shutdown.draining(), if !draining => {}
                () = tokio::time::sleep_until(look_at.into()), if !draining && looks.is_empty() => {}
                () = tokio::time::sleep(LOOK_AT_DRAIN), if draining => {}
                () = tokio::time::sleep(self.config.slow_batch.0),
                    if !buffer.deliveries.is_empty() && under_way.len() < max_batches => {}
            }
        }
    }

    /// 7: gives the receipts of a committed batch back.
    async fn settle(
        &self,
        stream: &mut dyn Stream,
        accepted: Result<Vec<Receipt>, Unstored>,
    ) -> Result<(), End> {
        let receipts = accepted.map_err(|unstored| match unstored {
            Unstored::Stuck(stuck) => End::Stuck(stuck),
            Unstored::Behind(behind) => End::Lost(behind.into()),
        })?;
        stream.settle(receipts).await.map_err(End::Lost)?;
        crash_point!("after_ack");
        Ok(())
    }
}

/// Takes deliveries while there is room, and keeps the connection alive while there is none.
async fn take(stream: &mut dyn Stream, room: Option<Limits>) -> Result<Vec<Delivery>, SourceError> {
    match room {
        Some(limits) => stream.next(limits).await,
        None => Err(stream.idle().await),
    }
}

/// What arrived while the last batch committed.
struct Buffer {
    limits: Limits,
    deliveries: VecDeque<Delivery>,
    bytes: usize,
    /// When the first of them arrived.
    arrived: Instant,
}

impl Buffer {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            deliveries: VecDeque::new(),
            bytes: 0,
            arrived: Instant::now(),
        }
    }

    fn is_full(&self) -> bool {
        self.deliveries.len() >= self.limits.messages || self.bytes >= self.limits.bytes
    }

    fn room(&self) -> Option<Limits> {
        (!self.is_full()).then(|| Limits {
            messages: self.limits.messages - self.deliveries.len(),
            bytes: self.limits.bytes - self.bytes,
        })
    }

    fn add(&mut self, deliveries: Vec<Delivery>) {
        if self.deliveries.is_empty() {
            self.arrived = Instant::now();
        }
        self.bytes += deliveries.iter().map(Delivery::size).sum::<usize>();
        self.deliveries.extend(deliveries);
    }

    /// One batch. A stream gives a delivery that is larger than the room, and it may have come behind others:
    /// they go first, without it.
    fn take(&mut self) -> (Vec<Delivery>, Instant) {
        let taken = self.limits.take_from(&mut self.deliveries);
        self.bytes -= taken.iter().map(Delivery::size).sum::<usize>();
        (taken, self.arrived)
    }
}
