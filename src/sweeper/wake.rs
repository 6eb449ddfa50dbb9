//! Waiting rows: those that a free subscription waits for, and those whose due time has come.

use super::{Round, Sweeper};
use crate::inbox::{DbError, Inbox, Take};
use crate::metrics::Sweep;

impl<I: Inbox> Sweeper<I> {
    /// One look for rows that may go on.
    ///
    /// # Errors
    /// The database's; what was done before it stands.
    pub async fn wake_round(&self) -> Result<Round, DbError> {
        let limit = i64::from(self.config.limit);
        let (mut taken, mut moved) = (0, 0);
        for engine in self.intake.engines() {
            let look = async {
                let mut tx = self.intake.inbox().begin().await?;
                let rows = engine.wake(&mut tx, &self.routes, limit).await?;
                self.intake.inbox().commit(tx).await?;
                Ok(rows)
            };
            let rows = self.intake.limited(look).await?;
            if rows.is_empty() {
                continue;
            }
            let driven = self.intake.redrive(Take::Rows(&rows), Sweep::Wake).await?;
            taken += driven.taken;
            moved += driven.moved;
        }
        let due = Take::Due {
            routes: &self.routes,
            limit,
            bytes: i64::try_from(self.config.limit_bytes.bytes()).unwrap_or(i64::MAX),
        };
        let driven = self.intake.redrive(due, Sweep::Due).await?;
        taken += driven.taken;
        moved += driven.moved;
        Ok(if moved >= self.config.limit as usize {
            Round::Full
        } else if taken > 0 {
            Round::Some
        } else {
            Round::Empty
        })
    }
}
