//! Whether the topics that are read are still those that the positions are about: one that is deleted and made
//! again under its readers gives them its records from where they stood in the old one, without a word.
//!
//! Now and then the anchor of each position is looked at. Where it stands in its place, whatever came before the
//! look is of the same topic, and the last of that is the anchor from then on. Where another record stands, the
//! stream ends when what came is finished, and the next one begins with the oldest record, because the database
//! knows an anchor of the old topic, too. An anchor that is gone (by retention, by compaction) says nothing, and
//! stays: in a new topic there is a record in its place. (Both clients are taken to see the same cluster. A deposed
//! broker that still answers with the old topic would confirm its anchor.) The rule is `anchor_moves_by_looks` of
//! the model in `tests/it/model/positions.rs`.
//! Invariant: never blocks, because the polling thread asks at every turn.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::assignment::Anchored;
use super::context::Context;
use super::witness::{self, Look, Records, Wanted};
use crate::source::SourceError;

/// Between two looks. Nothing is lost in between: what was passed over is read after the look.
const EVERY: Duration = Duration::from_secs(20);

pub(super) struct Identity {
    look_at: Instant,
    /// The last look: under way, or its client is not closed yet.
    look: Option<Look>,
    /// What is being looked at.
    looking_at: Vec<Anchored>,
}

impl Identity {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            look_at: now + EVERY,
            look: None,
            looking_at: Vec::new(),
        }
    }

    /// Looks when it is time, and judges when there is an answer.
    ///
    /// # Errors
    /// A topic is another one: nothing more is to be received.
    pub(super) fn turn(&mut self, context: &Context, now: Instant) -> Result<(), SourceError> {
        if self.looking_at.is_empty() {
            if now >= self.look_at {
                self.look_at = now + EVERY;
                self.begin(context);
            }
            return Ok(());
        }
        let Some(seen) = self.look.as_ref().and_then(|look| look.answer(now)) else {
            return Ok(());
        };
        if let Some(failure) = seen.failure {
            tell(context, &failure);
        }
        // Another assignment has looked by itself where it begins.
        let claims = context.shared.state().assignment.claims();
        let ours: BTreeSet<_> = claims.iter().map(|claim| claim.id).collect();
        std::mem::take(&mut self.looking_at)
            .iter()
            .filter(|anchored| ours.contains(&anchored.claim.id))
            .try_for_each(|anchored| judge(&seen.records, anchored))
    }

    /// One client at a time, however long it takes to close.
    fn begin(&mut self, context: &Context) {
        if self.look.as_ref().is_some_and(|last| !last.is_over()) {
            let last = SourceError::new("the client of the last look has not closed yet");
            return tell(context, &last);
        }
        let state = context.shared.state();
        let anchored = state.assignment.anchored();
        let may_look = state.is_reading() && !state.unreachable && !anchored.is_empty();
        drop(state);
        let Some(ledger) = context.ledger.as_ref().filter(|_| may_look) else {
            return;
        };
        let wanted: Vec<Wanted> = anchored.iter().map(place).collect();
        match witness::look(&ledger.client, &wanted, context.limit) {
            Ok(look) => (self.look, self.looking_at) = (Some(look), anchored),
            Err(error) => tell(context, &error),
        }
    }
}

/// Says what could not be looked at; the next look is at the same. That no broker answers is said elsewhere.
fn tell(context: &Context, error: &SourceError) {
    let source = &*context.source;
    let cause = error.cause.as_deref().map(tracing::field::display);
    if context.shared.state().unreachable {
        tracing::debug!(source, %error, cause, "cannot see whether the topics are the same");
    } else {
        tracing::warn!(source, %error, cause, "cannot see whether the topics are the same");
    }
}

fn place(Anchored { claim, anchor, .. }: &Anchored) -> Wanted {
    Wanted {
        topic: claim.partition.topic.clone(),
        partition: claim.partition.number,
        offset: anchor.offset,
    }
}

fn judge(
    records: &Records,
    Anchored {
        claim,
        anchor,
        latest,
    }: &Anchored,
) -> Result<(), SourceError> {
    let (topic, number) = (&claim.partition.topic, claim.partition.number);
    let seen = records.get(&(topic.clone(), number));
    let Some(seen) = seen.and_then(|seen| seen.first()) else {
        return Ok(());
    };
    if anchor.is_replaced_by(*seen) {
        let offset = anchor.offset;
        return Err(SourceError::new(format!(
            "another record stands at offset {offset} of {topic}/{number} than the one that came from there: \
             the topic was deleted and made again, or has lost its end"
        )));
    }
    if let Some(latest) = latest {
        claim.move_anchor(*latest);
    }
    Ok(())
}
