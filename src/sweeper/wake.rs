//! Waiting rows: those that a free subscription waits for, and those whose due time has come.

use super::{Lane, Round, Sweeper, both};
use crate::inbox::{DbError, Inbox, Take};
use crate::intake::Driven;
use crate::metrics::Sweep;

impl<I: Inbox> Sweeper<I> {
    /// One look for rows that may go on, of every engine.
    ///
    /// # Errors
    /// The database's; what else could be done was done.
    pub async fn wake_round(&self) -> Result<Round, DbError> {
        let mut round = Ok(Round::Empty);
        for lane in &self.lanes {
            round = both(round, self.wake_of(lane).await);
        }
        both(round, self.due_of_none().await)
    }

    /// Rows that no route took, and that an operator made due: perhaps a route takes them now, of whatever engine.
    pub(super) async fn due_of_none(&self) -> Result<Round, DbError> {
        let due = self.due(&[]).await?;
        Ok(self.round(due, due.taken))
    }

    /// The same for one engine: what is in the way of its wake is not in the way of what is due.
    pub(super) async fn wake_of(&self, lane: &Lane<I>) -> Result<Round, DbError> {
        let woken = self.wake(lane).await;
        let due = self.due(&lane.routes).await;
        both(
            // A row that somebody waits for and that still waits is found again at once: no hot loop.
            woken.map(|woken| self.round(woken, woken.moved)),
            // Every row that was due has another due time now.
            due.map(|due| self.round(due, due.taken)),
        )
    }

    /// `counted`: of a page that is full of them, the next one follows at once.
    fn round(&self, driven: Driven, counted: usize) -> Round {
        if counted >= self.config.limit as usize {
            Round::Full
        } else if driven.taken > 0 {
            Round::Some
        } else {
            Round::Empty
        }
    }

    async fn wake(&self, lane: &Lane<I>) -> Result<Driven, DbError> {
        if !lane.engine.hands_over() {
            return Ok(Driven::default());
        }
        let inbox = self.intake.inbox();
        let look = async {
            let mut tx = inbox.begin().await?;
            let limit = self.limit();
            lane.engine.wake(&mut tx, &lane.routes, limit).await
        };
        let woken = self.intake.limited(Box::pin(look)).await?;
        if woken.is_empty() {
            return Ok(Driven::default());
        }
        let rows = Take::Rows {
            rows: &woken,
            bytes: self.limit_bytes(),
        };
        self.intake.redrive(rows, Sweep::Wake).await
    }

    async fn due(&self, routes: &[String]) -> Result<Driven, DbError> {
        let due = Take::Due {
            routes,
            limit: self.limit(),
            bytes: self.limit_bytes(),
        };
        self.intake.redrive(due, Sweep::Due).await
    }
}
