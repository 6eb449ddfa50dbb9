//! The positions of a batch: counted in its transaction, and compared with what is known to be committed.
//!
//! A database that failed over to an older state answers as if nothing had happened. What it says about a
//! position tells: it cannot be behind what this node saw committed. Then the batch is rolled back, its
//! stream ends, and the next one begins where the database stands. Ending the stream rather than seeking in
//! it leaves the broker to say whose partition it is: a node that was thrown out unawares cannot take the
//! position from its owner.
//! Invariant: a position that another assignment has claimed is left alone, and its rows are stored all the
//! same: they are the records' own, whoever reads them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::inbox::{DbError, Inbox};
use crate::metrics;
use crate::position::{Advance, Claim, Held, Step};
use crate::source::SourceError;

use super::Intake;

/// The database has lost commits that were acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "the database has lost commits: everything below offset {known} of {topic}/{partition} was stored, and it \
     knows only what is below {}; it is read again", stored_text(*.stored)
)]
pub struct Behind {
    pub topic: String,
    pub partition: i32,
    pub known: i64,
    /// `None`: the position is missing, or older than its claim.
    pub stored: Option<i64>,
}

fn stored_text(stored: Option<i64>) -> String {
    stored.map_or_else(|| "(nothing)".to_owned(), |stored| stored.to_string())
}

impl From<Behind> for SourceError {
    fn from(behind: Behind) -> Self {
        Self::new(behind.to_string())
    }
}

/// What a look at the positions found amiss.
pub(super) enum Amiss {
    Behind(Behind),
    /// Somebody else has this one now, or an operator set it.
    Taken(Arc<Claim>),
}

impl Amiss {
    /// Why the stream that has these claims now must end, if it must: a partition that left it while the database
    /// was asked is rightly its new owner's.
    pub(super) fn ends(self, claims: &[Arc<Claim>]) -> Option<SourceError> {
        match self {
            Self::Behind(behind) => Some(behind.into()),
            Self::Taken(taken) => claims.iter().any(|claim| claim.id == taken.id).then(|| {
                let (topic, partition) = (&taken.partition.topic, taken.partition.number);
                SourceError::new(format!(
                    "the position of {topic}/{partition} was claimed by somebody else, or set"
                ))
            }),
        }
    }
}

/// A claim, and what was known of it before the database was asked.
struct Known<'a> {
    claim: &'a Arc<Claim>,
    next: i64,
}

impl<'a> Known<'a> {
    fn now(claim: &'a Arc<Claim>) -> Self {
        let next = claim.known();
        Self { claim, next }
    }
}

impl<I: Inbox> Intake<I> {
    /// Counts these steps in the transaction that holds their rows.
    pub(super) async fn advance(
        &self,
        tx: &mut I::Tx,
        steps: &[&Step],
    ) -> Result<Result<(), Behind>, DbError> {
        if steps.is_empty() {
            return Ok(Ok(()));
        }
        let claims: BTreeMap<_, _> = steps
            .iter()
            .map(|step| (step.claim.id, &step.claim))
            .collect();
        let known: Vec<Known<'_>> = claims.into_values().map(Known::now).collect();
        let advances = Advance::of(steps.iter().copied());
        let advanced = self.inbox.advance_positions(tx, &advances).await?;
        let doubtful: Vec<Known<'_>> = known
            .into_iter()
            .filter(|known| {
                advanced
                    .get(&known.claim.id)
                    .is_none_or(|next| *next < known.next)
            })
            .collect();
        let judged = self.judge(tx, &doubtful).await?;
        Ok(judged.map(|taken| {
            for claim in taken {
                let (topic, partition) = (&claim.partition.topic, claim.partition.number);
                tracing::debug!(
                    source = claim.partition.source,
                    topic,
                    partition,
                    "another assignment has the position"
                );
            }
        }))
    }

    /// Whether the database still knows what it has acknowledged of these. `None`: it does, or does not answer.
    ///
    /// Batches ask by themselves; this is for partitions without any.
    pub(super) async fn look_at_positions(&self, claims: Vec<Arc<Claim>>) -> Option<Amiss> {
        if claims.is_empty() {
            return None;
        }
        let known: Vec<Known<'_>> = claims.iter().map(Known::now).collect();
        let looked = self.limited(async {
            let mut tx = self.inbox.begin().await?;
            let judged = self.judge(&mut tx, &known).await?;
            Ok(judged.map(|taken| taken.first().copied().cloned()))
        });
        match looked.await {
            Ok(Ok(None)) => None,
            Ok(Ok(Some(taken))) => Some(Amiss::Taken(taken)),
            Ok(Err(behind)) => Some(Amiss::Behind(behind)),
            Err(error) => {
                tracing::debug!(%error, "the positions are not looked at");
                None
            }
        }
    }

    /// The claims that somebody else has now.
    async fn judge<'a>(
        &self,
        tx: &mut I::Tx,
        known: &[Known<'a>],
    ) -> Result<Result<Vec<&'a Arc<Claim>>, Behind>, DbError> {
        if known.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        let partitions: Vec<_> = known.iter().map(|known| &known.claim.partition).collect();
        let standings = self.inbox.position_standing(tx, &partitions).await?;
        let mut taken = Vec::new();
        for (Known { claim, next }, found) in known.iter().zip(&standings) {
            match claim.judge(*next, found.as_ref()) {
                Held::Ours => {}
                Held::Taken => taken.push(*claim),
                Held::Behind => {
                    let partition = &claim.partition;
                    let behind = Behind {
                        topic: partition.topic.clone(),
                        partition: partition.number,
                        known: *next,
                        stored: found.map(|found| found.next),
                    };
                    metrics::database_behind(&partition.source);
                    tracing::warn!(source = partition.source, "{behind}");
                    return Ok(Err(behind));
                }
            }
        }
        Ok(Ok(taken))
    }
}
