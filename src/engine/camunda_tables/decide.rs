//! The decision: for each message of a batch, whether it goes, how, or why not. Pure.
//!
//! It equals the engine's own for the same message and state: executions first, then start; none, one or
//! many. What the engine would do and rows cannot is refused with its reason. Knows no database: what was
//! read stands in [`Facts`], and what makes the decision true are the writes of [`super::hand`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Ask;
use super::claim::Variant;
use super::correlation::{Candidate, Pending};
use super::definitions::Definition;
use super::schema::History;
use super::start::{PendingStart, StartCandidate};
use crate::engine::Outcome;
use crate::message::{Action, Correlation, DeadReason, StartBy, Tenant, WaitReason};

/// What is known of a batch: by the index of its messages, or by what they name.
pub(super) struct Facts {
    pub history: History,
    /// How many more jobs the engine may get.
    pub room: i64,
    /// Some messages wait for the backlog: new ones go behind them.
    pub has_queue: bool,
    /// Who waits for a message; nobody, if it is missing here.
    pub candidates: HashMap<usize, Vec<Candidate>>,
    /// What a message may start; nothing, if it is missing here.
    pub starts: HashMap<usize, Startable>,
    pub definitions: HashMap<String, Arc<Definition>>,
    /// Message names of the batch that some deployed model may have.
    pub known_names: HashSet<String>,
    /// Starts of ours that have not run, by their business key.
    pub early: HashMap<String, Vec<PendingStart>>,
}

/// What one message may start.
pub(super) struct Startable {
    /// The id of the instance, derived from the message.
    pub instance: String,
    /// It was started before.
    pub exists: bool,
    pub candidates: Vec<StartCandidate>,
}

/// How one message goes.
pub(super) enum Plan {
    Claim {
        variant: Variant,
        candidate: Candidate,
    },
    Start {
        instance: String,
        candidate: StartCandidate,
        activity: String,
        initiator: Option<String>,
        /// `on_no_match = "start"`: one start of a business key at a time.
        exclusive: bool,
    },
}

/// An outcome that is written by its plan, or that needs no row of the engine's.
pub(super) type Decision = (Outcome, Option<Plan>);

/// The decisions of one batch, in its order, and whether some of it has to wait for the backlog.
pub(super) fn decide(facts: &Facts, asks: &[Ask<'_>]) -> (Vec<Decision>, bool) {
    let mut decisions = Decisions {
        facts,
        taken: HashSet::new(),
        starting: HashMap::new(),
        room: facts.room,
        queued: false,
    };
    let decided = asks
        .iter()
        .enumerate()
        .map(|(index, ask)| decisions.next(index, ask))
        .collect();
    (decided, decisions.queued)
}

/// What was decided so far: an earlier message takes what a later one then finds taken.
struct Decisions<'a> {
    facts: &'a Facts,
    /// Subscriptions.
    taken: HashSet<String>,
    /// Tenants of the instances that are started, by business key.
    starting: HashMap<String, Vec<Option<String>>>,
    room: i64,
    /// Some message of the batch waits for the backlog.
    queued: bool,
}

