//! The decision: for each message of a batch, who waits for it and how it is carried there.
//!
//! It equals the engine's own for the same message and state: executions first, then start; none, one or
//! many. What the engine would do and rows cannot is refused with its reason. Only a look: what makes it
//! true are the claims of [`super::claim`] and the deterministic ids of [`super::start`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;

use super::claim::{self, Claim, Variant};
use super::correlation::{self, Candidate, Criteria, Pending};
use super::definitions::Definition;
use super::schema::{EngineSchema, History};
use super::start::{self, StartCandidate, StartRows, Wanted};
use super::variables::fresh_id;
use super::{Ask, CamundaTables, Matched, Tx};
use crate::engine::{Missed, Outcome};
use crate::inbox::{DbError, RowId, StateName};
use crate::message::{
    Action, Correlation, DeadReason, StartBy, Tenant, Value, Variable, WaitReason,
};

/// How one message goes.
enum Plan {
    Claim {
        variant: Variant,
        candidate: Candidate,
    },
    Start {
        candidate: StartCandidate,
        activity: String,
        initiator: Option<String>,
        /// `on_no_match = "start"`: one start of a business key at a time.
        exclusive: bool,
    },
}

struct Entry<'a> {
    ask: Ask<'a>,
    outcome: Outcome,
    plan: Option<Plan>,
}

/// What the look found.
pub(super) struct Found<'a> {
    engine: &'a CamundaTables,
    schema: Arc<EngineSchema>,
    entries: Vec<Entry<'a>>,
}

/// What the database showed of the batch.
struct Facts {
    candidates: HashMap<usize, Vec<Candidate>>,
    starts: HashMap<usize, Vec<StartCandidate>>,
    definitions: HashMap<String, Arc<Definition>>,
    started: HashSet<String>,
    /// Business keys whose start of ours has not run; true when it is blocked.
    early: HashMap<String, bool>,
}

pub(super) async fn look<'a>(
    engine: &'a CamundaTables,
    tx: &mut Tx,
    asks: &[Ask<'a>],
) -> Result<Found<'a>, DbError> {
    let schema = engine.schema(tx).await?;
    let facts = Facts::read(engine, tx, asks).await?;
    let mut decisions = Decisions {
        engine,
        schema: &schema,
        facts: &facts,
        taken: HashSet::new(),
        starting: HashSet::new(),
        room: engine.backlog_room(),
    };
    let entries = asks
        .iter()
        .enumerate()
        .map(|(index, ask)| {
            let (outcome, plan) = decisions.decide(index, ask);
            Entry {
                ask: *ask,
                outcome,
                plan,
            }
        })
        .collect();
    Ok(Found {
        engine,
        schema,
        entries,
    })
}

