//! One connection to `RabbitMQ` with one channel and one consumer, until it ends.
//!
//! Deliveries are moved out of the client's buffer as they come, whether or not the intake takes them;
//! the prefetch bounds both buffers together. Invariant: an acknowledgement goes out through the
//! acker of a delivery of this very channel, and only for the finished prefix.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt as _, Stream as _};
use lapin::options::{BasicAckOptions, BasicCancelOptions};
use lapin::{Acker, Channel, Connection, Consumer, Event};

use super::prefetch::{Exceeded, Prefetch};
use super::socket::Socket;
use super::{delivery_error, envelope};
use crate::message::{Delivery, Receipt};
use crate::metrics;
use crate::source::prefix::Tracker;
use crate::source::{Limits, SourceError, Stream};
use crate::units::Size;

/// The only lane of a `RabbitMQ` source.
const LANE: u32 = 0;

/// How long closing may take; the broker gives back what is unacknowledged anyhow, once we are gone.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// What a stream is made of.
pub(super) struct Opened {
    pub source: Arc<str>,
    pub queue: String,
    /// The broker's address as it may be printed.
    pub address: String,
    pub ordered: bool,
    pub delivery_limit: u32,
    pub incarnation: u64,
    pub prefetch: Arc<Prefetch>,
    pub connection: Connection,
    pub socket: Socket,
    pub channel: Channel,
    pub consumer: Consumer,
}

pub(super) struct RabbitmqStream {
    opened: Opened,
    events: Pin<Box<dyn futures_util::Stream<Item = Event> + Send>>,
    /// Received, not yet taken by the intake.
    buffer: VecDeque<Delivery>,
    /// Of the deliveries that the finished prefix does not hold, by rising tag.
    held: VecDeque<Held>,
    /// The sum of their sizes.
    held_bytes: usize,
    tracker: Tracker,
    warned_of_limit: bool,
    /// A delivery came that no stream sends.
    is_queue: bool,
}

/// A delivery that is not acknowledged yet.
struct Held {
    tag: u64,
    bytes: usize,
    acker: Acker,
}

impl RabbitmqStream {
    pub(super) fn new(opened: Opened) -> Self {
        let mut tracker = Tracker::default();
        tracker.begin(LANE, opened.incarnation);
        Self {
            events: Box::pin(opened.connection.events_listener()),
            buffer: VecDeque::new(),
            held: VecDeque::new(),
            held_bytes: 0,
            tracker,
            warned_of_limit: false,
            is_queue: false,
            opened,
        }
    }

    /// Moves what has arrived into our buffer. Ready when the stream is over.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<SourceError> {
        while let Poll::Ready(Some(event)) = self.events.as_mut().poll_next(cx) {
            self.log(&event);
        }
        loop {
            match Pin::new(&mut self.opened.consumer).poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(delivery))) => {
                    if let Err(over) = self.receive(delivery) {
                        return Poll::Ready(over);
                    }
                }
                Poll::Ready(Some(Err(cause))) => {
                    let what = format!("lost queue {:?}", self.opened.queue);
                    return Poll::Ready(delivery_error(&what, &self.opened.address, cause));
                }
                Poll::Ready(None) => return Poll::Ready(self.cancelled()),
            }
        }
    }

    fn cancelled(&self) -> SourceError {
        let Opened { queue, address, .. } = &self.opened;
        SourceError::new(format!(
            "{address} cancelled the consumer of queue {queue:?}: the queue was deleted, or its leader is gone"
        ))
    }

    fn refuse_stream(&self) -> SourceError {
        let Opened { queue, address, .. } = &self.opened;
        SourceError::new(format!(
            "queue {queue:?} at {address} is a stream, expected a classic or quorum queue: a stream forgets where \
             a consumer stood. If it is none, the header `x-stream-offset` of its first message was copied from one"
        ))
        .needs_operator()
        .unreadable()
    }

    fn log(&self, event: &Event) {
        let source = &*self.opened.source;
        match event {
            Event::ConnectionBlocked(reason) => {
                tracing::warn!(source, reason, "the broker has blocked the connection");
            }
            Event::ConnectionUnblocked => {
                tracing::info!(source, "the broker has unblocked the connection");
            }
            // The consumer's stream tells the end; connecting is told by whoever opened us.
            _ => {}
        }
    }

    fn receive(&mut self, from: lapin::message::Delivery) -> Result<(), SourceError> {
        // Every delivery of a stream has the header; a message may carry a copy of it to a queue.
        self.is_queue |= !envelope::is_from_stream(&from.properties);
        if !self.is_queue {
            return Err(self.refuse_stream());
        }
        let receipt = self
            .tracker
            .deliver(LANE, from.delivery_tag)
            .map_err(|cause| SourceError::new("the broker's tags do not rise").because(cause))?;
        let envelope = envelope::of(from.routing_key.as_str(), &from.properties);
        if let Some(count) = envelope.delivery_count {
            self.warn_of_limit(count);
        }
        let delivery = Delivery {
            step: None,
            source: Arc::clone(&self.opened.source),
            payload: Bytes::from(from.data),
            envelope,
            redelivered: from.redelivered,
            receipt,
        };
        let bytes = delivery.size();
        self.held_bytes += bytes;
        self.held.push_back(Held {
            tag: from.delivery_tag,
            bytes,
            acker: from.acker,
        });
        self.buffer.push_back(delivery);
        let prefetch = &self.opened.prefetch;
        let held = prefetch.hold(self.held.len(), self.held_bytes);
        held.map_err(|Exceeded { next }| {
            let Opened { queue, address, .. } = &self.opened;
            // A close would be confirmed behind all that the broker has sent, and be read first.
            self.opened.socket.cut();
            SourceError::new(format!(
                "{} deliveries of queue {queue:?} at {address} take {}, more than prefetch = {}: \
                 giving them back and asking for {next} at once",
                self.held.len(),
                Size(self.held_bytes as u64),
                Size(prefetch.bytes() as u64),
            ))
        })
    }

    /// At its delivery limit a quorum queue drops the message by itself, and we would never know.
    fn warn_of_limit(&mut self, count: i64) {
        let limit = self.opened.delivery_limit;
        if !self.warned_of_limit && count.saturating_mul(2) >= i64::from(limit) {
            self.warned_of_limit = true;
            tracing::warn!(
                source = &*self.opened.source,
                delivery_count = count,
                delivery_limit = limit,
                "a delivery comes near its queue's delivery limit, where the broker drops it by itself"
            );
        }
    }

    async fn end(&mut self) -> Result<(), lapin::Error> {
        let Opened {
            channel, consumer, ..
        } = &self.opened;
        // On an ordered queue, cancelling first would let the next single active consumer begin behind
        // the deliveries that we still hold, and overtake them.
        if !self.opened.ordered {
            let options = BasicCancelOptions::default();
            channel.basic_cancel(consumer.tag(), options).await?;
        }
        channel.close(200, "done".into()).await?;
        self.opened.connection.close(200, "done".into()).await
    }
}

