//! A source without a broker: deliveries from memory, under the real contract of a stream.
//!
//! It yields at once whatever is asked for, so that nothing but the way behind it is measured. Its
//! receipts go through the tracker that the brokers' streams have.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::load::Load;
use super::rate::Total;
use crate::finding::Finding;
use crate::message::{Delivery, Envelope, Receipt};
use crate::source::prefix::Tracker;
use crate::source::{Limits, Source, SourceError, Stream};

/// How much it gives.
#[derive(Debug, Clone, Copy)]
pub struct Supply {
    /// Messages, at most.
    pub messages: u64,
    /// After this time it gives no more.
    pub duration: Duration,
    /// From which number on; the keys before it were given by another.
    pub first: u64,
    /// One at a time, each this long after the one before it was committed.
    pub pause: Option<Duration>,
}

/// What came back.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub messages: u64,
    /// From the first delivery to the last acknowledgement.
    pub elapsed: Duration,
    /// Of supplies with a pause: from each delivery to its acknowledgement.
    pub each: Vec<Duration>,
}

impl Tally {
    pub fn total(&self) -> Total {
        Total::of(self.messages, self.elapsed)
    }
}

/// The source; a clone shares its tally.
#[derive(Clone)]
pub struct Memory {
    name: Arc<str>,
    load: Load,
    supply: Supply,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    tally: Mutex<Option<Tally>>,
    finished: Notify,
}

impl Memory {
    pub fn new(name: &str, load: Load, supply: Supply) -> Self {
        Self {
            name: Arc::from(name),
            load,
            supply,
            shared: Arc::default(),
        }
    }

    /// Until everything that was given is acknowledged.
    pub async fn finished(&self) -> Tally {
        loop {
            let finished = self.shared.finished.notified();
            let tally = self.shared.tally.lock();
            if let Some(tally) = tally.unwrap_or_else(PoisonError::into_inner).take() {
                return tally;
            }
            finished.await;
        }
    }
}

#[async_trait]
impl Source for Memory {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn ordered(&self) -> bool {
        false
    }

    async fn open(&self) -> Result<Box<dyn Stream>, SourceError> {
        let mut tracker = Tracker::default();
        tracker.begin(0, 1);
        Ok(Box::new(MemoryStream {
            source: self.clone(),
            tracker,
            given: 0,
            began: None,
            given_at: Instant::now(),
            settled_at: Instant::now(),
            each: Vec::new(),
        }))
    }

    async fn inspect(&self) -> Result<Vec<Finding>, SourceError> {
        Ok(Vec::new())
    }
}

struct MemoryStream {
    source: Memory,
    tracker: Tracker,
    given: u64,
    began: Option<Instant>,
    given_at: Instant,
    settled_at: Instant,
    each: Vec<Duration>,
}

impl MemoryStream {
    fn has_more(&self, began: Instant) -> bool {
        let supply = self.source.supply;
        self.given < supply.messages && began.elapsed() < supply.duration
    }

    /// Tells the tally once everything that was given came back.
    fn look_for_the_end(&mut self) {
        let Some(began) = self.began else { return };
        if self.has_more(began) || self.tracker.open(0) > 0 {
            return;
        }
        let tally = Tally {
            messages: self.given,
            elapsed: self.settled_at.duration_since(began),
            each: std::mem::take(&mut self.each),
        };
        let shared = &self.source.shared;
        *shared.tally.lock().unwrap_or_else(PoisonError::into_inner) = Some(tally);
        shared.finished.notify_one();
        self.began = None;
    }

    fn delivery(&mut self) -> Result<Delivery, SourceError> {
        let n = self.source.supply.first + self.given;
        self.given += 1;
        let receipt = self.tracker.deliver(0, self.given);
        Ok(Delivery {
            step: None,
            source: Arc::clone(&self.source.name),
            payload: self.source.load.payload(n),
            envelope: Envelope::default(),
            redelivered: false,
            receipt: receipt.map_err(|error| SourceError::new(error.to_string()))?,
        })
    }
}

#[async_trait]
impl Stream for MemoryStream {
    async fn next(&mut self, limits: Limits) -> Result<Vec<Delivery>, SourceError> {
        if self.given == 0 && self.began.is_none() {
            self.began = Some(Instant::now());
        }
        let Some(began) = self.began else {
            return std::future::pending().await;
        };
        if let Some(pause) = self.source.supply.pause {
            if self.tracker.open(0) > 0 {
                return std::future::pending().await;
            }
            tokio::time::sleep(pause).await;
        }
        if !self.has_more(began) {
            self.look_for_the_end();
            return std::future::pending().await;
        }
        let mut deliveries = Vec::new();
        let mut bytes = 0;
        while deliveries.len() < limits.messages && bytes < limits.bytes && self.has_more(began) {
            let delivery = self.delivery()?;
            bytes += delivery.size();
            deliveries.push(delivery);
            if self.source.supply.pause.is_some() {
                break;
            }
        }
        self.given_at = Instant::now();
        Ok(deliveries)
    }

    async fn idle(&mut self) -> SourceError {
        std::future::pending().await
    }

    async fn settle(&mut self, receipts: Vec<Receipt>) -> Result<(), SourceError> {
        self.tracker.settle(receipts);
        self.settled_at = Instant::now();
        if self.source.supply.pause.is_some() {
            self.each
                .push(self.settled_at.duration_since(self.given_at));
        }
        self.look_for_the_end();
        Ok(())
    }

    async fn close(self: Box<Self>) {}
}
