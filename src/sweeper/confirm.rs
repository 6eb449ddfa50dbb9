//! Handed rows: receipt, proof of the contrary, or neither.

use super::{Lane, Round, Sweeper, both};
use crate::crash_point;
use crate::engine::{Confirmed, Engine, Verdict};
use crate::inbox::{Change, DbError, Expires, Inbox, State, StateName};
use crate::message::{DeadReason, WaitReason};
use crate::metrics::{self, Sweep};
use crate::units::Span;

/// After a proof that nothing happened the row is looked at again this much later.
const AFTER_NEVER: Span = Span::ms(500);

impl<I: Inbox> Sweeper<I> {
    /// One look at what became of the handed rows, of every engine.
    ///
    /// # Errors
    /// The database's; what else could be done was done.
    pub async fn confirm_round(&self) -> Result<Round, DbError> {
        let mut round = Ok(Round::Empty);
        for lane in &self.lanes {
            round = both(round, self.confirm_of(lane).await);
        }
        round
    }

    pub(super) async fn confirm_of(&self, lane: &Lane<I>) -> Result<Round, DbError> {
        let confirm = Box::pin(self.confirm(&*lane.engine));
        let judged = self.intake.limited(confirm).await?;
        if judged == 0 {
            return Ok(Round::Empty);
        }
        lane.freed.notify_one();
        Ok(if judged >= self.config.limit as usize {
            Round::Full
        } else {
            Round::Some
        })
    }

    /// One transaction. Returns how many were judged.
    async fn confirm(&self, engine: &dyn Engine<I::Tx>) -> Result<usize, DbError> {
        if !engine.hands_over() {
            return Ok(0);
        }
        let inbox = self.intake.inbox();
        let mut tx = inbox.begin().await?;
        let Some(confirmed) = engine.confirm(&mut tx, self.limit()).await? else {
            return Ok(0);
        };
        crash_point!("confirm_read");
        let changes: Vec<Change> = confirmed.iter().map(change).collect();
        let changed = inbox.change(&mut tx, &changes).await?;
        inbox.commit(tx).await?;
        metrics::stale_changes((changes.len() - changed.len()) as u64);
        for one in confirmed.iter().filter(|one| changed.contains(&one.row)) {
            record(engine.name(), one);
        }
        Ok(confirmed.len())
    }
}

fn change(confirmed: &Confirmed) -> Change {
    let (state, attempts_used) = match &confirmed.verdict {
        Verdict::Done => {
            let done = State::Done {
                detail: String::new(),
                process_instance_id: None,
            };
            (done, 0)
        }
        Verdict::Never { detail } => {
            let waiting = State::Waiting {
                reason: WaitReason::Retry,
                detail: detail.clone(),
                due_in: AFTER_NEVER,
                expires: Expires::Never,
            };
            (waiting, 1)
        }
        Verdict::InDoubt { detail } => {
            let dead = State::Dead {
                reason: DeadReason::InDoubt,
                detail: detail.clone(),
            };
            (dead, 0)
        }
    };
    Change {
        id: confirmed.row,
        from: StateName::Handed,
        epoch: confirmed.epoch,
        new_epoch: confirmed.epoch + 1,
        attempts_used,
        target: None,
        state,
    }
}

fn record(engine: &str, confirmed: &Confirmed) {
    match &confirmed.verdict {
        Verdict::Done => {
            metrics::confirmed(engine, confirmed.handed_ago);
            metrics::recovered(Sweep::Confirm, confirmed.overdue);
        }
        Verdict::Never { detail } => {
            tracing::info!(engine, row = %confirmed.row, detail, "handed in vain, waiting again");
        }
        Verdict::InDoubt { detail } => {
            tracing::error!(engine, row = %confirmed.row, detail, "in doubt: an operator must decide");
        }
    }
}
