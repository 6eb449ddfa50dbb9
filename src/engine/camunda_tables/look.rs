//! The look: reads what the database shows of a batch's messages, and decides by it.
//!
//! Facts are read here, decided upon in [`super::decide`], and made true by [`super::hand`], in the same
//! transaction but after the inbox has said which messages are new. Until then nothing is written.

use std::collections::{HashMap, HashSet};

use super::correlation::{self, Candidate, Criteria};
use super::decide::{self, Facts, Startable, business_key};
use super::hand::Found;
use super::schema::History;
use super::start::{self, StartCandidate, Wanted};
use super::{Ask, CamundaTables, Tx};
use crate::inbox::DbError;
use crate::message::{Action, StartBy, Tenant};

pub(super) async fn look<'a>(
    engine: &'a CamundaTables,
    tx: &mut Tx,
    asks: &[Ask<'a>],
) -> Result<Found<'a>, DbError> {
    let schema = engine.schema(tx).await?;
    let facts = read(engine, tx, schema.history, asks).await?;
    let (decisions, queued) = decide::decide(&facts, asks);
    if queued {
        engine.queue_began();
    }
    Ok(Found::new(engine, schema, asks, decisions))
}

async fn read(
    engine: &CamundaTables,
    tx: &mut Tx,
    history: History,
    asks: &[Ask<'_>],
) -> Result<Facts, DbError> {
    let tables = &engine.tables;
    // Before the look at who waits: a start that has run by then has its subscriptions there, and one that has
    // not is seen here. The other way round, a second instance would be started in between.
    let may_start = asks.iter().filter(|ask| ask.start_if_nobody);
    let may_start: Vec<&str> = may_start.filter_map(business_key).collect();
    let mut early = start::pending_starts(tx, tables, &engine.name, &may_start).await?;
    let candidates = who_waits(engine, tx, asks).await?;
    let found = what_starts(engine, tx, asks, &candidates).await?;
    let mut ids = correlation::definitions_of(candidates.values().flatten());
    ids.extend(found.values().flatten().map(|c| c.definition.as_str()));
    let definitions = engine.definitions.get(tx, tables, ids).await?;
    let instance = |index: usize| engine.instance_id(&asks[index].identity);
    let instances: Vec<String> = found.keys().map(|&index| instance(index)).collect();
    let started = start::already_started(tx, tables, &instances).await?;
    let nobody: Vec<&str> = asks
        .iter()
        .enumerate()
        .filter(|(index, ask)| !candidates.contains_key(index) && !ask.start_if_nobody)
        .filter_map(|(_, ask)| business_key(ask))
        .filter(|key| !early.contains_key(*key))
        .collect();
    early.extend(start::pending_starts(tx, tables, &engine.name, &nobody).await?);
    let starts = found
        .into_iter()
        .map(|(index, candidates)| {
            let instance = instance(index);
            let startable = Startable {
                exists: started.contains(&instance),
                instance,
                candidates,
            };
            (index, startable)
        })
        .collect();
    Ok(Facts {
        history,
        room: engine.backlog_room(),
        has_queue: engine.has_queue(),
        candidates,
        starts,
        definitions,
        known_names: known_names(engine, asks),
        early,
    })
}

/// The subscriptions that wait for what shall be correlated.
async fn who_waits(
    engine: &CamundaTables,
    tx: &mut Tx,
    asks: &[Ask<'_>],
) -> Result<HashMap<usize, Vec<Candidate>>, DbError> {
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
    let found = correlation::candidates(tx, &engine.tables, &engine.name, &criteria).await?;
    Ok(found
        .into_iter()
        .map(|(n, candidates)| (indices[n], candidates))
        .collect())
}

/// Start candidates of what shall be started, and of what may be started because nobody waits.
async fn what_starts(
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

/// Message names of the batch that some deployed model may have.
fn known_names(engine: &CamundaTables, asks: &[Ask<'_>]) -> HashSet<String> {
    asks.iter()
        .filter_map(decide::message_name)
        .filter(|name| engine.definitions.may_know(name))
        .map(str::to_owned)
        .collect()
}