impl Facts {
    async fn read(engine: &CamundaTables, tx: &mut Tx, asks: &[Ask<'_>]) -> Result<Self, DbError> {
        let tables = &engine.tables;
        let (mut indices, mut criteria) = (Vec::new(), Vec::new());
        for (index, ask) in asks.iter().enumerate() {
            if let Action::Correlate(correlation) = &ask.message.action {
                indices.push(index);
                criteria.push(Criteria {
                    correlation,
                    broadcast: ask.broadcast,
                });
            }
        }
        let found = correlation::candidates(tx, tables, &engine.name, &criteria).await?;
        let candidates: HashMap<usize, Vec<Candidate>> = found
            .into_iter()
            .map(|(n, candidates)| (indices[n], candidates))
            .collect();
        let starts = Self::starts(engine, tx, asks, &candidates).await?;
        let mut ids = correlation::definitions_of(candidates.values().flatten());
        ids.extend(starts.values().flatten().map(|c| c.definition.as_str()));
        let definitions = engine.definitions.get(tx, tables, ids).await?;
        let instances: Vec<String> = starts
            .keys()
            .map(|&index| engine.instance_id(&asks[index].identity))
            .collect();
        let nobody: Vec<&str> = asks
            .iter()
            .enumerate()
            .filter(|(index, _)| !candidates.contains_key(index))
            .filter_map(|(_, ask)| business_key(ask))
            .collect();
        Ok(Self {
            started: start::already_started(tx, tables, &instances).await?,
            early: start::pending_starts(tx, tables, &engine.name, &nobody).await?,
            candidates,
            starts,
            definitions,
        })
    }

    /// Start candidates of what shall be started, and of what may be started because nobody waits.
    async fn starts(
        engine: &CamundaTables,
        tx: &mut Tx,
        asks: &[Ask<'_>],
        candidates: &HashMap<usize, Vec<Candidate>>,
    ) -> Result<HashMap<usize, Vec<StartCandidate>>, DbError> {
        let by: Vec<(usize, StartBy, &Tenant)> = asks
            .iter()
            .enumerate()
            .filter_map(|(index, ask)| match &ask.message.action {
                Action::Start(start) => Some((index, start.by.clone(), &start.tenant)),
                Action::Correlate(correlation)
                    if ask.start_if_nobody && !candidates.contains_key(&index) =>
                {
                    let by = StartBy::Message(correlation.message_name.clone());
                    Some((index, by, &correlation.tenant))
                }
                Action::Correlate(_) | Action::Apply(_) => None,
            })
            .collect();
        let wanted: Vec<Wanted<'_>> = by
            .iter()
            .map(|(_, by, tenant)| Wanted { by, tenant })
            .collect();
        let found = start::candidates(tx, &engine.tables, &wanted).await?;
        Ok(found
            .into_iter()
            .map(|(n, candidates)| (by[n].0, candidates))
            .collect())
    }
}

/// The decisions of one batch, in its order: an earlier message takes what a later one then finds taken.
struct Decisions<'a> {
    engine: &'a CamundaTables,
    schema: &'a EngineSchema,
    facts: &'a Facts,
    taken: HashSet<String>,
    starting: HashSet<String>,
    room: i64,
}

type Decision = (Outcome, Option<Plan>);

impl Decisions<'_> {
    fn decide(&mut self, index: usize, ask: &Ask<'_>) -> Decision {
        let (outcome, plan) = match &ask.message.action {
            Action::Correlate(correlation) => self.correlate(index, ask, correlation),
            Action::Start(_) => self.start(index, ask, false),
            Action::Apply(_) => dead(
                DeadReason::Refused,
                "a route to this engine correlates or starts",
            ),
        };
        if plan.is_none() {
            return (outcome, None);
        }
        if self.room <= 0 || (!ask.redriven && self.engine.has_queue()) {
            self.engine.queue_began();
            return wait(
                WaitReason::Backlog,
                "the engine has max_backlog of our jobs to do",
            );
        }
        self.room -= 1;
        match &plan {
            Some(Plan::Claim { candidate, .. }) => {
                self.taken.insert(candidate.subscription.clone());
            }
            Some(Plan::Start { .. }) => {
                self.starting.extend(business_key(ask).map(str::to_owned));
            }
            None => {}
        }
        (outcome, plan)
    }

    fn correlate(&self, index: usize, ask: &Ask<'_>, correlation: &Correlation) -> Decision {
        let name = correlation.message_name.as_str();
        let candidates = self
            .facts
            .candidates
            .get(&index)
            .map_or(&[][..], Vec::as_slice);
        match candidates {
            [] => self.nobody(index, ask, name),
            [one] => self.one(ask, name, one),
            [first, second, ..] => wait(
                WaitReason::Ambiguous,
                &format!(
                    "several executions wait for {name:?}, among them in instances {} and {}",
                    first.instance, second.instance
                ),
            ),
        }
    }

    fn one(&self, ask: &Ask<'_>, name: &str, candidate: &Candidate) -> Decision {
        if ask.broadcast {
            return self.claim(candidate, Variant::Correlate);
        }
        let refusal = match self
            .facts
            .definitions
            .get(&candidate.definition)
            .map(|d| &**d)
        {
            Some(Definition::Known(process)) => match process.single_token(name) {
                Ok(()) => return self.claim(candidate, Variant::Correlate),
                Err(refusal) => refusal.to_string(),
            },
            Some(Definition::Unreadable(why)) => why.clone(),
            None => "its definition was deleted".to_owned(),
        };
        if !ask.message.variables.is_empty() {
            return wait(
                WaitReason::Unsupported,
                &format!("a payload can only go to the one catcher of a name: {refusal}"),
            );
        }
        if self.schema.history != History::Full {
            return wait(
                WaitReason::Unsupported,
                &format!("history level full is needed to prove it: {refusal}"),
            );
        }
        self.claim(candidate, Variant::Event)
    }

