//! Lends the inbox's positions to the sources, which know no database.

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use crate::inbox::{DbError, Inbox};
use crate::metrics;
use crate::position::{Beginning, Partition, Stored};
use crate::source::{Positions, Unanswered};
use crate::units::Span;

/// What one inbox knows, within a time limit: a machine that vanished never answers.
struct Lent<I> {
    inbox: I,
    limit: Span,
}

/// The positions of this inbox; a question that takes longer than `limit` is given up.
pub fn of<I: Inbox>(inbox: I, limit: Span) -> Arc<dyn Positions> {
    Arc::new(Lent { inbox, limit })
}

impl<I: Inbox> Lent<I> {
    async fn limited<T>(
        &self,
        step: &'static str,
        asked: impl Future<Output = Result<T, DbError>>,
    ) -> Result<T, Unanswered> {
        let answered = DbError::unless_late(step, self.limit.0, asked).await;
        answered.map_err(|error| {
            metrics::db_error(error.class.as_str());
            error.into()
        })
    }
}

#[async_trait]
impl<I: Inbox> Positions for Lent<I> {
    async fn claim(&self, claims: &[(Partition, Uuid)]) -> Result<Vec<Option<Stored>>, Unanswered> {
        self.limited("inbox.claim_position", self.inbox.claim_positions(claims))
            .await
    }

    async fn begin(&self, beginnings: &[Beginning]) -> Result<Vec<Option<i64>>, Unanswered> {
        self.limited(
            "inbox.begin_position",
            self.inbox.begin_positions(beginnings),
        )
        .await
    }
}