/// A stream that is dropped without a close (its source is stuck, a task panicked, the second signal).
impl Drop for RabbitmqStream {
    /// The client cancels a consumer that is dropped before it closes its channel, so that the next
    /// single active consumer would begin behind what we still hold. The first poll of a close marks the
    /// channel and sends; a marked channel cancels nothing.
    fn drop(&mut self) {
        if self.opened.ordered {
            let closed = self.opened.channel.close(200, "dropped".into());
            if let Some(Err(cause)) = closed.now_or_never() {
                tracing::debug!(source = &*self.opened.source, %cause, "the channel was closed already");
            }
        }
    }
}

#[async_trait]
impl Stream for RabbitmqStream {
    async fn next(&mut self, limits: Limits) -> Result<Vec<Delivery>, SourceError> {
        std::future::poll_fn(|cx| {
            if let Poll::Ready(over) = self.poll_receive(cx) {
                return Poll::Ready(Err(over));
            }
            if self.buffer.is_empty() {
                return Poll::Pending;
            }
            Poll::Ready(Ok(limits.take_from(&mut self.buffer)))
        })
        .await
    }

    async fn idle(&mut self) -> SourceError {
        std::future::poll_fn(|cx| self.poll_receive(cx)).await
    }

    async fn settle(&mut self, receipts: Vec<Receipt>) -> Result<(), SourceError> {
        for grown in self.tracker.settle(receipts) {
            let mut last = None;
            while let Some(held) = self.held.pop_front_if(|held| held.tag <= grown.upto) {
                self.held_bytes -= held.bytes;
                last = Some(held.acker);
            }
            let Some(acker) = last else { continue };
            let answer = acker.ack(BasicAckOptions { multiple: true }).await;
            if let Ok(true) = answer {
                continue;
            }
            metrics::ack_failed(&self.opened.source);
            let Opened { queue, address, .. } = &self.opened;
            let what = format!("cannot acknowledge on queue {queue:?}");
            return Err(match answer {
                Err(cause) => delivery_error(&what, address, cause),
                Ok(_) => SourceError::new(format!("{what} at {address}: the channel is closed")),
            });
        }
        Ok(())
    }

    async fn close(mut self: Box<Self>) {
        match tokio::time::timeout(CLOSE_LIMIT, self.end()).await {
            Ok(Ok(())) => {}
            Ok(Err(cause)) => {
                tracing::debug!(source = &*self.opened.source, %cause, "the connection was gone already");
            }
            Err(_) => {
                // What we hold would else come back only when the broker misses our heartbeats.
                self.opened.socket.cut();
                tracing::debug!(
                    source = &*self.opened.source,
                    "the broker did not confirm the close"
                );
            }
        }
    }
}
