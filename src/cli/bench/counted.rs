//! A broker's source, with a count of what came and went: when everything that was sent is acknowledged.
//!
//! Changes nothing on the way; every call is the broker's own stream's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::memory::Tally;
use crate::finding::Finding;
use crate::message::{Delivery, Receipt};
use crate::position::Claim;
use crate::source::{Limits, Source, SourceError, Stream};

/// The source; a clone shares its count.
#[derive(Clone)]
pub struct Counted {
    source: Arc<dyn Source>,
    expected: u64,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    finished: Notify,
}

#[derive(Default)]
struct Seen {
    /// When the first delivery came.
    began: Option<Instant>,
    settled: u64,
    settled_at: Option<Instant>,
}

impl Counted {
    /// `expected`: how many messages were sent.
    pub fn new(source: Arc<dyn Source>, expected: u64) -> Self {
        Self {
            source,
            expected,
            shared: Arc::default(),
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.shared
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Until as many are acknowledged as were sent.
    pub async fn finished(&self) -> Tally {
        loop {
            let finished = self.shared.finished.notified();
            if let Some(tally) = self.tally() {
                return tally;
            }
            finished.await;
        }
    }

    fn tally(&self) -> Option<Tally> {
        let seen = self.seen();
        let (began, settled_at) = (seen.began?, seen.settled_at?);
        (seen.settled >= self.expected).then(|| Tally {
            messages: seen.settled,
            elapsed: settled_at.duration_since(began),
            each: Vec::new(),
        })
    }

    /// Reads and acknowledges everything, and stores nothing: what the broker alone can do.
    ///
    /// # Errors
    /// The stream ended.
    pub async fn drain(&self, limits: Limits) -> Result<Tally, SourceError> {
        let mut stream = self.open().await?;
        loop {
            let deliveries = stream.next(limits).await?;
            let receipts = deliveries.into_iter().map(|delivery| delivery.receipt);
            stream.settle(receipts.collect()).await?;
            if let Some(tally) = self.tally() {
                stream.close().await;
                return Ok(tally);
            }
        }
    }
}

#[async_trait]
impl Source for Counted {
    fn name(&self) -> &Arc<str> {
        self.source.name()
    }

    fn ordered(&self) -> bool {
        self.source.ordered()
    }

    async fn open(&self) -> Result<Box<dyn Stream>, SourceError> {
        Ok(Box::new(CountedStream {
            stream: self.source.open().await?,
            source: self.clone(),
        }))
    }

    async fn inspect(&self) -> Result<Vec<Finding>, SourceError> {
        self.source.inspect().await
    }
}

struct CountedStream {
    stream: Box<dyn Stream>,
    source: Counted,
}

#[async_trait]
impl Stream for CountedStream {
    async fn next(&mut self, limits: Limits) -> Result<Vec<Delivery>, SourceError> {
        let deliveries = self.stream.next(limits).await?;
        if !deliveries.is_empty() {
            self.source.seen().began.get_or_insert_with(Instant::now);
        }
        Ok(deliveries)
    }

    async fn idle(&mut self) -> SourceError {
        self.stream.idle().await
    }

    async fn settle(&mut self, receipts: Vec<Receipt>) -> Result<(), SourceError> {
        let settled = receipts.len() as u64;
        self.stream.settle(receipts).await?;
        {
            let mut seen = self.source.seen();
            seen.settled += settled;
            seen.settled_at = Some(Instant::now());
        }
        self.source.shared.finished.notify_one();
        Ok(())
    }

    fn claims(&self) -> Vec<Arc<Claim>> {
        self.stream.claims()
    }

    async fn close(self: Box<Self>) {
        self.stream.close().await;
    }
}