    fn claim(&self, candidate: &Candidate, variant: Variant) -> Decision {
        let subscription = &candidate.subscription;
        match candidate.pending {
            Some(Pending::Blocked) => wait(
                WaitReason::Blocked,
                &format!(
                    "the job of an earlier message for subscription {subscription} will not run by itself"
                ),
            ),
            Some(Pending::Busy) => busy(subscription),
            None if self.taken.contains(subscription) => busy(subscription),
            None => (
                Outcome::Hand,
                Some(Plan::Claim {
                    variant,
                    candidate: candidate.clone(),
                }),
            ),
        }
    }

    /// Nobody waits: our own start may not have run yet, a start may be wanted, or the name is unknown.
    fn nobody(&self, index: usize, ask: &Ask<'_>, name: &str) -> Decision {
        if let Some(key) = business_key(ask) {
            if self.starting.contains(key) {
                return early();
            }
            match self.facts.early.get(key) {
                Some(true) => {
                    return wait(
                        WaitReason::Blocked,
                        "the start job of its business key will not run by itself",
                    );
                }
                Some(false) => return early(),
                None => {}
            }
        }
        if ask.start_if_nobody && self.facts.starts.contains_key(&index) {
            return self.start(index, ask, business_key(ask).is_some());
        }
        if self.engine.definitions.may_know(name) {
            (Outcome::Nobody, None)
        } else {
            wait(
                WaitReason::UnknownMessage,
                &format!("no deployed model has a message {name:?}"),
            )
        }
    }

    fn start(&self, index: usize, ask: &Ask<'_>, exclusive: bool) -> Decision {
        let instance = self.engine.instance_id(&ask.identity);
        if self.facts.started.contains(&instance) {
            let outcome = Outcome::Effect {
                process_instance_id: Some(instance),
            };
            return (outcome, None);
        }
        let candidate = match self.facts.starts.get(&index).map_or(&[][..], Vec::as_slice) {
            [] => return self.nothing_to_start(ask),
            [one] => one,
            [first, second, ..] => {
                let detail = format!(
                    "several definitions can be started: {} and {}",
                    first.definition, second.definition
                );
                return wait(WaitReason::Ambiguous, &detail);
            }
        };
        if candidate.suspended {
            let detail = format!("definition {} is suspended", candidate.definition);
            return wait(WaitReason::Blocked, &detail);
        }
        let event = match self
            .facts
            .definitions
            .get(&candidate.definition)
            .map(|d| &**d)
        {
            Some(Definition::Known(process)) => match message_of_start(ask) {
                Some(name) => process.start_by_message(name),
                None => process.start_by_key(),
            },
            Some(Definition::Unreadable(why)) => return dead(DeadReason::Refused, why),
            None => return (Outcome::Nobody, None),
        };
        match event {
            Err(refusal) => dead(
                DeadReason::Refused,
                &format!(
                    "definition {} cannot be started by rows: {refusal}",
                    candidate.definition
                ),
            ),
            Ok(event) => (
                Outcome::Effect {
                    process_instance_id: Some(instance),
                },
                Some(Plan::Start {
                    activity: candidate.activity.clone().unwrap_or(event.id),
                    candidate: candidate.clone(),
                    initiator: event.initiator,
                    exclusive,
                }),
            ),
        }
    }

    /// A definition that is suspended has the name; one that nobody deployed does not.
    fn nothing_to_start(&self, ask: &Ask<'_>) -> Decision {
        let detail = match &ask.message.action {
            Action::Start(start) => match &start.by {
                StartBy::Message(name) if self.engine.definitions.may_know(name) => {
                    return (Outcome::Nobody, None);
                }
                StartBy::Message(name) => format!("no deployed model has a message {name:?}"),
                StartBy::DefinitionKey(key) => {
                    format!("no definition has the key {key:?}, for the tenant that is asked for")
                }
            },
            Action::Correlate(_) | Action::Apply(_) => return (Outcome::Nobody, None),
        };
        wait(WaitReason::UnknownMessage, &detail)
    }
}

