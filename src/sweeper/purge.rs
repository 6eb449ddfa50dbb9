//! Done rows: their payload first, their key later.

use super::{Round, Sweeper};
use crate::crash_point;
use crate::inbox::{DbError, Inbox, Purged};
use crate::metrics;

impl<I: Inbox> Sweeper<I> {
    /// Purge deletes in larger pieces than the other sweeps drive.
    pub const PURGE_FACTOR: i64 = 10;

    pub(super) async fn purge_round(&self) -> Result<Round, DbError> {
        let limit = i64::from(self.config.limit) * Self::PURGE_FACTOR;
        let purged = self.intake.inbox().purge(self.retention, limit).await?;
        if purged == Purged::default() {
            return Ok(Round::Empty);
        }
        crash_point!("purge");
        metrics::purged(purged.payloads, purged.keys);
        let most = u64::try_from(limit).unwrap_or(u64::MAX);
        Ok(if purged.payloads >= most || purged.keys >= most {
            Round::Full
        } else {
            Round::Empty
        })
    }
}
