//! Whether the topics that are read are still those that the positions are about: one that is deleted and made
//! again under its readers gives them its records from where they stood in the old one, without a word.
//!
//! Now and then the record that each position is known by is read again. Where it stands in its place, whatever
//! came before the look is of the same topic, and the last of that is what is looked for the next time. Where
//! another stands, the stream ends, and the next one, which sees the same, begins with the oldest record. The
//! rule is `mark_moves_by_looks` of the model in `tests/it/model/positions.rs`.
//! Invariant: never blocks, because the polling thread asks at every turn.

use std::time::{Duration, Instant};

use super::assignment::Marked;
use super::context::Context;
use super::ledger::Ledger;
use super::witness::{self, Asked, Times, Wanted};
use crate::source::SourceError;

/// Between two looks. Nothing is lost in between: what was passed over is read after the look.
const EVERY: Duration = Duration::from_secs(20);

pub(super) struct Identity {
    ask_at: Instant,
    /// What is being looked at, and what it was asked for.
    asked: Option<(Asked, Vec<Marked>)>,
}

impl Identity {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            ask_at: now + EVERY,
            asked: None,
        }
    }

    /// Asks when it is time, and judges when there is an answer.
    ///
    /// # Errors
    /// A topic is another one: the stream is over.
    pub(super) fn look(&mut self, context: &Context, now: Instant) -> Result<(), SourceError> {
        let Some((asked, marked)) = self.asked.take() else {
            if let Some(ledger) = &context.ledger
                && now >= self.ask_at
            {
                self.ask_at = now + EVERY;
                self.ask(context, ledger);
            }
            return Ok(());
        };
        match asked.answer(now) {
            None => self.asked = Some((asked, marked)),
            Some(Ok(times)) => judge(&times, marked)?,
            Some(Err(error)) => unanswered(context, &error),
        }
        Ok(())
    }

    fn ask(&mut self, context: &Context, ledger: &Ledger) {
        let marked = context.shared.state().assignment.marked();
        if marked.is_empty() {
            return;
        }
        let wanted: Vec<Wanted> = marked.iter().map(wanted).collect();
        match witness::ask(&ledger.client, &wanted, context.limit) {
            Ok(asked) => self.asked = Some((asked, marked)),
            Err(error) => unanswered(context, &error),
        }
    }
}

/// The next look is at the same records. While no broker answers, that is said elsewhere.
fn unanswered(context: &Context, error: &SourceError) {
    let source = &*context.source;
    let cause = error.cause.as_deref().map(tracing::field::display);
    if context.shared.state().unreachable {
        tracing::debug!(source, %error, cause, "cannot see whether the topics are the same");
    } else {
        tracing::warn!(source, %error, cause, "cannot see whether the topics are the same");
    }
}

fn wanted(marked: &Marked) -> Wanted {
    let partition = &marked.claim.partition;
    Wanted {
        topic: partition.topic.clone(),
        partition: partition.number,
        offset: marked.mark.offset,
    }
}

/// A record that is gone, by its retention or by compaction, tells nothing, and cannot be asked for again.
fn judge(times: &Times, marked: Vec<Marked>) -> Result<(), SourceError> {
    for Marked {
        claim,
        mark,
        latest,
    } in marked
    {
        let (topic, number) = (&claim.partition.topic, claim.partition.number);
        let seen = times.get(&(topic.clone(), number));
        if seen.is_some_and(|seen| mark.is_replaced_by(*seen)) {
            let offset = mark.offset;
            let what = format!(
                "another record stands at offset {offset} of {topic}/{number} than the one that came from there: \
                 the topic was deleted and made again, or has lost its end"
            );
            return Err(SourceError::new(what));
        }
        if let Some(latest) = latest {
            claim.know_by(latest);
        }
    }
    Ok(())
}