/// The message by which the ask would start; `None`: by the definition's key.
fn message_of_start<'a>(ask: &Ask<'a>) -> Option<&'a str> {
    match &ask.message.action {
        Action::Correlate(correlation) => Some(&correlation.message_name),
        Action::Start(start) => match &start.by {
            StartBy::Message(name) => Some(name),
            StartBy::DefinitionKey(_) => None,
        },
        Action::Apply(_) => None,
    }
}

fn business_key<'a>(ask: &Ask<'a>) -> Option<&'a str> {
    match &ask.message.action {
        Action::Correlate(correlation) => correlation.business_key.as_deref(),
        Action::Start(start) => start.business_key.as_deref(),
        Action::Apply(_) => None,
    }
}

fn wait(reason: WaitReason, detail: &str) -> Decision {
    let outcome = Outcome::Wait {
        reason,
        detail: detail.to_owned(),
    };
    (outcome, None)
}

fn dead(reason: DeadReason, detail: &str) -> Decision {
    let outcome = Outcome::Dead {
        reason,
        detail: detail.to_owned(),
    };
    (outcome, None)
}

fn busy(subscription: &str) -> Decision {
    wait(
        WaitReason::Busy,
        &format!("another message is pending for subscription {subscription}"),
    )
}

fn early() -> Decision {
    wait(
        WaitReason::Early,
        "our own start of its business key has not run yet",
    )
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
        let engine = self.engine;
        let retries = i32::from(engine.config.retries);
        let wanted = || {
            self.entries
                .iter()
                .filter(|entry| rows.contains(&entry.ask.row))
        };
        let missed_starts = self.hand_starts(tx, rows, retries).await?;
        let claims: Vec<Claim<'_>> = wanted().filter_map(Entry::claim).collect();
        let handed = claims.len();
        let mut missed: Vec<Missed> = Vec::new();
        if !claims.is_empty() {
            let lost = claim::write(
                tx,
                &engine.tables,
                &engine.name,
                &self.schema,
                retries,
                claims,
            )
            .await?;
            engine.backlog_grew(handed - lost.len());
            missed.extend(lost.into_iter().map(|row| Missed {
                row,
                from: StateName::Handed,
                reason: WaitReason::Busy,
                detail: "another message took the subscription first".to_owned(),
            }));
        }
        missed.extend(missed_starts);
        Ok(missed)
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
}

