//! The hand-over: writes the engine's rows for the messages of a look that became rows of the inbox.
//!
//! Knows the order of writing: starts first, then claims. A claim that somebody else was quicker with is
//! told as missed, and nothing of it is written. An error that an upgrade of the engine explains is an
//! outage: no message can be blamed for a column that nobody here knows.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;

use super::claim::{self, Claim};
use super::decide::{Decision, Plan, business_key};
use super::schema::EngineSchema;
use super::start::rows::{self, NewStart};
use super::{Ask, CamundaTables, Matched, Tx};
use crate::engine::{Missed, Outcome};
use crate::inbox::{DbError, RowId, StateName};
use crate::message::{Action, WaitReason};

/// What a look found, and the way to hand it over.
pub(super) struct Found<'a> {
    engine: &'a CamundaTables,
    schema: Arc<EngineSchema>,
    entries: Vec<Entry<'a>>,
}

struct Entry<'a> {
    ask: Ask<'a>,
    outcome: Outcome,
    plan: Option<Plan>,
}

impl<'a> Found<'a> {
    /// `decisions`: of each ask.
    pub fn new(
        engine: &'a CamundaTables,
        schema: Arc<EngineSchema>,
        asks: &[Ask<'a>],
        decisions: Vec<Decision>,
    ) -> Self {
        let entries = asks
            .iter()
            .zip(decisions)
            .map(|(ask, (outcome, plan))| Entry {
                ask: *ask,
                outcome,
                plan,
            })
            .collect();
        Self {
            engine,
            schema,
            entries,
        }
    }
}

#[async_trait]
impl Matched<Tx> for Found<'_> {
    fn outcome(&self, index: usize) -> &Outcome {
        &self.entries[index].outcome
    }

    async fn hand(
        self: Box<Self>,
        tx: &mut Tx,
        rows: &HashSet<RowId>,
    ) -> Result<Vec<Missed>, DbError> {
        let engine = self.engine;
        engine.upgraded(self.write(tx, rows).await)
    }
}

impl Found<'_> {
    async fn write(&self, tx: &mut Tx, rows: &HashSet<RowId>) -> Result<Vec<Missed>, DbError> {
        let wanted = || {
            self.entries
                .iter()
                .filter(|entry| rows.contains(&entry.ask.row))
        };
        let missed_starts = self
            .start(tx, wanted().filter_map(Entry::start).collect())
            .await?;
        let mut missed = self
            .claim(tx, wanted().filter_map(Entry::claim).collect())
            .await?;
        missed.extend(missed_starts);
        Ok(missed)
    }

    async fn start(&self, tx: &mut Tx, starts: Vec<NewStart<'_>>) -> Result<Vec<Missed>, DbError> {
        if starts.is_empty() {
            return Ok(Vec::new());
        }
        let engine = self.engine;
        let wanted = starts.len();
        let lost = rows::write(
            tx,
            &engine.tables,
            &engine.name,
            &self.schema,
            engine.retries(),
            starts,
        )
        .await?;
        engine.backlog_grew(wanted - lost.len());
        let missed = lost.into_iter().map(|row| Missed {
            row,
            from: StateName::Done,
            reason: WaitReason::Early,
            detail: "another start of its business key was quicker".to_owned(),
        });
        Ok(missed.collect())
    }

    async fn claim(&self, tx: &mut Tx, claims: Vec<Claim<'_>>) -> Result<Vec<Missed>, DbError> {
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        let engine = self.engine;
        let wanted = claims.len();
        let lost = claim::write(
            tx,
            &engine.tables,
            &engine.name,
            &self.schema,
            engine.retries(),
            claims,
        )
        .await?;
        engine.backlog_grew(wanted - lost.len());
        let missed = lost.into_iter().map(|row| Missed {
            row,
            from: StateName::Handed,
            reason: WaitReason::Busy,
            detail: "another message took the subscription first".to_owned(),
        });
        Ok(missed.collect())
    }
}

impl Entry<'_> {
    fn claim(&self) -> Option<Claim<'_>> {
        match (&self.plan, &self.ask.message.action) {
            (Some(Plan::Claim { variant, candidate }), Action::Correlate(correlation)) => {
                Some(Claim {
                    row: self.ask.row,
                    epoch: self.ask.epoch,
                    variant: *variant,
                    message_name: &correlation.message_name,
                    variables: &self.ask.message.variables,
                    candidate,
                })
            }
            _ => None,
        }
    }

    fn start(&self) -> Option<NewStart<'_>> {
        match &self.plan {
            Some(Plan::Start {
                instance,
                candidate,
                activity,
                initiator,
                exclusive,
            }) => Some(NewStart {
                row: self.ask.row,
                instance,
                business_key: business_key(&self.ask),
                candidate,
                activity,
                initiator: initiator.as_deref(),
                exclusive: *exclusive,
                variables: &self.ask.message.variables,
            }),
            Some(Plan::Claim { .. }) | None => None,
        }
    }
}