impl Decisions<'_> {
    fn next(&mut self, index: usize, ask: &Ask<'_>) -> Decision {
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
        if self.room <= 0 || (!ask.redriven && (self.facts.has_queue || self.queued)) {
            self.queued = true;
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
            Some(Plan::Start { candidate, .. }) => {
                if let Some(key) = business_key(ask) {
                    let tenants = self.starting.entry(key.to_owned()).or_default();
                    tenants.push(candidate.tenant.clone());
                }
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
            [one] => self.one(ask, correlation, one),
            [first, second, ..] => wait(
                WaitReason::Ambiguous,
                &format!(
                    "several executions wait for {name:?}, among them in instances {} and {}",
                    first.instance, second.instance
                ),
            ),
        }
    }

    fn one(&self, ask: &Ask<'_>, correlation: &Correlation, candidate: &Candidate) -> Decision {
        let name = correlation.message_name.as_str();
        if ask.broadcast {
            return self.claim(candidate, Variant::Correlate);
        }
        let refusal = match self
            .facts
            .definitions
            .get(&candidate.definition)
            .map(|d| &**d)
        {
            Some(Definition::Known(process)) => {
                let has_keys = !correlation.correlation_keys.is_empty();
                match process.carries_one(name, has_keys) {
                    Ok(()) => return self.claim(candidate, Variant::Correlate),
                    Err(refusal) => refusal.to_string(),
                }
            }
            Some(Definition::Unreadable(why)) => why.clone(),
            None => "its definition was deleted".to_owned(),
        };
        if !ask.message.variables.is_empty() {
            return wait(
                WaitReason::Unsupported,
                &format!("a payload can only go to the one catcher of a name: {refusal}"),
            );
        }
        if self.facts.history != History::Full {
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
            let tenant = tenant(ask);
            let mut starting = self.starting.get(key).into_iter().flatten();
            if starting.any(|of| admits(tenant, of.as_deref())) {
                return early();
            }
            let pending = self.facts.early.get(key).into_iter().flatten();
            let mut ours = pending.filter(|start| admits(tenant, start.tenant.as_deref()));
            if let Some(first) = ours.next() {
                return if first.blocked && ours.all(|start| start.blocked) {
                    wait(
                        WaitReason::Blocked,
                        "the start job of its business key will not run by itself",
                    )
                } else {
                    early()
                };
            }
        }
        if ask.start_if_nobody && self.facts.starts.contains_key(&index) {
            return self.start(index, ask, business_key(ask).is_some());
        }
        if self.facts.known_names.contains(name) {
            (Outcome::Nobody, None)
        } else {
            wait(
                WaitReason::UnknownMessage,
                &format!("no deployed model has a message {name:?}"),
            )
        }
    }

    fn start(&self, index: usize, ask: &Ask<'_>, exclusive: bool) -> Decision {
        let Some(wanted) = self.facts.starts.get(&index) else {
            return self.nothing_to_start(ask);
        };
        let effect = Outcome::Effect {
            process_instance_id: Some(wanted.instance.clone()),
        };
        if wanted.exists {
            // Whether it was this message cannot be told any more: its row would have made this one a duplicate
            // or a conflict.
            let detail = format!(
                "an earlier message of its key started instance {}, and was purged since",
                wanted.instance
            );
            return dead(DeadReason::Refused, &detail);
        }
        let candidate = match wanted.candidates.as_slice() {
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
            Some(Definition::Known(process)) => match message_name(ask) {
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
                effect,
                Some(Plan::Start {
                    instance: wanted.instance.clone(),
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
                StartBy::Message(name) if self.facts.known_names.contains(name) => {
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

/// The message that the ask is correlated or started by; `None`: by the definition's key.
pub(super) fn message_name<'a>(ask: &Ask<'a>) -> Option<&'a str> {
    match &ask.message.action {
        Action::Correlate(correlation) => Some(&correlation.message_name),
        Action::Start(start) => match &start.by {
            StartBy::Message(name) => Some(name),
            StartBy::DefinitionKey(_) => None,
        },
        Action::Apply(_) => None,
    }
}

pub(super) fn business_key<'a>(ask: &Ask<'a>) -> Option<&'a str> {
    match &ask.message.action {
        Action::Correlate(correlation) => correlation.business_key.as_deref(),
        Action::Start(start) => start.business_key.as_deref(),
        Action::Apply(_) => None,
    }
}

fn tenant<'a>(ask: &Ask<'a>) -> &'a Tenant {
    match &ask.message.action {
        Action::Correlate(correlation) => &correlation.tenant,
        Action::Start(start) => &start.tenant,
        Action::Apply(_) => &Tenant::Any,
    }
}

/// Whether an instance of this tenant is one that the message may be for.
fn admits(wanted: &Tenant, tenant: Option<&str>) -> bool {
    match wanted {
        Tenant::Any => true,
        Tenant::Without => tenant.is_none(),
        Tenant::Is(wanted) => tenant == Some(wanted.as_str()),
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

#[cfg(test)]
mod tests;
