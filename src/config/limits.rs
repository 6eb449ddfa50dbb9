//! The numbers and durations of `[inbox]`, `[intake]` and `[sweeper]`: what would stall, spin or forget.

use super::check::{Check, Database};
use crate::intake::IntakeConfig;
use crate::units::Span;

/// Brokers notice a crash within seconds to a minute; people resend much later.
const SHORTEST_KEY: Span = Span::secs(60);

/// Adds everything that is wrong or doubtful.
pub fn check(check: &mut Check<'_>) {
    check.retention();
    check.session();
    check.intake();
    check.connections();
    check.sweeper();
}

impl Check<'_> {
    fn retention(&mut self) {
        let Some(inbox) = &self.draft.inbox else {
            return;
        };
        let retention = inbox.retention;
        if retention.key < SHORTEST_KEY {
            let message = format!(
                "expected {SHORTEST_KEY} or more: what a broker delivers again after a crash would not be known for a \
                 duplicate"
            );
            self.error(&["inbox", "retention", "key"], message);
        }
        if retention.key < retention.payload {
            self.error(
                &["inbox", "retention", "key"],
                format!(
                    "the key ({}) must be kept at least as long as the payload ({})",
                    retention.key, retention.payload
                ),
            );
        }
    }

    /// The time limits of a session.
    fn session(&mut self) {
        let Some(inbox) = &self.draft.inbox else {
            return;
        };
        for (key, limit) in [
            (
                "idle_in_transaction_timeout",
                inbox.idle_in_transaction_timeout,
            ),
            ("lock_timeout", inbox.lock_timeout),
            ("statement_timeout", inbox.statement_timeout),
        ] {
            let why = "without a limit a frozen node would hold its rows for ever";
            self.above_zero(&["inbox", key], limit, why);
        }
        if self.database == Some(Database::Postgres)
            && inbox.lock_timeout >= inbox.statement_timeout
        {
            let message = format!(
                "expected `lock_timeout` ({}) to be less than `statement_timeout` ({}): a wait for a lock would \
                 end as a statement that takes too long, which is taken for the fault of its messages",
                inbox.lock_timeout, inbox.statement_timeout
            );
            self.error(&["inbox", "lock_timeout"], message);
        }
    }

    fn intake(&mut self) {
        let Some(intake) = &self.draft.intake else {
            return;
        };
        for (key, count) in [
            ("max_batch", intake.max_batch),
            ("max_batches", intake.max_batches),
            ("max_batch_bytes", intake.max_batch_bytes.bytes()),
            ("max_content_bytes", intake.max_content_bytes.bytes()),
        ] {
            if count == 0 {
                self.error(&["intake", key], "expected 1 or more");
            }
        }
        if intake.max_batch > IntakeConfig::LARGEST_BATCH {
            let message = format!("expected at most {}", IntakeConfig::LARGEST_BATCH);
            self.error(&["intake", "max_batch"], message);
        }
        let why = "every transaction would be given up before it begins";
        let path = ["intake", "transaction_timeout"];
        self.above_zero(&path, intake.transaction_timeout, why);
    }

    fn connections(&mut self) {
        let (Some(inbox), Some(intake)) = (&self.draft.inbox, &self.draft.intake) else {
            return;
        };
        if inbox.connections < 2 {
            self.error(&["inbox", "connections"], "expected 2 or more");
        }
        let batches = intake.max_batches.saturating_mul(self.draft.sources.len());
        let wanted = batches.saturating_add(2);
        if self.database == Some(Database::Postgres) && wanted > inbox.connections as usize {
            let message = format!(
                "{} connections for {batches} batches at once (`intake.max_batches` for each source), \
                 the sweeper and the pages: batches will wait for each other",
                inbox.connections
            );
            self.warning(&["inbox", "connections"], message);
        }
    }

    fn sweeper(&mut self) {
        let Some(sweeper) = &self.draft.sweeper else {
            return;
        };
        let busy = sweeper.busy_interval;
        let why = "the sweeps would look again and again without a pause";
        self.above_zero(&["sweeper", "busy_interval"], busy, why);
        for (key, interval) in [
            ("idle_interval", sweeper.idle_interval),
            ("purge_interval", sweeper.purge_interval),
        ] {
            if interval < busy {
                let message = format!(
                    "expected `{key}` ({interval}) to be at least `busy_interval` ({busy})"
                );
                self.error(&["sweeper", key], message);
            }
        }
        for (key, limit) in [
            ("limit", u64::from(sweeper.limit)),
            ("limit_bytes", sweeper.limit_bytes.0),
        ] {
            if limit == 0 {
                let message = "expected 1 or more: no row would ever be taken up again";
                self.error(&["sweeper", key], message);
            }
        }
    }

    /// In whole milliseconds, as the database and the clocks here take it.
    fn above_zero(&mut self, path: &[&str], span: Span, why: &str) {
        if span.as_ms() == 0 {
            self.error(path, format!("expected a duration above zero: {why}"));
        }
    }
}
