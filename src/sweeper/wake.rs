//! Waiting rows: those that a free subscription waits for, and those whose due time has come.

use super::{Round, Sweeper, Worst};
use crate::engine::Engine;
use crate::inbox::{DbError, Inbox, Take};
use crate::intake::Driven;
use crate::metrics::Sweep;

impl<I: Inbox> Sweeper<I> {
    /// One look for rows that may go on, engine by engine: what is in the way of one is not of the others.
    ///
    /// # Errors
    /// The database's; what else could be done was done.
    pub async fn wake_round(&self) -> Result<Round, DbError> {
        let mut driven = Driven::default();
        let mut worst = Worst::default();
        for engine in self.intake.engines() {
            for look in [self.wake(&**engine).await, self.due(engine.name()).await] {
                driven += worst.without(look).unwrap_or_default();
            }
        }
        worst.or(if driven.moved >= self.config.limit as usize {
            Round::Full
        } else if driven.taken > 0 {
            Round::Some
        } else {
            Round::Empty
        })
    }

    async fn wake(&self, engine: &dyn Engine<I::Tx>) -> Result<Driven, DbError> {
        if !engine.hands_over() {
            return Ok(Driven::default());
        }
        let inbox = self.intake.inbox();
        let look = async {
            let mut tx = inbox.begin().await?;
            let routes = self.routes_of(engine.name());
            engine.wake(&mut tx, routes, self.limit()).await
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

    async fn due(&self, engine: &str) -> Result<Driven, DbError> {
        let due = Take::Due {
            routes: self.routes_of(engine),
            limit: self.limit(),
            bytes: self.limit_bytes(),
        };
        self.intake.redrive(due, Sweep::Due).await
    }

    fn routes_of(&self, engine: &str) -> &[String] {
        self.routes.get(engine).map_or(&[], Vec::as_slice)
    }
}
