//! The polling thread's side of the inbox's positions: asks and waits, because a partition is assigned in a
//! callback that must know where it begins.

use std::sync::Arc;

use rdkafka::ClientConfig;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::position::{Beginning, Partition, Stored};
use crate::source::{Positions, SourceError, Unanswered};

pub(super) struct Ledger {
    pub positions: Arc<dyn Positions>,
    pub runtime: Handle,
    /// How a client is made that only looks at records.
    pub client: ClientConfig,
    pub source: Arc<str>,
    pub group_id: String,
}

impl Ledger {
    pub(super) fn partition(&self, cluster_id: &str, topic: &str, number: i32) -> Partition {
        Partition {
            cluster_id: cluster_id.to_owned(),
            group_id: self.group_id.clone(),
            source: self.source.to_string(),
            topic: topic.to_owned(),
            number,
        }
    }

    /// Takes these positions. Blocks.
    pub(super) fn claim(
        &self,
        claims: &[(Partition, Uuid)],
    ) -> Result<Vec<Option<Stored>>, SourceError> {
        let asked = self.runtime.block_on(self.positions.claim(claims));
        asked.map_err(unanswered)
    }

    /// Begins these positions, and returns the epoch of each. Blocks.
    pub(super) fn begin(&self, beginnings: &[Beginning]) -> Result<Vec<i64>, SourceError> {
        if beginnings.is_empty() {
            return Ok(Vec::new());
        }
        let asked = self.runtime.block_on(self.positions.begin(beginnings));
        let epochs = asked.map_err(unanswered)?;
        let taken = || SourceError::new("another assignment has just claimed a position");
        epochs
            .into_iter()
            .map(|epoch| epoch.ok_or_else(taken))
            .collect()
    }
}

fn unanswered(cause: Unanswered) -> SourceError {
    SourceError::new("the inbox does not say how far a partition is stored").because(cause)
}