impl Found<'_> {
    /// Writes the starts; those that somebody else of the same business key was quicker with are missed.
    async fn hand_starts(
        &self,
        tx: &mut Tx,
        rows: &HashSet<RowId>,
        retries: i32,
    ) -> Result<Vec<Missed>, DbError> {
        let mut starts: Vec<NewStart<'_>> = self
            .entries
            .iter()
            .filter(|entry| rows.contains(&entry.ask.row))
            .filter_map(|entry| NewStart::of(self.engine, entry))
            .collect();
        if starts.is_empty() {
            return Ok(Vec::new());
        }
        // Sorted by both unique keys, so that two nodes with the same starts cannot deadlock.
        starts.sort_by_key(NewStart::unique_keys);
        let won = self.claim_starts(tx, &starts).await?;
        let mut written = StartRows::default();
        for start in starts.iter().filter(|start| won.contains(&start.instance)) {
            start.add_to(&mut written);
        }
        if !written.instance.is_empty() {
            written
                .insert(tx, &self.engine.tables, &self.schema, retries)
                .await?;
        }
        self.engine.backlog_grew(written.instance.len());
        Ok(starts
            .iter()
            .filter(|start| !won.contains(&start.instance))
            .map(|start| Missed {
                row: start.row,
                from: StateName::Done,
                reason: WaitReason::Early,
                detail: "another start of its business key was quicker".to_owned(),
            })
            .collect())
    }

    async fn claim_starts(
        &self,
        tx: &mut Tx,
        starts: &[NewStart<'_>],
    ) -> Result<HashSet<String>, DbError> {
        let tables = &self.engine.tables;
        let claimed: Vec<String> = sqlx::query_scalar(tables.sql(
            "/* camunda_tables.claim_starts */
             INSERT INTO {s}pending_start
                    (engine, process_instance_id, tenant_id, definition_key, business_key, job_id, exclusive, row_id)
             SELECT $1, s.instance, s.tenant, s.key, s.business_key, s.job, s.exclusive, s.row_id
               FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bool[], $8::uuid[])
                    WITH ORDINALITY
                    AS s(instance, tenant, key, business_key, job, exclusive, row_id, ord)
              ORDER BY s.ord
             ON CONFLICT DO NOTHING
             RETURNING process_instance_id",
        ))
        .bind(&self.engine.name)
        .bind(starts.iter().map(|s| s.instance.as_str()).collect::<Vec<_>>())
        .bind(starts.iter().map(|s| s.candidate.tenant.clone().unwrap_or_default()).collect::<Vec<_>>())
        .bind(starts.iter().map(|s| s.candidate.definition_key.as_str()).collect::<Vec<_>>())
        .bind(starts.iter().map(|s| s.business_key).collect::<Vec<_>>())
        .bind(starts.iter().map(|s| s.job.as_str()).collect::<Vec<_>>())
        .bind(starts.iter().map(|s| s.exclusive).collect::<Vec<_>>())
        .bind(starts.iter().map(|s| s.row.0).collect::<Vec<_>>())
        .fetch_all(&mut **tx)
        .await
        .map_err(DbError::of("claim starts"))?;
        Ok(claimed.into_iter().collect())
    }
}

/// One instance to be written.
struct NewStart<'a> {
    row: RowId,
    instance: String,
    job: String,
    business_key: Option<&'a str>,
    candidate: &'a StartCandidate,
    activity: &'a str,
    initiator: Option<&'a str>,
    exclusive: bool,
    variables: &'a [Variable],
}

impl<'a> NewStart<'a> {
    fn unique_keys(&self) -> (Option<String>, &'a str, Option<&'a str>, String) {
        (
            self.candidate.tenant.clone(),
            &self.candidate.definition_key,
            self.business_key,
            self.instance.clone(),
        )
    }

    fn of(engine: &CamundaTables, entry: &'a Entry<'_>) -> Option<Self> {
        match &entry.plan {
            Some(Plan::Start {
                candidate,
                activity,
                initiator,
                exclusive,
            }) => Some(Self {
                row: entry.ask.row,
                instance: engine.instance_id(&entry.ask.identity),
                job: fresh_id(),
                business_key: business_key(&entry.ask),
                candidate,
                activity,
                initiator: initiator.as_deref(),
                exclusive: *exclusive,
                variables: &entry.ask.message.variables,
            }),
            Some(Plan::Claim { .. }) | None => None,
        }
    }

    fn add_to(&self, rows: &mut StartRows) {
        let owner = rows.instance.len();
        for variable in self.variables {
            rows.variables.add(owner, variable);
        }
        // The engine sets the initiator's variable even when nobody is authenticated.
        let initiator = self
            .initiator
            .filter(|name| self.variables.iter().all(|variable| variable.name != *name));
        if let Some(name) = initiator {
            let variable = Variable {
                name: name.to_owned(),
                value: Value::Null,
            };
            rows.variables.add(owner, &variable);
        }
        let has_variables = initiator.is_some() || !self.variables.is_empty();
        rows.cached_state
            .push(if has_variables { 4 | 16 } else { 4 });
        rows.instance.push(self.instance.clone());
        rows.job.push(self.job.clone());
        rows.business_key.push(self.business_key.map(str::to_owned));
        rows.definition.push(self.candidate.definition.clone());
        rows.definition_key
            .push(self.candidate.definition_key.clone());
        rows.deployment.push(self.candidate.deployment.clone());
        rows.tenant.push(self.candidate.tenant.clone());
        rows.activity.push(self.activity.to_owned());
    }
}
