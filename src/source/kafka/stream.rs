//! The intake's side of a stream: takes what the polling thread has put into the buffer.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::shared::Shared;
use crate::message::{Delivery, Receipt};
use crate::metrics;
use crate::position::Claim;
use crate::source::{Limits, SourceError, Stream};

/// How long leaving the group may take; the broker gives our partitions away by itself, only later.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

pub(super) struct KafkaStream {
    pub source: Arc<str>,
    pub shared: Arc<Shared>,
    /// Resolves when the thread is gone.
    pub ending: oneshot::Receiver<()>,
}

impl KafkaStream {
    fn stop(&self) {
        self.shared.state().stop = true;
        self.shared.changed.notify_all();
    }
}

#[async_trait]
impl Stream for KafkaStream {
    async fn next(&mut self, limits: Limits) -> Result<Vec<Delivery>, SourceError> {
        loop {
            {
                let mut state = self.shared.state();
                if state.is_over() {
                    return Err(state.told());
                }
                let taken = state.assignment.take(limits);
                if !taken.is_empty() {
                    drop(state);
                    self.shared.changed.notify_all();
                    return Ok(taken);
                }
            }
            self.shared.arrived.notified().await;
        }
    }

    /// The thread polls all the time; a buffer that nobody empties makes it pause its partitions.
    async fn idle(&mut self) -> SourceError {
        loop {
            {
                let mut state = self.shared.state();
                if state.is_over() {
                    return state.told();
                }
            }
            self.shared.arrived.notified().await;
        }
    }

    async fn settle(&mut self, receipts: Vec<Receipt>) -> Result<(), SourceError> {
        let mut state = self.shared.state();
        if state.is_over() {
            return Err(state.told());
        }
        let positions = state.assignment.settle(receipts);
        // Under the lock: a partition that leaves a moment later is committed before it does.
        let committed = if positions.is_empty() {
            Ok(())
        } else {
            state.commit_finished()
        };
        drop(state);
        // A revocation may wait for these.
        self.shared.changed.notify_all();
        committed.map_err(|cause| {
            metrics::ack_failed(&self.source);
            SourceError::new("cannot commit").because(cause)
        })
    }

    fn claims(&self) -> Vec<Arc<Claim>> {
        self.shared.state().assignment.claims()
    }

    async fn close(mut self: Box<Self>) {
        self.stop();
        let ending = &mut self.ending;
        if tokio::time::timeout(CLOSE_LIMIT, ending).await.is_err() {
            tracing::debug!(
                source = &*self.source,
                "the broker did not let us leave the group in time"
            );
        }
    }
}

impl Drop for KafkaStream {
    fn drop(&mut self) {
        self.stop();
    }
}
